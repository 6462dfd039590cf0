"""Switching heads: thresholds against the table of the paper's conversion, the choice of heads by hand."""

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from saferl.policy.budget_account import BudgetAccount
from saferl.policy.switching_heads import SwitchingHeads, choose_head, remaining_thresholds
from saferl.solvers.offline.cost_critics import discounted_threshold


def policy(num_costs=1, *, horizon=100, gamma=0.99):
    th.manual_seed(0)
    return SwitchingHeads(
        3, 2, num_costs=num_costs, num_heads=3, horizon=horizon, gamma=gamma, net_arch=(8,), critic_arch=(8,)
    ).eval()


@pytest.mark.parametrize(
    ("budget", "steps", "expected"), [(10.0, 200, 4.330), (10.0, 300, 3.170), (20.0, 1000, 2.000), (7.0, 1, 7.0)]
)
def test_the_rest_of_a_budget_becomes_the_published_threshold(budget, steps, expected):
    assert remaining_thresholds(np.array([[budget]]), np.array([steps]), 0.99)[0, 0] == pytest.approx(
        expected, abs=5e-4
    )
    assert remaining_thresholds(np.array([[budget]]), np.array([steps]), 1.0)[0, 0] == budget


def test_nothing_is_left_of_an_overspent_budget_and_the_last_step_lasts():
    left, steps = np.array([[-3.0, np.inf], [4.0, 0.5]]), np.array([10, -5])
    np.testing.assert_array_equal(remaining_thresholds(left, steps, 0.9), [[0.0, np.inf], [4.0, 0.5]])


@given(st.floats(0.0, 1e3), st.integers(1, 2000), st.floats(0.0, 0.999))
def test_the_threshold_is_that_of_the_solvers_with_fixed_budgets_at_an_episodes_start(budget, steps, gamma):
    ours = remaining_thresholds(np.array([[budget]]), np.array([steps]), gamma)[0, 0]
    assert ours == pytest.approx(discounted_threshold(budget, gamma, steps), rel=1e-9)


def test_the_most_rewarding_head_below_every_threshold_acts_and_without_any_the_least_excessive():
    rewards = th.tensor([[3.0, 2.0, 1.0]] * 4)
    costs = th.tensor([[[5.0, 3.0, 1.0]] * 4, [[0.0, 9.0, 0.0]] * 4])
    thresholds = th.tensor([[10.0, 4.0, 4.0, 0.5], [th.inf, th.inf, 5.0, 0.0]])
    assert choose_head(rewards, costs, thresholds, th.ones(2)).tolist() == [0, 1, 2, 2]
    # A value at the threshold is not below it; the second cost in large units hardly counts for the fallback.
    assert choose_head(rewards[:1], costs[:, :1], th.tensor([[1.0], [th.inf]]), th.ones(2)).tolist() == [2]
    costs = th.tensor([[[5.0, 3.0]], [[1.0, 9.0]]])
    assert choose_head(rewards[:1, :2], costs, th.zeros(2, 1), th.ones(2)).tolist() == [0]
    assert choose_head(rewards[:1, :2], costs, th.zeros(2, 1), th.tensor([1.0, 1e9])).tolist() == [1]


def test_without_budgets_the_most_rewarding_head_acts():
    acting = policy(2)
    acting.units.copy_(th.tensor([1.0, 1e9]))
    observations = th.randn(20, 3)
    features = acting.features(observations)
    actions = acting.means(features)
    best = acting.critics(features, actions)[0].amin(dim=0).argmax(dim=1)
    expected = actions[th.arange(20), best]
    np.testing.assert_allclose(acting.act(observations, acting.begin(20, None), None, True), expected.detach())


def test_spending_lowers_the_threshold_and_restart_raises_it_again():
    acting = policy(horizon=100, gamma=1.0)
    state = acting.begin(2, np.array([10.0]))
    acting.observe(state, np.zeros(2), np.array([[1.0], [25.0]]), np.zeros(2, dtype=bool))
    assert acting.thresholds(state).tolist() == [[9.0, 0.0]]
    acting.restart(state, np.array([1]))
    assert acting.thresholds(state).tolist() == [[9.0, 10.0]]
    discounting = policy(horizon=200)
    state = discounting.begin(1, np.array([11.0]))
    assert discounting.thresholds(state).item() == pytest.approx(discounted_threshold(11.0, 0.99, 200), rel=1e-6)
    for _ in range(100):
        discounting.observe(state, np.zeros(1), np.array([[0.01]]), np.zeros(1, dtype=bool))
    assert discounting.thresholds(state).item() == pytest.approx(discounted_threshold(10.0, 0.99, 100), rel=1e-6)


def test_the_account_discounts_from_each_episodes_first_step():
    account = BudgetAccount.open(2, 1, np.array([4.0]), gamma=0.5)
    for _ in range(3):
        account.spend(np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(account.left(), [[2.25], [0.5]])
    account.clear(np.array([0]))
    account.spend(np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(account.left(), [[3.0], [0.25]])
    np.testing.assert_array_equal(account.steps, [1, 4])


def test_head_densities_are_those_of_torch():
    acting = policy()
    with th.no_grad():
        acting.log_std.copy_(th.randn(3, 2))
    features, actions = th.randn(6, 3), th.rand(6, 2)
    means = acting.means(features)
    expected = th.distributions.Normal(means, acting.log_std.exp()).log_prob(actions.unsqueeze(1)).sum(dim=2)
    np.testing.assert_allclose(acting.head_log_probs(features, actions).detach(), expected.detach(), rtol=1e-5)
