"""Many environments of one finite CMDP stepped at once by array operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batch import StepArrays
from saferl.envs.state import State, generator_state, new_generator, type_name
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.env import TabularEnv, checked_time_limit, observation_space_of
from saferl.envs.tabular.instances import INSTANCES
from saferl.envs.tabular.sampling import StateSampler
from saferl.envs.vector import BatchedVectorEnv
from saferl.errors import ConfigError, EnvContractError

Indices = npt.NDArray[np.int64]
_LAYERS = [type_name(CostContract), type_name(TabularEnv)]


class TabularBatch:
    """Drives ``num_envs`` copies of :class:`~saferl.envs.tabular.env.TabularEnv`; equal seeds give equal episodes.

    Every environment has its own generator, whose numbers are drawn ahead in blocks and taken in the order in which the
    single environment draws them. States are those of the single environment inside a
    :class:`~saferl.envs.CostContract`, as ``saferl.make`` builds it from an id.
    """

    diverged = None

    def __init__(
        self,
        cmdp: TabularCMDP,
        num_envs: int,
        constraints: ConstraintSet | None = None,
        *,
        max_episode_steps: int | None = None,
        env_id: str = "TabularCMDP-v0",
    ) -> None:
        """Prepare ``num_envs`` environments.

        Args:
            cmdp: What is sampled.
            num_envs: Environments in the batch, at least 1.
            constraints: Whose costs fill the columns of ``arrays.costs``; all of the CMDP's if None.
            max_episode_steps: As for the single environment.
            env_id: For messages.

        Raises:
            ConfigError: no environment, or a time limit below 1.
            UnknownNameError: a constraint on a cost that the CMDP does not have.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1; got {num_envs}.")
        own = cmdp.constraints
        self.env_id, self.constraints = env_id, own if constraints is None else constraints
        self.cmdp, self.num_envs = cmdp, num_envs
        self._columns = [cmdp.names.index(own[name].name) for name in self.constraints.names]
        self.observation_space = observation_space_of(cmdp)
        self.action_space = spaces.Discrete(cmdp.num_actions)
        self.arrays = StepArrays.allocate(self.observation_space, self.action_space, num_envs, len(self.constraints))
        self.horizon = checked_time_limit(cmdp, max_episode_steps)
        """Steps after which an episode is truncated."""
        self.states: Indices = np.zeros(num_envs, dtype=np.int64)
        """Where every environment is, (num_envs,)."""
        self.steps: Indices = np.full(num_envs, -1, dtype=np.int64)
        """Steps taken in the open episodes, (num_envs,); -1 before the first reset."""
        self._sampler, self._numbers = StateSampler(cmdp), UniformLanes(num_envs)

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Begin an episode everywhere, each with its own seed (None: go on with its generator)."""
        for row, seed in enumerate(seeds):
            self._numbers.seed(row, seed)
        self._begin(np.arange(self.num_envs))
        self.arrays.obs[""][:] = self._observations()

    def step(self) -> None:
        """Take ``arrays.actions``; an episode that ends is followed at once by the next.

        Raises:
            EnvContractError: an action that does not exist; nothing has moved then.
            ResetNeeded: there was no reset yet.
        """
        arrays, cmdp = self.arrays, self.cmdp
        if (self.steps < 0).any():
            raise ResetNeeded(f"{self.env_id}: call reset before step.")
        actions = self._checked(arrays.actions[""])
        here = (self.states, actions) if cmdp.horizon is None else (self.steps, self.states, actions)
        costs = cmdp.costs[here]
        arrays.rewards[:], arrays.costs[:] = cmdp.rewards[here], costs[:, self._columns]
        arrays.cost[:] = costs.sum(axis=1)
        np.maximum(arrays.costs, 0.0, out=arrays.margins)
        following = self._sampler.next(self.steps, self.states, actions, self._numbers.draw(np.arange(self.num_envs)))
        self.steps += 1
        terminated = self.steps == (cmdp.horizon or -1)
        self.states[:] = np.where(terminated, self.states, following)
        truncated = np.zeros_like(terminated) if self.horizon is None else (self.steps >= self.horizon) & ~terminated
        arrays.terminated[:], arrays.truncated[:] = terminated, truncated
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            arrays.final_obs[""][ended] = self._observations()[ended]
            self._begin(ended)
        arrays.obs[""][:] = self._observations()

    def get_states(self) -> list[State]:
        """The state of every environment, as :func:`saferl.envs.state.get_state` gives it for the single one."""
        return [self._get_state(row) for row in range(self.num_envs)]

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every environment to its state, of :meth:`get_states` or of single environments.

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
            self._numbers.take_over(row, new_generator(env["generator"]), env["generator_seed"])
        self.arrays.obs[""][:] = self._observations()

    def close(self) -> None:
        """Nothing to free."""

    def _begin(self, rows: Indices) -> None:
        self.states[rows] = self._sampler.first(self._numbers.draw(rows))
        self.steps[rows] = 0

    def _observations(self) -> Indices:
        if self.cmdp.horizon is None:
            return self.states
        return np.asarray(np.minimum(self.steps, self.cmdp.horizon - 1) * self.cmdp.num_states + self.states)

    def _checked(self, actions: Any) -> Indices:
        fits = (actions >= 0) & (actions < self.cmdp.num_actions)
        if not fits.all():
            row = int(np.flatnonzero(~fits)[0])
            raise EnvContractError(
                f"{self.env_id}: an action must be a whole number from 0 to {self.cmdp.num_actions - 1}; environment "
                f"{row} got {actions[row]}."
            )
        return np.asarray(actions)

    def _get_state(self, row: int) -> State:
        if self.steps[row] < 0:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        generator, seed = self._numbers.generator(row)
        env = {
            "state": int(self.states[row]),
            "step": int(self.steps[row]),
            "generator": generator_state(generator),
            "generator_seed": seed,
        }
        contract = self.arrays.contract_state(row)
        return {"layers": [{"type": name, "state": part} for name, part in zip(_LAYERS, (contract, env), strict=True)]}


class UniformLanes:
    """Uniform numbers in [0, 1) from one generator per lane, each in the order of that generator's own draws."""

    _BLOCK = 256

    def __init__(self, num_lanes: int) -> None:
        """Begin without generators."""
        self._generators: list[np.random.Generator | None] = [None] * num_lanes
        self._seeds: list[int | None] = [None] * num_lanes
        self._before: list[State | None] = [None] * num_lanes
        self._numbers = np.zeros((num_lanes, self._BLOCK))
        self._taken: Indices = np.full(num_lanes, self._BLOCK, dtype=np.int64)

    def seed(self, lane: int, seed: int | None) -> None:
        """Begin a new generator; with None, go on with the lane's own if it has one."""
        if seed is not None or self._generators[lane] is None:
            self.take_over(lane, *seeding.np_random(seed))

    def take_over(self, lane: int, generator: np.random.Generator, seed: int | None) -> None:
        """Draw from ``generator`` from now on."""
        self._generators[lane], self._seeds[lane] = generator, seed
        self._before[lane] = None
        self._taken[lane] = self._BLOCK

    def draw(self, lanes: Indices) -> npt.NDArray[np.float64]:
        """The next number of each of ``lanes``."""
        for lane in lanes[self._taken[lanes] == self._BLOCK]:
            generator = self._generators[lane]
            assert generator is not None
            self._before[lane] = generator_state(generator)
            generator.random(out=self._numbers[lane])
            self._taken[lane] = 0
        drawn = self._numbers[lanes, self._taken[lanes]]
        self._taken[lanes] += 1
        return drawn

    def generator(self, lane: int) -> tuple[np.random.Generator, int | None]:
        """A generator that gives the numbers that the lane gives next, and the seed of the lane's."""
        before, generator = self._before[lane], self._generators[lane]
        assert generator is not None
        if before is None:
            return generator, self._seeds[lane]
        copy = new_generator(before)
        copy.random(int(self._taken[lane]))
        return copy, self._seeds[lane]


def make_tabular_batch(
    instance: str,
    *,
    num_envs: int,
    constraints: ConstraintSet,
    max_episode_steps: int | None = None,
    num_threads: int | None = None,
) -> TabularBatch:
    """The batch of a name in :data:`~saferl.envs.tabular.instances.INSTANCES`; ``num_threads`` changes nothing here."""
    cmdp = INSTANCES.load(instance)()
    return TabularBatch(cmdp, num_envs, constraints, max_episode_steps=max_episode_steps)


def make_tabular_vec(cmdp: TabularCMDP, num_envs: int = 1, *, max_episode_steps: int | None = None) -> BatchedVectorEnv:
    """``num_envs`` environments of a CMDP of one's own, stepped at once.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> envs = make_tabular_vec(paradox_a(), 3)
        >>> _ = envs.reset(seed=0)
        >>> envs.step([0, 0, 1])[-1]["costs"][:, 0]
        array([1., 1., 0.])
    """
    return BatchedVectorEnv(TabularBatch(cmdp, num_envs, max_episode_steps=max_episode_steps), is_fixed_horizon=True)
