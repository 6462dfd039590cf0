r"""Models and barriers as data: what :class:`saferl.shields.CBFQPShield` computes its half-spaces from.

A barrier is a function h of the state x with the safe set {h >= 0}. Dynamics are affine in the action:

    xdot = f(x) + g(x) u  (continuous time)          x+ = f(x) + g(x) u  (discrete time)

Where the action does not move h at once (relative degree above 1), the chain of Xiao and Belta (2019)

    psi_0 = h,   psi_i = d/dt psi_{i-1} + a_i psi_{i-1}            psi_i = psi_{i-1}(x+) - (1 - a_i) psi_{i-1}(x)

ends in a function that it does move. For linear dynamics and quadratic h the chain is computed in closed form, because
quadratics stay quadratics: with q(x) = x'Mx + n'x + o and xdot = Ax + c,

    d/dt q = x'(MA + A'M)x + (2 M'c + A'n)'x + n'c           q(Ax + c) = x'A'MAx + (2 A'Mc + A'n)'x + c'Mc + n'c + o

All are frozen dataclasses of numbers, arrays and import paths, so that they travel in an artefact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]
Curvature = Literal["convex", "concave", "unknown"]
"""Of h. Where h is concave, its safe set is convex and tangents contain it; where it is convex, they lie inside."""
_NONE = 1e-12
"""Entries below this are rounding."""


class Dynamics(Protocol):
    """A model that is affine in the action."""

    @property
    def state_dim(self) -> int:
        """Length of x."""
        ...

    @property
    def action_dim(self) -> int:
        """Length of u."""
        ...

    def terms(self, x: Array) -> tuple[Array, Array]:
        """f(x) of shape (n,) and g(x) of shape (n, m)."""
        ...


class Barrier(Protocol):
    """A function whose superlevel set {h >= 0} is safe."""

    @property
    def curvature(self) -> Curvature:
        """Of h, for discrete time."""
        ...

    def stages(self, x: Array) -> tuple[Sequence[float], Array]:
        """psi_0(x), psi_1(x), ... up to the one that the action moves, and the gradient of that last one."""
        ...

    def worst(self, x: Array, box: Array) -> tuple[float, Array]:
        """A lower bound of the last stage over the states x + w, |w| <= box, and its slope at x.

        The slope makes a tangent that holds for the worst w: of the bound where h is concave, of h where it is convex.
        """
        ...


@dataclass(frozen=True, eq=False)
class LinearDynamics:
    """f(x) = A x + c and g = B.

    Example:
        >>> model = LinearDynamics(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]]))
        >>> f, g = model.terms(np.array([2.0, 3.0]))
        >>> f.tolist(), g.tolist()
        ([3.0, 0.0], [[0.0], [1.0]])
    """

    state: Array
    """A, shape (n, n)."""
    action: Array
    """B, shape (n, m)."""
    constant: Array | None = None
    """c, shape (n,); None: 0."""

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        a, b = (np.asarray(part, dtype=np.float64) for part in (self.state, self.action))
        c = np.zeros(len(a)) if self.constant is None else np.asarray(self.constant, dtype=np.float64)
        if a.ndim != 2 or b.ndim != 2 or a.shape != (len(b), len(b)) or c.shape != (len(b),):
            raise ConfigError(
                f"Linear dynamics need A (n, n), B (n, m) and a constant (n,); got {a.shape}, {b.shape} and {c.shape}."
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(c).all()):
            raise ConfigError("Linear dynamics must be finite numbers; A, B or the constant holds NaN or infinity.")
        for name, value in (("state", a), ("action", b), ("constant", c)):
            object.__setattr__(self, name, value)

    @property
    def state_dim(self) -> int:
        """Length of x."""
        return len(self.state)

    @property
    def action_dim(self) -> int:
        """Length of u."""
        return int(self.action.shape[1])

    def terms(self, x: Array) -> tuple[Array, Array]:
        """A x + c and B."""
        return self.state @ x + _constant(self), self.action


@dataclass(frozen=True, eq=False)
class FunctionDynamics:
    """f and g of a function of a module, for models that are not linear."""

    function: Callable[[Array], tuple[Array, Array]]
    """State to f(x), shape (n,), and g(x), shape (n, m); named by its import path where it is saved."""
    state_dim: int
    """Length of x."""
    action_dim: int
    """Length of u."""

    def terms(self, x: Array) -> tuple[Array, Array]:
        """What the function gives, with its shapes checked.

        Raises:
            ConfigError: other shapes.
        """
        f, g = (np.asarray(part, dtype=np.float64) for part in self.function(x))
        if f.shape != (self.state_dim,) or g.shape != (self.state_dim, self.action_dim):
            raise ConfigError(
                f"The dynamics must give f ({self.state_dim},) and g ({self.state_dim}, {self.action_dim}); "
                f"got {f.shape} and {g.shape}."
            )
        return f, g


@dataclass(frozen=True, eq=False)
class QuadraticBarrier:
    """h(x) = x'Mx + n'x + o; see :func:`affine`, :func:`ellipsoid` and :func:`distance` for the usual ones."""

    linear: Array
    """n, shape (n,)."""
    offset: float = 0.0
    """o."""
    matrix: Array | None = None
    """M, shape (n, n), made symmetric; None: 0."""

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        n = np.asarray(self.linear, dtype=np.float64)
        m = np.zeros((len(n), len(n))) if self.matrix is None else np.asarray(self.matrix, dtype=np.float64)
        if n.ndim != 1 or m.shape != (len(n), len(n)):
            raise ConfigError(f"A quadratic barrier needs n (n,) and M (n, n); got {n.shape} and {m.shape}.")
        if not (np.isfinite(n).all() and np.isfinite(m).all() and np.isfinite(self.offset)):
            raise ConfigError("A quadratic barrier must be finite numbers; it holds NaN or infinity.")
        for name, value in (("linear", n), ("matrix", 0.5 * (m + m.T)), ("offset", float(self.offset))):
            object.__setattr__(self, name, value)

    @property
    def _m(self) -> Array:
        assert self.matrix is not None  # set in __post_init__
        return self.matrix

    @property
    def curvature(self) -> Curvature:
        """Convex if M has no negative eigenvalue, concave if it has no positive one (0 counts as concave)."""
        eigenvalues = np.linalg.eigvalsh(self._m)
        if (eigenvalues <= _NONE).all():
            return "concave"
        return "convex" if (eigenvalues >= -_NONE).all() else "unknown"

    def stages(self, x: Array) -> tuple[Sequence[float], Array]:
        """h(x) and its gradient 2Mx + n."""
        product = self._m @ x
        return (float((product + self.linear) @ x + self.offset),), 2.0 * product + self.linear

    def worst(self, x: Array, box: Array) -> tuple[float, Array]:
        """h(x) - |grad h|'w - w'|M|w; without the last term and its slope where h is convex."""
        (value,), gradient = self.stages(x)
        bound = value - float(np.abs(gradient) @ box)
        if self.curvature == "convex":
            return bound, gradient
        return bound - float(box @ np.abs(self._m) @ box), gradient - 2.0 * self._m @ (np.sign(gradient) * box)

    def rate(self, model: LinearDynamics) -> QuadraticBarrier:
        """d/dt h along xdot = A x + c."""
        product = self._m @ model.state
        linear = 2.0 * self._m @ _constant(model) + model.state.T @ self.linear
        return QuadraticBarrier(linear, float(self.linear @ _constant(model)), product + product.T)

    def after(self, model: LinearDynamics) -> QuadraticBarrier:
        """h(A x + c)."""
        c = _constant(model)
        linear = model.state.T @ (2.0 * self._m @ c + self.linear)
        offset = float(c @ self._m @ c + self.linear @ c) + self.offset
        return QuadraticBarrier(linear, offset, model.state.T @ self._m @ model.state)

    def plus(self, other: QuadraticBarrier, weight: float, constant: float = 0.0) -> QuadraticBarrier:
        """This + weight * other + constant."""
        offset = self.offset + weight * other.offset + constant
        return QuadraticBarrier(self.linear + weight * other.linear, offset, self._m + weight * other._m)


@dataclass(frozen=True, eq=False)
class BrakingBarrier:
    """The room that is left before a limit after full braking, for a position and its velocity.

        h(x) = limit - s p - max(s v, 0)^2 / (2 b) - max(s v, 0) t,      s = +1 (upper limit) or -1 (lower limit, of -p)

    Unlike a chain of gains it respects the limit b of the deceleration: where h >= 0, braking is enough. h is concave.
    With v |v| in place of the square, a state beyond the limit that moves inwards would count as safe.
    """

    position: int
    """Index of p in the state."""
    velocity: int
    """Index of v in the state."""
    limit: float
    """Largest s p, in units of p. For a lower limit x >= -2: sign -1 and limit 2."""
    deceleration: float
    """b, what the brakes surely give, in units of p per second squared; positive."""
    sign: int = 1
    """+1 for an upper limit, -1 for a lower one."""
    reaction: float = 0.0
    """t, seconds until braking begins: one control step for a controller that samples."""

    def __post_init__(self) -> None:
        """Refuse brakes that do not brake."""
        if not self.deceleration > 0.0 or self.reaction < 0.0 or self.sign not in (1, -1):
            raise ConfigError(
                f"A braking barrier needs a positive deceleration, reaction >= 0 and sign 1 or -1; got "
                f"{self.deceleration}, {self.reaction} and {self.sign}."
            )

    @property
    def curvature(self) -> Curvature:
        """Concave."""
        return "concave"

    def stages(self, x: Array) -> tuple[Sequence[float], Array]:
        """h(x), which is never above the room limit - s p, and its gradient."""
        value, gradient = self._last(x, self.limit - self.sign * float(x[self.position]))
        return (value,), gradient

    def worst(self, x: Array, box: Array) -> tuple[float, Array]:
        """Exact: h falls with s p and with s v, so the worst corner is known."""
        shifted = x.copy()
        shifted[self.velocity] += self.sign * box[self.velocity]
        return self._last(shifted, self.limit - self.sign * float(x[self.position]) - float(box[self.position]))

    def _last(self, x: Array, room: float) -> tuple[float, Array]:
        speed = max(self.sign * float(x[self.velocity]), 0.0)
        gradient = np.zeros(len(x))
        gradient[self.position] = -self.sign
        if self.sign * x[self.velocity] >= 0.0:
            gradient[self.velocity] = -self.sign * (speed / self.deceleration + self.reaction)
        return room - speed * speed / (2.0 * self.deceleration) - speed * self.reaction, gradient


@dataclass(frozen=True, eq=False)
class FunctionBarrier:
    """A barrier that a function of a module computes."""

    function: Callable[[Array], tuple[Any, Array]]
    """State to (h(x), gradient), or to ((psi_0, ..., psi_r), gradient of psi_r) for a chain of one's own."""
    curvature: Curvature = "unknown"
    """Of h, for discrete time; what is claimed here is believed."""

    def stages(self, x: Array) -> tuple[Sequence[float], Array]:
        """What the function gives."""
        values, gradient = self.function(x)
        return np.atleast_1d(np.asarray(values, dtype=np.float64)).tolist(), np.asarray(gradient, dtype=np.float64)

    def worst(self, x: Array, box: Array) -> tuple[float, Array]:
        """To first order: h - |grad h|'w. A lower bound only where h is convex or affine."""
        values, gradient = self.stages(x)
        return float(values[-1]) - float(np.abs(gradient) @ box), gradient


