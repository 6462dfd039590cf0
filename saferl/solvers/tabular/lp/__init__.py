"""The exact optimum of a tabular CMDP, by linear programming over occupancy measures; the oracle of all solvers.

Source: Altman (1999), "Constrained Markov decision processes", chapters 3 and 6. Three methods solve the same program:
``cvxpy`` states it most clearly, ``highs`` is fast for some hundred states, ``columns`` serves hundred thousands.
What they return is certified in the same way, by exact evaluation and an exact best response, whatever they claim.

Differences from the literature: none in the program; the gap counts as closed at a tolerance, by default 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from saferl.envs.tabular import TabularCMDP
from saferl.errors import ConfigError, TrainingError, UnknownNameError
from saferl.solvers.tabular.lp.candidate import Candidate, policy_of
from saferl.solvers.tabular.lp.certificate import certify
from saferl.solvers.tabular.lp.columns import FEASIBLE, ColumnGeneration
from saferl.solvers.tabular.lp.cvxpy_model import solve_cvxpy
from saferl.solvers.tabular.lp.highs import solve_highs
from saferl.solvers.tabular.lp.infeasible import explain
from saferl.solvers.tabular.lp.scaling import scaled
from saferl.solvers.tabular.lp.solution import Certificate, Infeasible, LPSolution

__all__ = ["Certificate", "Infeasible", "LPSolution", "Method", "solve"]

Method = Literal["auto", "cvxpy", "highs", "columns"]

AUTO_LARGEST = 10_000
"""Positive transition probabilities (times steps) up to which ``auto`` takes ``highs``; from there on it is slower."""
_PROGRAMS: dict[str, Callable[[TabularCMDP], Candidate | None]] = {"cvxpy": solve_cvxpy, "highs": solve_highs}


def solve(cmdp: TabularCMDP, *, method: Method = "auto", tolerance: float = 1e-8) -> LPSolution | Infeasible:
    """An optimal policy with multipliers and certificate, or why no policy keeps the budgets.

    Args:
        cmdp: Any number of constraints, signed costs, discounted or finite horizon.
        method: ``highs`` or ``cvxpy`` (the whole program), ``columns`` (column generation), or ``auto``: by size.
        tolerance: Largest certified gap, as a share of the largest absolute reward, and normalised.

    Raises:
        UnknownNameError: no such method.
        ConfigError: a tolerance that is not a positive number.
        MissingExtraError: ``cvxpy`` without CVXPY.
        TrainingError: rounding keeps the gap from closing.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> optimum = solve(paradox_a())
        >>> round(optimum.value, 9), optimum.multipliers.round(9), optimum.policy.round(4)
        (0.5, array([1.]), array([[0.9091, 0.0909],
               [1.    , 0.    ]]))
        >>> abs(optimum.certificate.gap) < 1e-12, optimum.are_multipliers_unique
        (True, True)
        >>> solve(paradox_a().with_budgets([-1.0])).message
        'The budget of cost must be reachable by some policy; every policy exceeds a budget by at least 1 (0.1 per
        step). Smallest reachable alone: cost 0 (budget -1). Raise this budget.'
    """
    if method not in get_args(Method):
        raise UnknownNameError("method of the LP", method, get_args(Method))
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0.0 < tolerance < math.inf:
        raise ConfigError(f"tolerance must be a positive number; got {tolerance!r}. The default is 1e-8.")
    problem = scaled(cmdp)
    name = method if method != "auto" else _method_for(cmdp)
    candidate = _PROGRAMS[name](problem.cmdp) if name in _PROGRAMS else None
    is_polished = candidate is None or not _is_good(problem.cmdp, candidate, tolerance)
    if is_polished:
        start = None if candidate is None else candidate.multipliers
        candidate = ColumnGeneration(problem.cmdp).optimise(tolerance, start)
    if candidate is None:
        return explain(cmdp)
    policy, multipliers = policy_of(candidate.occupancy), problem.multipliers(candidate.multipliers)
    primal_value = candidate.value * problem.reward_unit
    certificate, evaluation = certify(cmdp, policy, multipliers, primal_value, candidate.response)
    if certificate.gap > tolerance * problem.reward_unit:
        raise TrainingError(
            f"The gap of the LP must be at most {tolerance:g} of the largest reward; {cmdp!r} is left with "
            f"{certificate.gap / problem.reward_unit:.1e}. Ask for a larger tolerance."
        )
    details = {**candidate.details, "is_polished": is_polished and name != "columns"}
    return LPSolution(cmdp, policy, evaluation.value, evaluation.costs, multipliers, certificate, name, details)


def _method_for(cmdp: TabularCMDP) -> str:
    counts = [matrix.nnz if cmdp.is_sparse else np.count_nonzero(matrix) for matrix in cmdp.transitions]
    return "highs" if sum(counts) <= AUTO_LARGEST else "columns"


def _is_good(cmdp: TabularCMDP, candidate: Candidate, tolerance: float) -> bool:
    """Whether the policy of ``candidate`` keeps the budgets and closes the gap, so that nothing is left to improve."""
    certificate, _ = certify(cmdp, policy_of(candidate.occupancy), candidate.multipliers, candidate.value)
    return certificate.primal_feasibility <= FEASIBLE and certificate.gap <= tolerance
