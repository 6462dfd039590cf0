"""FISOR's losses, targets and weights by hand, and its operator against exact fixed points of tabular problems."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, DataError
from saferl.solvers.offline.feasibility import (
    calibrate_epsilon,
    contrasted_weights,
    expectile_loss,
    feasible_targets,
    feasible_weights,
    margins_of,
    next_feasibility,
    reward_factor,
)
from saferl.solvers.offline.fisor_networks import cosine

TEMPERATURES = {"reward_temperature": 3.0, "cost_temperature": 5.0, "max_weight": 100.0, "max_infeasible_weight": 150.0}


def test_the_expectile_loss_weighs_the_two_signs_apart():
    # 0.9 * 2^2 where the target lies above the value, 0.1 * 3^2 where it lies below.
    assert float(expectile_loss(th.tensor([2.0, -3.0]), 0.9)) == pytest.approx((0.9 * 4 + 0.1 * 9) / 2)
    # The reverse direction gets the errors with the other sign.
    assert float(expectile_loss(-th.tensor([2.0, -3.0]), 0.9)) == pytest.approx((0.1 * 4 + 0.9 * 9) / 2)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9, 0.99])
def test_the_best_value_between_zero_and_one_is_the_expectile_and_reversed_its_complement(expectile):
    targets, values = th.tensor([0.0, 1.0], dtype=th.float64), th.linspace(0, 1, 1001, dtype=th.float64)
    upper = [float(expectile_loss(targets - value, expectile)) for value in values]
    lower = [float(expectile_loss(value - targets, expectile)) for value in values]
    assert float(values[int(np.argmin(upper))]) == pytest.approx(expectile, abs=1e-9)
    assert float(values[int(np.argmin(lower))]) == pytest.approx(1.0 - expectile, abs=1e-9)


def test_the_feasible_target_keeps_the_larger_of_now_and_later():
    h, later = th.tensor([-1.0, -1.0, 0.5]), th.tensor([-2.0, 3.0, 0.2])
    # 0.1 h + 0.9 max(h, V'): -0.1 - 0.9, -0.1 + 2.7, 0.05 + 0.45.
    np.testing.assert_allclose(feasible_targets(h, later, 0.9), [-1.0, 2.6, 0.5], rtol=1e-6)


def test_at_a_terminal_state_the_future_is_its_own_margin_and_elsewhere_never_below_it():
    values, h = th.tensor([5.0, 5.0, -3.0]), th.tensor([-1.0, -1.0, -1.0])
    next_h, terminals = th.tensor([0.4, -0.5, -0.2]), th.tensor([True, False, False])
    np.testing.assert_allclose(next_feasibility(values, h, next_h, terminals), [0.4, 5.0, -0.2], rtol=1e-6)


def test_a_terminal_state_of_unknown_margin_leaves_the_target_at_h():
    h, terminals = th.tensor([25.0, -1.0]), th.tensor([True, True])
    later = next_feasibility(th.tensor([-9.0, 9.0]), h, None, terminals)
    np.testing.assert_allclose(feasible_targets(h, later, 0.99), h, rtol=1e-6)


def test_weights_follow_the_four_signs_of_value_and_action_value():
    values, action_values = th.tensor([-1.0, -1.0, 1.0, 1.0]), th.tensor([-0.5, 0.5, -0.5, 1.5])
    weights = feasible_weights(values, action_values, th.full((4,), 0.2), **TEMPERATURES)
    by_hand = [math.exp(0.6), 0.0, min(math.exp(5 * 1.5), 150.0), math.exp(-2.5)]
    np.testing.assert_allclose(weights, by_hand, rtol=1e-6)


def test_values_of_exactly_zero_count_as_feasible():
    weights = feasible_weights(th.zeros(1), th.zeros(1), th.zeros(1), **TEMPERATURES)
    np.testing.assert_array_equal(weights, [1.0])


def test_weights_are_clipped_at_their_own_limits_even_where_the_exponential_overflows():
    values, action_values = th.tensor([-1.0, 400.0]), th.tensor([-1.0, -400.0])
    weights = feasible_weights(values, action_values, th.tensor([1e4, 1e4]), **TEMPERATURES)
    np.testing.assert_array_equal(weights, [100.0, 150.0])


def test_contrasted_weights_compare_with_the_other_actions_of_the_state():
    # Feasible: of three actions the second is unsafe; infeasible: the less of a violation, the more weight.
    values = th.tensor([-1.0, 1.0])
    action_values, reward_values = th.tensor([[-0.5, 0.5, -0.2], [0.4, 0.2, 0.6]]), th.tensor([[2.0, 9.0, 1.0]] * 2)
    weights = contrasted_weights(values, action_values, reward_values, reward_temperature=3.0, cost_temperature=5.0)
    shares = [math.exp(6) / (math.exp(6) + math.exp(3)), math.exp(-2) / sum(map(math.exp, (-2, -1, -3)))]
    np.testing.assert_allclose(weights, 3 * np.array(shares), rtol=1e-6)


def test_contrasted_weights_do_not_ask_how_good_the_state_is_and_are_zero_where_no_action_is_safe():
    options = {"reward_temperature": 3.0, "cost_temperature": 400.0}
    values, rewards = th.tensor([2.0, 2.0, -1.0]), th.zeros(3, 2)
    weights = contrasted_weights(values, th.tensor([[7.0, 7.5], [0.0, 0.5], [0.1, 0.2]]), rewards, **options)
    np.testing.assert_allclose(weights, [2.0, 2.0, 0.0])


def test_the_step_size_falls_to_a_half_and_to_nothing_along_a_cosine():
    assert [cosine(count, 100) for count in (0, 50, 100, 500)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    # Two updates per step over a million steps of the published setting leave a quarter.
    assert cosine(2_000_000, 3_000_000) == pytest.approx(0.25)


# A chain that walks into a violation: h = -1 everywhere, 1 at its absorbing end.


def chain_operator(values, gamma, size=6):
    """One application of the operator to V (size,), for the only action: one state to the right."""
    h = th.full((size,), -1.0, dtype=th.float64)
    h[-1] = 1.0
    return feasible_targets(h, th.cat([values[1:], values[-1:]]), gamma)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_the_operator_converges_to_the_closed_form_of_a_chain(gamma):
    values = th.zeros(6, dtype=th.float64)
    for _ in range(4000):
        values = chain_operator(values, gamma)
    # k steps before the violation: V = gamma V' - (1 - gamma), from V = 1; hence 2 gamma^k - 1.
    np.testing.assert_allclose(values, [2 * gamma**k - 1 for k in (5, 4, 3, 2, 1, 0)], atol=1e-10)


MARGINS = th.tensor([-0.9, -0.4, 0.3, -0.7, 0.8, -0.2], dtype=th.float64)
NEXT = th.tensor([[1, 3], [2, 0], [2, 4], [5, 1], [4, 4], [3, 2]])
"""State to which every action leads."""


def backup(values, gamma):
    """Q (S, A) of the next states' values."""
    return feasible_targets(MARGINS[:, None].expand(-1, 2), values[NEXT], gamma)


