r"""Doubly-robust estimates: fitted values, corrected by how likely the policy was to do what was done.

With ``rho_t = prod_{k<=t} pi(a_k | s_k) / mu(a_k | s_k)``, mu the behaviour, an episode's term is (Jiang, Li 2016,
equation 10, unrolled; V is 0 at terminal states)

    D = V_H(s_0) + sum_{t<H} gamma^t rho_t (y_t + gamma V_{H-t-1}(s_{t+1}) - Q_{H-t}(s_t, a_t))

Its mean is the policy's value for *any* Q that does not depend on the episode, if the ratios are the true ones and
``V(s) = E_{a ~ pi} Q(s, a)``; a good Q makes its variance small. Each episode's Q is therefore fitted on others
(cross-fitting). An episode that a time limit cut before H goes on by the fitted values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.errors import DataError
from saferl.evaluation.fitted_q import Moments, Regression, Solution, solve

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """The episodes' terms and weights."""

    values: Array
    """D of the reward and every cost, (E, G)."""
    weights: Array
    """rho at each episode's end, (E,)."""

    @property
    def effective_episodes(self) -> float:
        """``(sum rho)^2 / sum rho^2``: as many episodes of the policy itself would say as much without a Q."""
        squares = float(np.square(self.weights).sum())
        return float(self.weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def episode_terms(
    regression: Regression, solution: Solution, log_ratios: Array, *, gamma: float, horizon: int | None
) -> Terms:
    """D of every episode with the Q of ``solution``.

    Args:
        regression: The data's features.
        solution: Fitted values.
        log_ratios: ``log pi(a | s) - log mu(a | s)`` of every row, (N,); -inf where the policy would never do it.
        gamma: Discount factor.
        horizon: Steps that count; None: all.

    Raises:
        DataError: ratios beyond all bounds.
    """
    lengths, starts = regression.lengths, regression.starts
    steps = np.arange(len(log_ratios)) - np.repeat(starts, lengths)
    counts = np.ones(len(steps)) if horizon is None else (steps < horizon).astype(np.float64)
    ratios = _cumulative(np.where(counts > 0.0, log_ratios, 0.0), starts, lengths)
    left = None if horizon is None else np.maximum(horizon - steps, 0)
    after = None if left is None else np.maximum(left - 1, 0)
    errors = regression.signals + gamma * solution.values(regression.following, after)
    errors = errors - solution.values(regression.taken, left)
    weighted = (counts * gamma**steps * ratios)[:, None] * errors
    first = solution.values(regression.current[starts])
    return Terms(first + np.add.reduceat(weighted, starts, axis=0), ratios[regression.ends - 1])


def cross_fitted(
    regression: Regression,
    moments: Moments,
    log_ratios: Array,
    *,
    gamma: float,
    horizon: int | None,
    folds: int,
    rng: np.random.Generator,
) -> Terms:
    """D of every episode, each with a Q that was fitted on the episodes of the other folds.

    Raises:
        DataError: ratios beyond all bounds.
    """
    count = len(regression.starts)
    fold = rng.permutation(count) % min(folds, count)
    values, weights = np.zeros((count, regression.signals.shape[1])), np.zeros(count)
    for index in range(fold.max() + 1):
        own = fold == index
        terms = episode_terms(
            regression,
            solve(moments, (~own).astype(np.float64), gamma, horizon),
            log_ratios,
            gamma=gamma,
            horizon=horizon,
        )
        values[own], weights[own] = terms.values[own], terms.weights[own]
    return Terms(values, weights)


def _cumulative(log_ratios: Array, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Array:
    """Products of ratios from each episode's start up to and with every row, (N,)."""
    ratios = np.zeros(len(log_ratios))
    for start, length in zip(starts, lengths, strict=True):
        ratios[start : start + length] = np.cumsum(log_ratios[start : start + length])
    with np.errstate(over="ignore"):
        ratios = np.exp(ratios)
    if not np.isfinite(ratios).all():
        raise DataError(
            "The ratios of the policy's to the behaviour's densities grow beyond all bounds: log_probs of the data are "
            "not those of their actions, or the policy is too far from the behaviour. Use fitted-Q estimates."
        )
    return ratios
