"""Planning against value iteration, and against every deterministic policy there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.grids import gridworld
from saferl.envs.tabular.planning import best_response, one_hot, soft_best_response


def random_cmdp(seed, S=5, A=3, gamma=0.9, horizon=None):  # noqa: N803
    rng = np.random.default_rng(seed)
    lead = () if horizon is None else (horizon,)
    moves = rng.dirichlet(np.full(S, 0.5), size=(*lead, S, A))
    rewards = rng.normal(size=(*lead, S, A))
    gamma = None if horizon is not None else gamma
    return TabularCMDP(moves, rewards, np.abs(rewards)[..., None], gamma, np.full(S, 1 / S), [1.0], horizon=horizon)


def optimal_values(cmdp, reward):
    """Normalised values (S,) or (H, S) of value iteration, written on its own."""
    if cmdp.horizon is not None:
        values, following = np.zeros(cmdp.policy_shape[:-1]), np.zeros(cmdp.num_states)
        for step in range(cmdp.horizon - 1, -1, -1):
            moves = cmdp.transitions[step].reshape(cmdp.num_states, cmdp.num_actions, -1)
            following = values[step] = (reward[step] / cmdp.horizon + moves @ following).max(axis=1)
        return values
    values, moves = np.zeros(cmdp.num_states), cmdp.transitions[0]
    for _ in range(int(np.log(1e-16) / np.log(cmdp.gamma)) + 1):
        q = (1 - cmdp.gamma) * reward + cmdp.gamma * (moves @ values).reshape(cmdp.policy_shape)
        values = q.max(axis=1)
    return values


def deterministic_policies(cmdp):
    """All of them, as probabilities."""
    count = int(np.prod(cmdp.policy_shape[:-1]))
    for actions in itertools.product(range(cmdp.num_actions), repeat=count):
        yield np.eye(cmdp.num_actions)[list(actions)].reshape(cmdp.policy_shape)


@pytest.mark.parametrize("horizon", [None, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_response_has_the_values_of_value_iteration(seed, horizon):
    cmdp = random_cmdp(seed, horizon=horizon)
    plan = best_response(cmdp, cmdp.rewards)
    np.testing.assert_allclose(plan.values, optimal_values(cmdp, cmdp.rewards), rtol=0.0, atol=1e-12)
    assert cmdp.evaluate(plan.policy).value == pytest.approx(plan.value, abs=1e-12)
    assert plan.value <= plan.upper_bound <= plan.value + 1e-12
    assert set(np.unique(plan.policy)) <= {0.0, 1.0}


@pytest.mark.parametrize("horizon", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_no_deterministic_policy_is_better_than_the_best_response(seed, horizon):
    """3 states and 3 actions have 27 of them, and 729 over two steps."""
    cmdp = random_cmdp(seed, S=3, A=3, horizon=horizon)
    best = max(cmdp.evaluate(policy).value for policy in deterministic_policies(cmdp))
    assert best_response(cmdp, cmdp.rewards).value == pytest.approx(best, abs=1e-12)


def test_another_reward_than_the_cmdps_own_is_maximised():
    cmdp = random_cmdp(6)
    plan = best_response(cmdp, -cmdp.costs[..., 0])
    least = min(cmdp.evaluate(policy).costs[0] for policy in deterministic_policies(random_cmdp(6)))
    assert -plan.value == pytest.approx(least, abs=1e-12)


def test_any_first_policy_leads_to_the_same_values():
    cmdp = random_cmdp(7)
    expected = best_response(cmdp, cmdp.rewards).values
    for policy in itertools.islice(deterministic_policies(cmdp), 0, None, 20):
        np.testing.assert_allclose(best_response(cmdp, cmdp.rewards, initial=policy).values, expected, atol=1e-12)


def test_a_reward_that_is_the_same_everywhere_keeps_the_first_policy():
    """Ties never make policy iteration go round in circles."""
    cmdp = random_cmdp(8)
    initial = one_hot(np.array([2, 0, 1, 2, 0]), 3)
    np.testing.assert_array_equal(best_response(cmdp, np.ones((5, 3)), initial=initial).policy, initial)
    np.testing.assert_array_equal(best_response(cmdp, np.zeros((5, 3)), initial=initial).policy, initial)


def test_sparse_and_dense_grids_have_the_same_plan():
    plans = [best_response(cmdp, cmdp.rewards) for cmdp in (gridworld(7, is_sparse=kind) for kind in (False, True))]
    assert plans[0].value == pytest.approx(plans[1].value, abs=1e-12)


@pytest.mark.parametrize("price", [0.0, 1.0, 30.0])
def test_a_larger_grid_is_solved_to_rounding_from_a_policy_that_goes_the_wrong_way(price):
    """The certificate needs no second solver: the Bellman residual bounds what is missing."""
    cmdp = gridworld(30, budget=1.0)
    away = one_hot(np.zeros(900, dtype=np.int64), 4)
    plan = best_response(cmdp, cmdp.rewards - price * cmdp.costs[..., 0], initial=away)
    assert plan.upper_bound - plan.value < 1e-11
    evaluation = cmdp.evaluate(plan.policy)
    assert evaluation.value - price * evaluation.costs[0] == pytest.approx(plan.value, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    gamma=st.floats(0.0, 0.99),
    horizon=st.none() | st.integers(1, 4),
)
def test_the_upper_bound_holds_for_random_policies(seed, sizes, gamma, horizon):
    cmdp = random_cmdp(seed, *sizes, gamma, horizon)
    bound = best_response(cmdp, cmdp.rewards).upper_bound
    rng = np.random.default_rng(seed)
    for concentration in (0.1, 1.0):
        policy = rng.dirichlet(np.full(cmdp.num_actions, concentration), size=cmdp.policy_shape[:-1])
        assert cmdp.evaluate(policy).value <= bound + 1e-12


def soft_values(cmdp, reference, temperature):
    """Soft value iteration, written on its own: backwards, or until the contraction has removed everything."""
    rounds = range(cmdp.horizon - 1, -1, -1) if cmdp.horizon is not None else range(2000)
    values = np.zeros(cmdp.policy_shape[:-1])
    following = np.zeros(cmdp.num_states)
    for step in rounds:
        here = step if cmdp.horizon is not None else 0
        index = (step,) if cmdp.horizon is not None else ()
        discount = 1.0 if cmdp.horizon is not None else cmdp.gamma
        next_values = (cmdp.transitions[here] @ following).reshape(cmdp.num_states, cmdp.num_actions)
        q = cmdp.scale * cmdp.rewards[index] + discount * next_values
        following = temperature * np.log((reference[index] * np.exp(q / temperature)).sum(axis=1))
        values[index] = following
    return values


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("horizon", [None, 4])
def test_the_soft_best_response_is_the_fixed_point_of_soft_value_iteration(horizon, temperature):
    cmdp = random_cmdp(9, horizon=horizon)
    reference = np.random.default_rng(0).dirichlet(np.ones(3), size=cmdp.policy_shape[:-1])
    plan = soft_best_response(cmdp, cmdp.rewards, reference, temperature)
    np.testing.assert_allclose(plan.values, soft_values(cmdp, reference, temperature), rtol=0.0, atol=1e-11)
    np.testing.assert_allclose(plan.policy.sum(axis=-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("horizon", [None, 4])
def test_the_soft_value_is_the_reward_minus_the_weighted_divergence(horizon):
    """And no other policy has a larger one."""
    cmdp, temperature = random_cmdp(10, horizon=horizon), 0.1
    rng = np.random.default_rng(1)
    reference = rng.dirichlet(np.ones(3), size=cmdp.policy_shape[:-1])

    def objective(policy):
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = np.where(policy > 0, policy * np.log(policy / reference), 0.0).sum(axis=-1)
        states = cmdp.occupancy(policy).sum(axis=-1) / cmdp.scale
        return cmdp.evaluate(policy).value - temperature * float((states * divergence).sum())

    plan = soft_best_response(cmdp, cmdp.rewards, reference, temperature)
    assert objective(plan.policy) == pytest.approx(plan.value, abs=1e-11)
    for _ in range(50):
        share = rng.uniform(0.0, 0.3)
        other = (1 - share) * plan.policy + share * rng.dirichlet(np.ones(3), size=cmdp.policy_shape[:-1])
        assert objective(other) <= plan.value + 1e-12


def test_actions_that_the_reference_never_takes_are_never_taken():
    cmdp = random_cmdp(11)
    reference = np.tile([0.5, 0.5, 0.0], (5, 1))
    plan = soft_best_response(cmdp, cmdp.rewards, reference, 0.05)
    assert (plan.policy[:, 2] == 0.0).all()


def test_the_temperature_leads_from_the_best_response_to_the_reference():
    cmdp = random_cmdp(12)
    reference = cmdp.uniform_policy()
    cold = soft_best_response(cmdp, cmdp.rewards, reference, 1e-4)
    np.testing.assert_allclose(cold.policy, best_response(cmdp, cmdp.rewards).policy, atol=1e-6)
    hot = soft_best_response(cmdp, cmdp.rewards, reference, 1e6)
    np.testing.assert_allclose(hot.policy, reference, atol=1e-5)
