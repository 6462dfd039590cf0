"""Grid thinning: an even spread of trajectories over the plane of cost and return.

Data of learning agents crowds where they end up. The plane is cut into a square grid with about as many cells as
trajectories are wanted; every occupied cell keeps one, and the rest is drawn from occupied cells with equal chances,
so that crowded cells give no more than others as long as they can. This is how DSRL (Liu, Guo, Lin and others, 2023,
arXiv 2306.09303) flattens its data; here the draws are seeded, and cells run dry instead of repeating a trajectory.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


def thin(returns: Floats, costs: Floats, capacity: int, generator: np.random.Generator) -> Indices:
    """Which trajectories to keep, in ascending order; all of them if there are at most ``capacity``.

    Args:
        returns: Undiscounted returns, (episodes,).
        costs: Undiscounted cost sums, (episodes,).
        capacity: How many to keep, at least 1.
        generator: What cells and trajectories are drawn with.

    Raises:
        ConfigError: a capacity below 1.

    Example:
        >>> crowd, alone = np.zeros(98), np.array([1.0, 2.0])
        >>> kept = thin(np.r_[crowd, alone], np.r_[crowd, alone], 10, np.random.default_rng(0))
        >>> len(kept), bool({98, 99} <= set(kept.tolist()))
        (10, True)
    """
    if capacity < 1:
        raise ConfigError(f"The number of trajectories to keep must be at least 1; got {capacity}.")
    if len(returns) <= capacity:
        return np.arange(len(returns))
    side = max(1, math.isqrt(capacity))
    cells = _bins(costs, side) * side + _bins(returns, side)
    # A random order within cells, then the k-th member of every cell has rank k.
    shuffled = generator.permutation(len(returns))
    order = shuffled[np.argsort(cells[shuffled], kind="stable")]
    sorted_cells = cells[order]
    starts = np.flatnonzero(np.r_[True, sorted_cells[1:] != sorted_cells[:-1]])
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    # Rank after rank; within one rank, cells come in a random order.
    by_rank = np.lexsort((generator.random(len(order)), ranks))
    return np.sort(order[by_rank[:capacity]])


def _bins(values: Floats, count: int) -> Indices:
    """The bin of each value among ``count`` equal ones from the least to the largest value."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(len(values), dtype=np.int64)
    scaled = (values - low) / (high - low) * count
    return np.minimum(scaled.astype(np.int64), count - 1)
