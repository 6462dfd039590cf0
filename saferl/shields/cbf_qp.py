r"""CBFQPShield: the nearest action that keeps control barrier functions (Ames et al., TAC 2017; ECC 2019).

With barriers h_i, dynamics affine in the action and class-K functions a h, the executed action is

    u* = argmin |u - u0|   subject to, for every i,   low <= u <= high

    continuous time   grad psi_i'(f + g u) - |grad psi_i|'d + a_i psi_i(x) >= m_i
    discrete time     min over |w| <= d of psi_i(f + g u + w)              >= (1 - a_i) psi_i(x) + m_i

psi_i is h_i itself, or the end of a chain of higher order (:func:`saferl.shields.barriers.chain`; Xiao and Belta, CDC
2019); d is the disturbance box, m_i a margin. A controller that samples every dt seconds holds u, so the continuous
condition needs a margin of dt times the largest rate of its left-hand side; for linear dynamics and quadratic barriers
:class:`SampledData` bounds it by interval arithmetic (the form of Breeden, Garg and Panagou, L-CSS 2022).

One condition is solved in closed form, several by DAQP (:mod:`saferl.shields.qp`). In discrete time a curved barrier
makes the set of actions curved: it is cut by tangents (Kelley's cutting planes) until the true condition holds at the
answer. Where no action keeps all conditions, the least violation by priority is executed and recorded as
``infeasible`` with its slack, or the fallback above ``max_slack``.

What it guarantees: psi >= 0 for ever from a certified state, for all disturbances of the box, as long as no decision is
``infeasible`` or ``fallback``. Whether one can be needed inside the certified set depends on the barrier and the limits
of the action: :meth:`CBFQPShield.validate` looks for such states on a grid. A chain of gains ignores those limits;
:class:`~saferl.shields.barriers.BrakingBarrier` does not.

Differences from the papers: class-K functions are linear; the objective has no slack term, because slack enters only
where the hard program has no solution; |grad psi|'d is a box, where robust CBFs often have a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.barrier_stack import BarrierStack, sampling_margin
from saferl.shields.barriers import Barrier, Dynamics, FunctionBarrier, LinearDynamics, QuadraticBarrier, chain
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, Guarantee, ShieldContext, ShieldSpec
from saferl.shields.qp import Projection, load_solver, project

Array = npt.NDArray[np.float64]
Time = Literal["continuous", "discrete"]

_CUTS = 40
"""Largest number of tangents to a curved condition."""
_CUT_TIGHTENING = 1e-9
"""Tangents ask for this much more, so that the answer of the last one satisfies the condition itself."""
_NO_ACTION = "no action keeps all conditions: least violation by priority"


@dataclass(frozen=True, eq=False)
class Condition:
    """One barrier with what is asked of it."""

    barrier: Barrier
    """h."""
    gains: Sequence[float] = (1.0,)
    """a of every stage, one per relative degree: 1/s, positive (continuous time); in (0, 1] (discrete time)."""
    priority: int = 0
    """What is kept first where not all can be kept; 0 is the most important."""
    margin: float = 0.0
    """m, in units of the condition; on top of what disturbance and sampling need."""
    name: str = ""
    """For messages."""


@dataclass(frozen=True, eq=False)
class SampledData:
    """For a continuous-time model under a controller that holds its action between samples."""

    interval: float
    """dt in seconds."""
    low: Array
    """Smallest values of the state that the margin must cover, shape (n,)."""
    high: Array
    """Largest ones."""


@dataclass(frozen=True)
class Validation:
    """What :meth:`CBFQPShield.validate` found."""

    points: int
    """States of the grid."""
    certified: int
    """Those inside the certified set."""
    infeasible: int
    """Certified ones without an action that keeps all conditions; 0 for a barrier that is valid on the grid."""
    worst_slack: float = 0.0
    """Largest violation that cannot be avoided at one of those."""
    worst_state: tuple[float, ...] | None = None
    """Where."""

    @property
    def is_valid(self) -> bool:
        """Whether every certified state has a safe action, and there is one."""
        return self.certified > 0 and self.infeasible == 0


class CBFQPShield(Shield):
    """Nearest action that keeps control barrier functions.

    Example:
        >>> from saferl.shields.barriers import LinearDynamics, affine
        >>> integrator = LinearDynamics(np.zeros((1, 1)), np.ones((1, 1)))  # xdot = u
        >>> space = ActionSpec.box([-1.0], [1.0])
        >>> shield = CBFQPShield(space, integrator, [Condition(affine([-1.0], 1.0), gains=[2.0])])  # x <= 1
        >>> decision = shield.filter([0.9], [1.0])
        >>> decision.kind, decision.action.round(6).tolist()  # u <= 2 (1 - x)
        ('projected', [0.2])
    """

    unit = "cbf_qp"

    def __init__(
        self,
        action_space: Any,
        dynamics: Dynamics,
        conditions: Sequence[Condition],
        *,
        time: Time = "continuous",
        disturbance: npt.ArrayLike | None = None,
        sampled: SampledData | None = None,
        max_slack: float | None = None,
        fallback: npt.ArrayLike | Callable[[Array], Any] | None = None,
        state: Sequence[int] | Callable[[Any], Any] | None = None,
        state_key: str | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Put the conditions together.

        Args:
            action_space: A box.
            dynamics: Model, affine in the action.
            conditions: Barriers, at least one.
            time: Whether the model gives xdot or the next state.
            disturbance: Largest deviation of every component of xdot (or x+), a number or shape (n,).
            sampled: Adds the margin of a controller that samples (continuous time, linear model, quadratic barriers).
            max_slack: Largest violation that is executed where no action keeps all conditions; above it the fallback
                is. None: any; 0: the fallback always.
            fallback: An action, or a function of the state; None: the middle of the space.
            state: How the state is read from the observation: indices, or a function; None: it is the observation.
            state_key: Read the state from this entry of ``ShieldContext.privileged`` instead of the observation.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: what does not fit together, by name.
            MissingExtraError: several conditions, and DAQP is not installed.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        self.dynamics, self.conditions, self.time = dynamics, tuple(conditions), time
        self.sampled, self.max_slack = sampled, max_slack
        self.fallback_action, self.state, self.state_key = fallback, state, state_key
        n = dynamics.state_dim
        self.disturbance = _box(disturbance, n)
        self._check()
        stages = [self._stages_of(condition, number) for number, condition in enumerate(self.conditions)]
        # Quadratics first: they are evaluated at once.
        order = sorted(range(len(stages)), key=lambda i: not isinstance(stages[i][-1], QuadraticBarrier))
        ordered = [self.conditions[i] for i in order]
        self._last = BarrierStack([stages[i][-1] for i in order])
        self._lower = BarrierStack([stage for i in order for stage in stages[i][:-1]])
        self._gains = np.array([condition.gains[-1] for condition in ordered])
        self._priorities = np.array([condition.priority for condition in ordered], dtype=np.int64)
        self._margins = np.array([condition.margin for condition in ordered])
        if sampled is not None:
            self._margins = self._margins + np.array([self._sampling_margin(stages[i][-1], i) for i in order])
        self._is_disturbed = bool(self.disturbance.any())
        if len(self.conditions) > 1 or not self._last.is_affine:
            load_solver()

    def spec(self) -> ShieldSpec:
        """Hard for the disturbance box where sampling is covered, otherwise for the nominal model."""
        assumptions = [
            "The model is exact" + (" up to the disturbance box." if self._is_disturbed else "."),
            "Every certified state has an action within the limits that keeps all conditions (see validate).",
            "Episodes begin in a certified state.",
        ]
        if self.time == "continuous" and self.sampled is None:
            assumptions.append("The action is updated continuously.")
        elif self.time == "continuous":
            assumptions.append("The state stays in the box for which the sampling margin was made.")
        else:
            assumptions.append("Safety is asked for at the samples, not between them.")
        return CATALOGUE[self.unit].spec(self.unit, assumptions=tuple(assumptions), guarantee=self._guarantee())

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether all stages of all barriers are at least 0."""
        try:
            x = self._state_of(obs, context if context is not None else ShieldContext())
            return bool(self._margin(x, self._last.evaluate(x)[2]) >= 0.0)
        except (KeyError, TypeError, ValueError, IndexError):
            return False

    def half_spaces(self, obs: Any, context: ShieldContext | None = None) -> tuple[Array, Array]:
        """``rows`` (k, m) and ``bounds`` (k,) with rows @ u >= bounds, for the batched projector and for training.

        Raises:
            ConfigError: in discrete time, conditions that are curved in the action.
        """
        x = self._state_of(obs, context if context is not None else ShieldContext())
        if self.time == "continuous":
            return self._continuous_rows(x, *self._last.evaluate(x)[:2])
        if not self._last.is_affine:
            raise ConfigError(f"{self.unit}: in discrete time only affine barriers give half-spaces; use filter.")
        f, g = self.dynamics.terms(x)
        return self._tangents(x, self._last.evaluate(x)[0], f, g, self.actions.middle)

    def validate(self, grid: npt.ArrayLike) -> Validation:
        """Look for certified states from which no action keeps all conditions.

        Args:
            grid: States, shape (N, n); ``np.stack(np.meshgrid(...), -1).reshape(-1, n)`` makes a grid.

        Raises:
            ConfigError: another shape.
        """
        states = np.asarray(grid, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != self.dynamics.state_dim:
            raise ConfigError(f"A grid must have shape (N, {self.dynamics.state_dim}); got {states.shape}.")
        certified = infeasible = 0
        worst, worst_state = 0.0, None
        for x in states:
            found, margin = self._solve(x, self.actions.middle)
            if not margin >= 0.0:
                continue
            certified += 1
            if found.status in ("pass", "solved"):
                continue
            infeasible += 1
            if found.shortfall > worst or worst_state is None:
                worst, worst_state = found.shortfall, tuple(x.tolist())
        return Validation(len(states), certified, infeasible, worst, worst_state)

    # -- the frame ------------------------------------------------------------------------------------------------

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        x = self._state_of(obs, context)
        found, margin = self._solve(x, proposed)
        if found.status in ("pass", "solved"):
            return Ruling(found.action, margin=margin)
        if found.status == "failed":
            return Ruling(
                self._fallback(obs, context), "fallback", margin, found.shortfall, "the program was not solved"
            )
        if self.max_slack is not None and found.shortfall > self.max_slack:
            status = f"{_NO_ACTION} would miss by {found.shortfall:.3g}, above max_slack {self.max_slack:g}"
            return Ruling(self._fallback(obs, context), "fallback", margin, found.shortfall, status)
        return Ruling(found.action, "infeasible", margin, found.shortfall, _NO_ACTION)

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        if self.fallback_action is None:
            return self.actions.middle
        if callable(self.fallback_action):
            action: npt.ArrayLike = self.fallback_action(self._state_of(obs, context))
            return action
        return self.fallback_action

    def _to_data(self) -> ShieldData:
        fallback = self.fallback_action if callable(self.fallback_action) else _plain(self.fallback_action)
        state = self.state if callable(self.state) else _plain(self.state)
        return ShieldData(
            {
                "dynamics": describe_part(self.dynamics, "dynamics"),
                "conditions": describe_part(self.conditions, "barrier"),
                "time": self.time,
                "sampled": describe_part(self.sampled, "sampling"),
                "max_slack": self.max_slack,
                "fallback": describe_part(fallback, "fallback"),
                "state": describe_part(state, "state"),
                "state_key": self.state_key,
            },
            {"disturbance": self.disturbance},
        )

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        config = data.config
        return cls(
            action_space,
            restore_part(config["dynamics"], "dynamics"),
            restore_part(config["conditions"], "barrier"),
            time=config["time"],
            disturbance=data.arrays["disturbance"],
            sampled=restore_part(config["sampled"], "sampling"),
            max_slack=config["max_slack"],
            fallback=restore_part(config["fallback"], "fallback"),
            state=restore_part(config["state"], "state"),
            state_key=config["state_key"],
        )

    # -- the program ----------------------------------------------------------------------------------------------

    def _solve(self, x: Array, proposed: Array) -> tuple[Projection, float]:
        """The answer, and the margin of the state."""
        values, gradients, least = self._last.evaluate(x)
        if self.time == "continuous":
            found = self._project(proposed, *self._continuous_rows(x, values, gradients), self._priorities)
        else:
            found = self._solve_discrete(x, values, proposed)
        return found, self._margin(x, least)

    def _project(self, proposed: Array, rows: Array, bounds: Array, priorities: npt.NDArray[np.int64]) -> Projection:
        space = self.actions
        assert space.low is not None  # checked in __init__
        assert space.high is not None
        return project(proposed, rows, bounds, space.low, space.high, scale=space.half_range, priorities=priorities)

    def _continuous_rows(self, x: Array, values: Array, gradients: Array) -> tuple[Array, Array]:
        f, g = self.dynamics.terms(x)
        bounds = self._margins - gradients @ f - self._gains * values
        if self._is_disturbed:
            bounds += np.abs(gradients) @ self.disturbance
        return gradients @ g, bounds

    def _solve_discrete(self, x: Array, values: Array, proposed: Array) -> Projection:
        """Cut by tangents until the true condition holds at the answer."""
        f, g = self.dynamics.terms(x)
        targets = (1.0 - self._gains) * values + self._margins
        action = self.actions.clip(proposed)
        reached, gradients = self._last.worst(f + g @ action, self.disturbance)
        if (reached >= targets).all():
            return Projection(action, "pass")
        keeps = self._last.keeps_cuts
        rows, bounds = np.zeros((0, g.shape[1])), np.zeros(0)
        priorities = np.zeros(0, dtype=np.int64)
        for _ in range(_CUTS):
            new_rows = gradients @ g
            new_bounds = targets - reached + new_rows @ action + _CUT_TIGHTENING
            found = self._project(
                proposed,
                np.vstack([rows, new_rows]),
                np.concatenate([bounds, new_bounds]),
                np.concatenate([priorities, self._priorities]),
            )
            action = found.action
            reached, gradients = self._last.worst(f + g @ action, self.disturbance)
            if (reached >= targets).all():
                return Projection(action, "solved")
            shortfall = float((targets - reached).max())
            if found.status == "relaxed":
                return Projection(action, "relaxed", shortfall)
            # Tangents to a convex barrier lie inside its set: only the newest one counts. Others are all kept.
            rows = np.vstack([rows, new_rows[keeps]])
            bounds = np.concatenate([bounds, new_bounds[keeps]])
            priorities = np.concatenate([priorities, self._priorities[keeps]])
        return Projection(action, "failed", shortfall)

    def _tangents(self, x: Array, values: Array, f: Array, g: Array, at: Array) -> tuple[Array, Array]:
        reached, gradients = self._last.worst(f + g @ at, self.disturbance)
        rows = gradients @ g
        return rows, (1.0 - self._gains) * values + self._margins - reached + rows @ at

    def _margin(self, x: Array, least: float) -> float:
        """Smallest stage of all barriers, where ``least`` is that of the last ones."""
        return min(least, self._lower.evaluate(x)[2]) if self._lower.count else least

    def _state_of(self, obs: Any, context: ShieldContext) -> Array:
        if self.state_key is not None:
            if context.privileged is None or self.state_key not in context.privileged:
                raise ValueError(f"the context has no privileged entry {self.state_key!r}")
            obs = context.privileged[self.state_key]
        if callable(self.state):
            obs = self.state(obs)
        x = np.asarray(obs, dtype=np.float64).reshape(-1)
        if self.state is not None and not callable(self.state):
            x = x[list(self.state)]
        if x.shape != (self.dynamics.state_dim,) or not np.isfinite(x).all():
            raise ValueError(f"the state must be {self.dynamics.state_dim} finite numbers; got shape {x.shape}")
        return x

    # -- building -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.time not in ("continuous", "discrete"):
            raise ConfigError(f"{self.unit}: time must be 'continuous' or 'discrete'; got {self.time!r}.")
        if not self.conditions:
            raise ConfigError(f"{self.unit} needs at least one condition; got none.")
        if self.dynamics.action_dim != self.actions.dim:
            raise ConfigError(
                f"{self.unit}: the dynamics take {self.dynamics.action_dim} actions; the space has {self.actions.dim}."
            )
        if self.max_slack is not None and not self.max_slack >= 0.0:
            raise ConfigError(f"{self.unit}: max_slack must be None or at least 0; got {self.max_slack}.")
        if self.sampled is not None and (self.time != "continuous" or not self.sampled.interval > 0.0):
            raise ConfigError(f"{self.unit}: sampled belongs to continuous time and needs a positive interval.")
        for number, condition in enumerate(self.conditions):
            gains = np.asarray(condition.gains, dtype=np.float64)
            is_wrong = gains.ndim != 1 or not len(gains) or not (gains > 0.0).all()
            if is_wrong or (self.time == "discrete" and not (gains <= 1.0).all()):
                allowed = "in (0, 1]" if self.time == "discrete" else "positive"
                raise ConfigError(f"{self._name(number)}: gains must be {allowed}; got {condition.gains!r}.")

    def _name(self, number: int) -> str:
        return f"{self.unit}, condition {self.conditions[number].name or number}"

    def _stages_of(self, condition: Condition, number: int) -> tuple[Barrier, ...]:
        barrier, model = condition.barrier, self.dynamics
        if isinstance(barrier, QuadraticBarrier) and len(barrier.linear) != model.state_dim:
            raise ConfigError(
                f"{self._name(number)}: the barrier is of {len(barrier.linear)} states, the model of {model.state_dim}."
            )
        if isinstance(barrier, QuadraticBarrier) and isinstance(model, LinearDynamics):
            return chain(
                barrier,
                model,
                condition.gains,
                discrete=self.time == "discrete",
                box=self.disturbance,
                name=self._name(number),
            )
        if len(condition.gains) > 1:
            raise ConfigError(
                f"{self._name(number)}: a chain of gains is built for linear dynamics and quadratic barriers. "
                "Let a FunctionBarrier give the last stage, with one gain."
            )
        return (barrier,)

    def _sampling_margin(self, barrier: Barrier, number: int) -> float:
        space, sampled, model = self.actions, self.sampled, self.dynamics
        if not isinstance(barrier, QuadraticBarrier) or not isinstance(model, LinearDynamics) or sampled is None:
            raise ConfigError(
                f"{self._name(number)}: the sampling margin is computed for linear dynamics and quadratic barriers. "
                "Give Condition.margin instead, or use discrete time."
            )
        assert space.low is not None
        assert space.high is not None
        gain = float(self.conditions[number].gains[-1])
        margin = sampling_margin(
            barrier, model, gain, self.disturbance, (sampled.low, sampled.high), (space.low, space.high)
        )
        if not np.isfinite(margin):
            raise ConfigError(f"{self._name(number)}: the sampling margin needs finite bounds of states and actions.")
        return margin * sampled.interval

    def _guarantee(self) -> Guarantee:
        is_first_order = any(
            isinstance(condition.barrier, FunctionBarrier) and condition.barrier.curvature != "convex"
            for condition in self.conditions
        )
        if self._is_disturbed and self.time == "discrete" and is_first_order:
            return "empirical"
        if self._is_disturbed and (self.time == "discrete" or self.sampled is not None):
            return "hard"
        return "hard for the nominal model"


def _box(disturbance: npt.ArrayLike | None, n: int) -> Array:
    values = np.zeros(n) if disturbance is None else np.asarray(disturbance, dtype=np.float64)
    values = np.full(n, values) if values.ndim == 0 else values
    if values.shape != (n,) or not (np.isfinite(values).all() and (values >= 0.0).all()):
        raise ConfigError(f"A disturbance box must be a number or shape ({n},), finite and at least 0; got {values}.")
    return values


def _plain(values: Any) -> Any:
    return None if values is None else np.asarray(values).tolist()
