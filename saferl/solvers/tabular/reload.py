"""ReLOAD: optimistic descent-ascent, whose last iterate converges.

Both players take a step along twice the current gradient minus the previous one. One-step form (the default), with
normalised Q of the mixed reward Qbar_k = Qbar_r - lambda_k Qbar_c, and gaps g_k = Jbar_c(pi_k) - dbar:

    pi_{k+1}(a|s)  proportional to  pi_k(a|s) exp(eta (2 Qbar_k - Qbar_{k-1})(s, a))
    lambda_{k+1} = clip(lambda_k + eta_lambda (2 g_k - g_{k-1}), 0, lambda_max)

Qbar_{k-1} is the Q of the previous policy under the previous multipliers, as it was then. At the start both previous
gradients are the current ones.

Exact form: mirror descent on occupancy measures d, with the KL divergence of conditional action probabilities,

    d_{k+1} = argmax_d  <d, 2 r_{lambda_k} - r_{lambda_{k-1}}>
                        - 1 / (eta (1 - gamma)) sum_s d(s) KL(pi_d(.|s) || pi_k(.|s))

which is a regularised MDP of its own, solved to machine precision in every iteration.

Paper: Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy (2023), "ReLOAD: Reinforcement learning with optimistic
ascent-descent for last-iterate convergence in constrained MDPs", arXiv 2302.01275.

Differences from the paper: the one-step form replaces the inner problem by one multiplicative-weights step; optimism
can be switched off for each player, as an ablation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import soft_best_response
from saferl.solvers.tabular.policies import TabularConfig, centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReLOADConfig(TabularConfig):
    """Options of ReLOAD. (1, 1) is a safe pair of steps; too large ones cycle again, too small ones take for ever."""

    optimism: Literal["both", "primal", "dual", "none"] = "both"
    """Whose steps are optimistic: both players', the policy's, the multipliers', or nobody's. Only both converge."""
    form: Literal["one_step", "exact"] = "one_step"
    """One multiplicative-weights step, or the exact mirror step on occupancy measures."""


def optimistic(current: Array, previous: Array, is_optimistic: bool) -> Array:
    """2 current - previous, or ``current`` for a player without optimism."""
    return 2.0 * current - previous if is_optimistic else current


def solve(cmdp: TabularCMDP, config: ReLOADConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solution = solve(paradox_a())
        >>> abs(solution.value - 0.5) < 1e-8, solution.policy.round(4)
        (True, array([[0.9091, 0.0909],
               [1.    , 0.    ]]))
    """
    config = options(ReLOADConfig, config, given)
    is_primal, is_dual = config.optimism in ("both", "primal"), config.optimism in ("both", "dual")
    recorder = Recorder("reload", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    previous_gradient: Array | None = None
    previous_gaps: Array | None = None
    for _ in range(config.iterations):
        policy = softmax(logits)
        evaluation = cmdp.evaluate(policy)
        recorder.add(evaluation, multipliers)
        mixed_reward = cmdp.rewards - cmdp.costs @ multipliers
        gradient = evaluation.mixed_q(multipliers) if config.form == "one_step" else mixed_reward
        gaps = evaluation.costs - cmdp.limits
        if previous_gradient is None or previous_gaps is None:
            previous_gradient, previous_gaps = gradient, gaps
        ascent = optimistic(gradient, previous_gradient, is_primal)
        if config.form == "one_step":
            logits = centred(logits + config.policy_step * ascent)
        else:
            plan = soft_best_response(cmdp, ascent, policy, 1.0 / config.policy_step)
            with np.errstate(divide="ignore"):
                logits = centred(np.log(plan.policy))
        descent = optimistic(gaps, previous_gaps, is_dual)
        multipliers = np.clip(multipliers + config.multiplier_step * descent, 0.0, config.multiplier_max)
        previous_gradient, previous_gaps = gradient, gaps
    return recorder.solution(softmax(logits), multipliers)
