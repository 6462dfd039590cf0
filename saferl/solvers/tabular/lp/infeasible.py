"""Why no policy keeps the budgets: the constraints in conflict, what each can reach alone, and what is missing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import best_response
from saferl.solvers.tabular.lp.columns import FEASIBLE, ColumnGeneration
from saferl.solvers.tabular.lp.scaling import scaled
from saferl.solvers.tabular.lp.solution import Infeasible

Array = npt.NDArray[np.float64]


def explain(cmdp: TabularCMDP) -> Infeasible:
    """The reasons why ``cmdp``, which is infeasible, has no feasible policy."""
    best = [best_response(cmdp, -cmdp.costs[..., i]).value for i in range(cmdp.num_constraints)]
    smallest = 0.0 - np.array(best)
    conflict = _conflict(scaled(cmdp).cmdp)
    violation = ColumnGeneration(cmdp).least_violation()
    return Infeasible(
        cmdp=cmdp,
        conflict=tuple(cmdp.names[i] for i in conflict),
        smallest_costs=smallest,
        margin=violation.value,
        weights=violation.weights,
        message=_message(cmdp, conflict, smallest, violation.value),
    )


def _conflict(cmdp: TabularCMDP) -> list[int]:
    """A minimal set of constraints that cannot be kept together, by the deletion filter (Chinneck and Dravnieks 1991).

    A constraint is dropped for good if the rest is infeasible without it. The ones that are impossible alone are
    dropped last, because they need no company.
    """
    generation = ColumnGeneration(cmdp)

    def is_infeasible(indices: list[int]) -> bool:
        return bool(indices) and (
            generation.least_violation(np.array(indices), stop_at_zero=True).lower_bound > FEASIBLE
        )

    alone = [i for i in range(cmdp.num_constraints) if is_infeasible([i])]
    if alone:
        return alone[:1]
    kept = list(range(cmdp.num_constraints))
    for index in range(cmdp.num_constraints):
        rest = [i for i in kept if i != index]
        if is_infeasible(rest):
            kept = rest
    return kept


def _message(cmdp: TabularCMDP, conflict: list[int], smallest: Array, margin: float) -> str:
    names = [cmdp.names[i] for i in conflict]
    what = f"The budget of {names[0]}" if len(names) == 1 else f"The budgets of {', '.join(names[:-1])} and {names[-1]}"
    together = "reachable" if len(names) == 1 else "reachable together"
    alone = ", ".join(
        f"{name} {cost / cmdp.scale:.6g} (budget {budget:.6g})"
        for name, cost, budget in zip(cmdp.names, smallest, cmdp.budgets, strict=True)
    )
    return (
        f"{what} must be {together} by some policy; every policy exceeds a budget by at least "
        f"{margin / cmdp.scale:.3g} ({margin:.3g} per step). Smallest reachable alone: {alone}. "
        f"Raise {'this budget' if len(names) == 1 else 'one of these budgets'}."
    )
