"""The benchmark of shields measures what it says."""

import json

import numpy as np
import pytest

from saferl.bench.shields import CASES, _builder, bench_shields, quantiles, time_projector, time_shield
from saferl.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize("name", list(CASES))
def test_every_case_keeps_its_shield_busy_without_a_fallback(name):
    case = _builder(name)()
    row = time_shield(case, 100)
    assert sum(row["kinds"].values()) == pytest.approx(1.0, abs=1e-3)
    assert "fallback" not in row["kinds"]
    assert row["kinds"].get("pass", 0.0) < 0.9
    for clock in ("wall_us", "cpu_us"):
        assert 0 < row[clock]["median"] <= row[clock]["p95"] <= row[clock]["p99"] <= row[clock]["max"]
    assert (_builder(name).__doc__ or "").count("\n") == 0


def test_a_run_gives_quantiles_ratio_rate_and_residual_as_json():
    lines = []
    result = bench_shields(["cbf_qp", "bounds"], calls=50, batch=64, repeats=2, report=lines.append)
    json.dumps(result, allow_nan=False)
    assert [line.partition(":")[0] for line in lines] == ["cbf_qp", "bounds", "cvxpy", "projector"]
    medians = [result["cvxpy"]["wall_us"]["median"], result["cases"]["cbf_qp"]["wall_us"]["median"]]
    assert result["cvxpy_to_cbf_qp"] == {"cbf_qp": round(medians[0] / medians[1], 1)}
    assert result["cvxpy"]["largest_difference"] < 1e-4
    assert result["projector"]["per_second"] > 0
    assert result["projector"]["largest_residual"] <= 1e-9
    assert 0.0 < result["projector"]["infeasible"] < 0.3
    assert "daqp" in result["versions"]


def test_quantiles_are_those_of_numpy_to_a_tenth():
    assert quantiles(np.arange(101.0)) == {"median": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def test_the_projector_gives_the_threads_of_torch_back():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    time_projector(16, 1)
    assert torch.get_num_threads() == before


def test_unknown_cases_and_empty_runs_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'cbf_qp'"):
        bench_shields(["cbf_pq"])
    with pytest.raises(ConfigError, match="calls must be at least 1"):
        bench_shields(calls=0)
