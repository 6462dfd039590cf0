"""The constrained trust-region step against a solver of general convex problems."""

import cvxpy as cp
import numpy as np
import pytest

from saferl.solvers.trust_region import trust_region_step

DELTA = 0.02


def random_problem(rng, num_constraints, dim=4):
    """H (dim, dim), g (dim,), B (K, dim) and c (K,), with every case among them."""
    half = rng.normal(size=(dim, dim))
    hessian = half @ half.T + 0.1 * np.eye(dim)
    g = rng.normal(size=dim)
    b = rng.normal(size=(num_constraints, dim))
    reach = np.sqrt(2 * DELTA * np.einsum("ki,ij,kj->k", b, np.linalg.inv(hessian), b))
    return hessian, g, b, rng.uniform(-1.5, 1.5 / np.sqrt(num_constraints), size=num_constraints) * reach


def our_step(hessian, g, b, c):
    v, w = np.linalg.solve(hessian, g), np.linalg.solve(hessian, b.T).T
    step = trust_region_step(float(g @ v), w @ g, b @ w.T, c, DELTA)
    return step, step.reward_weight * v + step.cost_weights @ w


def reference(hessian, g, b, c):
    """The optimal value by cvxpy; None if nothing is feasible."""
    x = cp.Variable(len(g))
    problem = cp.Problem(
        cp.Maximize(g @ x), [c + b @ x <= 0, cp.sum_squares(np.linalg.cholesky(hessian).T @ x) <= 2 * DELTA]
    )
    problem.solve(solver=cp.CLARABEL)
    return problem.value if problem.status == "optimal" else None


def worst_reachable(hessian, b, c):
    """The smallest worst violation in the trust region, by cvxpy."""
    x = cp.Variable(hessian.shape[0])
    problem = cp.Problem(
        cp.Minimize(cp.max(c + b @ x)), [cp.sum_squares(np.linalg.cholesky(hessian).T @ x) <= 2 * DELTA]
    )
    problem.solve(solver=cp.CLARABEL)
    return problem.value


@pytest.mark.parametrize(("num_constraints", "problems"), [(1, 320), (2, 80), (4, 60)])
def test_the_step_is_optimal_in_every_case(num_constraints, problems):
    rng = np.random.default_rng(num_constraints)
    seen = dict.fromkeys(("free", "active", "recovery"), 0)
    for _ in range(problems):
        hessian, g, b, c = random_problem(rng, num_constraints)
        step, x = our_step(hessian, g, b, c)
        seen[step.case] += 1
        assert x @ hessian @ x / 2 <= DELTA * (1 + 1e-5)
        best = worst_reachable(hessian, b, c)
        if step.case == "recovery":
            assert best > -1e-7
            assert np.max(c + b @ x) <= best + 1e-4 * np.abs(c).max()
        else:
            assert best < 1e-7
            assert np.all(c + b @ x <= 1e-5)
            optimum = reference(hessian, g, b, c)
            assert g @ x >= optimum - 2e-4 * max(1.0, abs(optimum))
    assert min(seen.values()) >= problems // 20, seen


def test_pure_recovery_uses_the_whole_trust_region_against_the_cost():
    hessian, g, b, c = np.eye(2), np.array([1.0, 0.0]), np.array([[0.0, 2.0]]), np.array([5.0])
    step, x = our_step(hessian, g, b, c)
    assert step.case == "recovery"
    np.testing.assert_allclose(x, [0.0, -np.sqrt(2 * DELTA)])
    np.testing.assert_allclose(b @ x, -np.sqrt(2 * DELTA * 4.0))


def test_without_a_cost_gradient_the_step_is_the_plain_one():
    hessian, g = np.diag([2.0, 1.0]), np.array([1.0, 1.0])
    for gap in (-1.0, 1.0):
        step, x = our_step(hessian, g, np.zeros((1, 2)), np.array([gap]))
        assert step.case == "free"
        np.testing.assert_allclose(x @ hessian @ x / 2, DELTA)
        np.testing.assert_allclose(x / x[0], [1.0, 2.0])


def test_a_reward_gradient_along_the_cost_gradient_goes_just_to_the_budget():
    hessian, g = np.eye(2), np.array([1.0, 0.0])
    step, x = our_step(hessian, g, np.array([[2.0, 0.0]]), np.array([-0.1]))
    assert step.case == "active"
    np.testing.assert_allclose(x, [0.05, 0.0], atol=1e-9)
