"""The exact optimum: three methods, exact evaluation and a dual bound must meet; references and small cases by hand."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.instances import (
    INSTANCES,
    ding_random,
    gridworld,
    one_shot_instance,
    paradox_a,
    paradox_b,
    random_binding,
)
from saferl.errors import ConfigError, MissingExtraError, TrainingError, UnknownNameError
from saferl.solvers.tabular import lp
from saferl.solvers.tabular.lp.certificate import certify

METHODS = ("cvxpy", "highs", "columns")


def random_instance(seed, num_constraints=None, horizon=None):
    """Signed rewards and costs on up to 15 states; the budgets leave a random policy a margin of up to 0.02.

    The first cost grows with the reward, so that its budget tends to bind.
    """
    rng = np.random.default_rng(seed)
    num_states, num_actions = int(rng.integers(2, 16)), int(rng.integers(2, 5))
    count = num_constraints or int(rng.integers(1, 6))
    moves = rng.dirichlet(np.full(num_states, 0.3), size=(num_states, num_actions))
    rewards = rng.uniform(-1, 1, size=(num_states, num_actions))
    costs = rng.uniform(-1, 1, size=(num_states, num_actions, count))
    costs[..., 0] += rewards
    start = rng.dirichlet(np.ones(num_states))
    gamma = None if horizon else float(rng.choice([0.5, 0.9, 0.99]))
    cmdp = TabularCMDP(moves, rewards, costs, gamma, start, np.zeros(count), horizon=horizon)
    kept = cmdp.evaluate(rng.dirichlet(np.full(num_actions, 0.2), size=cmdp.policy_shape[:-1])).costs
    return cmdp.with_budgets((kept + rng.uniform(0, 0.02, size=count)) / cmdp.scale)


def assert_optimal(solution, tolerance=1e-9):
    """Primal, dual and evaluated value agree, and every KKT residual vanishes."""
    certificate = solution.certificate
    assert certificate.primal_value == pytest.approx(certificate.evaluated_value, abs=tolerance)
    assert certificate.dual_value == pytest.approx(certificate.evaluated_value, abs=tolerance)
    assert certificate.evaluated_value == solution.value == solution.cmdp.evaluate(solution.policy).value
    for residual in ("primal_feasibility", "dual_feasibility", "complementary_slackness"):
        assert 0.0 <= getattr(certificate, residual) <= tolerance, residual
    assert abs(certificate.bellman_slack) <= tolerance
    assert (solution.costs <= solution.cmdp.limits + tolerance).all()
    np.testing.assert_allclose(solution.policy.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
    assert (solution.policy >= 0).all()
    assert (solution.multipliers >= 0).all()


@pytest.mark.parametrize("num_constraints", [1, 2, 3, 4, 5])
def test_primal_dual_and_evaluated_value_agree_on_200_random_feasible_instances(num_constraints):
    binding = 0
    for seed in range(40):
        solution = lp.solve(random_instance(1000 * num_constraints + seed, num_constraints))
        assert_optimal(solution)
        assert not solution.details["is_polished"]
        binding += solution.multipliers.max() > 1e-6
    assert binding >= 25


@pytest.mark.parametrize("horizon", [None, 4])
@pytest.mark.parametrize("seed", range(12))
def test_the_three_methods_agree(seed, horizon):
    cmdp = random_instance(seed, horizon=horizon)
    solutions = [lp.solve(cmdp, method=method, tolerance=1e-11) for method in METHODS]
    assert [solution.method for solution in solutions] == list(METHODS)
    for solution in solutions:
        assert_optimal(solution)
        assert not solution.details["is_polished"]
        assert solution.value == pytest.approx(solutions[0].value, abs=1e-9)
        if solution.are_multipliers_unique:
            np.testing.assert_allclose(solution.multipliers, solutions[0].multipliers, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("cmdp", "value", "multiplier", "digits"),
    [
        (paradox_a(), 0.5, 1.0, 1e-9),
        (paradox_b(), 0.5, 1.0, 1e-9),
        (ding_random(), 0.8924887273, 0.24266971, 1e-8),
        (ding_random(10, 5, 0.9, 6.0), 0.7460071676, 0.22553954, 1e-8),
    ],
    ids=["paradox_a", "paradox_b", "ding_20x10", "ding_10x5"],
)
def test_the_reference_optima_are_found(cmdp, value, multiplier, digits, method):
    solution = lp.solve(cmdp, method=method, tolerance=1e-11)
    assert_optimal(solution)
    assert solution.value == pytest.approx(value, abs=1e-10)
    assert solution.multipliers[0] == pytest.approx(multiplier, abs=digits)


@pytest.mark.parametrize(
    ("seed", "value", "multiplier"),
    [
        (10, 0.721081, 0.6095),
        (11, 0.712052, 0.6731),
        (12, 0.792647, 0.5865),
        (13, 0.772340, 0.3699),
        (14, 0.710286, 0.6120),
    ],
)
def test_the_binding_instances_have_the_reference_optima(seed, value, multiplier):
    """To the digits of the reference."""
    solution = lp.solve(random_binding(seed))
    assert_optimal(solution)
    assert solution.are_multipliers_unique
    assert solution.value == pytest.approx(value, abs=5e-7)
    assert solution.multipliers[0] == pytest.approx(multiplier, abs=5e-5)


def test_the_one_shot_instance_has_the_reference_optimum_in_env_units():
    solution = lp.solve(one_shot_instance())
    assert solution.return_ == pytest.approx(6.2521, abs=5e-5)
    assert solution.multipliers[0] == pytest.approx(0.5670, abs=5e-5)
    assert solution.total_costs[0] == pytest.approx(1.2, abs=1e-9)


@pytest.mark.parametrize("name", list(INSTANCES))
def test_every_instance_of_the_table_is_certified(name):
    solution = lp.solve(INSTANCES.load(name)())
    assert isinstance(solution, lp.LPSolution)
    assert abs(solution.certificate.gap) <= 1e-9
    assert solution.certificate.primal_feasibility <= 1e-9


def test_the_optimum_of_paradox_a_is_the_stochastic_policy_known_by_hand():
    np.testing.assert_allclose(lp.solve(paradox_a()).policy, [[10 / 11, 1 / 11], [1.0, 0.0]], rtol=0, atol=1e-12)


def best_mixture_of_all_policies(cmdp):
    """The optimum by brute force: the best mixture of all deterministic policies, each evaluated."""
    count = int(np.prod(cmdp.policy_shape[:-1]))
    policies = itertools.product(range(cmdp.num_actions), repeat=count)
    evaluations = [cmdp.evaluate(np.eye(cmdp.num_actions)[list(p)].reshape(cmdp.policy_shape)) for p in policies]
    result = optimize.linprog(
        [-e.value for e in evaluations],
        A_ub=np.array([e.costs for e in evaluations]).T,
        b_ub=cmdp.limits,
        A_eq=np.ones((1, len(evaluations))),
        b_eq=[1.0],
    )
    return -result.fun


@pytest.mark.parametrize("horizon", [None, 2])
@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_the_best_mixture_of_all_deterministic_policies(seed, horizon):
    rng = np.random.default_rng(seed)
    moves, rewards, costs = rng.dirichlet(np.ones(3), size=(3, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 3, 2))
    gamma = 0.8 if horizon is None else None
    cmdp = TabularCMDP(moves, rewards, costs, gamma, [0.2, 0.3, 0.5], [0.0, 0.0], horizon=horizon)
    cmdp = cmdp.with_budgets((cmdp.evaluate(cmdp.uniform_policy()).costs - 0.05) / cmdp.scale)
    expected = best_mixture_of_all_policies(cmdp)
    for method in METHODS:
        assert lp.solve(cmdp, method=method, tolerance=1e-10).value == pytest.approx(expected, abs=1e-8)


def test_a_utility_with_a_lower_limit_is_a_negative_cost():
    utility = 1.0 - paradox_a().costs
    cmdp = TabularCMDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [[1, 0], [0, 0]], -utility, 0.9, [1, 0], [-5.0])
    for method in METHODS:
        solution = lp.solve(cmdp, method=method)
        assert_optimal(solution)
        assert (solution.value, solution.multipliers[0]) == pytest.approx((0.5, 1.0), abs=1e-9)


def test_units_of_rewards_and_costs_change_multipliers_and_nothing_else():
    cmdp = random_instance(3, 2)
    units = np.array([1e-4, 1e5])
    scaled = TabularCMDP(
        cmdp.transitions[0], 1e6 * cmdp.rewards, cmdp.costs * units, cmdp.gamma, cmdp.rho, cmdp.budgets * units
    )
    for method in METHODS:
        ours, theirs = (lp.solve(c, method=method, tolerance=1e-11) for c in (cmdp, scaled))
        np.testing.assert_allclose(ours.policy, theirs.policy, rtol=0, atol=1e-9)
        assert theirs.value == pytest.approx(1e6 * ours.value, rel=1e-10)
        np.testing.assert_allclose(theirs.multipliers, ours.multipliers * 1e6 / units, rtol=1e-9)
        assert theirs.certificate.gap / 1e6 == pytest.approx(0.0, abs=1e-12)


def test_transitions_below_what_highs_drops_by_itself_count():
    """1e-9 into a state that keeps 1,000 times the reward: worth 1e-6 in 1,000 steps, more than any tolerance."""
    rare = 9e-10
    moves = [[[1 - rare, rare], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
    cmdp = TabularCMDP(moves, [[0.0, 1e-7], [1.0, 1.0]], [[[1.0], [0.0]], [[0.0], [0.0]]], 0.999, [1.0, 0.0], [500.0])
    for method in METHODS:
        solution = lp.solve(cmdp, method=method, tolerance=1e-12)
        assert_optimal(solution, 1e-11)
        assert not solution.details["is_polished"]
        assert solution.value == pytest.approx(0.5 * 1e-7 + 0.5 * rare * 999, rel=1e-3)


def test_duals_bound_every_feasible_policy_and_meet_at_the_optimum():
    cmdp = random_instance(7, 2)
    solution = lp.solve(cmdp)
    assert solution.dual_function(solution.multipliers) == pytest.approx(solution.value, abs=1e-10)
    assert solution.dual_function(solution.multipliers) == solution.certificate.dual_value
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert solution.dual_function(rng.exponential(size=2)) >= solution.value - 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.floats(0, 3), st.floats(0, 3))
def test_the_dual_function_is_convex_and_at_zero_the_unconstrained_optimum(seed, left, right):
    cmdp = random_instance(seed, 1)
    solution = lp.solve(cmdp)
    ends = [solution.dual_function([left]), solution.dual_function([right])]
    assert solution.dual_function([0.5 * (left + right)]) <= 0.5 * sum(ends) + 1e-10
    free = lp.solve(cmdp.with_budgets(cmdp.budgets + 10 / cmdp.scale))
    assert solution.dual_function([0.0]) == pytest.approx(free.value, abs=1e-9)
    assert (free.multipliers == 0.0).all()


@pytest.mark.parametrize("multipliers", [[-0.1], [np.nan], [0.0, 0.0], 1.0])
def test_multipliers_that_bound_nothing_are_refused(multipliers):
    with pytest.raises(ConfigError, match="1 finite numbers >= 0, one per constraint"):
        lp.solve(paradox_a()).dual_function(multipliers)


def test_the_gap_of_any_policy_is_its_bellman_slack_plus_what_it_leaves_of_priced_budgets():
    cmdp = random_instance(11, 3)
    optimum = lp.solve(cmdp)
    multipliers = np.array([0.3, 0.0, 0.7])
    certificate, evaluation = certify(cmdp, cmdp.uniform_policy(), multipliers, optimum.value)
    unused = multipliers @ (cmdp.limits - evaluation.costs)
    assert certificate.gap == pytest.approx(certificate.bellman_slack + unused, abs=1e-12)
    assert certificate.evaluated_value == evaluation.value
    assert certificate.bellman_slack > 0.01
    assert certificate.complementary_slackness == pytest.approx(
        np.abs(multipliers * (evaluation.costs - cmdp.limits)).max()
    )
    assert certificate.dual_value >= optimum.value


def test_a_certificate_shows_a_violated_budget_and_a_negative_multiplier():
    cmdp = paradox_a()
    always_stay = np.array([[1.0, 0.0], [1.0, 0.0]])
    certificate, _ = certify(cmdp, always_stay, np.array([1.0]), 1.0)
    assert certificate.primal_feasibility == pytest.approx(0.5, abs=1e-12)
    assert certificate.gap == pytest.approx(-0.5, abs=1e-12)
    certificate, _ = certify(cmdp, always_stay, np.array([-0.25]), 1.0)
    assert certificate.dual_feasibility == 0.25


def test_states_that_are_never_visited_get_a_uniform_policy():
    """State 1 cannot be reached from state 0."""
    moves = [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]
    cmdp = TabularCMDP(moves, [[1, 0], [1, 0]], [[[1], [0]], [[1], [0]]], 0.9, [1, 0], [2.5])
    for method in METHODS:
        solution = lp.solve(cmdp, method=method)
        np.testing.assert_allclose(solution.policy, [[0.25, 0.75], [0.5, 0.5]], rtol=0, atol=1e-9)


def test_uniqueness_of_multipliers_is_decided():
    assert lp.solve(paradox_a()).are_multipliers_unique is True
    cmdp = random_instance(7, 1)
    assert lp.solve(cmdp).multipliers[0] > 0.01
    twice = TabularCMDP(
        *(cmdp.transitions[0], cmdp.rewards, cmdp.costs[..., [0, 0]], cmdp.gamma, cmdp.rho, cmdp.budgets[[0, 0]])
    )
    for method in METHODS:
        assert lp.solve(twice, method=method, tolerance=1e-12).are_multipliers_unique is False
    slack = cmdp.with_budgets(cmdp.budgets + 10 / cmdp.scale)
    assert lp.solve(slack).are_multipliers_unique is True
    assert lp.solve(gridworld(23)).are_multipliers_unique is None


def test_a_budget_at_the_least_cost_has_no_unique_price():
    """Every price above a threshold is optimal."""
    cmdp = paradox_a().with_budgets([0.0])
    solution = lp.solve(cmdp)
    assert (solution.value, solution.costs[0]) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert solution.are_multipliers_unique is False


def test_auto_takes_highs_for_few_transitions_and_columns_for_many():
    assert lp.solve(paradox_a()).method == "highs"
    assert lp.solve(gridworld(20, is_sparse=False)).method == "highs"
    assert lp.solve(gridworld(40)).method == "columns"


@pytest.mark.parametrize("broken", [lambda _: None, "too greedy"])
def test_what_highs_gets_wrong_is_finished_by_column_generation(monkeypatch, broken):
    cmdp = random_binding(10)
    expected = lp.solve(cmdp).value
    if broken == "too greedy":
        free = cmdp.with_budgets(cmdp.budgets + 10)
        broken = lambda _, solve=lp._PROGRAMS["highs"]: solve(free)  # noqa: E731
    monkeypatch.setitem(lp._PROGRAMS, "highs", broken)
    solution = lp.solve(cmdp, tolerance=1e-11)
    assert solution.details["is_polished"]
    assert solution.value == pytest.approx(expected, abs=1e-10)
    assert_optimal(solution)


def test_a_gap_that_does_not_close_is_an_error(monkeypatch):
    monkeypatch.setattr(lp, "policy_of", lambda occupancy: np.full_like(occupancy, 0.5))
    with pytest.raises(TrainingError, match="The gap of the LP must be at most 1e-08 of the largest reward"):
        lp.solve(paradox_a().with_budgets([9.0]))


def test_an_unknown_method_and_a_bad_tolerance_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'columns'"):
        lp.solve(paradox_a(), method="column")
    for tolerance in (0.0, -1e-8, float("nan"), float("inf"), True, "small"):
        with pytest.raises(ConfigError, match="tolerance must be a positive number"):
            lp.solve(paradox_a(), tolerance=tolerance)


def test_cvxpy_is_asked_for_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    assert lp.solve(paradox_a()).value == pytest.approx(0.5)
    with pytest.raises(MissingExtraError, match="needs cvxpy"):
        lp.solve(paradox_a(), method="cvxpy")
