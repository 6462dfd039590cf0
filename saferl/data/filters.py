"""Filters: data sets of fewer episodes, chosen by return and cost; the same seed gives the same episodes.

DSRL (Liu, Guo, Lin and others, 2023, arXiv 2306.09303) thins, cuts and spoils its data to make them harder. Its
filters draw from a global generator; these take a seed. :func:`with_outliers` is the only one that changes numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, DataError, UnknownNameError

Range = tuple[float, float]
"""Smallest and largest value, both included; infinite where there is no limit."""
Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
_Data = TypeVar("_Data", bound=Dataset)


@dataclass(frozen=True)
class Rectangle:
    """A part of the plane of cost and return, in shares of the data's own ranges."""

    cost: Range
    """In [0, 1]: 0 is the cheapest episode, 1 the most expensive."""
    returns: Range
    """In [0, 1]: 0 is the smallest return, 1 the largest."""


def in_ranges(dataset: _Data, *, returns: Range | None = None, costs: Mapping[str, Range] | None = None) -> _Data:
    """The episodes whose return and costs lie in the given ranges.

    Args:
        dataset: What to choose from.
        returns: Of the undiscounted return.
        costs: Of the undiscounted cost sums, by name.

    Raises:
        DataError: no episode does.
        UnknownNameError: a cost that the data do not have.
        ConfigError: a range without values.

    Example:
        >>> safe = in_ranges(data, costs={"cost": (0, 10)})  # doctest: +SKIP
    """
    kept, asked = np.ones(dataset.num_episodes, dtype=np.bool_), []
    if returns is not None:
        kept &= _inside(dataset.returns(), returns)
        asked.append(f"a return in [{returns[0]:g}, {returns[1]:g}]")
    for name, limits in (costs or {}).items():
        kept &= _inside(cost_of(dataset, name), limits)
        asked.append(f"{name} in [{limits[0]:g}, {limits[1]:g}]")
    return _keep(dataset, kept, " and ".join(asked) or "no range")


