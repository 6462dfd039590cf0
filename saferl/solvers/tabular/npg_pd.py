"""NPG primal-dual: plain descent-ascent on the Lagrangian, whose last iterate circles the optimum.

With normalised Q of the mixed reward, Qbar_k = Qbar_r - sum_i lambda_i Qbar_ci, and gaps g_k = Jbar_c(pi_k) - dbar:

    pi_{k+1}(a|s)  proportional to  pi_k(a|s) exp(eta Qbar_k(s, a))
    lambda_{k+1} = clip(lambda_k + eta_lambda g_k, 0, lambda_max)

Paper: Ding, Zhang, Basar, Jovanovic (2020), "Natural policy gradient primal-dual method for constrained Markov decision
processes". It is proved to converge on average over iterates, at rate 1/sqrt(T), not at the last one.

Differences from the paper: step sizes are free and for normalised values; with policy_step = 2 log|A| / (1 - gamma)^2
and multiplier_step = 2 / sqrt(T) they are the paper's. The bound of the multipliers is an option instead of
2 / ((1 - gamma) slack).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.policies import TabularConfig, centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution


@dataclass(frozen=True)
class NPGPDConfig(TabularConfig):
    """Options of NPG primal-dual."""


def solve(cmdp: TabularCMDP, config: NPGPDConfig | None = None, **given: Any) -> TabularSolution:
    """Descend and ascend from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solution = solve(paradox_a(), iterations=5000)
        >>> bool(np.ptp(solution.trajectory.values[-200:]) > 0.5)
        True
    """
    config = options(NPGPDConfig, config, given)
    recorder = Recorder("npg_pd", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    for _ in range(config.iterations):
        evaluation = cmdp.evaluate(softmax(logits))
        recorder.add(evaluation, multipliers)
        logits = centred(logits + config.policy_step * evaluation.mixed_q(multipliers))
        gaps = evaluation.costs - cmdp.limits
        multipliers = np.clip(multipliers + config.multiplier_step * gaps, 0.0, config.multiplier_max)
    return recorder.solution(softmax(logits), multipliers)
