import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferl.rollout import gae


def quadratic_gae(signal, values, next_values, terminated, truncated, gamma, gae_lambda):
    """The definition, summed term by term for every step: A_t = sum_k (prod of traces) delta_k."""
    steps, lanes = signal.shape
    result = np.zeros_like(signal)
    for lane in range(lanes):
        for start in range(steps):
            weight = 1.0
            for step in range(start, steps):
                goes_on = 1.0 - terminated[step, lane]
                delta = signal[step, lane] + gamma * goes_on * next_values[step, lane] - values[step, lane]
                result[start, lane] += weight * delta
                weight *= gamma * gae_lambda * goes_on * (1.0 - truncated[step, lane])
    return result


def random_rollout(seed, steps=9, lanes=3):
    rng = np.random.default_rng(seed)
    signal, values, next_values = rng.normal(size=(3, steps, lanes))
    terminated = rng.choice([0.0, 0.3, 1.0], size=(steps, lanes), p=[0.7, 0.1, 0.2])
    truncated = (rng.random((steps, lanes)) < 0.2) * 1.0
    return signal, values, next_values, terminated, truncated


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_equals_the_quadratic_definition(seed, gamma, gae_lambda):
    rollout = random_rollout(seed)
    fast = gae(*rollout, gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(fast, quadratic_gae(*rollout, gamma, gae_lambda), atol=1e-12)


def test_a_hand_computed_termination():
    ones = np.ones((2, 1))
    advantages = gae(
        ones, ones * 0.5, ones * 0.25, np.array([[0.0], [1.0]]), np.zeros((2, 1)), gamma=0.9, gae_lambda=0.5
    )
    last = 1.0 - 0.5
    first = (1.0 + 0.9 * 0.25 - 0.5) + 0.9 * 0.5 * last
    np.testing.assert_allclose(advantages[:, 0], [first, last])


def test_vector_costs_equal_one_call_per_constraint():
    signal, values, next_values, terminated, truncated = random_rollout(3)
    stacked = gae(
        *(np.stack([x, 2 * x], axis=-1) for x in (signal, values, next_values)),
        terminated,
        truncated,
        gamma=0.97,
        gae_lambda=0.9,
    )
    single = gae(signal, values, next_values, terminated, truncated, gamma=0.97, gae_lambda=0.9)
    np.testing.assert_allclose(stacked, np.stack([single, 2 * single], axis=-1))


def chain_with_a_time_limit():
    """Reward 1 for ever, exact values, cut by a time limit after the third of five steps."""
    gamma = 0.9
    ones = np.ones((5, 1))
    exact = ones / (1 - gamma)
    cut = np.array([[0.0], [0.0], [1.0], [0.0], [0.0]])
    return ones, exact, cut, gamma


def test_exact_values_give_no_advantage_on_either_side_of_a_time_limit():
    ones, exact, cut, gamma = chain_with_a_time_limit()
    advantages = gae(ones, exact, exact, np.zeros_like(cut), cut, gamma=gamma, gae_lambda=0.95)
    np.testing.assert_allclose(advantages, 0.0, atol=1e-12)


def test_a_time_limit_taken_for_a_termination_gives_wrong_advantages():
    ones, exact, cut, gamma = chain_with_a_time_limit()
    advantages = gae(ones, exact, exact, cut, np.zeros_like(cut), gamma=gamma, gae_lambda=0.95)
    assert advantages[2, 0] == pytest.approx(-gamma / (1 - gamma))
    assert np.all(advantages[:3] < -1)


def test_a_certain_soft_termination_leaves_only_the_signal():
    signal, values, next_values, _, truncated = random_rollout(5)
    advantages = gae(signal, values, next_values, np.ones_like(signal), truncated, gamma=0.99, gae_lambda=0.95)
    np.testing.assert_allclose(advantages, signal - values)
