"""Multipliers: the dual side of a constrained problem, as small updates chosen by configuration.

Every variant takes the constraint gaps of a policy, positive where a budget is broken, and gives the next multipliers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.constraints import ConstraintSet
from saferl.errors import ConfigError, TrainingError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DualConfig:
    """Options of the multipliers, which every Lagrangian solver has."""

    dual: Literal["projected", "adam", "softplus", "optimistic"] = "projected"
    """How multipliers move: ``projected`` gradient ascent (with gains a PID controller), ``adam`` (the same direction,
    Adam's step), ``softplus`` (Adam on z, lambda = softplus(z)), ``optimistic`` (twice the gap minus the last one)."""
    multiplier_init: float = 0.0
    """First value of every multiplier, >= 0 (> 0 for ``softplus``)."""
    multiplier_lr: float = 2e-3
    """Multiplier step per unit of excess cost (in the constraint's own units) and dual update; Adam's step size for
    ``adam`` and ``softplus``."""
    multiplier_kp: float = 0.0
    """Multiplier added at once per unit of excess cost; about ten times multiplier_lr damps swings. 0: plain ascent."""
    multiplier_kd: float = 0.0
    """Multiplier added per unit by which the cost has risen over ``multiplier_delay`` updates."""
    multiplier_smoothing: float = 0.0
    """Share of the old value in the running means that kp and kd act on, in [0, 1); 0: no smoothing."""
    multiplier_delay: int = 1
    """Dual updates over which kd compares costs, >= 1."""
    multiplier_max: float = 100.0
    """Upper bound of every multiplier."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        check_ranges(
            self,
            positive=("multiplier_delay",),
            non_negative=("multiplier_init", "multiplier_lr", "multiplier_kp", "multiplier_kd", "multiplier_max"),
            unit=("multiplier_smoothing",),
        )
        gains = [name for name in ("multiplier_kp", "multiplier_kd") if getattr(self, name)]
        if gains and self.dual != "projected":
            raise ConfigError(
                f"{gains[0]} is a gain of the PID controller and belongs to dual='projected'; got dual={self.dual!r}. "
                f"Set {gains[0]} to 0, or take dual='projected'."
            )
        if self.dual == "softplus" and self.multiplier_init == 0.0:
            raise ConfigError("dual='softplus' needs multiplier_init > 0, as softplus never gives 0; got 0. Try 1.")
        if self.multiplier_smoothing == 1.0:
            raise ConfigError("multiplier_smoothing must be below 1, or nothing new counts; got 1.")


class Dual(Protocol):
    """One multiplier per constraint."""

    values: FloatArray
    """Current multipliers, (K,)."""

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step along ``gaps`` (K,), and give the new multipliers."""

    def get_state(self) -> dict[str, Any]:
        """Everything that later updates depend on."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""


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
    """Projected gradient ascent; with gains, a PID controller (Stooke, Achiam and Abbeel 2020, arXiv 2007.03964).

    I      <- clip(I + lr * gap, 0, maximum)
    p      <- a p + (1 - a) gap,   d <- a d + (1 - a) gap           a = smoothing
    lambda =  clip(I + kp * p + kd * max(0, d - d of delay updates ago), 0, maximum)

    With kp = kd = 0 this is the plain Lagrangian. A kp of about ten times lr damps the swing of multiplier and policy
    around the saddle point. The derivative acts on rising costs only; the budget cancels in it.

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
        derivative: float = 0.0,
        smoothing: float = 0.0,
        delay: int = 1,
        initial: float | Sequence[float] = 0.0,
        maximum: float = np.inf,
    ) -> None:
        """Start at ``initial``; ``maximum`` bounds every multiplier from above."""
        self.values: FloatArray = np.full(num_constraints, initial, dtype=np.float64)
        self.integral: FloatArray = self.values.copy()
        self.learning_rate, self.proportional, self.derivative = learning_rate, proportional, derivative
        self.smoothing, self.maximum = smoothing, maximum
        self._smooth: FloatArray | None = None
        self._past: deque[FloatArray] = deque(maxlen=delay)

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step along ``gaps`` (K,), and give the new multipliers.

        Raises:
            TrainingError: a gap is not finite.
        """
        check_gaps(gaps)
        self.integral = projected_gradient(self.integral, gaps, learning_rate=self.learning_rate, maximum=self.maximum)
        old = gaps if self._smooth is None else self._smooth
        self._smooth = self.smoothing * old + (1.0 - self.smoothing) * gaps
        rise = np.maximum(0.0, self._smooth - self._past[0]) if self._past else np.zeros_like(gaps)
        self._past.append(self._smooth)
        control = self.integral + self.proportional * self._smooth + self.derivative * rise
        self.values = np.clip(control, 0.0, self.maximum)
        return self.values

    def get_state(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {
            "values": self.values.copy(),
            "integral": self.integral.copy(),
            "smooth": None if self._smooth is None else self._smooth.copy(),
            "past": [gap.copy() for gap in self._past],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.values, self.integral = state["values"].copy(), state["integral"].copy()
        self._smooth = None if state["smooth"] is None else state["smooth"].copy()
        self._past.clear()
        self._past.extend(gap.copy() for gap in state["past"])


class OptimisticDual:
    """The optimistic step of ReLOAD (arXiv 2302.01275): lambda <- clip(lambda + lr (2 gap - last gap), 0, maximum).

    The first step, which has no last gap, is a plain one.
    """

    def __init__(
        self, num_constraints: int, *, learning_rate: float, initial: float = 0.0, maximum: float = np.inf
    ) -> None:
        """Start at ``initial``."""
        self.values: FloatArray = np.full(num_constraints, initial, dtype=np.float64)
        self.learning_rate, self.maximum = learning_rate, maximum
        self._last: FloatArray | None = None

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step; see :meth:`DualVariable.update`."""
        check_gaps(gaps)
        ahead = gaps if self._last is None else 2.0 * gaps - self._last
        self._last = np.array(gaps, dtype=np.float64)
        self.values = projected_gradient(self.values, ahead, learning_rate=self.learning_rate, maximum=self.maximum)
        return self.values

    def get_state(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {"values": self.values.copy(), "last": None if self._last is None else self._last.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.values = state["values"].copy()
        self._last = None if state["last"] is None else state["last"].copy()


class AdamDual:
    """Adam (Kingma and Ba 2015) ascent along the gaps, projected (OmniSafe's), or on z with lambda = softplus(z).

    The softplus form is that of Ray et al. 2019: the gradient of lambda * gap in z is gap * sigmoid(z). Adam makes
    steps of about lr whatever the size of a gap, so the multiplier's speed does not depend on the cost's unit.
    """

    _BETAS, _EPSILON = (0.9, 0.999), 1e-8

    def __init__(
        self,
        num_constraints: int,
        *,
        learning_rate: float,
        is_softplus: bool,
        initial: float = 0.0,
        maximum: float = np.inf,
    ) -> None:
        """Start at ``initial``, > 0 for softplus."""
        self.learning_rate, self.maximum, self.is_softplus = learning_rate, maximum, is_softplus
        start = np.log(np.expm1(initial)) if is_softplus else initial
        self._parameters: FloatArray = np.full(num_constraints, start, dtype=np.float64)
        self._means = np.zeros(num_constraints)
        self._squares = np.zeros(num_constraints)
        self._steps = 0
        self.values = self._multipliers()

    def _multipliers(self) -> FloatArray:
        values = np.logaddexp(0.0, self._parameters) if self.is_softplus else self._parameters
        return np.clip(values, 0.0, self.maximum)

    def update(self, gaps: FloatArray) -> FloatArray:
        """Take one step; see :meth:`DualVariable.update`."""
        check_gaps(gaps)
        gradient = gaps / (1.0 + np.exp(-self._parameters)) if self.is_softplus else gaps
        first, second = self._BETAS
        self._steps += 1
        self._means = first * self._means + (1.0 - first) * gradient
        self._squares = second * self._squares + (1.0 - second) * gradient**2
        mean = self._means / (1.0 - first**self._steps)
        square = self._squares / (1.0 - second**self._steps)
        self._parameters = self._parameters + self.learning_rate * mean / (np.sqrt(square) + self._EPSILON)
        if not self.is_softplus:
            self._parameters = np.clip(self._parameters, 0.0, self.maximum)
        self.values = self._multipliers()
        return self.values

    def get_state(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        arrays = {"parameters": self._parameters, "means": self._means, "squares": self._squares}
        return {**{name: array.copy() for name, array in arrays.items()}, "steps": self._steps}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._parameters, self._means = state["parameters"].copy(), state["means"].copy()
        self._squares, self._steps = state["squares"].copy(), int(state["steps"])
        self.values = self._multipliers()


def make_dual(config: DualConfig, num_constraints: int) -> Dual:
    """The multipliers that ``config`` asks for."""
    shared: dict[str, Any] = {
        "learning_rate": config.multiplier_lr,
        "initial": config.multiplier_init,
        "maximum": config.multiplier_max,
    }
    if config.dual == "optimistic":
        return OptimisticDual(num_constraints, **shared)
    if config.dual in ("adam", "softplus"):
        return AdamDual(num_constraints, is_softplus=config.dual == "softplus", **shared)
    return DualVariable(
        num_constraints,
        proportional=config.multiplier_kp,
        derivative=config.multiplier_kd,
        smoothing=config.multiplier_smoothing,
        delay=config.multiplier_delay,
        **shared,
    )


def check_gaps(gaps: FloatArray) -> None:
    """Raise if a gap is not finite.

    Raises:
        TrainingError: it is not.
    """
    if not np.all(np.isfinite(gaps)):
        raise TrainingError(f"The dual update needs finite constraint gaps; got {gaps}.")
