"""Preallocated storage of past transitions with vector costs, for solvers that learn from them again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from stable_baselines3.common.vec_env import VecNormalize

from saferl.rollout.buffer import TensorObs, storage_dtype

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ReplayTensors:
    """B transitions on one device, normalised as the environment's observations and rewards are now."""

    obs: TensorObs
    """(B, ...), or a dict of such tensors."""
    actions: th.Tensor
    """Executed actions in the env's units, (B, action_dim)."""
    rewards: th.Tensor
    """(B,)."""
    costs: th.Tensor
    """(B, K)."""
    next_obs: TensorObs
    """The true next observations, also where an episode ended, (B, ...)."""
    terminated: th.Tensor
    """1 where the next state has no value; a time limit is no termination. (B,)."""


class ConstrainedReplayBuffer:
    """The last ``capacity`` transitions: rows of ``num_envs``, the oldest overwritten first.

    Observations and rewards are stored as the environment gave them and normalised when they are drawn, because the
    statistics of VecNormalize move on while a transition waits.

    Example:
        >>> box = spaces.Box(-1.0, 1.0, (3,))
        >>> buffer = ConstrainedReplayBuffer(100, 2, box, spaces.Discrete(4), num_constraints=1)
        >>> obs, zero = np.zeros((2, 3)), np.zeros(2)
        >>> buffer.add(obs, obs, zero, zero, np.ones((2, 1)), zero)
        >>> len(buffer), buffer.sample(5, th.Generator()).costs.flatten()
        (2, tensor([1., 1., 1., 1., 1.]))
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_constraints: int,
    ) -> None:
        """Allocate; at least one row, however small ``capacity`` is."""
        self.num_rows, self.num_envs = max(1, capacity // num_envs), num_envs
        lead = (self.num_rows, num_envs)
        self._is_dict = isinstance(observation_space, spaces.Dict)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        self.obs: Arrays
        self.next_obs: Arrays
        self.obs, self.next_obs = (
            {key: np.zeros((*lead, *get_obs_shape(part)), dtype=storage_dtype(part)) for key, part in parts.items()}
            for _ in range(2)
        )
        self.actions = np.zeros((*lead, get_action_dim(action_space)), dtype=np.float32)
        self.rewards = np.zeros(lead, dtype=np.float32)
        self.costs = np.zeros((*lead, num_constraints), dtype=np.float32)
        self.terminated = np.zeros(lead, dtype=np.float32)
        self.filled = 0
        """Rows that hold transitions."""
        self._next_row = 0

    def __len__(self) -> int:
        """Number of transitions."""
        return self.filled * self.num_envs

    def add(
        self,
        obs: Any,
        next_obs: Any,
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        costs: npt.NDArray[Any],
        terminated: npt.NDArray[Any],
    ) -> None:
        """Write one step of all environments, none of it normalised; ``costs`` are (num_envs, K), the rest (num_envs,).

        ``next_obs`` holds the last observation of an episode where one ended, not the first of the next one.
        """
        row = self._next_row
        for arrays, given in ((self.obs, obs), (self.next_obs, next_obs)):
            for key, array in arrays.items():
                array[row] = (given[key] if self._is_dict else given).reshape(array[row].shape)
        self.actions[row] = actions.reshape(self.actions[row].shape)
        self.rewards[row], self.costs[row], self.terminated[row] = rewards, costs, terminated
        self._next_row = (row + 1) % self.num_rows
        self.filled = min(self.filled + 1, self.num_rows)

    def sample(
        self,
        count: int,
        generator: th.Generator,
        *,
        normaliser: VecNormalize | None = None,
        device: th.device | str = "cpu",
    ) -> ReplayTensors:
        """Transitions drawn uniformly with replacement; the buffer must not be empty.

        Args:
            count: B.
            generator: A generator of the CPU, which alone decides what is drawn.
            normaliser: The layer whose current statistics observations and rewards are normalised with, if any.
            device: Where the tensors go.
        """
        index = th.randint(len(self), (count,), generator=generator).numpy()
        at = (index // self.num_envs, index % self.num_envs)
        rewards = self.rewards[at]
        if normaliser is not None:
            rewards = normaliser.normalize_reward(rewards).astype(np.float32)
        return ReplayTensors(
            obs=self._observations(self.obs, at, normaliser, device),
            actions=th.as_tensor(self.actions[at], device=device),
            rewards=th.as_tensor(rewards, device=device),
            costs=th.as_tensor(self.costs[at], device=device),
            next_obs=self._observations(self.next_obs, at, normaliser, device),
            terminated=th.as_tensor(self.terminated[at], device=device),
        )

    def _observations(
        self, arrays: Arrays, at: Any, normaliser: VecNormalize | None, device: th.device | str
    ) -> TensorObs:
        chosen: Any = {key: array[at] for key, array in arrays.items()}
        if not self._is_dict:
            chosen = chosen[""]
        if normaliser is not None:
            chosen = normaliser.normalize_obs(chosen)
        if self._is_dict:
            return {key: th.as_tensor(value, device=device) for key, value in chosen.items()}
        return th.as_tensor(chosen, device=device)

    def get_state(self) -> dict[str, Any]:
        """Everything in it, as small as it goes: filled rows only, and no next observation that the next row holds."""
        end = self.filled
        plain = {name: getattr(self, name)[:end].copy() for name in ("actions", "rewards", "costs", "terminated")}
        return {
            **plain,
            "obs": {key: array[:end].copy() for key, array in self.obs.items()},
            "next_obs": {key: self._unlike_next_row(key) for key in self.obs},
            "filled": end,
            "next_row": self._next_row,
        }

    def _unlike_next_row(self, key: str) -> dict[str, npt.NDArray[Any]]:
        """The next observations that are not the observation of the row after: at an episode's end, and the newest."""
        after = np.roll(self.obs[key][: self.filled], -1, axis=0)
        own = self.next_obs[key][: self.filled]
        differs = (own != after).reshape(self.filled, self.num_envs, -1).any(axis=2)
        rows, envs = np.nonzero(differs)
        return {"rows": rows, "envs": envs, "values": own[rows, envs].copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`.

        Raises:
            ValueError: the state is of other shapes.
        """
        end = int(state["filled"])
        for name in ("actions", "rewards", "costs", "terminated"):
            getattr(self, name)[:end] = state[name]
        for key, array in self.obs.items():
            array[:end] = state["obs"][key]
            unlike = state["next_obs"][key]
            self.next_obs[key][:end] = np.roll(array[:end], -1, axis=0)
            self.next_obs[key][unlike["rows"], unlike["envs"]] = unlike["values"]
        self.filled, self._next_row = end, int(state["next_row"])
