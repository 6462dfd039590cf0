r"""The nearest point of a box that satisfies half-spaces: what shields solve at every step.

    u* = argmin  1/2 sum_j ((u_j - p_j) / s_j)^2     subject to   A u >= b,   low <= u <= high

``s`` is half the range of every action, so that "nearest" is :attr:`ShieldDecision.distance`. Rows are divided by their
length in these units, so that a residual is a distance too.

One row has a closed form: u(t) = clip(p + t s^2 a) rises along a with t, piecewise linearly, and t is where a.u(t) = b.
Without an active bound this is u = p + a (b - a.p) / (a.a). Several rows are a dense convex program of a few variables,
solved by DAQP (Arnström, Bemporad and Axehill, IEEE TAC 2022), a dual active-set method that ends at the exact vertex.
Its answer is used only after the residual of every row was computed here.

What it guarantees: an answer called solved satisfies every row as it was given: rows are tightened by ``TIGHTENING``
before solving, which is above the rounding of the solver.

Differences from common practice: an empty set is answered by least violations in the order of the priorities, not by
one weighted penalty, whose weights decide silently which limit is kept.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError, MissingExtraError

Array = npt.NDArray[np.float64]

TIGHTENING = 1e-9
"""Rows are solved with this much to spare (normalised rows); what the solver rounds is below it."""
_ZERO_ROW = 1e-12
"""Length below which a row does not depend on the action."""
_FARTHEST = 1e9
"""Components of a proposal are cut to this many units."""
_BIG = 1e30
"""DAQP's infinity."""
_PENALTY = 1e5
"""Price of the least violation: far above the multipliers of normalised rows, so that the penalty is exact."""


@dataclass(frozen=True)
class Projection:
    """The nearest point, or the point that violates least."""

    action: Array
    """Shape (dim,), inside the box."""
    status: str
    """``pass`` (the proposal, clipped to the box, satisfies all rows), ``solved``, ``relaxed``, ``failed``."""
    shortfall: float = 0.0
    """Largest b - A u of the rows as given; 0 unless relaxed or failed."""


def project(
    proposed: Array,
    rows: Array,
    bounds: Array,
    low: Array,
    high: Array,
    *,
    scale: Array | None = None,
    priorities: npt.NDArray[np.int64] | None = None,
) -> Projection:
    """The nearest point to ``proposed`` in the box that satisfies ``rows @ u >= bounds``.

    If there is none, the largest violation of the (normalised) rows of priority 0 is made as small as it can be, then,
    with that kept, that of priority 1, and so on; among those points the nearest one is given, as ``relaxed``.

    Args:
        proposed: Shape (dim,), finite.
        rows: Shape (m, dim).
        bounds: Shape (m,).
        low: Lower bounds, shape (dim,).
        high: Upper bounds, shape (dim,).
        scale: Length of one unit of every component, shape (dim,); None: 1.
        priorities: Of every row, shape (m,); 0 is kept first. None: all alike.

    Raises:
        MissingExtraError: several rows matter and DAQP is not installed.

    Example:
        >>> one = np.ones(2)
        >>> project(np.zeros(2), np.array([[1.0, 1.0]]), np.array([1.0]), -one, one).action.round(6).tolist()
        [0.5, 0.5]
    """
    clipped = np.minimum(np.maximum(proposed, low), high)
    if (rows @ clipped >= bounds).all():
        return Projection(clipped, "pass")
    if scale is None:
        scale = np.ones(len(low))
    scaled = rows * scale
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    moves = lengths > _ZERO_ROW
    if moves.all():
        rows_n, bounds_n = scaled / lengths[:, None], bounds / lengths
        is_hopeless = False
    else:
        is_hopeless = bool((bounds[~moves] > 0.0).any())
        rows_n, bounds_n = scaled[moves] / lengths[moves, None], bounds[moves] / lengths[moves]
    # Beyond this the proposal would drown the rows in rounding; the answer hardly depends on it any more.
    start = np.minimum(np.maximum(proposed / scale, -_FARTHEST), _FARTHEST)
    box_low, box_high = low / scale, high / scale
    found = None if is_hopeless else nearest(start, rows_n, bounds_n + TIGHTENING, box_low, box_high)
    if found is not None:
        action = np.minimum(np.maximum(found * scale, low), high)
        if (rows @ action >= bounds).all():
            return Projection(action, "solved")
    order = np.zeros(len(rows), dtype=np.int64) if priorities is None else priorities
    least = least_violation(start, rows_n, bounds_n, box_low, box_high, order[moves])
    action = clipped if least is None else np.minimum(np.maximum(least * scale, low), high)
    shortfall = float(np.maximum(bounds - rows @ action, 0.0).max(initial=0.0))
    return Projection(action, "failed" if least is None else "relaxed", shortfall)


