"""The policy that samples the action space uniformly: the floor that every report compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from saferl.errors import ConfigError


class RandomPolicy:
    """Uniform random actions, with Stable-Baselines3's ``predict``."""

    def __init__(self, action_space: spaces.Space[Any], *, seed: int | None = None) -> None:
        """Sample from ``action_space``; ``seed`` fixes ``predict``.

        Raises:
            ConfigError: a space that has no uniform distribution.
        """
        uniform_action(action_space, np.random.default_rng(0))
        self.action_space = action_space
        self._generator = np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """A batch of actions, one per row of a batch of observations."""
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        return self.sample(observation, [self._generator] * len(np.atleast_1d(first))), state

    def sample(self, observation: Any, generators: Sequence[np.random.Generator]) -> Any:
        """One action per generator, drawn from it alone."""
        return np.stack([uniform_action(self.action_space, rng) for rng in generators])


def uniform_action(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """One uniform action drawn from ``rng`` (Gymnasium's ``sample`` keeps a generator of its own).

    Raises:
        ConfigError: a space that has no uniform distribution.
    """
    if isinstance(space, spaces.Box) and space.is_bounded("both"):
        if np.issubdtype(space.dtype, np.integer):
            return rng.integers(space.low, space.high, endpoint=True, dtype=space.dtype.type)
        return rng.uniform(space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return np.int64(space.start + rng.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return (space.start + rng.integers(space.nvec)).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=space.shape).astype(np.int8)
    raise ConfigError(
        "Uniform random actions need a bounded Box, Discrete, MultiDiscrete or MultiBinary space; got "
        f"{space}. Bound or flatten the env's actions with a Gymnasium wrapper."
    )
