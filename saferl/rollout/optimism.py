r"""Optimistic advantages for sampled descent-ascent: what the last iteration would have said about today's transitions.

An optimistic policy step follows twice the current advantage minus the previous one. The previous one, of the previous
policy under the previous multipliers, is one TD error of the previous critics on the current transitions (s, a, s'),
since r_{lambda^-} + gamma E V^-(s') - V^-(s) is that advantage for *every* action, whoever chose it. Traces of several
steps would be wrong here: their tail actions come from the current policy.

    delta  = r - sum_i lambda_i c_i + (1 - term) (gamma V_r(s') - gamma_c sum_i lambda_i V_ci(s'))
             - (V_r(s) - sum_i lambda_i V_ci(s))
    A_opt  = A + (delta - delta^-)

A is the (generalised) advantage estimate, delta and delta^- are the one-step errors with current and with previous
critics and multipliers. Equal critics and multipliers give A_opt = A: mixing the two estimators as 2 A - delta^- would
not, and its noise has about four times the variance.

Source: the optimistic step is that of Moskovitz et al. (2023), arXiv 2302.01275; the one-step correction is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Critics:
    """What the critics of one iteration say about both ends of transitions; ``...`` is any batch shape."""

    values: FloatArray
    """V_r(s), (...)."""
    cost_values: FloatArray
    """V_c(s), (..., K)."""
    next_values: FloatArray
    """V_r(s') of the true next state, also where an episode was cut, (...)."""
    next_cost_values: FloatArray
    """V_c(s') of the true next state, (..., K)."""


def mixed_residuals(
    rewards: FloatArray,
    costs: FloatArray,
    critics: Critics,
    terminated: FloatArray,
    *,
    multipliers: FloatArray,
    gamma: float,
    cost_gamma: float | None = None,
) -> FloatArray:
    """One-step TD errors of the mixed reward r - sum_i lambda_i c_i, (...).

    Args:
        rewards: Rewards, (...), for example (T, N).
        costs: Costs, (..., K).
        critics: Values of both ends of the transitions.
        terminated: Probability that the step ended the task, (...); a time limit is not a termination.
        multipliers: lambda, (K,), signed where a cost has a lower limit.
        gamma: Discount of the rewards.
        cost_gamma: Discount of the costs; None for ``gamma``.
    """
    discount = gamma if cost_gamma is None else cost_gamma
    signal = rewards - costs @ multipliers
    here = critics.values - critics.cost_values @ multipliers
    ahead = gamma * critics.next_values - discount * (critics.next_cost_values @ multipliers)
    return np.asarray(signal + (1.0 - terminated) * ahead - here)


def optimistic_advantages(advantages: FloatArray, residuals: FloatArray, old_residuals: FloatArray) -> FloatArray:
    """``advantages`` plus what has changed since the last iteration, all of one shape.

    Args:
        advantages: Estimates with the current critics and multipliers, for example GAE.
        residuals: :func:`mixed_residuals` with the current critics and multipliers.
        old_residuals: The same of the same transitions with those of the previous iteration.
    """
    return np.asarray(advantages + (residuals - old_residuals))
