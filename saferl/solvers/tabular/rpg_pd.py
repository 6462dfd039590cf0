"""RPG-PD: regularised policy gradient primal-dual, whose last iterate converges to a point beside the optimum.

The Lagrangian is regularised by tau times the policy's entropy and tau / 2 times the squared multipliers, which makes
plain descent-ascent contract. With psi_k(s, a) = -log pi_k(a|s), normalised Q of the reward r - lambda_k c + tau psi_k
and gaps g_k = Jbar_c(pi_k) - dbar,

    pi_{k+1}(a|s)  proportional to  pi_k(a|s) exp(eta Qbar_k(s, a)),  projected to probabilities >= floor / |A|
    lambda_{k+1} = clip((1 - eta_lambda tau) lambda_k + eta_lambda g_k, 0, lambda_max)

A fixed point has g = tau lambda: it exceeds the budget by tau times the multiplier, and its value is as far from the
optimum. Tighten the budget by that much, or take UOpt-RPGPD, where tau fades.

Paper: Ding, Wei, Zhang, Ribeiro (2023), "Last-iterate convergent policy gradient primal-dual methods for constrained
MDPs", arXiv 2306.11700, equation 6. It proves a sublinear rate to the regularised saddle point for small steps.

Differences from the paper: everything is normalised, so tau is per step for the entropy and for the multipliers alike;
the players' steps may differ; no floor by default, since the entropy itself keeps probabilities positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.errors import ConfigError
from saferl.solvers.tabular.policies import TabularConfig, action_values, centred, log_softmax, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RPGPDConfig(TabularConfig):
    """Options of RPG-PD."""

    policy_step: float = 0.1
    """Step size eta of the policy on normalised Q, > 0."""
    multiplier_step: float = 0.1
    """Step size eta_lambda of the multipliers on normalised gaps, > 0."""
    regularisation: float = 0.08
    """Weight tau of entropy and squared multipliers, >= 0. Smaller is less biased and slower to settle."""
    floor: float = 0.0
    """Least probability of an action in units of 1 / |A|, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_ranges(self, non_negative=("regularisation",), unit=("floor",))
        if self.floor == 1.0 or self.multiplier_step * self.regularisation > 1.0:
            raise ConfigError(
                "RPGPDConfig.floor must be below 1 and multiplier_step * regularisation at most 1; got "
                f"{self.floor:g} and {self.multiplier_step * self.regularisation:g}."
            )


def solve(cmdp: TabularCMDP, config: RPGPDConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solution = solve(paradox_a())
        >>> round(solution.value, 2), bool(np.ptp(solution.trajectory.values[-200:]) < 1e-3)
        (0.58, True)
    """
    config = options(RPGPDConfig, config, given)
    recorder = Recorder("rpg_pd", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    for _ in range(config.iterations):
        policy = softmax(logits)
        system = cmdp.value_system(policy)
        evaluation = cmdp.evaluation(system, policy)
        recorder.add(evaluation, multipliers)
        bonus = action_values(cmdp, system, policy, -config.regularisation * log_softmax(logits))
        logits = centred(logits + config.policy_step * (evaluation.mixed_q(multipliers) + bonus))
        if config.floor:
            logits = np.log(raised(softmax(logits), config.floor / cmdp.num_actions))
        shrinkage = 1.0 - config.multiplier_step * config.regularisation
        gaps = evaluation.costs - cmdp.limits
        multipliers = np.clip(shrinkage * multipliers + config.multiplier_step * gaps, 0.0, config.multiplier_max)
    return recorder.solution(softmax(logits), multipliers)


def raised(policy: Array, minimum: float) -> Array:
    """The distributions with no probability below ``minimum`` that are nearest in KL divergence from ``policy``.

    Small probabilities become ``minimum``; the others are divided by a common factor. With the n largest kept, they are
    multiplied by t = (1 - (A - n) minimum) / their sum, and n is the largest number for which the n-th stays above.
    """
    descending = -np.sort(-policy, axis=-1)
    ranks = np.arange(1, policy.shape[-1] + 1)
    factors = (1.0 - (policy.shape[-1] - ranks) * minimum) / np.cumsum(descending, axis=-1)
    kept = (descending * factors >= minimum).sum(axis=-1, keepdims=True)
    return np.asarray(np.maximum(policy * np.take_along_axis(factors, kept - 1, axis=-1), minimum))
