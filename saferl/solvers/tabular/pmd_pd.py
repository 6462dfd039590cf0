"""PMD-PD: policy mirror descent under a predicted multiplier.

With gaps g_k = Jbar_c(pi_k) - dbar, every iteration solves, exactly or by a few steps, the MDP regularised towards the
last policy under the multiplier as one more dual step would make it:

    lambdat_k = lambda_k + eta_lambda g_k
    pi_{k+1}  = argmax_pi  Jbar_r(pi) - sum_i lambdat_ki Jbar_ci(pi) - (1 / eta) sum_s d_pi(s) KL(pi(.|s) || pi_k(.|s))
    lambda_{k+1} = max(-eta_lambda g_{k+1}, lambda_k + eta_lambda g_{k+1})

d_pi are unnormalised visits, so that one step of policy iteration on the inner problem, with the values V_j of pi_j
that include the penalty, is

    pi_{j+1}(a|s)  proportional to  pi_k(a|s) exp(eta Qbar_j(s, a))
    V_j(s) = sum_a pi_j (Qbar_j - log(pi_j / pi_k) / eta)(s, a)

Because lambda_{k+1} uses the gap of the new policy, the predicted multiplier carries the gap twice, which damps like
optimism does; where a budget does not bind, lambda rests at minus the gap and the predicted multiplier at 0. The
predicted multipliers are those that are recorded and returned.

Paper: Liu, Zhou, Kalathil, Kumar, Tian (2021), "Policy optimization for constrained MDPs with provable fast global
convergence", arXiv 2111.00552. It proves rate log(T) / T for the average over iterates, with enough inner steps.

Differences from the paper: steps are for normalised values; one inner step is the default, as in published experiments
(weight 0.2 of the divergence, which is policy_step 5 here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import Evaluation, TabularCMDP
from saferl.solvers.tabular.policies import (
    TabularConfig,
    action_values,
    centred,
    log_softmax,
    options,
    softmax,
)
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PMDPDConfig(TabularConfig):
    """Options of PMD-PD."""

    policy_step: float = 5.0
    """Inverse weight eta of the divergence, > 0."""
    inner_steps: int = 1
    """Steps of policy iteration on the inner problem, >= 1; each costs one more evaluation."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_ranges(self, positive=("inner_steps",))


def solve(cmdp: TabularCMDP, config: PMDPDConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and the multipliers max(0, -eta_lambda g_0).

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> abs(solve(paradox_a()).value - 0.5) < 1e-8
        True
    """
    config = options(PMDPDConfig, config, given)
    recorder = Recorder("pmd_pd", cmdp)
    logits = np.zeros(cmdp.policy_shape)
    evaluation = cmdp.evaluate(softmax(logits))
    step = config.multiplier_step * (evaluation.costs - cmdp.limits)
    multipliers = np.maximum(-step, 0.0)
    for _ in range(config.iterations):
        predicted = np.clip(multipliers + step, 0.0, config.multiplier_max)
        recorder.add(evaluation, predicted)
        logits = mirror_step(cmdp, logits, evaluation, predicted, config)
        evaluation = cmdp.evaluate(softmax(logits))
        step = config.multiplier_step * (evaluation.costs - cmdp.limits)
        multipliers = np.minimum(np.maximum(-step, multipliers + step), config.multiplier_max)
    return recorder.solution(softmax(logits), np.clip(multipliers + step, 0.0, config.multiplier_max))


def mirror_step(
    cmdp: TabularCMDP, anchor: Array, evaluation: Evaluation, multipliers: Array, config: PMDPDConfig
) -> Array:
    """The logits of the inner problem's solution, from the logits of the last policy and its evaluation."""
    step = config.policy_step
    logits = centred(anchor + step * evaluation.mixed_q(multipliers))
    for _ in range(config.inner_steps - 1):
        policy = softmax(logits)
        # The value of the penalty enters as a cost of every action of the policy, except of the one being chosen.
        penalty = (log_softmax(logits) - log_softmax(anchor)) / (step * cmdp.scale)
        signal = cmdp.rewards - cmdp.costs @ multipliers - penalty
        q = action_values(cmdp, cmdp.value_system(policy), policy, signal) + cmdp.scale * penalty
        logits = centred(anchor + step * q)
    return logits
