"""``saferl eval --shield`` and ``saferl train --shield``: a name, a folder or module:factory, from end to end."""

import json
from pathlib import Path

import pytest
from command_line import run_quietly
from shielded_point import Point

from saferl.shields import save_shield
from saferl.shields.bounds import Bounds

ENV = "shielded_point:make_point"
SETTINGS = [arg for pair in ("num_envs=2", "num_checkpoints=2", "net_arch=[8]", "n_steps=32", "batch_size=32",
            "dual_min_episodes=2", "validation_episodes=2") for arg in ("--set", pair)]  # fmt: skip


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return str(save_shield(Bounds(Point.action_space, -0.5, 0.5), tmp_path_factory.mktemp("shields") / "half"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, half):
    out = str(tmp_path_factory.mktemp("runs") / "run")
    budgets = ["--budget", "cost=1", "--budget", "interventions=5"]
    code, text, err = run_quietly(
        "train", "ppo_lag", ENV, "--steps", "128", "--shield", half, *budgets, "--out", out, *SETTINGS
    )
    assert code == 0, text + err
    return out


def test_train_takes_a_shield_and_budgets_for_its_interventions(run, half):
    with open(f"{run}/run.json") as file:
        record = json.load(file)
    assert (record["shield"]["name"], record["shield"]["source"]) == ("half", half)
    assert [c["name"] for c in record["constraints"]] == ["cost", "interventions"]
    assert run_quietly("train", "--resume", run, "--shield", half)[0] == 0
    code, _, err = run_quietly("train", "--resume", run, "--shield", "bounds")
    assert code == 2
    assert "has shield" in err


def test_eval_reports_shielded_and_unshielded_on_the_same_seeds_and_the_rate(run, half):
    code, text, err = run_quietly("eval", run, "--shield", half, "--episodes", "8", "--workers", "1")
    assert code == 0, err
    assert "with half shield" in text
    assert "The shield half intervened in" in text
    folders = sorted(p.name for p in Path(run, "evaluations").iterdir())
    assert folders == ["001-last-stochastic", "001-last-stochastic-unshielded"]
    code, text, _ = run_quietly("eval", run, "--shield", half, "--episodes", "8", "--workers", "1", "--json")
    both = json.loads(text)
    assert both["shielded"]["shield"]["intervention_rate"]["mean"] > 0.0
    assert both["unshielded"]["shield"] is None
    assert both["shielded"]["seeds"] == both["unshielded"]["seeds"]
    assert list(both["shielded"]["constraints"]) == ["cost", "interventions"]
    assert list(both["unshielded"]["constraints"]) == ["cost"]


@pytest.mark.parametrize("shield", ["bounds", "shielded_point:build_shield"])
def test_eval_takes_names_and_factories_also_for_the_random_policy(shield):
    code, text, err = run_quietly(
        "eval", "random", "--env", ENV, "--shield", shield, "--episodes", "4", "--workers", "1", "--json"
    )
    assert code == 0, err
    assert json.loads(text)["shielded"]["shield"]["name"] == shield


def test_an_unknown_shield_is_answered_with_a_suggestion(run):
    code, _, err = run_quietly("eval", run, "--shield", "bound", "--episodes", "4")
    assert code == 2
    assert "bounds" in err


def test_eval_without_a_shield_prints_one_summary_as_before(run):
    code, text, _ = run_quietly("eval", run, "--episodes", "4", "--workers", "1", "--json")
    assert (code, json.loads(text)["shield"]) == (0, None)


def test_the_help_of_both_commands_explains_the_option():
    for command in ("eval", "train"):
        assert "--shield" in run_quietly(command, "--help")[1]
