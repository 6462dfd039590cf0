"""Backup rollout (``backup_rollout``): allow what a backup policy can still recover from, in the worst case.

A proposed action u0 is executed if, for every exogenous series w of a declared list,

    x_1 = F(x, u0, w_0),   x_{k+1} = F(x_k, pi_B(x_k), w_k),  k = 1..H

is safe at every step and enters the terminal set, in which the backup policy pi_B stays safe for ever. Otherwise

    box:       u = pi_B(x) + s (u0 - pi_B(x)) with the largest s that bisection finds to pass     (``search="bisect"``)
               u = pi_B(x)                                                                        (``search="replace"``)
    discrete:  the first action of an order of preference that passes, and pi_B(x) last.

By induction pi_B(x) passes in every state that the shield leads to: x came from an action that passed, and the rest of
that rollout is the rollout of pi_B from x. The scheme is that of Simplex and runtime assurance with a recoverable set
that is never computed, only tested; F is any twin, so no model has to be written down.

What it guarantees: safety for all exogenous inputs whose worst case is among the series ("hard"), from a certified
start. With the nominal series only it is hard for the nominal model; without a terminal set a rollout says nothing
about what comes after it, so the guarantee is empirical.

Differences from the literature: the terminal set is a test on the state, given by the user; the line search keeps
the candidate that was tested last, so what is executed has itself passed, whatever the shape of the safe set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, Guarantee, ShieldContext, ShieldSpec, Twin

Backup = Callable[[Any], npt.ArrayLike]
"""State of the twin to action."""
Terminal = Callable[[Any], bool]
"""State of the twin to whether the backup policy stays safe from there for ever."""

SEARCHES = ("bisect", "replace")


class BackupRolloutShield(Shield):
    """Allows what a backup policy can still recover from in a twin; see the module for the rule.

    Example:
        >>> from saferl.shields.twins import AtRest, Brake, DoubleIntegratorTwin, brake_actions
        >>> shield = BackupRolloutShield(
        ...     brake_actions(), DoubleIntegratorTwin(), Brake(), terminal=AtRest(), horizon=50
        ... )
        >>> decision = shield.filter(np.array([0.9, 0.4]), [1.0])
        >>> decision.kind, decision.action.round(3)
        ('projected', array([-0.5]))
    """

    unit = "backup_rollout"

    def __init__(
        self,
        action_space: Any,
        twin: Twin,
        backup: Backup,
        *,
        horizon: int,
        terminal: Terminal | None = None,
        exogenous: npt.ArrayLike | None = None,
        search: Literal["bisect", "replace"] = "bisect",
        resolution: float = 1e-6,
        order: Sequence[int] = (),
        read: Callable[[Any], Any] | None = None,
        tolerance: float = 1e-9,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            action_space: What is filtered.
            twin: Simulates the device; its ``step`` says what is unsafe. It is cloned, never stepped itself. A twin in
                the context of a decision, which is in the state of the device, is used instead.
            backup: Action for a state of the twin.
            horizon: Most backup steps that a rollout takes before it must be in the terminal set.
            terminal: Whether the backup stays safe from a state for ever. None: safe for ``horizon`` steps is enough.
            exogenous: The worst series: (series, dim) for constant ones, (series, horizon + 1, dim) for others. None:
                the twin's nominal input.
            search: How a box's action is replaced.
            resolution: Share of the way from the backup action to the proposal to which the bisection goes.
            order: Discrete actions that are tried after the proposal, before the backup action.
            read: Turns an observation into the twin's state; None: it is one.
            tolerance: Largest violation that counts as none.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: an option out of its range.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if horizon < 1:
            raise ConfigError(f"{self.unit}: the horizon must be at least 1 step; got {horizon}.")
        if search not in SEARCHES or not 0.0 < resolution < 1.0 or not tolerance >= 0.0:
            raise ConfigError(
                f"{self.unit}: search must be one of {', '.join(SEARCHES)}, resolution in (0, 1), tolerance >= 0; "
                f"got {search!r}, {resolution}, {tolerance}."
            )
        if not all(self.actions.contains(np.array(a)) for a in order) if not self.actions.is_box else len(order) > 0:
            raise ConfigError(f"{self.unit}: order must hold actions of a discrete space; got {list(order)}.")
        self.twin, self.backup, self.terminal, self.read = twin, backup, terminal, read
        self.horizon, self.search, self.resolution, self.tolerance = int(horizon), search, resolution, tolerance
        self.order = tuple(int(action) for action in order)
        self.exogenous = None if exogenous is None else self._series(np.array(exogenous, dtype=np.float64))

    def _series(self, given: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if given.ndim not in (2, 3) or len(given) == 0 or not np.all(np.isfinite(given)):
            raise ConfigError(
                f"{self.unit}: exogenous must be finite, (series, dim) or (series, horizon + 1, dim); "
                f"got the shape {given.shape}."
            )
        if given.ndim == 3 and given.shape[1] != self.horizon + 1:
            raise ConfigError(
                f"{self.unit}: exogenous series must have horizon + 1 = {self.horizon + 1} steps; got {given.shape[1]}."
            )
        return given

    def spec(self) -> ShieldSpec:
        """What this instance promises depends on its terminal set and its exogenous series."""
        guarantee: Guarantee = "hard" if self.exogenous is not None else "hard for the nominal model"
        assumptions = [
            "The twin moves as the device does." if self.exogenous is None else
            "The twin moves as the device does, and the worst exogenous series is among those given.",
            "The episode starts in a certified state.",
        ]  # fmt: skip
        if self.terminal is None:
            guarantee = "empirical"
        else:
            assumptions.append("The backup policy stays safe for ever once in the terminal set.")
        return CATALOGUE[self.unit].spec(self.unit, assumptions=tuple(assumptions), guarantee=guarantee)

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the backup policy recovers from here, in the worst case."""
        try:
            twin = self._twin_at(obs, context if context is not None else ShieldContext())
            return self.worst_after(twin, self._backup_action(twin)) <= self.tolerance
        except Exception:  # an observation that the twin cannot take is not certified
            return False

    def worst_after(self, twin: Twin, action: Action) -> float:
        """The largest violation of an action and the backup after it; infinite if no terminal state is reached.

        Args:
            twin: In the state of the device; it is not stepped.
            action: Executed for one step.
        """
        if self.exogenous is None:
            return self._rollout(twin.clone(), action, None)
        worst = -np.inf
        for series in self.exogenous:
            worst = max(worst, self._rollout(twin.clone(), action, series))
            if worst > self.tolerance:
                break
        return worst

    def _rollout(self, twin: Twin, action: Action, series: npt.NDArray[np.float64] | None) -> float:
        """The largest violation of one rollout; it ends early once it has failed or is recovered."""
        worst = -np.inf
        for step in range(self.horizon + 1):
            exogenous = series if series is None or series.ndim == 1 else series[step]
            found = list(twin.step(action, exogenous).values())
            if not all(value <= self.tolerance for value in found):
                # A twin that has diverged says NaN, which max would not see.
                return max(found) if all(value == value for value in found) else float("inf")
            worst = max(worst, *found)
            state = twin.get_state()
            if self.terminal is not None and self.terminal(state):
                return worst
            if step < self.horizon:
                action = self.actions.clip(self.backup(state))
        return worst if self.terminal is None else float("inf")

    def _twin_at(self, obs: Any, context: ShieldContext) -> Twin:
        if context.twin is not None:
            return context.twin
        twin = self.twin.clone()
        twin.set_state(obs if self.read is None else self.read(obs))
        return twin

    def _backup_action(self, twin: Twin) -> Action:
        return self.actions.clip(self.backup(twin.get_state()))

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        twin = self._twin_at(obs, context)
        wanted = self.actions.clip(proposed)
        worst = self.worst_after(twin, wanted)
        status = self._status(context)
        if worst <= self.tolerance:
            return Ruling(wanted, "pass", margin=-worst, status=status)
        backup = self._backup_action(twin)
        slack = self.worst_after(twin, backup)
        if not slack <= self.tolerance:
            lost = "the backup policy does not recover from this state; the guarantee is void"
            return Ruling(backup, "infeasible", margin=-worst, slack=max(slack, 0.0), status=lost)
        if not self.actions.is_box:
            return Ruling(self._preferred(twin, backup), "replaced", margin=-worst, status=status)
        if self.search == "replace":
            return Ruling(backup, "replaced", margin=-worst, status=status)
        return Ruling(self._bisect(twin, backup, wanted), "projected", margin=-worst, status=status)

    def _preferred(self, twin: Twin, backup: Action) -> Action:
        for action in self.order:
            candidate = np.array(action, dtype=np.int64)
            if self.worst_after(twin, candidate) <= self.tolerance:
                return candidate
        return backup

    def _bisect(self, twin: Twin, backup: Action, wanted: Action) -> Action:
        """The action nearest to ``wanted`` on the way from ``backup`` that was seen to pass."""
        low, high, best = 0.0, 1.0, backup
        while high - low > self.resolution:
            middle = (low + high) / 2.0
            candidate = backup + middle * (wanted - backup)
            if self.worst_after(twin, candidate) <= self.tolerance:
                low, best = middle, candidate
            else:
                high = middle
        return best

    def _status(self, context: ShieldContext) -> str:
        """A flag if the last exogenous input, where it is measured, was outside of what the series span."""
        measured = None if context.privileged is None else context.privileged.get("exogenous")
        if measured is None or self.exogenous is None:
            return "ok"
        spanned = self.exogenous.reshape(-1, self.exogenous.shape[-1])
        values = np.ravel(measured)
        if np.all(values >= spanned.min(axis=0) - 1e-12) and np.all(values <= spanned.max(axis=0) + 1e-12):
            return "ok"
        return "the exogenous input is outside of its declared bounds; the guarantee is void"

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return self._backup_action(self._twin_at(obs, context))

    def _to_data(self) -> ShieldData:
        config = {name: describe_part(getattr(self, name), name) for name in ("twin", "backup", "terminal", "read")}
        for name in ("horizon", "search", "resolution", "tolerance"):
            config[name] = getattr(self, name)
        config["order"] = list(self.order)
        return ShieldData(config, {} if self.exogenous is None else {"exogenous": self.exogenous})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        options = dict(data.config)
        for name in ("twin", "backup", "terminal", "read"):
            options[name] = restore_part(options[name], name)
        return cls(action_space, exogenous=data.arrays.get("exogenous"), **options)
