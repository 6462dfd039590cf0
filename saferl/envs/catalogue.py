"""The environments that saferl knows by name, as data: reading it needs neither gymnasium nor a simulator.

The budgets are those of the published benchmarks: an expected cost of at most 25 per episode. A navigation task is one
call of :func:`_navigation`; its factory finds the horizon and the costs to report here.
"""

from __future__ import annotations

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.spec import EnvSpec

_BUDGET = 25.0


def _indicators(*names: str) -> ConstraintSet:
    """Constraints on costs that are 0 or 1 at every step."""
    return ConstraintSet(Constraint(name, _BUDGET, max_step_cost=1.0) for name in names)


def _navigation(env_id: str, *costs: str, horizon: int, summary: str, is_fixed_horizon: bool = True) -> EnvSpec:
    """A Safety-Gymnasium task; ``costs`` are the package's cost keys without their prefix ``cost_``.

    The package turns every cost into an indicator, the sum included: ``cost`` is 1 when any of the parts is.
    """
    return EnvSpec(
        id=env_id,
        factory="saferl.envs.safety_gymnasium.navigation:make_navigation",
        constraints=_indicators("cost", *costs),
        horizon=horizon,
        is_fixed_horizon=is_fixed_horizon,
        summary=summary,
        prefers_processes=True,
        requires=("gymnasium", "mujoco", "safety-gymnasium"),
        kwargs={"env_id": env_id},
    )


def _velocity(task: str, *, limit: str, is_fixed_horizon: bool = False) -> EnvSpec:
    """A velocity task; ``task`` is the name of Gymnasium's model."""
    return EnvSpec(
        id=f"Safety{task}Velocity-v1",
        factory="saferl.envs.velocity:make_velocity",
        constraints=_indicators("cost"),
        horizon=1000,
        is_fixed_horizon=is_fixed_horizon,
        summary=f"{task} runs forward; a step costs 1 when {limit} m/s.",
        requires=("gymnasium", "mujoco"),
        kwargs={"task": task},
    )


SPECS: tuple[EnvSpec, ...] = (
    # The package ends an episode early when 10,000 draws find no free place for the next goal. At least 8 % of the area
    # was free in each of 3,000 random layouts, so that does not happen.
    _navigation(
        "SafetyPointGoal1-v0",
        "hazards",
        horizon=1000,
        summary="A point robot drives to goals; a step inside a hazard costs 1.",
    ),
    _navigation(
        "SafetyPointCircle1-v0",
        "out_of_boundary",
        horizon=500,
        summary="A point robot circles; a step beyond two walls costs 1.",
    ),
    _velocity("HalfCheetah", limit="its x velocity exceeds 3.2096", is_fixed_horizon=True),
    _velocity("Hopper", limit="its x velocity exceeds 0.7402"),
    _velocity("Walker2d", limit="its x velocity exceeds 2.3415"),
    _velocity("Ant", limit="its horizontal speed exceeds 2.6222"),
    _velocity("Swimmer", limit="its x velocity exceeds 0.2282", is_fixed_horizon=True),
    _velocity("Humanoid", limit="its horizontal speed exceeds 1.4149"),
)
"""One entry per environment id."""
