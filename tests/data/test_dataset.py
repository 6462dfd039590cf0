"""Data sets check what they are given and know their episodes."""

import numpy as np
import pytest

from saferl.data import Dataset, DatasetMetadata
from saferl.errors import DataError
from tests.data.data_sets import random_data


def _arrays(**changes):
    data = random_data()
    return {**data.arrays(), **changes}


def test_sums_are_taken_episode_by_episode():
    data = random_data((2, 3))
    assert data.num_episodes == 2
    assert data.episode_starts.tolist() == [0, 2]
    assert data.episode_ends.tolist() == [2, 5]
    rewards, costs = data.rewards.astype(float), data.costs.astype(float)
    assert data.returns() == pytest.approx([rewards[:2].sum(), rewards[2:].sum()])
    assert data.cost_returns() == pytest.approx(np.array([costs[:2].sum(0), costs[2:].sum(0)]))


def test_selected_episodes_keep_their_order_and_labels():
    data = random_data((2, 3, 1)).with_metadata(DatasetMetadata(behaviours=("a", "b", "c")))
    chosen = data.select([2, 0])
    assert chosen.rewards.tolist() == data.rewards[[5, 0, 1]].tolist()
    assert chosen.metadata.behaviours == ("c", "a")
    assert data.select(np.array([True, False, True])).metadata.behaviours == ("a", "c")


def test_vectors_may_come_as_columns_and_costs_as_a_vector():
    arrays = _arrays()
    column = Dataset.from_arrays(
        **{**arrays, "rewards": arrays["rewards"][:, None], "terminals": arrays["terminals"][:, None].astype(np.uint8)},
        cost_names=("c0", "c1"),
    )
    assert column.rewards.shape == (9,)
    assert column.terminals.dtype == np.bool_
    single = Dataset.from_arrays(**{**arrays, "costs": arrays["costs"][:, 0]})
    assert single.costs.shape == (9, 1)
    assert single.cost_names == ("cost",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"costs": None}, "lacks costs"),
        ({"colour": np.zeros(9)}, "unknown keys colour"),
        ({"rewards": np.zeros(8)}, "rewards have 8"),
        ({"rewards": np.zeros((9, 2))}, "rewards must have 1 axes"),
        ({"next_observations": np.zeros((9, 5))}, "must have the shape of observations"),
        ({"h": np.zeros((9, 3))}, "must have the shape of costs"),
        ({"actions": np.full((9, 2), "up")}, "must hold numbers"),
        ({"costs": np.zeros((9, 0))}, "at least one column"),
        ({"terminals": np.arange(9)}, "terminals must be 0 or 1; row 2"),
        ({"terminals": np.zeros(9), "timeouts": np.zeros(9)}, "marks no episode's end"),
        ({"terminals": np.zeros(9), "timeouts": np.eye(9)[4]}, "the 4 rows after row 4"),
        ({"rewards": np.where(np.arange(9) == 3, np.nan, 0.0)}, "rewards must be finite; row 3 .of 1"),
        ({"observations": np.full((9, 4), 1e300)}, "observations must be finite; row 0 .of 9"),
    ],
)
def test_what_cannot_be_used_is_named(changes, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_arrays(**_arrays(**changes))


def test_an_empty_selection_is_refused():
    with pytest.raises(DataError, match="No episode of 3"):
        random_data().select(np.zeros(3, dtype=bool))


def test_the_digest_changes_with_any_array():
    data = random_data()
    changed = data.rewards.copy()
    changed[0] += 1.0
    assert data.digest() == random_data().digest()
    assert Dataset.from_arrays(**{**data.arrays(), "rewards": changed}).digest() != data.digest()