def affine(normal: npt.ArrayLike, offset: float) -> QuadraticBarrier:
    """h(x) = normal'x + offset.

    Example:
        >>> affine([-1.0, 0.0], 2.0).stages(np.array([1.5, 9.0]))[0]
        (0.5,)
    """
    return QuadraticBarrier(np.asarray(normal, dtype=np.float64), offset)


def ellipsoid(centre: npt.ArrayLike, half_axes: npt.ArrayLike) -> QuadraticBarrier:
    """h(x) = 1 - sum_j ((x_j - centre_j) / half_axes_j)^2; an infinite half axis leaves its component free.

    Example:
        >>> ellipsoid([0.0, 0.0], [2.0, np.inf]).stages(np.array([1.0, 50.0]))[0]
        (0.75,)
    """
    middle, axes = np.asarray(centre, dtype=np.float64), np.asarray(half_axes, dtype=np.float64)
    weights = 1.0 / (axes * axes)
    return QuadraticBarrier(2.0 * weights * middle, 1.0 - float(weights @ (middle * middle)), -np.diag(weights))


def distance(
    state_dim: int,
    position: Sequence[int],
    radius: float,
    *,
    centre: npt.ArrayLike | None = None,
    other: Sequence[int] | None = None,
    inside: bool = False,
) -> QuadraticBarrier:
    """Keeps a position outside (or inside) a ball: h = (|p - q|^2 - r^2) / 2, or its negative.

    Args:
        state_dim: Length of the state.
        position: Indices of p in the state.
        radius: r > 0.
        centre: A fixed q.
        other: Indices of q in the state, where it moves. One of ``centre`` and ``other``.
        inside: Stay inside instead.

    Raises:
        ConfigError: neither or both of centre and other, or lengths that do not fit.

    Example:
        >>> distance(2, [0, 1], 1.0, centre=[0.0, 0.0]).stages(np.array([2.0, 0.0]))[0]
        (1.5,)
    """
    if (centre is None) == (other is None) or not radius > 0.0:
        raise ConfigError("A distance needs a positive radius and either a fixed centre or the indices of one.")
    selector = np.zeros((len(position), state_dim))
    selector[np.arange(len(position)), list(position)] = 1.0
    shift = np.zeros(len(position)) if centre is None else np.asarray(centre, dtype=np.float64)
    if shift.shape != (len(position),) or (other is not None and len(other) != len(position)):
        raise ConfigError(f"A distance compares {len(position)} coordinates with as many; got {centre or other!r}.")
    if other is not None:
        selector[np.arange(len(position)), list(other)] -= 1.0
    sign = -0.5 if inside else 0.5
    offset = sign * float(shift @ shift - radius * radius)
    return QuadraticBarrier(-2.0 * sign * selector.T @ shift, offset, sign * selector.T @ selector)


