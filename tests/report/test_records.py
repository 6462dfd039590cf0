"""Evaluation folders are read strictly: complete and consistent, or one clear error that names file and line."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saferl.errors import RunFolderError
from saferl.report import Interval, read_evaluation

CONSTRAINT = {
    "kind": "episode_sum",
    "sense": "<=",
    "budget": 25.0,
    "description": "E[sum of cost per episode] <= 25",
    "mean": 9.0,
    "ci95": [2.0, 16.0],
    "lower95": 3.0,
    "upper95": None,
    "cvar90": 20.0,
    "max": 30.0,
    "violation_rate": 0.25,
    "violation_rate_ci95": [0.0, 0.8],
    "verdict": "undecided",
    "bound": "none: the cost per step has no known bound",
}
SUMMARY = {
    "schema": "saferl.evaluation/1",
    "env": "SafetyHalfCheetahVelocity-v1",
    "env_kwargs": {},
    "deterministic": False,
    "seeds": {"first": 10_000_000, "count": 4},
    "checkpoint": "last",
    "versions": {"saferl": "0.1.0"},
    "method": {"mean_cost": "betting", "rates": "Clopper-Pearson", "return": "bootstrap", "confidence": 0.95},
    "policy": {
        "name": "ppo_lag",
        "solver": "ppo_lag",
        "train_steps": 200_000,
        "train_seed": 0,
        "train_budgets": {"cost": 20.0},
        "evaluations": 1,
    },
    "shield": None,
    "episodes": 4,
    "length": {"mean": 1000.0, "min": 1000, "max": 1000},
    "return": {"mean": 101.5, "ci95": [100.0, 103.0], "iqm": 101.5},
    "constraints": {"cost": CONSTRAINT},
    "duration_s": 12.3,
}
LINES = [
    {
        "episode": i,
        "seed": 10_000_000 + i,
        "return": 100.0 + i,
        "length": 1000,
        "terminated": False,
        "costs": {"cost": 6.0 * i},
        "cost": 6.0 * i,
    }
    for i in range(4)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete evaluation folder inside a run folder's ``evals``, without the run's own files."""
    path = tmp_path / "run" / "evals" / "last"
    path.mkdir(parents=True)
    (path / "summary.json").write_text(json.dumps(SUMMARY))
    (path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def rewrite(folder: Path, keys: str, value: Any) -> None:
    """Set the entry at the dotted path ``keys`` of summary.json, or delete it if ``value`` is Ellipsis."""
    data = copy.deepcopy(SUMMARY)
    *path, last = keys.split(".")
    inner: Any = data
    for key in path:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (folder / "summary.json").write_text(json.dumps(data))


def test_a_complete_folder_is_read_in_full(folder: Path) -> None:
    record = read_evaluation(folder)
    assert record.policy.label == "ppo_lag"  # no label: the name
    assert record.policy.train_budgets == {"cost": 20.0}
    assert record.return_ci95 == Interval(100.0, 103.0)
    assert record.constraints["cost"].upper95 is None
    assert record.constraints["cost"].verdict == "undecided"
    np.testing.assert_array_equal(record.episodes.returns, [100, 101, 102, 103])
    np.testing.assert_array_equal(record.episodes.costs["cost"], [0, 6, 12, 18])
    assert record.curves is None


def test_discounted_sums_are_read_where_they_were_recorded(folder: Path) -> None:
    rewrite(folder, "constraints.cost.kind", "discounted")
    assert read_evaluation(folder).episodes.discounted_costs == {}
    lines = [line | {"discounted_costs": {"cost": 0.5}} for line in LINES]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    episodes = read_evaluation(folder).episodes
    np.testing.assert_array_equal(episodes.discounted_costs["cost"], 0.5)
    np.testing.assert_array_equal(episodes.costs["cost"], [0, 6, 12, 18])


@pytest.mark.parametrize("shield", ["mpsc", {"name": "mpsc", "horizon": 5}])
def test_a_shield_is_a_name_or_an_object_with_a_name(folder: Path, shield: object) -> None:
    rewrite(folder, "shield", shield)
    assert read_evaluation(folder).shield == "mpsc"


@pytest.mark.parametrize("schema", ["saferl.evaluation/2", "saferl.evaluation/10", "saferl.run/1", "1"])
def test_an_unknown_schema_is_refused_with_both_versions(folder: Path, schema: str) -> None:
    rewrite(folder, "schema", schema)
    with pytest.raises(RunFolderError, match=r"must be 'saferl\.evaluation/1'.*got '" + schema):
        read_evaluation(folder)


def test_a_newer_minor_version_with_more_keys_is_read(folder: Path) -> None:
    rewrite(folder, "schema", "saferl.evaluation/1.4")
    assert read_evaluation(folder).num_episodes == 4


@pytest.mark.parametrize("name", ["summary.json", "episodes.jsonl"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunFolderError, match=rf"{name} of an evaluation is missing: .*{name}"):
        read_evaluation(folder)


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"which is missing\. Make one with: saferl eval"):
        read_evaluation(tmp_path / "nothing")


@pytest.mark.parametrize(
    "keys",
    ["seeds", "seeds.count", "policy.train_seed", "return.iqm", "method.rates", "constraints.cost.budget", "shield"],
)
def test_a_missing_key_is_named_with_its_place(folder: Path, keys: str) -> None:
    rewrite(folder, keys, ...)
    with pytest.raises(RunFolderError, match=rf"'{keys}' must be in .*summary\.json"):
        read_evaluation(folder)


@pytest.mark.parametrize(
    ("keys", "value", "must"),
    [
        ("episodes", 0, "at least 1"),
        ("episodes", 4.0, "whole number"),
        ("episodes", True, "whole number"),
        ("deterministic", "no", "true or false"),
        ("checkpoint", "latest", '"last", "best", null'),
        ("return.mean", None, "finite number"),
        ("return.mean", float("nan"), "finite number"),
        ("return.mean", 10**400, "finite number"),
        ("return.ci95", [1.0], "two ends"),
        ("return.ci95", [2.0, 1.0], "low end comes first"),
        ("constraints.cost.kind", "sum", '"episode_sum"'),
        ("constraints.cost.sense", "<", '"<=", ">="'),
        ("constraints.cost.verdict", "ok", '"satisfied", "violated", "undecided"'),
        ("constraints.cost.violation_rate", 25.0, r"share in \[0, 1\]"),
        ("constraints.cost", [], "JSON object"),
        ("method.confidence", 95, "between 0 and 1"),
        ("policy.name", "", "not empty"),
        ("policy.train_budgets", {"cost": "20"}, "finite number"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(folder: Path, keys: str, value: Any, must: str) -> None:
    rewrite(folder, keys, value)
    with pytest.raises(RunFolderError, match=rf"'{keys}[^']*' in .*summary\.json must be .*{must}.*; got "):
        read_evaluation(folder)


def test_a_line_that_was_cut_off_is_named_by_its_number(folder: Path) -> None:
    path = folder / "episodes.jsonl"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(RunFolderError, match=r"Line 4 of .*episodes\.jsonl must be one JSON object"):
        read_evaluation(folder)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_number_of_lines_is_an_error(folder: Path, count: int) -> None:
    lines = [*LINES, LINES[0] | {"episode": 4}][:count]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunFolderError, match=rf"one line per episode, 4 as summary\.json says; got {count} lines"):
        read_evaluation(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"return": None}, r"'return' in line 3 of .*must be a finite number; got None"),
        ({"costs": {}}, r"'costs\.cost' must be in line 3 of .*episodes\.jsonl"),
        ({"costs": {"cost": float("inf")}}, r"'costs\.cost' in line 3 of .*finite number"),
        ({"seed": 5}, r"'seed' in line 3 of .*must be in 10000000 to 10000003"),
        ({"length": 0}, r"'length' in line 3 of .*at least 1"),
        ({"episode": 0}, "each episode once"),
        (
            {"return": 900.0},
            r"must come from one evaluation.*mean return of 101\.5 in the one and 301 in the other",
        ),
        ({"costs": {"cost": 0.0}}, r"must come from one evaluation.*mean cost of 9 in the one and 6 in the other"),
    ],
)
def test_a_wrong_episode_is_named_by_its_line(folder: Path, change: dict[str, Any], message: str) -> None:
    lines = [LINES[0], LINES[1], LINES[2] | change, LINES[3]]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunFolderError, match=message):
        read_evaluation(folder)


