"""Runs from data: what their folder holds, and that a run which is cut ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import saferl
from saferl.data import write_dsrl
from saferl.errors import ConfigError, DataError, RunFolderError, UnknownNameError
from saferl.solvers.offline.base import choose_preset
from saferl.solvers.offline.fisor import FISOR
from saferl.testing.offline_checker import small_data
from saferl.training import OfflineSettings, RunSettings

OPTIONS = {"net_arch": [8], "batch_size": 8}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.hdf5"
    write_dsrl(small_data(), path)
    return path


def run(data, out, **more):
    return saferl.train("bc", data, **{"steps": 40, "out": out, "preset": "small", "options": OPTIONS, **more})


def weights(folder):
    return (Path(folder) / "artefact" / "weights.safetensors").read_bytes()


def rows(folder):
    """The log without the columns that measure time."""
    return [line.rpartition(",")[0] for line in (Path(folder) / "progress.csv").read_text().splitlines()]


class CutError(Exception):
    pass


def cut_at(step):
    def progress(done, latest):
        if done >= step:
            raise CutError

    return progress


def test_nobody_who_names_no_preset_waits_for_the_published_sizes(data, tmp_path):
    run(data, tmp_path / "run", preset=None)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["preset"] == "small"
    assert choose_preset(FISOR, None) == ("small", 20_000)
    assert choose_preset(FISOR, "published") == ("published", 1_000_000)
    with pytest.raises(UnknownNameError, match="tiny"):
        choose_preset(FISOR, "tiny")


def test_the_folder_says_what_the_run_was(data, tmp_path):
    result = run(data, tmp_path / "run", budgets={"cost_0": 5.0}, seed=3)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["offline"] is True
    assert (record["status"], record["result"]["steps"], result.steps) == ("finished", 40, 40)
    assert (record["solver"], record["preset"], record["seed"], record["data"]) == ("bc", "small", 3, str(data))
    assert record["dataset"]["digest"] == small_data().digest()
    assert (record["dataset"]["transitions"], record["dataset"]["spaces"]) == (120, "data")
    assert record["config"]["net_arch"] == [8]
    assert [c["name"] for c in record["constraints"]] == ["cost_0"]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir()) == [
        "step-000000032",
        "step-000000036",
    ]
    policy = saferl.load(tmp_path / "run")
    assert policy.provenance["train_budgets"] == {"cost_0": 5.0}
    obs = small_data().observations[:4]
    np.testing.assert_array_equal(policy.predict(obs)[0], result.model.predict(obs)[0])


@pytest.mark.parametrize("step", [1, 9, 12, 39])
def test_a_run_that_fails_anywhere_is_resumed_to_the_same_bits_and_log(data, tmp_path, step):
    settings = OfflineSettings(num_checkpoints=4, log_every=3)
    whole = run(data, tmp_path / "whole", settings=settings)
    with pytest.raises(CutError):
        run(data, tmp_path / "cut", settings=settings, progress=cut_at(step))
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "failed"
    result = saferl.resume(tmp_path / "cut")
    assert result.steps == 40
    assert weights(tmp_path / "cut") == weights(whole.folder)
    assert rows(tmp_path / "cut") == rows(whole.folder)


def test_a_run_that_was_killed_is_resumed_to_the_same_bits(data, tmp_path):
    """SIGKILL as soon as there is a checkpoint, with far more updates to go than the moment takes."""
    out = tmp_path / "killed"
    code = (
        "import saferl; from saferl.training import OfflineSettings; "
        f"saferl.train('bc', {str(data)!r}, steps=4000, out={str(out)!r}, "
        "preset='small', settings=OfflineSettings(num_checkpoints=400))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(out.glob("checkpoint/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    done = max(int(path.name[5:]) for path in (out / "checkpoint").glob("step-*"))
    heard = []
    saferl.resume(out, progress=lambda step, latest: heard.append(step))
    assert done < heard[0] <= done + 40
    whole = saferl.train(
        "bc", data, steps=4000, out=tmp_path / "whole", preset="small", settings=OfflineSettings(num_checkpoints=0)
    )
    assert weights(out) == weights(whole.folder)


def test_a_checkpoint_is_written_when_the_last_one_is_old(data, tmp_path):
    run(data, tmp_path / "run", settings=OfflineSettings(num_checkpoints=1, checkpoint_seconds=1e-9))
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoint").iterdir())] == ["step-000000038", "step-000000039"]


def test_other_data_other_options_and_foreign_checkpoints_are_refused(data, tmp_path):
    with pytest.raises(CutError):
        run(data, tmp_path / "cut", progress=cut_at(20))
    data.unlink()
    write_dsrl(small_data(seed=1), data)
    with pytest.raises(DataError, match="their content has changed"):
        saferl.resume(tmp_path / "cut")
    moved = tmp_path / "moved.hdf5"
    write_dsrl(small_data(), moved)
    with pytest.raises(ConfigError, match="has seed 0; got 1"):
        saferl.resume(tmp_path / "cut", expected={"seed": 1})
    result = saferl.resume(tmp_path / "cut", env_id=str(moved))
    assert result.steps == 40
    assert saferl.resume(tmp_path / "cut").model is None
    run(moved, tmp_path / "other", seed=5)
    with pytest.raises(CutError):
        run(moved, tmp_path / "third", progress=cut_at(20))
    for path in (tmp_path / "third" / "checkpoint").iterdir():
        path.rename(tmp_path / "third" / path.name)
    (tmp_path / "third" / "checkpoint").rmdir()
    (tmp_path / "other" / "checkpoint").rename(tmp_path / "third" / "checkpoint")
    with pytest.raises(RunFolderError, match="is not of this run"):
        saferl.resume(tmp_path / "third")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bc", "PointRobot-v0"), "bc learns from data, not in an environment; got 'PointRobot-v0', which is no file"),
        (("ppo", "DATA"), "ppo learns in an environment, not from data"),
        (("bc", "DATA", {"cost": "a:b", "shield": "bounds"}), "cost, shield belong to training in an environment"),
        (("bc", "DATA", {"settings": RunSettings()}), "settings belong to training in an environment"),
        (("bc", "DATA", {"device": "cuda"}), "device belong to training in an environment"),
        (("ppo", "ParadoxA-v0", {"preset": "small"}), "has no presets"),
        (("ppo", "ParadoxA-v0", {"steps": None}), "it needs steps"),
    ],
)
def test_solvers_and_what_they_learn_from_are_not_mixed(data, tmp_path, arguments, message):
    solver, target, *more = arguments
    target = str(data) if target == "DATA" else target
    with pytest.raises(ConfigError, match=message):
        saferl.train(solver, target, **{"steps": 5, "out": tmp_path / "run", **(more[0] if more else {})})
    assert not (tmp_path / "run").exists()


def test_missing_data_and_impossible_budgets_leave_no_folder(data, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.hdf5 does not"):
        run(tmp_path / "nothing.hdf5", tmp_path / "run")
    lowest = small_data().cost_returns()[:, 1].min()
    assert lowest == 0.0
    costly = small_data().select(np.arange(6, 12))
    data.unlink()
    write_dsrl(costly, data)
    with pytest.raises(DataError, match=r"No episode of 6 keeps the budgets; the lowest cost sums are cost_1"):
        saferl.train("bc_safe", data, steps=5, out=tmp_path / "run", budgets={"cost_1": 0.0})
    assert not (tmp_path / "run").exists()
