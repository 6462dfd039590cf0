import json
import sys

import pytest

from saferl.bench.offline import Entry, bench_offline
from saferl.bench.offline_table import offline_tables
from saferl.bench.osrl_policy import OsrlPolicy
from saferl.collection import collect
from saferl.errors import ConfigError, UnknownNameError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pr.hdf5"
    collect("PointRobot-v0", episodes=12, out=path)
    return path


def entries():
    return [
        Entry("bc_safe", "small", 3, {"batch_size": 8}),
        Entry("fisor", "small", 2, {"critic_batch": 8, "actor_batch": 8}),
    ]


def test_solvers_are_trained_per_budget_or_once_and_nothing_is_done_twice(data, tmp_path):
    said = []
    arguments = {"budgets": [300.0, 200.0], "seeds": [0], "runs": tmp_path / "runs", "episodes": 2}
    result = bench_offline(data, entries(), **arguments, report=said.append)
    rows = [(row["solver"], row["budget"]) for row in result["rows"]]
    assert rows == [("bc_safe", 300.0), ("bc_safe", 200.0), ("fisor", 300.0)]
    assert len(said) == 3
    low, high = result["data"]["return"]
    for row in result["rows"]:
        mean = row["evaluation"]["return"]["mean"]
        assert low + row["normalised_return"] * (high - low) == pytest.approx(mean)
        assert row["normalised_cost"] == row["evaluation"]["constraints"]["cost"]["mean"] / row["budget"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    again = bench_offline(data, entries(), **arguments)
    assert again["rows"] == result["rows"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text(json.dumps(result))
    ((env, lines),) = offline_tables(tmp_path / "out")
    assert env == "PointRobot-v0"
    assert [line.split(" | ")[1] for line in lines] == [
        *("best episode of the data within it", "`bc_safe`, small"),
        *("best episode of the data within it", "`bc_safe`, small", "`fisor`, small"),
    ]


def test_a_solver_is_named_with_preset_and_steps():
    with pytest.raises(ConfigError, match=r"SOLVER\[:PRESET\[:STEPS\]\]; got 'bc:small:x'"):
        Entry.parse("bc:small:x", steps=1, batch=1)
    with pytest.raises(UnknownNameError):
        Entry.parse("cdtt", steps=1, batch=1)


def test_budgets_and_seeds_are_needed(data, tmp_path):
    with pytest.raises(ConfigError, match="at least 2 episodes are needed; got"):
        bench_offline(data, entries(), budgets=[], seeds=[0], runs=tmp_path)


def test_a_peer_that_ends_without_an_answer_is_an_error(tmp_path):
    (tmp_path / "facts.json").write_text('{"action_width": 2}')
    command = [sys.executable, "-c", "import sys; sys.stdin.buffer.readline(); sys.stdin.buffer.readline()"]
    with OsrlPolicy(command, tmp_path, cost_name="cost", target_return=1.0, target_cost=2.0) as policy:
        policy.begin(1)
        with pytest.raises(ConfigError, match="must answer with actions"):
            policy.act([[0.0]], None, None, True)
