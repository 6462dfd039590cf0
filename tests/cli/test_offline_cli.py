"""``saferl train SOLVER DATA.hdf5`` and what comes after it."""

import json

import pytest
from command_line import assert_one_message, run_quietly
from point_robot_data import write_random_episodes

from saferl.data import write_dsrl
from saferl.testing.offline_checker import small_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten random episodes."""
    path = tmp_path_factory.mktemp("data") / "pr.hdf5"
    return write_random_episodes(path, 10)


def test_train_eval_and_resume_work_one_after_the_other(data, tmp_path):
    run = tmp_path / "run"
    code, out, err = run_quietly(
        "train", "bc", data, "--preset", "small", "--steps", 30, "--set", "batch_size=16", "--out", run, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["steps"] == 30
    code, out, err = run_quietly("eval", run, "--episodes", 3, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["env"], summary["episodes"], summary["policy"]["solver"]) == ("PointRobot-v0", 3, "bc")
    assert summary["constraints"]["cost"]["budget"] == 5.0
    code, out, _ = run_quietly("eval", run, "--episodes", 1, "--budget", "cost=20", "--json")
    assert json.loads(out)["constraints"]["cost"]["budget"] == 20.0
    code, _, err = run_quietly("train", "--resume", run)
    assert (code, "finished already" in err) == (0, True)
    code, _, err = run_quietly("eval", run, "--checkpoint", "best")
    assert_one_message(err, "has its last iterate only")


def test_data_without_an_environment_train_with_a_note_and_need_one_to_evaluate(tmp_path):
    path, run = tmp_path / "d.hdf5", tmp_path / "run"
    write_dsrl(small_data(), path)
    code, _, err = run_quietly("train", "bc", path, "--preset", "small", "--steps", 2, "--out", run)
    assert code == 0
    assert "The data name no environment" in " ".join(err.split())
    code, _, err = run_quietly("eval", run, "--episodes", 1)
    assert_one_message(err, "does not say which environment it is for")
    code, _, err = run_quietly("eval", run, "--episodes", 1, "--env", "PointRobot-v0")
    assert_one_message(err, r"for observations of shape \(4,\), as its data have them; PointRobot-v0 has")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bc", "PointRobot-v0"), "Collect data first"),
        (("ppo", "DATA"), "ppo learns in an environment, not from data"),
        (("bc", "DATA", "--preset", "smal"), "Did you mean 'small'"),
        (("bc", "DATA", "--num-envs", "2"), "num_envs belong to training in an environment"),
        (("bc", "DATA", "--train-budget", "cost=2"), "train_budgets belong to training in an environment"),
        (("ppo", "PointRobot-v0", "--preset", "small"), "--preset is for offline solvers"),
        (("bc_safe", "DATA"), "bc_safe trains for budgets; got none. Give .*--budget cost="),
        (("bc", "DATA", "--set", "gamma=0.5"), "Unknown option 'gamma'"),
    ],
)
def test_what_does_not_fit_is_one_message(data, tmp_path, arguments, message):
    arguments = [str(data) if part == "DATA" else part for part in arguments]
    code, _, err = run_quietly("train", *arguments, "--out", tmp_path / "run")
    assert code == 2 or "DataError" in err
    assert_one_message(err, message)
    assert not (tmp_path / "run").exists()


def test_the_options_of_an_offline_solver_are_its_own_and_those_of_a_run_from_data():
    rows = json.loads(run_quietly("list", "options", "bc_safe", "--json")[1])
    assert {"loss", "net_arch", "checkpoint_seconds"} <= {row["option"] for row in rows}
    assert "num_envs" not in {row["option"] for row in rows}
