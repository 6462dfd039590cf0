"""Model predictive safety certification (``mpsc``): execute what leaves a safe plan, in every case of the disturbance.

Model x+ = A x + B u + w with |w| <= w_max; limits F x <= f and a box of actions; a stabilising gain u = K x. At each
step, with z_0 = x, z_{i+1} = A z_i + B v_i and v_i = K z_i + c_i,

    minimise |v_0 - u|^2   over c_0 .. c_{N-1}
    subject to   F z_i <= f - t_i,            t_i  = sum_{k<i} |F Acl^k| w_max,      Acl = A + B K
                 low + tu_i <= v_i <= high - tu_i,   tu_i = sum_{k<i} |K Acl^k| w_max
                 z_N in Z_f

and v_0 is executed. Lengths of actions are in half-ranges. Z_f is the largest set with Z_f inside the limits less t_N,
K Z_f inside the actions less tu_N and Acl Z_f (+) Acl^N W inside Z_f (:func:`saferl.shields.sets.terminal_set`). Then
c' = (c_1, .., c_{N-1}, 0) is feasible in the next state whatever w was, so a filter that starts feasible stays so:
that is why tightenings grow with i, and why a steady state or a nominal level set will not do as Z_f.

If the solver fails nevertheless, the last plan is followed, u = K x + c_k, and after it u = K x, which keeps the limits
by the same argument.

What it guarantees: every limit, for every disturbance in the box, from a certified start ("hard").

Papers: Wabersich and Zeilinger (2018), "Linear model predictive safety certification for learning-based control";
Chisci, Rossiter, Zappa (2001) for the growing tightenings.

Differences from the papers
- z_0 = x, so nothing but c is optimised; the tube is the box of supports, not an ellipsoid from samples.
- The terminal set is a polytope, so the problem is a quadratic program. It is condensed to c and solved by DAQP, whose
  factorisation is kept. ``reference_action`` writes the same problem down in cvxpy, uncondensed; tests compare the two.
- Whether the proposal itself can be certified is asked first, so a safe proposal passes unchanged to the last bit.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError, MissingExtraError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.sets import (
    limit_tightening,
    lqr_gain,
    prediction_matrices,
    spectral_radius,
    terminal_set,
    tightenings,
)

Array = npt.NDArray[np.float64]

_REST = 1e-6
"""Weight of c_1 .. c_{N-1}, which the problem leaves free, against c_0: the quadratic program has one solution."""
_SOLVED = 1
"""DAQP's word for an optimum."""
_RESIDUAL = 1e-7
"""A solution that breaks a (normalised) row by more is none, whatever the solver says."""
_NOTHING = 1e-9
"""Limits are read with this much room, so that rounding does not turn a point on them into an infeasible problem."""


@dataclass(frozen=True)
class LinearModel:
    """x+ = A x + B u + w with |w| <= w_max and F x <= f; what an :class:`MPSCShield` is built from."""

    a: npt.ArrayLike
    """A, (n, n)."""
    b: npt.ArrayLike
    """B, (n, m)."""
    w_max: npt.ArrayLike
    """Half-widths of the disturbance, (n,); what the model does not explain belongs to it."""
    rows: npt.ArrayLike
    """F, (r, n)."""
    limits: npt.ArrayLike
    """f, (r,)."""

    @classmethod
    def with_box(
        cls, a: npt.ArrayLike, b: npt.ArrayLike, w_max: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike
    ) -> LinearModel:
        """The same with limits low <= x <= high; infinite ones are left out."""
        upper, lower = np.array(high, dtype=np.float64).ravel(), np.array(low, dtype=np.float64).ravel()
        rows, limits = np.vstack([np.eye(len(upper)), -np.eye(len(lower))]), np.concatenate([upper, -lower])
        kept = np.isfinite(limits)
        return cls(a, b, w_max, rows[kept], limits[kept])

    def checked(self, actions: int) -> LinearModel:
        """The same as float64 arrays.

        Raises:
            ConfigError: shapes that do not fit, numbers that are not finite, a negative disturbance.
        """
        a, b, w_max, rows, limits = (
            np.array(x, dtype=np.float64) for x in (self.a, self.b, self.w_max, self.rows, self.limits)
        )
        size = len(a) if a.ndim == 2 else 0
        expected = ((size, size), (size, actions), (size,), (len(limits) if limits.ndim else 0, size))
        found = tuple(x.shape for x in (a, b, w_max, rows))
        if size == 0 or found != expected or limits.ndim != 1 or len(limits) == 0:
            raise ConfigError(
                f"mpsc: A (n, n), B (n, {actions}), w_max (n,), rows (r, n) and limits (r,) must fit together; "
                f"got {', '.join(map(str, found))} and {limits.shape}."
            )
        if not all(np.all(np.isfinite(x)) for x in (a, b, w_max, rows, limits)) or np.any(w_max < 0.0):
            raise ConfigError("mpsc: the model must be finite and w_max >= 0. Leave infinite limits out.")
        return LinearModel(a, b, w_max, rows, limits)


