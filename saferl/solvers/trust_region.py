r"""The step of a trust region with linearised constraints, as pure linear algebra in the dual space.

    maximise g.x   subject to   c_i + b_i.x <= 0  for all i,   x' H x / 2 <= delta

with g and b_i the ascent gradients of the reward and cost surrogates, c_i the cost gap *in the units of b_i*, H the
Fisher matrix. Everything is expressed by v = H^-1 g, w_i = H^-1 b_i and the numbers q = g.v, r_i = g.w_i,
S_ij = b_i.w_j; the step is x = reward_weight v + sum_i cost_weights_i w_i.

One constraint (Achiam et al. 2017, "Constrained policy optimization", arXiv 1705.10528, theorem 2), with s = S_11:

    the step without constraint is x0 = sqrt(2 delta / q) v; if c + sqrt(2 delta / q) r <= 0 it is the answer;
    else the constraint is active, and  x = -(c / s) w + sqrt(B / A) (v - (r / s) w)  with
    A = q - r^2/s and B = 2 delta - c^2/s;
    if c > 0 and B < 0 nothing in the trust region is feasible: x = -sqrt(2 delta / s) w lowers the cost most.

Several constraints, by the concave dual in nu >= 0,

    maximise  nu.c - sqrt(2 delta (q - 2 nu.r + nu'S nu)),    x = (v - W nu) / lambda,
    lambda = sqrt((q - 2 nu.r + nu'S nu) / (2 delta))

and they are infeasible together exactly if  max over the simplex of  mu.c - sqrt(2 delta mu'S mu)  is positive; the
step -sqrt(2 delta / mu'S mu) W mu then lowers the worst one most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]
Case = Literal["free", "active", "recovery"]
_TINY = 1e-12


@dataclass(frozen=True)
class TrustRegionStep:
    """x = reward_weight v + sum_i cost_weights_i w_i."""

    reward_weight: float
    """Weight of v = H^-1 g."""
    cost_weights: Array
    """Weights of w_i = H^-1 b_i, (K,)."""
    case: Case
    """``free``: no constraint matters; ``active``: some do; ``recovery``: no step is feasible, costs are lowered."""


def trust_region_step(q: float, r: Array, s: Array, c: Array, delta: float) -> TrustRegionStep:
    """The optimal step.

    A constraint whose gradient vanishes cannot be acted on and is left out.

    Args:
        q: g.H^-1 g, >= 0.
        r: g.H^-1 b_i, (K,).
        s: b_i.H^-1 b_j, (K, K).
        c: Cost gaps in the units of b, (K,); positive if violated.
        delta: Trust region, > 0.
    """
    kept = np.flatnonzero(np.diag(s) > _TINY)
    free = float(np.sqrt(2.0 * delta / q)) if q > _TINY else 0.0
    if np.all(c[kept] + free * r[kept] <= 0.0):
        return TrustRegionStep(free, np.zeros_like(r), "free")
    weights = np.zeros_like(r)
    rows = np.ix_(kept, kept)
    reward, inner, case = (_one if len(kept) == 1 else _several)(q, r[kept], s[rows], c[kept], delta)
    weights[kept] = inner
    return TrustRegionStep(reward, weights, case)


def _one(q: float, r: Array, s: Array, c: Array, delta: float) -> tuple[float, Array, Case]:
    norm = float(s[0, 0])
    slack = 2.0 * delta - float(c[0]) ** 2 / norm
    if slack < 0.0:  # c < 0 with slack < 0 is feasible everywhere, and was answered as free
        return 0.0, np.array([-np.sqrt(2.0 * delta / norm)]), "recovery"
    along = q - float(r[0]) ** 2 / norm
    reward = float(np.sqrt(slack / along)) if along > _TINY * max(1.0, q) else 0.0
    return reward, np.array([-(float(c[0]) + reward * float(r[0])) / norm]), "active"


def _several(q: float, r: Array, s: Array, c: Array, delta: float) -> tuple[float, Array, Case]:
    worst = _recovery_mix(s, c, delta)
    reach = float(np.sqrt(2.0 * delta * max(float(worst @ s @ worst), _TINY)))
    if worst @ c - reach > 0.0:
        return 0.0, -2.0 * delta / reach * worst, "recovery"
    # Constraints are scaled by the size of their gradients, which the solver of the dual then sees as of order 1.
    size = 1.0 / np.sqrt(np.diag(s))
    unit = np.sqrt(max(q, _TINY))
    quadratic, linear = s * np.outer(size, size), r * size / unit
    gaps = c * size / np.sqrt(2.0 * delta)

    def dual(nu: Array) -> tuple[float, Array]:
        norm = np.sqrt(max(1.0 - 2.0 * float(nu @ linear) + float(nu @ quadratic @ nu), _TINY))
        return float(norm - nu @ gaps), (quadratic @ nu - linear) / norm - gaps

    found = minimize(
        dual,
        np.full(len(c), 0.1),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, None)] * len(c),
        options={"maxiter": 200, "ftol": 1e-14},
    )
    nu = np.maximum(found.x, 0.0)
    multiplier = (
        np.sqrt(max(1.0 - 2.0 * float(nu @ linear) + float(nu @ quadratic @ nu), _TINY)) * unit / np.sqrt(2.0 * delta)
    )
    return float(1.0 / multiplier), -nu * size * unit / multiplier, "active"


def _recovery_mix(s: Array, c: Array, delta: float) -> Array:
    """The mixture mu of constraints, (K,) in the simplex, whose joint violation the trust region can lower least."""
    size = max(float(np.abs(c).max()), _TINY)
    quadratic, linear = 2.0 * delta * s / size**2, c / size

    def violation(mu: Array) -> float:
        return float(np.sqrt(max(float(mu @ quadratic @ mu), _TINY)) - mu @ linear)

    starts = [np.eye(len(c))[int(c.argmax())], np.full(len(c), 1.0 / len(c))]
    simplex = {"type": "eq", "fun": lambda mu: mu.sum() - 1.0}
    found = [
        minimize(
            violation,
            start,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * len(c),
            constraints=[simplex],
            options={"maxiter": 200, "ftol": 1e-14},
        ).x
        for start in starts
    ]
    best = min([*found, *starts], key=violation)
    mix = np.maximum(best, 0.0)
    return np.asarray(mix / mix.sum())
