r"""CaT: constraints as terminations. Every violation ends the future, with a probability, for the learner alone.

    delta = max_i p_i^max clip(c_i^+ / c_i^max, 0, 1)            c_i^+ the positive part of constraint i's margin
    maximise   E sum_t gamma^t prod_{k <= t} (1 - delta_k) r_t,    V(s) = E[(1 - delta) (r + gamma V(s'))]

Each iteration collects a rollout in which rewards are multiplied by 1 - delta and terminations are the floats
1 - (1 - delta)(1 - term), and takes PPO's clipped step on it. The environment is not reset by a violation. The maths is
in :mod:`saferl.solvers.soft_terminations`: running maxima c_i^max, and a curriculum in which the expected lifetime
1 / p^max of soft constraints moves linearly.

Paper: Chane-Sane, Leziart, Flayols, Stasse, Soueres, Mansard (2024), "CaT: constraints as terminations for legged
locomotion reinforcement learning", IROS, arXiv 2403.18765.

What it guarantees: the optimum of a contraction, which a test compares with the exact one. It is not a solver of
constrained MDPs: there is no budget, the optimum is deterministic, and where all reward needs a violation it violates.
How strong it is depends on p^max times the value at stake, so on gamma and on the reward. It needs rewards >= 0.

Differences from the paper:
* The batch's maximum is that of the last ``c_max_window`` steps of all environments, because there are few of them, and
  margins that are known beforehand (``c_max``) can be fixed.
* A negative reward is an error, or one of two documented choices; the paper's code clips what is left of it to 0.
* At a time limit the true final observation is valued; timeout="terminal" is the paper's code.
* Rewards may be scaled by VecNormalize, which keeps their sign. The base is this package's PPO: no clipping of value
  losses, no normalisation of values.
* A constraint of kind ``statewise`` with a positive budget d has the margin cost - d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from saferl.constraints import VIOLATION_RATE, ConstraintSet
from saferl.errors import ConstraintError
from saferl.rollout.estimator import CostEstimator
from saferl.solvers.clipped import ClippedConfig, clipped_update, standardised
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig
from saferl.solvers.soft_terminations import SoftTerminationConfig, SoftTerminations, reward_scaling


@dataclass(frozen=True)
class CaTConfig(ClippedConfig, SoftTerminationConfig):
    """Options of CaT."""

    cost_vf_coef: float = 0.0
    """Weight of the cost critic's loss. CaT has no use for one."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        ClippedConfig.__post_init__(self)
        SoftTerminationConfig.__post_init__(self)


class CaT(ConstrainedOnPolicyAlgorithm):
    """CaT on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import CaT
        >>> options = {"negative_rewards": "positive_part_only", "n_steps": 16, "batch_size": 16}
        >>> model = CaT("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), seed=0, **options)
        >>> model.learn(32).num_timesteps
        32
    """

    config_class: ClassVar[type[OnPolicyConfig]] = CaTConfig
    supported_kinds: ClassVar[tuple[str, ...]] = ("statewise", "episode_sum", "discounted", "step_rate")
    trained_for: ClassVar[str] = VIOLATION_RATE
    config: CaTConfig

    def __init__(self, policy: Any, env: Any, *, budgets: Mapping[str, float] | None = None, **kwargs: Any) -> None:
        """Set up training; the arguments are those of :class:`ConstrainedOnPolicyAlgorithm`.

        Raises:
            ConstraintError: also if ``budgets`` names a constraint that is not statewise.
        """
        super().__init__(policy, env, budgets=budgets, **kwargs)
        for name in budgets or {}:
            if self.constraints[name].kind != "statewise":
                raise ConstraintError(
                    f"CaT lowers the share of steps that violate {name!r}, and trains at no budget of kind "
                    f"{self.constraints[name].kind!r}; got {self.budgets[name]:g}. Leave it out, or take a solver with "
                    "multipliers (ppo_lag, reload)."
                )

    @property
    def train_budgets(self) -> dict[str, float] | None:
        """Limits that training looks at: those on the cost of every step; None if there is none."""
        return {c.name: c.budget for c in self.constraints if c.kind == "statewise"} or None

    def _setup_model(self) -> None:
        super()._setup_model()
        self.soft = SoftTerminations(self.config, self.constraints)

    def _new_cost_estimator(self, constraints: ConstraintSet) -> CostEstimator:
        # Nothing consumes the estimate here, and of a statewise constraint there is none: count costs per step.
        return super()._new_cost_estimator(ConstraintSet(replace(c, kind="step_rate", gamma=1.0) for c in constraints))

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """Fill the buffer with one rollout, and log how often constraints were violated in it."""
        goes_on = super().collect_rollouts(*args, **kwargs)
        for key, value in self.soft.take_log().items():
            self.logger.record(key, value)
        return goes_on

    def learning_rewards(self, rewards: Any, costs: Any) -> Any:
        """Rewards times 1 - delta, (num_envs,); delta is kept for :meth:`learning_terminations`."""
        progress = min(1.0, self.num_timesteps / self._total_timesteps)
        self.soft.step(costs, self.env.margins, progress=progress)  # type: ignore[union-attr]
        scale, limit = reward_scaling(self.env)  # type: ignore[arg-type]
        return self.soft.rewards(rewards, scale=scale, limit=limit)

    def learning_terminations(self, terminated: Any) -> Any:
        """Soft terminations 1 - (1 - delta)(1 - term), (num_envs,)."""
        if self.config.timeout == "terminal":
            terminated = np.logical_or(terminated, self.env.truncated)  # type: ignore[union-attr]
        return self.soft.ends(terminated)

    def train(self) -> None:
        """One iteration on the rollout in the buffer: clipped steps on the softly terminated rewards."""
        self.begin_update()
        data = self.rollout_buffer.tensors(self.device)
        clipped_update(self, data, standardised(data.reward_advantages), self.config)

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs: running maxima, beside what the base has."""
        return {**super().get_extra_state(), "soft": self.soft.get_state()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        super().set_extra_state(state)
        self.soft.set_state(state["soft"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "soft"]