def nearest(start: Array, rows: Array, bounds: Array, low: Array, high: Array) -> Array | None:
    """The nearest point to ``start`` in the box that satisfies all rows (of length 1); None if there is none."""
    if len(rows) == 1:
        return nearest_one_row(start, rows[0], float(bounds[0]), low, high)
    if len(rows) == 0:
        return np.asarray(np.minimum(np.maximum(start, low), high))
    return _solve(np.eye(len(start)), -start, rows, bounds, low, high)


def nearest_one_row(start: Array, row: Array, bound: float, low: Array, high: Array) -> Array | None:
    """:func:`nearest` for one row, in closed form.

    u(t) = clip(start + t row) moves towards the row until its components stop at their bounds, one after the other.
    """
    point: Array = start + max(0.0, bound - float(row @ start)) * row
    if (point >= low).all() and (point <= high).all():
        return point
    point = np.minimum(np.maximum(start, low), high)
    missing = bound - float(row @ point)
    if missing <= 0.0:
        return point
    # Every component moves between two times: it may start outside its bounds, and stops at one of them.
    begins, ends, squares = [], [], []
    for a, u, inside, least, most in zip(*(part.tolist() for part in (row, start, point, low, high)), strict=True):
        if a != 0.0:
            begins.append(max((inside - u) / a, 0.0))
            ends.append(((most if a > 0.0 else least) - u) / a)
            squares.append(a * a)
    time = 0.0
    for event in sorted({*begins, *ends}):
        if event <= time:
            continue
        speed = sum(s for b, e, s in zip(begins, ends, squares, strict=True) if b <= time < e)
        if speed > 0.0 and missing <= speed * (event - time):
            return np.asarray(np.minimum(np.maximum(start + (time + missing / speed) * row, low), high))
        missing -= speed * (event - time)
        time = event
    return None


def least_violation(
    start: Array, rows: Array, bounds: Array, low: Array, high: Array, priorities: npt.NDArray[np.int64]
) -> Array | None:
    """The point of the box that violates rows (of length 1) least, in the order of their priorities; None: failed.

    One program per priority in (u, t): min 1/2 |u - start|^2 + w t with A u + t >= b, t >= 0 for its rows, and the rows
    of higher priority hard, less the violation that they could not avoid. ``start`` is moved into the box first, which
    bounds the multipliers, so that the penalty w t is exact: t is the least one.
    """
    dim = len(start)
    point: Array = np.minimum(np.maximum(start, low), high)
    hessian, cost = np.eye(dim + 1), np.empty(dim + 1)
    cost[:dim], cost[dim] = np.maximum(np.minimum(-point, 1e3), -1e3), _PENALTY
    least, most = np.zeros(dim + 1), np.full(dim + 1, _BIG)
    least[:dim], most[:dim] = low, high
    kept = bounds.copy()
    for level in sorted(set(priorities.tolist())):
        own, used = priorities == level, priorities <= level
        matrix = np.empty((int(used.sum()), dim + 1))
        matrix[:, :dim], matrix[:, dim] = rows[used], own[used]
        solution = _solve(hessian, cost, matrix, kept[used], least, most)
        if solution is None:
            return None
        point = solution[:dim]
        kept[own] -= max(0.0, float((bounds[own] - rows[own] @ point).max())) + TIGHTENING
    return point


