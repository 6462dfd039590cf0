"""Thresholds, targets and twins of solvers with cost critics, by hand."""

import numpy as np
import pytest
import torch as th
from cost_data import known_data

from saferl.errors import ConstraintError
from saferl.policy.twin_critics import TwinCritics, mixed, pessimistic
from saferl.policy.vae import ConditionalVae, PerturbedVae, lagrangian_best, latent_kl, vae_loss
from saferl.solvers.offline.cost_critics import bellman_targets, critic_loss, discounted_threshold, limits_of
from saferl.solvers.offline.data import prepare


@pytest.mark.parametrize(
    ("budget", "horizon", "threshold"), [(10.0, 200, 4.330), (10.0, 300, 3.170), (20.0, 1000, 2.000)]
)
def test_a_budget_becomes_the_discounted_sum_of_an_even_cost(budget, horizon, threshold):
    assert discounted_threshold(budget, 0.99, horizon) == pytest.approx(threshold, abs=5e-4)
    even = budget / horizon * (0.99 ** np.arange(horizon)).sum()
    assert discounted_threshold(budget, 0.99, horizon) == pytest.approx(even, rel=1e-12)


def test_only_costs_with_a_budget_are_limited():
    limits = limits_of(prepare(known_data(2), budgets={"cost_1": 5.0}), 0.8)
    assert limits.names == ("cost_1",)
    assert limits.columns.tolist() == [1]
    assert limits.thresholds.tolist() == [discounted_threshold(5.0, 0.8, 20)]
    with pytest.raises(ConstraintError, match="at least one of the costs cost, cost_1; got none"):
        limits_of(prepare(known_data(2)), 0.8)


def test_targets_of_rewards_and_costs_end_at_terminal_states_alone():
    signals, later = th.tensor([[1.0, 1.0], [0.0, 2.0]]), th.tensor([[10.0, 10.0], [20.0, 20.0]])
    targets = bellman_targets(signals, later, th.tensor([0.0, 1.0]), 0.5)
    np.testing.assert_array_equal(targets, [[6.0, 1.0], [10.0, 2.0]])


def test_pessimism_is_low_for_rewards_and_high_for_costs():
    twins = th.tensor([[[[1.0]], [[3.0]]], [[[1.0]], [[3.0]]]])
    rewards, costs = pessimistic(twins)
    assert (rewards.item(), costs.item()) == (1.0, 3.0)
    np.testing.assert_allclose(mixed(twins, 0.75)[:, 0, 0], [0.75 * 1 + 0.25 * 3, 0.75 * 3 + 0.25 * 1])


def test_a_twin_is_the_pessimistic_one_of_its_members():
    critics = TwinCritics(1, 2, 1, (4,), members=3)
    features, actions = th.randn(5, 2), th.randn(5, 2, 1)
    every, twins = critics.every(features, actions), critics(features, actions)
    assert every.shape == (2, 2, 3, 5, 2)
    np.testing.assert_array_equal(twins[0].detach(), every[0].amin(dim=1).detach())
    np.testing.assert_array_equal(twins[1].detach(), every[1].amax(dim=1).detach())


def test_the_critics_loss_sums_mean_squares_over_the_networks():
    values = th.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2, 1)
    # Networks (1, 2) and (3, 4), targets (0, 0): (1 + 4) / 2 + (9 + 16) / 2.
    assert critic_loss(values, th.zeros(1, 2)).item() == pytest.approx(15.0)


def test_the_latent_kl_is_that_of_two_gaussians():
    mean, log_std = th.randn(6, 3), th.randn(6, 3)
    exact = th.distributions.kl_divergence(
        th.distributions.Normal(mean, log_std.exp()), th.distributions.Normal(th.zeros(3), th.ones(3))
    )
    np.testing.assert_allclose(latent_kl(mean, log_std), exact.mean(dim=1), rtol=1e-5)


def test_the_auto_encoder_learns_which_actions_belong_to_an_observation():
    th.manual_seed(0)
    vae = ConditionalVae(1, 1, width=32)
    optimizer = th.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(300):
        features = th.rand(128, 1) - 0.5
        loss = vae_loss(vae, features, features, th.randn(128, 2), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probe = th.tensor([[-0.4], [0.4]])
    np.testing.assert_allclose(vae.decode(probe, th.zeros(2, 1, 2))[:, 0].detach(), probe, atol=0.05)


def test_the_best_candidate_weighs_costs_by_the_multipliers():
    twins = th.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]], [[[0.0, 0.4]], [[0.0, 0.6]]]])
    assert lagrangian_best(twins, th.tensor([1.0])).item() == 1
    assert lagrangian_best(twins, th.tensor([2.0])).item() == 0


def test_perturbations_stay_within_reach_and_rows_draw_from_their_own_generators():
    policy = PerturbedVae(2, 1, vae_width=8, net_arch=(8,), reach=0.05, candidates=4)
    features = th.randn(3, 2)
    proposals = policy.vae.decode(features, policy.latents.expand(3, -1, -1))
    assert (policy.perturbation(features, proposals) - proposals).abs().max() <= 0.05 + 1e-6
    both = policy.act(features, None, [np.random.default_rng(i) for i in range(3)], False)
    alone = policy.act(features[1:2], None, [np.random.default_rng(1)], False)
    np.testing.assert_allclose(both[1:2], alone, atol=1e-6)
