"""What FISOR learned as a shield: the same numbers as its policy's, tightened by epsilon, around any policy."""

from pathlib import Path

import numpy as np
import pytest
import torch as th

import saferl
from saferl.bench.point_robot import bench_point_robot
from saferl.envs.point_robot.truth import Resolution
from saferl.errors import ArtefactError, ConfigError
from saferl.policy import load
from saferl.shields import load_shield, save_shield
from saferl.shields.critic import CriticConfig
from saferl.shields.feasibility import feasibility_shield
from saferl.testing import check_shield

DATA = Path(__file__).parents[1] / "data" / "point_robot.hdf5"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of FISOR that is short, but knows the hazards."""
    folder = tmp_path_factory.mktemp("runs") / "f"
    saferl.train("fisor", DATA, steps=600, out=folder, preset="small")
    return folder


@pytest.fixture(scope="module")
def states():
    """Observations of the data, and any actions."""
    observations = saferl.data.load_dataset(DATA).observations[::40]
    return observations, np.random.default_rng(0).uniform(-1.0, 1.0, (len(observations), 2))


def test_risk_and_value_are_those_of_the_policy(run, states):
    shield, policy = feasibility_shield(run), load(run).policy.policy
    observations, actions = states
    expected = policy.action_feasibility(th.from_numpy(observations), th.from_numpy(actions.astype(np.float32)))
    found = [shield.risk(obs, action[None])[0] for obs, action in zip(observations, actions, strict=True)]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
    values = shield.value(observations.astype(np.float64))[:, 0]
    np.testing.assert_allclose(values, policy.feasibility(th.from_numpy(observations)).numpy(), atol=2e-5)


def test_epsilon_makes_the_feasible_set_smaller(run, states):
    observations, actions = states
    loose, tight = feasibility_shield(run), feasibility_shield(run, epsilon=0.1)
    for obs, action in zip(observations[:20], actions, strict=False):
        assert tight.risk(obs, action[None])[0] == pytest.approx(loose.risk(obs, action[None])[0] + 0.1)
    passed = [
        sum(shield.filter(obs, action).kind == "pass" for obs, action in zip(*states, strict=True))
        for shield in (loose, tight)
    ]
    assert 0 < passed[1] < passed[0]


def test_what_is_executed_is_accepted_where_something_is(run, states):
    shield = feasibility_shield(run)
    kinds = set()
    for obs, action in zip(*states, strict=True):
        decision = shield.filter(obs, action)
        kinds.add(decision.kind)
        if decision.kind in ("pass", "resampled"):
            assert shield.risk(obs, decision.action[None])[0] <= 0.0
        else:
            assert decision.kind == "infeasible"
            assert shield.risk(obs, decision.action[None])[0] <= shield.risk(obs, action[None])[0]
    assert kinds == {"pass", "resampled", "infeasible"}


def test_it_keeps_the_protocol_and_travels_as_data(run, states, tmp_path):
    shield, (observations, actions) = feasibility_shield(run, epsilon=0.05), states
    report = check_shield(
        shield, sample_obs=lambda generator: observations[generator.integers(len(observations))], steps=100
    )
    assert report.problems == ()
    again = load_shield(save_shield(shield, tmp_path / "f"))
    for obs, action in zip(observations[:20], actions, strict=False):
        assert again.filter(obs, action).action.tolist() == shield.filter(obs, action).action.tolist()


def test_it_refuses_other_policies_and_options(run, tmp_path):
    saferl.train("bc", DATA, steps=5, out=tmp_path / "bc")
    with pytest.raises(ConfigError, match="must be a run of fisor"):
        feasibility_shield(tmp_path / "bc")
    with pytest.raises(ConfigError, match="epsilon of at least 0"):
        feasibility_shield(run, epsilon=-0.1)
    with pytest.raises(ConfigError, match="the rule 'feasibility'"):
        feasibility_shield(run, config=CriticConfig())
    with pytest.raises(ArtefactError):
        feasibility_shield(tmp_path)


def test_the_benchmark_measures_set_policy_and_shield(run, tmp_path, monkeypatch):
    small = Resolution(positions=41, speeds=21, headings=32, hold=4)
    monkeypatch.setattr("saferl.bench.point_robot.RESOLUTIONS", {"fine": small})
    picture, lines = tmp_path / "learned.svg", []
    result = bench_point_robot(
        runs=[run], cache=tmp_path, figure=picture, episodes=40, calibration=200, report=lines.append
    )
    (row,) = result["rows"]
    assert row["training"]["steps"] == 600
    assert row["epsilon"] >= 0.0
    for part in row["slices"]:
        assert part["calibrated"]["coverage"] <= part["epsilon_0"]["coverage"]
        assert part["h_alone"]["coverage"] == 1.0
    assert row["shield"]["shielded"]["violations"] < row["shield"]["alone"]["violations"]
    assert picture.exists()
    assert len(lines) >= 1
    with pytest.raises(ConfigError, match="needs a run and an episode"):
        bench_point_robot(runs=[], cache=tmp_path)
