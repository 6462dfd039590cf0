"""TREBI: sums to go and losses by hand, budgets at run time, exact resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from cost_data import known_data

from saferl.data import Dataset
from saferl.errors import ConfigError
from saferl.solvers.offline.trebi import TREBI, discounted_to_go, window_errors

OPTIONS = {"channels": 8, "plan_length": 4, "denoising_steps": 4, "batch_size": 64}


def test_sums_to_go_end_with_the_episode_and_are_discounted():
    data = Dataset.from_arrays(
        observations=np.zeros((5, 1)),
        next_observations=np.zeros((5, 1)),
        actions=np.zeros((5, 1)),
        rewards=[1.0, 2.0, 4.0, 8.0, 16.0],
        costs=[1.0, 0.0, 1.0, 0.0, 1.0],
        terminals=[False, False, True, False, False],
        timeouts=[False, False, False, False, True],
    )
    np.testing.assert_allclose(
        discounted_to_go(data, 0.5), [[3.0, 1.25], [4.0, 0.5], [4.0, 1.0], [16.0, 0.5], [16.0, 1.0]]
    )
    np.testing.assert_allclose(discounted_to_go(data, 1.0)[:, 0], [7.0, 6.0, 4.0, 24.0, 16.0])


def test_the_first_action_weighs_more_and_the_pinned_observation_and_the_rest_nothing():
    windows, mask = th.zeros(1, 3, 4), th.tensor([[1.0, 1.0, 0.0]])
    for row, column, weight in ((0, 0, 10.0), (0, 1, 0.0), (0, 3, 0.0), (1, 0, 1.0), (1, 3, 1.0), (2, 0, 0.0)):
        wrong = windows.clone()
        wrong[0, row, column] = 2.0
        assert float(window_errors(wrong, windows, mask, 1, 10.0)) == pytest.approx(weight * 4.0 / 12.0)


def test_training_repeats_and_resumes_exactly():
    data = known_data(2)

    def weights(solver):
        return np.concatenate([value.numpy().ravel() for value in solver.policy().state_dict().values()])

    whole, first, second, other = (TREBI(preset="small", **OPTIONS) for _ in range(4))
    whole.fit(data, steps=6, seed=1)
    first.fit(data, steps=4, seed=1)
    other.fit(data, steps=6, seed=2)
    second.start(data, seed=1)
    second.load_state_dict(first.state_dict())
    th.manual_seed(99)
    second.advance(2)
    np.testing.assert_array_equal(weights(second), weights(whole))
    assert np.abs(weights(whole) - weights(other)).max() > 0


def test_one_training_serves_every_budget():
    """Rewards and costs rise with the action: a larger budget gives larger actions, and a spent one the smallest.

    Episodes have four steps, as plans do, so that a plan shows all that will be earned and spent.
    """
    solver = TREBI(preset="small", **{**OPTIONS, "plans": 12, "learning_rate": 3e-3, "tau": 0.03})
    solver.fit(replace(known_data(2), timeouts=np.arange(2000) % 4 == 3), steps=150)
    probe = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)

    def mean_action(budget, spent):
        actor = solver.actor().with_budgets({"cost": budget})
        state = actor.begin(len(probe))
        actor.observe(state, np.zeros(40), np.tile([spent, 0.0], (40, 1)), np.zeros(40))
        generators = [np.random.default_rng(row) for row in range(40)]
        return float(actor.act(probe, state, generators, deterministic=False).mean())

    assert mean_action(0.5, 0.0) < mean_action(4.0, 0.0) - 0.3
    assert mean_action(4.0, 3.5) < mean_action(4.0, 0.0) - 0.3


def test_plans_must_halve_evenly():
    with pytest.raises(ConfigError, match="multiple of 8, as there are 4 levels; got 12"):
        TREBI(plan_length=12)
    with pytest.raises(ConfigError, match="multipliers must be whole numbers"):
        TREBI(multipliers=())
