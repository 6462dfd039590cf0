"""A solver's numbers: trained once per seed, evaluated by the protocol, and shown as the JSON files say."""

import json
from pathlib import Path

import pytest

from saferl.bench import bench_online
from saferl.bench.online_table import RESULTS, TRAINING, online_rows
from saferl.errors import ConfigError
from saferl.training import RunSettings

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
TINY = {"n_steps": 16, "batch_size": 32, "dual_min_episodes": 1}


def bench(runs, **changes):
    arguments = {
        "steps": 64,
        "seeds": (0, 5),
        "train_budgets": {"cost": 20.0},
        "options": TINY,
        "settings": RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=0),
        "episodes": 4,
        "side_episodes": 2,
    }
    return bench_online("ppo_lag", "SafetyHopperVelocity-v1", runs=runs, **{**arguments, **changes})


def test_every_seed_is_trained_and_evaluated_once(tmp_path):
    lines = []
    first = bench(tmp_path, report=lines.append)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = bench(tmp_path)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == written
    assert [run["seed"] for run in first["runs"]] == [0, 5]
    assert first["runs"][0]["sampled"] != first["runs"][1]["sampled"]
    for run in first["runs"]:
        assert run["sampled"]["seeds"] == {"first": 10_000_000, "count": 4}
        assert (run["sampled"]["deterministic"], run["mean_actions"]["deterministic"]) == (False, True)
        assert run["sampled"]["episodes"] == 4
        assert run["best"]["episodes"] == 2
        assert run["sampled"]["constraints"]["cost"]["budget"] == 25
        assert run["training"]["steps"] == 64
    assert len(lines) == 2
    assert "verdict" not in lines[0]
    assert first["runs"][0]["sampled"]["constraints"]["cost"]["verdict"] in lines[0]


def test_runs_of_other_arguments_are_not_taken_for_these(tmp_path):
    bench(tmp_path, seeds=(0,))
    with pytest.raises(ConfigError, match="train_budgets"):
        bench(tmp_path, seeds=(0,), train_budgets={"cost": 10.0})
    with pytest.raises(ConfigError, match="steps"):
        bench(tmp_path, seeds=(0,), steps=128)


@pytest.mark.parametrize(("changes", "message"), [({"seeds": ()}, "at least one"), ({"episodes": 1}, "at least 2")])
def test_bad_arguments_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        bench(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_the_row_of_a_run_has_its_result_and_the_published_one(tmp_path):
    (tmp_path / "published.json").write_text(
        json.dumps({"results": {"SafetyHopperVelocity-v1": {"ppo_lag": {"return": 962, "cost": 14}}}})
    )
    result = bench(tmp_path / "runs", seeds=(5,))
    (tmp_path / "ppo_lag-SafetyHopperVelocity-v1.json").write_text(json.dumps(result))
    ((row, training),) = online_rows(tmp_path)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == RESULTS[1].count("---")
    assert cells[:4] == ["SafetyHopperVelocity-v1", "`ppo_lag`", "64", "5"]
    sampled = result["runs"][0]["sampled"]
    assert cells[4].startswith(f"{sampled['return']['mean']:.1f} (")
    assert cells[6] == sampled["constraints"]["cost"]["verdict"]
    assert cells[-1] == "962, 14.0"
    cells = [cell.strip() for cell in training.strip("|").split("|")]
    assert len(cells) == TRAINING[1].count("---")
    assert cells[:4] == ["SafetyHopperVelocity-v1", "`ppo_lag`", "5", "20"]
    assert cells[5] == f"{result['runs'][0]['training']['training_costs']['total_cost']['cost']:,.0f}"


def test_the_page_shows_what_the_files_say():
    page = (DOCS / "online.md").read_text(encoding="utf-8").splitlines()
    rows = list(online_rows(DOCS / "online"))
    assert len(rows) >= 1
    assert all(line in page for line in (*RESULTS, *TRAINING, *(line for pair in rows for line in pair)))
