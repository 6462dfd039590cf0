"""DSRL's files with all their quirks, damaged files, and files left on the disk."""

import h5py
import numpy as np
import pytest

from saferl.data import TransitionSampler, WindowSampler, load_dataset, write_dsrl
from saferl.errors import DataError
from tests.data.data_sets import random_data
from tests.data.hdf5_bytes import hdf5


def original(steps=40, ends=(9, 24, 39), **changes):
    """Arrays as DSRL has them: float32, flags as bytes, no attributes, one cost."""
    rng = np.random.default_rng(5)
    states = rng.normal(size=(steps + 1, 3)).astype(np.float32)
    flags = np.zeros((2, steps), dtype=np.uint8)
    flags[0, list(ends[::2])], flags[1, list(ends[1::2])] = 1, 1
    arrays = {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "costs": rng.integers(0, 2, size=steps).astype(np.float32),
        "terminals": flags[0],
        "timeouts": flags[1],
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def write(path, **changes):
    arrays = original(**changes)
    path.write_bytes(hdf5(arrays))
    return arrays


def columns(arrays, dtype):
    return {key: arrays[key].astype(dtype)[:, None] for key in ("rewards", "costs")}


@pytest.mark.parametrize("quirk", ["plain", "columns", "doubles"])
def test_a_file_written_byte_by_byte_in_the_original_layout_loads(tmp_path, quirk):
    path = tmp_path / "SafetyPointGoal1Gymnasium-v0-100-2022.hdf5"
    arrays = write(path)
    if quirk != "plain":
        dtype = np.float32 if quirk == "columns" else np.float64
        flags = {key: arrays[key][:, None] for key in ("terminals", "timeouts")}
        write(path, actions=arrays["actions"].astype(dtype), **columns(arrays, dtype), **flags)
    data = load_dataset(path)
    assert {key: value.dtype for key, value in data.arrays().items()} == {
        **dict.fromkeys(("observations", "next_observations", "actions", "rewards", "costs"), np.float32),
        **dict.fromkeys(("terminals", "timeouts"), np.bool_),
    }
    for key in ("observations", "next_observations", "actions", "rewards"):
        assert np.array_equal(getattr(data, key), arrays[key])
    assert np.array_equal(data.costs[:, 0], arrays["costs"])
    assert data.episode_ends.tolist() == [10, 25, 40]
    assert (data.terminals.sum(), data.timeouts.sum()) == (2, 1)
    assert data.returns() == pytest.approx([arrays["rewards"][a:b].sum() for a, b in ((0, 10), (10, 25), (25, 40))])
    assert (data.cost_names, data.metadata.env_id, data.h) == (("cost",), None, None)


def test_its_tail_without_an_end_is_kept_with_a_warning(tmp_path):
    write(tmp_path / "a.hdf5", ends=(9, 24))
    with pytest.warns(UserWarning, match="last 15 rows have no end"):
        data = load_dataset(tmp_path / "a.hdf5")
    assert data.episode_ends.tolist() == [10, 25, 40]
    assert data.timeouts[-1]


def test_h5py_writes_the_same_arrays_into_a_file_that_loads_as_the_same_data(tmp_path):
    arrays = write(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        for key, value in arrays.items():
            flag = value.astype(bool) if key in ("terminals", "timeouts") else value
            file.create_dataset(key, data=flag, compression="gzip")
    assert load_dataset(tmp_path / "a.hdf5").digest() == load_dataset(tmp_path / "b.hdf5").digest()


BAD = {
    "no actions": ({"actions": None}, "lacks actions"),
    "no ends": ({"ends": ()}, "marks no episode's end"),
    "short costs": (
        {"costs": np.zeros(39, np.float32)},
        "every key needs one row per transition; rewards have 40, costs 39",
    ),
    "matrix of rewards": ({"rewards": np.zeros((40, 2), np.float32)}, r"rewards must have 1 axes; got shape \(40, 2\)"),
    "other states": ({"next_observations": np.zeros((40, 4), np.float32)}, "next_observations must have the shape of"),
    "flag of 2": ({"terminals": np.full(40, 2, np.uint8)}, "terminals must be 0 or 1; row 0 is 2"),
    "NaN": (
        {"rewards": np.where(np.arange(40) > 16, np.nan, 0).astype(np.float32)},
        r"rewards must be finite; row 17 \(of 23",
    ),
    "infinite": (
        {"actions": np.where(np.arange(80).reshape(40, 2) == 7, np.inf, 0)},
        r"actions must be finite; row 3 \(of 1 such rows\) is \[ ?0. inf",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_named_with_file_key_and_row(tmp_path, name):
    changes, message = BAD[name]
    write(tmp_path / "a.hdf5", **changes)
    with pytest.raises(DataError, match=rf"a\.hdf5:? {message}"):
        load_dataset(tmp_path / "a.hdf5")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([b"up"] * 40), "actions must hold numbers"),
        (np.float32(3.0), "actions must have one row per transition"),
        (None, "actions must be an array; got a group"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(tmp_path, value, message):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, array in original(actions=None).items():
            file[key] = array
        if value is None:
            file.create_group("actions")
        else:
            file["actions"] = value
    with pytest.raises(DataError, match=rf"a\.hdf5: {message}"):
        load_dataset(tmp_path / "a.hdf5")


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path):
    path = write_dsrl(random_data((20, 30)), tmp_path / "a.hdf5")
    content, digest, refused = path.read_bytes(), random_data((20, 30)).digest(), 0
    for size in range(0, len(content), 211):
        path.write_bytes(content[:size])
        refused += _refused_or(digest, path)
    assert refused > 0.9 * len(content) / 211


def test_a_damaged_byte_is_noticed_or_harmless(tmp_path):
    """Our files hold a digest: what loads is what was written."""
    path = write_dsrl(random_data((20, 30)), tmp_path / "a.hdf5")
    content, digest, refused = path.read_bytes(), random_data((20, 30)).digest(), 0
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=150):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        refused += _refused_or(digest, path)
    assert refused > 10


def _refused_or(digest, path):
    try:
        found, message = load_dataset(path).digest(), ""
    except DataError as error:
        found, message = None, str(error)
    assert path.name in message if found is None else found == digest
    return found is None


@pytest.mark.parametrize("num_costs", [1, 2])
def test_a_plain_file_is_left_on_the_disk_and_gives_the_same_batches(tmp_path, num_costs):
    data = random_data((30, 10), num_costs=num_costs, h=np.ones((40, num_costs)), next_h=np.zeros((40, num_costs)))
    mapped = load_dataset(write_dsrl(data, tmp_path / "a.hdf5", compression=0), memory_map=True)
    assert mapped.digest() == data.digest()
    for key, array in mapped.arrays().items():
        base = array
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap), key
        assert not array.flags.writeable
    for make in (lambda d, rng: TransitionSampler(d, 50, rng), lambda d, rng: WindowSampler(d, 4, 50, rng)):
        there, here = (make(d, np.random.default_rng(1)).sample() for d in (mapped, data))
        for key in ("observations", "actions", "costs"):
            assert np.array_equal(getattr(there, key), getattr(here, key))


def test_the_original_layout_can_be_left_on_the_disk_if_it_is_plain(tmp_path):
    arrays = write(tmp_path / "a.hdf5")
    data = load_dataset(tmp_path / "a.hdf5", memory_map=True)
    assert np.array_equal(data.observations, arrays["observations"])


def test_compressed_data_cannot_be_mapped_and_say_how_they_could(tmp_path):
    path = write_dsrl(random_data(), tmp_path / "a.hdf5")
    with pytest.raises(
        DataError, match=r"a\.hdf5 cannot be memory-mapped.*convert .*a\.hdf5 --to dsrl --compression 0"
    ):
        load_dataset(path, memory_map=True)
