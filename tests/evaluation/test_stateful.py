"""Policies that remember their episode are asked and told lane by lane, at the budgets that they are judged by."""

import numpy as np
import pytest
from remembering_policy import Remembering

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.errors import ConfigError
from saferl.evaluation import evaluate
from saferl.policy.offline import POLICIES
from saferl.policy.offline_actor import OfflineActor
from saferl.policy.offline_artefact import save_offline_artefact

ENV = "saferl.testing.solver_envs:drift"
SETUP = {"first_seed": 5, "deterministic": False}


def actor(names=("always", "never")):
    env = saferl.make(ENV)
    return OfflineActor(Remembering(3, 2), env.observation_space, env.action_space, names)


@pytest.fixture
def artefact(tmp_path, monkeypatch):
    monkeypatch.setitem(POLICIES, "remembering", "remembering_policy:Remembering")
    constraints = ConstraintSet([Constraint("always", 2.0), Constraint("never", 5.0)])
    save_offline_artefact(tmp_path / "artefact", actor(), constraints, {"env": ENV, "env_kwargs": {}, "solver": "x"})
    return saferl.load(tmp_path / "artefact")


def test_episodes_are_the_same_for_one_and_two_workers():
    one = evaluate(actor(), ENV, episodes=20, workers=1, **SETUP)
    two = evaluate(actor(), ENV, episodes=20, workers=2, **SETUP)
    assert one.records == two.records
    assert len({record.return_ for record in one.records}) == 20


def test_an_episode_does_not_depend_on_those_beside_it():
    many = evaluate(actor(), ENV, episodes=16, workers=1, **SETUP).records
    last = evaluate(actor(), ENV, episodes=1, workers=1, first_seed=5 + 15).records
    assert many[15].return_ == last[0].return_


def test_the_policy_is_told_every_reward_and_cost_of_its_own_lane():
    """Without noise the return follows by hand: a reward is the sum of two equal actions, and each step costs 1."""
    returns = evaluate(actor(), ENV, episodes=3, workers=1, deterministic=True).records
    seen, total = 0.0, 0.0
    for _ in range(10):
        reward = 2.0 * np.tanh(0.1 * seen)
        seen, total = seen + reward + 1.0, total + reward
    assert [record.return_ for record in returns] == pytest.approx([total] * 3, rel=1e-5)


def test_the_policy_acts_at_the_budget_that_it_is_judged_by(artefact):
    low = evaluate(artefact, budgets={"always": 0.0}, episodes=2, workers=1, deterministic=True)
    high = evaluate(artefact, budgets={"always": 50.0}, episodes=2, workers=1, deterministic=True)
    own = evaluate(artefact, episodes=2, workers=1, deterministic=True)
    assert high.summary["constraints"]["always"]["budget"] == 50.0
    assert low.records[0].return_ < own.records[0].return_ < high.records[0].return_
    by_hand = evaluate(artefact.with_budgets({"always": 2.0}), ENV, budgets={"always": 2.0}, episodes=2, workers=1,
                       deterministic=True)  # fmt: skip
    assert own.records[0].return_ == by_hand.records[0].return_


def test_a_cost_that_the_environment_does_not_report_is_named():
    with pytest.raises(ConfigError, match=r"data have the cost 'other'.*reports always, never"):
        evaluate(actor(("always", "other")), ENV, episodes=1, workers=1)


def test_predict_goes_on_with_its_state_and_begins_anew_where_an_episode_starts(artefact):
    obs = np.zeros((2, 3), np.float32)
    first, state = artefact.predict(obs, deterministic=True)
    artefact.observe(state, [5.0, 5.0], [[1.0, 0.0]] * 2, [False, False])
    later, state = artefact.predict(obs, state, np.array([False, True]), deterministic=True)
    assert later[0, 0] > first[0, 0]
    assert later[1, 0] == first[1, 0]
