"""``Shield``: the frame of every unit. A unit says how to decide; the frame makes that decision safe to call in a loop.

A new unit is one file: a subclass with a ``unit`` name, ``spec``, ``_decide`` and ``_fallback``, and ``_to_data`` /
``_from_data`` to travel in an artefact. What the frame adds: proposals that are not finite or outside the space, errors
and exceeded time become a recorded fallback, never an exception (DESIGN 4); actions leave inside the space; distance,
kind and time are filled in.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, Kind, ShieldContext, ShieldDecision, ShieldSpec, snapshot

TOLERANCE = 1e-9
"""A change below this length (:attr:`ShieldDecision.distance`) is none."""


@dataclass(frozen=True)
class Ruling:
    """What a unit decided; the frame turns it into a :class:`ShieldDecision`."""

    action: npt.ArrayLike
    """What to execute."""
    kind: Kind = "projected"
    """What was done if the action differs from the proposal; a ruling that changes nothing is always a ``pass``."""
    margin: float = float("nan")
    """:attr:`ShieldDecision.margin`."""
    slack: float = 0.0
    """:attr:`ShieldDecision.slack`."""
    status: str = "ok"
    """:attr:`ShieldDecision.status`."""
    unit: str | None = None
    """The unit that acted, if not this one."""


@dataclass(frozen=True)
class ShieldData:
    """A unit as data: what :func:`saferl.shields.save_shield` writes."""

    config: Mapping[str, Any]
    """Plain JSON types."""
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Numbers too many for JSON."""
    children: Mapping[str, Shield] = field(default_factory=dict)
    """Units inside this one, in order."""


