"""From what was asked for to environments, a solver's model on them, and the content of ``run.json``."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import nn

from saferl.config import from_mapping
from saferl.constraints import ConstraintSet
from saferl.deploy.channels import split_channels
from saferl.deploy.sources import ShieldSource, find_shield
from saferl.envs.adapters import CostFn
from saferl.envs.core import EnvFactory, make
from saferl.envs.vector import make_vec
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.solvers import SOLVERS
from saferl.training.checkpoint import new_run_id
from saferl.training.settings import RunSettings
from saferl.training.shielded import ShieldedVecEnv

SCHEMA = "saferl.run/1"
LABELS = {"ppo": "PPO (unconstrained)", "ppo_lag": "PPO-Lagrangian", "cat": "CaT", "bc_safe": "BC-Safe"}


@dataclass(frozen=True)
class Job:
    """What a run is: the arguments of :func:`saferl.train` that decide its result."""

    solver: str
    env_id: str | EnvFactory
    steps: int
    seed: int = 0
    budgets: Mapping[str, float] | None = None
    train_budgets: Mapping[str, float] | None = None
    constraints: ConstraintSet | None = None
    cost: CostFn | str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: RunSettings = field(default_factory=RunSettings)
    device: str = "auto"
    init_from: str | Path | None = None
    shield: ShieldSource | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without building anything."""
        if self.steps < 1:
            raise ConfigError(f"The number of steps must be at least 1; got {self.steps}.")
        if self.seed < 0:
            raise ConfigError(f"The seed must be at least 0; got {self.seed}.")
        check_device(self.device)


