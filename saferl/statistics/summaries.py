"""Robust summaries of values: the interquartile mean and the conditional value at risk."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.statistics.bounds import finite_values


def iqm(values: npt.ArrayLike) -> float:
    """The interquartile mean: the mean of the values that stay when a quarter is cut from each end.

    Cuts floor(n / 4) whole values per end, the convention of ``scipy.stats.trim_mean(values, 0.25)`` and of rliable.
    No value has a fractional weight, so fewer than four values give the plain mean.

    Args:
        values: Shape (n,), n >= 1; pooled runs and tasks are flattened by the caller.

    Raises:
        ConfigError: no values, or a value that is not finite.

    Source: Agarwal et al., "Deep RL at the edge of the statistical precipice", NeurIPS 2021.

    Example:
        >>> iqm([0.0, 1.0, 2.0, 3.0, 100.0])
        2.0
    """
    array = np.sort(finite_values(values, what="The values of an interquartile mean"))
    cut = array.size // 4
    return float(array[cut : array.size - cut].mean())


def cvar(values: npt.ArrayLike, level: float = 0.9) -> float:
    """The conditional value at risk: the mean of the largest share 1 - ``level`` of the values (the worst costs).

    The share holds k = n (1 - level) values, in general not a whole number: the value at the boundary counts with the
    fraction that is left. With fewer than one value in the tail it is the maximum; ``level`` 0 gives the mean.

    Args:
        values: Shape (n,), n >= 1; larger is worse (negate values for which smaller is worse).
        level: Share of values that is not in the tail, in [0, 1).

    Raises:
        ConfigError: no values, a value that is not finite, or a malformed ``level``.

    Source: Rockafellar and Uryasev, "Conditional value-at-risk for general loss distributions", 2002 (discrete laws).

    Example:
        >>> cvar([1.0, 2.0, 3.0, 6.0], level=0.5)
        4.5
    """
    array = np.sort(finite_values(values, what="The values of a conditional value at risk"))[::-1]
    if not 0.0 <= level < 1.0:
        raise ConfigError(f"level must lie in [0, 1); got {level!r}.")
    share = array.size * (1.0 - level)
    if round(share) > 0 and math.isclose(share, round(share), rel_tol=1e-9):
        share = float(round(share))  # 20 * (1 - 0.9) is 1.9999999999999996
    weights = np.clip(share - np.arange(array.size), 0.0, 1.0)
    return float(np.average(array, weights=weights))
