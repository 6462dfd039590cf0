"""Filters keep exactly the episodes that they should, the same ones for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.data import Dataset, DatasetMetadata
from saferl.data.filters import Rectangle, best_within, in_ranges, random_share, thinned, with_outliers, without
from saferl.errors import ConfigError, DataError, UnknownNameError


def episodes(returns, *costs, length=4, **more):
    """Episodes with the given returns and cost sums; observations tell them apart."""
    count = len(returns)
    first = np.arange(count * length) % length == 0
    spread = lambda values: np.where(first, np.repeat(np.asarray(values, dtype=float), length), 0.0)  # noqa: E731
    table = np.stack([spread(c) for c in costs], axis=1)
    which = np.repeat(np.arange(count, dtype=float), length)[:, None]
    return Dataset.from_arrays(
        observations=which,
        next_observations=which,
        actions=np.zeros((count * length, 1)),
        rewards=spread(returns),
        costs=table,
        terminals=np.zeros(count * length),
        timeouts=np.arange(count * length) % length == length - 1,
        cost_names=("cost", "heat")[: len(costs)],
        metadata=DatasetMetadata(behaviours=tuple(f"b{i}" for i in range(count))),
        **more,
    )


def kept(data):
    which = data.observations[data.episode_starts, 0].astype(int).tolist()
    assert data.metadata.behaviours == tuple(f"b{i}" for i in which)
    return which


DATA = episodes([5.0, 1.0, 3.0, 2.0, 4.0], [9, 0, 3, 3, 5], [0, 1, 2, 3, 4])


def test_ranges_include_their_ends():
    assert kept(in_ranges(DATA, returns=(2.0, 4.0))) == [2, 3, 4]
    assert kept(in_ranges(DATA, costs={"cost": (-np.inf, 3.0)})) == [1, 2, 3]
    assert kept(in_ranges(DATA, returns=(2.0, np.inf), costs={"cost": (0, 5), "heat": (3, 9)})) == [3, 4]


def test_the_best_within_budgets_are_those_of_largest_return():
    assert kept(best_within(DATA, {"cost": 5.0})) == [1, 2, 3, 4]
    assert kept(best_within(DATA, {"cost": 5.0}, count=2)) == [2, 4]
    assert kept(best_within(DATA, {"cost": 5.0, "heat": 2.0}, count=9)) == [1, 2]


def test_a_budget_below_every_episode_says_what_the_cheapest_costs():
    costly = episodes([1.0, 2.0], [7, 9])
    with pytest.raises(
        DataError, match=r"budget cost=6\.5 is below the cost of every episode; the cheapest of 2 costs 7"
    ):
        best_within(costly, {"cost": 6.5})


@pytest.mark.parametrize(
    "apply",
    [
        lambda data: in_ranges(data, returns=(8.0, 9.0)),
        lambda data: best_within(data, {"cost": 0.0, "heat": 0.0}),
        lambda data: thinned(data, cells=(5, 5), at_least=3, at_most=5, seed=0),
        lambda data: without(data, [Rectangle((0.0, 1.0), (0.0, 1.0))]),
    ],
)
def test_an_empty_selection_says_what_the_data_have(apply):
    with pytest.raises(DataError, match="leaves none of 5 episodes; the data have returns 1 to 5, cost 0 to 9, heat"):
        apply(DATA)


def test_thinning_keeps_at_most_so_many_per_cell_and_drops_strays():
    data = episodes([0.0] * 50 + [1.0] * 2 + [2.0], [0.0] * 50 + [1.0] * 2 + [2.0])
    thin = thinned(data, cells=(3, 3), at_least=2, at_most=10, seed=0)
    assert np.bincount(np.searchsorted([0.0, 1.0, 2.0], thin.returns()), minlength=3).tolist() == [10, 2, 0]
    assert kept(thin) == kept(thinned(data, cells=(3, 3), at_least=2, at_most=10, seed=0))
    assert kept(thin) != kept(thinned(data, cells=(3, 3), at_least=2, at_most=10, seed=1))


def test_equal_costs_are_one_bin():
    """DSRL's own grid divides by zero there."""
    assert thinned(episodes([0.0, 1.0], [4, 4]), cells=(10, 1), at_most=1, seed=0).num_episodes == 1


@given(st.floats(0.01, 1.0), st.integers(0, 99))
def test_shares_are_rounded_up_and_nested(share, seed):
    data = episodes(np.arange(20.0), np.zeros(20))
    part = kept(random_share(data, share, seed=seed))
    assert len(part) == int(np.ceil(share * 20))
    assert sorted(part) == part
    assert set(part) <= set(kept(random_share(data, 1.0, seed=seed)))
    assert set(kept(random_share(data, share / 2, seed=seed))) <= set(part)


def test_rectangles_are_cut_out_in_shares_of_the_ranges():
    data = episodes([0.0, 10.0, 0.0, 10.0], [0, 0, 100, 100])
    assert kept(without(data, [Rectangle((0.0, 0.5), (0.5, 1.0))])) == [0, 2, 3]
    assert kept(without(data, [Rectangle((0.0, 0.0), (0.0, 1.0)), Rectangle((1.0, 1.0), (1.0, 1.0))])) == [2]


def test_outliers_seem_rewarding_and_cheap_and_nothing_else_changes():
    data = episodes(np.arange(10.0), np.arange(10.0), length=8, h=np.zeros((80, 1)), next_h=np.zeros((80, 1)))
    lucky = with_outliers(data, 0.3, budget=5.0, seed=0)
    changed = np.flatnonzero(lucky.returns() != data.returns())
    assert len(changed) == 3
    assert (data.returns()[changed] >= 4.5).all()
    assert lucky.returns()[changed] == pytest.approx(1.5 * data.returns()[changed])
    assert (lucky.cost_returns()[changed] < 5.0).all()
    assert np.isin(lucky.costs[np.isin(lucky.observations[:, 0], changed)], (0, 1)).all()
    same = np.setdiff1d(np.arange(10), changed)
    assert np.array_equal(lucky.cost_returns()[same], data.cost_returns()[same])
    assert lucky.h is None
    assert lucky.digest() == with_outliers(data, 0.3, budget=5.0, seed=0).digest()
    with pytest.raises(DataError, match=r"8 outliers need as many episodes.*the data have 5"):
        with_outliers(data, 0.85, budget=5.0, seed=0)


@pytest.mark.parametrize(
    ("apply", "kind", "message"),
    [
        (lambda d: in_ranges(d, returns=(2.0, 1.0)), ConfigError, "from a smaller to a larger value; got 2 to 1"),
        (lambda d: in_ranges(d, costs={"coast": (0, 1)}), UnknownNameError, "Did you mean 'cost'"),
        (lambda d: best_within(d, {"cost": 5.0}, count=0), ConfigError, "at least 1; got 0"),
        (lambda d: random_share(d, 0.0, seed=0), ConfigError, r"in \(0, 1\]; got 0"),
        (lambda d: thinned(d, cells=(0, 5), at_most=1, seed=0), ConfigError, "cells 0 x 5"),
        (lambda d: thinned(d, cells=(5, 5), at_least=4, at_most=3, seed=0), ConfigError, "at_least=4 and at_most=3"),
        (lambda d: with_outliers(d, 0.1, budget=0.0, seed=0), ConfigError, "got 0.1 and 0"),
    ],
)
def test_impossible_filters_are_refused(apply, kind, message):
    with pytest.raises(kind, match=message):
        apply(DATA)
