"""Replay buffers of Stable-Baselines3 that keep the action which a shield executed.

Its off-policy algorithms (SAC, TD3, DQN) hand their own action to the buffer; behind a shield the reward and the next
observation belong to another one. A critic that is fitted to the executed action is right about the environment, but
the actor is not told of its corrections: give interventions a budget, or a penalty.

    SAC("MlpPolicy", ShieldedVecEnv(...), replay_buffer_class=ExecutedActionReplayBuffer)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from saferl.errors import ConfigError


class ExecutedActionReplayBuffer(ReplayBuffer):
    """A ReplayBuffer that stores ``info["executed_action"]``, scaled to [-1, 1] like every action in it.

    Example:
        >>> box = spaces.Box(0.0, 4.0, (1,))
        >>> buffer = ExecutedActionReplayBuffer(10, box, box, device="cpu", n_envs=1)
        >>> x = np.zeros((1, 1))
        >>> buffer.add(x, x, x, np.zeros(1), np.zeros(1), [{"executed_action": np.array([3.0])}])
        >>> buffer.actions[0].tolist()
        [[0.5]]
    """

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Add one step of all environments.

        Raises:
            ConfigError: an environment does not say what it executed.
        """
        super().add(obs, next_obs, executed_actions(infos, self.action_space), reward, done, infos)


class ExecutedActionDictReplayBuffer(DictReplayBuffer):
    """The same for Dict observations."""

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Add one step of all environments; see :meth:`ExecutedActionReplayBuffer.add`."""
        super().add(obs, next_obs, executed_actions(infos, self.action_space), reward, done, infos)


def executed_actions(infos: list[dict[str, Any]], space: spaces.Space[Any]) -> Any:
    """The executed actions of one step as a buffer keeps them, (num_envs, ...): a box is scaled to [-1, 1].

    Raises:
        ConfigError: an info without ``executed_action``.
    """
    if any("executed_action" not in info for info in infos):
        raise ConfigError(
            "A buffer of executed actions needs info['executed_action'] at every step. Put the environment behind a "
            "ShieldedVecEnv or ShieldedEnv, or take Stable-Baselines3's own buffer."
        )
    actions = np.stack([np.asarray(info["executed_action"]) for info in infos])
    if not isinstance(space, spaces.Box):
        return actions
    return 2.0 * (actions - space.low) / (space.high - space.low) - 1.0
