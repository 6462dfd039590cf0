"""CaT's fixed point: constraints as terminations, solved exactly by value iteration.

Every step ends the task, in the learner's eyes only, with a probability that grows with the violation,

    delta(s, a) = max_i p_i clip(c_i(s, a) / scale_i, 0, 1)
    V(s) = max_a (1 - delta(s, a)) (r(s, a) + gamma sum_s' P(s'|s, a) V(s'))

a contraction for gamma < 1. Costs are margins here: what is at most 0 does not violate. Rewards must not be negative,
or ending early would be a gain.

Paper: Chane-Sane, Leziart, Flayols, Stasse, Soueres, Mansard (2024), "CaT: Constraints as terminations for legged
locomotion reinforcement learning", arXiv 2403.18765.

CaT is not a CMDP solver: budgets do not enter, its optimum is deterministic, and where all reward requires a violation
it goes on violating. On Paradox A the greedy policy is its optimum for every p < 1. It is here as the exact answer that
deep CaT can be tested against, and to show what it does to a budget.

Differences from the paper: the scales are fixed (a running maximum over parallel environments there), p is fixed (a
curriculum there), the current reward is multiplied by 1 - delta without clipping negative ones to 0 (they are refused),
and there is a reward offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import one_hot
from saferl.errors import ConfigError, TrainingError
from saferl.solvers.tabular.policies import options
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CaTConfig:
    """Options of CaT's fixed point."""

    probability: float | tuple[float, ...] = 0.25
    """Termination probability p of the largest violation, one for all constraints or one each, in [0, 1]."""
    violation_scale: tuple[float, ...] | None = None
    """Cost per step at which p is reached, one per constraint, > 0; None is the largest cost of the CMDP."""
    reward_offset: float | None = None
    """Added to every reward, after which none may be negative; None is the least offset that does it, >= 0."""
    tolerance: float = 1e-12
    """Value iteration ends when no value changes by more than this share of the largest possible one, > 0."""
    max_sweeps: int = 100_000
    """Sweeps after which value iteration gives up, >= 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, positive=("tolerance", "max_sweeps"))
        for probability in self.probability if isinstance(self.probability, tuple) else (self.probability,):
            if not 0.0 <= probability <= 1.0:
                raise ConfigError(f"CaTConfig.probability must be in [0, 1]; got {probability:g}.")
        if self.violation_scale is not None and min(self.violation_scale, default=0.0) <= 0.0:
            raise ConfigError(f"CaTConfig.violation_scale must be greater than 0; got {self.violation_scale}.")


def termination_probabilities(cmdp: TabularCMDP, config: CaTConfig) -> Array:
    """delta(s, a), shaped like the rewards.

    Raises:
        ConfigError: an option does not have one entry per constraint.
    """
    count = cmdp.num_constraints
    probability = config.probability if isinstance(config.probability, tuple) else (config.probability,) * count
    violation = np.maximum(cmdp.costs, 0.0)
    # A cost that is never positive needs no scale: it never violates.
    largest = violation.reshape(-1, count).max(axis=0)
    scale = np.where(largest > 0.0, largest, 1.0) if config.violation_scale is None else config.violation_scale
    for name, entries in (("probability", probability), ("violation_scale", scale)):
        if len(entries) != count:
            raise ConfigError(f"CaTConfig.{name} must have {count} entries, one per constraint; got {len(entries)}.")
    return np.asarray((np.asarray(probability) * np.clip(violation / np.asarray(scale), 0.0, 1.0)).max(axis=-1))


def offset_rewards(cmdp: TabularCMDP, config: CaTConfig) -> tuple[Array, float]:
    """Rewards that are not negative, and what was added to them.

    Raises:
        ConfigError: the given offset leaves a negative reward.
    """
    least = float(cmdp.rewards.min())
    offset = max(0.0, -least) if config.reward_offset is None else config.reward_offset
    if least + offset < 0.0:
        raise ConfigError(
            f"CaT needs rewards >= 0, or ending early would be a gain; the least one with the offset is "
            f"{least + offset:g}. Give a reward_offset of at least {-least:g}."
        )
    return cmdp.rewards + offset, offset


def solve(cmdp: TabularCMDP, config: CaTConfig | None = None, **given: Any) -> TabularSolution:
    """The deterministic policy of the fixed point, the first action where several are equally good.

    The trajectory has this one iterate, with multipliers 0. ``details`` has ``delta`` (..., A), ``values`` V in the
    units of the environment (...), ``reward_offset`` and ``sweeps``.

    Raises:
        ConfigError: see :func:`termination_probabilities` and :func:`offset_rewards`.
        TrainingError: no convergence within ``max_sweeps``.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solve(paradox_a(), probability=0.5).costs  # every step costs, the budget does not matter
        array([1.])
    """
    config = options(CaTConfig, config, given)
    delta = termination_probabilities(cmdp, config)
    rewards, offset = offset_rewards(cmdp, config)
    threshold = config.tolerance * float(rewards.max()) / cmdp.scale
    values = np.zeros(cmdp.policy_shape[:-1])
    for sweeps in range(1, config.max_sweeps + 1):  # noqa: B007 - reported below
        q = (1.0 - delta) * (rewards + cmdp.discount * cmdp.expected_next(values))
        change = float(np.abs(q.max(axis=-1) - values).max())
        values = q.max(axis=-1)
        if change <= threshold:
            break
    else:
        raise TrainingError(
            f"CaT's value iteration must converge within {config.max_sweeps} sweeps; the last one changed a value by "
            f"{change:g}, more than {threshold:g}. Allow more sweeps or a larger tolerance."
        )
    recorder = Recorder("cat", cmdp)
    return recorder.solution(
        one_hot(q.argmax(axis=-1), cmdp.num_actions),
        np.zeros(cmdp.num_constraints),
        delta=delta,
        values=values,
        reward_offset=offset,
        sweeps=sweeps,
    )
