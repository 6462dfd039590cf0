"""``saferl train`` with several seeds, a config file, a first policy, a device; and resuming what was cut."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from command_line import TINY, USER_ENV, VELOCITY, assert_one_message, flat, run_quietly
from safetensors.numpy import load_file

from saferl.storage import sha256

TRAIN = ["train", "ppo_lag", *USER_ENV, *TINY, "--set", "validation_share=0"]


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def weights_of(folder):
    return sha256(folder / "artefact" / "weights.safetensors")


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """A function that runs a training command and interrupts it after its second rollout."""

    def run(*arguments):
        calls = []

        def reporter(bar, title, steps):
            def report(done, latest):
                calls.append(done)
                if len(calls) == 2:
                    raise KeyboardInterrupt

            return report

        with monkeypatch.context() as patch:
            patch.setattr("saferl.cli.train.bar_reporter", reporter)
            return run_quietly(*arguments)

    return run


def test_a_training_that_is_interrupted_says_how_to_go_on_and_ends_the_same(tmp_path, cut):
    options = [*TRAIN, "--steps", "128", "--set", "num_checkpoints=4", "--seed", "7"]
    assert run_quietly(*options, "--out", tmp_path / "whole")[0] == 0
    code, out, err = cut(*options, "--out", tmp_path / "cut")
    assert (code, out) == (130, "")
    command = re.search(r"Go on with: saferl (.*)", flat(err))
    assert record_of(tmp_path / "cut")["status"] == "interrupted"
    code, out, err = run_quietly(*shlex.split(command[1]))
    assert code == 0, err
    assert out.startswith("Trained 128 steps")
    assert record_of(tmp_path / "cut")["status"] == "finished"
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(trained):
    run, before = trained[0], weights_of(trained[0])
    code, out, err = run_quietly("train", "--resume", run, "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 64
    assert "was finished already" in flat(err)
    assert weights_of(run) == before


DIFFERENCES = {
    "solver": (["ppo", "user_env:make"], "has solver 'ppo_lag'; got 'ppo'"),
    "env": (["ppo_lag", VELOCITY], f"has env 'user_env:make'; got '{VELOCITY}'"),
    "budget": (["--budget", "cost=6"], r"has budgets \{'cost': 5.0\}; got \{'cost': 6.0\}"),
    "training budget": (["--train-budget", "cost=4"], r"train_budgets \{'cost': 5.0\}; got \{'cost': 4.0\}"),
    "steps": (["--steps", "128"], "has steps 64; got 128"),
    "seed": (["--seed", "4"], "has seed 3; got 4"),
    "option of the solver": (["--set", "n_steps=32"], "has n_steps 16; got 32"),
    "option of the run": (["--num-envs", "4"], "has num_envs 2; got 4"),
    "unknown option": (["--set", "n_stepz=32"], "Did you mean 'n_steps'"),
    "folder": (["--out", "elsewhere"], "goes on in the folder that it names; leave --out"),
    "seeds": (["--seeds", "0-3"], "leave --out, --init-from and --seeds out"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_resuming_as_another_run_is_refused_and_the_difference_named(case, trained):
    arguments, pattern = DIFFERENCES[case]
    before = (trained[0] / "run.json").read_bytes()
    code, out, err = run_quietly("train", *arguments, "--resume", trained[0])
    assert (code, out) == (2, "")
    assert_one_message(err, pattern)
    assert (trained[0] / "run.json").read_bytes() == before


def test_resuming_where_nothing_is_says_so(tmp_path):
    for folder, pattern in (("nowhere", "holds no run.json"), ("damaged", "is not valid JSON")):
        path = tmp_path / folder
        if folder == "damaged":
            path.mkdir()
            (path / "run.json").write_text("{")
        code, out, err = run_quietly("train", "--resume", path)
        assert (code, out) == (1, "")
        assert_one_message(err, pattern)


def test_seeds_give_a_run_each_that_equals_the_run_of_that_seed(tmp_path, trained):
    code, out, err = run_quietly("train", "ppo_lag", *USER_ENV, *TINY, "--seeds", "2-3", "--out", tmp_path / "runs")
    assert code == 0, err
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (2, 3)]
    assert [record_of(folder)["seed"] for folder in folders] == [2, 3]
    assert weights_of(folders[1]) == weights_of(trained[0])
    assert weights_of(folders[0]) != weights_of(folders[1])
    lines = out.splitlines()
    assert [line.split(" into ")[1] for line in lines[:2]] == [str(folder) for folder in folders]
    assert lines[2] == f"Next: evaluate each (saferl eval {folders[0]}), then saferl report with all of them"


def test_the_runs_of_several_seeds_are_resumed_together(tmp_path, cut):
    options = [*TRAIN, "--steps", "128", "--set", "num_checkpoints=4"]
    runs = tmp_path / "runs"
    assert run_quietly(*options, "--seeds", "2-3", "--out", runs)[0] == 0
    before = weights_of(runs / "seed-2")
    shutil.rmtree(runs / "seed-2")
    assert cut(*options, "--seed", "2", "--out", runs / "seed-2")[0] == 130
    code, out, err = run_quietly("train", "--resume", runs, "--json")
    assert code == 0, err
    assert [result["steps"] for result in json.loads(out)] == [128, 128]
    assert "seed-3 was finished already" in flat(err)
    assert weights_of(runs / "seed-2") == before


def test_a_config_file_describes_a_training_and_the_command_line_overrides_it(tmp_path):
    config = tmp_path / "train.toml"
    config.write_text(
        """
        solver = "ppo_lag"
        env = "user_env:make"
        cost = "user_env:two_costs"
        steps = 64
        seeds = "0-4"
        [budgets]
        right = 5
        fast = 3
        [train_budgets]
        fast = 2
        [options]
        n_steps = 16
        net_arch = [8]
        num_envs = 4
        gamma = 0.9
        """
    )
    code, _, err = run_quietly(
        *("train", "--config", config, "--seed", "9", "--num-envs", "2", "--set", "gamma=0.8"),
        *("--out", tmp_path / "run", "--device", "cpu"),
    )
    assert code == 0, err
    record = record_of(tmp_path / "run")
    assert (record["solver"], record["env"], record["cost"]) == ("ppo_lag", "user_env:make", "user_env:two_costs")
    assert (record["steps"], record["seed"], record["device"]) == (64, 9, "cpu")
    assert {c["name"]: c["budget"] for c in record["constraints"]} == {"right": 5.0, "fast": 3.0}
    assert record["train_budgets"] == {"right": 5.0, "fast": 2.0}
    assert (record["config"]["gamma"], record["config"]["n_steps"]) == (0.8, 16)
    assert (record["settings"]["num_envs"], record["settings"]["net_arch"]) == (2, [8])


def test_a_training_starts_from_a_policy(trained, tmp_path):
    code, _, err = run_quietly(
        *TRAIN, "--init-from", trained[0], "--set", "learning_rate=1e-30", "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert record_of(tmp_path / "run")["init_from"] == {
        "policy": str(trained[0]),
        "weights_sha256": weights_of(trained[0]),
        "solver": "ppo_lag",
        "steps": 64,
    }
    # Nothing is learnt at such a step size, so the policy is the one that it started from.
    now, before = (load_file(path / "artefact" / "weights.safetensors") for path in (tmp_path / "run", trained[0]))
    keys = [key for key in before if key.startswith("policy/")]
    assert keys
    assert all(np.allclose(now[key], before[key], rtol=0.0, atol=1e-20) for key in keys)


REFUSED = {
    "seed and seeds": (["--seed", "1", "--seeds", "0-2"], 2, "--seed or --seeds, not both"),
    "bad seeds": (["--seeds", "4-0"], 2, "Seeds must look like 0-4 or 0,5,10; got '4-0'"),
    "no jobs": (["--seeds", "0-1", "--jobs", "0"], 2, "--jobs must be at least 1; got 0"),
    "no config": (["--config", "none.toml"], 2, "config file cannot be read: none.toml"),
    "unknown device": (["--device", "gpu"], 2, "device.*'gpu'"),
    "device that is not there": (["--device", "cuda:7"], 2, "cuda:7"),
    "policy that is not there": (["--init-from", "nowhere"], 1, "nowhere does not exist"),
    "policy of another network": (["--init-from", "my [first] run", "--set", "activation=ReLU"], 2, "the same network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_one_message(case, trained, tmp_path):
    arguments, expected, pattern = REFUSED[case]
    code, out, err = run_quietly(*TRAIN, *arguments, "--out", tmp_path / "run")
    assert (code, out) == (expected, "")
    assert_one_message(err, pattern)
