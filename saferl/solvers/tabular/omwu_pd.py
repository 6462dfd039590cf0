"""OMWU-PD: optimistic multiplicative weights primal-dual, whose last iterate converges.

OPG-PD with the KL divergence in place of the Euclidean distance for the policy. With anchors (pihat, lambdahat),
normalised Q of the mixed reward and gaps g_t = Jbar_c(pi_t) - dbar,

    pi_t        prop. to  pihat_t exp(eta Qbar_{t-1}),  lambda_t        = clip(lambdahat_t + eta_lambda g_{t-1}, 0, max)
    pihat_{t+1} prop. to  pihat_t exp(eta Qbar_t),      lambdahat_{t+1} = clip(lambdahat_t + eta_lambda g_t, 0, max)

The anchor of the policy drops out: pi_{t+1} is proportional to pi_t exp(eta (2 Qbar_t - Qbar_{t-1})), which is the
one-step form of ReLOAD. The two methods differ in the first step (here Qbar_{-1} = 0, since pi_0 = pihat_0) and in
multipliers that touch a bound: here the anchor is projected, in ReLOAD the iterate.

Paper: Ding, Wei, Zhang, Ribeiro (2023), "Last-iterate convergent policy gradient primal-dual methods for constrained
MDPs", arXiv 2306.11700, equation 41.

Differences from the paper: one step size per player, for normalised values; the bound of the multipliers is an option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.policies import TabularConfig, centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution


@dataclass(frozen=True)
class OMWUPDConfig(TabularConfig):
    """Options of OMWU-PD."""


def solve(cmdp: TabularCMDP, config: OMWUPDConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> abs(solve(paradox_a()).value - 0.5) < 1e-8
        True
    """
    config = options(OMWUPDConfig, config, given)
    recorder = Recorder("omwu_pd", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    anchor, multiplier_anchor = logits, multipliers
    for _ in range(config.iterations):
        evaluation = cmdp.evaluate(softmax(logits))
        recorder.add(evaluation, multipliers)
        ascent = config.policy_step * evaluation.mixed_q(multipliers)
        descent = config.multiplier_step * (evaluation.costs - cmdp.limits)
        anchor = centred(anchor + ascent)
        multiplier_anchor = np.clip(multiplier_anchor + descent, 0.0, config.multiplier_max)
        logits = anchor + ascent
        multipliers = np.clip(multiplier_anchor + descent, 0.0, config.multiplier_max)
    return recorder.solution(softmax(logits), multipliers)
