"""Throughput is measured in turn, and a peer counts only with a number that it printed itself."""

import shlex
import sys
from types import SimpleNamespace

import pytest

from saferl.bench import bench_training
from saferl.bench import training as bench_module
from saferl.errors import ConfigError, TrainingError, UnknownNameError
from saferl.training import RunSettings

VELOCITY = "SafetyHalfCheetahVelocity-v1"


def python(code):
    """The command of a peer that is one line of Python."""
    return shlex.join([sys.executable, "-c", code])


@pytest.fixture
def our_speeds(monkeypatch):
    """Our runs take no time and have the speeds 100, 300, 200."""
    speeds, calls = iter([100.0, 300.0, 200.0]), []

    def fake(solver, env_id, **kwargs):
        calls.append({"solver": solver, "env_id": env_id, **kwargs})
        return SimpleNamespace(steps_per_second=next(speeds))

    monkeypatch.setattr(bench_module, "train", fake)
    return calls


def test_a_real_run_gives_a_speed_the_machine_and_the_versions():
    settings = RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=0)
    options = {"n_steps": 16, "batch_size": 32}
    result = bench_training("ppo", VELOCITY, steps=32, repeats=1, options=options, settings=settings)
    figures = result["results"]["saferl"]
    assert figures["median"] == figures["min"] == figures["max"] == figures["all"][0] > 0
    assert set(result["results"]) == {"saferl"}
    assert result["peer_command"] is None
    assert (result["solver"], result["env"], result["steps"], result["options"]) == ("ppo", VELOCITY, 32, options)
    assert result["machine"]["cores"] >= 1
    assert "torch" in result["versions"]


def test_medians_and_their_ratio_are_reported(our_speeds):
    lines = []
    result = bench_training(
        "ppo", "Env", steps=8, repeats=3, peer=python("print('STEPS_PER_SECOND 50')"), report=lines.append
    )
    assert result["results"]["saferl"] == {"median": 200.0, "min": 100.0, "max": 300.0, "all": [100.0, 300.0, 200.0]}
    assert result["results"]["peer"] == {"median": 50.0, "min": 50.0, "max": 50.0, "all": [50.0] * 3}
    assert result["results"]["ratio_of_medians"] == 4.0
    assert lines == [
        *("saferl 100 steps/s", "peer 50 steps/s", "saferl 300 steps/s", "peer 50 steps/s"),
        *("saferl 200 steps/s", "peer 50 steps/s"),
    ]


def test_every_repeat_has_its_own_training_seed_from_1000_on(our_speeds):
    bench_training("ppo", "Env", steps=8, repeats=3)
    assert [call["seed"] for call in our_speeds] == [1000, 1001, 1002]
    assert len({call["out"] for call in our_speeds}) == 3
    assert not any(call["out"].exists() for call in our_speeds)


@pytest.mark.parametrize(
    ("printed", "speed"),
    [
        ("STEPS_PER_SECOND 110", 110.0),
        ("STEPS_PER_SECOND\\t12.5", 12.5),
        ("STEPS_PER_SECOND 1.5e3", 1500.0),
        ("loading\\nSTEPS_PER_SECOND 7\\nbye", 7.0),
    ],
)
def test_the_peers_line_is_found_among_others(printed, speed, our_speeds):
    result = bench_training("ppo", "Env", steps=8, repeats=1, peer=python(f"print('{printed}')"))
    assert result["results"]["peer"]["all"] == [speed]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('fast')", "fast"),
        ("pass", r"\(none\)"),
        ("print('STEPS_PER_SECOND')", "STEPS_PER_SECOND"),
        ("print('STEPS_PER_SECOND quick')", "quick"),
        ("print('STEPS_PER_SECOND 1.2.3')", "1.2.3"),
        ("print('STEPS_PER_SECOND nan')", "nan"),
        ("print('STEPS_PER_SECOND inf')", "inf"),
        ("print('STEPS_PER_SECOND 0')", "0"),
        ("print('STEPS_PER_SECOND -4')", "-4"),
        ("print('at STEPS_PER_SECOND 5')", "at STEPS"),
    ],
)
def test_a_peer_that_prints_no_speed_is_one_error_with_its_output(code, shown, our_speeds):
    with pytest.raises(TrainingError, match=rf"print a line 'STEPS_PER_SECOND x'.*ended with 0.*: .*{shown}"):
        bench_training("ppo", "Env", steps=8, repeats=1, peer=python(code))


def test_a_peer_that_fails_is_one_error_with_its_exit_code_and_last_words(our_speeds):
    code = "import sys; print('STEPS_PER_SECOND 5'); sys.exit('out of memory')"
    with pytest.raises(TrainingError, match=r"exit code 0.*ended with 1.*out of memory"):
        bench_training("ppo", "Env", steps=8, repeats=1, peer=python(code))


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("no-such-program --fast", "a program that exists; got 'no-such-program --fast'"),
        ("", "a program that exists; got ''"),
        ("python 'peer.py", "cannot be split into words.*No closing quotation"),
    ],
)
def test_a_malformed_command_is_refused_before_any_training(peer, message, our_speeds):
    with pytest.raises(ConfigError, match=message):
        bench_training("ppo", "Env", steps=8, peer=peer)
    assert not our_speeds


def test_a_script_of_the_current_folder_is_found_but_leaves_no_files_there(our_speeds, tmp_path, monkeypatch):
    """The example in the help, ``--peer 'python peer.py'``; peers like to write into where they run."""
    (tmp_path / "peer.py").write_text("open('log.txt', 'w').close()\nprint('STEPS_PER_SECOND 9')\n")
    monkeypatch.chdir(tmp_path)
    result = bench_training("ppo", "Env", steps=8, repeats=1, peer=f"{sys.executable} peer.py")
    assert result["results"]["peer"]["median"] == 9.0
    assert [path.name for path in tmp_path.iterdir()] == ["peer.py"]
    assert str(tmp_path) not in result["peer_command"]
    assert result["peer_command"].endswith(" peer.py")


def test_bad_arguments_are_refused(our_speeds):
    with pytest.raises(ConfigError, match="repeats must be at least 1; got 0"):
        bench_training("ppo", "Env", steps=8, repeats=0)


def test_an_unknown_solver_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'ppo_lag'"):
        bench_training("ppo_lga", VELOCITY, steps=8)