def check_device(device: str) -> None:
    """Raise if torch cannot compute on ``device``."""
    if device == "auto":
        return
    try:
        kind = th.device(device).type
        th.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"The device must be auto, cpu, cuda or another that torch has here; got {device!r}: {reason} "
            "Use --device cpu."
        ) from error
    if kind == "meta":
        raise ConfigError("The device must hold numbers; got 'meta'. Use --device cpu.")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` threads of torch: their number changes the last bits of sums."""
    before = th.get_num_threads()
    th.set_num_threads(count)
    try:
        yield
    finally:
        th.set_num_threads(before)


def build_env(job: Job) -> CostVecEnv:
    """The training environments.

    Raises:
        UnknownNameError: an unknown environment or cost.
        ConfigError: spaces that no solver can train on.
    """
    if job.shield is not None:
        env: CostVecEnv = _shielded(job, job.shield)
    else:
        env = CostVecEnv(
            make_vec(
                job.env_id,
                job.settings.num_envs,
                backend=job.settings.backend,
                budgets=job.budgets,
                constraints=job.constraints,
                cost=job.cost,
                **job.env_kwargs,
            )
        )
    try:
        _refuse_shifted_spaces(env)
        env.constraints.with_budgets(dict(job.train_budgets or {}))
    except BaseException:
        env.close()
        raise
    return env


def _shielded(job: Job, source: ShieldSource) -> ShieldedVecEnv:
    """The training environments behind a shield; budgets for its interventions are not the environment's."""
    budgets, constraints, channels = split_channels(job.budgets, job.constraints)
    own = {"budgets": budgets, "constraints": constraints, "cost": job.cost, **job.env_kwargs}
    probe = make(job.env_id, **own)
    shield = find_shield(source, probe)
    probe.close()
    settings = job.settings
    backend = settings.backend
    if backend == "auto" and (settings.shield_safe_reset or "privileged state" in shield.spec().needs):
        backend = "sync"  # what the shield needs is asked of single environments
    venv = make_vec(job.env_id, settings.num_envs, backend=backend, **own)
    try:
        return ShieldedVecEnv(
            venv, shield, budgets=channels, store=settings.shield_store, safe_reset=settings.shield_safe_reset
        )
    except BaseException:
        venv.close()
        raise


def build_model(job: Job, env: CostVecEnv) -> Any:
    """The solver's model on ``env``, normalised as the settings say, seeded and not yet trained."""
    algorithm_class = SOLVERS.load(job.solver)
    config = from_mapping(algorithm_class.config_class, job.options)
    seeds = np.random.SeedSequence(job.seed).generate_state(2)
    settings = job.settings
    try:
        model = algorithm_class(
            _policy_name(env.observation_space),
            _normalised(env, settings, config),
            config=config,
            budgets=job.train_budgets,
            policy_kwargs={
                "net_arch": list(settings.net_arch),
                "activation_fn": getattr(nn, settings.activation),
                "log_std_init": settings.log_std_init,
            },
            seed=int(seeds[0] % 2**31),
            device=job.device,
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        # Stable-Baselines3 and torch check spaces and options by plain assertions.
        raise ConfigError(f"{job.solver} cannot train on {env.env_id} with these options: {error}") from error
    # Training episodes are seeded apart from the evaluation's fixed list.
    model.env.seed(int(seeds[1] % 9_000_000))
    return model


def _normalised(env: CostVecEnv, settings: RunSettings, config: Any) -> VecEnv:
    keys = _float_keys(env.observation_space)
    norm_obs = settings.normalize_observations and bool(keys)
    if not norm_obs and not settings.normalize_rewards:
        return env
    is_dict = isinstance(env.observation_space, spaces.Dict)
    return VecNormalize(
        env,
        norm_obs=norm_obs,
        norm_reward=settings.normalize_rewards,
        gamma=config.gamma,
        norm_obs_keys=keys if is_dict and norm_obs else None,
    )


def _float_keys(space: spaces.Space[Any]) -> list[str]:
    """Parts of an observation that running statistics make sense for: float boxes (not images, not categories)."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return [k for k, s in parts.items() if isinstance(s, spaces.Box) and np.issubdtype(s.dtype, np.floating)]


def _refuse_shifted_spaces(env: CostVecEnv) -> None:
    """Stable-Baselines3's networks count categories from 0 and would send other actions than the env means."""
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
            if np.any(getattr(part, "start", 0)):
                raise ConfigError(
                    f"Discrete {what} must start at 0 for training; {env.env_id} has {part}. Shift them with "
                    "gymnasium.wrappers.TransformObservation or TransformAction."
                )


def _policy_name(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def _import_path(target: Any) -> str | None:
    """``package.module:name`` of a function that can be imported again, else None."""
    if target is None or isinstance(target, str):
        return target
    name = getattr(target, "__qualname__", "<")
    # What was defined in a script or a notebook cannot be imported from elsewhere.
    return None if "<" in name or target.__module__ == "__main__" else f"{target.__module__}:{name}"


def describe_run(job: Job, env: CostVecEnv, model: Any) -> dict[str, Any]:
    """The content of ``run.json`` before learning starts.

    Raises:
        ConfigError: arguments of the environment that JSON cannot hold, so that the run could not be repeated.
    """
    config = asdict(model.config)
    try:
        env_kwargs = json.loads(json.dumps(dict(job.env_kwargs), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The arguments of the environment must be plain JSON values, so that the run can be repeated; got "
            f"{dict(job.env_kwargs)!r} ({error}). Give a factory that builds the environment from plain values."
        ) from error
    record = {
        "schema": SCHEMA,
        "status": "running",
        "command": shlex.join(["saferl", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("saferl", "__main__") else None,
        "solver": job.solver,
        "label": LABELS.get(job.solver, job.solver),
        "env": job.env_id if isinstance(job.env_id, str) else _import_path(job.env_id),
        "env_kwargs": env_kwargs,
        "cost": _import_path(job.cost),
        "seed": job.seed,
        "steps": job.steps,
        "constraints": env.constraints.to_list(),
        "trained_for": getattr(model, "trained_for", "expected costs"),
        "train_budgets": getattr(model, "train_budgets", {c.name: c.budget for c in model.constraints}),
        "discounts": {
            "actor_and_reward_critic": config["gamma"],
            "cost_critic": config.get("cost_gamma"),
            "dual": {c.name: c.gamma for c in model.constraints} if "multiplier_lr" in config else None,
        },
        "config": config,
        "settings": asdict(job.settings),
        "device": job.device,
        "init_from": None,
        "versions": versions(),
        "machine": machine(model),
    }
    return {**record, "run_id": new_run_id(record, time.time())}


def machine(model: Any) -> dict[str, Any]:
    """What the last bits of a result depend on besides versions."""
    return {
        "platform": platform.platform(),
        "cpu_capability": th.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": th.get_num_threads(),
        "device": str(getattr(model, "device", "cpu")),
    }
