"""The benchmark of oscillation: metrics by hand, the choice of settings, cells that are not done twice, its outputs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

import saferl
from saferl.bench import bench_reload
from saferl.bench.reload import FINITE_TASKS, SAMPLED_TASKS, VARIANTS, cells, finite, sampled
from saferl.bench.reload.cells import Cell, Records, Workers, is_finite, run_cell
from saferl.bench.reload.fresh import FreshEpisodes
from saferl.bench.reload.limits import careful
from saferl.bench.reload.table import columns_of, markdown, rows_of
from saferl.bench.reload.variants import FINITE_VARIANTS, SAMPLED_VARIANTS
from saferl.envs.registry import ENVS
from saferl.errors import ConfigError, RunFolderError, UnknownNameError
from saferl.evaluation import evaluate
from saferl.evaluation.exact import cmdp_of
from saferl.solvers import SOLVERS, PPOLag

CHEETAH, HOPPER = "SafetyHalfCheetahVelocity-v1", "SafetyHopperVelocity-v1"


def test_every_variant_has_six_different_settings_of_options_that_its_solver_has():
    assert tuple(FINITE_VARIANTS) == tuple(SAMPLED_VARIANTS) == VARIANTS
    for table in (FINITE_VARIANTS, SAMPLED_VARIANTS):
        for variant in table.values():
            assert len({json.dumps(setting) for setting in variant.grid}) == 6
            for setting in variant.grid:
                SOLVERS.load(variant.solver).config_class(**variant.shared, **setting)
    assert set(FINITE_TASKS) | set(SAMPLED_TASKS) <= set(ENVS)
    assert [is_finite(task) for task in (*FINITE_TASKS, CHEETAH)] == [True] * 4 + [False]


def test_metrics_of_late_iterates_are_those_computed_by_hand():
    """Twenty iterates, of which the last two are late."""
    values, costs = np.full(20, 9.0), np.full((20, 1), 9.0)
    values[-2:], costs[-2:, 0] = [0.2, 0.6], [0.4, 0.8]
    metrics = finite.late_metrics(values, costs, np.array([0.5]), 0.5)
    assert metrics == pytest.approx(
        {
            "last_gap": -0.1,
            "last_violation": 0.3,
            "late_mean_gap": 0.1,
            "late_mean_violation": 0.15,
            "late_worst_violation": 0.3,
            "late_error": (0.3 + 0.0 + 0.1 + 0.3) / 2,
            "late_cost_deviation": 0.2,
            "late_oscillation": 0.4,
            "late_crossings": 1,
        }
    )
    assert finite.score(metrics) == (metrics["late_error"],)


def test_the_violation_is_that_of_the_worst_constraint():
    costs = np.array([[0.1, 0.9]] * 10)
    metrics = finite.late_metrics(np.zeros(10), costs, np.array([0.5, 0.7]), 0.0)
    assert metrics["last_violation"] == pytest.approx(0.2)


def test_what_episodes_add_by_chance_is_subtracted_from_the_deviation():
    """Unbiased in the variance: 400 data sets of 40 iterates, true deviation 3, episodes of deviation 6, 4 each."""
    rng = np.random.default_rng(0)
    for true in (3.0, 0.0):
        squares, plain = [], []
        for _ in range(400):
            means = true * rng.standard_normal(40)
            samples = means[:, None] + 6.0 * rng.standard_normal((40, 4))
            between = samples.mean(axis=1).var(ddof=1)
            squares.append(between - samples.var(axis=1, ddof=1).mean() / 4)
            assert sampled.settled_deviation(samples) == pytest.approx(np.sqrt(max(0.0, squares[-1])))
            plain.append(between)
        # Its standard error is about 0.2; four of them.
        assert np.mean(squares) == pytest.approx(true**2, abs=0.8)
        assert np.mean(plain) == pytest.approx(true**2 + 9.0, abs=0.8)
    assert sampled.settled_deviation(np.ones((1, 4))) == 0.0


def test_sampled_metrics_are_those_computed_by_hand():
    returns = np.array([[1.0, 3.0], [5.0, 5.0]])
    costs = np.array([[10.0, 30.0], [40.0, 40.0]])[..., None]
    metrics = sampled.late_metrics(returns, costs, np.array([25.0]))
    assert metrics == pytest.approx(
        {
            "last_return": 5.0,
            "last_cost": 40.0,
            "last_violation": 15.0,
            "late_mean_return": 3.5,
            "late_mean_cost": 30.0,
            "late_mean_violation": 7.5,
            "late_worst_violation": 15.0,
            "late_excess": 0.2,
            "late_cost_deviation": np.sqrt(200.0 - 50.0),
            "late_oscillation": 3.0,
            "late_crossings": 1,
        }
    )


def test_tuning_prefers_feasible_settings_and_then_their_return():
    def key(excess, ret):
        return sampled.score({"late_excess": excess, "late_mean_return": ret})

    assert min([key(0.5, 900.0), key(0.04, 100.0), key(-0.5, 200.0), key(0.06, 800.0)]) == key(-0.5, 200.0)


def test_rollouts_on_finite_tasks_are_whole_episodes_with_the_discount_of_the_task():
    assert finite.options_of(cmdp_of("ParadoxA-v0"))["n_steps"] == 66
    assert finite.options_of(cmdp_of("CatchCost-v0")) == {
        "n_steps": 72,
        "gamma": 1.0,
        "cost_gamma": 1.0,
        "dual_min_episodes": 1,
    }


def test_a_cell_on_a_finite_task_traces_the_exact_values_of_all_iterates():
    cell = Cell("CatchCost-v0", "reload", "reload", '{"policy_step": 0.1}', 3, 2304, 0)
    record = run_cell(cell)
    trace = record["trace"]
    assert trace["steps"] == [0, 1152, 2304]
    assert record["metrics"]["last_gap"] == pytest.approx(0.7 / 9 - trace["value"][-1], abs=1e-5)
    assert len(trace["cost"]) == 3
    assert run_cell(cell)["metrics"] == record["metrics"]


def tiny_cheetah(episodes=2):
    return Cell(CHEETAH, "ppo_lag", "ppo_lag", '{"learning_rate": 0.001}', 3, 640, episodes)


@pytest.fixture
def short_cheetah(monkeypatch):
    """Episodes of 30 steps, two environments and rollouts of 32 steps, in training and in evaluation."""
    real = saferl.make_vec
    short = {"max_episode_steps": 30}
    monkeypatch.setattr(sampled, "make_vec", lambda *args, **kwargs: real(*args, **kwargs, **short))
    monkeypatch.setattr("saferl.training.build.make_vec", lambda *args, **kwargs: real(*args, **{**kwargs, **short}))
    recipe = SimpleNamespace(options_for=lambda _: {"num_envs": 2, "n_steps": 32, "batch_size": 64})
    monkeypatch.setattr(sampled, "find_recipe", lambda _: recipe)


def test_a_cell_on_a_sampled_task_evaluates_the_last_tenth_of_the_iterates(short_cheetah):
    record = run_cell(tiny_cheetah())
    trace = record["trace"]
    assert trace["steps"] == [576, 640]
    assert len(trace["cost"]) == len(trace["return"]) == 2
    assert [row[0] for row in trace["training"]][:3] == [64, 128, 192]
    assert record["metrics"]["last_return"] == pytest.approx(trace["return"][-1], abs=0.01)


def test_a_training_too_short_for_two_late_iterates_is_refused(short_cheetah):
    with pytest.raises(ConfigError, match=r"rollout of 64 steps apart; got 639 steps.*Give --steps 640 or more"):
        run_cell(replace(tiny_cheetah(), steps=639))


def test_fresh_evaluations_leave_training_as_it_is(short_cheetah):
    one, other = (run_cell(tiny_cheetah(episodes))["trace"]["training"] for episodes in (2, 3))
    assert one == other


def test_fresh_episodes_are_those_of_the_evaluator(tmp_path):
    """Same seeds, same policy, same sampled actions, and each lane ends when its hopper falls."""
    model = PPOLag("MlpPolicy", saferl.make_vec(HOPPER, 2), n_steps=18, batch_size=36, seed=0).learn(36)
    fresh = FreshEpisodes(lambda: saferl.make_vec(HOPPER, 16), 500)
    th.manual_seed(0)
    episodes = [fresh.run(model) for _ in range(2)]
    from saferl.policy.artefact import save_artefact

    save_artefact(tmp_path / "artefact", model, model.constraints, {"env": HOPPER})
    expected = evaluate(tmp_path / "artefact", episodes=32, first_seed=500, workers=1).records
    assert len({record.length for record in expected}) > 5
    assert np.concatenate([e.returns for e in episodes]).tolist() == [record.return_ for record in expected]
    assert np.concatenate([e.costs[:, 0] for e in episodes]).tolist() == [record.costs["cost"] for record in expected]


def test_the_careful_task_is_rewarded_for_low_costs():
    env = saferl.make(lambda: careful("CatchCost-v0"), constraints=saferl.make("CatchCost-v0").constraints)
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(9)]
    assert [step[1] for step in steps] == [-1.0] * 9
    assert [step[4]["cost"] for step in steps] == [1.0] * 9


def fake_cells(monkeypatch, calls):
    """Trainings that take no time: setting 2 is the best, and a cost deviation that tells variant and seed."""

    def fake(cell):
        calls.append(cell)
        options = json.loads(cell.options)
        rate = options["multiplier_lr"]
        values = finite.late_metrics(np.full(20, 0.4), np.full((20, 1), 0.5), np.array([0.5]), 0.5)
        values |= {"late_error": abs(rate - 0.3), "late_cost_deviation": 0.1 + cell.seed}
        trace = {"steps": [0, 1000], "cost": [0.9, 0.5], "value": [0.9, 0.4]}
        return {"cell": cells.asdict(cell), "metrics": values, "trace": trace, "seconds": 1.0}

    monkeypatch.setattr(cells, "run_cell", fake)


def test_settings_are_chosen_on_the_tuning_seed_and_reported_on_others(monkeypatch):
    calls = []
    fake_cells(monkeypatch, calls)
    result = bench_reload(("ParadoxA-v0",), ("ppo_lag", "reload"), steps=10, tuning_steps=5, seeds=(0, 5))
    tuning = [cell for cell in calls if cell.seed == 1000]
    assert len(tuning) == 12
    assert {cell.steps for cell in tuning} == {5}
    assert [(cell.variant, cell.seed, cell.steps) for cell in calls[12:]] == [
        ("ppo_lag", 0, 10),
        ("ppo_lag", 5, 10),
        ("reload", 0, 10),
        ("reload", 5, 10),
    ]
    entry = result["tasks"]["ParadoxA-v0"]
    assert (entry["kind"], entry["limits"]) == ("exact", pytest.approx([0.5]))
    assert entry["optimal_value"] == pytest.approx(0.5)
    assert entry["variants"]["reload"]["setting"] == {"policy_step": 0.1, "multiplier_lr": 0.3}
    assert entry["variants"]["reload"]["mean"]["late_cost_deviation"] == pytest.approx(2.6)
    assert len(entry["variants"]["reload"]["tuning_scores"]) == 6


def test_finished_cells_are_not_done_again_and_half_a_line_is_dropped(monkeypatch, tmp_path):
    calls = []
    fake_cells(monkeypatch, calls)
    path = tmp_path / "deep" / "cells.jsonl"
    arguments = {"steps": 10, "seeds": (0,), "cells": path}
    bench_reload(("ParadoxA-v0",), ("reload",), **arguments)
    assert len(calls) == 7
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[: len(whole) - 20], encoding="utf-8")
    again = bench_reload(("ParadoxA-v0",), ("reload",), **arguments)
    assert [cell.seed for cell in calls[7:]] == [0]
    assert path.read_text(encoding="utf-8") == whole
    assert bench_reload(("ParadoxA-v0",), ("reload",), **arguments)["tasks"] == again["tasks"]
    assert len(calls) == 8
    bench_reload(("ParadoxA-v0",), ("reload",), **{**arguments, "steps": 11})
    assert len(calls) == 15


@pytest.mark.parametrize("content", ["not json\n", '{"cell": {"task": "a"}}\n', "3\n"])
def test_a_file_that_holds_something_else_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match="--cells must name a new file or one of finished cells"):
        Records(path)
    assert path.read_text(encoding="utf-8") == content
    with pytest.raises(RunFolderError, match="--cells must name a file of records that can be written"):
        Records(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seeds": (1000,)}, ConfigError, "The tuning seed must not be reported; got 1000"),
        ({"seeds": ()}, ConfigError, "number of seeds must be at least 1; got 0"),
        ({"steps": 0}, ConfigError, "number of steps must be at least 1; got 0"),
        ({"episodes": 1}, ConfigError, "number of episodes must be at least 2; got 1"),
        ({"jobs": 0}, ConfigError, "--jobs must be at least 1; got 0"),
        ({"variants": ("relaod",)}, UnknownNameError, "Unknown variant 'relaod'. Did you mean 'reload'"),
        ({"tasks": ("ParadoxC-v0",)}, UnknownNameError, "Unknown environment 'ParadoxC-v0'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_training(monkeypatch, arguments, error, message):
    calls = []
    fake_cells(monkeypatch, calls)
    with pytest.raises(error, match=message):
        bench_reload(**{"tasks": ("ParadoxA-v0",), **arguments})
    assert not calls


def test_a_figure_that_cannot_be_drawn_is_refused_before_any_training(monkeypatch, tmp_path):
    calls = []
    fake_cells(monkeypatch, calls)
    with pytest.raises(ConfigError, match=r"must be an \.svg or a \.png file; got 'figure\.pdf'"):
        bench_reload(("ParadoxA-v0",), figure=tmp_path / "figure.pdf")
    assert not calls


def test_the_figure_is_the_same_file_every_time(monkeypatch, tmp_path):
    fake_cells(monkeypatch, [])
    for name in ("one.svg", "two.svg"):
        bench_reload(("ParadoxA-v0",), ("ppo_lag", "reload"), seeds=(0,), figure=tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"<svg" in one


def test_the_table_compares_deviations_with_the_plain_lagrangian(monkeypatch):
    fake_cells(monkeypatch, [])
    result = bench_reload(("ParadoxA-v0",), ("ppo_lag", "reload"), steps=10, seeds=(0, 1))
    result["tasks"]["ParadoxA-v0"]["variants"]["reload"]["mean"]["late_cost_deviation"] = 0.15
    rows = rows_of(result["tasks"], "exact")
    assert [row[:2] for row in rows] == [("ParadoxA-v0", "ppo_lag"), ("ParadoxA-v0", "reload")]
    assert [row[-1] for row in rows] == ["1.00", "0.25"]
    assert rows_of(result["tasks"], "sampled") == []
    page = markdown(result)
    lines = page.splitlines()
    assert f"| {' | '.join(columns_of('exact'))} |" in lines
    assert all(f"| {' | '.join(row)} |" in lines for row in rows)
    assert "- `ParadoxA-v0`: cost at most 0.5 per step, optimum 0.5000" in lines
    assert page.startswith("Means over the training seeds 0, 1, 10 steps each;")


def test_processes_do_the_same_as_this_one():
    work = [Cell("ParadoxA-v0", "reload", "reload", "{}", seed, 1056, 0) for seed in (0, 5)]
    with Workers(1) as here, Workers(2) as there:
        one, other = ({r["cell"]["seed"]: r["metrics"] for r in workers.run(work)} for workers in (here, there))
    assert one == other
    assert set(one) == {0, 5}
