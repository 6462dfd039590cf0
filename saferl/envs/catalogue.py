"""The environments that saferl knows by name, as data: reading it needs neither gymnasium nor a simulator.

The budgets of simulated tasks are those of the published benchmarks: an expected cost of at most 25 per episode. Those
of the control tasks lie half-way between a careless and a careful policy (:mod:`saferl.envs.control_tasks`). The
tabular ones are finite CMDPs with known optima (:mod:`saferl.envs.tabular.instances`); their budgets bind. Those of
the microgrid are minutes, and starts, per day. That of PointRobot is steps inside a hazard per episode.
"""

from __future__ import annotations

from collections.abc import Iterator

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.control_tasks import CONTROL_TASKS, ControlTask
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
        batched="saferl.envs.safety_gymnasium.batched:NavigationBatch",
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
        batched="saferl.envs.velocity_batched:VelocityBatch",
        requires=("gymnasium", "mujoco"),
        kwargs={"task": task},
    )


def _control(env_id: str, task: ControlTask) -> EnvSpec:
    """A task of dm_control's suite."""
    return EnvSpec(
        id=env_id,
        factory="saferl.envs.control:make_control",
        constraints=ConstraintSet([Constraint("cost", round(task.budget.limit, 1), max_step_cost=1.0)]),
        horizon=1000,
        is_fixed_horizon=True,
        summary=task.summary,
        requires=("gymnasium", "mujoco", "dm-control", "shimmy"),
        kwargs={"env_id": env_id},
    )


_NAVIGATION_COSTS: dict[str, tuple[str, ...]] = {
    "Goal0": (),
    "Goal1": ("hazards",),
    "Goal2": ("hazards", "vases_contact", "vases_velocity"),
    "Push0": (),
    "Push1": ("hazards",),
    "Push2": ("hazards", "pillars"),
    "Button0": (),
    "Button1": ("buttons", "hazards", "gremlins"),
    "Button2": ("buttons", "hazards", "gremlins"),
    "Circle0": (),
    "Circle1": ("out_of_boundary",),
    "Circle2": ("out_of_boundary",),
    "Run0": ("out_of_boundary",),
}
"""The costs of each task beside ``cost``."""
_WHAT = {
    "Goal": "drives to goals",
    "Push": "pushes a box to a goal",
    "Button": "presses the lit button",
    "Circle": "circles fast",
    "Run": "runs straight ahead",
}
_COSTS = {
    "hazards": "being inside a hazard",
    "vases_contact": "touching a vase",
    "vases_velocity": "moving a vase",
    "pillars": "touching a pillar",
    "buttons": "pressing a wrong button",
    "gremlins": "touching a gremlin",
    "out_of_boundary": "being beyond a wall",
}
_AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")


def _navigation_specs() -> Iterator[EnvSpec]:
    for agent in _AGENTS:
        for task, costs in _NAVIGATION_COSTS.items():
            reasons = ", ".join(_COSTS[name] for name in costs)
            yield _navigation(
                f"Safety{agent}{task}-v0",
                *costs,
                horizon=500 if task.startswith(("Circle", "Run")) else 1000,
                # An ant that falls on its back has ended its task. The package also ends an episode early when 10,000
                # draws find no free place for the next goal. At least 8 % of the area was free in each of 3,000 random
                # layouts of PointGoal1, so that hardly happens; such an episode is truncated.
                is_fixed_horizon=agent != "Ant",
                summary=f"{agent} {_WHAT[task[:-1]]}; "
                + (f"a step costs 1 for {reasons}." if costs else "nothing costs anything."),
            )


def _tabular(
    env_id: str, instance: str, gamma: float | None, horizon: int | None, summary: str, **budgets: tuple[float, float]
) -> EnvSpec:
    """A finite CMDP; ``gamma`` and the time limit ``horizon`` are None for a finite horizon, which ends by itself.

    ``budgets`` are budget and largest cost of a step, by name.
    """
    return EnvSpec(
        id=env_id,
        factory="saferl.envs.tabular.env:make_tabular",
        constraints=ConstraintSet(
            Constraint(name, budget, "episode_sum", max_step_cost=largest)
            if gamma is None
            else Constraint(name, budget, "discounted", gamma, max_step_cost=largest)
            for name, (budget, largest) in budgets.items()
        ),
        default_constraints=tuple(budgets),
        horizon=horizon,
        is_fixed_horizon=True,
        summary=summary,
        batched="saferl.envs.tabular.batch:make_tabular_batch",
        requires=("gymnasium",),
        kwargs={"instance": instance},
    )


SIMULATED_SPECS: tuple[EnvSpec, ...] = (
    _velocity("HalfCheetah", limit="its x velocity exceeds 3.2096", is_fixed_horizon=True),
    _velocity("Hopper", limit="its x velocity exceeds 0.7402"),
    _velocity("Walker2d", limit="its x velocity exceeds 2.3415"),
    _velocity("Ant", limit="its horizontal speed exceeds 2.6222"),
    _velocity("Swimmer", limit="its x velocity exceeds 0.2282", is_fixed_horizon=True),
    _velocity("Humanoid", limit="its horizontal speed exceeds 1.4149"),
    *_navigation_specs(),
)
"""Tasks of the published benchmarks, in MuJoCo."""

