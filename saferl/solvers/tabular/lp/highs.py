"""The occupancy program handed to HiGHS directly: fast for sparse CMDPs of some hundred states.

    maximise <x, r>   subject to   A x = b (flow),   <x, c_i> <= d_i,   x >= 0

where A and b are :meth:`~saferl.envs.tabular.TabularCMDP.flow` and d the budgets as means per step (Altman 1999,
"Constrained Markov decision processes", chapters 3 and 6). The negated marginals of the budgets are the multipliers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.lp.candidate import Candidate

HIGHS_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
"""The tightest tolerances that HiGHS accepts."""
ROW_UNIT = 1e4
"""What equations and budgets are multiplied with: HiGHS drops coefficients below 1e-9, also those of rare transitions,
which would cost 1e-8 in value."""


def minimise(objective: Any, **program: Any) -> Any:
    """SciPy's result of a linear program solved by HiGHS at its tightest tolerances.

    Status 0 means optimal, 2 infeasible, 3 unbounded, 4 numerical trouble.
    """
    return linprog(objective, method="highs", options=HIGHS_OPTIONS, **program)


def solve_highs(cmdp: TabularCMDP) -> Candidate | None:
    """Optimal occupancies and multipliers, or None where HiGHS finds no feasible point (or gives up)."""
    flow, start = cmdp.flow()
    costs = cmdp.costs.reshape(-1, cmdp.num_constraints)
    result = minimise(
        -cmdp.rewards.ravel(),
        A_ub=ROW_UNIT * sparse.csr_array(costs.T),
        b_ub=ROW_UNIT * cmdp.limits,
        A_eq=ROW_UNIT * sparse.csr_array(flow),
        b_eq=ROW_UNIT * start,
        bounds=(0.0, None),
    )
    if result.status != 0:
        return None
    return Candidate(
        occupancy=result.x.reshape(cmdp.policy_shape),
        multipliers=np.maximum(0.0, -ROW_UNIT * np.asarray(result.ineqlin.marginals)),
        value=-float(result.fun),
        details={"simplex_iterations": int(result.nit)},
    )
