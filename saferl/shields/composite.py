r"""Composite (``composite``): units in order, of which a later one has the last word.

    u_0 = the proposal,      u_i = unit_i(u_{i-1}),      executed: u_n

A later unit (the parent) sees, and predicts with, the action that its children have filtered already; that is the
hierarchy of shielded controller units. Every unit remembers what was executed in the end, not what it asked for. The
decision reports as ``unit`` and ``kind`` those of the unit that changed it last, as ``margin`` the smallest and
as ``slack`` the largest of the units, as ``status`` all words but "ok".

What it guarantees: after the last unit has changed an action, nothing is known to hold but what the last unit
guarantees. So the guarantee is that of the last unit if it is hard, otherwise the weakest of all units. Units that only
watch (``is_passive``) neither add nor take away. The guarantees of the earlier units hold in every step that the later
ones leave as it is; put the unit that must never give way last.

A fallback is decided in the same way: that of the first unit, filtered by the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData, is_finite
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import (
    GUARANTEES,
    NEEDS,
    Action,
    ActionSpec,
    Guarantee,
    Kind,
    ShieldContext,
    ShieldDecision,
    ShieldSpec,
)


class CompositeShield(Shield):
    """Units in order; a later one has the last word.

    Example:
        >>> from saferl.shields import Bounds, RateLimit
        >>> space = ActionSpec.box([-1.0], [1.0])
        >>> shield = CompositeShield([RateLimit(space, rise=0.5, initial=[0.0]), Bounds(space, high=0.8)])
        >>> [(float(d.action[0]), d.unit) for d in (shield.filter(None, [1.0]) for _ in range(2))]
        [(0.5, 'rate_limit'), (0.8, 'bounds')]
    """

    unit = "composite"

    def __init__(
        self, children: Mapping[str, Shield] | Sequence[Shield], *, time_budget_us: float | None = None
    ) -> None:
        """Keep the units.

        Args:
            children: In order, those with the last word last; by name, or named after their units.
            time_budget_us: See :class:`Shield`; for all units together.

        Raises:
            ConfigError: no unit, a name with "/", two units of one name, or different action spaces.
        """
        named = list(children.items()) if isinstance(children, Mapping) else [(c.unit, c) for c in children]
        self.children = dict(named)
        if not named or len(self.children) < len(named) or any("/" in name or not name for name in self.children):
            raise ConfigError(
                f"{self.unit} needs at least one unit, each with a name of its own without '/'; "
                f"got {[name for name, _ in named]}. Give a mapping of names to units."
            )
        first = named[0][1].actions
        super().__init__(first, time_budget_us=time_budget_us)
        if different := [name for name, child in named if child.actions.to_dict() != first.to_dict()]:
            raise ConfigError(f"{self.unit}: all units must filter one action space; {different} have another.")

    def _active(self) -> dict[str, Shield]:
        return {name: child for name, child in self.children.items() if not child.is_passive} or self.children

    def spec(self) -> ShieldSpec:
        """Needs of all units, and the guarantee that is left of theirs."""
        specs = {name: child.spec() for name, child in self._active().items()}
        last_name, last = list(specs.items())[-1]
        weakest: Guarantee = max((spec.guarantee for spec in specs.values()), key=GUARANTEES.index)
        guarantee = last.guarantee if last.guarantee.startswith("hard") else weakest
        everything = {need for child in self.children.values() for need in child.spec().needs}
        words = [f"{name}: {text}" for name, spec in specs.items() for text in spec.assumptions]
        words += [
            f"{name}: it needs a {need}, on which the guarantee does not rest."
            for name, child in self.children.items()
            for need in child.spec().needs
            if _is_learned(need, guarantee)
        ]
        if len(specs) > 1:
            words.insert(0, f"What {last_name} guarantees holds; what the others do, while later units change nothing.")
        return ShieldSpec(
            self.unit,
            tuple(need for need in NEEDS if need in everything and not _is_learned(need, guarantee)),
            guarantee,
            ("Box",) if self.actions.is_box else ("Discrete",),
            tuple(words),
            last.probability if last.guarantee == guarantee else None,
            CATALOGUE[self.unit].speed,
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether every unit that acts certifies this state."""
        return all(child.certifies(obs, context) for child in self._active().values())

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Begin an episode in every unit."""
        for child in self.children.values():
            child.reset(obs, context)

    def get_memory(self) -> Any:
        """What every unit remembers by name; None if none does."""
        memory = {name: child.get_memory() for name, child in self.children.items()}
        return memory if any(part is not None for part in memory.values()) else None

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        for name, child in self.children.items():
            if memory is not None and memory[name] is not None:
                child.set_memory(memory[name])

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        action, unit = proposed, self.unit
        kind: Kind = "pass"
        margins, slack, words = [], 0.0, []
        for name, child in self.children.items():
            decision = child.judge(obs, action, context)
            if decision.intervened:
                action, kind, unit = decision.action, decision.kind, decision.unit
                unit = name if decision.unit == child.unit else f"{name}/{decision.unit}"
            margins.append(decision.margin)
            slack = max(slack, decision.slack)
            if decision.status != "ok":
                words.append(f"{name}: {decision.status}")
        known = [margin for margin in margins if not np.isnan(margin)]
        return Ruling(action, kind, min(known, default=float("nan")), slack, "; ".join(words) or "ok", unit)

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        first, *others = self._active().values()
        if not is_finite(obs):
            return [first, *others][-1].fallback(obs, context)
        action = first.fallback(obs, context)
        for child in others:
            action = child.judge(obs, action, context).action
        return action

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        for child in self.children.values():
            child._remember(obs, decision, context)

    def _to_data(self) -> ShieldData:
        return ShieldData({}, {}, self.children)

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        return cls(data.children)


def _is_learned(need: str, guarantee: Guarantee) -> bool:
    return need in ("critic", "cost model") and guarantee.startswith("hard")
