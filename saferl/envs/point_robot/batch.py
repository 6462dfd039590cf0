"""Many PointRobots stepped at once by array operations; seeds and states are those of the single env."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batch import StepArrays
from saferl.envs.point_robot import dynamics
from saferl.envs.point_robot.env import PointRobot, action_space, checked_time_limit, observation_space, start_of
from saferl.envs.state import State, generator_state, new_generator, type_name
from saferl.errors import ConfigError, EnvContractError

_LAYERS = [type_name(CostContract), type_name(PointRobot)]


class PointRobotBatch:
    """Drives ``num_envs`` copies of :class:`~saferl.envs.point_robot.env.PointRobot` with random starts."""

    diverged = None

    def __init__(
        self,
        *,
        num_envs: int,
        constraints: ConstraintSet,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Prepare ``num_envs`` envs; ``num_threads`` changes nothing here.

        Raises:
            ConfigError: no env, or a time limit below 1.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1; got {num_envs}.")
        self.env_id, self.constraints, self.num_envs = "PointRobot-v0", constraints, num_envs
        self.observation_space, self.action_space = observation_space(), action_space()
        self._limit = checked_time_limit(max_episode_steps)
        self.horizon: int | None = self._limit
        self.arrays = StepArrays.allocate(self.observation_space, self.action_space, num_envs, len(constraints))
        self.states = np.zeros((num_envs, 4))
        """(x, y, v, theta) of every env."""
        self.steps = np.full(num_envs, -1, dtype=np.int64)
        """Steps taken in the open episodes, (num_envs,); -1 before the first reset."""
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Begin an episode everywhere, each with its own seed (None: go on with its generator)."""
        given = start_of(options)
        for row, seed in enumerate(seeds):
            if seed is not None or self._generators[row] is None:
                self._generators[row], self._seeds[row] = seeding.np_random(seed)
            self._begin(row, given)
        self.arrays.obs[""][:] = dynamics.observe(self.states)

    def step(self) -> None:
        """Take ``arrays.actions``; an episode that ends is followed at once by the next.

        Raises:
            EnvContractError: an action is not finite; nothing has moved then.
            ResetNeeded: there was no reset yet.
        """
        arrays = self.arrays
        if (self.steps < 0).any():
            raise ResetNeeded(f"{self.env_id}: call reset before step.")
        actions = arrays.actions[""]
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
            raise EnvContractError(
                f"{self.env_id}: actions must be finite; environment {row} got {actions[row]}. Put a shield before it."
            )
        following = dynamics.step(self.states, actions)
        self.steps += 1
        h = dynamics.margin(following)
        arrays.rewards[:] = dynamics.reward(self.states, following)
        arrays.cost[:] = h > 0.0
        arrays.costs[:], arrays.margins[:] = arrays.cost[:, None], h[:, None]
        arrays.terminated[:] = dynamics.is_at_goal(following) | dynamics.is_outside(following)
        arrays.truncated[:] = self.steps >= self._limit
        self.states = following
        obs = dynamics.observe(following)
        ended = np.flatnonzero(arrays.terminated | arrays.truncated)
        if len(ended):
            arrays.final_obs[""][ended] = obs[ended]
            for row in ended:
                self._begin(int(row), None)
            obs[ended] = dynamics.observe(self.states[ended])
        arrays.obs[""][:] = obs

    def get_states(self) -> list[State]:
        """The state of every env, as :func:`saferl.envs.state.get_state` gives it for the single one."""
        return [self._get_state(row) for row in range(self.num_envs)]

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every env to its state, of :meth:`get_states` or of single envs.

        Raises:
            EnvContractError: the state is of an env of other layers.
        """
        for row, state in enumerate(states):
            names = [layer["type"] for layer in state["layers"]]
            if names != _LAYERS:
                raise EnvContractError(f"The state must be of an env made of {_LAYERS}; got one made of {names}.")
            contract, env = (layer["state"] for layer in state["layers"])
            self.arrays.set_contract_state(row, contract)
            self.states[row], self.steps[row] = env["state"], env["step"]
            self._generators[row], self._seeds[row] = new_generator(env["generator"]), env["generator_seed"]
        self.arrays.obs[""][:] = dynamics.observe(self.states)

    def close(self) -> None:
        """Nothing to free."""

    def _begin(self, row: int, given: npt.NDArray[np.float64] | None) -> None:
        generator = self._generators[row]
        assert generator is not None
        self.states[row] = dynamics.random_starts(1, generator)[0] if given is None else given
        self.steps[row] = 0

    def _get_state(self, row: int) -> State:
        generator = self._generators[row]
        if generator is None or self.steps[row] < 0:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        env = {
            "state": self.states[row].copy(),
            "step": int(self.steps[row]),
            "generator": generator_state(generator),
            "generator_seed": self._seeds[row],
        }
        contract = self.arrays.contract_state(row)
        return {"layers": [{"type": name, "state": part} for name, part in zip(_LAYERS, (contract, env), strict=True)]}
