"""``saferl estimate``: what a policy would do, from data alone; and budgets at run time."""

import json
from dataclasses import replace

import pytest
from command_line import assert_one_message, flat, run_quietly
from point_robot_data import write_random_episodes

from saferl.data import load_dataset, write_dsrl


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight episodes, whose densities are known."""
    path = tmp_path_factory.mktemp("data") / "pr.hdf5"
    return write_random_episodes(path, 8, has_densities=True)


def trained(solver, data, folder, *more):
    code, _, err = run_quietly("train", solver, data, "--preset", "small", "--steps", 3, "--out", folder, *more)
    assert code == 0, err
    return folder


def estimated(*arguments):
    code, out, err = run_quietly("estimate", *arguments, "--steps", 5, "--resamples", 20)
    assert code == 0, err
    return out, err


def test_a_policy_with_a_density_has_both_estimates_and_no_verdict(data, tmp_path):
    run = trained("bc", data, tmp_path / "run", "--set", "loss=likelihood")
    found = json.loads(estimated(run, data, "--json")[0])
    assert (found["schema"], found["is_verdict"], found["episodes"]) == (1, False, 8)
    dataset = load_dataset(data)
    assert found["return"]["data"] == pytest.approx(dataset.returns().mean())
    assert found["costs"]["cost"]["data"] == pytest.approx(dataset.cost_returns().mean())
    for entry in (found["return"], found["costs"]["cost"]):
        for method in ("fitted_q", "doubly_robust"):
            assert entry[method]["low"] <= entry[method]["high"]
    assert (found["return"]["budget"], found["costs"]["cost"]["budget"]) == (None, 5.0)
    fewer = json.loads(estimated(run, data, "--episodes", 3, "--json")[0])
    assert (fewer["episodes"], json.loads(estimated(run, data, "--episodes", 9, "--json")[0])["episodes"]) == (3, 8)
    out, err = estimated(run, data, "--budget", "cost=2")
    text = flat(out)
    for part in ("fitted-Q (95 %)", "doubly robust (95 %)", "<= 2"):
        assert part in text
    assert "Not a verdict: estimates from data." in text
    assert not {"satisfied", "violated"} & set(text.split())
    assert "weights are worth" in flat(err)


def test_without_a_density_there_is_the_reason_and_an_error_if_it_was_asked_for(data, tmp_path):
    run = trained("fisor", data, tmp_path / "fisor")
    out, _ = estimated(run, data)
    assert "No doubly-robust estimate: FeasibleDiffusion has no density of its actions that could be computed." in flat(
        out
    )
    code, _, err = run_quietly("estimate", run, data, "--method", "doubly-robust")
    assert code == 2
    assert_one_message(err, "no doubly-robust estimate: FeasibleDiffusion has no density .* Use fitted-Q estimates")
    found = json.loads(estimated(run, data, "--method", "fitted-q", "--json")[0])
    assert found["return"]["doubly_robust"] is None
    assert found["refusal"] is None


def test_other_data_are_refused_and_budgets_checked(data, tmp_path):
    run = trained("bc", data, tmp_path / "run")
    dataset = load_dataset(data)
    narrow, elsewhere = tmp_path / "narrow.hdf5", tmp_path / "elsewhere.hdf5"
    cut = {key: getattr(dataset, key)[:, :3] for key in ("observations", "next_observations")}
    write_dsrl(replace(dataset, **cut), narrow)
    code, _, err = run_quietly("estimate", run, narrow)
    assert code == 2
    assert_one_message(err, "features and 2 actions; the data have 3 and 2. Give the data of its environment")
    code, _, err = run_quietly("estimate", run, data, "--budget", "costs=1")
    assert_one_message(err, "Unknown cost of the data 'costs'. Did you mean 'cost'")
    code, _, err = run_quietly("estimate", run, tmp_path / "none.hdf5")
    assert code != 0
    assert_one_message(err, "none.hdf5")
    write_dsrl(dataset.with_metadata(replace(dataset.metadata, env_id="Another-v0")), elsewhere)
    assert "The policy is for PointRobot-v0; the data are from Another-v0." in flat(estimated(run, elsewhere)[1])


@pytest.mark.parametrize("solver", ["caps", "trebi"])
def test_budgets_at_run_time_reach_the_policy_in_evaluations_and_estimates(solver, data, tmp_path):
    small = ("denoising_steps=2", "plans=2", "plan_length=4") if solver == "trebi" else ()
    run = trained(solver, data, tmp_path / solver, *(part for option in small for part in ("--set", option)))
    returns = []
    for budget in ("cost=0", "cost=1000"):
        code, out, err = run_quietly("eval", run, "--episodes", 1, "--workers", 1, "--budget", budget, "--json")
        assert code == 0, err
        summary = json.loads(out)
        assert summary["constraints"]["cost"]["budget"] == float(budget.partition("=")[2])
        returns.append(summary["return"]["mean"])
    assert returns[0] != returns[1]
    tight, loose = (
        json.loads(estimated(run, data, "--deterministic", "--episodes", 2, "--budget", budget, "--json")[0])
        for budget in ("cost=0", "cost=1000")
    )
    assert tight["return"]["fitted_q"] != loose["return"]["fitted_q"]
    assert any("remembers its episode" in note for note in tight["notes"])