def exact(gamma):
    values = th.zeros(6, dtype=th.float64)
    for _ in range(2500):
        values = backup(values, gamma).amin(dim=1)
    return backup(values, gamma), values


@pytest.mark.parametrize("gamma", [0.7, 0.99])
def test_the_fixed_point_is_the_smallest_value_over_all_stationary_policies(gamma):
    _, values = exact(gamma)
    policies = th.tensor(list(itertools.product((0, 1), repeat=6)))
    following = NEXT[th.arange(6), policies]
    own = th.zeros(64, 6, dtype=th.float64)
    for _ in range(2500):
        own = feasible_targets(MARGINS.expand(64, -1), own.gather(1, following), gamma)
    best = own.amin(dim=0)
    np.testing.assert_allclose(values, best, atol=1e-10)


def test_as_gamma_goes_to_one_the_fixed_point_becomes_the_largest_margin_on_the_best_path():
    # 0 and 1 are a loop whose larger margin is -0.4, and 3 enters it; 2 and 5 start above that; 4 is stuck at 0.8.
    gamma, values = 1.0 - 1e-7, MARGINS.clone()
    for _ in range(50):
        values = backup(values, gamma).amin(dim=1)
    np.testing.assert_allclose(values, [-0.4, -0.4, 0.3, -0.4, 0.8, -0.2], atol=1e-5)


