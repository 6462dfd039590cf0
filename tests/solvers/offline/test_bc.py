"""Behaviour cloning recovers what it imitates, and BC-Safe imitates the right episodes."""

import numpy as np
import pytest
from gymnasium import spaces

from saferl.data import Dataset, DatasetMetadata
from saferl.errors import ConfigError, ConstraintError, DataError, UnknownNameError, UsageError
from saferl.solvers.offline.bc import BC
from saferl.solvers.offline.bc_safe import BCSafe, episodes_within
from saferl.solvers.offline.data import EDGE, Spaces, find_spaces, prepare
from saferl.testing.offline_checker import small_data

WEIGHTS = np.array([[0.3, -0.2], [0.1, 0.2], [0.0, 0.1]])


def linear_data(num_costs=1, *, noise=0.0, seed=0):
    """1,000 transitions in episodes of 100 whose actions are ``tanh(s W)``; the first four episodes flip its sign."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(1000, 3)).astype(np.float32)
    sign = np.where(np.arange(1000) < 400, -1.0, 1.0)[:, None]
    timeouts = np.zeros(1000, dtype=bool)
    timeouts[99::100] = True
    costs = np.where(sign < 0, 1.0, 0.01) * np.ones((1, num_costs))
    return Dataset.from_arrays(
        observations=observations,
        next_observations=observations,
        actions=np.tanh(sign * observations @ WEIGHTS + noise * rng.normal(size=(1000, 2))),
        rewards=np.zeros(1000),
        costs=costs,
        terminals=np.zeros(1000, dtype=bool),
        timeouts=timeouts,
    )


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_a_linear_policy_is_recovered(loss):
    data = linear_data(noise=0.05).select(np.arange(4, 10))
    solver = BC(loss=loss, net_arch=(), learning_rate=0.02, batch_size=256)
    solver.fit(data, steps=400)
    probe = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    actions, _ = solver.predict(probe, deterministic=True)
    assert np.abs(actions - np.tanh(probe @ WEIGHTS)).max() < 0.03


def test_the_likelihood_also_recovers_the_noise():
    solver = BC(loss="likelihood", net_arch=(), learning_rate=0.02, batch_size=512)
    solver.fit(linear_data(noise=0.3).select(np.arange(4, 10)), steps=600)
    _, log_std = solver.network(solver.network.shift[None])
    np.testing.assert_allclose(log_std.detach().exp().numpy(), 0.3, rtol=0.1)


def test_bc_safe_imitates_the_episodes_within_the_budget_alone():
    solver = BCSafe(net_arch=(), learning_rate=0.02)
    solver.fit(linear_data(), steps=400, budgets={"cost": 10.0})
    probe = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    assert np.abs(solver.predict(probe)[0] - np.tanh(probe @ WEIGHTS)).max() < 0.03


def test_the_budget_itself_is_kept_and_every_constraint_counts():
    data = small_data()
    sums = data.cost_returns()
    chosen = episodes_within(data, np.array([5.0, 6.0]))
    expected = (sums[:, 0] <= 5.0) & (sums[:, 1] <= 6.0)
    assert chosen.num_episodes == expected.sum() > 0
    assert (sums[:, 0] == 5.0).any() or (sums[:, 1] == 6.0).any()
    assert episodes_within(data, np.array([np.inf, np.inf])).num_episodes == data.num_episodes


def test_a_budget_below_every_episode_names_the_lowest_cost_sum():
    with pytest.raises(
        DataError, match=r"No episode of 10 keeps the budgets; the lowest cost sums are cost 1 \(budget"
    ):
        BCSafe().fit(linear_data(), steps=1, budgets={"cost": 0.5})
    data = linear_data(2)
    costs = data.costs.copy()
    costs[400:, 1], costs[:400, 1] = 1.0, 0.0
    data = Dataset.from_arrays(**{**data.arrays(), "costs": costs})
    with pytest.raises(DataError, match=r"keeps the budgets at once; .*cost 1 \(budget 2\), cost_1 0 \(budget 3\)"):
        BCSafe().fit(data, steps=1, budgets={"cost": 2.0, "cost_1": 3.0})


def test_missing_and_unknown_budgets_are_refused():
    with pytest.raises(ConstraintError, match="bc_safe trains for budgets; got none"):
        BCSafe().fit(small_data(), steps=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'cost_0'"):
        BCSafe().fit(small_data(), steps=1, budgets={"cots_0": 5.0})
    with pytest.raises(ConfigError, match="at least 0; got -1"):
        BCSafe().fit(small_data(), steps=1, budgets={"cost_0": -1.0})


def test_actions_are_scaled_by_the_box_and_kept_off_its_edge():
    box = spaces.Box(np.zeros(2, np.float32), np.full(2, 10.0, np.float32))
    known = Spaces(spaces.Box(-9.0, 9.0, (4,)), box, "environment")
    scaled = prepare(small_data(scale=10.0), known_spaces=known).dataset.actions
    np.testing.assert_allclose(scaled, small_data().actions, atol=1e-5)
    assert np.abs(scaled).max() <= EDGE
    with pytest.raises(DataError, match=r"actions must lie in .*row"):
        prepare(small_data(scale=30.0), known_spaces=known)


def test_spaces_are_those_of_a_registered_environment_and_import_paths_are_not_followed():
    def named(env_id):
        return small_data().with_metadata(DatasetMetadata(env_id=env_id))

    for unknown in (None, "NobodyKnows-v0", "os:system"):
        found = find_spaces(named(unknown))
        assert (found.source, found.observation.shape, found.action) == ("data", (4,), spaces.Box(-1.0, 1.0, (2,)))
    with pytest.raises(DataError, match="PointRobot-v0, whose observations have 11 numbers; theirs have 4"):
        find_spaces(named("PointRobot-v0"))


def test_a_solver_that_was_not_trained_says_so():
    with pytest.raises(UsageError, match=r"BC has not been trained. Call fit"):
        BC().predict(np.zeros(3))


def test_options_are_given_as_a_config_or_one_by_one():
    assert BC(preset="small", batch_size=7).config.net_arch == (64, 64)
    assert BC(preset="small", batch_size=7).config.batch_size == 7
    with pytest.raises(ConfigError, match="got both"):
        BC(BC().config, batch_size=7)
    with pytest.raises(UnknownNameError, match="Did you mean 'small'"):
        BC(preset="smal")


def test_the_callback_hears_of_every_update_and_does_not_disturb_it():
    import torch as th

    heard = []

    def disturb(done, metrics):
        th.rand(3)
        heard.append((done, metrics["loss/policy"]))

    with_callback = BC(preset="small").fit(small_data(), steps=5, callback=disturb)
    assert [done for done, _ in heard] == [1, 2, 3, 4, 5]
    assert with_callback.metrics == BC(preset="small").fit(small_data(), steps=5).metrics
