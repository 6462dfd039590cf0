"""Budgets that nobody can keep: found at every margin from 1e-6 on, never claimed otherwise, and explained."""

import itertools

import numpy as np
import pytest
from scipy import optimize, sparse

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.instances import paradox_a
from saferl.solvers.tabular import lp

METHODS = ("cvxpy", "highs", "columns")


def random_cmdp(seed, num_constraints, horizon=None):
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.full(8, 0.4), size=(8, 3))
    rewards, costs = rng.uniform(-1, 1, size=(8, 3)), rng.uniform(-1, 1, size=(8, 3, num_constraints))
    gamma = None if horizon else float(rng.choice([0.5, 0.9, 0.99]))
    budgets = rng.uniform(-0.1, 0.1, size=num_constraints)
    cmdp = TabularCMDP(moves, rewards, costs, gamma, np.full(8, 1 / 8), budgets, horizon=horizon)
    return cmdp.with_budgets(budgets / cmdp.scale)


def least_worst_violation(cmdp, indices):
    """min over policies of max_i (Jc_i - d_i) for some constraints, as one linear program over occupancies."""
    indices = list(indices)
    flow, start = cmdp.flow()
    costs = cmdp.costs.reshape(-1, cmdp.num_constraints)[:, indices]
    result = optimize.linprog(
        np.append(np.zeros(flow.shape[1]), 1.0),
        A_ub=np.hstack([costs.T, -np.ones((len(indices), 1))]),
        b_ub=cmdp.limits[indices],
        A_eq=1e4 * sparse.hstack([flow, sparse.csr_array((flow.shape[0], 1))]),
        b_eq=1e4 * start,
        bounds=[(0, None)] * flow.shape[1] + [(None, None)],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return result.fun


def shifted(cmdp, margin):
    """The CMDP whose least worst violation is ``margin``, normalised."""
    everything = range(cmdp.num_constraints)
    return cmdp.with_budgets(cmdp.budgets + (least_worst_violation(cmdp, everything) - margin) / cmdp.scale)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("horizon", [None, 5])
@pytest.mark.parametrize("num_constraints", [1, 2, 3, 5])
def test_a_margin_of_1e_6_is_infeasible_and_one_of_minus_1e_9_is_not(num_constraints, horizon, method):
    for seed in range(2):
        cmdp = random_cmdp(100 * num_constraints + seed, num_constraints, horizon)
        for margin in (1e-6, 1e-6 * cmdp.scale):
            answer = lp.solve(shifted(cmdp, margin), method=method)
            assert isinstance(answer, lp.Infeasible)
            assert answer.margin == pytest.approx(margin, abs=1e-11)
        feasible = lp.solve(shifted(cmdp, -1e-9), method=method)
        assert isinstance(feasible, lp.LPSolution)
        assert feasible.certificate.primal_feasibility <= 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_the_explanation_is_right_on_random_instances(seed):
    cmdp = random_cmdp(seed, 4)
    answer = lp.solve(shifted(cmdp, 0.02))
    cmdp = answer.cmdp
    conflict = [cmdp.names.index(name) for name in answer.conflict]
    assert least_worst_violation(cmdp, conflict) > 1e-8
    for smaller in itertools.combinations(conflict, len(conflict) - 1):
        assert not smaller or least_worst_violation(cmdp, smaller) <= 1e-9
    assert answer.margin == pytest.approx(least_worst_violation(cmdp, range(4)), abs=1e-9)
    assert answer.total_margin == pytest.approx(answer.margin / cmdp.scale)
    for index in range(4):
        alone = least_worst_violation(cmdp, [index]) + cmdp.limits[index]
        assert answer.smallest_costs[index] == pytest.approx(alone, abs=1e-9)
    np.testing.assert_allclose(answer.smallest_total_costs, answer.smallest_costs / cmdp.scale)


def test_the_weights_prove_the_margin_for_every_policy():
    answer = lp.solve(shifted(random_cmdp(3, 3), 0.01))
    cmdp = answer.cmdp
    assert answer.weights.sum() == pytest.approx(1.0)
    assert (answer.weights >= 0).all()
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs = cmdp.evaluate(rng.dirichlet(np.full(3, 0.2), size=8)).costs
        assert answer.weights @ (costs - cmdp.limits) >= answer.margin - 1e-12


def one_state(costs, budgets, names):
    """One state and two actions, gamma 0.5: any mixture of the two actions' costs is reachable."""
    return TabularCMDP([[[1.0], [1.0]]], [[1.0, 0.0]], [costs], 0.5, [1.0], budgets, names=names)


@pytest.mark.parametrize("method", METHODS)
def test_a_conflict_of_two_is_named_and_the_innocent_one_is_not(method):
    """Heat and cold sum to 1 per step, and may both be 0.4; noise is no problem."""
    cmdp = one_state([[1.0, 0.3, 0.0], [0.0, 0.3, 1.0]], [0.8, 2.0, 0.8], ("heat", "noise", "cold"))
    answer = lp.solve(cmdp, method=method)
    assert isinstance(answer, lp.Infeasible)
    assert answer.conflict == ("heat", "cold")
    assert answer.margin == pytest.approx(0.1, abs=1e-12)
    np.testing.assert_allclose(answer.smallest_costs, [0.0, 0.3, 0.0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(answer.weights, [0.5, 0.0, 0.5], rtol=0, atol=1e-9)
    assert answer.message == (
        "The budgets of heat and cold must be reachable together by some policy; every policy exceeds a budget by at "
        "least 0.2 (0.1 per step). Smallest reachable alone: heat 0 (budget 0.8), noise 0.6 (budget 2), cold 0 "
        "(budget 0.8). Raise one of these budgets."
    )


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_budget_that_is_impossible_alone_is_named_alone(place):
    """Also where two others are in conflict."""
    costs, budgets, names = [[1.0, 0.0], [0.0, 1.0]], [0.8, 0.8], ["heat", "cold"]
    for row, noise in zip(costs, (0.5, 0.6), strict=True):
        row.insert(place, noise)
    budgets.insert(place, 0.9)
    names.insert(place, "noise")
    answer = lp.solve(one_state(costs, budgets, names))
    assert answer.conflict == ("noise",)
    assert "The budget of noise must be reachable by some policy" in answer.message
    assert answer.message.endswith("Raise this budget.")


def test_a_conflict_of_all_three_is_minimal():
    """A cost for each action, two thirds of which may be spent on none: any two budgets leave the third action."""
    moves = np.ones((1, 3, 1))
    cmdp = TabularCMDP(moves, [[0, 0, 0]], [np.eye(3)], 0.0, [1.0], [0.3, 0.3, 0.3], names=("a", "b", "c"))
    answer = lp.solve(cmdp)
    assert answer.conflict == ("a", "b", "c")
    assert answer.margin == pytest.approx(1 / 3 - 0.3, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_exactly_at_the_smallest_reachable_cost_is_feasible(method):
    solution = lp.solve(paradox_a().with_budgets([0.0]), method=method)
    assert isinstance(solution, lp.LPSolution)
    assert solution.costs[0] == pytest.approx(0.0, abs=1e-12)
    both = one_state([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], ("heat", "cold"))
    solution = lp.solve(both, method=method)
    np.testing.assert_allclose(solution.costs, 0.5, rtol=0, atol=1e-10)
    assert solution.value == pytest.approx(0.5, abs=1e-10)


def test_a_small_budget_of_a_small_cost_is_judged_in_its_own_units():
    cmdp = one_state([[1e-6], [2e-6]], [1.9e-6], ("dose",))
    answer = lp.solve(cmdp)
    assert isinstance(answer, lp.Infeasible)
    assert answer.total_margin == pytest.approx(1e-7, rel=1e-6)
