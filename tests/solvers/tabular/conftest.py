"""The optimum of a small CMDP by scipy's linear programming, an oracle apart from the package's own."""

import functools

import pytest
from scipy import optimize


@functools.lru_cache(maxsize=64)
def solve(cmdp):
    matrix, right = cmdp.flow()
    costs = cmdp.costs.reshape(-1, cmdp.num_constraints).T
    result = optimize.linprog(
        -cmdp.rewards.ravel(), A_ub=costs, b_ub=cmdp.limits, A_eq=matrix, b_eq=right, method="highs"
    )
    assert result.success
    return -result.fun, -result.ineqlin.marginals


@pytest.fixture(scope="session")
def optimal_value():
    """Mean reward per step of the optimum."""
    return lambda cmdp: solve(cmdp)[0]


@pytest.fixture(scope="session")
def optimal_multipliers():
    """Multipliers of the optimum."""
    return lambda cmdp: solve(cmdp)[1]