numbers = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


@given(numbers, numbers, st.floats(0.0, 1.0))
def test_the_operator_is_a_contraction_by_gamma(first, second, gamma):
    one, two = (th.tensor(values, dtype=th.float64) for values in (first, second))
    before = float((one - two).abs().max())
    after = float((backup(one, gamma).amin(dim=1) - backup(two, gamma).amin(dim=1)).abs().max())
    assert after <= gamma * before + 1e-12


def test_tables_trained_with_the_losses_reach_the_exact_fixed_point():
    gamma = 0.9
    exact_actions, exact_values = exact(gamma)
    values = th.ones(6, dtype=th.float64, requires_grad=True)
    action_values = th.ones(6, 2, dtype=th.float64, requires_grad=True)
    for _ in range(400):
        targets = backup(values.detach(), gamma)
        loss = (targets - action_values).square().mean()
        loss = loss + expectile_loss(values[:, None] - action_values.detach(), 0.998)
        slopes = th.autograd.grad(loss, [values, action_values])
        with th.no_grad():
            values -= 5.0 * slopes[0]
            action_values -= 5.0 * slopes[1]
    np.testing.assert_allclose(action_values.detach(), exact_actions, atol=1e-2)
    np.testing.assert_allclose(values.detach(), exact_values, atol=1e-2)


def test_epsilon_lets_no_more_than_the_asked_share_of_violating_rollouts_pass_for_safe():
    # 99 violating rollouts at 2 %: the second smallest value may pass, the third may not.
    values = np.concatenate([[-0.9, -0.4, -0.3], np.linspace(-0.2, 1.0, 96), np.full(500, -2.0)])
    violated = np.arange(599) < 99
    epsilon = calibrate_epsilon(values, violated, level=0.02)
    assert epsilon == pytest.approx(0.4)
    assert np.sum(values[violated] <= -epsilon) == 2


def test_epsilon_is_zero_where_violating_rollouts_were_all_foreseen():
    assert calibrate_epsilon(np.linspace(0.1, 1.0, 60), np.ones(60, dtype=bool), level=0.05) == 0.0


def test_too_few_violating_rollouts_cannot_calibrate():
    with pytest.raises(ConfigError, match=r"at least 49 .* got 12"):
        calibrate_epsilon(np.zeros(100), np.arange(100) < 12, level=0.02)


def dataset(**more):
    arrays = {
        "observations": np.arange(4)[:, None],
        "next_observations": np.arange(1, 5)[:, None],
        "actions": np.zeros((4, 1)),
        "rewards": [1.0, 2.0, 3.0, 6.0],
        "costs": [[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.5, 0.0]],
        "terminals": [False, True, False, False],
        "timeouts": [False, False, False, True],
    }
    return Dataset.from_arrays(**arrays, **more)


MARGIN = np.array([[-1.0, -2.0], [-3.0, 0.5], [0.25, 0.75], [-1.0, -0.5]])


def test_without_margins_any_cost_is_a_violation_of_the_given_size():
    h, next_h = margins_of(dataset(), "auto", 25.0)
    np.testing.assert_array_equal(h, [-1.0, 25.0, -1.0, 25.0])
    assert next_h is None


def test_of_several_constraints_the_largest_margin_counts():
    h, next_h = margins_of(dataset(h=MARGIN, next_h=MARGIN[::-1]), "auto", 25.0)
    np.testing.assert_array_equal(h, [-1.0, 0.5, 0.75, -0.5])
    np.testing.assert_array_equal(next_h, [-0.5, 0.75, 0.5, -1.0])


def test_margins_can_be_left_aside_but_not_asked_for_where_there_are_none():
    assert margins_of(dataset(h=MARGIN), "costs", 2.0)[0].tolist() == [-1.0, 2.0, -1.0, 2.0]
    with pytest.raises(DataError, match="margins='costs'"):
        margins_of(dataset(), "dataset", 25.0)


def test_rewards_are_scaled_to_the_asked_span_of_returns():
    # Returns 3 and 9, two steps each: a span of 1 per step makes the returns differ by 2.
    assert reward_factor(dataset(), 1.0) == pytest.approx(2.0 / 6.0)
    assert reward_factor(dataset(), 0.0) == 1.0
