"""The master programs of column generation: the best mixture of the policies found so far.

A mixture draws one policy per episode with weights w; its values are the weighted values. Both programs have K + 1
rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.errors import TrainingError
from saferl.solvers.tabular.lp.highs import minimise

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """An optimal mixture and its prices."""

    weights: Array
    """Weights of the policies, (n,), sum 1; at most K + 1 are positive."""
    prices: Array
    """What a unit of each budget is worth, (K,), >= 0."""
    value: float
    """The program's objective."""


def best_mixture(values: Array, costs: Array, limits: Array) -> Mixture:
    """The mixture of policies with ``values`` (n,) and ``costs`` (n, K) that earns most within ``limits`` (K,).

    maximise <w, values>   subject to   costs^T w <= limits,   sum w = 1,   w >= 0
    """
    result = minimise(
        -values, A_ub=costs.T, b_ub=limits, A_eq=np.ones((1, len(values))), b_eq=[1.0], bounds=(0.0, None)
    )
    if result.status != 0:
        raise TrainingError(f"The best mixture of {len(values)} policies must exist; HiGHS says: {result.message}")
    weights = _distribution(result.x)
    return Mixture(weights, np.maximum(0.0, -np.asarray(result.ineqlin.marginals)), float(weights @ values))


def least_violation(costs: Array, limits: Array) -> Mixture:
    """The mixture whose worst violation is smallest; ``prices`` sum to 1 and prove it.

    minimise t   subject to   costs^T w - t <= limits,   sum w = 1,   w >= 0
    """
    count, num_constraints = costs.shape
    result = minimise(
        np.append(np.zeros(count), 1.0),
        A_ub=np.hstack([costs.T, -np.ones((num_constraints, 1))]),
        b_ub=limits,
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * count + [(None, None)],
    )
    if result.status != 0:
        raise TrainingError(f"The least violation of {count} policies must exist; HiGHS says: {result.message}")
    weights = _distribution(result.x[:-1])
    prices = _distribution(-np.asarray(result.ineqlin.marginals))
    return Mixture(weights, prices, float((weights @ costs - limits).max()))


def _distribution(weights: Array) -> Array:
    positive = np.maximum(0.0, weights)
    return np.asarray(positive / positive.sum())
