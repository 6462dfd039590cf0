"""What a policy would do along data: with a memory of its own, at its own budgets, in the data's units."""

import numpy as np
import pytest
from gymnasium import spaces
from remembering_policy import Remembering

from saferl.data import Dataset
from saferl.errors import ConfigError, DataError
from saferl.evaluation import EstimateOptions, offline_estimate
from saferl.evaluation.offline_actions import conduct_of
from saferl.policy.offline_actor import OfflineActor

LENGTHS = (3, 1, 2)
REWARDS = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
WEAR = np.array([0.5, 0.0, 0.5, 1.0, 0.0, 1.0])
BEFORE = np.array([0.0, 1.5, 3.5, 0.0, 0.0, 5.0])
"""Rewards and wear of the episode before each row."""
TOTALS = np.array([7.0, 5.0, 12.0])


def data():
    ends = np.cumsum(LENGTHS) - 1
    return Dataset.from_arrays(
        observations=np.zeros((6, 2)),
        next_observations=np.zeros((6, 2)),
        actions=np.full((6, 1), 1.0),
        rewards=REWARDS,
        costs=np.stack([np.zeros(6), WEAR], axis=1),
        terminals=np.zeros(6, dtype=bool),
        timeouts=np.isin(np.arange(6), ends),
        cost_names=("heat", "wear"),
    )


def actor(names=("wear", "heat"), budgets=None):
    box = spaces.Box(-2.0, 2.0, (1,), np.float32)
    return OfflineActor(Remembering(2, 1), spaces.Box(-np.inf, np.inf, (2,), np.float32), box, names, budgets)


def test_a_policy_with_a_memory_is_told_what_the_behaviour_earned_and_spent():
    found = conduct_of(actor(), data(), draws=4, deterministic=True, seed=0)
    np.testing.assert_allclose(found.current[:, 0, 0], np.tanh(0.1 * BEFORE), rtol=1e-6)
    np.testing.assert_allclose(found.ends[:, 0, 0], np.tanh(0.1 * TOTALS), rtol=1e-6)
    np.testing.assert_allclose(found.taken, 0.5)
    assert found.current.shape == (6, 1, 1)
    assert any("remembers its episode" in note for note in found.notes)


def test_it_acts_at_the_budgets_of_its_own_names_whatever_their_order_in_the_data():
    """Its first cost is wear: the limit of 50 counts as 0.5."""
    found = conduct_of(actor(budgets={"wear": 50.0}), data(), draws=1, deterministic=True, seed=0)
    np.testing.assert_allclose(found.current[:, 0, 0], np.tanh(0.1 * (BEFORE + 0.5)), rtol=1e-6)


def test_budgets_of_an_estimate_reach_a_policy_that_takes_them():
    quick = EstimateOptions(steps=2, resamples=20)
    found = [
        offline_estimate(actor(), data(), deterministic=True, budgets={"wear": budget}, options=quick)
        for budget in (0.0, 100.0)
    ]
    assert found[0].return_.fitted_q != found[1].return_.fitted_q
    assert found[1].costs["wear"].budget == 100.0


def test_draws_of_a_stochastic_policy_differ_and_repeat_with_the_seed():
    one, again = (conduct_of(actor(), data(), draws=3, deterministic=False, seed=5) for _ in range(2))
    other = conduct_of(actor(), data(), draws=3, deterministic=False, seed=6)
    assert one.current.shape == (6, 3, 1)
    assert np.unique(one.current[0]).size == 3
    np.testing.assert_array_equal(one.current, again.current)
    assert not np.array_equal(one.current, other.current)


def test_policies_for_other_costs_or_observations_are_refused():
    with pytest.raises(DataError, match=r"knows the costs \('smoke',\); the data have \('heat', 'wear'\)"):
        conduct_of(actor(("smoke",)), data(), draws=1, deterministic=True, seed=0)

    class Pictures:
        action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        observation_space = spaces.Dict({"x": spaces.Box(-1.0, 1.0, (2,), np.float32)})

    with pytest.raises(ConfigError, match="observations as arrays, which this policy does not take"):
        conduct_of(Pictures(), data(), draws=1, deterministic=True, seed=0)
