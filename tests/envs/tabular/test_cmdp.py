"""Exact evaluation against oracles that share none of its code: sums over time, and sums over all trajectories."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.instances import INSTANCES, paradox_a
from saferl.errors import ConfigError, ConstraintError

CLOSE = {"rtol": 0.0, "atol": 1e-11}


def random_cmdp(seed, S=5, A=3, K=2, gamma=0.9, horizon=None, *, stationary=True, is_sparse=False):  # noqa: N803
    rng = np.random.default_rng(seed)
    lead = () if horizon is None or stationary else (horizon,)
    moves = rng.dirichlet(np.full(S, 0.5), size=(*lead, S, A))
    if is_sparse:
        rows = moves.reshape(-1, S * A, S)
        moves = [sparse.csr_array(part) for part in rows] if lead else sparse.csr_array(rows[0])
    rewards, costs = rng.normal(size=(*lead, S, A)), rng.normal(size=(*lead, S, A, K))
    gamma = None if horizon is not None else gamma
    return TabularCMDP(moves, rewards, costs, gamma, rng.dirichlet(np.ones(S)), rng.normal(size=K), horizon=horizon)


def random_policy(cmdp, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(cmdp.num_actions), size=cmdp.policy_shape[:-1])


def dense(cmdp, step=0):
    matrix = cmdp.transitions[step]
    rows = matrix.toarray() if sparse.issparse(matrix) else matrix
    return rows.reshape(cmdp.num_states, cmdp.num_actions, cmdp.num_states)


def summed_over_time(cmdp, policy, signal):
    """Discounted sums of a signal (S, A) from every state, step by step until nothing is left."""
    moves = dense(cmdp)
    values, weights = np.zeros(cmdp.num_states), np.eye(cmdp.num_states)
    chain = np.zeros((cmdp.num_states, cmdp.num_states))
    for state in range(cmdp.num_states):
        for action in range(cmdp.num_actions):
            chain[state] += policy[state, action] * moves[state, action]
    while weights.max() > 1e-17:
        values += weights @ (policy * signal).sum(axis=1)
        weights = cmdp.gamma * weights @ chain
    return values


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_values_are_the_discounted_sums_over_time(gamma, is_sparse):
    cmdp = random_cmdp(1, gamma=gamma, is_sparse=is_sparse)
    policy = random_policy(cmdp)
    evaluation = cmdp.evaluate(policy)
    signals = [cmdp.rewards, *np.moveaxis(cmdp.costs, -1, 0)]
    found = [evaluation.reward_values, *evaluation.cost_values.T]
    for signal, values in zip(signals, found, strict=True):
        np.testing.assert_allclose(values, (1 - gamma) * summed_over_time(cmdp, policy, signal), **CLOSE)
    assert evaluation.value == pytest.approx(cmdp.rho @ evaluation.reward_values, abs=1e-12)
    np.testing.assert_allclose(evaluation.costs, cmdp.rho @ evaluation.cost_values, **CLOSE)


def test_q_is_one_step_and_then_the_policy():
    cmdp = random_cmdp(2)
    policy = random_policy(cmdp)
    evaluation, moves = cmdp.evaluate(policy), dense(cmdp)
    for state, action in itertools.product(range(cmdp.num_states), range(cmdp.num_actions)):
        following = sum(
            moves[state, action, other] * evaluation.reward_values[other] for other in range(cmdp.num_states)
        )
        expected = (1 - cmdp.gamma) * cmdp.rewards[state, action] + cmdp.gamma * following
        assert evaluation.reward_q[state, action] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose((policy * evaluation.reward_q).sum(axis=-1), evaluation.reward_values, **CLOSE)
    multipliers = np.array([0.3, 2.0])
    np.testing.assert_allclose(
        evaluation.mixed_q(multipliers),
        evaluation.reward_q - 0.3 * evaluation.cost_q[..., 0] - 2.0 * evaluation.cost_q[..., 1],
        **CLOSE,
    )


@pytest.mark.parametrize("stationary", [True, False])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_finite_horizon_is_the_sum_over_all_trajectories(stationary, is_sparse):
    """2 states, 2 actions, 3 steps: 128 trajectories, each weighted by its probability."""
    horizon = 3
    cmdp = random_cmdp(3, S=2, A=2, horizon=horizon, stationary=stationary, is_sparse=is_sparse)
    policy = random_policy(cmdp)
    totals = np.zeros(3)
    visits = np.zeros(cmdp.policy_shape)
    for path in itertools.product(itertools.product(range(2), range(2)), repeat=horizon):
        chance, gained = cmdp.rho[path[0][0]], np.zeros(3)
        for step, (state, action) in enumerate(path):
            chance *= policy[step, state, action]
            gained += [cmdp.rewards[step, state, action], *cmdp.costs[step, state, action]]
            if step + 1 < horizon:
                chance *= dense(cmdp, step)[state, action, path[step + 1][0]]
        totals += chance * gained
        for step, (state, action) in enumerate(path):
            visits[step, state, action] += chance
    evaluation = cmdp.evaluate(policy)
    np.testing.assert_allclose([evaluation.value, *evaluation.costs], totals / horizon, **CLOSE)
    np.testing.assert_allclose(cmdp.occupancy(policy), visits / horizon, **CLOSE)


CASES = {
    "discounted": {},
    "discounted, sparse": {"is_sparse": True},
    "no discount factor": {"gamma": 0.0},
    "finite": {"horizon": 4},
    "finite, sparse": {"horizon": 4, "is_sparse": True},
    "finite, changing": {"horizon": 4, "stationary": False},
    "finite, changing, sparse": {"horizon": 4, "stationary": False, "is_sparse": True},
    "one step": {"horizon": 1},
    "one state and action": {"S": 1, "A": 1, "K": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_occupancies_are_a_distribution_that_gives_the_values_and_keeps_the_flow(case):
    cmdp = random_cmdp(4, **CASES[case])
    policy = random_policy(cmdp)
    occupancy, evaluation = cmdp.occupancy(policy), cmdp.evaluate(policy)
    assert occupancy.shape == cmdp.policy_shape
    assert occupancy.min() >= 0.0
    assert occupancy.sum() == pytest.approx(1.0, abs=1e-12)
    assert (occupancy * cmdp.rewards).sum() == pytest.approx(evaluation.value, abs=1e-12)
    np.testing.assert_allclose(np.tensordot(occupancy, cmdp.costs, occupancy.ndim), evaluation.costs, **CLOSE)
    matrix, right = cmdp.flow()
    assert matrix.shape == (occupancy.size // cmdp.num_actions, occupancy.size)
    np.testing.assert_allclose(matrix @ occupancy.ravel(), right, **CLOSE)


def test_the_flow_has_no_other_solution_for_a_policy():
    """Rank N: with the actions' shares fixed, the visits of the states are determined."""
    for case in ("discounted", "finite, changing"):
        matrix, _ = random_cmdp(5, **CASES[case]).flow()
        assert np.linalg.matrix_rank(matrix.toarray()) == matrix.shape[0]


