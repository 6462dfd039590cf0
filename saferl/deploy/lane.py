"""One shield in one environment: its episode's context, its memory and its last decision. numpy only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from saferl.shields.base import Shield
from saferl.shields.protocol import Action, ShieldContext, ShieldDecision

Hooks = Callable[[], Mapping[str, Any]]
"""Gives what the environment knows now: ``privileged`` and ``twin`` of :class:`ShieldContext`, as far as it does."""


class Lane:
    """A copy of a shield with the context of the episode that it is in.

    The context's generator is reseeded by a reset with a seed, apart from the generators of environment and policy, and
    goes on otherwise.
    """

    def __init__(self, shield: Shield, hooks: Hooks | None = None, *, seed: int = 0) -> None:
        """Copy ``shield``; ``hooks`` is asked before every decision."""
        self.shield = shield.copy()
        self.last: ShieldDecision | None = None
        """The last decision."""
        self._hooks = hooks
        self._generator = new_generator(seed)
        self._step = 0
        self._spent: dict[str, float] = {}

    @property
    def context(self) -> ShieldContext:
        """What the shield is told now."""
        known = {} if self._hooks is None else self._hooks()
        return ShieldContext(self._step, self._generator, dict(self._spent), **known)

    def reset(self, obs: Any, seed: int | None = None) -> None:
        """Start an episode in ``obs``."""
        if seed is not None:
            self._generator = new_generator(seed)
        self._step, self._spent, self.last = 0, {}, None
        self.shield.reset(obs, self.context)

    def certifies(self, obs: Any) -> bool:
        """Whether the shield's guarantee holds from ``obs`` on."""
        return self.shield.certifies(obs, self.context)

    def decide(self, obs: Any, action: Any) -> ShieldDecision:
        """What is executed for a proposed action."""
        decision = self.shield.filter(obs, action, self.context)
        self.note(decision)
        return decision

    def note(self, decision: ShieldDecision) -> None:
        """Count a decision that was taken for this lane."""
        self.last = decision
        self._step += 1

    def spend(self, costs: Mapping[str, float]) -> None:
        """Count the costs of the step that followed the decision."""
        for name, cost in costs.items():
            self._spent[name] = self._spent.get(name, 0.0) + float(cost)

    def get_state(self) -> dict[str, Any]:
        """What decides how the shield goes on: its memory, its generator and its episode."""
        return {
            "memory": copy.deepcopy(self.shield.get_memory()),
            "generator": copy.deepcopy(dict(self._generator.bit_generator.state)),
            "step": self._step,
            "spent": dict(self._spent),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        if state["memory"] is not None:
            self.shield.set_memory(copy.deepcopy(state["memory"]))
        self._generator.bit_generator.state = copy.deepcopy(dict(state["generator"]))
        self._step, self._spent = int(state["step"]), dict(state["spent"])


def new_generator(seed: int) -> np.random.Generator:
    """A generator for shields, apart from those that the same seed gives environments and policies."""
    return np.random.default_rng([seed, 2])


def row_of(batch: Any, row: int) -> Any:
    """One row of a batch of observations or actions (one array, or one per key)."""
    if isinstance(batch, Mapping):
        return {key: value[row] for key, value in batch.items()}
    return batch[row]


def as_env_action(action: Action, space: Any) -> Any:
    """A decision's action as a space has it: an int, or an array of its shape and type.

    Rounding to float32 moves an action by up to 6e-8 of its size; it stays inside float32 bounds.
    """
    if hasattr(space, "n"):
        return int(action)
    return np.asarray(action).reshape(space.shape).astype(space.dtype)