def best_within(dataset: _Data, budgets: Mapping[str, float], *, count: int | None = None) -> _Data:
    """The ``count`` episodes of largest return among those that keep every budget, in the data's order.

    Args:
        dataset: What to choose from.
        budgets: Of the undiscounted cost sums, by name; an episode that meets one exactly keeps it.
        count: How many, at least 1; all that keep the budgets if None or if there are fewer.

    Raises:
        DataError: a budget is below every episode's cost, or no episode keeps all of them.
        UnknownNameError: a cost that the data do not have.
        ConfigError: a count below 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"The number of best episodes must be at least 1; got {count}.")
    kept = np.ones(dataset.num_episodes, dtype=np.bool_)
    for name, budget in budgets.items():
        sums = cost_of(dataset, name)
        if not (sums <= budget).any():
            raise DataError(
                f"The budget {name}={budget:g} is below the cost of every episode; the cheapest of {len(sums)} costs "
                f"{sums.min():g}. Raise the budget to that at least, or collect cheaper episodes."
            )
        kept &= sums <= budget
    if count is not None and count < np.count_nonzero(kept):
        ranks = np.lexsort((np.arange(len(kept)), np.where(kept, -dataset.returns(), np.inf)))
        kept = np.isin(np.arange(len(kept)), ranks[:count])
    return _keep(dataset, kept, " and ".join(f"{name} <= {budget:g}" for name, budget in budgets.items()))


def thinned(
    dataset: _Data,
    *,
    cells: tuple[int, int],
    at_most: int,
    at_least: int = 1,
    seed: int,
    cost: str | None = None,
) -> _Data:
    """The data with its crowds thinned and its strays dropped, by a grid over cost and return.

    This is DSRL's density filter: a cell with more than ``at_most`` episodes keeps that many, drawn without
    replacement; one with fewer than ``at_least`` keeps none. DSRL, and OSRL before it fits its frontier, use 3 for
    ``at_least``: lone episodes count as outliers there.

    Args:
        dataset: What to choose from.
        cells: Cells along the cost and along the return, at least 1 each.
        at_most: Episodes that a cell keeps, at least 1.
        at_least: Episodes that a cell needs to keep any.
        seed: Of the draws.
        cost: Name of the cost; the first one if None.

    Raises:
        DataError: every cell has too few episodes.
        UnknownNameError: a cost that the data do not have.
        ConfigError: fewer than one cell or episode, or ``at_least`` above ``at_most``.
    """
    if min(*cells, at_most, at_least) < 1 or at_least > at_most:
        raise ConfigError(
            f"Thinning needs cells >= 1 and 1 <= at_least <= at_most; got cells {cells[0]} x {cells[1]}, "
            f"at_least={at_least} and at_most={at_most}."
        )
    sums = cost_of(dataset, cost)
    cell = _bins(sums, cells[0]) * cells[1] + _bins(dataset.returns(), cells[1])
    generator = np.random.default_rng(seed)
    kept = np.zeros(dataset.num_episodes, dtype=np.bool_)
    for occupied in np.unique(cell):
        members = np.flatnonzero(cell == occupied)
        if len(members) >= at_least:
            kept[generator.permutation(members)[:at_most]] = True
    return _keep(dataset, kept, f"cells of at least {at_least} episodes on a grid of {cells[0]} x {cells[1]}")


def random_share(dataset: _Data, share: float, *, seed: int) -> _Data:
    """A random share of the episodes, rounded up, in the data's order.

    Args:
        dataset: What to choose from.
        share: In (0, 1].
        seed: Of the draw; the episodes of a smaller share are among those of a larger one.

    Raises:
        ConfigError: another share.
    """
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"The share of episodes to keep must be in (0, 1]; got {share:g}.")
    count = int(np.ceil(share * dataset.num_episodes))
    order = np.random.default_rng(seed).permutation(dataset.num_episodes)
    return dataset.select(np.sort(order[:count]))


def without(dataset: _Data, rectangles: Sequence[Rectangle], *, cost: str | None = None) -> _Data:
    """The episodes outside of every rectangle of the plane of cost and return (DSRL's inpainting).

    Args:
        dataset: What to choose from.
        rectangles: The parts to cut out.
        cost: Name of the cost; the first one if None.

    Raises:
        DataError: the rectangles hold all episodes.
        UnknownNameError: a cost that the data do not have.
        ConfigError: a range without values.
    """
    sums, returns = _relative(cost_of(dataset, cost)), _relative(dataset.returns())
    kept = np.ones(dataset.num_episodes, dtype=np.bool_)
    for rectangle in rectangles:
        kept &= ~(_inside(sums, rectangle.cost) & _inside(returns, rectangle.returns))
    return _keep(dataset, kept, f"{len(rectangles)} rectangles cut out")


def with_outliers(
    dataset: _Data, share: float, *, budget: float, seed: int, cost: str | None = None, gain: float = 1.5
) -> _Data:
    """The data with some costly episodes turned into lucky ones, which pretend to be rewarding and cheap.

    DSRL's outliers, to test what a solver makes of them: episodes in the upper half of cost and of return get
    ``gain`` times their rewards, and costs of 0 but for a random number of steps below the budget, which cost 1. They
    keep their place. Margins ``h`` would give them away, so they are left out of the result.

    Args:
        dataset: What to change.
        share: Of all episodes, in (0, 1); at least one is changed.
        budget: What the outliers' cost stays below, > 0.
        seed: Of the draws.
        cost: Name of the cost; the first one if None.
        gain: What rewards are multiplied by.

    Raises:
        DataError: too few episodes are costly and rewarding.
        UnknownNameError: a cost that the data do not have.
        ConfigError: another share or budget.
    """
    if not 0.0 < share < 1.0 or budget <= 0.0:
        raise ConfigError(f"Outliers need a share in (0, 1) and a budget > 0; got {share:g} and {budget:g}.")
    column = _column(dataset, cost)
    sums, returns = dataset.cost_returns()[:, column], dataset.returns()
    eligible = np.flatnonzero((sums >= sums.max() / 2.0) & (returns >= returns.max() / 2.0))
    count = max(int(share * dataset.num_episodes), 1)
    if count > len(eligible):
        raise DataError(
            f"{count} outliers need as many episodes with at least half of the largest cost and return; the data have "
            f"{len(eligible)}. Ask for a smaller share."
        )
    generator = np.random.default_rng(seed)
    rewards, costs = dataset.rewards.copy(), dataset.costs.copy()
    starts, ends = dataset.episode_starts, dataset.episode_ends
    for episode in generator.choice(eligible, size=count, replace=False):
        rows = np.arange(starts[episode], ends[episode])
        rewards[rows] *= gain
        costs[rows, column] = 0.0
        spent = min(int(generator.integers(int(np.ceil(budget)))), len(rows))
        costs[generator.choice(rows, size=spent, replace=False), column] = 1.0
    return replace(dataset, rewards=rewards, costs=costs, h=None, next_h=None)


def cost_of(dataset: Dataset, name: str | None = None) -> FloatArray:
    """Undiscounted sums of the cost ``name``, or of the first one, (E,).

    Raises:
        UnknownNameError: the data do not have it.
    """
    return dataset.cost_returns()[:, _column(dataset, name)]


def _column(dataset: Dataset, name: str | None) -> int:
    if name is None:
        return 0
    if name not in dataset.cost_names:
        raise UnknownNameError("cost of the data", name, dataset.cost_names)
    return dataset.cost_names.index(name)


def _keep(dataset: _Data, kept: Mask, asked: str) -> _Data:
    if not kept.any():
        costs = ", ".join(
            f"{name} {column.min():g} to {column.max():g}"
            for name, column in zip(dataset.cost_names, dataset.cost_returns().T, strict=True)
        )
        returns = dataset.returns()
        raise DataError(
            f"The filter ({asked}) leaves none of {dataset.num_episodes} episodes; the data have returns "
            f"{returns.min():g} to {returns.max():g}, {costs}. Ask for less."
        )
    return dataset.select(kept)


def _inside(values: FloatArray, limits: Range) -> Mask:
    low, high = limits
    if not low <= high:
        raise ConfigError(f"A range must go from a smaller to a larger value; got {low:g} to {high:g}.")
    return (values >= low) & (values <= high)


def _relative(values: FloatArray) -> FloatArray:
    """In shares of the range; 0 where all are equal."""
    span = float(np.ptp(values))
    return np.zeros(len(values)) if span == 0.0 else (values - values.min()) / span


def _bins(values: FloatArray, count: int) -> npt.NDArray[np.int64]:
    return np.minimum((_relative(values) * count).astype(np.int64), count - 1)
