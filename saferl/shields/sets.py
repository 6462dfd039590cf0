r"""Invariant sets of linear systems x+ = A x + w with disturbances |w| <= w_max, as pure functions.

    tightening   t_i = sum_{k<i} |F A^k| w_max                support of the tube after i steps, per row of F
    mRPI box     b = sum_k |A^k| w_max                        smallest box around the minimal robustly invariant set
    terminal     {z : F A^j z <= f - t_{N+j} for all j}       largest set inside the tightened constraints that stays
                                                              inside itself under z -> A z + A^N w
    ellipsoid    {x : x' Q^-1 x <= 1} with [[tau Q, 0, Q A'], [0, 1 - tau, w'], [A Q, w, Q]] >= 0 for every vertex w

Boxes and the terminal set take linear algebra and a few linear programs (scipy); the ellipsoid is a semidefinite
program and needs cvxpy.

Sources: Kolmanovsky and Gilbert (1998) for invariant sets and the end of the recursion; Chisci, Rossiter and Zappa
(2001) for growing tightenings and the terminal set that belongs to them; Boyd et al. (1994) for the S-procedure.
"""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_discrete_are
from scipy.optimize import linprog

from saferl.errors import ConfigError, MissingExtraError

Array = npt.NDArray[np.float64]

_MOST_STEPS = 20_000
"""A closed loop whose powers have not died out by then is refused."""


@dataclass(frozen=True)
class Ellipsoid:
    """The set {x : x' Q^-1 x <= 1}."""

    shape: Array
    """Q, (n, n)."""
    tau: float
    """The multiplier of the S-procedure that gave it."""

    @property
    def box(self) -> Array:
        """Half-widths of the smallest box around it, (n,)."""
        return np.asarray(np.sqrt(np.diag(self.shape)))

    def level(self, points: npt.ArrayLike) -> Array:
        """The form x' Q^-1 x of points (..., n), at most 1 inside."""
        values = np.asarray(points, dtype=np.float64)
        return np.asarray((values * np.linalg.solve(self.shape, values[..., None])[..., 0]).sum(axis=-1))


def spectral_radius(matrix: Array) -> float:
    """The largest absolute eigenvalue: below 1, the system comes to rest."""
    return float(np.max(np.abs(np.linalg.eigvals(matrix))))


def lqr_gain(a: Array, b: Array, state_weight: Array, action_weight: Array) -> Array:
    """The gain K of u = K x that minimises sum x' Q x + u' R u, (m, n).

    Raises:
        ConfigError: the pair cannot be stabilised.
    """
    try:
        p = solve_discrete_are(a, b, state_weight, action_weight)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ConfigError(f"A linear model must be stabilisable; {error}. Give a gain, or another model.") from error
    return np.asarray(-np.linalg.solve(action_weight + b.T @ p @ b, b.T @ p @ a))


def prediction_matrices(a: Array, b: Array, steps: int) -> tuple[Array, Array]:
    """What the states of a plan depend on: z_i = free[i] z_0 + forced[i] (c_0, .., c_{steps-1}).

    Args:
        a: (n, n).
        b: (n, m).
        steps: Inputs of the plan.

    Returns:
        free (steps + 1, n, n) and forced (steps + 1, n, steps * m).
    """
    size, inputs = b.shape
    free, forced = np.zeros((steps + 1, size, size)), np.zeros((steps + 1, size, steps * inputs))
    free[0] = np.eye(size)
    for step in range(steps):
        free[step + 1], forced[step + 1] = a @ free[step], a @ forced[step]
        forced[step + 1][:, step * inputs : (step + 1) * inputs] = b
    return free, forced


def tightenings(closed: Array, rows: Array, w_max: Array, steps: int) -> Array:
    """t_0 .. t_steps, (steps + 1, rows): how far disturbances can carry ``rows @ x`` from its nominal value."""
    result, power = np.zeros((steps + 1, len(rows))), rows.copy()
    for step in range(steps):
        result[step + 1] = result[step] + np.abs(power) @ w_max
        power = power @ closed
    return result


def limit_tightening(closed: Array, rows: Array, w_max: Array, precision: float = 1e-12) -> Array:
    """The limit of :func:`tightenings`, (rows,): the support of the minimal robustly invariant set.

    Raises:
        ConfigError: a closed loop that does not come to rest.
    """
    radius = spectral_radius(closed)
    total, power = np.zeros(len(rows)), rows.copy()
    for _ in range(_MOST_STEPS if radius < 1.0 else 0):
        total += np.abs(power) @ w_max
        power = power @ closed
        # A term may be 0 by chance (a row that the disturbance reaches later), but not the whole power.
        if float((np.abs(power).sum(axis=1) * w_max.max(initial=0.0)).max(initial=0.0)) < precision:
            return total
    raise ConfigError(
        f"A tube needs a closed loop that comes to rest within {_MOST_STEPS} steps; got a spectral radius of "
        f"{radius:.4f}. Give another gain."
    )


def mrpi_box(closed: Array, w_max: Array) -> Array:
    """Half-widths of the smallest box around the minimal robustly invariant set, (n,)."""
    return limit_tightening(closed, np.eye(len(closed)), w_max)


