import json

import pytest

from saferl.cli import main


@pytest.mark.timeout(280)
def test_a_tiny_quickstart_writes_a_report_and_a_summary_per_agent(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["quickstart", "--out", str(tmp_path / "quick"), "--steps", "2048", "--episodes", "16", "--json"])
    assert stop.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    names = [summary["policy"]["name"] for summary in printed["summaries"]]
    assert names == ["random", "ppo", "ppo_lag"]
    page = (tmp_path / "quick" / "report.html").read_text(encoding="utf-8")
    for agent, label in (("random", "random"), ("ppo", "PPO (unconstrained)"), ("ppo_lag", "PPO-Lagrangian")):
        summary = json.loads(next((tmp_path / "quick" / agent).glob("evaluations/*/summary.json")).read_text())
        assert summary["episodes"] == 16
        assert summary["constraints"]["cost"]["verdict"] in ("satisfied", "violated", "undecided")
        assert label in page
    assert "16 " in page
