"""The scale benchmark measures what it says, each size in a process of its own."""

import json
import os

import numpy as np
import pytest

from saferl.bench import tabular_scale
from saferl.bench.tabular_scale import bench_tabular_scale, binding_grid, growth, measure
from saferl.envs.tabular.planning import best_response
from saferl.errors import ConfigError, TrainingError


def test_small_sizes_give_certified_figures_as_json():
    lines = []
    result = bench_tabular_scale((30,), report=lines.append)
    json.dumps(result)
    assert lines == [f"36 states: {result['sizes'][0]}"]
    row = result["sizes"][0]
    assert row["states"] == 36
    assert row["certified_gap"] <= result["tolerance"] == 1e-8
    assert row["primal_feasibility"] <= 1e-10
    assert row["multiplier"] > 1e-6
    assert min(row["oracle_calls"], row["policy_evaluations"]) > 1
    assert row["lp_seconds"] > 0
    assert row["reload_iteration_seconds"] > 0
    assert row["peak_memory_mb"] > row["memory_mb"] >= 0
    assert result["growth"] == []
    assert result["machine"]["cores"] >= 1
    assert "numpy" in result["versions"]


def test_the_budget_is_half_way_between_the_best_policy_and_the_least_cost():
    grid = binding_grid(60)
    assert grid.num_states == 64
    assert grid.is_sparse
    least = -best_response(grid, -grid.costs[..., 0]).value
    best = best_response(grid, grid.rewards - 1e-6 * grid.costs[..., 0])
    assert grid.limits[0] == pytest.approx(0.5 * (least + grid.evaluate(best.policy).costs[0]), abs=1e-12)
    assert measure(60)["value"] < best.value


def test_growth_is_the_exponent_between_neighbouring_sizes():
    rows = [
        {"states": 10, "lp_seconds": 1.0, "reload_iteration_seconds": 2.0, "memory_mb": 0.0},
        {"states": 1000, "lp_seconds": 100.0, "reload_iteration_seconds": 20.0, "memory_mb": 5.0},
        {"states": 1000, "lp_seconds": 100.0, "reload_iteration_seconds": 20.0, "memory_mb": None},
    ]
    assert growth(rows) == [{"from_states": 10, "to_states": 1000, "lp_seconds": 1.0, "reload_iteration_seconds": 0.5}]


@pytest.mark.parametrize("sizes", [(), (3,), (100, 2.5), (True,)])
def test_sizes_that_are_no_grids_are_refused(sizes):
    with pytest.raises(ConfigError, match="at least 4 each"):
        bench_tabular_scale(sizes)


def test_an_error_of_the_measuring_process_is_raised_here():
    with pytest.raises(ConfigError, match="tolerance must be a positive number"):
        bench_tabular_scale((16,), tolerance=-1.0)


def test_a_measuring_process_that_dies_is_reported(monkeypatch):
    monkeypatch.setattr(tabular_scale, "_answer", os._exit)
    with pytest.raises(TrainingError, match="16 states must end with a result; its process ended with exit code 1"):
        bench_tabular_scale((16,))


@pytest.mark.slow
def test_ten_thousand_states_are_solved_within_twenty_seconds():
    figures = measure(10_000)
    assert figures["certified_gap"] <= 1e-8
    assert figures["lp_seconds"] < 20
    assert figures["reload_iteration_seconds"] < 1
    assert np.isfinite(figures["value"])
