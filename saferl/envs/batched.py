"""The batched backend: many simulations of one task in one process, everything around the physics by array operations.

:class:`SimulationBatch` holds what all tasks have in common: checks of actions, seeds, time limits, costs and
margins in columns, divergence, and SAME_STEP autoreset. A task says how its simulations advance, what a step gave, and
how one begins anew.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding

from saferl.constraints import ConstraintSet
from saferl.envs.batch import StepArrays
from saferl.envs.simulations import Simulations
from saferl.envs.state import State
from saferl.errors import EnvContractError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class SimulationBatch(ABC):
    """Drives ``num_envs`` simulations of one task, as :class:`~saferl.envs.block.EnvBlock` drives single envs.

    A simulation that diverges is reported by a warning with its number; its episode ends there, truncated, with the
    observation of the step before, no reward, and every cost at 1, the most that a step can cost; so is every margin.
    The others go on.
    """

    simulations: Simulations
    substeps: int
    """Steps of MuJoCo per step of an env."""
    needs_forward: bool
    """Whether a step ends with a forward pass."""

    def __init__(
        self,
        env_id: str,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        constraints: ConstraintSet,
        *,
        num_envs: int,
        horizon: int | None,
    ) -> None:
        """Lay out the arrays.

        Args:
            env_id: For messages.
            observation_space: Of one env.
            action_space: Of one env.
            constraints: Whose costs fill the columns of ``arrays.costs``.
            num_envs: Envs in the batch.
            horizon: Steps after which an episode is truncated; None for no limit.
        """
        self.env_id, self.constraints = env_id, constraints
        self.observation_space, self.action_space = observation_space, action_space
        self.num_envs, self.horizon = num_envs, horizon
        self.arrays = StepArrays.allocate(observation_space, action_space, num_envs, len(constraints))
        self.diverged: Mask = np.zeros(num_envs, dtype=np.bool_)
        """Where the simulation diverged in the step just taken, (num_envs,)."""
        self.steps = np.zeros(num_envs, dtype=np.int64)
        """Steps taken in the open episodes, (num_envs,)."""
        self.generators: list[np.random.Generator | None] = [None] * num_envs
        self.generator_seeds: list[int | None] = [None] * num_envs
        self._has_begun = np.zeros(num_envs, dtype=np.bool_)

    @abstractmethod
    def _advance(self, actions: Array) -> None:
        """Advance all simulations by one step with ``actions`` (num_envs, action_size), and read their fields."""

    @abstractmethod
    def _outcome(self) -> tuple[Array, dict[str, Any], dict[str, Array], Mask, Mask]:
        """What came of the step just taken, all (num_envs,).

        Returns:
            Rewards, costs by name (``cost`` among them), margins of those that have one, what terminated, what was cut.
        """

    @abstractmethod
    def _observe(self, rows: Any) -> Array:
        """Observations of ``rows`` (an index), (num_rows, observation_size)."""

    @abstractmethod
    def _begin(self, row: int, seed: int | None) -> None:
        """Bring simulation ``row`` to the start of an episode, of ``seed`` or of the row's generator."""

    @abstractmethod
    def _get_state(self, row: int) -> State:
        """What :func:`saferl.envs.state.get_state` gives for the single env in the state of ``row``."""

    @abstractmethod
    def _set_state(self, row: int, state: State) -> None:
        """Bring ``row`` to a state of :meth:`_get_state`."""

    def mocap_targets(self) -> Array | None:
        """Where mocap bodies are put before each substep of a step, (num_envs, substeps, 3); None if none are."""
        return None

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Begin an episode everywhere, each with its own seed (None: go on with its generator)."""
        for row, seed in enumerate(seeds):
            self._restart(row, seed)
        self.steps[:] = 0
        self._has_begun[:] = True
        self.arrays.obs[""][:] = self._observe(slice(None))

    def _restart(self, row: int, seed: int | None) -> None:
        if seed is not None or self.generators[row] is None:
            self.generators[row], self.generator_seeds[row] = seeding.np_random(seed)
        self._begin(row, seed)
        self.simulations.read([row])
        self.steps[row] = 0

    def step(self) -> None:
        """Take ``arrays.actions``; an episode that ends is followed at once by the next.

        Raises:
            EnvContractError: an action is not finite or outside the action space; nothing has moved then.
            ResetNeeded: there was no reset yet.
        """
        arrays = self.arrays
        if not self._has_begun.all():
            from gymnasium.error import ResetNeeded

            raise ResetNeeded(f"{self.env_id}: call reset before step.")
        self._check_actions(arrays.actions[""])
        self._advance(arrays.actions[""])
        self.diverged = self.simulations.diverged()
        if self.diverged.any():
            self._report_divergence()
        self.steps += 1
        rewards, costs, margins, terminated, truncated = self._outcome()
        if self.horizon is not None:
            truncated |= self.steps >= self.horizon
        arrays.rewards[:] = rewards
        for column, name in enumerate(self.constraints.names):
            arrays.costs[:, column] = costs[name]
            arrays.margins[:, column] = margins.get(name, costs[name])
        arrays.cost[:] = costs["cost"]
        if self.diverged.any():
            arrays.rewards[self.diverged], arrays.cost[self.diverged] = 0.0, 1.0
            arrays.costs[self.diverged], arrays.margins[self.diverged] = 1.0, 1.0
            terminated[self.diverged], truncated[self.diverged] = False, True
        arrays.terminated[:], arrays.truncated[:] = terminated, truncated
        self._end_episodes(self._observe(slice(None)), np.flatnonzero(terminated | truncated))

    def _end_episodes(self, obs: Array, rows: npt.NDArray[np.int64]) -> None:
        arrays = self.arrays
        if len(rows):
            arrays.final_obs[""][rows] = np.where(self.diverged[rows, None], arrays.obs[""][rows], obs[rows])
            for row in rows:
                self._restart(int(row), None)
            obs[rows] = self._observe(rows)
        arrays.obs[""][:] = obs

    def _check_actions(self, actions: Array) -> None:
        space = self.action_space
        fits = (actions >= space.low) & (actions <= space.high)
        if fits.all():
            return
        row, entry = np.argwhere(~fits)[0]
        value = actions[row, entry]
        what = "inside the action space" if np.isfinite(value) else "finite"
        raise EnvContractError(
            f"{self.env_id}: actions must be {what}; entry {entry} of environment {row} must be in "
            f"[{space.low[entry]:g}, {space.high[entry]:g}]; got {value}. Clip actions to the action space."
        )

    def _report_divergence(self) -> None:
        for row in np.flatnonzero(self.diverged):
            warnings.warn(
                f"{self.env_id}: the simulation of environment {row} diverged after {self.steps[row]} steps. Its "
                "episode ends here with every cost at 1, and it was reset; the others go on.",
                RuntimeWarning,
                stacklevel=4,
            )
            # What follows then reads a state that means something; step overrides what it gives.
            self._restart(int(row), None)

    def get_states(self) -> list[State]:
        """The state of every env, as :func:`saferl.envs.state.get_state` gives it for the single env."""
        return [self._get_state(row) for row in range(self.num_envs)]

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every env to its state, of :meth:`get_states` or of single envs."""
        for row, state in enumerate(states):
            self._set_state(row, state)
            self.simulations.read([row])
        self._has_begun[:] = True
        self.arrays.obs[""][:] = self._observe(slice(None))

    def close(self) -> None:
        """End the threads."""
        self.simulations.close()
