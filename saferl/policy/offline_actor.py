"""An offline policy in the units of an environment: raw observations in, actions inside its Box out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces

from saferl.errors import ConfigError, UnknownNameError
from saferl.policy.offline import FloatArray, Generators, OfflinePolicy, State

Floats = npt.NDArray[np.float32]
Budgets = Mapping[str, float]


class OfflineActor:
    """Stable-Baselines3's ``predict`` for an offline policy, with state and budgets where it has them.

    A stateful policy learns what its actions led to by :meth:`observe`; ``predict`` alone tells it of observations.
    """

    def __init__(
        self,
        policy: OfflinePolicy,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        cost_names: Sequence[str],
        budgets: Budgets | None = None,
    ) -> None:
        """Put ``policy`` between the spaces.

        Args:
            policy: What acts, in [-1, 1].
            observation_space: Of raw observations: Box, Discrete, or a Dict of them.
            action_space: A bounded Box.
            cost_names: Names of the constraints, (C,).
            budgets: Limits of the episodes' cost sums by name.

        Raises:
            ConfigError: spaces that do not suit.
            UnknownNameError: a budget for another cost.
        """
        self.policy, self.cost_names = policy, tuple(cost_names)
        self.observation_space, self.action_space = observation_space, bounded_box(action_space)
        self.budgets = dict(budgets) if budgets else None
        self.limits = budget_array(budgets, self.cost_names)

    @property
    def is_stateful(self) -> bool:
        """Whether actions depend on what happened earlier in the episode."""
        return self.policy.is_stateful

    def with_budgets(self, budgets: Budgets) -> OfflineActor:
        """The same policy at other budgets.

        Raises:
            ConfigError: it takes none at run time.
            UnknownNameError: a budget for a cost that it does not know.
        """
        if not self.policy.takes_budgets:
            raise ConfigError(
                f"A policy of kind {self.policy.kind!r} keeps the budgets of its training; got {dict(budgets)}. "
                "Train at these budgets, or use a solver whose policy takes them at run time (cdt, caps, trebi)."
            )
        return OfflineActor(self.policy, self.observation_space, self.action_space, self.cost_names, budgets)

    def begin(self, lanes: int) -> State:
        """The state in front of ``lanes`` episodes."""
        return self.policy.begin(lanes, self.limits)

    def act(self, observation: Any, state: State, generators: Generators | None, *, deterministic: bool) -> Floats:
        """Actions for a batch of raw observations, (B, *action_space.shape)."""
        features = th.from_numpy(flat_observations(self.observation_space, observation))
        with th.no_grad():
            actions = self.policy.act(features, state, generators, deterministic)
        return from_unit(actions.numpy(), self.action_space)

    def observe(self, state: State, rewards: Any, costs: Any, ended: Any) -> None:
        """What came of the last actions: rewards (B,), costs (B, C) in the order of ``cost_names``, ended (B,)."""
        self.policy.observe(state, np.asarray(rewards), np.asarray(costs), np.asarray(ended, dtype=np.bool_))

    def restart(self, state: State, rows: Any) -> None:
        """New episodes begin in the lanes ``rows``."""
        self.policy.restart(state, np.asarray(rows, dtype=np.int64))

    def predict(
        self, observation: Any, state: State = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Floats, State]:
        """Actions for one raw observation or a batch, and the state to give with the next ones.

        Args:
            observation: One, or a batch of them.
            state: What the last call returned; None at the start.
            episode_start: Whether a new episode begins, (B,).
            deterministic: Mean or mode instead of a draw from torch's global generator, where the policy has one.
        """
        is_single = is_one(self.observation_space, observation)
        batch = _as_batch(observation) if is_single else observation
        if state is None:
            state = self.begin(_length(batch))
        elif self.is_stateful and episode_start is not None and (rows := np.flatnonzero(episode_start)).size:
            self.restart(state, rows)
        actions = self.act(batch, state, None, deterministic=deterministic)
        return (actions[0] if is_single else actions), state

    def sample(self, observation: Any, generators: Generators) -> Floats:
        """Drawn first actions for a batch of observations; row i draws from ``generators[i]`` alone."""
        return self.act(observation, self.begin(len(generators)), generators, deterministic=False)


def bounded_box(space: spaces.Space[Any]) -> spaces.Box:
    """``space``, which must be a bounded Box of floats.

    Raises:
        ConfigError: it is not.
    """
    if not (isinstance(space, spaces.Box) and space.is_bounded("both") and np.issubdtype(space.dtype, np.floating)):
        raise ConfigError(
            f"An offline policy needs actions in a bounded Box of floats; got {space}. Bound the actions with a "
            "Gymnasium wrapper and collect data there, or use a solver that takes these actions."
        )
    return space


def budget_array(budgets: Budgets | None, names: Sequence[str]) -> FloatArray | None:
    """Budgets in the order of ``names``, (C,), infinite where there is none; None without any.

    Raises:
        UnknownNameError: a budget for another name.
        ConfigError: a budget that is NaN or negative.
    """
    if not budgets:
        return None
    for name, value in budgets.items():
        if name not in names:
            raise UnknownNameError("cost of the policy's data", name, names)
        if not value >= 0.0:
            raise ConfigError(f"A budget must be at least 0; got {value:g} for {name!r}.")
    return np.array([budgets.get(name, np.inf) for name in names], dtype=np.float64)


def to_unit(actions: Floats, space: spaces.Box) -> Floats:
    """Actions (N, A) of ``space`` scaled to [-1, 1]."""
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    return np.asarray(2.0 * (actions - low) / (high - low) - 1.0, dtype=np.float32)


def from_unit(actions: Floats, space: spaces.Box) -> Floats:
    """Actions in [-1, 1], (N, A), as members of ``space``, (N, *shape); what lies outside is clipped."""
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    scaled = low + 0.5 * (actions.astype(np.float64) + 1.0) * (high - low)
    inside = np.clip(scaled, low, high).astype(space.dtype)
    return np.asarray(inside.reshape(len(actions), *space.shape), dtype=space.dtype)


def num_features(space: spaces.Space[Any]) -> int:
    """Width of a flat observation of ``space``.

    Raises:
        ConfigError: a space that has no flat form here.
    """
    if isinstance(space, spaces.Dict):
        return sum(num_features(part) for part in space.spaces.values())
    if isinstance(space, spaces.Box | spaces.Discrete):
        return int(spaces.flatdim(space))
    raise ConfigError(f"An offline policy takes observations in Box, Discrete or a Dict of them; got {space}.")


def flat_observations(space: spaces.Space[Any], batch: Any) -> Floats:
    """A batch of observations as (B, F) float32: parts of a Dict in its order, categories as indicators."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([flat_observations(part, batch[key]) for key, part in space.spaces.items()], axis=1)
    array = np.asarray(batch)
    if isinstance(space, spaces.Discrete):
        indicators: Floats = np.eye(int(space.n), dtype=np.float32)[array.reshape(-1) - int(space.start)]
        return indicators
    return np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32)


def is_one(space: spaces.Space[Any], observation: Any) -> bool:
    """Whether ``observation`` is a single one rather than a batch."""
    if isinstance(space, spaces.Dict):
        key, part = next(iter(space.spaces.items()))
        return is_one(part, observation[key])
    return np.ndim(observation) == len(space.shape or ())


def _as_batch(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {key: _as_batch(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def _length(batch: Any) -> int:
    return _length(next(iter(batch.values()))) if isinstance(batch, Mapping) else len(batch)