def disturbance_vertices(w_max: Array) -> Array:
    """The corners of the box |w| <= w_max, (2^k, n), where k counts the components that are not 0."""
    axes = [(-w, w) if w > 0.0 else (0.0,) for w in w_max.tolist()]
    return np.array(list(itertools.product(*axes)))


def terminal_set(
    closed: Array, rows: Array, limits: Array, w_max: Array, steps: int, *, most: int = 500
) -> tuple[Array, Array]:
    """The largest terminal set that keeps a predictive filter of ``steps`` steps feasible: (G, g) of {z : G z <= g}.

    It fulfils, for t the :func:`tightenings`,

        rows z <= limits - t_steps   on Z_f,       A z + A^steps w in Z_f   for all z in Z_f and |w| <= w_max.

    Rows that the others imply are left out. The recursion ends when a whole new layer is implied.

    Args:
        closed: A + B K, (n, n).
        rows: Constraints of the state under the gain (those of the action as rows of K), (r, n).
        limits: Their upper limits, (r,).
        w_max: Half-widths of the disturbance, (n,).
        steps: Horizon of the filter.
        most: Layers after which to give up.

    Raises:
        ConfigError: the set is empty, or unbounded in a direction that nothing limits.
    """
    room = limits - limit_tightening(closed, rows, w_max)
    if not np.all(room >= 0.0):
        worst = int(np.argmin(room))
        raise ConfigError(
            f"A terminal set needs limits above the tube; row {worst} has the limit {limits[worst]:.4g} and the tube "
            f"{limits[worst] - room[worst]:.4g}."
        )
    tubes = tightenings(closed, rows, w_max, steps + most)
    kept_rows, kept_limits = np.zeros((0, len(closed))), np.zeros(0)
    power = rows.copy()
    for layer in range(most):
        bound = limits - tubes[steps + layer]
        news = [
            index for index in range(len(rows)) if not _is_implied(power[index], bound[index], kept_rows, kept_limits)
        ]
        if not news:
            return _without_implied(kept_rows, kept_limits)
        kept_rows = np.vstack([kept_rows, power[news]])
        kept_limits = np.concatenate([kept_limits, bound[news]])
        power = power @ closed
    raise ConfigError(
        f"A terminal set must be bounded; after {most} layers it still grows constraints. Limit every direction of the "
        "state, or take a faster gain."
    )


def invariant_ellipsoid(closed: Array, w_max: Array, *, points: int = 12, solver: str = "CLARABEL") -> Ellipsoid:
    """The ellipsoid of least trace, over a sweep of tau, that x+ = A x + w never leaves for |w| <= w_max.

    States are scaled by their mRPI box first, so that the trace compares like with like.

    Args:
        closed: A + B K, (n, n).
        w_max: Half-widths, (n,).
        points: Values of tau between the square of the spectral radius and 1.
        solver: Of cvxpy.

    Raises:
        ConfigError: no ellipsoid was found.
        MissingExtraError: cvxpy is not installed.
    """
    try:
        cp: Any = importlib.import_module("cvxpy")
    except ImportError as error:
        raise MissingExtraError("An invariant ellipsoid", "cvxpy", "train") from error
    scale = np.maximum(mrpi_box(closed, w_max), 1e-12)
    scaled = closed * scale / scale[:, None]
    vertices = disturbance_vertices(w_max) / scale
    vertices = vertices[: (len(vertices) + 1) // 2]  # the other half is their mirror image
    size, tau = len(closed), cp.Parameter(nonneg=True)
    q = cp.Variable((size, size), symmetric=True)
    conditions = []
    for vertex in vertices[:, :, None]:
        zero = np.zeros((size, 1))
        middle = cp.reshape(1.0 - tau, (1, 1), order="C")
        block = cp.bmat([[tau * q, zero, q @ scaled.T], [zero.T, middle, vertex.T], [scaled @ q, vertex, q]])
        conditions.append((block + block.T) / 2.0 >> 0)
    problem = cp.Problem(cp.Minimize(cp.trace(q)), conditions)
    best: tuple[float, Array, float] | None = None
    for value in np.linspace(spectral_radius(closed) ** 2, 1.0, points + 2)[1:-1]:
        tau.value = float(value)
        try:
            problem.solve(solver=solver)
        except cp.SolverError:
            continue
        if problem.status == "optimal" and (best is None or problem.value < best[0]):
            best = (float(problem.value), np.array(q.value), float(value))
    if best is None:
        raise ConfigError("No invariant ellipsoid was found; the closed loop is too slow, or the disturbance is 0.")
    return Ellipsoid(best[1] * np.outer(scale, scale), best[2])


def _is_implied(row: Array, limit: float, rows: Array, limits: Array) -> bool:
    """Whether ``row z <= limit`` holds wherever ``rows z <= limits``."""
    if not np.any(np.abs(row) > 1e-14):
        return True
    if len(rows) == 0:
        return False
    result = linprog(-row, A_ub=rows, b_ub=limits, bounds=(None, None), method="highs")
    return result.status == 0 and -float(result.fun) <= limit + 1e-10 * max(1.0, abs(limit))


def _without_implied(rows: Array, limits: Array) -> tuple[Array, Array]:
    keep = list(range(len(rows)))
    for index in range(len(rows)):
        others = [other for other in keep if other != index]
        if index in keep and _is_implied(rows[index], limits[index], rows[others], limits[others]):
            keep = others
    return rows[keep], limits[keep]
