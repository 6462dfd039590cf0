"""``saferl bench reload`` and ``saferl bench limits``."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from command_line import assert_one_message, run_quietly

from saferl.bench.reload import cells
from saferl.bench.reload import limits as limits_module
from saferl.bench.reload.finite import late_metrics


def test_late_iterates_are_measured_shown_drawn_and_not_measured_again(tmp_path, monkeypatch):
    """The trainings are made up; what they measure is tested elsewhere."""

    def measured(cell):
        metrics = late_metrics(np.full(20, 0.4), np.full((20, 1), 0.53), np.array([0.5]), 0.5)
        trace = {"steps": [0, 1056], "cost": [0.9, 0.53], "value": [0.9, 0.4]}
        return {"cell": asdict(cell), "metrics": metrics, "trace": trace, "seconds": 1.0}

    monkeypatch.setattr(cells, "run_cell", measured)
    arguments = (
        *("bench", "reload", "--task", "ParadoxA-v0", "--variant", "reload", "--steps", "1056", "--seeds", "0"),
        *("--json", tmp_path / "r.json", "--table", tmp_path / "r.md", "--figure", tmp_path / "r.svg"),
    )
    code, out, err = run_quietly(*arguments)
    assert code == 0, err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["tasks"]["ParadoxA-v0"]["variants"]["reload"]["mean"]["last_gap"] == pytest.approx(0.1)
    assert re.search(r"ParadoxA-v0 +│ +reload +│ +0\.1000 │ +0\.0300 ", out)
    assert "| ParadoxA-v0 | reload | 0.1000 | 0.0300 |" in (tmp_path / "r.md").read_text()
    assert "<svg" in (tmp_path / "r.svg").read_text()
    assert err.count("ParadoxA-v0, reload") == 7
    assert len((tmp_path / "r.cells.jsonl").read_text().splitlines()) == 7
    code, _, err = run_quietly(*arguments)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "r.json").read_text())["tasks"] == result["tasks"]


def test_limits_are_half_way_between_careless_and_careful_costs(tmp_path, monkeypatch):
    real = limits_module.split_assignments
    monkeypatch.setattr(
        limits_module, "split_assignments", lambda given, cls, base: real(given, cls, {**base, "num_envs": 8})
    )
    code, out, err = run_quietly(
        *("bench", "limits", "CatchCost-v0", "--steps", "500", "--episodes", "16", "--json", tmp_path / "limits.json")
    )
    assert code == 0, err
    result = json.loads((tmp_path / "limits.json").read_text())
    row = result["tasks"]["CatchCost-v0"]
    assert row["limit"] == pytest.approx((row["careless"]["cost"] + row["careful"]["cost"]) / 2)
    # Returns are those of the task itself, also where training was rewarded for low costs.
    assert -1.0 <= row["careful"]["return"] <= 1.0
    assert f" {row['limit']:.1f} " in out
    assert (result["steps"], result["seed"], result["episodes"], result["solver"]) == (500, 1000, 16, "ppo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reload", "--task", "ParadoxC-v0"], "Unknown environment 'ParadoxC-v0'. Did you mean"),
        (["reload", "--seeds", "0,1000"], "The tuning seed must not be reported"),
        (["reload", "--table", "file/table.md"], "--table must name a Markdown file that can be written"),
        (["limits", "Catch-v0"], "Unknown environment 'Catch-v0'. Did you mean 'CatchCost-v0'"),
    ],
)
def test_bad_usage_is_one_message(arguments, message):
    code, out, err = run_quietly("bench", *arguments)
    assert code in (1, 2)
    assert out == ""
    assert_one_message(err, message)
