"""A block of environments stepped in turn, with SAME_STEP autoreset, writing into shared arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium import spaces

from saferl.envs.adapters import CostContract
from saferl.envs.batch import StepArrays, read_row, write_row
from saferl.envs.state import State, get_state, has_state, set_state
from saferl.errors import EnvContractError

ContractFactory = Callable[[], CostContract]


class EnvBlock:
    """Environments of one process; row i of ``arrays`` belongs to environment i."""

    diverged = None

    def __init__(self, envs: Sequence[CostContract], arrays: StepArrays) -> None:
        """Step ``envs`` into ``arrays``."""
        self.envs = list(envs)
        self.arrays = arrays
        self._action_space: spaces.Space[Any] = self.envs[0].action_space

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Reset every environment with its own seed (None: go on with its generator)."""
        for row, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            obs, _ = env.reset(seed=seed, options=options)
            write_row(self.arrays.obs, row, obs)

    def step(self) -> None:
        """Take ``arrays.actions``; an episode that ends is followed at once by a reset.

        ``costs`` and ``margins`` are those of the step just taken, also at an episode's end; ``final_obs`` keeps its
        last observation.
        """
        arrays = self.arrays
        for row, env in enumerate(self.envs):
            obs, reward, terminated, truncated, _ = env.step(read_row(arrays.actions, row, self._action_space))
            arrays.rewards[row] = reward
            arrays.costs[row] = env.last_costs
            arrays.margins[row] = env.last_margins
            arrays.cost[row] = env.last_cost
            arrays.terminated[row] = terminated
            arrays.truncated[row] = truncated
            if terminated or truncated:
                write_row(arrays.final_obs, row, obs)
                obs, _ = env.reset()
            write_row(arrays.obs, row, obs)

    def get_states(self) -> list[State] | None:
        """The state of every environment; None if one has a layer whose state cannot be told."""
        return [get_state(env) for env in self.envs] if all(map(has_state, self.envs)) else None

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every environment to its state."""
        for env, state in zip(self.envs, states, strict=True):
            set_state(env, state)

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def check_alike(first: CostContract, other: CostContract) -> None:
    """Raise if two environments of one batch differ in spaces or constraints."""
    for what, a, b in (
        ("observation spaces", first.observation_space, other.observation_space),
        ("action spaces", first.action_space, other.action_space),
        ("constraints", first.constraints, other.constraints),
    ):
        if a != b:
            raise EnvContractError(f"All environments of a batch must have equal {what}; got {a} and {b}.")