CONTROL_SPECS: tuple[EnvSpec, ...] = tuple(_control(env_id, task) for env_id, task in CONTROL_TASKS.items())
"""Tasks of dm_control under budgets that bind."""

TABULAR_SPECS: tuple[EnvSpec, ...] = (
    _tabular(
        *("ParadoxA-v0", "paradox_a", 0.9, 66),
        "Two states; what earns is what costs, so that only a stochastic policy is optimal.",
        cost=(5.0, 1.0),
    ),
    _tabular(
        *("ParadoxB-v0", "paradox_b", 0.9, 66),
        "Two states; being in the first one earns 1 and costs 1.",
        cost=(5.0, 1.0),
    ),
    _tabular(
        *("CatchCost-v0", "catch", None, None),
        "Catch on a board of 10 x 5: catch the falling ball; a step that the paddle ends in the left half, column 0 or "
        "1, costs 1.",
        cost=(0.3, 1.0),
    ),
    _tabular(
        *("DingRandom-v0", "ding_20x10", 0.8, 31),
        "Random CMDP with 20 states and 10 actions; the unconstrained optimum is only 1.2 % above the constrained one.",
        cost=(2.0, 1.0),
    ),
    _tabular(
        *("RandomBinding10-v0", "random_binding_10", 0.9, 66),
        "Random CMDP with 10 states and 5 actions under a tight budget.",
        cost=(3.379436467402, 1.0),
    ),
    _tabular(
        *("RandomBinding11-v0", "random_binding_11", 0.9, 66),
        "Random CMDP with 10 states and 5 actions under a tight budget.",
        cost=(3.66932034281, 1.0),
    ),
    _tabular(
        *("GridworldHazards-v0", "gridworld", 0.99, 688),
        "8 x 8 grid with slips: reach the goal, where every step earns 1; a step in a hazard costs 1.",
        cost=(1.322938049906, 1.0),
    ),
    _tabular(
        *("FrozenLakeCost-v0", "frozen_lake", 0.99, 688),
        "Gymnasium's slippery 4 x 4 lake: a step in the goal earns 1, a step in a hole costs 1; both keep the agent.",
        cost=(5.843505499691, 1.0),
    ),
    _tabular(
        *("Queueing-v0", "queueing", 0.95, 135),
        "Admission and service control of a queue: keep it short; serving faster and rejecting customers cost.",
        effort=(10.0, 1.0),
        rejections=(0.401525611514, 0.6),
    ),
    _tabular(
        *("Inventory-v0", "inventory", 0.95, 135),
        "Order stock against random demand: earn a profit; a stock-out costs its probability.",
        stock_out=(0.47269886668, 1.0),
    ),
    _tabular(
        *("Garnet-v0", "garnet", 0.95, 135),
        "Random CMDP with 100 states, 4 actions and 3 successors each.",
        cost=(6.898496358138, 1.0),
    ),
)
"""Finite CMDPs."""

MICROGRID_SPECS: tuple[EnvSpec, ...] = (
    EnvSpec(
        id="Microgrid-v0",
        factory="saferl.envs.microgrid.env:make_microgrid",
        constraints=ConstraintSet(
            [
                Constraint("deficit", 1.0, max_step_cost=1.0),
                Constraint("excess", 1.0, max_step_cost=1.0),
                Constraint("soc_band", 60.0, max_step_cost=1.0),
                Constraint("overload", 60.0, max_step_cost=1.0),
                Constraint("breaches", 0.0, max_step_cost=2.0),
                Constraint("starts", 12.0, max_step_cost=1.0),
                Constraint("wear", 5.0, max_step_cost=8.6),
                Constraint("dumped", 60.0, max_step_cost=1.0),
            ]
        ),
        default_constraints=("deficit", "excess"),
        horizon=1440,
        is_fixed_horizon=True,
        summary="A day of a remote grid with two gensets, a battery and wind: little fuel, never a minute in the dark.",
        requires=("gymnasium",),
    ),
)
"""The remote microgrid."""

POINT_ROBOT_SPECS: tuple[EnvSpec, ...] = (
    EnvSpec(
        id="PointRobot-v0",
        factory="saferl.envs.point_robot.env:make_point_robot",
        constraints=ConstraintSet([Constraint("cost", 5.0, max_step_cost=1.0)]),
        horizon=300,
        summary="A point with inertia drives to a goal past two hazards; a step that ends inside one costs 1.",
        batched="saferl.envs.point_robot.batch:PointRobotBatch",
        requires=("gymnasium",),
    ),
)
"""The small task whose avoidable set is known."""

SPECS: tuple[EnvSpec, ...] = SIMULATED_SPECS + CONTROL_SPECS + TABULAR_SPECS + MICROGRID_SPECS + POINT_ROBOT_SPECS
"""One entry per environment id."""
