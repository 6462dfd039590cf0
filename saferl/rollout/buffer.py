"""Preallocated storage of one on-policy rollout with vector costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from saferl.rollout.gae import gae

FloatArray = npt.NDArray[np.floating]
TensorObs = th.Tensor | dict[str, th.Tensor]


@dataclass(frozen=True)
class RolloutTensors:
    """A whole rollout, flattened to B = num_steps * num_envs samples on one device."""

    obs: TensorObs
    """(B, ...), or a dict of such tensors."""
    actions: th.Tensor
    """(B, action_dim)."""
    log_probs: th.Tensor
    """Log-probabilities under the policy that collected, (B,)."""
    values: th.Tensor
    """Reward values at collection, (B,)."""
    reward_advantages: th.Tensor
    """(B,)."""
    reward_returns: th.Tensor
    """Targets of the reward critic, (B,)."""
    cost_advantages: th.Tensor
    """(B, K)."""
    cost_returns: th.Tensor
    """Targets of the cost critic, (B, K)."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.log_probs)

    def obs_at(self, index: th.Tensor) -> TensorObs:
        """Observations of some samples."""
        if isinstance(self.obs, dict):
            return {key: value[index] for key, value in self.obs.items()}
        return self.obs[index]


class ConstrainedRolloutBuffer:
    """Arrays of shape (num_steps, num_envs, ...) that are written by slice and reused by every rollout."""

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_constraints: int,
    ) -> None:
        """Allocate."""
        self.num_steps, self.num_envs, self.num_constraints = num_steps, num_envs, num_constraints
        lead = (num_steps, num_envs)
        self._is_dict = isinstance(observation_space, spaces.Dict)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        self.obs = {
            key: np.zeros((*lead, *get_obs_shape(part)), dtype=storage_dtype(part)) for key, part in parts.items()
        }
        self.actions = np.zeros((*lead, get_action_dim(action_space)), dtype=np.float32)
        self.log_probs = np.zeros(lead, dtype=np.float32)
        self.rewards = np.zeros(lead, dtype=np.float32)
        self.costs = np.zeros((*lead, num_constraints), dtype=np.float32)
        self.values = np.zeros(lead, dtype=np.float32)
        self.cost_values = np.zeros((*lead, num_constraints), dtype=np.float32)
        self.next_values = np.zeros(lead, dtype=np.float32)
        self.next_cost_values = np.zeros((*lead, num_constraints), dtype=np.float32)
        self.terminated = np.zeros(lead, dtype=np.float32)
        self.truncated = np.zeros(lead, dtype=np.float32)
        self.reward_advantages = np.zeros(lead, dtype=np.float32)
        self.cost_advantages = np.zeros((*lead, num_constraints), dtype=np.float32)
        self.size = 0

    def reset(self) -> None:
        """Start a new rollout; the arrays are overwritten."""
        self.size = 0

    def add(
        self,
        obs: Any,
        actions: npt.NDArray[Any],
        rewards: FloatArray,
        costs: FloatArray,
        terminated: npt.NDArray[Any],
        truncated: npt.NDArray[Any],
    ) -> None:
        """Write one step of all environments; ``costs`` are (num_envs, K), the rest (num_envs,)."""
        step = self.size
        for key, array in self.obs.items():
            array[step] = (obs[key] if self._is_dict else obs).reshape(array[step].shape)
        self.actions[step] = actions.reshape(self.actions[step].shape)
        self.rewards[step] = rewards
        self.costs[step] = costs
        self.terminated[step] = terminated
        self.truncated[step] = truncated
        self.size += 1

    def assess(self, log_probs: FloatArray, values: FloatArray, cost_values: FloatArray) -> None:
        """Write what the policy that collected says of every sample, flat: (B,), (B,) and (B, K)."""
        self.log_probs[:] = log_probs.reshape(self.log_probs.shape)
        self.values[:] = values.reshape(self.values.shape)
        self.cost_values[:] = cost_values.reshape(self.cost_values.shape)
        self.next_values[:-1], self.next_cost_values[:-1] = self.values[1:], self.cost_values[1:]

    def bootstrap(
        self, steps: npt.NDArray[Any], rows: npt.NDArray[Any], values: FloatArray, cost_values: FloatArray
    ) -> None:
        """After :meth:`assess`: the values of the true next states at some ``steps`` of some environments ``rows``."""
        self.next_values[steps, rows] = values
        self.next_cost_values[steps, rows] = cost_values

    def finish(
        self,
        last_values: FloatArray,
        last_cost_values: FloatArray,
        *,
        gamma: float,
        gae_lambda: float,
        cost_gamma: float,
        cost_gae_lambda: float,
    ) -> None:
        """Compute advantages; the last values (num_envs,) and cost values (num_envs, K) are of the next states."""
        rows = np.flatnonzero(self.truncated[-1] == 0)
        self.bootstrap(np.full(len(rows), self.num_steps - 1), rows, last_values[rows], last_cost_values[rows])
        ends = {"terminated": self.terminated, "truncated": self.truncated}
        self.reward_advantages = gae(
            self.rewards, self.values, self.next_values, **ends, gamma=gamma, gae_lambda=gae_lambda
        ).astype(np.float32)
        self.cost_advantages = gae(
            self.costs, self.cost_values, self.next_cost_values, **ends, gamma=cost_gamma, gae_lambda=cost_gae_lambda
        ).astype(np.float32)

    def samples(self, device: th.device) -> tuple[TensorObs, th.Tensor]:
        """Observations and actions of the whole rollout, flat, on ``device``."""
        obs = {key: self._flat(array, device) for key, array in self.obs.items()}
        return obs if self._is_dict else obs[""], self._flat(self.actions, device)

    def _flat(self, array: npt.NDArray[Any], device: th.device) -> th.Tensor:
        return th.as_tensor(array.reshape(self.num_steps * self.num_envs, *array.shape[2:]), device=device)

    def tensors(self, device: th.device) -> RolloutTensors:
        """The whole rollout as flat tensors on ``device``."""
        obs, actions = self.samples(device)
        return RolloutTensors(
            obs=obs,
            actions=actions,
            log_probs=self._flat(self.log_probs, device),
            values=self._flat(self.values, device),
            reward_advantages=self._flat(self.reward_advantages, device),
            reward_returns=self._flat(self.reward_advantages + self.values, device),
            cost_advantages=self._flat(self.cost_advantages, device),
            cost_returns=self._flat(self.cost_advantages + self.cost_values, device),
        )


def storage_dtype(space: spaces.Space[Any]) -> Any:
    """Networks compute in float32, so wider floats are stored as that."""
    return np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype
