"""Whether optimal multipliers are the only ones: the width of the optimal face of the dual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.envs.tabular import TabularCMDP
from saferl.solvers.tabular.lp.highs import minimise
from saferl.solvers.tabular.lp.scaling import scaled

Array = npt.NDArray[np.float64]

LARGEST = 2000
"""States times actions (times steps) up to which the question is answered."""
_SAME, _DIFFERENT = 1e-8, 1e-6
"""Widths of a multiplier's range, relative to 1 + its upper end, that count as none and as some."""
_ZERO, _POSITIVE = 1e-14, 1e-10
"""Occupancies and slacks up to the first are zero, from the second on positive; between them nobody knows."""


def are_multipliers_unique(given: TabularCMDP, policy: Array) -> bool | None:
    """True or False where the answer is certain up to rounding, else None.

    By complementary slackness with one optimal policy, its occupancies x and costs, the optimal duals (y, lambda) are

        A^T y + C lambda >= r,   = r where x > 0,   lambda >= 0,   lambda_i = 0 where Jc_i < d_i

    so two linear programs give the range of each multiplier.
    """
    if policy.size > LARGEST:
        return None
    cmdp = scaled(given).cmdp
    occupancy = cmdp.occupancy(policy).ravel()
    slack = cmdp.limits - occupancy @ cmdp.costs.reshape(-1, cmdp.num_constraints)
    doubtful = [(values > _ZERO) & (values < _POSITIVE) for values in (occupancy, np.abs(slack))]
    if any(values.any() for values in doubtful):
        return None
    is_used_up = slack < _POSITIVE
    widths = [_width(cmdp, occupancy > _ZERO, is_used_up, int(index)) for index in np.flatnonzero(is_used_up)]
    if any(width is None for width in widths):
        return None
    widest = max((width for width in widths if width is not None), default=0.0)
    return True if widest <= _SAME else False if widest > _DIFFERENT else None


def _width(
    cmdp: TabularCMDP, support: npt.NDArray[np.bool_], is_used_up: npt.NDArray[np.bool_], index: int
) -> float | None:
    """Relative width of the range of one multiplier over the optimal duals; None if HiGHS cannot say."""
    flow, _ = cmdp.flow()
    rewards, costs = cmdp.rewards.ravel(), cmdp.costs.reshape(-1, cmdp.num_constraints)
    rows = sparse.csr_array(sparse.hstack([flow.T, sparse.csr_array(costs)]))
    objective = np.zeros(rows.shape[1])
    ends = []
    for sign in (1.0, -1.0):
        objective[flow.shape[0] + index] = sign
        result = minimise(
            objective,
            A_ub=-rows[np.flatnonzero(~support)],
            b_ub=-rewards[~support],
            A_eq=rows[np.flatnonzero(support)],
            b_eq=rewards[support],
            bounds=[(None, None)] * flow.shape[0] + [(0.0, None if used else 0.0) for used in is_used_up],
        )
        if result.status == 3:
            # A price without upper end: the budget is the least that can be spent.
            return np.inf
        if result.status != 0:
            return None
        ends.append(float(sign * result.fun))
    return (ends[1] - ends[0]) / (1.0 + abs(ends[1]))
