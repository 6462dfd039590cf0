"""Least risks against linear programs, hand-computed chains and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import saferl
from saferl.envs.tabular.env import TabularEnv
from saferl.envs.tabular.instances import finite_horizon_random, gridworld
from saferl.errors import ConfigError
from saferl.shields.tabular_risk import (
    fill_up,
    least_risk,
    matrix_data,
    matrix_from,
    model_of,
    read_transitions,
    read_violations,
    surely_safe_states,
)


def random_mdp(seed, states=6, actions=2):
    generator = np.random.default_rng(seed)
    transitions = generator.dirichlet(0.3 * np.ones(states), size=(states, actions))
    transitions[0], transitions[-1] = np.eye(states)[0], np.eye(states)[-1]
    return transitions, np.arange(states) == states - 1


def risks(transitions, unsafe):
    actions = transitions.shape[1]
    return least_risk(read_transitions(transitions, actions), read_violations(unsafe, len(transitions), actions))


@pytest.mark.parametrize("seed", range(5))
def test_least_risks_are_those_of_the_best_of_all_policies(seed):
    """Every deterministic policy of a small MDP, by a linear solve over the states that are not absorbing."""
    transitions, unsafe = random_mdp(seed)
    best = np.full(4, np.inf)
    for policy in itertools.product(range(2), repeat=4):
        rows = transitions[np.arange(1, 5), policy]
        best = np.minimum(best, np.linalg.solve(np.eye(4) - rows[:, 1:5], rows[:, -1]))
    bounds = risks(transitions, unsafe)
    assert bounds.upper[1:5] == pytest.approx(best, abs=1e-9)
    assert np.all(bounds.lower <= bounds.upper)
    assert bounds.gap <= 1e-10


def test_a_cycle_without_danger_has_no_risk():
    """Two states that may go round for ever: from 1 the iteration alone would stay at 1."""
    transitions = np.zeros((3, 2, 3))
    transitions[0, :, 1] = transitions[1, 0, 0] = transitions[1, 1, 2] = transitions[2, :, 2] = 1.0
    unsafe = np.array([False, False, True])
    matrix, violations = read_transitions(transitions, 2), read_violations(unsafe, 3, 2)
    assert surely_safe_states(matrix, violations).tolist() == [True, True, False]
    bounds = least_risk(matrix, violations)
    assert bounds.upper.tolist() == [0.0, 0.0, 1.0]
    assert bounds.action_risk.tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def test_an_upper_bound_that_is_cut_short_can_still_be_kept():
    """min_a risk(s, a) <= upper(s) at any time: this is what the budget shield rests on."""
    transitions, unsafe = random_mdp(0)
    for most in (1, 2, 5, 50):
        bounds = least_risk(read_transitions(transitions, 2), read_violations(unsafe, 6, 2), most=most)
        assert np.all(bounds.action_risk.min(axis=1) <= bounds.upper + 1e-15)
        assert np.all(bounds.upper >= risks(transitions, unsafe).lower)


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=6), st.floats(0.0, 1.0))
def test_filling_up_spends_the_budget_and_keeps_the_floor(pairs, mean):
    weights, floor = np.array([w for w, _ in pairs]), np.array([f for _, f in pairs])
    weights /= weights.sum()
    budgets = fill_up(weights, floor, mean)
    assert np.all(budgets >= floor)
    assert np.all(budgets <= 1.0)
    assert weights @ budgets == pytest.approx(max(mean, weights @ floor), abs=1e-9)
    rise = (budgets - floor)[budgets < 1.0 - 1e-9]
    assert np.ptp(rise) <= 1e-9 if len(rise) else True


def test_filling_up_by_hand():
    """0.5 (0.2 + l) + 0.5 min(1, 0.9 + l) = 0.8: the second is full at l = 0.1, then l = 0.4."""
    assert fill_up(np.array([0.5, 0.5]), np.array([0.2, 0.9]), 0.8) == pytest.approx([0.6, 1.0])


def test_sparse_and_dense_transitions_are_one():
    transitions, _ = random_mdp(3)
    dense, flat = read_transitions(transitions, 2), read_transitions(sparse.csr_array(transitions.reshape(12, 6)), 2)
    assert (dense != flat).nnz == 0
    assert (matrix_from(matrix_data(dense), 6) != dense).nnz == 0


def test_what_is_no_distribution_is_refused():
    transitions, _ = random_mdp(0)
    transitions[2, 1] *= 0.5
    with pytest.raises(ConfigError, match=r"row 5 \(state 2, action 1\) sums to 0.5"):
        read_transitions(transitions, 2)
    with pytest.raises(ConfigError, match="shape"):
        read_transitions(np.eye(3), 2)
    with pytest.raises(ConfigError, match=r"\(6,\) or \(6, 2\)"):
        read_violations([True], 6, 2)


def test_costly_steps_of_an_env_are_its_violations():
    cmdp = gridworld()
    matrix, violations, first = model_of(saferl.make(lambda: TabularEnv(cmdp)), "tabular_prob")
    assert (matrix != sparse.csr_array(cmdp.transitions[0])).nnz == 0
    assert np.array_equal(violations, (cmdp.costs > 0).any(axis=-1))
    assert np.array_equal(first, cmdp.rho)
    with pytest.raises(ConfigError, match="needs a finite MDP"):
        model_of(object(), "tabular_prob")


def test_with_a_horizon_the_step_is_part_of_the_state():
    """The least risk of ten steps by backward induction."""
    cmdp = finite_horizon_random()
    matrix, violations, first = model_of(TabularEnv(cmdp), "tabular_prob")
    costs = np.broadcast_to(cmdp.costs, (cmdp.horizon, *cmdp.costs.shape[-3:]))
    costly = (costs > 0.5).any(axis=-1)  # every step of this instance costs a little
    bounds = least_risk(matrix, costly.reshape(violations.shape))
    value = np.zeros(cmdp.num_states)
    for step in reversed(range(cmdp.horizon)):
        following = (cmdp.transitions[step] @ value).reshape(cmdp.num_states, -1)
        value = np.where(costly[step], 1.0, following).min(axis=1)
    assert bounds.upper[: cmdp.num_states] == pytest.approx(value, abs=1e-9)
    assert first.sum() == pytest.approx(1.0)
