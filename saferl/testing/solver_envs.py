"""The small environments that ``check_solver`` trains on."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.state import generator_state, new_generator

_BOX = spaces.Box(-10.0, 10.0, (3,), np.float32)
KINDS = MappingProxyType(
    {
        "Box": (_BOX, spaces.Box(-1.0, 1.0, (2,), np.float32)),
        "Discrete": (_BOX, spaces.Discrete(3)),
        "MultiDiscrete": (_BOX, spaces.MultiDiscrete([2, 3])),
        "Dict": (
            spaces.Dict({"place": _BOX, "mode": spaces.Discrete(4)}),
            spaces.Box(-1.0, 1.0, (1,), np.float32),
        ),
    }
)
"""Observation and action spaces by name."""


class Drift(gymnasium.Env[Any, Any]):
    """Drifts at random for 10 steps. ``always`` costs 1 at every step, ``never`` nothing, whatever the agent does."""

    def __init__(self, kind: str = "Box", silent_after: int | None = None) -> None:
        """Use the spaces of ``kind``; costs are no longer reported after ``silent_after`` steps."""
        self.observation_space, self.action_space = KINDS[kind]
        self.constraints = ConstraintSet(
            [Constraint("always", 2.0, max_step_cost=1.0), Constraint("never", 5.0, max_step_cost=1.0)]
        )
        self._silent_after = silent_after
        self._steps = 0
        self._place = np.zeros(3, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin somewhere."""
        super().reset(seed=seed, options=options)
        self._place = self.np_random.normal(size=3).astype(np.float32)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drift on."""
        self._steps += 1
        noise = self.np_random.normal(size=3)
        self._place = np.clip(self._place + 0.1 * noise, -10.0, 10.0).astype(np.float32)
        info = {} if self._is_silent else {"costs": {"always": 1.0, "never": 0.0}}
        return self._observe(), float(np.sum(action)), False, False, info

    @property
    def _is_silent(self) -> bool:
        return self._silent_after is not None and self._steps > self._silent_after

    def _observe(self) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return {"place": self._place.copy(), "mode": np.int64(self._steps % 4)}
        return self._place.copy()

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what follows."""
        generator = None if self._np_random is None else generator_state(self._np_random)
        return {"steps": self._steps, "place": self._place.copy(), "generator": generator}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._steps, self._place = state["steps"], state["place"].copy()
        self._np_random = None if state["generator"] is None else new_generator(state["generator"])


def drift(kind: str = "Box", silent_after: int | None = None) -> gymnasium.Env[Any, Any]:
    """A :class:`Drift` under its time limit."""
    return TimeLimit(Drift(kind, silent_after), 10)
