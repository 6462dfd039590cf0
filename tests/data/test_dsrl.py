"""Files of DSRL's layout: its own, written here byte by byte, and ours."""

import h5py
import numpy as np
import pytest

from saferl.data import load_dataset, write_dsrl
from saferl.errors import DataError
from tests.data.data_sets import random_data

KEYS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")


def _original(path, *, tail=False, **changes):
    """A file as the authors of DSRL write it: no attributes, gzip, flags as bytes, vectors in columns."""
    rng = np.random.default_rng(3)
    observations = rng.normal(size=(7, 3)).astype(np.float32)
    arrays = {
        "observations": observations[:6],
        "next_observations": observations[1:],
        "actions": rng.uniform(-1, 1, size=(6, 2)).astype(np.float64),
        "rewards": np.arange(6, dtype=np.float64)[:, None],
        "costs": np.array([0, 1, 0, 0, 1, 1], dtype=np.float64)[:, None],
        "terminals": np.array([0, 0, 1, 0, 0, 0], dtype=np.uint8),
        "timeouts": np.array([0, 0, 0, 0, 0, 0 if tail else 1], dtype=np.uint8)[:, None],
    }
    with h5py.File(path, "w") as file:
        for key, value in {**arrays, **changes}.items():
            if value is not None:
                file.create_dataset(key, data=value, compression="gzip")
    return arrays


def test_a_file_of_the_original_layout_loads(tmp_path):
    arrays = _original(tmp_path / "SafetyCarGoal1Gymnasium-v0-120-1671.hdf5")
    data = load_dataset(tmp_path / "SafetyCarGoal1Gymnasium-v0-120-1671.hdf5")
    assert data.episode_ends.tolist() == [3, 6]
    assert data.returns().tolist() == [3.0, 12.0]
    assert data.cost_returns().tolist() == [[1.0], [2.0]]
    assert np.array_equal(data.observations, arrays["observations"])
    assert np.array_equal(data.actions, arrays["actions"].astype(np.float32))
    assert data.terminals.tolist() == [False, False, True, False, False, False]
    assert data.cost_names == ("cost",)
    assert data.metadata.env_id is None


def test_a_tail_without_an_end_is_kept_with_a_warning(tmp_path):
    _original(tmp_path / "a.hdf5", tail=True)
    with pytest.warns(UserWarning, match="last 3 rows have no end"):
        data = load_dataset(tmp_path / "a.hdf5")
    assert data.timeouts.tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"costs": None}, "a.hdf5 lacks costs"),
        ({"rewards": np.zeros(5)}, "a.hdf5: every key needs one row"),
        ({"observations": np.full((6, 3), np.nan)}, "a.hdf5: observations must be finite; row 0"),
        ({"terminals": np.zeros(6), "timeouts": np.zeros(6)}, "a.hdf5 marks no episode's end"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path, changes, message):
    _original(tmp_path / "a.hdf5", **changes)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "a.hdf5")


def test_our_files_give_back_everything(tmp_path):
    margins = np.linspace(-1, 1, 18).reshape(9, 2)
    data = random_data(h=margins, next_h=margins + 0.1, log_probs=np.linspace(-3, 0, 9))
    again = load_dataset(write_dsrl(data, tmp_path / "new" / "a.hdf5"))
    assert again.digest() == data.digest()
    assert again.metadata == data.metadata
    assert again.cost_names == data.cost_names


def test_other_readers_find_their_keys_in_our_files(tmp_path):
    data = random_data()
    write_dsrl(data, tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert set(KEYS) <= set(file)
        assert np.array_equal(file["costs"][()], data.costs[:, 0])
        assert {key: file[key].ndim for key in ("rewards", "costs", "terminals")} == dict.fromkeys(
            ("rewards", "costs", "terminals"), 1
        )


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    path = write_dsrl(random_data((200, 300)), tmp_path / "a.hdf5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.hdf5 is not HDF5, or was cut short"):
        load_dataset(path)


def test_a_changed_array_is_noticed(tmp_path):
    path = write_dsrl(random_data(), tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["rewards"][0] = 99.0
    with pytest.raises(DataError, match="were changed"):
        load_dataset(path)


def test_a_file_is_never_overwritten_and_no_part_of_one_is_left(tmp_path):
    path = write_dsrl(random_data(), tmp_path / "a.hdf5")
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        write_dsrl(random_data(seed=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="saferl collect"):
        load_dataset(tmp_path / "none.hdf5")


def test_a_newer_schema_is_refused(tmp_path):
    path = write_dsrl(random_data(), tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "saferl.data/2"
    with pytest.raises(DataError, match="newer saferl"):
        load_dataset(path)
