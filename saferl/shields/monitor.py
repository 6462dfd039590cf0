r"""Constraint monitor (``monitor``): watches rules over time and warns before they break.

Signals are read from the observation, the executed action, costs and whatever a function gives; rules over them
(:mod:`saferl.shields.temporal`: always, eventually, until with windows in steps) are read from the first step of the
episode on. After every step each rule has an interval of robustness over all continuations and a verdict: satisfied,
violated or open. With the proposed action as the newest sample, a decision carries

    margin   the smallest upper end of the rules: negative once a rule is broken whatever comes
    status   "violated: NAMES", else "warning: NAMES" where the robustness under the worst next ``lookahead`` steps is
             below ``warn_below``, else "unknown: SIGNALS" that cannot be read, else "ok"

What it guarantees: a verdict that is not "open" is right for every continuation within the ranges of the signals. It
never changes a finite action by itself, so it guarantees nothing about safety ("empirical"); another unit must act.
An observation or action that is not finite is handled by the frame of all shields (a recorded fallback); signals that
cannot be read then, or ever, count as any value of their range.

Sources: Maler and Nickovic (2004) for the logic, Fainekos and Pappas (2009) for robustness, Deshmukh et al. (2017) for
the interval over a prefix. Difference: the lookahead, which bounds the worst case of the next steps only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.temporal import Formula, Progress, Range, RuleMonitor, RuleState

_SOURCE = re.compile(r"(?P<root>obs|action|spent|step)(\.(?P<key>\w+))?(\[(?P<index>\d+)\])?")


@dataclass(frozen=True)
class Signal:
    """Where a number comes from, and what is known of its future."""

    source: str | Callable[[Any, Action, ShieldContext], float]
    """``obs[3]``, ``obs.key[3]``, ``action[0]``, ``action`` (discrete), ``spent.NAME`` (cost of the episode so far),
    ``step``; or a function of observation, action and context."""
    low: float | None = None
    """It is never below; None: unknown."""
    high: float | None = None
    """It is never above; None: unknown."""
    max_change: float | None = None
    """It changes by at most this per step; None: unknown, so a lookahead expects anything."""

    def __post_init__(self) -> None:
        """Refuse a source that cannot be read."""
        if isinstance(self.source, str) and _SOURCE.fullmatch(self.source) is None:
            raise ConfigError(
                f"The source of a signal must look like obs[3], obs.key[3], action[0], spent.NAME or step; "
                f"got {self.source!r}."
            )
        self.range  # noqa: B018  (it checks itself)

    @property
    def range(self) -> Range:
        """What is known of its future."""
        return Range(self.low, self.high, self.max_change)

    def read(self, obs: Any, action: Action, context: ShieldContext) -> float:
        """Its value now.

        Raises:
            LookupError: the observation or the costs do not have it.
        """
        if not isinstance(self.source, str):
            return float(self.source(obs, action, context))
        match = _SOURCE.fullmatch(self.source)
        root, key, index = ("", None, None) if match is None else match.group("root", "key", "index")
        if root == "step":
            return float(context.step)
        value = {"obs": obs, "action": action, "spent": context.spent}[root]
        value = value if key is None else value[key]
        return float(np.ravel(value)[int(index)]) if index is not None else float(value)


class ConstraintMonitor(Shield):
    """Watches rules over time and warns before they break; changes nothing by itself.

    Example:
        >>> from saferl.shields.temporal import Always, AtMost
        >>> monitor = ConstraintMonitor(
        ...     ActionSpec.box([-1.0], [1.0]),
        ...     {"speed": Signal("obs[0]", max_change=0.2)},
        ...     {"slow": Always(AtMost("speed", 1.0))},
        ...     lookahead=2,
        ... )
        >>> [monitor.filter(np.array([speed]), [0.0]).status for speed in (0.5, 0.7, 1.1)]
        ['ok', 'warning: slow', 'violated: slow']
    """

    unit = "monitor"
    is_passive = True

    def __init__(
        self,
        action_space: Any,
        signals: Mapping[str, Signal],
        rules: Mapping[str, Formula],
        *,
        lookahead: int = 1,
        warn_below: float = 0.0,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the rules.

        Args:
            action_space: A box or discrete actions.
            signals: By name.
            rules: By name.
            lookahead: Steps whose worst case is looked at for a warning, at least 0.
            warn_below: A warning is given below this robustness, in units of the rule's scales.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: no rule, a rule with an unknown signal or an endless window inside, a negative lookahead.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if not rules or lookahead < 0 or not np.isfinite(warn_below):
            raise ConfigError(
                f"{self.unit}: at least one rule, lookahead >= 0 and a finite warn_below are needed; "
                f"got {len(rules)} rules, {lookahead} and {warn_below}."
            )
        self.signals, self.rules = dict(signals), dict(rules)
        self.lookahead, self.warn_below = int(lookahead), float(warn_below)
        ranges = {name: signal.range for name, signal in self.signals.items()}
        self._monitors = {name: RuleMonitor(rule, ranges, lookahead=lookahead) for name, rule in self.rules.items()}

    def spec(self) -> ShieldSpec:
        """The ranges of the signals are assumed."""
        assumptions = ("Signals stay within the ranges and changes given.", "Another unit acts on the warning.")
        return CATALOGUE[self.unit].spec(self.unit, assumptions=assumptions)

    def states(self) -> dict[str, RuleState]:
        """What is known of every rule after the episode so far, by name."""
        return {name: monitor.state() for name, monitor in self._monitors.items()}

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Begin an episode."""
        for monitor in self._monitors.values():
            monitor.reset()

    def get_memory(self) -> Any:
        """Progress of every rule."""
        return {name: monitor.progress.to_data() for name, monitor in self._monitors.items()}

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        for name, monitor in self._monitors.items():
            monitor.progress = Progress.from_data(memory[name])

    def _sample(self, obs: Any, action: Action, context: ShieldContext) -> tuple[float, ...]:
        return tuple(_read(signal, obs, action, context) for signal in self.signals.values())

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        sample = self._sample(obs, self.actions.clip(proposed), context)
        outlooks = {name: monitor.outlook(sample) for name, monitor in self._monitors.items()}
        found = {
            "violated": [name for name, (upper, _) in outlooks.items() if upper < 0.0],
            "warning": [name for name, (_, ahead) in outlooks.items() if ahead < self.warn_below],
            "unknown": [name for name, value in zip(self.signals, sample, strict=True) if math.isnan(value)],
        }
        status = next((f"{word}: {', '.join(names)}" for word, names in found.items() if names), "ok")
        return Ruling(proposed, "pass", margin=min(upper for upper, _ in outlooks.values()), status=status)

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        sample = self._sample(obs, decision.action, context)
        for monitor in self._monitors.values():
            monitor.add(sample)

    def _to_data(self) -> ShieldData:
        signals = {name: describe_part(signal, f"signal {name!r}") for name, signal in self.signals.items()}
        rules = {name: describe_part(rule, f"rule {name!r}") for name, rule in self.rules.items()}
        numbers = {"lookahead": self.lookahead, "warn_below": self.warn_below}
        return ShieldData({"signals": list(signals.items()), "rules": list(rules.items()), **numbers})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        signals = {name: restore_part(signal, f"signal {name!r}") for name, signal in data.config["signals"]}
        rules = {name: restore_part(rule, f"rule {name!r}") for name, rule in data.config["rules"]}
        numbers = {name: data.config[name] for name in ("lookahead", "warn_below")}
        return cls(action_space, signals, rules, **numbers)


def _read(signal: Signal, obs: Any, action: Action, context: ShieldContext) -> float:
    try:
        return signal.read(obs, action, context)
    except Exception:  # a watcher must not stop the loop; the decision says which signal is unknown
        return float("nan")
