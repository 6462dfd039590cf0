"""UOpt-RPGPD: regularised descent-ascent whose regularisation and steps fade, so that the last iterate converges.

With eta_k = (k + 3)^-a, tau_k = (k + 3)^-b, Q^tau of the reward without the entropy of the action being chosen, all in
sums over the horizon H,

    pi_{k+1}(a|s)  proportional to  pi_k(a|s)^(1 - eta_k tau_k) exp(eta_k (Q_r^tau - sum_i lambda_i Q_ci)(s, a))
    Q_r^tau(s, a) = r(s, a) + E V(s'),    V(s) = sum_a pi_k (Q_r^tau - tau_k log pi_k)
    lambda_{k+1} = clip(lambda_k + eta_k (J_c(pi_k) - d - tau_k lambda_k), 0, lambda_max)

The first line is descent-ascent on the Lagrangian plus tau_k times the entropy; written with the bonus
psi = -log pi_k as a reward it is a natural gradient step. In normalised values (J / H) the same is

    pi_{k+1}  proportional to  pi_k exp(eta_k H Qbar_k)
    lambda_{k+1} = clip(lambda_k + eta_k H (g_k - tau_k lambda_k / H), 0, lambda_max)

``policy_step`` and ``multiplier_step`` multiply eta_k and stand for that H: the paper's are H, 1 / (1 - gamma) for a
discounted CMDP, and that is the default.

Paper: Kitamura et al. (2024), "A policy gradient
primal-dual algorithm for constrained MDPs with uniform PAC guarantees", arXiv 2401.17780, there for finite horizons. No
horizon of iterations has to be chosen, and the bias of RPG-PD goes to zero.

Regularisation fades slower than any power that would be quick: with the paper's exponents 3,000 iterations still leave
tau = 0.04, and on Paradox A, whose saddle point only the regularisation damps, 20,000 iterations still swing.

Differences from the paper: exact evaluation of a known model, without optimism bonuses; discounted CMDPs are accepted
too, with 1 / (1 - gamma) in place of H; several constraints; the multipliers move with the costs of the policy before
its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.policies import action_values, centred, log_softmax, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution


@dataclass(frozen=True)
class UOptRPGPDConfig:
    """Options of UOpt-RPGPD."""

    iterations: int = 3000
    """Iterations, >= 1."""
    policy_step: float | None = None
    """Factor of eta_k on normalised Q, > 0; None is the paper's, H or 1 / (1 - gamma)."""
    multiplier_step: float | None = None
    """Factor of eta_k on normalised gaps, > 0; None is the paper's, H or 1 / (1 - gamma)."""
    step_exponent: float = 0.53
    """a: steps fade as (k + 3)^-a, in [0, 1]."""
    regularisation_exponent: float = 0.4
    """b: the regularisation fades as (k + 3)^-b, in [0, 1]."""
    multiplier_max: float = 1000.0
    """Upper bound of every multiplier, > 0."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(
            self,
            positive=("iterations", "policy_step", "multiplier_step", "multiplier_max"),
            unit=("step_exponent", "regularisation_exponent"),
        )


def solve(cmdp: TabularCMDP, config: UOptRPGPDConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import finite_horizon_random
        >>> solution = solve(finite_horizon_random(), iterations=500)
        >>> float(solution.costs[0] - solution.cmdp.limits[0]) < 0.02
        True
    """
    config = options(UOptRPGPDConfig, config, given)
    recorder = Recorder("uopt_rpgpd", cmdp)
    policy_step = config.policy_step or 1.0 / cmdp.scale
    multiplier_step = config.multiplier_step or 1.0 / cmdp.scale
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    for iteration in range(config.iterations):
        step = (iteration + 3.0) ** -config.step_exponent
        regularisation = (iteration + 3.0) ** -config.regularisation_exponent
        policy = softmax(logits)
        system = cmdp.value_system(policy)
        evaluation = cmdp.evaluation(system, policy)
        recorder.add(evaluation, multipliers)
        bonus = action_values(cmdp, system, policy, -regularisation * log_softmax(logits))
        logits = centred(logits + step * policy_step * (evaluation.mixed_q(multipliers) + bonus))
        gaps = evaluation.costs - cmdp.limits - cmdp.scale * regularisation * multipliers
        multipliers = np.clip(multipliers + step * multiplier_step * gaps, 0.0, config.multiplier_max)
    return recorder.solution(softmax(logits), multipliers)
