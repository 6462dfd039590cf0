import numpy as np
import pytest

from saferl.envs.tabular.instances import paradox_a, two_constraints
from saferl.rollout import gae
from saferl.rollout.optimism import Critics, mixed_residuals, optimistic_advantages


def every_transition(cmdp, policy, multipliers):
    """One-step errors of all (s, a, s') with the exact critics of ``policy``, and its exact advantages, (S, A)."""
    states, actions, constraints = cmdp.num_states, cmdp.num_actions, cmdp.num_constraints
    evaluation = cmdp.evaluate(policy)
    values, cost_values = evaluation.reward_values / cmdp.scale, evaluation.cost_values / cmdp.scale
    shape = (states, actions, states)
    critics = Critics(
        values=np.broadcast_to(values[:, None, None], shape),
        cost_values=np.broadcast_to(cost_values[:, None, None], (*shape, constraints)),
        next_values=np.broadcast_to(values, shape),
        next_cost_values=np.broadcast_to(cost_values, (*shape, constraints)),
    )
    residuals = mixed_residuals(
        np.broadcast_to(cmdp.rewards[..., None], shape),
        np.broadcast_to(cmdp.costs[..., None, :], (*shape, constraints)),
        critics,
        np.zeros(shape),
        multipliers=multipliers,
        gamma=cmdp.gamma,
    )
    mixed_values = evaluation.reward_values - evaluation.cost_values @ multipliers
    advantages = (evaluation.mixed_q(multipliers) - mixed_values[:, None]) / cmdp.scale
    return residuals, advantages, cmdp.transitions[0].reshape(shape)


def random_policy(cmdp, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(cmdp.num_actions), size=cmdp.num_states)


def test_with_exact_critics_the_error_of_a_certain_successor_is_the_old_advantage():
    cmdp = paradox_a()
    residuals, advantages, moves = every_transition(cmdp, random_policy(cmdp, 0), np.array([0.7]))
    happens = np.take_along_axis(residuals, moves.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(happens, advantages, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_with_exact_critics_the_expected_error_is_the_old_advantage_of_every_action(seed):
    cmdp = two_constraints()
    multipliers = np.random.default_rng(seed).uniform(size=2)
    residuals, advantages, moves = every_transition(cmdp, random_policy(cmdp, seed), multipliers)
    np.testing.assert_allclose((residuals * moves).sum(axis=-1), advantages, atol=1e-10)
    assert np.abs(advantages).max() > 0.1


def test_critics_and_multipliers_of_two_iterations_give_the_optimistic_gradient():
    """2 A - A^- where A is exact: the same as A + (delta - delta^-) in expectation."""
    cmdp = two_constraints()
    now, advantages, moves = every_transition(cmdp, random_policy(cmdp, 1), np.array([0.6, 0.1]))
    before, old_advantages, _ = every_transition(cmdp, random_policy(cmdp, 2), np.array([0.2, 0.3]))
    optimistic = optimistic_advantages(np.broadcast_to(advantages[..., None], now.shape), now, before)
    np.testing.assert_allclose((optimistic * moves).sum(axis=-1), 2 * advantages - old_advantages, atol=1e-10)


def random_batch(seed=0, steps=7, lanes=3, constraints=2):
    rng = np.random.default_rng(seed)
    critics = Critics(
        rng.normal(size=(steps, lanes)),
        rng.normal(size=(steps, lanes, constraints)),
        rng.normal(size=(steps, lanes)),
        rng.normal(size=(steps, lanes, constraints)),
    )
    rewards, costs = rng.normal(size=(steps, lanes)), rng.uniform(size=(steps, lanes, constraints))
    terminated = rng.choice([0.0, 0.3, 1.0], size=(steps, lanes))
    return rewards, costs, critics, terminated


def test_nothing_is_added_when_critics_and_multipliers_have_not_changed():
    rewards, costs, critics, terminated = random_batch()
    multipliers = np.array([0.5, 2.0])
    estimate = gae(rewards, critics.values, critics.next_values, terminated, 0 * terminated, gamma=0.99, gae_lambda=0.9)
    delta = mixed_residuals(rewards, costs, critics, terminated, multipliers=multipliers, gamma=0.99)
    np.testing.assert_array_equal(optimistic_advantages(estimate, delta, delta), estimate)
    assert np.abs(2 * estimate - delta - estimate).max() > 0.1  # what mixing two estimators would add


def test_the_error_is_that_of_one_step_estimates_of_reward_and_costs():
    """Against GAE with a trace of 0: r minus lambda times each cost, also with a discount of its own."""
    rewards, costs, critics, terminated = random_batch(3)
    multipliers = np.array([0.5, 2.0])
    cut = 0 * terminated
    reward_part = gae(rewards, critics.values, critics.next_values, terminated, cut, gamma=0.99, gae_lambda=0.0)
    cost_part = gae(costs, critics.cost_values, critics.next_cost_values, terminated, cut, gamma=0.9, gae_lambda=0.0)
    delta = mixed_residuals(rewards, costs, critics, terminated, multipliers=multipliers, gamma=0.99, cost_gamma=0.9)
    np.testing.assert_allclose(delta, reward_part - cost_part @ multipliers, atol=1e-12)


def test_a_termination_cuts_the_successor_out_of_both_errors():
    rewards, costs, critics, _ = random_batch(4)
    delta = mixed_residuals(rewards, costs, critics, np.ones((7, 3)), multipliers=np.array([1.0, 0.0]), gamma=0.99)
    np.testing.assert_allclose(delta, rewards - costs[..., 0] - critics.values + critics.cost_values[..., 0])
