"""``train``: a solver, an environment and a seed give a run folder.

```
run.json         everything needed to repeat the run, and what came of it
progress.csv     the log, one row per iteration (also as TensorBoard events)
checkpoint/      the newest two checkpoints, each a loadable artefact with the optimiser's state
artefact/        the last iterate
artefact-best/   the best policy by validation: feasible first, then return
```
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import nn

from saferl.config import from_mapping
from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostFn
from saferl.envs.core import EnvFactory
from saferl.envs.vector import make_vec
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions
from saferl.policy.artefact import save_artefact
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.solvers import SOLVERS
from saferl.storage import atomic_folder, prepare_output, write_json
from saferl.training.callbacks import BestArtefact, Checkpoints, IterationCosts, ProgressReporter
from saferl.training.settings import RunSettings

SCHEMA = "saferl.run/1"
LABELS = {"ppo": "PPO (unconstrained)", "ppo_lag": "PPO-Lagrangian"}
Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a training run left."""

    folder: Path
    """The run folder."""
    steps: int
    """Environment steps taken."""
    seconds: float
    """Wall-clock time of learning, validation included."""
    validation_seconds: float
    """Of that, time spent on choosing ``artefact-best``."""
    model: Any
    """The trained Stable-Baselines3 algorithm (its environments are closed)."""

    @property
    def steps_per_second(self) -> float:
        """Training throughput: steps over the time of learning without validation."""
        return self.steps / max(1e-9, self.seconds - self.validation_seconds)


def train(
    solver: str,
    env_id: str | EnvFactory,
    *,
    steps: int,
    out: str | Path,
    seed: int = 0,
    budgets: Mapping[str, float] | None = None,
    train_budgets: Mapping[str, float] | None = None,
    constraints: ConstraintSet | None = None,
    cost: CostFn | str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    device: str = "auto",
    progress: Report | None = None,
) -> TrainResult:
    """Train and write a run folder.

    Args:
        solver: Name of a solver (``saferl list solvers``).
        env_id: As for :func:`saferl.make`.
        steps: Environment steps, over all environments; rounded up to whole rollouts.
        out: New folder; one that holds files is refused and left as it is.
        seed: Seed of everything random in the run.
        budgets: What must hold; the environment's default constraints if None.
        train_budgets: Budgets to train at where they are tighter than those that must hold.
        constraints: Full constraints instead of ``budgets``.
        cost: Cost function (or its import path) for an environment that reports none.
        env_kwargs: More arguments of the environment.
        options: Options of the solver by name.
        settings: Options of the run.
        device: torch device.
        progress: Called once per rollout with the steps done and recent means of return and costs.

    Raises:
        UnknownNameError: an unknown solver, environment, option or cost.
        RunFolderError: ``out`` cannot be written or holds files.
    """
    if steps < 1:
        raise ConfigError(f"The number of steps must be at least 1; got {steps}.")
    if seed < 0:
        raise ConfigError(f"The seed must be at least 0; got {seed}.")
    settings = settings or RunSettings()
    algorithm_class = SOLVERS.load(solver)
    config = from_mapping(algorithm_class.config_class, options or {})
    env_kwargs = dict(env_kwargs or {})
    seeds = np.random.SeedSequence(seed).generate_state(2)
    venv = make_vec(
        env_id,
        settings.num_envs,
        backend=settings.backend,
        budgets=budgets,
        constraints=constraints,
        cost=cost,
        **env_kwargs,
    )
    env = CostVecEnv(venv)
    threads = th.get_num_threads()
    try:
        _refuse_shifted_spaces(env)
        must_hold = env.constraints
        must_hold.with_budgets(dict(train_budgets or {}))
        folder = prepare_output(Path(out), what="a training run")
        th.set_num_threads(settings.torch_threads or 1)
        try:
            model = algorithm_class(
                _policy_name(env.observation_space),
                _normalised(env, settings, config),
                config=config,
                budgets=train_budgets,
                policy_kwargs={
                    "net_arch": list(settings.net_arch),
                    "activation_fn": getattr(nn, settings.activation),
                    "log_std_init": settings.log_std_init,
                },
                seed=int(seeds[0] % 2**31),
                device=device,
            )
        except (AssertionError, NotImplementedError, ValueError) as error:
            # Stable-Baselines3 and torch check spaces and options by plain assertions.
            raise ConfigError(f"{solver} cannot train on {env.env_id} with these options: {error}") from error
        # Training episodes are seeded apart from the evaluation's fixed list.
        model.env.seed(int(seeds[1] % 9_000_000))
        record = _describe_run(
            solver, env, env_id, model, settings, seed=seed, steps=steps, env_kwargs=env_kwargs, cost=cost
        )
        write_json(folder / "run.json", record)
        env_arguments = {"env_id": env_id, "env_kwargs": env_kwargs, "cost": cost}
        try:
            return _learn(model, env, folder, record, settings, steps, env_arguments, progress)
        except BaseException as error:
            write_json(folder / "run.json", {**record, "status": "failed", "error": f"{type(error).__name__}: {error}"})
            raise
    finally:
        env.close()
        th.set_num_threads(threads)


