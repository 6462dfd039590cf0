"""Multipliers: the dual side of a constrained problem, as small pure updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    """One multiplier per constraint, moved by projected gradient ascent, with an optional proportional term.

    I      <- clip(I + lr * gap, 0, maximum)
    lambda =  clip(I + kp * gap, 0, maximum)

    With kp = 0 this is the plain Lagrangian. A kp of about ten times lr damps the swing of multiplier and policy around
    the saddle point (the proportional and integral terms of Stooke, Achiam and Abbeel 2020, arXiv 2007.03964).

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
        proportional: float = 0.0,
        initial: float | Sequence[float] = 0.0,
        maximum: float = np.inf,
    ) -> None:
        """Start at ``initial``; ``maximum`` bounds every multiplier from above."""
        self.values: FloatArray = np.full(num_constraints, initial, dtype=np.float64)
        self.integral: FloatArray = self.values.copy()
        self.learning_rate = learning_rate
        self.proportional = proportional
        self.maximum = maximum

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step along ``gaps`` (K,), and give the new multipliers.

        Raises:
            TrainingError: a gap is not finite.
        """
        if not np.all(np.isfinite(gaps)):
            raise TrainingError(f"The dual update needs finite constraint gaps; got {gaps}.")
        self.integral = projected_gradient(self.integral, gaps, learning_rate=self.learning_rate, maximum=self.maximum)
        self.values = np.clip(self.integral + self.proportional * gaps, 0.0, self.maximum)
        return self.values

    def get_state(self) -> dict[str, FloatArray]:
        """Everything that later updates depend on."""
        return {"values": self.values.copy(), "integral": self.integral.copy()}

    def set_state(self, state: Mapping[str, FloatArray]) -> None:
        """Go on from :meth:`get_state`."""
        self.values, self.integral = state["values"].copy(), state["integral"].copy()
