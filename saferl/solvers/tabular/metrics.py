"""How good the iterates of a tabular solver are, against the exact optimum; everything in normalised units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.solvers.tabular.solution import TabularSolution

Array = npt.NDArray[np.float64]

WINDOW = 200
"""Iterates that count as late."""
SETTLED = 1e-3
"""An iterate has settled if it and all later ones have gap and violation below this."""
_TOUCH = 1e-9
"""Costs closer to their limit than this are on it, not on one side of it."""


class HasValue(Protocol):
    """An exact solution, for example that of ``saferl.solvers.tabular.lp``."""

    @property
    def value(self) -> float:
        """The optimal mean reward per step."""


@dataclass(frozen=True)
class Summary:
    """What benchmarks report of one solution."""

    solver: str
    """Name of the solver."""
    iterates: int
    """How many iterates there are; the last one is what the solver returns."""
    value: float
    """Mean reward per step of the last iterate."""
    gap: float
    """Optimum minus that value. Negative only where a budget is exceeded."""
    violation: float
    """Worst excess of a mean cost over its limit, of the last iterate, >= 0."""
    oscillation: float
    """Largest minus smallest value among the late iterates."""
    worst_late_violation: float
    """Largest violation of a late iterate."""
    late_crossings: int
    """How often costs passed from one side of their limit to the other among the late iterates."""
    settled_at: int | None
    """First iterate from which on |gap| and violation stay below 1e-3; None if the last one is not."""
    average_gap: float
    """Gap of the mixture of all iterates, one drawn per episode."""
    average_violation: float
    """Violation of that mixture."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers by name, ready for JSON."""
        return asdict(self)


def gaps(solution: TabularSolution, optimum: float | HasValue) -> Array:
    """Optimum minus value of every iterate, (T,)."""
    return np.asarray(_number(optimum) - solution.trajectory.values)


def violations(solution: TabularSolution) -> Array:
    """Worst excess max_i [Jc_i - limit_i]_+ of every iterate, (T,)."""
    return _worst(solution.trajectory.costs - solution.cmdp.limits)


def average_gaps(solution: TabularSolution, optimum: float | HasValue) -> Array:
    """Gap of the mixture of all iterates so far, (T,)."""
    return np.asarray(_number(optimum) - solution.trajectory.average_values)


def average_violations(solution: TabularSolution) -> Array:
    """Worst excess of the mixture of all iterates so far, (T,)."""
    return _worst(solution.trajectory.average_costs - solution.cmdp.limits)


def oscillation(solution: TabularSolution, window: int = WINDOW) -> float:
    """Largest minus smallest value among the last ``window`` iterates; 0 for a single one."""
    return float(np.ptp(solution.trajectory.values[-_positive(window) :]))


def crossings(solution: TabularSolution, window: int = WINDOW) -> int:
    """How often a cost passed its limit within the last ``window`` iterates, over all constraints.

    Iterates on the limit, to within 1e-9, are on neither side.
    """
    excess = (solution.trajectory.costs - solution.cmdp.limits)[-_positive(window) :]
    sides = [np.sign(column[np.abs(column) > _TOUCH]) for column in excess.T]
    return int(sum(np.count_nonzero(np.diff(side)) for side in sides))


def settling_iterate(solution: TabularSolution, optimum: float | HasValue, tolerance: float = SETTLED) -> int | None:
    """First iterate from which on |gap| and violation stay below ``tolerance``; None if the last one is not."""
    is_off = (np.abs(gaps(solution, optimum)) >= tolerance) | (violations(solution) >= tolerance)
    if is_off[-1]:
        return None
    return int(np.flatnonzero(is_off)[-1]) + 1 if is_off.any() else 0


def summarise(solution: TabularSolution, optimum: float | HasValue, window: int = WINDOW) -> Summary:
    """The numbers of one solution.

    Args:
        solution: What a solver returned.
        optimum: The optimal mean reward per step, or an exact solution that has it.
        window: How many of the last iterates count as late, >= 1.

    Raises:
        ConfigError: the window is empty.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> from saferl.solvers.tabular import TABULAR_SOLVERS
        >>> summary = summarise(TABULAR_SOLVERS.load("npg_pd")(paradox_a()), 0.5)
        >>> summary.settled_at is None, summary.oscillation > 0.5
        (True, True)
        >>> summarise(TABULAR_SOLVERS.load("reload")(paradox_a()), 0.5).settled_at
        105
    """
    excess = violations(solution)
    return Summary(
        solver=solution.solver,
        iterates=len(solution.trajectory),
        value=solution.value,
        gap=float(gaps(solution, optimum)[-1]),
        violation=float(excess[-1]),
        oscillation=oscillation(solution, window),
        worst_late_violation=float(excess[-window:].max()),
        late_crossings=crossings(solution, window),
        settled_at=settling_iterate(solution, optimum),
        average_gap=float(average_gaps(solution, optimum)[-1]),
        average_violation=float(average_violations(solution)[-1]),
    )


def _number(optimum: float | HasValue) -> float:
    return float(optimum) if isinstance(optimum, int | float | np.number) else float(optimum.value)


def _worst(excess: Array) -> Array:
    return np.asarray(np.maximum(excess.max(axis=-1), 0.0))


def _positive(window: int) -> int:
    if window < 1:
        raise ConfigError(f"The window of late iterates must hold at least 1; got {window}.")
    return window
