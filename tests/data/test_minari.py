"""Minari's folders hold the same data, costs in ``infos``, and Minari itself reads them."""

import json

import numpy as np
import pytest

from saferl.data import Dataset, DatasetMetadata, load_dataset, write_dsrl
from saferl.data.dsrl import is_data_file
from saferl.data.minari import read_minari, write_minari
from saferl.errors import DataError
from tests.data.data_sets import random_data

minari = pytest.importorskip("minari")


def chained(lengths=(3, 1, 5), num_costs=2, **more) -> Dataset:
    """Episodes in which the next observation is the following one, with margins and log-probabilities."""
    rng, count = np.random.default_rng(0), sum(lengths)
    ends = np.cumsum(lengths)
    states, margins = rng.normal(size=(count + len(lengths), 4)), rng.normal(size=(count + len(lengths), num_costs))
    rows = np.concatenate([np.arange(e - n, e) + i for i, (n, e) in enumerate(zip(lengths, ends, strict=True))])
    arrays = {
        "observations": states[rows],
        "next_observations": states[rows + 1],
        "h": margins[rows],
        "next_h": margins[rows + 1],
        "log_probs": rng.normal(size=count),
    }
    return random_data(lengths, num_costs=num_costs, **{**arrays, **more})


def test_episodes_of_one_step_have_nothing_to_follow(tmp_path):
    data = chained((1, 1))
    assert read_minari(write_minari(data, tmp_path / "a-v0")).digest() == data.digest()


@pytest.mark.parametrize("num_costs", [1, 2])
def test_nothing_is_lost_on_the_way_there_and_back(tmp_path, num_costs):
    data = chained(num_costs=num_costs).with_metadata(
        DatasetMetadata(env_id="PointRobot-v0", behaviours=("a", "b", "c"))
    )
    again = load_dataset(write_minari(data, tmp_path / "set" / "robot-v2"))
    assert again.digest() == data.digest()
    assert (again.metadata, again.cost_names) == (data.metadata, data.cost_names)
    back = load_dataset(write_dsrl(again, tmp_path / "a.hdf5"))
    assert (back.digest(), back.metadata) == (data.digest(), data.metadata)
    assert is_data_file(tmp_path / "set" / "robot-v2")


def test_minari_reads_it_with_costs_in_infos(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = chained()
    write_minari(data, tmp_path / "robot-v0")
    found = minari.load_dataset("robot-v0")
    assert (found.total_episodes, found.total_steps) == (3, 9)
    episode = found[2]
    rows = slice(data.episode_starts[2], data.episode_ends[2])
    assert episode.observations.shape == (6, 4)
    assert np.array_equal(episode.observations[1:], data.next_observations[rows])
    assert episode.truncations.tolist() == [False] * 4 + [True]
    assert episode.infos["cost"].tolist() == [0.0, *data.costs[rows, 0].tolist()]
    assert episode.infos["costs"]["c1"].tolist() == [0.0, *data.costs[rows, 1].tolist()]
    assert np.array_equal(episode.infos["margins"]["c0"][:-1], data.h[rows, 0])


def foreign(folder, infos, *, flagged=True):
    """A folder that Minari writes for somebody else: two episodes of three steps."""
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir()
    storage = MinariStorage.new(folder / "data", Box(-1, 1, (2,)), Box(-1, 1, (1,)))
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__})
    last = [False, False, flagged]
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.arange(8.0).reshape(4, 2) + 10 * index,
            actions=np.zeros((3, 1)),
            rewards=[1.0, 2.0, 3.0],
            terminations=[False] * 3 if index else last,
            truncations=last if index else [False] * 3,
            infos=infos,
        )
        for index in range(2)
    )
    return folder


@pytest.mark.parametrize("rows", [3, 4])
def test_a_folder_of_somebody_else_is_read_if_its_infos_hold_costs(tmp_path, rows):
    data = read_minari(foreign(tmp_path / "a-v0", {"cost": np.array([9.0, 0.0, 1.0, 1.0])[-rows:]}))
    assert data.cost_returns().tolist() == [[2.0], [2.0]]
    assert data.next_observations[2].tolist() == [6.0, 7.0]
    assert data.observations[3].tolist() == [10.0, 11.0]
    assert (data.terminals.tolist(), data.timeouts.tolist()) == (
        [False, False, True, *[False] * 3],
        [False] * 5 + [True],
    )


def test_an_episode_that_its_collector_left_open_was_cut(tmp_path):
    data = read_minari(foreign(tmp_path / "a-v0", {"cost": np.zeros(4)}, flagged=False))
    assert data.timeouts.tolist() == [False, False, True] * 2


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ({"risk": np.zeros(4)}, r"a-v0: infos of episode 0 must hold cost, or costs by name; got risk"),
        ({"cost": np.zeros(2)}, "infos of episode 0 must hold cost, one row per step; got 2 rows"),
        ({"cost": np.array([0, 0, np.nan, 0])}, "a-v0: costs must be finite; row 1"),
    ],
)
def test_costs_that_are_missing_are_named(tmp_path, infos, message):
    with pytest.raises(DataError, match=message):
        read_minari(foreign(tmp_path / "a-v0", infos))


def test_observations_that_do_not_follow_each_other_cannot_be_exported(tmp_path):
    with pytest.raises(DataError, match=r"next_observations must be those of the following row; row 0 differs"):
        write_minari(random_data(), tmp_path / "a-v0")
    assert not (tmp_path / "a-v0").exists()


def test_a_damaged_or_changed_folder_is_refused(tmp_path):
    folder = write_minari(chained(), tmp_path / "a-v0")
    main = folder / "data" / "main_data.hdf5"
    content = main.read_bytes()
    main.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="a-v0 cannot be read"):
        read_minari(folder)
    main.write_bytes(content)
    note = folder / "data" / "metadata.json"
    raw = json.loads(note.read_text())
    ours = json.loads(raw["saferl"])
    note.write_text(json.dumps({**raw, "saferl": json.dumps({**ours, "sha256": "0"})}))
    with pytest.raises(DataError, match="were changed"):
        read_minari(folder)
    note.write_text(json.dumps({key: value for key, value in raw.items() if key != "action_space"}))
    with pytest.raises(DataError, match="must hold observation_space and action_space"):
        read_minari(folder)
    note.write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json cannot be read"):
        read_minari(folder)


def test_names_and_folders_that_do_not_do_are_refused(tmp_path):
    with pytest.raises(DataError, match="named like NAME-v0"):
        write_minari(chained(), tmp_path / "robot")
    (tmp_path / "a-v0").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_minari(chained(), tmp_path / "a-v0")
    with pytest.raises(DataError, match=r"must hold data/metadata\.json"):
        read_minari(tmp_path / "a-v0")
    with pytest.raises(DataError, match="cannot be memory-mapped: it is Minari's"):
        load_dataset(write_minari(chained(), tmp_path / "b-v0"), memory_map=True)
