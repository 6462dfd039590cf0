"""OPG-PD: optimistic policy gradient primal-dual, whose last iterate converges.

Both players keep an anchor (pihat, lambdahat) and take two projected steps from it, the first along the last known
gradient, the second along the gradient at the point so reached. With normalised Q of the mixed reward and gaps
g_t = Jbar_c(pi_t) - dbar, P the Euclidean projection to distributions,

    pi_t = P(pihat_t + eta Qbar_{t-1}),         lambda_t = clip(lambdahat_t + eta_lambda g_{t-1}, 0, lambda_max)
    pihat_{t+1} = P(pihat_t + eta Qbar_t),      lambdahat_{t+1} = clip(lambdahat_t + eta_lambda g_t, 0, lambda_max)

Qbar_t and g_t belong to (pi_t, lambda_t), so every iteration evaluates one policy. Iterates are the pi_t; at the start
pi_0 = pihat_0, since there is no gradient to predict with.

Paper: Ding, Wei, Zhang, Ribeiro (2023), "Last-iterate convergent policy gradient primal-dual methods for constrained
MDPs", arXiv 2306.11700, equation 9. It proves a linear rate that depends on the problem, for small steps.

Differences from the paper: one step size per player, for normalised values; the bound of the multipliers is an option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.policies import TabularConfig, options, project_to_simplex
from saferl.solvers.tabular.solution import Recorder, TabularSolution


@dataclass(frozen=True)
class OPGPDConfig(TabularConfig):
    """Options of OPG-PD."""

    policy_step: float = 0.5
    """Step size eta of the policy on normalised Q, > 0."""
    multiplier_step: float = 0.5
    """Step size eta_lambda of the multipliers on normalised gaps, > 0."""


def solve(cmdp: TabularCMDP, config: OPGPDConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> abs(solve(paradox_a()).value - 0.5) < 1e-8
        True
    """
    config = options(OPGPDConfig, config, given)
    recorder = Recorder("opg_pd", cmdp)
    policy, multipliers = cmdp.uniform_policy(), np.zeros(cmdp.num_constraints)
    anchor, multiplier_anchor = policy, multipliers
    for _ in range(config.iterations):
        evaluation = cmdp.evaluate(policy)
        recorder.add(evaluation, multipliers)
        ascent = config.policy_step * evaluation.mixed_q(multipliers)
        descent = config.multiplier_step * (evaluation.costs - cmdp.limits)
        anchor = project_to_simplex(anchor + ascent)
        multiplier_anchor = np.clip(multiplier_anchor + descent, 0.0, config.multiplier_max)
        policy = project_to_simplex(anchor + ascent)
        multipliers = np.clip(multiplier_anchor + descent, 0.0, config.multiplier_max)
    return recorder.solution(policy, multipliers)
