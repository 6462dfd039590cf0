"""Vector environments with costs: ``make_vec``, batched, in this process, or across worker processes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract, CostFn
from saferl.envs.batch import StepArrays, copy_batch, write_batch
from saferl.envs.block import ContractFactory, EnvBlock, check_alike
from saferl.envs.core import EnvFactory, find_spec, make
from saferl.envs.cores import usable_cores
from saferl.envs.spec import EnvSpec
from saferl.envs.state import State
from saferl.envs.workers import WorkerPool
from saferl.errors import ConfigError, UnknownNameError
from saferl.registry import load_object

Backend = Literal["auto", "batched", "reference", "sync", "process"]
BACKENDS: tuple[str, ...] = ("auto", "batched", "reference", "sync", "process")


class Driver(Protocol):
    """What steps the environments of a :class:`CostVectorEnv`, all at once."""

    arrays: StepArrays
    diverged: Any
    """Where the simulation diverged in the last step, bool (num_envs,); None if a driver raises an error instead."""

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Reset every environment with its own seed (None: go on with its generator) into ``arrays.obs``."""

    def step(self) -> None:
        """Take ``arrays.actions``, and write what came of it into ``arrays``."""

    def get_states(self) -> list[State] | None:
        """The state of every environment; None if one cannot be told."""

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every environment to its state."""

    def close(self) -> None:
        """Free everything."""


class Batch(Driver, Protocol):
    """A driver without single environments, which says itself what they would."""

    env_id: str
    constraints: ConstraintSet
    num_envs: int
    horizon: int | None

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""


class CostVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Many copies of one environment, stepped together.

    Gymnasium's vector interface with SAME_STEP autoreset. ``infos["costs"]`` is float64 of shape (num_envs,
    num_constraints), the costs of the step just taken, also at episode end; ``infos["margins"]``, of the same shape,
    how far each constraint was from being broken in it, > 0 where it was (:class:`~saferl.envs.batch.StepArrays`);
    ``infos["cost"]`` the env's own scalar (num_envs,). Where an episode ended (``infos["_final_obs"]``), that row of
    ``infos["final_obs"]`` is its last observation, while the returned observation already belongs to the next episode.
    ``infos["diverged"]`` is there only if a simulation of the batched backend diverged
    (:class:`~saferl.envs.batched.SimulationBatch`), and says which.
    """

    def __init__(self, factories: Sequence[ContractFactory], *, num_workers: int = 0) -> None:
        """Build the environments.

        Args:
            factories: One callable per environment; with workers they must pickle (cloudpickle is used).
            num_workers: Worker processes that share the environments evenly; 0 steps them in this process.
        """
        if not factories:
            raise ConfigError("num_envs must be at least 1; got 0.")
        first = factories[0]()
        num_envs = len(factories)
        self._describe(
            first.constraints,
            first.observation_space,
            first.action_space,
            num_envs,
            env_id=first.env_id,
            horizon=first.horizon,
            is_fixed_horizon=first.is_fixed_horizon,
            metadata=first.metadata,
            render_mode=first.render_mode,
        )
        self._envs: list[CostContract] = []
        layout = (first.observation_space, first.action_space, num_envs, len(self.constraints))
        if num_workers:
            first.close()
            self._driver_or_none: Driver | None = WorkerPool(factories, min(num_workers, num_envs), layout)
        else:
            self._envs = [first, *(factory() for factory in factories[1:])]
            for env in self._envs[1:]:
                check_alike(first, env)
            self._driver_or_none = EnvBlock(self._envs, StepArrays.allocate(*layout))

    def _describe(
        self,
        constraints: ConstraintSet,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        num_envs: int,
        *,
        env_id: str,
        horizon: int | None,
        is_fixed_horizon: bool,
        metadata: Mapping[str, Any],
        render_mode: str | None,
    ) -> None:
        self.constraints: ConstraintSet = constraints
        self.env_id, self.horizon, self.is_fixed_horizon = env_id, horizon, is_fixed_horizon
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every environment; an int seeds environment i with ``seed + i``."""
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if s is None else int(s) for s in seed]
        if len(seeds) != self.num_envs:
            raise ConfigError(f"One seed per environment is needed: {self.num_envs}; got {len(seeds)}.")
        self._driver.reset(seeds, options)
        return copy_batch(self._driver.arrays.obs), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment once.

        Raises:
            CostError: an environment gave a missing, NaN or infinite cost.
            EnvContractError: the actions do not have the shape of the action space, or a worker process died.
        """
        driver = self._driver
        arrays = driver.arrays
        write_batch(arrays.actions, actions)
        driver.step()
        ended = arrays.terminated | arrays.truncated
        infos: dict[str, Any] = {
            "costs": arrays.costs.copy(),
            "_costs": np.ones(self.num_envs, dtype=np.bool_),
            "margins": arrays.margins.copy(),
            "_margins": np.ones(self.num_envs, dtype=np.bool_),
            "cost": arrays.cost.copy(),
            "_cost": np.ones(self.num_envs, dtype=np.bool_),
        }
        if driver.diverged is not None and driver.diverged.any():
            infos["diverged"], infos["_diverged"] = driver.diverged.copy(), np.ones(self.num_envs, dtype=np.bool_)
        if ended.any():
            infos["final_obs"] = copy_batch(arrays.final_obs)
            infos["_final_obs"] = ended
        return (
            copy_batch(arrays.obs),
            arrays.rewards.copy(),
            arrays.terminated.copy(),
            arrays.truncated.copy(),
            infos,
        )

    def get_states(self) -> list[State] | None:
        """The state of every environment (:mod:`saferl.envs.state`); None if it cannot be told."""
        return self._driver.get_states()

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every environment to its state, of :meth:`get_states`."""
        if len(states) != self.num_envs:
            raise ConfigError(f"One state per environment is needed: {self.num_envs}; got {len(states)}.")
        self._driver.set_states(states)

    @property
    def envs(self) -> list[CostContract]:
        """The single environments of this process (none if workers hold them, or in the batched backend)."""
        return self._envs

    @property
    def _driver(self) -> Driver:
        if self._driver_or_none is None:
            raise ConfigError("This vector environment is closed; make a new one.")
        return self._driver_or_none

    def close_extras(self, **kwargs: Any) -> None:
        """End workers and threads, and close environments."""
        if self._driver_or_none is not None:
            self._driver_or_none.close()
        self._driver_or_none, self._envs = None, []


class BatchedVectorEnv(CostVectorEnv):
    """The same, around a :class:`Batch` (:mod:`saferl.envs.batched`): there are no single environments in it."""

    def __init__(self, batch: Batch, *, is_fixed_horizon: bool) -> None:
        """Wrap ``batch``."""
        self._describe(
            batch.constraints,
            batch.observation_space,
            batch.action_space,
            batch.num_envs,
            env_id=batch.env_id,
            horizon=batch.horizon,
            is_fixed_horizon=is_fixed_horizon,
            metadata={},
            render_mode=None,
        )
        self._envs = []
        self.batch = batch
        """What steps them all."""
        self._driver_or_none = batch


def make_vec(
    env_id: str | EnvFactory,
    num_envs: int = 1,
    *,
    backend: Backend = "auto",
    num_workers: int | None = None,
    budgets: Mapping[str, float] | None = None,
    constraints: ConstraintSet | None = None,
    cost: CostFn | str | None = None,
    max_episode_steps: int | None = None,
    **kwargs: Any,
) -> CostVectorEnv:
    """``num_envs`` copies of :func:`saferl.make`'s environment.

    Args:
        env_id: As for :func:`saferl.make`.
        num_envs: Number of copies, at least 1.
        backend: ``batched`` computes a whole batch at once (:mod:`saferl.envs.batched`), for every id of
            ``saferl list envs`` but the control tasks. ``reference`` takes the single environments, in worker processes
            where that pays off; ``sync`` takes them in this process, ``process`` in worker processes. ``auto`` is
            ``batched`` where there is such a version, else ``reference``. Started from a script, worker processes need
            the usual ``if __name__ == "__main__":`` guard.
        num_workers: Worker processes, or threads of ``batched`` (default: the usable cores, at most ``num_envs``).
            Results do not depend on it.
        budgets: As for :func:`saferl.make`.
        constraints: As for :func:`saferl.make`.
        cost: As for :func:`saferl.make`.
        max_episode_steps: As for :func:`saferl.make`.
        **kwargs: Arguments of the environment.

    Example:
        >>> envs = make_vec("SafetyHalfCheetahVelocity-v1", 2)
        >>> obs, _ = envs.reset(seed=0)
        >>> envs.step(envs.action_space.sample())[-1]["costs"].shape
        (2, 1)
        >>> envs.close()
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1; got {num_envs}.")
    if num_workers is not None and num_workers < 1:
        raise ConfigError(f"num_workers must be at least 1; got {num_workers}.")
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    spec = find_spec(env_id)
    if backend in ("auto", "batched"):
        reason = _why_not_batched(spec, cost, kwargs)
        if spec is not None and reason is None:
            chosen = spec.select(budgets) if constraints is None else constraints
            options = {"max_episode_steps": max_episode_steps, "num_threads": num_workers}
            batch = load_object(spec.batched)(num_envs=num_envs, constraints=chosen, **spec.kwargs, **options)
            is_fixed = spec.is_fixed_horizon
            return BatchedVectorEnv(batch, is_fixed_horizon=is_fixed)
        if backend == "batched":
            raise ConfigError(f"backend='batched' is not possible for {env_id!r}: {reason}. Take backend='auto'.")
    factory: Callable[[], CostContract] = functools.partial(
        make, env_id, budgets=budgets, constraints=constraints, cost=cost, max_episode_steps=max_episode_steps, **kwargs
    )
    if backend in ("auto", "reference"):
        backend = "process" if num_envs > 1 and spec is not None and spec.prefers_processes else "sync"
    workers = (num_workers or usable_cores()) if backend == "process" else 0
    return CostVectorEnv([factory] * num_envs, num_workers=workers)


def _why_not_batched(spec: EnvSpec | None, cost: CostFn | str | None, kwargs: Mapping[str, Any]) -> str | None:
    if spec is None:
        return "only the ids of 'saferl list envs' have a batched version"
    if not spec.batched:
        return "the control tasks have none"
    if cost is not None:
        return "a cost function is called by single environments"
    if any(value is not None for value in kwargs.values()):
        return f"the argument {next(iter(kwargs))!r} is for single environments"
    return None
