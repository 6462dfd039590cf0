"""Several barriers evaluated at once, and the margin for holding an action between samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saferl.shields.barriers import Barrier, LinearDynamics, QuadraticBarrier

Array = npt.NDArray[np.float64]


class BarrierStack:
    """Barriers in one array as far as they are quadratic; the quadratic ones come first."""

    def __init__(self, barriers: Sequence[Barrier]) -> None:
        """Stack ``barriers``, which may be none."""
        quadratic = [barrier for barrier in barriers if isinstance(barrier, QuadraticBarrier)]
        self.others = [barrier for barrier in barriers if not isinstance(barrier, QuadraticBarrier)]
        self.count = len(barriers)
        self.is_affine = not self.others and all(not np.any(barrier.matrix) for barrier in quadratic)
        self.keeps_cuts = np.array([barrier.curvature != "convex" for barrier in barriers], dtype=bool)
        self._is_flat = all(not np.any(barrier.matrix) for barrier in quadratic)
        self._size = len(quadratic)
        if quadratic:
            self._linear = np.array([barrier.linear for barrier in quadratic])
            self._offset = np.array([barrier.offset for barrier in quadratic])
            self._matrix = np.array([barrier.matrix for barrier in quadratic])
            self._sagging = np.where(self.keeps_cuts[: self._size, None, None], self._matrix, 0.0)

    def evaluate(self, x: Array) -> tuple[Array, Array, float]:
        """Last stages (k,), their gradients (k, n), and the smallest of all stages (infinite without barriers)."""
        if self._size:
            if self._is_flat:
                values, gradients = self._linear @ x + self._offset, self._linear
            else:
                product = self._matrix @ x
                values, gradients = (product + self._linear) @ x + self._offset, 2.0 * product + self._linear
            if not self.others:
                return values, gradients, float(values.min())
        found = [barrier.stages(x) for barrier in self.others]
        last = np.array([stages[-1] for stages, _ in found])
        slopes = np.array([gradient for _, gradient in found])
        least = min((min(stages) for stages, _ in found), default=float("inf"))
        if not self._size:
            return last, slopes, least
        return np.concatenate([values, last]), np.vstack([gradients, slopes]), min(least, float(values.min()))

    def worst(self, x: Array, box: Array) -> tuple[Array, Array]:
        """Lower bounds over x + w, |w| <= box, and their gradients: :meth:`Barrier.worst` of each."""
        values, gradients = np.zeros(0), np.zeros((0, len(x)))
        if self._size:
            product = self._matrix @ x
            values, gradients = (product + self._linear) @ x + self._offset, 2.0 * product + self._linear
            if box.any():
                corner = np.sign(gradients) * box
                values = values - np.abs(gradients) @ box - (np.abs(self._sagging) @ box) @ box
                gradients = gradients - 2.0 * np.einsum("kij,kj->ki", self._sagging, corner)
        if not self.others:
            return values, gradients
        found = [barrier.worst(x, box) for barrier in self.others]
        more = np.array([value for value, _ in found]), np.array([gradient for _, gradient in found])
        return np.concatenate([values, more[0]]), np.vstack([gradients, more[1]])


def sampling_margin(
    barrier: QuadraticBarrier,
    model: LinearDynamics,
    gain: float,
    disturbance: Array,
    states: tuple[Array, Array],
    actions: tuple[Array, Array],
) -> float:
    """Largest rate of the continuous-time condition while the action is held; times dt it is the margin.

    The condition is phi(x, u) = d/dt psi - |grad psi|'d + a psi. For quadratic psi and linear dynamics xdot and the
    gradient of phi by x are affine in (x, u), so each component is bounded over the boxes by its value in the middle
    plus the absolute coefficients times the half widths; sum_j max|d phi / d x_j| max|xdot_j| bounds the rate.
    """
    assert barrier.matrix is not None  # set in __post_init__
    assert model.constant is not None
    middle, half = (states[0] + states[1]) / 2.0, (states[1] - states[0]) / 2.0
    push, reach = (actions[0] + actions[1]) / 2.0, (actions[1] - actions[0]) / 2.0
    rate = barrier.rate(model)
    assert rate.matrix is not None
    by_state = 2.0 * (rate.matrix + gain * barrier.matrix)
    by_action = 2.0 * barrier.matrix @ model.action
    slope = np.abs(by_state @ middle + by_action @ push + rate.linear + gain * barrier.linear)
    slope += np.abs(by_state) @ half + np.abs(by_action) @ reach + 2.0 * np.abs(barrier.matrix) @ disturbance
    speed = np.abs(model.state @ middle + model.action @ push + model.constant)
    speed += np.abs(model.state) @ half + np.abs(model.action) @ reach + disturbance
    return float(slope @ speed)