class _Program:
    """One quadratic program in DAQP, whose factorisation is kept while limits and the linear cost change."""

    def __init__(self, model: Any, arrays: tuple[Any, ...]) -> None:
        """Keep DAQP's model and the arrays that it was set up with."""
        self._model, self._linear, self._upper, self._sense = model, arrays[1], arrays[3], arrays[5]
        self._arrays = arrays

    def solve(self, upper: Array, linear: Array | None = None) -> Array | None:
        """The optimum, checked against the limits; None if there is none."""
        self._upper[:] = upper
        if linear is not None:
            self._linear[:] = linear
        # The sense is given again so that no active set is taken over: equal questions get equal answers, bit by bit.
        self._sense[:] = 0
        self._model.update(f=None if linear is None else self._linear, bupper=self._upper, sense=self._sense)
        values, _, flag, _ = self._model.solve()
        if flag != _SOLVED:
            return None
        found = np.array(values)
        return found if np.all(self._arrays[2] @ found <= self._upper + _RESIDUAL) else None


class MPSCShield(Shield):
    """The nearest action that leaves a safe plan under a linear model with bounded disturbances; see the module.

    Example:
        >>> dt = 0.1
        >>> model = LinearModel.with_box(
        ...     [[1, dt], [0, 1]], [[dt**2 / 2], [dt]], [1e-3, 5e-3], low=[-1, -2], high=[1, 2]
        ... )
        >>> shield = MPSCShield(ActionSpec.box([-1], [1]), model)
        >>> shield.filter(np.array([0.0, 0.0]), [0.5]).kind
        'pass'
        >>> shield.filter(np.array([0.8, 0.5]), [1.0]).kind
        'projected'
    """

    unit = "mpsc"

    def __init__(
        self,
        action_space: Any,
        model: LinearModel,
        *,
        horizon: int = 20,
        gain: npt.ArrayLike | None = None,
        terminal: tuple[Array, Array] | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Compute the tightenings and the terminal set, and set the solver up.

        Args:
            action_space: A bounded box with 0 inside.
            model: Dynamics, disturbance and limits; the origin must be a steady state inside the limits.
            horizon: N.
            gain: K of u = K x, (m, n). Default: LQR with unit weights, actions in half-ranges.
            terminal: (G, g) of Z_f = {z : G z <= g} if it is known already, as from a saved shield.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: a model that does not fit, a gain that does not stabilise, or limits that the tube of the
                disturbance fills (the message names the limit and the tube).
            MissingExtraError: DAQP is not installed.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if horizon < 1:
            raise ConfigError(f"mpsc: the horizon must be at least 1 step; got {horizon}.")
        if not (np.all(np.isfinite(self._low)) and np.all(np.isfinite(self._high))):
            raise ConfigError("mpsc: actions must be bounded; got an infinite bound. Give a bounded action space.")
        self.model = checked = model.checked(self.actions.dim)
        self._a, self._b, self._w = (np.asarray(x) for x in (checked.a, checked.b, checked.w_max))
        self._rows, self._limits = np.asarray(checked.rows), np.asarray(checked.limits)
        self.horizon, half = int(horizon), self.actions.half_range
        weight = np.diag(1.0 / half**2)
        self.gain: Array = (
            lqr_gain(self._a, self._b, np.eye(len(self._a)), weight) if gain is None else np.array(gain, dtype=float)
        )
        if self.gain.shape != (self.actions.dim, len(self._a)):
            raise ConfigError(f"mpsc: the gain must be (m, n); got {self.gain.shape}.")
        self.closed: Array = self._a + self._b @ self.gain
        if not spectral_radius(self.closed) < 1.0:
            raise ConfigError(
                f"mpsc: u = K x must stabilise the model; got a spectral radius of {spectral_radius(self.closed):.4f}."
            )
        self._check_room()
        everything = np.vstack([self._rows, self.gain, -self.gain])
        bounds = np.concatenate([self._limits, self._high, -self._low])
        self.terminal = terminal if terminal is not None else terminal_set(
            self.closed, everything, bounds, self._w, self.horizon
        )  # fmt: skip
        self._condense(everything, bounds)
        self._solvers: tuple[_Program, _Program] | None = None
        self._solvers_of_this()
        self.reset()

    @property
    def _low(self) -> Array:
        return np.asarray(self.actions.low)

    @property
    def _high(self) -> Array:
        return np.asarray(self.actions.high)

    def _check_room(self) -> None:
        """Refuse limits that the tube fills: the tightened set is empty, there is nothing to certify."""
        state = limit_tightening(self.closed, self._rows, self._w)
        action = limit_tightening(self.closed, self.gain, self._w)
        full = [
            f"limit {i} of the state ({_row_text(self._rows[i])} <= {self._limits[i]:.4g}) has a tube of {state[i]:.4g}"
            for i in np.flatnonzero(state >= self._limits)
        ]
        room = np.minimum(self._high, -self._low)
        full += [
            f"action {i} ({self._low[i]:.4g} to {self._high[i]:.4g}) has a tube of {action[i]:.4g}"
            for i in np.flatnonzero(action >= room)
        ]
        if full:
            raise ConfigError(
                "mpsc: the tightened set must not be empty, but " + "; ".join(full) + ". The disturbance can carry the "
                f"closed loop (spectral radius {spectral_radius(self.closed):.4f}) through the whole limit: take a "
                "faster gain, a better model (smaller w_max) or wider limits."
            )

    # -- the quadratic program ------------------------------------------------------------------------------------

    def _condense(self, rows: Array, bounds: Array) -> None:
        """Write every constraint as ``L c <= b - M x``, normalised row by row.

        With z_i = Acl^i x + sum_{j<i} Acl^{i-1-j} B c_j; rows of actions also take c_i itself.
        """
        inputs, steps, states = self.actions.dim, self.horizon, len(self._rows)
        tubes = tightenings(self.closed, rows, self._w, steps)
        free, forced = prediction_matrices(self.closed, self._b, steps)
        direct = np.vstack([np.zeros((states, inputs)), np.eye(inputs), -np.eye(inputs)])
        left, right, limits = [self.terminal[0] @ forced[steps]], [self.terminal[0] @ free[steps]], [self.terminal[1]]
        for step in range(steps):
            chosen = slice(None) if step else slice(states, None)  # z_0 is what it is
            block = rows @ forced[step]
            block[:, step * inputs : (step + 1) * inputs] += direct
            left.append(block[chosen])
            right.append((rows @ free[step])[chosen])
            limits.append((bounds - tubes[step])[chosen])
        big_l, big_m, big_b = np.vstack(left), np.vstack(right), np.concatenate(limits)
        norm = np.linalg.norm(big_l, axis=1)
        fixed = norm < 1e-12
        norm = np.where(fixed, 1.0, norm)
        self._l, self._m, self._b_rows = (
            np.ascontiguousarray((big_l / norm[:, None])[~fixed]),
            np.ascontiguousarray((big_m / norm[:, None])[~fixed]),
            np.ascontiguousarray((big_b / norm)[~fixed]),
        )
        self._fixed_m, self._fixed_b = big_m[fixed], big_b[fixed]

    def _solvers_of_this(self) -> tuple[_Program, _Program]:
        """DAQP's workspaces of the two programs; made again in a copy or another process."""
        if self._solvers is not None:
            return self._solvers
        try:
            daqp: Any = importlib.import_module("daqp")
        except ImportError as error:
            raise MissingExtraError("The predictive filter", "DAQP", "runtime") from error
        inputs, count = self.actions.dim, self._l.shape[1]
        diagonal = np.full(count, _REST)
        diagonal[:inputs] = 1.0
        scaled = np.diag(diagonal / np.tile(self.actions.half_range, self.horizon) ** 2)
        programs = []
        for hessian, matrix in ((scaled, self._l), (np.eye(count - inputs), self._l[:, inputs:])):
            model, rows = daqp.Model(), len(matrix)
            model.settings = {"primal_tol": 1e-9}
            # DAQP reads these arrays later, where they are: they must live as long as it does.
            arrays = (
                hessian, np.zeros(len(hessian)), np.ascontiguousarray(matrix), np.full(rows, 1e20),
                np.full(rows, -1e30), np.zeros(rows, dtype=np.int32),
            )  # fmt: skip
            if len(hessian):
                model.setup(*arrays)
            programs.append(_Program(model, arrays))
        self._solvers = (programs[0], programs[1])
        return self._solvers

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the solver's memory, which cannot be copied."""
        return {**self.__dict__, "_solvers": None}

    def _plan_with(self, action: Action, state: Array, room: Array) -> Array | None:
        """A plan c that begins with ``action``, (N, m), or None if there is none."""
        inputs = self.actions.dim
        first = action - self.gain @ state
        rest = room - self._l[:, :inputs] @ first
        if self.horizon == 1:
            return first[None] if np.all(rest >= -_NOTHING) else None
        values = self._solvers_of_this()[1].solve(rest)
        return None if values is None else np.concatenate([first, values]).reshape(self.horizon, inputs)

    def _nearest_plan(self, action: Action, state: Array, room: Array) -> Array | None:
        """The plan whose first action is nearest to ``action``, (N, m), or None if no plan is feasible."""
        inputs = self.actions.dim
        linear = np.zeros(self._l.shape[1])
        linear[:inputs] = -(action - self.gain @ state) / self.actions.half_range**2
        values = self._solvers_of_this()[0].solve(room, linear)
        return None if values is None else values.reshape(self.horizon, inputs)

    def _room(self, state: Array) -> Array | None:
        """``b - M x``; None if a limit that no plan can change is broken."""
        if len(self._fixed_b) and np.any(self._fixed_m @ state > self._fixed_b + _NOTHING):
            return None
        return np.asarray(self._b_rows - self._m @ state)

    # -- the shield -----------------------------------------------------------------------------------------------

    def spec(self) -> ShieldSpec:
        """Needs, guarantee and assumptions."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=(
                "The device moves as x+ = A x + B u + w with |w| <= w_max.",
                "The observation is the state x.",
                "The episode starts in a certified state.",
            ),
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether x keeps its limits and has a safe plan."""
        state = self._state_of(obs)
        if state is None or np.any(self._rows @ state > self._limits + _NOTHING):
            return False
        room = self._room(state)
        return room is not None and self._nearest_plan(self.gain @ state, state, room) is not None

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Forget the plan."""
        self._plan: Array | None = None
        self._start, self._age = np.zeros(len(self._a)), 0
        self._new: tuple[Array, Array] | None = None

    def get_memory(self) -> Any:
        """The plan that is followed if no new one is found: c, the state it began in, and how old it is."""
        plan = None if self._plan is None else self._plan.copy()
        return {"plan": plan, "start": self._start.copy(), "age": self._age}

    def set_memory(self, memory: Any) -> None:
        """Go back to a plan."""
        self._plan = None if memory["plan"] is None else np.array(memory["plan"])
        self._start, self._age = np.array(memory["start"]), int(memory["age"])

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        self._new = None
        state = np.asarray(obs, dtype=np.float64).ravel()
        wanted, room = self.actions.clip(proposed), self._room(state)
        plan = None if room is None else self._plan_with(wanted, state, room)
        if plan is not None:
            self._new = (plan, state)
            return Ruling(wanted, "pass")
        plan = None if room is None else self._nearest_plan(wanted, state, room)
        if plan is None:
            return Ruling(self._followed(state), "infeasible", status=self._why_followed())
        self._new = (plan, state)
        return Ruling(self.gain @ state + plan[0], "projected")

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        """The certified action nearest to K x; the last plan if there is none, or if the state is not known."""
        self._new = None
        state = self._state_of(obs)
        if state is None:
            return self._predicted()
        room = self._room(state)
        plan = None if room is None else self._nearest_plan(self.gain @ state, state, room)
        if plan is None:
            return self._followed(state)
        self._new = (plan, state)
        return np.asarray(self.gain @ state + plan[0])

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        new, self._new = self._new, None
        state = self._state_of(obs)
        if new is not None and np.max(np.abs(self.gain @ new[1] + new[0][0] - decision.action)) > _RESIDUAL:
            new = None
        if new is None and state is not None and (room := self._room(state)) is not None:
            # Somebody else had the last word: the plan is one that begins with what was executed.
            plan = self._plan_with(decision.action, state, room)
            new = None if plan is None else (plan, state)
        if new is not None:
            (self._plan, self._start), self._age = new, 1
        else:
            self._age += 1

    def _state_of(self, obs: Any) -> Array | None:
        try:
            state = np.asarray(obs, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            return None
        return state if state.shape == (len(self._a),) and np.all(np.isfinite(state)) else None

    def _followed(self, state: Array) -> Array:
        feedback = self.gain @ state
        if self._plan is not None and self._age < self.horizon:
            feedback = feedback + self._plan[self._age]
        return np.asarray(feedback)

    def _predicted(self) -> Array:
        """The planned action where the state is not known: the nominal plan from where it began."""
        state = self._start
        for step in range(self._age + 1):
            following = self._plan[step] if self._plan is not None and step < self.horizon else 0.0
            action = self.gain @ state + following
            state = self._a @ state + self._b @ action
        return np.asarray(action)

    def _why_followed(self) -> str:
        if self._plan is None:
            return "no safe plan from this state, which is not certified; the gain K acts"
        return f"no safe plan was found; the last one is followed, step {self._age}"

    def _to_data(self) -> ShieldData:
        arrays = {
            "a": self._a, "b": self._b, "w_max": self._w, "rows": self._rows, "limits": self._limits,
            "gain": self.gain, "terminal_rows": self.terminal[0], "terminal_limits": self.terminal[1],
        }  # fmt: skip
        return ShieldData({"horizon": self.horizon}, arrays)

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        arrays = data.arrays
        model = LinearModel(*(arrays[name] for name in ("a", "b", "w_max", "rows", "limits")))
        terminal = (arrays["terminal_rows"], arrays["terminal_limits"])
        return cls(action_space, model, horizon=int(data.config["horizon"]), gain=arrays["gain"], terminal=terminal)


def reference_action(shield: MPSCShield, state: npt.ArrayLike, proposed: npt.ArrayLike) -> Array | None:
    """The action of the same problem, written down uncondensed in cvxpy and solved by CLARABEL; None if infeasible.

    A reference for tests and for those who change the shield; it takes milliseconds. The length is minimised, not its
    square, so that the solver's tolerance is one of the action.
    """
    cp: Any = importlib.import_module("cvxpy")
    model, steps, low, high = shield.model, shield.horizon, shield.actions.low, shield.actions.high
    a, b, rows, limits = (np.asarray(x) for x in (model.a, model.b, model.rows, model.limits))
    w_max = np.asarray(model.w_max)
    tubes, action_tubes = (tightenings(shield.closed, x, w_max, steps) for x in (rows, shield.gain))
    z, v = cp.Variable((steps + 1, len(a))), cp.Variable((steps, b.shape[1]))
    conditions = [z[0] == np.asarray(state), shield.terminal[0] @ z[steps] <= shield.terminal[1]]
    for step in range(steps):
        conditions += [z[step + 1] == a @ z[step] + b @ v[step]]
        conditions += [v[step] >= low + action_tubes[step], v[step] <= high - action_tubes[step]]
        if step:
            conditions.append(rows @ z[step] <= limits - tubes[step])
    change = cp.multiply(v[0] - np.asarray(proposed), 1.0 / shield.actions.half_range)
    problem = cp.Problem(cp.Minimize(cp.norm(change)), conditions)
    problem.solve(solver=cp.CLARABEL)
    return np.array(v.value[0]) if problem.status == cp.OPTIMAL else None


def _row_text(row: Array) -> str:
    return " ".join(f"{value:+.3g} x{index}" for index, value in enumerate(row.tolist()) if value != 0.0)
