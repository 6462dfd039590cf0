"""``TrajectoryProjector``: the nearest trajectory that a linear model can follow within constraints.

    minimise   1/2 sum_t |s_t - tau_t^s|_Q^2 + |a_t - tau_t^a|_Q^2       over a_0 .. a_{H-1}
    subject to s_{t+1} = A s_t + B a_t, s_0 measured;     F s_t <= f - delta_t;     low <= a_t <= high
               |p_t - o| >= r + delta_t                    for every obstacle (o, r), p_t a part of s_t
    delta_t  = tightening + growth (t - 1),                t = 1 .. H - 1

States are eliminated, so every projection follows the model exactly. An obstacle is not convex; it is replaced by the
half-space n.(p_t - o) >= r + delta_t with n the direction from o to the last iterate, which lies inside what is
allowed, and this is repeated; while those half-spaces conflict, they are softened to find a way round.
The state that is measured may break a constraint: t = 0 is left out.

The rows of F must have norm 1 for delta to be a distance.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError, MissingExtraError
from saferl.shields.sets import prediction_matrices

Array = npt.NDArray[np.float64]

_SOLVED = (1, 2)
"""DAQP's words for an optimum, and for one that breaks soft constraints."""
_SOFT = 8
"""DAQP's word for a constraint that may be broken at a high price."""
_SETTLED = 1e-6
"""Repetitions end when no position moves further than this."""


@dataclass(frozen=True)
class Projection:
    """A trajectory after projection."""

    trajectory: Array
    """(H, n + m): states, then actions."""
    cost: float
    """Half the squared weighted distance from what was projected."""
    is_feasible: bool
    """Whether the constraints of the states are kept; if not, it follows model and action bounds only."""


@dataclass(frozen=True)
class ProjectorSettings:
    """The constraints and the shape of the trajectories."""

    a: npt.ArrayLike
    """A, (n, n)."""
    b: npt.ArrayLike
    """B, (n, m)."""
    low: npt.ArrayLike
    """Lower bounds of actions, (m,)."""
    high: npt.ArrayLike
    """Upper bounds of actions, (m,)."""
    horizon: int = 8
    """H, states of a trajectory, at least 2."""
    rows: npt.ArrayLike | None = None
    """F, (r, n)."""
    limits: npt.ArrayLike | None = None
    """f, (r,)."""
    obstacles: Sequence[Sequence[float]] = ()
    """Centre and radius, (.., r), of every ball to stay out of."""
    position: Sequence[int] = (0, 1)
    """Which components of the state the obstacles are about."""
    tightening: float = 0.0
    """delta_1, at least 0: the one-step error of the model, in units of the constraints."""
    growth: float = 0.0
    """What delta gains per step, at least 0: errors add up along a plan."""
    weights: npt.ArrayLike | None = None
    """Diagonal of Q, (n + m,), positive; None: ones."""
    passes: int = 10
    """Repetitions of the linearisation around obstacles, at least 1."""