def _learn(
    model: Any,
    env: CostVecEnv,
    folder: Path,
    record: dict[str, Any],
    settings: RunSettings,
    steps: int,
    env_arguments: Mapping[str, Any],
    progress: Report | None,
) -> TrainResult:

    def provenance(done: int) -> dict[str, Any]:
        multipliers = getattr(model, "multipliers", None)
        return {
            "solver": record["solver"],
            "label": record["label"],
            "env": record["env"],
            "env_kwargs": record["env_kwargs"],
            "cost": record["cost"],
            "seed": record["seed"],
            "steps": done,
            "train_budgets": record["train_budgets"],
            "multipliers": None
            if multipliers is None
            else dict(zip(env.constraints.names, np.asarray(multipliers).tolist(), strict=True)),
            "versions": record["versions"],
        }

    callbacks: list[BaseCallback] = [IterationCosts()]
    if settings.num_checkpoints:
        every = max(1, -(-steps // settings.num_checkpoints))
        callbacks.append(Checkpoints(folder / "checkpoint", every, env.constraints, provenance))
    best = None
    validations = _number_of_validations(settings, steps, env.horizon)
    if validations >= 2:
        best = BestArtefact(
            folder / "artefact-best",
            max(1, steps // validations),
            settings.validation_episodes,
            env.constraints,
            provenance,
            env_arguments,
        )
        callbacks.append(best)
    if progress is not None:
        callbacks.append(ProgressReporter(progress))
    start = time.perf_counter()
    model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    try:
        model.learn(steps, callback=CallbackList(callbacks), log_interval=1)
    finally:
        model.logger.close()
    save_artefact(folder / "artefact", model, env.constraints, provenance(model.num_timesteps))
    if best is not None:
        best.validate()
    else:
        with atomic_folder(folder / "artefact-best") as temporary:
            shutil.copytree(folder / "artefact", temporary, dirs_exist_ok=True)
    seconds = time.perf_counter() - start
    result = TrainResult(folder, model.num_timesteps, seconds, best.seconds if best is not None else 0.0, model)
    write_json(
        folder / "run.json",
        {
            **record,
            "status": "finished",
            "result": {
                "steps": result.steps,
                "seconds": round(seconds, 3),
                "validation_seconds": round(result.validation_seconds, 3),
                "steps_per_second": round(result.steps_per_second, 1),
                "training_costs": env.totals.to_dict(),
                "validations": best.history if best is not None else [],
            },
        },
    )
    return result


def _number_of_validations(settings: RunSettings, steps: int, horizon: int | None) -> int:
    """As many as ``validation_share`` of the steps pays for, at most 10; unknown lengths count as 1,000 steps."""
    return min(10, int(settings.validation_share * steps / (settings.validation_episodes * (horizon or 1000))))


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
    return None if "<" in name else f"{target.__module__}:{name}"


def _describe_run(
    solver: str,
    env: CostVecEnv,
    env_id: str | EnvFactory,
    model: Any,
    settings: RunSettings,
    *,
    seed: int,
    steps: int,
    env_kwargs: Mapping[str, Any],
    cost: CostFn | str | None,
) -> dict[str, Any]:
    """The content of ``run.json`` before learning starts."""
    config = asdict(model.config)
    return {
        "schema": SCHEMA,
        "status": "running",
        "command": shlex.join(["saferl", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("saferl", "__main__") else None,
        "solver": solver,
        "label": LABELS.get(solver, solver),
        "env": env_id if isinstance(env_id, str) else _import_path(env_id),
        "env_kwargs": dict(env_kwargs),
        "cost": _import_path(cost),
        "seed": seed,
        "steps": steps,
        "constraints": env.constraints.to_list(),
        "train_budgets": {c.name: c.budget for c in model.constraints},
        "discounts": {
            "actor_and_reward_critic": config["gamma"],
            "cost_critic": config.get("cost_gamma"),
            "dual": {c.name: c.gamma for c in model.constraints} if "multiplier_lr" in config else None,
        },
        "config": config,
        "settings": asdict(settings),
        "versions": versions(),
        "machine": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "torch_threads": th.get_num_threads(),
            "device": str(model.device),
        },
    }