def chain(
    barrier: QuadraticBarrier,
    model: LinearDynamics,
    gains: Sequence[float],
    *,
    discrete: bool,
    box: Array,
    name: str = "barrier",
) -> tuple[QuadraticBarrier, ...]:
    """psi_0 to psi_{r-1} for r = len(gains); the last one is what the action moves.

    The gain of the last stage belongs to the condition of the program, so it is not used here.

    Args:
        barrier: h.
        model: Linear dynamics.
        gains: a_1 to a_r.
        discrete: Which time.
        box: Largest disturbance of every component of xdot (or x+), shape (n,).
        name: Of the barrier, for messages.

    Raises:
        ConfigError: the action moves an earlier stage, or not the last one, or a disturbance enters an earlier stage by
            an amount that depends on the state.
    """
    found = [barrier]
    for gain in gains[:-1]:
        last = found[-1]
        if _is_moved(last, model):
            raise ConfigError(
                f"{name}: the action moves stage {len(found) - 1} already, so it has relative degree {len(found)}; got "
                f"{len(gains)} gains. Give {len(found)}."
            )
        loss = float(np.abs(last.linear) @ box)
        if np.abs(last._m * (box + box[:, None])).max(initial=0.0) > _NONE:
            raise ConfigError(
                f"{name}: disturbances of a quadratic barrier of relative degree above 1 must enter where the action "
                f"does; got {box.tolist()}. Use an affine barrier, or a braking barrier in discrete time."
            )
        weight = -(1.0 - gain) if discrete else gain
        found.append((last.after(model) if discrete else last.rate(model)).plus(last, weight, -loss))
    if not _is_moved(found[-1], model):
        raise ConfigError(
            f"{name}: the action does not move the barrier with {len(gains)} gain(s): its relative degree is higher. "
            "Give one gain more, or let it depend on what the action moves."
        )
    return tuple(found)


def _is_moved(barrier: QuadraticBarrier, model: LinearDynamics) -> bool:
    return bool(max(np.abs(barrier._m @ model.action).max(), np.abs(barrier.linear @ model.action).max()) > _NONE)


def _constant(model: LinearDynamics) -> Array:
    assert model.constant is not None  # set in __post_init__
    return model.constant