class TrajectoryProjector:
    """Projects trajectories onto a linear model and constraints; see the module for the problem.

    Example:
        >>> settings = ProjectorSettings([[1.0]], [[1.0]], [-1.0], [1.0], horizon=3, rows=[[1.0]], limits=[0.5])
        >>> plan = TrajectoryProjector(settings).project(np.array([[0.0, 0.6], [0.6, 0.0], [0.6, 0.0]]), [0.0])
        >>> (plan.trajectory.round(3) + 0.0).tolist(), plan.is_feasible
        ([[0.0, 0.5], [0.5, 0.0], [0.5, 0.0]], True)
    """

    def __init__(self, settings: ProjectorSettings) -> None:
        """Prepare the matrices.

        Raises:
            ConfigError: shapes that do not fit, or an option out of its range.
            MissingExtraError: DAQP is not installed.
        """
        try:
            daqp: Any = importlib.import_module("daqp")
        except ImportError as error:
            raise MissingExtraError("The projection of trajectories", "DAQP", "runtime") from error
        self._solve = daqp.solve
        self.settings = settings
        a, b = np.array(settings.a, dtype=np.float64), np.array(settings.b, dtype=np.float64)
        self._low, self._high = (np.array(x, dtype=np.float64).ravel() for x in (settings.low, settings.high))
        self._check(a, b)
        self.states, self.inputs, self.horizon = len(a), b.shape[1], settings.horizon
        self._rows = np.zeros((0, self.states)) if settings.rows is None else np.array(settings.rows, dtype=np.float64)
        self._limits = np.zeros(0) if settings.limits is None else np.array(settings.limits, dtype=np.float64)
        size = self.states + self.inputs
        self._weights = np.ones(size) if settings.weights is None else np.array(settings.weights, dtype=np.float64)
        if self._rows.shape != (len(self._limits), self.states) or self._weights.shape != (size,):
            raise ConfigError(
                f"A projector needs rows (r, {self.states}), limits (r,) and weights ({size},); got "
                f"{self._rows.shape}, {self._limits.shape} and {self._weights.shape}."
            )
        if not np.all(self._weights > 0.0):
            raise ConfigError(f"Weights of a projection must be positive; got {self._weights}.")
        self._position = list(settings.position)
        balls = [list(ball) for ball in settings.obstacles]
        if any(len(ball) != len(self._position) + 1 for ball in balls):
            raise ConfigError(f"An obstacle needs {len(self._position)} coordinates and a radius; got {balls}.")
        numbers = np.array(balls, dtype=np.float64).reshape(len(balls), len(self._position) + 1)
        self._centres, self._radii = numbers[:, :-1], numbers[:, -1]
        self._prepare(a, b)

    def _check(self, a: Array, b: Array) -> None:
        s = self.settings
        inputs = len(self._low)
        fits = a.ndim == 2 and a.shape == (len(a), len(a)) and b.shape == (len(a), inputs)
        if not fits or self._high.shape != (inputs,) or not np.all(self._low <= self._high):
            raise ConfigError(
                f"A projector needs A (n, n), B (n, m) and bounds low <= high (m,); got {a.shape}, {b.shape}, "
                f"{self._low} and {self._high}."
            )
        if s.horizon < 2 or s.passes < 1 or not (s.tightening >= 0.0 and s.growth >= 0.0):
            raise ConfigError(
                "A projector needs horizon >= 2, passes >= 1, tightening >= 0 and growth >= 0; "
                f"got {s.horizon}, {s.passes}, {s.tightening}, {s.growth}."
            )

    def _prepare(self, a: Array, b: Array) -> None:
        free, forced = prediction_matrices(a, b, self.horizon)
        self._free, self._forced = free[: self.horizon], forced[: self.horizon]
        state_weights, action_weights = self._weights[: self.states], self._weights[self.states :]
        self._flat = self._forced.reshape(-1, self.horizon * self.inputs)
        self._pull = self._flat.T * np.tile(state_weights, self.horizon)
        self._action_weights = np.tile(action_weights, self.horizon)
        self._hessian = np.ascontiguousarray(self._pull @ self._flat + np.diag(self._action_weights))
        self.deltas: Array = self.settings.tightening + self.settings.growth * np.maximum(
            np.arange(self.horizon) - 1.0, 0.0
        )
        self._fixed = np.einsum("ij,tjk->tik", self._rows, self._forced[1:]).reshape(-1, self._flat.shape[1])

    def project(self, trajectory: npt.ArrayLike, state: npt.ArrayLike) -> Projection:
        """The nearest trajectory from ``state`` that keeps the constraints.

        Args:
            trajectory: (H, n + m): states, then actions. Its first state is not used.
            state: What is measured now, (n,).
        """
        wanted = np.array(trajectory, dtype=np.float64)
        start = np.array(state, dtype=np.float64).ravel()
        drift = self._free @ start
        linear = -(
            self._pull @ (wanted[:, : self.states] - drift).ravel()
            + self._action_weights * wanted[:, self.states :].ravel()
        )
        room = (self._limits - self.deltas[1:, None] - drift[1:] @ self._rows.T).ravel()
        solution = self._search(wanted[1:], linear, room, drift)
        is_feasible = solution is not None
        if solution is None:
            solution = self._minimise(linear, np.zeros((0, len(linear))), np.zeros(0))
        actions = np.clip(wanted[:, self.states :].ravel() if solution is None else solution, *self._bounds())
        result = np.hstack([self._states_of(actions, drift), actions.reshape(self.horizon, self.inputs)])
        change = result - wanted
        change[0, : self.states] = 0.0
        return Projection(result, float((change**2 * self._weights).sum() / 2.0), is_feasible)

    def _search(self, wanted: Array, linear: Array, room: Array, drift: Array) -> Array | None:
        """Actions within all constraints, flat, or None. Where the linearised ones conflict, a pass softens them."""
        if not len(self._radii):
            return self._minimise(linear, self._fixed, room)
        around, solution = wanted[:, self._position], None
        for _ in range(self.settings.passes):
            extra, extra_room = self._half_spaces(around, drift)
            rows, limits = np.vstack([self._fixed, extra]), np.concatenate([room, extra_room])
            found = self._minimise(linear, rows, limits)
            solution = found if found is not None else solution
            if found is None:
                found = self._minimise(linear, rows, limits, is_soft=True)
            if found is None:
                break
            positions = self._states_of(found, drift)[1:, self._position]
            moved = float(np.max(np.abs(positions - around), initial=0.0))
            around = positions
            if moved < _SETTLED:
                break
        return solution

    def violation(self, trajectory: npt.ArrayLike) -> float:
        """By how much the worst state after the first breaks a constraint, without tightening; at most 0: none does."""
        states = np.asarray(trajectory, dtype=np.float64)[1:, : self.states]
        worst = float(np.max(states @ self._rows.T - self._limits, initial=-np.inf))
        if len(self._radii):
            gaps = np.linalg.norm(states[:, None, self._position] - self._centres, axis=-1) - self._radii
            worst = max(worst, float(-gaps.min()))
        return worst

    def _bounds(self) -> tuple[Array, Array]:
        return np.tile(self._low, self.horizon), np.tile(self._high, self.horizon)

    def _states_of(self, actions: Array, drift: Array) -> Array:
        return np.asarray(drift + self._forced @ actions)

    def _half_spaces(self, around: Array, drift: Array) -> tuple[Array, Array]:
        """Rows and limits of ``-n.p_t <= -n.o - r - delta_t`` for every obstacle and t = 1 .. H - 1."""
        if not len(self._radii):
            return np.zeros((0, self._flat.shape[1])), np.zeros(0)
        away = around[:, None] - self._centres
        length = np.linalg.norm(away, axis=-1, keepdims=True)
        first = np.eye(self._centres.shape[1])[0]
        normal = np.where(length > 1e-9, away / np.maximum(length, 1e-9), first)
        forced, free = self._forced[1:][:, self._position], drift[1:][:, self._position]
        rows = -np.einsum("tko,tov->tkv", normal, forced)
        inside = np.einsum("tko,tko->tk", normal, free[:, None] - self._centres)
        limits = inside - self._radii - self.deltas[1:, None]
        return rows.reshape(-1, rows.shape[-1]), limits.ravel()

    def _minimise(self, linear: Array, rows: Array, limits: Array, *, is_soft: bool = False) -> Array | None:
        low, high = self._bounds()
        upper = np.concatenate([high, limits])
        lower = np.concatenate([low, np.full(len(limits), -1e30)])
        sense = np.zeros(len(upper), dtype=np.int32)
        sense[len(high) :] = _SOFT if is_soft else 0
        values, _, flag, _ = self._solve(self._hessian, linear, np.ascontiguousarray(rows), upper, lower, sense)
        return np.array(values) if flag in _SOLVED and np.all(np.isfinite(values)) else None
