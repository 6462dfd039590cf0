r"""Limits on the action itself (``bounds``, ``rate_limit``): the shields that need to know nothing about the plant.

    bounds       u = argmin |u - u0|  with  low <= u <= high
    rate limit   u = argmin |u - u0|  with  u_before - fall <= u <= u_before + rise,   u_before: what was executed last

Both sets are boxes, so the nearest action in the norm of :attr:`ShieldDecision.distance` is a clip of every component.

What they guarantee: the limits, for every plant and every observation ("hard"), also when they fall back. They say
nothing about the state. The first action of an episode has none before it: :class:`RateLimit` lets it pass unless it is
told what was executed before (``initial``).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec

Array = npt.NDArray[np.float64]


class Bounds(Shield):
    """Clips to limits on the action.

    Example:
        >>> shield = Bounds(ActionSpec.box([-1.0, -1.0], [1.0, 1.0]), low=-0.5, high=[0.5, 0.8])
        >>> shield.filter(None, [0.9, 0.6]).action.tolist()
        [0.5, 0.6]
    """

    unit = "bounds"

    def __init__(
        self,
        action_space: Any,
        low: npt.ArrayLike | None = None,
        high: npt.ArrayLike | None = None,
        *,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the limits.

        Args:
            action_space: A box.
            low: Lower limits, a number or shape (dim,), in env units; None: those of the space.
            high: Upper limits alike.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: NaN, another shape, or limits that leave nothing of the space.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        space_low, space_high = _box(self.actions)
        self.low = space_low if low is None else np.maximum(_per_component(self, "low", low), space_low)
        self.high = space_high if high is None else np.minimum(_per_component(self, "high", high), space_high)
        if not np.all(self.low <= self.high):
            raise ConfigError(
                f"{self.unit}: the limits must leave something of the action space [{space_low}, {space_high}]; "
                f"got low={low!r} and high={high!r}."
            )

    @classmethod
    def for_env(cls, env: Any) -> Self:
        """The bounds of the action space of an env.

        Raises:
            ConfigError: its actions are not a bounded box.
        """
        space = ActionSpec.of(env.action_space)
        if space.low is None or space.high is None or not np.all(np.isfinite([space.low, space.high])):
            raise ConfigError(f"{cls.unit} needs an env with a bounded Box of actions; got {env.action_space!r}.")
        return cls(space)

    def spec(self) -> ShieldSpec:
        """Nothing is assumed."""
        return CATALOGUE[self.unit].spec(self.unit, assumptions=("The limits are the right ones.",))

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Always: the limits are on the action alone."""
        return True

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        gaps = np.minimum(proposed - self.low, self.high - proposed) / self.actions.half_range
        inside = float(gaps.min())
        outside = np.minimum(gaps, 0.0)
        margin = inside if inside >= 0.0 else -float(np.sqrt(outside @ outside))
        return Ruling(np.clip(proposed, self.low, self.high), margin=margin)

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return np.clip(self.actions.middle, self.low, self.high)

    def _to_data(self) -> ShieldData:
        return ShieldData({}, {"low": self.low, "high": self.high})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        return cls(action_space, data.arrays["low"], data.arrays["high"])


class RateLimit(Shield):
    """Limits the change of the action per step.

    It remembers the last *executed* action: in a composite, the one that was executed in the end.

    Example:
        >>> shield = RateLimit(ActionSpec.box([0.0], [10.0]), rise=1.0, fall=3.0, initial=[5.0])
        >>> [float(shield.filter(None, [wish]).action[0]) for wish in (9.0, 9.0, 0.0)]
        [6.0, 7.0, 4.0]
    """

    unit = "rate_limit"

    def __init__(
        self,
        action_space: Any,
        rise: npt.ArrayLike,
        fall: npt.ArrayLike | None = None,
        *,
        initial: npt.ArrayLike | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the limits.

        Args:
            action_space: A box.
            rise: Most that a component may grow per step, a number or shape (dim,), at least 0, in env units.
            fall: Most that it may sink; None: as ``rise``.
            initial: What counts as executed before the first action of an episode; None: the first one is free.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: a negative or NaN limit, another shape, or an initial action outside the space.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        _box(self.actions)
        self.rise = _per_component(self, "rise", rise)
        self.fall = self.rise.copy() if fall is None else _per_component(self, "fall", fall)
        if np.any(self.rise < 0.0) or np.any(self.fall < 0.0):
            raise ConfigError(f"{self.unit}: rise and fall must be at least 0; got {self.rise} and {self.fall}.")
        self.initial = None if initial is None else _per_component(self, "initial", initial)
        if self.initial is not None and not self.actions.contains(self.initial):
            raise ConfigError(f"{self.unit}: the initial action must lie in the action space; got {self.initial}.")
        self._last = self.initial

    def spec(self) -> ShieldSpec:
        """What the device does before the first action is assumed."""
        first = (
            "The first action of an episode may be any."
            if self.initial is None
            else "The device executes the initial action before an episode begins."
        )
        assumptions = (first, "What the shield decides, or what its composite says, is what is executed.")
        return CATALOGUE[self.unit].spec(self.unit, assumptions=assumptions)

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Always: the limits are on the action alone."""
        return True

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Go back to the initial action."""
        self._last = self.initial

    def get_memory(self) -> Any:
        """The last executed action, or None in it before the first."""
        return {"last": None if self._last is None else self._last.copy()}

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        self._last = None if memory["last"] is None else np.array(memory["last"], dtype=np.float64)

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        if self._last is None:
            return Ruling(proposed, "pass", margin=float("inf"))
        low, high = self._last - self.fall, self._last + self.rise
        gaps = np.minimum(proposed - low, high - proposed) / self.actions.half_range
        return Ruling(np.clip(proposed, low, high), margin=float(gaps.min()))

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return self.actions.middle if self._last is None else self._last

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        self._last = decision.action.copy()

    def _to_data(self) -> ShieldData:
        arrays = {"rise": self.rise, "fall": self.fall}
        return ShieldData({}, arrays if self.initial is None else {**arrays, "initial": self.initial})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        return cls(action_space, data.arrays["rise"], data.arrays["fall"], initial=data.arrays.get("initial"))


def _box(actions: ActionSpec) -> tuple[Array, Array]:
    if actions.low is None or actions.high is None:
        raise ConfigError("Limits on the action need a box; got discrete actions.")
    return actions.low, actions.high


def _per_component(shield: Shield, name: str, value: npt.ArrayLike) -> Array:
    values, dim = np.array(value, dtype=np.float64), shield.actions.dim
    if values.shape not in ((), (1,), (dim,)) or np.isnan(values).any():
        raise ConfigError(f"{shield.unit}: {name} must be a number or {dim} of them, without NaN; got {value!r}.")
    return np.broadcast_to(values, (dim,)).copy()