def write_run(run: Path, progress: str) -> None:
    (run / "run.json").write_text("{}")
    (run / "progress.csv").write_text(progress)


PROGRESS = (
    "multiplier/cost,rollout/ep_rew_mean,train/loss,time/total_timesteps,rollout/ep_cost/cost,rollout/ep_cost/x\n"
    ",-10.5,,2048,3.0,\n"
    "0.25,nan,0.1,4096,5.0,\n"
)


@pytest.mark.parametrize("levels_up", [1, 2])
def test_curves_come_from_the_run_around_the_evaluation_with_gaps_as_nan(folder: Path, levels_up: int) -> None:
    run = folder.parents[levels_up - 1]
    write_run(run, PROGRESS)
    curves = read_evaluation(folder).curves
    assert curves is not None
    assert curves.run == run.resolve()
    np.testing.assert_array_equal(curves.steps, [2048, 4096])
    np.testing.assert_array_equal(curves.returns, [-10.5, np.nan])
    np.testing.assert_array_equal(curves.multipliers["cost"], [np.nan, 0.25])
    assert list(curves.costs) == ["cost"]  # a column without any number is no curve


def test_a_line_that_is_still_being_written_is_left_out(folder: Path) -> None:
    write_run(folder.parent, PROGRESS + "0.5,1.0,0.1,61")
    curves = read_evaluation(folder).curves
    assert curves is not None
    np.testing.assert_array_equal(curves.steps, [2048, 4096])


@pytest.mark.parametrize("progress", ["", "time/total_timesteps,rollout/ep_rew_mean\n", "a,b\n1,2\n"])
def test_a_log_without_rows_or_steps_gives_no_curves(folder: Path, progress: str) -> None:
    write_run(folder.parent, progress)
    assert read_evaluation(folder).curves is None


def test_a_progress_file_outside_a_run_folder_gives_no_curves(folder: Path) -> None:
    (folder.parent / "progress.csv").write_text(PROGRESS)
    assert read_evaluation(folder).curves is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "0.5,1.0,0.1,many,1.0,\n",
            r"'time/total_timesteps' in line 4 of .*progress\.csv must be a number.*got 'many'",
        ),
        ("0.5,1.0\n", r"Line 4 of .*progress\.csv must have 6 cells.*got 2"),
    ],
)
def test_a_broken_row_of_the_log_is_named_by_its_line(folder: Path, row: str, message: str) -> None:
    write_run(folder.parent, PROGRESS + row)
    with pytest.raises(RunFolderError, match=message):
        read_evaluation(folder)
