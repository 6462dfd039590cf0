"""CRPO: reward steps while the constraints hold, else a step down one violated cost; no multipliers.

With normalised values and the natural policy gradient,

    Jbar_ci(pi_k) <= dbar_i + tolerance for all i:   pi_{k+1}(a|s)  prop. to  pi_k(a|s) exp(eta Qbar_r(s, a))
    else, for the most violated i:                   pi_{k+1}(a|s)  prop. to  pi_k(a|s) exp(-eta Qbar_ci(s, a))

Paper: Xu, Liang, Lan (2021), "CRPO: A new approach for safe reinforcement learning with convergence guarantee", arXiv
2011.05869. It proves rate 1/sqrt(T) for a random iterate among those from which a *reward* step was taken, all of which
exceed no budget by more than the tolerance. The last iterate has no guarantee: near the boundary the two kinds of steps
alternate.

``details["is_reward_step"]`` marks those iterates, so that the paper's policy can be read with
:func:`averaged_over_reward_steps`; the last iterate, from which no step is taken, is not marked.

Differences from the paper: exact evaluation, the most violated constraint instead of any, and the last iterate is what
is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.errors import TrainingError
from saferl.solvers.tabular.policies import centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CRPOConfig:
    """Options of CRPO."""

    iterations: int = 3000
    """Iterations, >= 1."""
    policy_step: float = 0.3
    """Step size eta of both kinds of steps on normalised Q, > 0. Smaller chatters less and takes longer."""
    tolerance: float = 1e-3
    """What a mean cost per step may exceed its limit by before a cost step is taken, >= 0."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, positive=("iterations", "policy_step"), non_negative=("tolerance",))


def averaged_over_reward_steps(solution: TabularSolution) -> tuple[float, Array]:
    """Mean reward, and mean costs (K,), of the paper's policy: one iterate among the reward steps, drawn per episode.

    Raises:
        TrainingError: there was no reward step, so the paper's policy does not exist.
    """
    marked = solution.details["is_reward_step"]
    if not marked.any():
        raise TrainingError(
            "CRPO's policy is drawn among reward steps; none was taken, since no iterate kept all budgets. Take more "
            "iterations, or larger steps, tolerance or budgets."
        )
    return float(solution.trajectory.values[marked].mean()), solution.trajectory.costs[marked].mean(axis=0)


def solve(cmdp: TabularCMDP, config: CRPOConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy; multipliers are 0 throughout.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> value, costs = averaged_over_reward_steps(solve(paradox_a()))
        >>> abs(value - 0.5) < 0.05, bool(costs[0] < 0.5 + 1e-3)
        (True, True)
    """
    config = options(CRPOConfig, config, given)
    recorder = Recorder("crpo", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    is_reward_step = np.zeros(config.iterations + 1, dtype=np.bool_)
    for iteration in range(config.iterations):
        evaluation = cmdp.evaluate(softmax(logits))
        recorder.add(evaluation, multipliers)
        gaps = evaluation.costs - cmdp.limits
        is_reward_step[iteration] = gaps.max() <= config.tolerance
        gradient = evaluation.reward_q if is_reward_step[iteration] else -evaluation.cost_q[..., gaps.argmax()]
        logits = centred(logits + config.policy_step * gradient)
    return recorder.solution(softmax(logits), multipliers, is_reward_step=is_reward_step)
