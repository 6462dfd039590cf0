"""Multipliers: the dual side of a constrained problem, as small pure updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saferl.constraints import ConstraintSet
from saferl.errors import TrainingError

FloatArray = npt.NDArray[np.float64]


def constraint_gaps(values: FloatArray, constraints: ConstraintSet) -> FloatArray:
    """How far each constraint is broken, (K,): sign * (value - budget), positive if violated."""
    return constraints.signs * (values - constraints.budgets)


def projected_gradient(
    multipliers: FloatArray, gaps: FloatArray, *, learning_rate: float, maximum: float = np.inf
) -> FloatArray:
    """The projected ascent step lambda <- clip(lambda + lr * gap, 0, maximum), shape (K,).

    It is gradient ascent of the dual function, whose gradient at lambda is the constraint gap of its minimiser
    (Altman 1999; the "plain" Lagrangian of Ray et al. 2019 without their softplus and Adam).
    """
    return np.clip(multipliers + learning_rate * gaps, 0.0, maximum)


class DualVariable:
    """One multiplier per constraint, moved by projected gradient ascent.

    Example:
        >>> dual = DualVariable(2, learning_rate=0.1)
        >>> dual.update(np.array([5.0, -1.0]))
        array([0.5, 0. ])
    """

    def __init__(
        self,
        num_constraints: int,
        *,
        learning_rate: float,
        initial: float | Sequence[float] = 0.0,
        maximum: float = np.inf,
    ) -> None:
        """Start at ``initial``; ``maximum`` bounds every multiplier from above."""
        self.values: FloatArray = np.full(num_constraints, initial, dtype=np.float64)
        self.learning_rate = learning_rate
        self.maximum = maximum

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step along ``gaps`` (K,), and give the new multipliers.

        Raises:
            TrainingError: a gap is not finite.
        """
        if not np.all(np.isfinite(gaps)):
            raise TrainingError(f"The dual update needs finite constraint gaps; got {gaps}.")
        self.values = projected_gradient(self.values, gaps, learning_rate=self.learning_rate, maximum=self.maximum)
        return self.values
