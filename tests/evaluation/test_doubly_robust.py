"""Doubly-robust estimates: unbiased whatever Q is, calibrated, and refused without densities."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from tabular_data import HORIZON, as_dataset, collect, exact, random_cmdp, random_policy
from test_fitted_q import Constant, intervals_of, line_data, values_of

from saferl.data import Dataset
from saferl.errors import ConfigError, DataError
from saferl.evaluation import EstimateOptions, offline_estimate
from saferl.evaluation.doubly_robust import Terms, episode_terms
from saferl.evaluation.fitted_q import Solution, tabular_regression
from saferl.policy.behaviour import GaussianMlp
from saferl.policy.feasible_diffusion import FeasibleDiffusion
from saferl.policy.offline_actor import OfflineActor


def every_episode(cmdp, behaviour, horizon):
    """All episodes that can happen, as a data set, and the probability of each."""
    last = cmdp.num_states - 1
    moves = cmdp.transitions[0].reshape(cmdp.num_states, cmdp.num_actions, cmdp.num_states)
    rows, chances = [], []

    def go_on(state, path, chance):
        if len(path) == horizon or (path and state == last):
            rows.extend(path)
            chances.append(chance)
            return
        for action, after in itertools.product(range(cmdp.num_actions), range(cmdp.num_states)):
            probability = behaviour[state, action] * moves[state, action, after]
            if probability > 0.0:
                row = (len(path), state, action, after, after == last)
                go_on(after, [*path, row], chance * probability)

    for state in np.flatnonzero(cmdp.rho):
        go_on(int(state), [], cmdp.rho[state])
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return as_dataset(cmdp, behaviour, *columns, horizon), np.array(chances)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_over_all_possible_episodes_is_the_exact_value_for_any_q(seed):
    """No sampling: every episode counts as often as it happens. The Q are random numbers, far from right."""
    horizon = 3
    cmdp = random_cmdp(seed, num_states=3, horizon=horizon)
    behaviour, table = random_policy(seed + 10, num_states=3), random_policy(seed + 20, num_states=3)
    data, chances = every_episode(cmdp, behaviour, horizon)
    assert chances.sum() == pytest.approx(1.0)
    log_ratios = np.log(table / behaviour)[data.observations[:, 0].astype(int), data.actions[:, 0].astype(int)]
    q = np.random.default_rng(seed).normal(size=(horizon + 1, 6, 3)) * 5.0
    q[0] = 0.0
    terms = episode_terms(tabular_regression(table, data), Solution(q), log_ratios, gamma=1.0, horizon=horizon)
    np.testing.assert_allclose(chances @ terms.values, exact(cmdp, table), atol=1e-9)
    assert np.abs(chances @ terms.values - exact(cmdp, behaviour)).max() > 0.01


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_without_an_end_the_mean_is_the_discounted_value_where_the_cut_off_rest_is_right(gamma):
    """Q is exact, so that what lies behind the time limit is too; the middle is corrected all the same."""
    cmdp = random_cmdp(0, num_states=3, gamma=gamma)
    behaviour, table = random_policy(10, num_states=3), random_policy(20, num_states=3)
    data, chances = every_episode(cmdp, behaviour, 3)
    found = cmdp.evaluate(table)
    q = np.concatenate([found.reward_q[..., None], found.cost_q], axis=-1).reshape(1, 6, 3) / cmdp.scale
    log_ratios = np.log(table / behaviour)[data.observations[:, 0].astype(int), data.actions[:, 0].astype(int)]
    terms = episode_terms(tabular_regression(table, data), Solution(q), log_ratios, gamma=gamma, horizon=None)
    np.testing.assert_allclose(chances @ terms.values, exact(cmdp, table), atol=1e-9)


def test_steps_behind_the_horizon_do_not_count():
    cmdp, table, behaviour = random_cmdp(3), random_policy(4), np.full((5, 2), 0.5)
    data = collect(cmdp, behaviour, 40, 0)
    shorter = collect(random_cmdp(3, horizon=4), behaviour, 40, 0, horizon=4)
    long = offline_estimate(table, data, horizon=4, method="doubly_robust")
    short = offline_estimate(table, shorter, horizon=4, method="doubly_robust")
    # The same seeds give the same first four steps; only the fits see more data.
    np.testing.assert_allclose(values_of(long, "doubly_robust"), values_of(short, "doubly_robust"), rtol=0.15)
    assert long.return_.data == pytest.approx(short.return_.data)


def test_the_exact_value_lies_in_the_interval_as_often_as_promised():
    """100 data sets; 95 % intervals of three signals hold in at least 88 (a larger study: 92 to 97)."""
    cmdp, table = random_cmdp(1), random_policy(2, spread=5.0)
    truth = exact(cmdp, table)
    found = [
        offline_estimate(table, collect(cmdp, np.full((5, 2), 0.5), 80, seed), method="doubly_robust", horizon=HORIZON)
        for seed in range(100)
    ]
    intervals = np.stack([intervals_of(each, "doubly_robust") for each in found])
    covered = ((intervals[..., 0] <= truth) & (truth <= intervals[..., 1])).mean(axis=0)
    assert (covered >= 0.88).all(), covered
    errors = np.stack([values_of(each, "doubly_robust") for each in found]) - truth
    assert (np.abs(errors.mean(axis=0)) < 3.5 * errors.std(axis=0) / 10.0).all()


def test_weights_are_worth_all_episodes_where_policy_and_behaviour_agree():
    data = collect(random_cmdp(0), np.full((5, 2), 0.5), 60, 0)
    assert offline_estimate(np.full((5, 2), 0.5), data).effective_episodes == pytest.approx(60.0)
    assert Terms(np.zeros((2, 1)), np.array([1.0, 3.0])).effective_episodes == pytest.approx(1.6)
    assert Terms(np.zeros((2, 1)), np.zeros(2)).effective_episodes == 0.0
    found = offline_estimate(np.eye(2)[[0, 1, 0, 1, 0]], data)
    assert found.effective_episodes < 20
    assert any("other things than the data" in note for note in found.notes)


def gaussian(mean, log_std):
    network = GaussianMlp(2, 1, net_arch=())
    with th.no_grad():
        network.layers[0].weight.zero_()
        network.layers[0].bias.copy_(th.tensor([mean, log_std]))
    return network


def squashed_data(behaviour, episodes=3000, length=3):
    """Actions of ``behaviour`` in a Box [-2, 2]; reward is the action, cost its square."""
    rng, count = np.random.default_rng(0), episodes * length
    observations = rng.normal(size=(count, 2)).astype(np.float32)
    with th.no_grad():
        unit = behaviour.act(th.from_numpy(observations), None, [np.random.default_rng(i) for i in range(count)], False)
        # A density per unit of the environment's actions is half of that per unit of [-1, 1].
        log_probs = behaviour.log_prob(th.from_numpy(observations), unit) + np.log(0.5)
    actions = 2.0 * unit.numpy()
    end = np.arange(count) % length == length - 1
    return Dataset.from_arrays(
        observations=observations,
        next_observations=np.roll(observations, -1, axis=0),
        actions=actions,
        rewards=actions[:, 0],
        costs=actions**2,
        terminals=np.zeros(count, dtype=bool),
        timeouts=end,
        log_probs=log_probs.numpy(),
    )


def actor(policy):
    box = spaces.Box(-2.0, 2.0, (1,), np.float32)
    return OfflineActor(policy, spaces.Box(-np.inf, np.inf, (2,), np.float32), box, ("cost",))


def test_a_policy_with_a_density_is_estimated_on_continuous_actions():
    policy = actor(gaussian(0.3, -0.5))
    data = squashed_data(gaussian(0.0, -0.3))
    draws = 2.0 * np.tanh(0.3 + np.exp(-0.5) * np.random.default_rng(1).standard_normal(1_000_000))
    truth = 3.0 * draws.mean(), 3.0 * np.square(draws).mean()
    found = offline_estimate(policy, data, options=EstimateOptions(steps=300, resamples=40))
    for entry, value in zip((found.return_, *found.costs.values()), truth, strict=True):
        # The fit's features are finite: doubly robust is right within its interval, fitted-Q within 5 %.
        slack = 0.5 * (entry.doubly_robust.high - entry.doubly_robust.low)
        assert entry.doubly_robust.value == pytest.approx(value, abs=1.5 * slack)
        assert slack < 0.1
        assert entry.fitted_q.value == pytest.approx(value, rel=0.06)
        assert abs(entry.data - value) > 3.0 * slack


def test_behaviour_and_policy_alike_have_ratios_of_one_in_the_units_of_the_environment():
    behaviour = gaussian(0.1, -0.5)
    found = offline_estimate(
        actor(behaviour), squashed_data(behaviour, episodes=50), options=EstimateOptions(steps=0, resamples=20)
    )
    assert found.effective_episodes == pytest.approx(50.0, rel=1e-3)
    assert found.return_.doubly_robust is not None


def test_without_a_density_doubly_robust_estimates_are_refused_with_the_reason():
    policy, data = actor(gaussian(0.0, -0.5)), squashed_data(gaussian(0.0, -0.5), episodes=20)
    quick = EstimateOptions(steps=0, resamples=20)
    with pytest.raises(ConfigError, match="no doubly-robust estimate: deterministic actions have no density"):
        offline_estimate(policy, data, method="doubly_robust", deterministic=True, options=quick)
    with pytest.raises(ConfigError, match="the data have no log_probs"):
        offline_estimate(policy, replace(data, log_probs=None), method="doubly_robust", options=quick)
    with pytest.raises(ConfigError, match="this policy has no density"):
        offline_estimate(Constant(0.0), line_data(episodes=3), method="doubly_robust", options=quick)
    table_data = replace(collect(random_cmdp(0), np.full((5, 2), 0.5), 5, 0), log_probs=None)
    with pytest.raises(ConfigError, match="the data have no log_probs, the behaviour's probabilities"):
        offline_estimate(random_policy(0), table_data, method="doubly_robust")
    assert not FeasibleDiffusion.has_density
    lies = replace(data, log_probs=np.full(len(data), -500.0, dtype=np.float32))
    with pytest.raises(DataError, match="grow beyond all bounds"):
        offline_estimate(policy, lies, options=quick)
