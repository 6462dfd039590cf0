"""The occupancy program as CVXPY reads it: the reference that the other methods are tested against.

    maximise <x, r>   subject to   A x = b (flow),   <x, c_i> <= d_i,   x >= 0

See :mod:`saferl.solvers.tabular.lp.highs` for the source and for ``ROW_UNIT``. CVXPY passes it to SciPy's HiGHS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from saferl.envs.tabular import TabularCMDP
from saferl.errors import MissingExtraError
from saferl.solvers.tabular.lp.candidate import Candidate
from saferl.solvers.tabular.lp.highs import HIGHS_OPTIONS, ROW_UNIT


def solve_cvxpy(cmdp: TabularCMDP) -> Candidate | None:
    """Optimal occupancies and multipliers, or None where no feasible point is found.

    Raises:
        MissingExtraError: CVXPY is not installed.
    """
    try:
        import cvxpy as cp
    except ModuleNotFoundError as error:
        raise MissingExtraError("The method cvxpy", "cvxpy", "train") from error
    flow, start = cmdp.flow()
    costs: Any = cmdp.costs.reshape(-1, cmdp.num_constraints)
    occupancy = cp.Variable(flow.shape[1], nonneg=True, name="occupancy")
    is_a_flow: Any = ROW_UNIT * sparse.csc_array(flow) @ occupancy == ROW_UNIT * start
    keeps_budgets: Any = ROW_UNIT * costs.T @ occupancy <= ROW_UNIT * cmdp.limits
    problem: Any = cp.Problem(cp.Maximize(cmdp.rewards.ravel() @ occupancy), [is_a_flow, keeps_budgets])
    try:
        problem.solve(solver=cp.SCIPY, scipy_options={"method": "highs", **HIGHS_OPTIONS})
    except cp.SolverError:
        return None
    if problem.status != cp.OPTIMAL:
        return None
    return Candidate(
        occupancy=np.asarray(occupancy.value).reshape(cmdp.policy_shape),
        multipliers=np.maximum(0.0, ROW_UNIT * np.asarray(keeps_budgets.dual_value)),
        value=float(problem.value),
    )
