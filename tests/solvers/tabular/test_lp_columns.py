"""Column generation: its oracle, its masters, and large sparse CMDPs, against HiGHS on the whole program."""

import numpy as np
import pytest

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.binding import half_way
from saferl.envs.tabular.grids import gridworld
from saferl.envs.tabular.planning import best_response, one_hot
from saferl.errors import TrainingError
from saferl.solvers.tabular import lp
from saferl.solvers.tabular.lp import columns
from saferl.solvers.tabular.lp.columns import ColumnGeneration
from saferl.solvers.tabular.lp.master import best_mixture, least_violation
from saferl.solvers.tabular.lp.oracle import PolicyOracle


def busy_grid(size, num_constraints=3, seed=0):
    """Rewards in every cell, and hazards of several kinds."""
    rng = np.random.default_rng(seed)
    grid = gridworld(size, is_sparse=True)
    costs = np.repeat(rng.uniform(size=(size * size, 1, num_constraints)) < 0.3, 4, axis=1).astype(float)
    rewards = rng.uniform(size=(size * size, 4))
    cmdp = TabularCMDP(grid.transitions[0], rewards, costs, 0.95, grid.rho, np.zeros(num_constraints))
    return half_way(cmdp)


@pytest.mark.parametrize("num_constraints", [1, 2, 4])
def test_a_sparse_grid_has_the_optimum_of_highs(num_constraints):
    cmdp = busy_grid(14, num_constraints)
    exact, ours = lp.solve(cmdp, method="highs"), lp.solve(cmdp, method="columns", tolerance=1e-10)
    assert ours.value == pytest.approx(exact.value, abs=1e-9)
    assert ours.certificate.gap <= 1e-10
    assert ours.certificate.primal_feasibility <= 1e-10
    assert ours.details["policies_mixed"] <= num_constraints + 1
    np.testing.assert_allclose(ours.multipliers, exact.multipliers, atol=1e-4)


def test_a_looser_tolerance_saves_work_and_keeps_its_word():
    cmdp = busy_grid(14)
    exact = lp.solve(cmdp, method="highs").value
    rough, fine = (lp.solve(cmdp, method="columns", tolerance=t) for t in (1e-3, 1e-9))
    assert rough.details["oracle_calls"] < fine.details["oracle_calls"]
    for solution, tolerance in ((rough, 1e-3), (fine, 1e-9)):
        assert exact - tolerance <= solution.value <= exact + 1e-10
        assert -1e-10 <= solution.certificate.gap <= tolerance
        assert (solution.costs <= cmdp.limits + 1e-10).all()


def test_the_policy_of_a_mixture_has_the_mean_values_of_its_policies():
    """Occupancies add up; probabilities of actions do not."""
    cmdp = busy_grid(5, 1)
    solution = lp.solve(cmdp, method="columns")
    assert solution.details["policies_mixed"] == 2
    assert solution.value == pytest.approx(solution.certificate.primal_value, abs=1e-12)
    assert solution.costs[0] == pytest.approx(cmdp.limits[0], abs=1e-12)


@pytest.mark.parametrize("horizon", [None, 6])
def test_the_oracle_answers_with_a_best_response_from_any_known_policies(horizon):
    rng = np.random.default_rng(2)
    moves, gamma = rng.dirichlet(np.full(9, 0.3), size=(9, 3)), None if horizon else 0.9
    cmdp = TabularCMDP(
        moves, rng.normal(size=(9, 3)), rng.normal(size=(9, 3, 2)), gamma, np.full(9, 1 / 9), [0, 0], horizon=horizon
    )
    oracle = PolicyOracle(cmdp)
    known = [oracle.evaluate(rng.integers(3, size=cmdp.policy_shape[:-1])) for _ in range(4)]
    for prices in ([1.0, 0.0, 0.0], [1.0, -0.7, -0.2], [0.0, -0.5, -0.5]):
        signal = cmdp.rewards * prices[0] + cmdp.costs @ np.array(prices[1:])
        expected = best_response(cmdp, signal)
        for start in ([], known[:1], known):
            response = oracle.respond(np.array(prices), start)
            assert response.policy.totals @ prices == pytest.approx(expected.value, abs=1e-12)
            assert expected.value - 1e-12 <= response.upper_bound <= expected.value + 1e-11
            evaluation = cmdp.evaluate(one_hot(response.policy.actions, 3))
            np.testing.assert_allclose(response.policy.totals, [evaluation.value, *evaluation.costs], atol=1e-13)


def test_the_envelope_of_known_policies_saves_evaluations():
    cmdp = busy_grid(20, 1)
    oracle = PolicyOracle(cmdp)
    low, high = (oracle.respond(np.array([1.0, -price])).policy for price in (0.2, 0.4))
    counts = []
    for known in ([], [low], [low, high]):
        before = oracle.evaluations
        oracle.respond(np.array([1.0, -0.3]), known)
        counts.append(oracle.evaluations - before)
    assert counts[2] <= counts[1] <= counts[0]
    before = oracle.evaluations
    assert oracle.respond(np.array([1.0, -0.2]), [low, high]).policy is low
    assert oracle.evaluations == before


def test_state_values_are_kept_for_the_mixed_policies_only():
    """Each takes as much memory as everything else of a policy together."""
    generation = ColumnGeneration(busy_grid(14, 2))
    candidate = generation.optimise(1e-9)
    assert candidate.details["policy_evaluations"] > 10
    assert len(generation._known) <= 4 + 3


def test_the_best_mixture_of_three_policies_is_the_one_found_by_hand():
    """Half of the first and half of the second: 1 + 0.5 within a cost of 0.5; one unit of cost is worth 1."""
    mixture = best_mixture(np.array([2.0, 1.0, 0.0]), np.array([[1.0], [0.0], [0.5]]), np.array([0.5]))
    np.testing.assert_allclose(mixture.weights, [0.5, 0.5, 0.0], atol=1e-12)
    assert (mixture.value, mixture.prices[0]) == pytest.approx((1.5, 1.0), abs=1e-12)


def test_the_least_violation_of_two_policies_is_the_one_found_by_hand():
    """Costs (1, 0) and (0, 1) with limits 0.2 and 0.4: mixed 0.4 to 0.6 both are exceeded by 0.2."""
    mixture = least_violation(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.2, 0.4]))
    np.testing.assert_allclose(mixture.weights, [0.4, 0.6], atol=1e-12)
    np.testing.assert_allclose(mixture.prices, [0.5, 0.5], atol=1e-12)
    assert mixture.value == pytest.approx(0.2, abs=1e-12)


def test_a_master_without_solution_and_too_many_calls_are_errors(monkeypatch):
    with pytest.raises(TrainingError, match="The best mixture of 1 policies must exist"):
        best_mixture(np.array([1.0]), np.array([[1.0]]), np.array([0.5]))
    monkeypatch.setattr(columns, "_MAX_CALLS", 2)
    with pytest.raises(TrainingError, match=r"must close the gap within 2 best responses.*larger tolerance than 1e-09"):
        lp.solve(busy_grid(14, 1), method="columns", tolerance=1e-9)
