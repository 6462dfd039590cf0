"""Grid thinning keeps the edges of the data and flattens its crowds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.collection.grid import thin
from saferl.errors import ConfigError


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_everything_is_kept_where_there_is_room():
    values = np.arange(5.0)
    assert thin(values, values, 5, _rng()).tolist() == [0, 1, 2, 3, 4]


def test_every_occupied_cell_keeps_a_trajectory_before_any_keeps_two():
    returns = np.r_[np.zeros(500), np.linspace(0.0, 1.0, 10)]
    costs = np.r_[np.zeros(500), np.linspace(1.0, 0.0, 10)]
    kept = thin(returns, costs, 100, _rng())
    side = 10
    cells = {(min(int(c * side), side - 1), min(int(r * side), side - 1)) for r, c in zip(returns, costs, strict=True)}
    held = {(min(int(costs[i] * side), side - 1), min(int(returns[i] * side), side - 1)) for i in kept}
    assert held == cells
    assert len(kept) == 100


def test_crowded_cells_give_evenly():
    # Two cells with 900 and 100 members: 50 of each are kept.
    returns = np.r_[np.zeros(900), np.ones(100)]
    kept = thin(returns, returns, 100, _rng())
    assert np.count_nonzero(kept < 900) == 50


@given(
    values=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.0, 1e3)), min_size=1, max_size=60),
    capacity=st.integers(1, 80),
)
def test_what_is_kept_is_unique_ordered_and_reproducible(values, capacity):
    returns, costs = np.array(values).T
    kept = thin(returns, costs, capacity, _rng())
    assert len(kept) == min(capacity, len(values))
    assert np.all(np.diff(kept) > 0)
    assert np.array_equal(kept, thin(returns, costs, capacity, _rng()))


def test_a_capacity_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        thin(np.zeros(2), np.zeros(2), 0, _rng())
