r"""Simplex (``simplex``): hand over to a verified baseline near the boundary, and back with hysteresis.

With a barrier h, whose set {h >= 0} the baseline policy pi_B never leaves, and a model F,

    m = h(F(x, u0))            one step ahead                         (with a model)
    m = h(x)                   now                                    (without one)

    hand over                  if m < enter                           u = pi_B(x) from then on
    hand back                  if m >= leave, after ``dwell`` steps   u = u0

with 0 <= enter <= leave. Between the two thresholds the one who is in charge stays: without that gap control would
chatter at the boundary.

What it guarantees: {h >= 0} is never left from a certified start, "hard for the nominal model". Proof: a proposal
passes only if h(F(x, u0)) >= enter >= 0, and pi_B keeps the set by assumption. ``enter`` pays for what the model does
not say: if the true next state has a barrier at most ``enter`` below the nominal one, the proof holds as it is. Without
a model, ``enter`` must be at least what any action can take from h in one step.

The architecture is that of Sha, "Using simplicity to control complexity" (IEEE Software, 2001), and of Seto et al.
(1998).

Differences from the paper: the decision module looks at a barrier that is given, one step ahead; the rollout form, in
which the recoverable set is only tested, is :class:`saferl.shields.BackupRolloutShield`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec

_PARTS = ("baseline", "barrier", "model", "read")


class SimplexSwitch(Shield):
    """Hands over to a verified baseline near the boundary, and back with hysteresis; see the module.

    Example:
        >>> import numpy as np
        >>> shield = SimplexSwitch(
        ...     ActionSpec.box([-1.0], [1.0]),
        ...     baseline=lambda x: [-0.5],
        ...     barrier=lambda x: 1.0 - float(x[0]),
        ...     model=lambda x, u: x + u,
        ...     leave=0.4,
        ... )
        >>> [shield.filter(np.array([x]), [0.2]).status for x in (0.5, 0.9, 0.5, 0.2)]
        ['ok', 'baseline', 'baseline', 'ok']
    """

    unit = "simplex"

    def __init__(
        self,
        action_space: Any,
        baseline: Callable[[Any], npt.ArrayLike],
        barrier: Callable[[Any], float],
        *,
        model: Callable[[Any, Action], Any] | None = None,
        enter: float = 0.0,
        leave: float | None = None,
        dwell: int = 0,
        read: Callable[[Any], Any] | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the parts. To be saved, they must be functions of a module or instances of dataclasses.

        Args:
            action_space: A box or discrete actions.
            baseline: The verified policy: state to action. It is also the fallback.
            barrier: State to a number, at least 0 in the set that the baseline never leaves.
            model: State and action to the next state, without changing its arguments; None: the barrier is read now.
            enter: Hand over below this value of the barrier, at least 0; needed above 0 without a model.
            leave: Hand back from this value on, at least ``enter``; None: ``enter``, so without hysteresis.
            dwell: Fewest steps that the baseline stays in charge beyond its first.
            read: Turns an observation into the state; None: it is one.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: thresholds out of their ranges.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        leave = enter if leave is None else leave
        if not 0.0 <= enter <= leave < float("inf") or dwell < 0:
            raise ConfigError(
                f"{self.unit}: 0 <= enter <= leave and dwell >= 0 are needed; got {enter}, {leave} and {dwell}."
            )
        if model is None and enter == 0.0:
            raise ConfigError(
                f"{self.unit}: without a model, enter must be above 0: at least what one step can take from the "
                "barrier. Give it, or a model."
            )
        self.baseline, self.barrier, self.model, self.read = baseline, barrier, model, read
        self.enter, self.leave, self.dwell = float(enter), float(leave), int(dwell)
        self._since: int | None = None
        self._next: tuple[int | None] | None = None

    def spec(self) -> ShieldSpec:
        """What the barrier, the baseline and the model must be."""
        step = (
            f"No action takes more than {self.enter:g} from the barrier in one step."
            if self.model is None
            else f"The barrier of the next state is at most {self.enter:g} below that of the model's."
        )
        assumptions = (
            "The baseline never leaves the set where the barrier is at least 0.",
            step,
            "The episode starts in a certified state.",
        )
        return CATALOGUE[self.unit].spec(self.unit, assumptions=assumptions)

    @property
    def is_engaged(self) -> bool:
        """Whether the baseline is in charge."""
        return self._since is not None

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the barrier is at least 0 here."""
        return float(self.barrier(self._state(obs))) >= 0.0

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Put the policy in charge."""
        self._since = self._next = None

    def get_memory(self) -> Any:
        """For how many steps the baseline has been in charge, or None in it."""
        return {"since": self._since}

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        self._since, self._next = memory["since"], None

    def _state(self, obs: Any) -> Any:
        return obs if self.read is None else self.read(obs)

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        state, since = self._state(obs), self._since
        ahead = state if self.model is None else self.model(state, self.actions.clip(proposed))
        margin = float(self.barrier(ahead))
        # Comparisons with NaN are false: a barrier that is not a number hands over, and never hands back.
        is_free = margin >= self.enter if since is None else margin >= self.leave and since >= self.dwell
        self._next = (None,) if is_free else (0 if since is None else since + 1,)
        if is_free:
            return Ruling(proposed, "pass", margin=margin)
        return Ruling(self.baseline(state), "replaced", margin=margin, status="baseline")

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return self.baseline(self._state(obs))

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        planned, self._next = self._next, None
        if planned is None or decision.kind == "fallback":  # the fallback is the baseline
            planned = (0 if self._since is None else self._since + 1,)
        self._since = planned[0]

    def _to_data(self) -> ShieldData:
        config: dict[str, Any] = {name: describe_part(getattr(self, name), name) for name in _PARTS}
        return ShieldData({**config, "enter": self.enter, "leave": self.leave, "dwell": self.dwell})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        parts = {name: restore_part(data.config[name], name) for name in _PARTS}
        numbers = {name: data.config[name] for name in ("enter", "leave", "dwell")}
        return cls(action_space, **parts, **numbers)
