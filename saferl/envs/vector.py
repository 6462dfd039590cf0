"""Vector environments with costs: ``make_vec``, in this process or across worker processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract, CostFn
from saferl.envs.batch import StepArrays, copy_batch, write_batch
from saferl.envs.block import ContractFactory, EnvBlock, check_alike
from saferl.envs.core import EnvFactory, find_spec, make
from saferl.envs.state import State
from saferl.envs.workers import WorkerPool
from saferl.errors import ConfigError, UnknownNameError

Backend = Literal["auto", "sync", "process"]
BACKENDS: tuple[str, ...] = ("auto", "sync", "process")


class CostVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Many copies of one environment, stepped together.

    Gymnasium's vector interface with SAME_STEP autoreset. ``infos["costs"]`` is float64 of shape
    (num_envs, num_constraints), the costs of the step just taken, also at episode end; ``infos["cost"]`` the env's own
    scalar (num_envs,). Where an episode ended (``infos["_final_obs"]``), that row of ``infos["final_obs"]`` is its last
    observation, while the returned observation already belongs to the next episode.
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
        self.constraints: ConstraintSet = first.constraints
        self.env_id = first.env_id
        self.horizon = first.horizon
        self.is_fixed_horizon = first.is_fixed_horizon
        self.num_envs = len(factories)
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = first.render_mode
        self._pool: WorkerPool | None = None
        self._block: EnvBlock | None = None
        layout = (first.observation_space, first.action_space, self.num_envs, len(self.constraints))
        if num_workers:
            first.close()
            self._pool = WorkerPool(factories, min(num_workers, self.num_envs), layout)
            self._arrays = self._pool.arrays
        else:
            envs = [first, *(factory() for factory in factories[1:])]
            for env in envs[1:]:
                check_alike(first, env)
            self._arrays = StepArrays.allocate(*layout)
            self._block = EnvBlock(envs, self._arrays)

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
        return copy_batch(self._arrays.obs), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment once.

        Raises:
            CostError: an environment gave a missing, NaN or infinite cost.
            EnvContractError: the actions do not have the shape of the action space, or a worker process died.
        """
        arrays, driver = self._arrays, self._driver
        write_batch(arrays.actions, actions)
        driver.step()
        ended = arrays.terminated | arrays.truncated
        infos: dict[str, Any] = {
            "costs": arrays.costs.copy(),
            "_costs": np.ones(self.num_envs, dtype=np.bool_),
            "cost": arrays.cost.copy(),
            "_cost": np.ones(self.num_envs, dtype=np.bool_),
        }
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
        """The environments of this process (none when workers hold them)."""
        return self._block.envs if self._block is not None else []

    @property
    def _driver(self) -> EnvBlock | WorkerPool:
        driver = self._pool or self._block
        if driver is None:
            raise ConfigError("This vector environment is closed; make a new one.")
        return driver

    def close_extras(self, **kwargs: Any) -> None:
        """End workers and close environments."""
        for driver in (self._pool, self._block):
            if driver is not None:
                driver.close()
        self._pool = self._block = None


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
        backend: ``sync`` steps them in this process, ``process`` in worker processes. ``auto`` takes processes for
            several copies of a slow environment (Safety-Gymnasium's navigation), else ``sync``. Started from a script,
            worker processes need the usual ``if __name__ == "__main__":`` guard.
        num_workers: Worker processes (default: the number of usable cores, at most ``num_envs``).
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
    factory: Callable[[], CostContract] = functools.partial(
        make, env_id, budgets=budgets, constraints=constraints, cost=cost, max_episode_steps=max_episode_steps, **kwargs
    )
    if backend == "auto":
        spec = find_spec(env_id)
        backend = "process" if num_envs > 1 and spec is not None and spec.prefers_processes else "sync"
    workers = (num_workers or _usable_cores()) if backend == "process" else 0
    return CostVectorEnv([factory] * num_envs, num_workers=workers)


def _usable_cores() -> int:
    """Cores that this process may use (macOS and Windows tell only how many there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