@pytest.mark.parametrize("stationary", [True, False])
@pytest.mark.parametrize("horizon", [None, 4])
def test_sparse_and_dense_transitions_give_the_same(horizon, stationary):
    one, other = (random_cmdp(6, horizon=horizon, stationary=stationary, is_sparse=kind) for kind in (False, True))
    assert (one.is_sparse, other.is_sparse) == (False, True)
    policy = random_policy(one)
    for found, expected in zip(vars(other.evaluate(policy)).values(), vars(one.evaluate(policy)).values(), strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(other.occupancy(policy), one.occupancy(policy), **CLOSE)
    np.testing.assert_array_equal(other.flow()[0].toarray(), one.flow()[0].toarray())
    values = np.random.default_rng(0).normal(size=(*one.policy_shape[:-1], 2))
    np.testing.assert_allclose(other.expected_next(values), one.expected_next(values), **CLOSE)


def test_a_sparse_policy_that_never_takes_some_actions_is_evaluated():
    one, other = random_cmdp(7), random_cmdp(7, is_sparse=True)
    policy = np.eye(3)[[0, 2, 1, 1, 0]]
    assert other.evaluate(policy).value == pytest.approx(one.evaluate(policy).value, abs=1e-12)


@pytest.mark.parametrize("tail", [(), (2,)])
@pytest.mark.parametrize("horizon", [None, 3])
def test_the_expected_next_value_looks_one_step_ahead_and_at_nothing_after_the_last(horizon, tail):
    cmdp = random_cmdp(8, horizon=horizon, stationary=horizon is None)
    values = np.random.default_rng(1).normal(size=(*cmdp.policy_shape[:-1], *tail))
    found = cmdp.expected_next(values)
    assert found.shape == cmdp.policy_shape + tail
    for index in np.ndindex(*cmdp.policy_shape):
        step = 0 if horizon is None else index[0]
        following = values if horizon is None else values[step + 1] if step + 1 < horizon else 0.0 * values[0]
        chances = dense(cmdp, step)[index[-2:]]
        expected = sum(chance * value for chance, value in zip(chances, following, strict=True))
        np.testing.assert_allclose(found[index], expected, **CLOSE)


def test_dynamics_given_once_are_those_of_every_step():
    once = random_cmdp(9, horizon=3)
    moves = np.broadcast_to(dense(once), (3, 5, 3, 5))
    each = TabularCMDP(moves, once.rewards[0], once.costs[0], None, once.rho, once.budgets, horizon=3)
    policy = random_policy(once)
    assert each.evaluate(policy).value == pytest.approx(once.evaluate(policy).value, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_other_budgets_change_nothing_else(case):
    cmdp = random_cmdp(10, **CASES[case])
    before = cmdp.budgets.copy()
    other = cmdp.with_budgets(np.arange(cmdp.num_constraints) + 7.0)
    assert other.budgets.tolist() == list(range(7, 7 + cmdp.num_constraints))
    np.testing.assert_array_equal(other.limits, other.budgets * cmdp.scale)
    np.testing.assert_array_equal(cmdp.budgets, before)
    assert (other.names, other.horizon, other.gamma) == (cmdp.names, cmdp.horizon, cmdp.gamma)
    policy = random_policy(cmdp)
    assert other.evaluate(policy).value == cmdp.evaluate(policy).value


@pytest.mark.parametrize("budgets", [[1.0], [1.0, np.nan], 1.0])
@pytest.mark.parametrize("case", ["discounted, sparse", "finite, changing, sparse"])
def test_other_budgets_are_checked(case, budgets):
    with pytest.raises(ConfigError, match="budgets must"):
        random_cmdp(11, **CASES[case]).with_budgets(budgets)


def test_scales_are_those_of_a_mean_per_step():
    discounted, finite = random_cmdp(12), random_cmdp(12, horizon=4)
    assert (discounted.scale, discounted.discount) == (pytest.approx(0.1), 0.9)
    assert (finite.scale, finite.discount) == (0.25, 1.0)
    for cmdp in (discounted, finite):
        np.testing.assert_allclose(cmdp.limits, cmdp.budgets * cmdp.scale)
        np.testing.assert_array_equal(cmdp.uniform_policy(), np.full(cmdp.policy_shape, 1 / 3))


def test_constraints_are_those_of_an_env():
    (constraint,) = paradox_a().constraints
    assert (constraint.name, constraint.budget, constraint.kind, constraint.gamma) == ("cost", 5.0, "discounted", 0.9)
    assert constraint.max_step_cost == 1.0
    finite = INSTANCES.load("finite_horizon")()
    assert finite.constraints[0].kind == "episode_sum"
    assert [c.name for c in INSTANCES.load("queueing")().constraints] == ["effort", "rejections"]


def test_a_cost_that_may_be_negative_has_no_declared_largest_value():
    cmdp = random_cmdp(13).with_budgets([1.0, 1.0])
    assert [c.max_step_cost for c in cmdp.constraints] == [None, None]


def test_without_a_discount_factor_a_constraint_is_on_the_only_step():
    cmdp = random_cmdp(14, gamma=0.0).with_budgets([1.0, 1.0])
    assert [c.kind for c in cmdp.constraints] == ["episode_sum", "episode_sum"]


def test_a_negative_budget_has_no_env():
    with pytest.raises(ConstraintError, match="the budget must be finite and at least 0; got -1"):
        _ = paradox_a().with_budgets([-1.0]).constraints


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)),
    gamma=st.floats(0.0, 0.995),
    horizon=st.none() | st.integers(1, 5),
    is_sparse=st.booleans(),
)
def test_values_lie_in_the_range_of_the_rewards_and_are_linear_in_them(seed, sizes, gamma, horizon, is_sparse):
    num_states, num_actions, num_costs = sizes
    cmdp = random_cmdp(seed, num_states, num_actions, num_costs, gamma, horizon, is_sparse=is_sparse)
    policy = random_policy(cmdp, seed)
    evaluation = cmdp.evaluate(policy)
    slack = 1e-9
    assert cmdp.rewards.min() - slack <= evaluation.value <= cmdp.rewards.max() + slack
    doubled = TabularCMDP(
        cmdp.transitions if is_sparse and horizon else dense(cmdp),
        2.0 * cmdp.rewards + 1.0,
        cmdp.costs,
        cmdp.gamma,
        cmdp.rho,
        cmdp.budgets,
        horizon=horizon,
    )
    assert doubled.evaluate(policy).value == pytest.approx(2.0 * evaluation.value + 1.0, abs=1e-8)
