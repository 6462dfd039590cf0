"""A collection from the plan to the file: killed, resumed, refused."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch as th

from saferl.collection import collect
from saferl.collection import collect as collect_function
from saferl.collection.plan import parse_plan
from saferl.data import load_dataset
from saferl.errors import ConfigError, RunFolderError

HERE = Path(__file__).parent
PLAN = 'tasks = ["PointRobot-v0"]\nscripted = "slow_driver:collect"\n'
EPISODES = 160  # 240 are collected, in five shards


class Inline:
    """An executor that runs everything at once in this process."""

    def __init__(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function):
        done = Future()
        done.set_result(function())
        return done

    def shutdown(self, **_):
        pass


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    threads = th.get_num_threads()
    monkeypatch.setattr(sys.modules[collect_function.__module__], "ProcessPoolExecutor", Inline)
    monkeypatch.syspath_prepend(str(HERE))
    yield
    th.set_num_threads(threads)


def shards(work):
    return {path.name: path.read_bytes() for path in sorted((work / "shards").glob("*.npz"))}


def test_a_killed_collection_keeps_finished_episodes_and_ends_with_the_data_of_one_that_was_not(tmp_path):
    plan_file = tmp_path / "slow.toml"
    plan_file.write_text(PLAN)
    out = tmp_path / "a.hdf5"
    words = ["collect", "PointRobot-v0", "--episodes", str(EPISODES), "--plan", str(plan_file), "--out", str(out)]
    code = f"from saferl.cli import main; main({words!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE,
        env={**os.environ, "SLOW_DRIVER_SECONDS": "0.5"},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    work, deadline = tmp_path / "a.hdf5.work", time.monotonic() + 120.0
    while len(shards(work)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = shards(work)
    assert 2 <= len(before) < 5
    assert not out.exists()
    (work / "shards" / ".scripted-0004.npz.123").write_bytes(b"half of a shard")

    plan = parse_plan(PLAN, "slow")
    result = collect("PointRobot-v0", episodes=EPISODES, plan=plan, out=out, keep_work=True)
    assert before.items() <= shards(work).items()
    assert (result.collected, result.dataset.num_episodes, len(shards(work))) == (240, EPISODES, 5)
    whole = collect("PointRobot-v0", episodes=EPISODES, plan=plan, out=tmp_path / "b.hdf5")
    assert load_dataset(out).digest() == whole.dataset.digest()
    assert load_dataset(out).metadata == whole.dataset.metadata
    assert not (tmp_path / "b.hdf5.work").exists()


def test_what_is_kept_is_some_of_what_was_collected_labelled_and_named(tmp_path):
    data = collect("PointRobot-v0", episodes=20, seed=3, out=tmp_path / "a.hdf5").dataset
    assert (data.num_episodes, data.metadata.env_id, data.metadata.seeds) == (20, "PointRobot-v0", (3,))
    assert data.metadata.budgets == {"cost": 5.0}
    assert len(data.metadata.behaviours) == 20
    assert data.h is not None
    other = collect("PointRobot-v0", episodes=20, seed=4, out=tmp_path / "b.hdf5").dataset
    assert data.digest() != other.digest()


def test_another_request_never_goes_on_with_a_cut_collection(tmp_path):
    collect("PointRobot-v0", episodes=4, out=tmp_path / "a.hdf5", keep_work=True)
    with pytest.raises(RunFolderError, match=r"a\.hdf5 exists already"):
        collect("PointRobot-v0", episodes=4, out=tmp_path / "a.hdf5")
    (tmp_path / "a.hdf5").unlink()
    with pytest.raises(RunFolderError, match="another episodes, seed"):
        collect("PointRobot-v0", episodes=5, seed=1, out=tmp_path / "a.hdf5")
    again = collect("PointRobot-v0", episodes=4, out=tmp_path / "a.hdf5")
    assert np.all(again.dataset.actions <= 1.0)
    (tmp_path / "b.hdf5.work").mkdir()
    (tmp_path / "b.hdf5.work" / "mine").touch()
    with pytest.raises(RunFolderError, match="holds files that no collection wrote"):
        collect("PointRobot-v0", episodes=4, out=tmp_path / "b.hdf5")


def test_a_shard_that_was_damaged_is_named(tmp_path):
    collect("PointRobot-v0", episodes=4, out=tmp_path / "a.hdf5", keep_work=True)
    (tmp_path / "a.hdf5").unlink()
    shard = tmp_path / "a.hdf5.work" / "shards" / "scripted-0000.npz"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(RunFolderError, match=r"scripted-0000\.npz cannot be read.*Remove it and collect again"):
        collect("PointRobot-v0", episodes=4, out=tmp_path / "a.hdf5")


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"jobs": 0}, {"seed": -1}])
def test_impossible_requests_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="collect needs episodes >= 1"):
        collect("PointRobot-v0", **{"episodes": 4, **wrong}, out=tmp_path / "a.hdf5")
