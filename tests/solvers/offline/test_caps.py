"""CAPS: weights of the heads by hand, the order of its heads, budgets at run time, exact resume."""

import numpy as np
import pytest
import torch as th
from cost_data import QUICK, assert_repeats_and_resumes, known_data

from saferl.errors import ConfigError
from saferl.solvers.offline.caps import CAPS, cost_units, head_weights

OPTIONS = {**QUICK, "critic_arch": (32, 32)}


def test_heads_go_from_the_rewards_weight_to_the_costs():
    rewards, costs = th.tensor([0.0, np.log(2.0), 50.0]), th.tensor([np.log(3.0), 0.0, 0.0])
    two = head_weights(rewards, costs, 2, 1.0, 100.0)
    np.testing.assert_allclose(two, [[1.0, 2.0, 100.0], [3.0, 1.0, 1.0]], rtol=1e-6)
    four = head_weights(rewards, costs, 4, 1.0, 100.0)
    np.testing.assert_allclose(four[1], [1.0 + 2.0, 2.0 + 2.0 / 3.0, 100.0 + 2.0 / 3.0], rtol=1e-6)
    np.testing.assert_allclose(four[2], [1.0 + 4.0, 2.0 + 4.0 / 3.0, 100.0 + 4.0 / 3.0], rtol=1e-6)
    np.testing.assert_allclose(four[[0, 3]], two)


def test_a_single_cost_has_unit_one_and_one_that_never_varies_no_say():
    np.testing.assert_array_equal(cost_units(known_data(), 0.9), [1.0])
    np.testing.assert_array_equal(cost_units(known_data(2), 0.9), [1.0, 1e9])


def test_training_repeats_and_resumes_exactly():
    assert_repeats_and_resumes(CAPS, critic_arch=(32, 32))


def test_one_training_serves_every_budget():
    """Rewards and costs rise with the action: the heads are in falling order, a larger budget takes an earlier one."""
    solver = CAPS(preset="small", **OPTIONS)
    solver.fit(known_data(2), steps=500)
    probe = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
    network = solver.policy_network
    with th.no_grad():
        means = network.means(network.features(th.from_numpy(probe))).mean(dim=0)[:, 0]
    assert (means.diff() < -0.05).all()
    taken = [
        float(solver.actor().with_budgets({"cost": budget}).predict(probe, deterministic=True)[0].mean())
        for budget in np.linspace(1.0, 20.0, 39)
    ]
    assert (np.diff(taken) >= -1e-6).all()
    assert taken[0] == pytest.approx(float(means[-1]), abs=0.02)
    assert taken[-1] == pytest.approx(float(means[0]), abs=0.02)
    assert len(np.unique(np.round(taken, 2))) >= 3
    # Once the budget is spent within an episode, the cheapest head acts.
    actor = solver.actor().with_budgets({"cost": 19.0})
    state = actor.begin(len(probe))
    actor.observe(state, np.zeros(200), np.tile([18.9, 0.0], (200, 1)), np.zeros(200))
    after = actor.act(probe, state, None, deterministic=True).mean()
    assert after == pytest.approx(float(means[-1]), abs=0.02)


def test_fewer_than_two_heads_are_refused():
    with pytest.raises(ConfigError, match="heads must be at least 2"):
        CAPS(heads=1)
