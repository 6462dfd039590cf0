import itertools

import numpy as np
import pytest

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.instances import finite_horizon_random, paradox_a, two_constraints
from saferl.envs.tabular.planning import best_response, one_hot
from saferl.errors import ConfigError, TrainingError
from saferl.rollout import gae
from saferl.solvers.tabular import cat


def one_state(violating, safe, gamma=0.99):
    """One state; action 0 earns ``violating`` and costs 1, action 1 earns ``safe``."""
    return TabularCMDP(np.ones((1, 2, 1)), [[violating, safe]], [[[1.0], [0.0]]], gamma, [1.0], [0.0])


def actor_critic(cmdp, delta, iterations=4000, step=5.0):
    """Expected updates of a tabular actor and critic on soft terminations, with the advantages of deep solvers.

    Every transition (s, a, s') is a rollout of one step; its weight is P(s'|s, a).
    """
    states, actions = cmdp.num_states, cmdp.num_actions
    moves = cmdp.transitions[0].reshape(states, actions, states)
    shape = moves.shape
    rewards = np.broadcast_to(((1.0 - delta) * cmdp.rewards)[..., None], shape).reshape(1, -1)
    terminated = np.broadcast_to(delta[..., None], shape).reshape(1, -1)
    values, logits = np.zeros(states), np.zeros((states, actions))
    for _ in range(iterations):
        advantages = gae(
            rewards,
            np.broadcast_to(values[:, None, None], shape).reshape(1, -1),
            np.broadcast_to(values, shape).reshape(1, -1),
            terminated,
            np.zeros_like(terminated),
            gamma=cmdp.gamma,
            gae_lambda=0.95,
        )
        expected = (advantages.reshape(shape) * moves).sum(axis=-1)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        policy = weights / weights.sum(axis=-1, keepdims=True)
        values = values + (policy * expected).sum(axis=-1)
        logits = logits + step * expected
    return policy, values


@pytest.mark.parametrize(("make", "probability"), [(paradox_a, 0.1), (two_constraints, (0.05, 0.2))])
def test_an_actor_critic_on_soft_terminations_ends_at_the_fixed_point(make, probability):
    cmdp = make()
    solution = cat.solve(cmdp, probability=probability)
    policy, values = actor_critic(cmdp, solution.details["delta"])
    np.testing.assert_allclose(values, solution.details["values"], atol=1e-6)
    np.testing.assert_array_equal(policy.argmax(axis=-1), solution.policy.argmax(axis=-1))


def test_a_certain_termination_makes_the_target_exactly_zero():
    """Reward and bootstrap: the learner sees (1 - delta) r, and nothing after the step."""
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.uniform(size=(3, 6, 4))
    delta = rng.uniform(size=(6, 4)) * (rng.uniform(size=(6, 4)) < 0.7)
    delta[2] = delta[5] = 1.0
    advantages = gae(
        (1.0 - delta) * rewards, values, next_values, delta, np.zeros_like(delta), gamma=0.99, gae_lambda=0.95
    )
    targets = advantages + values
    np.testing.assert_array_equal(targets[[2, 5]], 0.0)
    assert np.all(targets[[0, 1, 3, 4]] > 0.0)


@pytest.mark.parametrize("probability", [0.0, 0.02, 0.05, 0.1, 0.25, 0.5])
def test_on_paradox_a_the_fixed_point_is_the_greedy_policy(probability):
    solution = cat.solve(paradox_a(), probability=probability)
    greedy = best_response(paradox_a(), paradox_a().rewards)
    np.testing.assert_array_equal(solution.policy[0], greedy.policy[0])
    np.testing.assert_allclose(solution.costs, [1.0], atol=1e-12)
    assert solution.value == pytest.approx(1.0)


def test_certain_terminations_leave_nothing_to_choose_on_paradox_a():
    np.testing.assert_array_equal(cat.solve(paradox_a(), probability=1.0).details["values"], 0.0)


def test_the_fixed_point_is_the_best_of_all_deterministic_policies():
    rng = np.random.default_rng(4)
    cmdp = TabularCMDP(
        rng.dirichlet(np.ones(3), size=(3, 3)),
        rng.uniform(size=(3, 3)),
        rng.uniform(-0.3, 1.0, size=(3, 3, 2)),
        0.9,
        np.full(3, 1 / 3),
        [1.0, 1.0],
    )
    solution = cat.solve(cmdp, probability=(0.3, 0.1))
    assert (cmdp.costs.min(axis=-1) > 0.0).any()
    violation = np.clip(np.maximum(cmdp.costs, 0.0) / cmdp.costs.reshape(-1, 2).max(axis=0), 0.0, 1.0)
    delta = (violation * [0.3, 0.1]).max(axis=-1)
    np.testing.assert_allclose(solution.details["delta"], delta)
    best = np.full(3, -np.inf)
    moves = cmdp.transitions[0].reshape(3, 3, 3)
    for actions in itertools.product(range(3), repeat=3):
        rows = np.arange(3), np.array(actions)
        keep = 1.0 - delta[rows]
        values = np.linalg.solve(np.eye(3) - 0.9 * keep[:, None] * moves[rows], keep * cmdp.rewards[rows])
        if (values >= best - 1e-12).all():
            best, winner = values, actions
    np.testing.assert_allclose(solution.details["values"], best, atol=1e-9)
    np.testing.assert_array_equal(solution.policy, one_hot(np.array(winner), 3))


def test_a_finite_horizon_is_solved_backwards():
    cmdp = finite_horizon_random(num_states=6, horizon=5)
    solution = cat.solve(cmdp, probability=0.3)
    value = np.zeros(6)
    for step in reversed(range(5)):
        q = (1.0 - 0.3 * cmdp.costs[step, ..., 0]) * (
            cmdp.rewards[step] + cmdp.transitions[step].reshape(6, 3, 6) @ value
        )
        value = q.max(axis=-1)
        np.testing.assert_allclose(solution.details["values"][step], value, atol=1e-12)


@pytest.mark.parametrize(("probability", "action"), [(0.006, 0), (0.007, 1)])
def test_the_break_even_probability_follows_from_the_discount(probability, action):
    """With gamma 0.99, reward 1 violating against 0.6 safe, it is about 0.0066."""
    assert cat.solve(one_state(1.0, 0.6), probability=probability).policy[0, action] == 1.0


def test_negative_rewards_are_raised_or_refused_since_ending_would_be_a_gain():
    cmdp = one_state(-1.0, -0.6)
    solution = cat.solve(cmdp, probability=0.1)
    assert solution.details["reward_offset"] == 1.0
    assert solution.policy[0, 1] == 1.0
    with pytest.raises(ConfigError, match=r"the least one with the offset is -0\.5\. .* at least 1\."):
        cat.solve(cmdp, reward_offset=0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"probability": 1.5}, r"must be in \[0, 1\]; got 1\.5"),
        ({"probability": (0.1, 0.2)}, "must have 1 entries, one per constraint; got 2"),
        ({"violation_scale": (1.0, 1.0)}, "must have 1 entries"),
        ({"violation_scale": (0.0,)}, "must be greater than 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        cat.solve(paradox_a(), **bad)


def test_too_few_sweeps_are_an_error():
    with pytest.raises(TrainingError, match="within 3 sweeps"):
        cat.solve(paradox_a(), max_sweeps=3)


def test_costs_that_are_never_positive_never_terminate():
    cmdp = paradox_a()
    negative = TabularCMDP(cmdp.transitions[0], cmdp.rewards, -cmdp.costs, 0.9, cmdp.rho, [0.0])
    np.testing.assert_array_equal(cat.solve(negative).details["delta"], 0.0)
