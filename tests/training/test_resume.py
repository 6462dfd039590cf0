"""A training that is cut at any moment and resumed ends with the weights of one that was never cut."""

import csv
import json
import multiprocessing
import shutil
import warnings
from dataclasses import replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from saferl.bench import bench_resume
from saferl.envs.velocity import make_velocity
from saferl.errors import ConfigError, RunFolderError
from saferl.storage import only_writer
from saferl.training import RunSettings, resume, train

CHEETAH = {
    "solver": "ppo_lag",
    "env_id": "SafetyHalfCheetahVelocity-v1",
    "env_kwargs": {"max_episode_steps": 40},
    "steps": 1024,
    "options": {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "dual_min_episodes": 2, "anneal_learning_rate": True},
    "settings": RunSettings(
        num_envs=2, validation_episodes=2, validation_share=0.3, num_checkpoints=12, net_arch=(16,)
    ),
}


class Drifting(gymnasium.Env):
    """No ``get_state``; draws from its own generator and from numpy's global one, as some envs do."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    seeds: ClassVar[list] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Drifting.seeds.append(seed)
        self._position = self.np_random.normal(size=2).astype(np.float32)
        return self._position.copy(), {}

    def step(self, action):
        noise = np.random.normal()  # noqa: NPY002
        self._position += np.float32(0.1) * np.array([action - 0.5, noise], dtype=np.float32)
        out = bool(abs(self._position[1]) > 1.5)
        return np.clip(self._position, -10, 10), float(action), out, False, {"cost": float(self._position[0] > 0.0)}


DRIFTING = CHEETAH | {
    "env_id": f"{__name__}:Drifting",
    "env_kwargs": {"max_episode_steps": 23},
    "budgets": {"cost": 2.0},
}


class CutError(Exception):
    """The power is gone."""


def cut_at(steps):
    def progress(done, latest):
        if done >= steps:
            raise CutError

    return progress


def weights(folder, artefact="artefact"):
    return (folder / artefact / "weights.safetensors").read_bytes()


def log_of(folder):
    with (folder / "progress.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("time/fps", "time/time_elapsed")} for row in csv.DictReader(file)
        ]


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(**CHEETAH, out=tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(CutError):
        train(**CHEETAH, out=folder, progress=cut_at(700))
    return folder


@pytest.fixture
def cut(cut_once, tmp_path):
    return shutil.copytree(cut_once, tmp_path / "run")


def test_twenty_trainings_killed_at_random_and_while_writing_checkpoints_end_with_the_same_weights():
    result = bench_resume(**CHEETAH, kills=20, kill_seed=5)
    assert result["same_weights"] == 20, result["trials"]
    # Kills must have met what they are about: running trainings, some of them in the middle of a checkpoint.
    assert sum(trial["was_running"] for trial in result["trials"]) >= 15
    assert result["killed_while_writing"] >= 5


def test_a_run_cut_three_times_has_the_same_weights_best_policy_log_and_account(whole, cut):
    for steps in (450, 900):
        with pytest.raises(CutError):
            resume(cut, progress=cut_at(steps))
        assert record(cut)["status"] == "failed"
    result = resume(cut)
    assert weights(cut) == weights(whole)
    assert weights(cut, "artefact-best") == weights(whole, "artefact-best")
    assert [list(row.values()) for row in log_of(cut)] == [list(row.values()) for row in log_of(whole)]
    ours, theirs = record(cut)["result"], record(whole)["result"]
    assert ours["training_costs"] == theirs["training_costs"]
    assert ours["validations"] == theirs["validations"]
    assert result.steps == ours["steps"] == theirs["steps"]
    assert result.model.num_timesteps == 1024
    assert not list(cut.glob(".*"))


@pytest.mark.parametrize("solver", ["ppo_lag", "ppo"])
def test_an_environment_without_state_is_reset_at_checkpoints_in_both_runs(solver, tmp_path):
    options = {k: v for k, v in DRIFTING["options"].items() if solver == "ppo_lag" or k != "dual_min_episodes"}
    arguments = DRIFTING | {"solver": solver, "options": options}
    Drifting.seeds.clear()
    train(**arguments, out=tmp_path / "whole")
    resets = [seed for seed in Drifting.seeds if seed is not None and seed < 9_000_100]
    assert len(set(resets)) == len(resets) == 2 * (1 + 11)
    with pytest.raises(CutError):
        train(**arguments, out=tmp_path / "cut", progress=cut_at(600))
    resume(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_worker_processes_hand_their_states_over(whole, tmp_path):
    arguments = CHEETAH | {"settings": replace(CHEETAH["settings"], backend="process")}
    with pytest.raises(CutError):
        train(**arguments, out=tmp_path / "run", progress=cut_at(300))
    resume(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)


def test_a_run_cut_before_its_first_checkpoint_starts_again(whole, tmp_path):
    with pytest.raises(CutError):
        train(**CHEETAH, out=tmp_path / "run", progress=cut_at(64))
    assert not (tmp_path / "run" / "checkpoint").exists()
    resume(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)


def test_a_finished_run_is_left_as_it_is(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    result = resume(whole)
    assert (result.steps, result.model) == (1024, None)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_half_a_checkpoint_is_removed_and_a_damaged_one_is_passed_over_with_a_warning(whole, cut):
    newest = sorted((cut / "checkpoint").iterdir())[-1]
    shutil.copytree(newest, cut / "checkpoint" / ".step-000009999.abc.saferl-tmp")
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"state.safetensors was changed after it was written.*Going on from"):
        resume(cut)
    assert weights(cut) == weights(whole)
    assert not list((cut / "checkpoint").glob(".*"))


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(cut):
    for folder in (cut / "checkpoint").iterdir():
        (folder / "checkpoint.json").write_text("{")
    before = sorted(path.name for path in cut.rglob("*"))
    with pytest.raises(RunFolderError, match=r"No checkpoint in .* is whole.*not valid JSON"):
        resume(cut)
    assert sorted(path.name for path in cut.rglob("*")) == before


def test_a_checkpoint_of_another_run_is_refused_with_the_difference_named(cut, tmp_path):
    other = tmp_path / "other"
    with pytest.raises(CutError):
        train(**CHEETAH, seed=3, out=other, progress=cut_at(700))
    shutil.rmtree(cut / "checkpoint")
    shutil.copytree(other / "checkpoint", cut / "checkpoint")
    with pytest.raises(RunFolderError, match=r"not of this run: .*seed is 3 in it and 0 in the run"):
        resume(cut)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"env": "SafetyHopperVelocity-v1"}, "has env 'SafetyHalfCheetahVelocity-v1'; got 'SafetyHopperVelocity-v1'"),
        ({"solver": "ppo"}, "has solver 'ppo_lag'; got 'ppo'"),
        ({"budgets": {"cost": 5.0}}, r"has budgets \{'cost': 25.0\}; got \{'cost': 5.0\}"),
        ({"train_budgets": {"cost": 5.0}}, r"has train_budgets \{'cost': 25.0\}; got \{'cost': 5.0\}"),
        ({"seed": 1}, "has seed 0; got 1"),
        ({"steps": 5000}, "has steps 1024; got 5000"),
        ({"n_steps": 64}, "has n_steps 32; got 64"),
    ],
)
def test_resuming_as_something_else_is_refused_with_the_difference_named(cut, expected, message):
    with pytest.raises(ConfigError, match=message):
        resume(cut, expected=expected)


def test_resuming_as_what_it_is_goes_on(cut):
    with pytest.raises(CutError):
        resume(cut, expected={"solver": "ppo_lag", "n_steps": 32, "net_arch": (16,)}, progress=cut_at(0))


def test_an_edited_budget_is_refused(cut):
    data = record(cut)
    data["constraints"][0]["budget"] = 99.0
    (cut / "run.json").write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match=r"constraints is .*25.0.* in it and .*99.0"):
        resume(cut)


def test_an_environment_that_has_changed_is_refused(cut):
    with pytest.raises(ConfigError, match=r"has changed since the checkpoint .*: its observation space was"):
        resume(cut, env_id=lambda: make_velocity("Hopper"))


def test_another_version_or_machine_is_warned_of(cut):
    data = record(cut)
    data["versions"]["mujoco"], data["machine"]["cpu_capability"] = "3.0.0", "NEON"
    (cut / "run.json").write_text(json.dumps(data))
    with pytest.warns(UserWarning, match=r"mujoco was 3.0.0 and is .*cpu_capability was NEON"), pytest.raises(CutError):
        resume(cut, progress=cut_at(0))


def test_an_unchanged_machine_is_not_warned_of(cut):
    warnings.simplefilter("error")  # pytest restores the filters
    with pytest.raises(CutError):
        resume(cut, progress=cut_at(0))


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"run.json of a run folder is missing"):
        resume(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": "other/1"}')
    with pytest.raises(RunFolderError, match=r"must have schema 'saferl.run/1'.*got 'other/1'"):
        resume(tmp_path)


def test_a_run_of_an_unnamed_environment_asks_for_it(tmp_path):
    def factory():
        return make_velocity("Hopper")

    with pytest.raises(CutError):
        train(**CHEETAH | {"env_id": factory, "budgets": {"cost": 5}}, out=tmp_path / "run", progress=cut_at(300))
    with pytest.raises(ConfigError, match="no import path"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", env_id=factory).steps == 1024


def _hold(folder, ready, done):
    with only_writer(folder):
        ready.set()
        done.wait(60)


def test_a_run_that_another_process_trains_is_refused(cut):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(cut, ready, done))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(RunFolderError, match="Only one process may write"):
            resume(cut)
    finally:
        done.set()
        process.join()
