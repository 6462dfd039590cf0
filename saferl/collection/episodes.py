"""Whole episodes of a behaviour as flat arrays, in the layout of :class:`saferl.data.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from saferl.envs.vector import CostVectorEnv
from saferl.errors import ConfigError

Arrays = dict[str, Any]
"""Arrays by name."""
Generators = Sequence[np.random.Generator]
Act = Callable[[npt.NDArray[Any], Generators], npt.NDArray[Any]]
"""Actions (lanes, ...) for observations (lanes, ...); row i draws from generator i."""

KEYS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")


def record_episodes(envs: CostVectorEnv, act: Act, episodes: int, seed: int) -> Arrays:
    """``episodes`` whole episodes, one after the other.

    Every lane runs the same number of episodes, whatever their lengths: taking the first that end would prefer short
    ones.

    Args:
        envs: A batch of environments with SAME_STEP autoreset.
        act: The behaviour.
        episodes: At least 1.
        seed: Of the environments and of the actions.

    Returns:
        The arrays of :data:`KEYS`: (steps, ...) each, float32 and bool.
    """
    lanes = envs.num_envs
    rounds = -(-episodes // lanes)
    sequence = np.random.SeedSequence(seed)
    generators = [np.random.default_rng(child) for child in sequence.spawn(lanes)]
    obs, _ = envs.reset(seed=int(sequence.generate_state(1)[0] % 2**31))
    steps: list[list[tuple[Any, ...]]] = [[] for _ in range(lanes)]
    finished: list[list[list[tuple[Any, ...]]]] = [[] for _ in range(lanes)]
    while min(len(done) for done in finished) < rounds:
        actions = act(obs, generators)
        following, rewards, terminated, truncated, infos = envs.step(actions)
        ended = terminated | truncated
        reached = (
            np.where(ended.reshape(-1, *[1] * (following.ndim - 1)), infos["final_obs"], following)
            if (ended.any())
            else following
        )
        for lane in range(lanes):
            if len(finished[lane]) < rounds:
                steps[lane].append(
                    (
                        obs[lane].copy(),
                        reached[lane].copy(),
                        np.asarray(actions[lane]).copy(),
                        rewards[lane],
                        infos["costs"][lane].copy(),
                        bool(terminated[lane]),
                        bool(truncated[lane] and not terminated[lane]),
                    )
                )
                if ended[lane]:
                    finished[lane].append(steps[lane])
                    steps[lane] = []
        obs = following
    ordered = [finished[lane][turn] for turn in range(rounds) for lane in range(lanes)][:episodes]
    return _flat([step for episode in ordered for step in episode])


def _flat(steps: list[tuple[Any, ...]]) -> Arrays:
    columns = list(zip(*steps, strict=True))
    kinds = [np.float32] * 5 + [np.bool_] * 2
    return {key: np.array(column, dtype=kind) for key, column, kind in zip(KEYS, columns, kinds, strict=True)}


def uniform(space: spaces.Box) -> Act:
    """Uniformly random actions."""

    def act(obs: npt.NDArray[Any], generators: Generators) -> npt.NDArray[Any]:
        return np.stack([rng.uniform(space.low, space.high) for rng in generators]).astype(np.float32)

    return act


def noisy(policy: Any, space: spaces.Box, noise: float) -> Act:
    """Sampled actions of ``policy`` and uniform noise of ``noise`` times half the range of actions, clipped to it."""
    half = noise * (space.high - space.low) / 2.0

    def act(obs: npt.NDArray[Any], generators: Generators) -> npt.NDArray[Any]:
        actions = policy.sample(obs, generators)
        if noise > 0.0:
            actions = actions + np.stack([rng.uniform(-half, half) for rng in generators])
        clipped: npt.NDArray[Any] = np.clip(actions, space.low, space.high).astype(np.float32)
        return clipped

    return act


def require_box(env_id: str, envs: CostVectorEnv) -> spaces.Box:
    """The action space of ``envs``, if data of it can be stored.

    Raises:
        ConfigError: actions or observations that are not boxes with bounds.
    """
    action, observation = envs.single_action_space, envs.single_observation_space
    if not isinstance(action, spaces.Box) or not isinstance(observation, spaces.Box) or not action.is_bounded():
        raise ConfigError(
            f"Data sets hold boxes of observations and bounded boxes of actions; {env_id} has {observation} and "
            f"{action}. Wrap it with gymnasium.wrappers.FlattenObservation or RescaleAction."
        )
    return action
