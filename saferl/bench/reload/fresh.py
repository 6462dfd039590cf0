"""Fresh episodes of a policy in training, on environments and seeds of their own, which leave training as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from saferl.envs.vector import CostVectorEnv
from saferl.policy.normaliser import FrozenNormaliser
from saferl.policy.sampling import sample_rows

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """Undiscounted sums of episodes of one policy."""

    returns: Array
    """Returns, (M,)."""
    costs: Array
    """Costs, (M, K)."""


class FreshEpisodes:
    """Episodes of whatever policy a model has at the moment, with sampled actions and its normaliser of the moment."""

    def __init__(self, make_envs: Callable[[], CostVectorEnv], first_seed: int) -> None:
        """Build the environments, one per episode of an evaluation.

        Args:
            make_envs: Makes them.
            first_seed: Seed of the first episode; every episode takes the next one, so that evaluations are
                independent and their sampling variance can be told.
        """
        self._envs, self._seed = make_envs(), first_seed

    def run(self, model: Any) -> Episodes:
        """One episode in each environment."""
        envs = self._envs
        seeds = list(range(self._seed, self._seed + envs.num_envs))
        self._seed += envs.num_envs
        generators = [np.random.default_rng([seed, 1]) for seed in seeds]
        normaliser = FrozenNormaliser.from_vec_normalize(unwrap_vec_normalize(model.env))
        returns, costs = np.zeros(envs.num_envs), np.zeros((envs.num_envs, len(envs.constraints)))
        is_open = np.ones(envs.num_envs, dtype=np.bool_)
        obs, _ = envs.reset(seed=seeds)
        model.policy.set_training_mode(False)
        while is_open.any():
            actions = _actions(model.policy, obs if normaliser is None else normaliser(obs), generators)
            obs, rewards, terminated, truncated, infos = envs.step(actions)
            returns += np.where(is_open, rewards, 0.0)
            costs += np.where(is_open[:, None], infos["costs"], 0.0)
            is_open &= ~(terminated | truncated)
        return Episodes(returns, costs)

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()


def _actions(policy: Any, obs: Any, generators: list[np.random.Generator]) -> npt.NDArray[Any]:
    with th.no_grad():
        tensors, _ = policy.obs_to_tensor(obs)
        actions = sample_rows(policy.get_distribution(tensors), generators)
    space: gymnasium.Space[Any] = policy.action_space
    return np.clip(actions, space.low, space.high) if isinstance(space, spaces.Box) else actions