def nearest_each(
    starts: Array, rows: Array, bounds: Array, low: Array, high: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """:func:`nearest` of many problems, one after the other, with as little as possible around the solver.

    Args:
        starts: Shape (k, dim).
        rows: Shape (k, m, dim), of length 1.
        bounds: Shape (k, m).
        low: Shape (dim,).
        high: Shape (dim,).

    Returns:
        Points of shape (k, dim), and whether they keep all rows, (k,); where not, the point of least violation.
    """
    count, m, dim = rows.shape
    one, soft = np.ones((count, m, 1)), np.append(low, 0.0)
    points = _solve_each(starts, rows, bounds, low, high)
    is_kept: npt.NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    if not is_kept.all():
        lost = np.flatnonzero(~is_kept)
        boxed = np.hstack([np.clip(starts[lost], low, high), np.full((len(lost), 1), -_PENALTY)])
        elastic = np.concatenate([rows[lost], one[lost]], axis=2)
        points[lost] = _solve_each(boxed, elastic, bounds[lost], soft, np.append(high, _BIG))[:, :dim]
        points = np.where(np.isfinite(points), points, starts)
    return np.clip(points, low, high), is_kept


def _solve_each(starts: Array, rows: Array, bounds: Array, low: Array, high: Array) -> Array:
    """Points of shape (k, dim); NaN where DAQP found none."""
    solver = _solver if _solver is not None else load_solver()
    count, m, dim = rows.shape
    # DAQP reads the memory of its arguments whatever their strides are, and stacking columns may give Fortran order.
    rows, costs = np.ascontiguousarray(rows), np.ascontiguousarray(-starts)
    lower = np.ascontiguousarray(np.hstack([np.broadcast_to(np.maximum(low, -_BIG), (count, dim)), bounds]))
    upper = np.concatenate([np.minimum(high, _BIG), np.full(m, _BIG)])
    points = np.full((count, dim), np.nan)
    hessian, sense = np.eye(dim), np.zeros(m + dim, dtype=np.int32)
    for k in range(count):
        point, _, flag, _ = solver.solve(hessian, costs[k], rows[k], upper, lower[k], sense, primal_tol=1e-11)
        sense[:] = 0
        if flag > 0:
            points[k] = point
    return points


_workspaces: dict[tuple[int, int], tuple[npt.NDArray[np.int32], Array]] = {}
_solver: Any = None


def _solve(hessian: Array, cost: Array, rows: Array, bounds: Array, low: Array, high: Array) -> Array | None:
    """The solution of one program, None unless DAQP calls it optimal and the rows say so too."""
    solver = _solver if _solver is not None else load_solver()
    m, dim = rows.shape
    key = (m, dim)
    if key not in _workspaces:
        _workspaces[key] = (np.zeros(m + dim, dtype=np.int32), np.full(m + dim, _BIG))
    sense, upper = _workspaces[key]
    sense[:] = 0
    upper[:dim] = np.minimum(high, _BIG)
    lower = np.empty(m + dim)
    np.maximum(low, -_BIG, out=lower[:dim])
    lower[dim:] = bounds
    point, _, flag, _ = solver.solve(hessian, cost, np.ascontiguousarray(rows), upper, lower, sense, primal_tol=1e-11)
    if flag <= 0:
        return None
    is_within = (rows @ point >= bounds - 0.5 * TIGHTENING).all() and np.isfinite(point).all()
    return np.asarray(point, dtype=np.float64) if is_within else None


def load_solver() -> Any:
    """DAQP.

    Raises:
        MissingExtraError: it is not installed.
    """
    global _solver
    try:
        _solver = importlib.import_module("daqp")
    except ModuleNotFoundError as error:
        raise MissingExtraError("A quadratic program of several rows", "daqp", "runtime") from error
    return _solver


def check_rows(rows: npt.ArrayLike, bounds: npt.ArrayLike, dim: int) -> tuple[Array, Array]:
    """Rows and bounds as arrays of shape (m, dim) and (m,).

    Raises:
        ConfigError: other shapes, or numbers that are not finite.
    """
    matrix, vector = np.asarray(rows, dtype=np.float64), np.asarray(bounds, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != dim or vector.shape != (len(matrix),):
        raise ConfigError(f"Rows and bounds must have shapes (m, {dim}) and (m,); got {matrix.shape}, {vector.shape}.")
    if not (np.isfinite(matrix).all() and np.isfinite(vector).all()):
        raise ConfigError("Rows and bounds must be finite; they hold NaN or infinity. Look at the model and the state.")
    return matrix, vector