class Shield(ABC):
    """A unit that filters actions: see the module for what a subclass writes and what it gets."""

    unit: ClassVar[str]
    """Registry name."""
    is_passive: ClassVar[bool] = False
    """Whether it only watches: it never changes a finite action, and adds nothing to a composite's guarantee."""

    def __init__(self, action_space: Any, *, time_budget_us: float | None = None) -> None:
        """Keep the action space.

        Args:
            action_space: A Gymnasium Box or Discrete, or an :class:`ActionSpec`.
            time_budget_us: A decision that takes longer is replaced by the fallback; None: no limit.
        """
        if time_budget_us is not None and not time_budget_us > 0.0:
            raise ConfigError(f"{self.unit}: the time budget must be positive microseconds; got {time_budget_us}.")
        self.actions = ActionSpec.of(action_space)
        self.time_budget_us = time_budget_us
        kinds = CATALOGUE[self.unit].actions if self.unit in CATALOGUE else ("Box", "Discrete")
        if ("Box" if self.actions.is_box else "Discrete") not in kinds:
            raise ConfigError(f"{self.unit} filters actions of a {' or '.join(kinds)} space; got {action_space!r}.")

    # -- what users call ------------------------------------------------------------------------------------------

    def filter(self, obs: Any, action: Any, context: ShieldContext | None = None) -> ShieldDecision:
        """Decide what is executed; never raises on a bad observation or action.

        Args:
            obs: Raw observation, in env units.
            action: Proposed action, in env units.
            context: What else is known.
        """
        context = context if context is not None else ShieldContext()
        decision = self.judge(obs, action, context)
        try:
            self._remember(obs, decision, context)
        except Exception as error:  # as in judge: the decision stands, and the record says what is not remembered
            decision = replace(decision, status=f"{decision.status}; memory: {type(error).__name__}: {error}")
        return decision

    def judge(self, obs: Any, action: Any, context: ShieldContext | None = None) -> ShieldDecision:
        """What :meth:`filter` would decide, without remembering it; for a parent that has the last word."""
        # A proposal of 1e200 overflows in the arithmetic of any unit; a control loop needs no warning about it.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._judge(obs, action, context if context is not None else ShieldContext())

    def filter_batch(
        self, obs: npt.NDArray[Any], actions: npt.NDArray[Any], contexts: Sequence[ShieldContext] | None = None
    ) -> list[ShieldDecision]:
        """:meth:`filter` for rows that do not share memory; a unit with memory refuses more than one row.

        Args:
            obs: Shape (n, ...).
            actions: Shape (n, ...).
            contexts: One per row.

        Raises:
            ConfigError: a unit with memory and more than one row; use one :meth:`copy` per row.
        """
        if len(actions) > 1 and self.get_memory() is not None:
            raise ConfigError(f"{self.unit} has memory: filter_batch takes one row; use one copy() per environment.")
        rows = contexts if contexts is not None else [ShieldContext() for _ in actions]
        return [self.filter(o, a, c) for o, a, c in zip(obs, actions, rows, strict=True)]

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:  # noqa: B027  (optional)
        """Forget the last episode; units with memory extend it."""

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the guarantee holds from this state on; False for a unit that cannot tell."""
        return False

    def fallback(self, obs: Any, context: ShieldContext | None = None) -> Action:
        """What this unit does when it can do nothing better; inside the action space whatever ``obs`` is."""
        try:
            action = self._fallback(obs, context if context is not None else ShieldContext())
        except Exception:  # the last line of defence must not raise
            action = self.actions.middle
        return self.actions.clip(action)

    def spec(self) -> ShieldSpec:
        """Needs, guarantee and assumptions of this instance (a unit outside the package writes its own)."""
        return CATALOGUE[self.unit].spec(self.unit)

    def copy(self) -> Self:
        """An independent unit in the same state."""
        return snapshot(self)  # type: ignore[no-any-return]

    def get_memory(self) -> Any:
        """What this unit remembers of the episode; None for a unit without memory. Plain data or arrays."""
        return None

    def set_memory(self, memory: Any) -> None:  # noqa: B027  (optional)
        """Go back to what :meth:`get_memory` gave."""

    # -- what units write -----------------------------------------------------------------------------------------

    @abstractmethod
    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        """The decision about a finite proposal (a box's may lie outside its bounds) in a finite observation."""

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        """The action without a better one; the middle of the space unless a unit knows more. ``obs`` may be NaN."""
        return self.actions.middle

    def _remember(  # noqa: B027  (optional)
        self, obs: Any, decision: ShieldDecision, context: ShieldContext
    ) -> None:
        """Update memory once the decision is final (also of a fallback)."""

    @abstractmethod
    def _to_data(self) -> ShieldData:
        """This unit as data, without its action space and time budget."""

    @classmethod
    @abstractmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        """A unit from what :meth:`_to_data` gave."""

    # -- the frame ------------------------------------------------------------------------------------------------

    def _judge(self, obs: Any, action: Any, context: ShieldContext) -> ShieldDecision:
        start = time.perf_counter()
        proposed = self.actions.read(action)
        if self._is_usable(proposed) and is_finite(obs):
            try:
                ruling = self._decide(obs, proposed, context)
                if not self._is_usable(self.actions.read(ruling.action)):
                    ruling = self._safe_ruling(obs, context, f"{self.unit} gave no action ({ruling.status})")
            except Exception as error:  # DESIGN 4: a controller goes on, and the record says why
                ruling = self._safe_ruling(obs, context, f"{type(error).__name__}: {error}")
        else:
            ruling = self._safe_ruling(obs, context, self._what_is_unusable(obs, proposed))
        elapsed = (time.perf_counter() - start) * 1e6
        if self.time_budget_us is not None and elapsed > self.time_budget_us and ruling.kind != "fallback":
            ruling = self._safe_ruling(obs, context, f"took {elapsed:.0f} us of {self.time_budget_us:g}")
        return self._decision(ruling, proposed, elapsed)

    def _is_usable(self, proposed: Action) -> bool:
        if self.actions.is_box:
            return bool(np.isfinite(proposed).all())
        return self.actions.contains(proposed)

    def _what_is_unusable(self, obs: Any, proposed: Action) -> str:
        if not self._is_usable(proposed):
            return "the proposed action is not finite" if self.actions.is_box else "the proposed action does not exist"
        return "the observation is not finite"

    def _safe_ruling(self, obs: Any, context: ShieldContext, status: str) -> Ruling:
        return Ruling(self.fallback(obs, context), "fallback", status=status)

    def _decision(self, ruling: Ruling, proposed: Action, elapsed_us: float) -> ShieldDecision:
        action = self.actions.clip(ruling.action)
        distance = self.actions.distance(action, proposed)
        kind = ruling.kind
        if kind not in ("fallback", "infeasible"):
            kind = "pass" if distance < TOLERANCE else ("projected" if kind == "pass" else kind)
        unit = ruling.unit if ruling.unit is not None else self.unit
        slack = ruling.slack if math.isfinite(ruling.slack) else float("inf")
        return ShieldDecision(action, proposed, kind, distance, ruling.margin, slack, ruling.status, unit, elapsed_us)


def is_finite(obs: Any) -> bool:
    """Whether all numbers of an observation (array, mapping or tuple of them) are finite; None has none."""
    if obs is None:
        return True
    if isinstance(obs, Mapping):
        return all(is_finite(value) for value in obs.values())
    if isinstance(obs, tuple | list):
        return all(is_finite(value) for value in obs)
    array = np.asarray(obs)
    return array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))
