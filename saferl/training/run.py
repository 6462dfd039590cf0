"""``train``: a solver, an environment and a seed give a run folder.

```
run.json         everything needed to repeat the run, and what came of it
shield/          the shield in training, if there was one
progress.csv     the log, one row per iteration (also as TensorBoard events)
checkpoint/      the newest two checkpoints, from which ``resume`` goes on exactly
artefact/        the last iterate
artefact-best/   the best policy by validation: feasible first, then return
```
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from saferl.config import from_mapping
from saferl.constraints import ConstraintSet
from saferl.deploy.sources import ShieldSource, shield_name
from saferl.envs.adapters import CostFn
from saferl.envs.core import EnvFactory
from saferl.errors import ConfigError, SaferlError
from saferl.policy.artefact import save_artefact
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.shields import load_shield, save_shield
from saferl.solvers import SOLVERS
from saferl.statistics.verdicts import SUPPORTED_KINDS
from saferl.storage import atomic_folder, only_writer, prepare_output, write_json
from saferl.training.build import Job, build_env, build_model, describe_run, torch_threads
from saferl.training.callbacks import BestArtefact, IterationCosts, ProgressReporter, ShieldLog
from saferl.training.checkpoint import Checkpoint, Checkpoints
from saferl.training.initial import initialise
from saferl.training.kinds import is_offline, names_data, refuse_online_arguments
from saferl.training.logs import open_log
from saferl.training.settings import OfflineSettings, RunSettings
from saferl.training.shielded import ShieldedVecEnv

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a training run left."""

    folder: Path
    """The run folder."""
    steps: int
    """Environment steps taken."""
    seconds: float
    """Wall-clock time of learning, validation included; of a resumed run, without what was lost."""
    validation_seconds: float
    """Of that, time spent on choosing ``artefact-best``."""
    model: Any
    """The trained Stable-Baselines3 algorithm (its environments are closed); None if the run was finished before."""

    @property
    def steps_per_second(self) -> float:
        """Training throughput: steps over the time of learning without validation."""
        return self.steps / max(1e-9, self.seconds - self.validation_seconds)


def train(
    solver: str,
    env_id: str | Path | EnvFactory,
    *,
    steps: int | None = None,
    out: str | Path,
    seed: int = 0,
    budgets: Mapping[str, float] | None = None,
    train_budgets: Mapping[str, float] | None = None,
    constraints: ConstraintSet | None = None,
    cost: CostFn | str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    settings: RunSettings | OfflineSettings | None = None,
    device: str = "auto",
    init_from: str | Path | None = None,
    shield: ShieldSource | None = None,
    recipe: str | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Train and write a run folder. A run that is cut goes on with :func:`saferl.training.resume`.

    Args:
        solver: Name of a solver (``saferl list solvers``).
        env_id: As for :func:`saferl.make`; for an offline solver a data file, see
            :func:`saferl.training.offline.train_offline`, which also says what the other arguments mean then.
        steps: Environment steps, over all environments; rounded up to whole rollouts. Offline: updates.
        out: New folder; one that holds files is refused and left as it is.
        seed: Seed of everything random in the run.
        budgets: What must hold; the environment's default constraints if None.
        train_budgets: Budgets to train at where they are tighter than those that must hold.
        constraints: Full constraints instead of ``budgets``.
        cost: Cost function (or its import path) for an environment that reports none.
        env_kwargs: More arguments of the environment (plain JSON values).
        options: Options of the solver by name.
        preset: Named options of an offline solver, below ``options``.
        settings: Options of the run.
        device: torch device.
        init_from: Artefact or run folder whose policy and normaliser to start from.
        shield: What filters actions in training (:mod:`saferl.training.shielded`): a :class:`saferl.shields.Shield`,
            the name of one, a folder, ``package.module:factory`` or a factory. Budgets may then name ``interventions``
            and ``intervention_distance``. It is kept in the run folder, below ``shield/``.
        recipe: Name of the recipe (:mod:`saferl.training.recipes`) that ``options`` and ``settings`` were taken from,
            for the record.
        progress: Called once per rollout with the steps done and recent means of return and costs.

    Raises:
        UnknownNameError: an unknown solver, environment, option or cost.
        ConfigError: an argument out of range, or one that a run of this kind does not take.
        RunFolderError: ``out`` cannot be written or holds files.
    """
    if names_data(env_id) or is_offline(solver):
        from saferl.training.offline import train_offline  # it builds on this module

        refuse_online_arguments(
            solver, env_id, train_budgets=train_budgets, constraints=constraints, cost=cost, env_kwargs=env_kwargs,
            device=None if device in ("auto", "cpu") else device, init_from=init_from, shield=shield, recipe=recipe,
            settings=settings if isinstance(settings, RunSettings) else None,
        )  # fmt: skip
        return train_offline(
            solver, str(env_id), out=out, steps=steps, seed=seed, budgets=budgets, preset=preset, options=options,
            settings=settings if isinstance(settings, OfflineSettings) else None, progress=progress,
        )  # fmt: skip
    if preset is not None or isinstance(settings, OfflineSettings) or isinstance(env_id, Path) or steps is None:
        raise ConfigError(
            f"{solver} learns in an environment: it needs steps, an environment and RunSettings, and has no presets; "
            f"got steps={steps}, {env_id}, settings={settings}, preset={preset}."
        )
    job = Job(
        solver=solver,
        env_id=env_id,
        steps=steps,
        seed=seed,
        budgets=budgets,
        train_budgets=train_budgets,
        constraints=constraints,
        cost=cost,
        env_kwargs=dict(env_kwargs or {}),
        options=dict(options or {}),
        settings=settings or RunSettings(),
        device=device,
        init_from=init_from,
        shield=shield,
    )
    # Names and options are checked before environments are built.
    from_mapping(SOLVERS.load(solver).config_class, job.options)
    with torch_threads(job.settings.torch_threads or 1):
        env = build_env(job)
        try:
            folder = prepare_output(Path(out), what="a training run")
            model = build_model(job, env)
            kept = None if shield is None else keep_shield(shield, env, folder)
            record = {**describe_run(job, env, model), "recipe": recipe, "shield": kept}
            if init_from is not None:
                record["init_from"] = initialise(model, init_from)
            write_json(folder / "run.json", record)
            return learn(job, env, model, folder, record, progress=progress)
        finally:
            env.close()


def keep_shield(source: ShieldSource, env: Any, folder: Path) -> dict[str, Any]:
    """Write the shield of ``env`` into the run folder, and give what ``run.json`` says of it.

    Raises:
        ConfigError: a shield that is neither data of a registered unit nor given by a name to look it up again.
    """
    text = str(source) if isinstance(source, str | Path) else None
    kept = folder / "shield"
    try:
        load_shield(save_shield(env.shield, kept))
        is_kept = True
    except SaferlError as error:
        if text is None:
            raise ConfigError(
                f"A run keeps its shield, so that it can be resumed: {error} Give package.module:factory instead."
            ) from error
        # A unit of the user's own that is not registered: the factory builds it again.
        shutil.rmtree(kept, ignore_errors=True)
        is_kept = False
    return {"name": shield_name(source), "source": text, "is_kept": is_kept, "spec": env.shield.spec().to_dict()}


def learn(
    job: Job,
    env: CostVecEnv,
    model: Any,
    folder: Path,
    record: Mapping[str, Any],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Train ``model`` to the end, from its start or from ``checkpoint``, and note in ``run.json`` how that went."""
    with only_writer(folder):
        try:
            return _Learning(job, env, model, folder, record, progress).run(checkpoint)
        except KeyboardInterrupt:
            write_json(folder / "run.json", {**record, "status": "interrupted"})
            raise
        except BaseException as error:
            write_json(folder / "run.json", {**record, "status": "failed", "error": f"{type(error).__name__}: {error}"})
            raise


class _Learning:
    """One process's part of a run."""

    def __init__(
        self, job: Job, env: CostVecEnv, model: Any, folder: Path, record: Mapping[str, Any], progress: Report | None
    ) -> None:
        self.job, self.env, self.model, self.folder, self.record = job, env, model, folder, record
        self.callbacks: list[BaseCallback] = [IterationCosts()]
        self.checkpoints: Checkpoints | None = None
        self.best: BestArtefact | None = None
        self.earlier_seconds = 0.0
        self.start = time.perf_counter()
        settings, steps = job.settings, job.steps
        if isinstance(env, ShieldedVecEnv):
            self.callbacks.append(ShieldLog())
        if settings.num_checkpoints:
            self.checkpoints = Checkpoints(
                folder / "checkpoint",
                max(1, -(-steps // settings.num_checkpoints)),
                record,
                env.constraints,
                self.provenance,
                self.state,
            )
            self.callbacks.append(self.checkpoints)
        can_judge = all(constraint.kind in SUPPORTED_KINDS for constraint in env.constraints)
        shield = env.shield if isinstance(env, ShieldedVecEnv) else None
        validations = _number_of_validations(settings, steps, env.horizon) if can_judge else 0
        if validations >= 2:
            self.best = BestArtefact(
                folder / "artefact-best",
                max(1, steps // validations),
                settings.validation_episodes,
                env.constraints,
                self.provenance,
                {"env_id": job.env_id, "env_kwargs": job.env_kwargs, "cost": job.cost, "shield": shield},
            )
            self.callbacks.append(self.best)
        if progress is not None:
            self.callbacks.append(ProgressReporter(progress))

    def run(self, checkpoint: Checkpoint | None) -> TrainResult:
        model, folder = self.model, self.folder
        done = 0 if checkpoint is None else checkpoint.steps
        model.set_logger(open_log(folder, steps_done=done))
        if checkpoint is not None:
            self.restore(checkpoint)
        try:
            model.learn(
                self.job.steps - done,
                callback=CallbackList(self.callbacks),
                log_interval=1,
                reset_num_timesteps=checkpoint is None,
            )
        finally:
            model.logger.close()
        save_artefact(folder / "artefact", model, self.env.constraints, self.provenance(model.num_timesteps))
        if self.best is not None:
            self.best.validate()
        else:
            with atomic_folder(folder / "artefact-best") as temporary:
                shutil.copytree(folder / "artefact", temporary, dirs_exist_ok=True)
        return self.finish()

    def finish(self) -> TrainResult:
        best = self.best
        result = TrainResult(
            self.folder, self.model.num_timesteps, self.seconds(), best.seconds if best else 0.0, self.model
        )
        outcome = {
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "validation_seconds": round(result.validation_seconds, 3),
            "steps_per_second": round(result.steps_per_second, 1),
            "training_costs": self.env.totals.to_dict(),
            "validations": best.history if best else [],
        }
        write_json(self.folder / "run.json", {**self.record, "status": "finished", "result": outcome})
        return result

    def provenance(self, done: int) -> dict[str, Any]:
        """What an artefact of this run says about where it comes from."""
        multipliers = getattr(self.model, "multipliers", None)
        by_name = (
            None
            if multipliers is None
            else dict(zip(self.env.constraints.names, np.asarray(multipliers).tolist(), strict=True))
        )
        keys = ("solver", "label", "env", "env_kwargs", "cost", "seed", "trained_for", "train_budgets", "init_from")
        own = {key: self.record[key] for key in (*keys, "versions")}
        if self.record.get("shield") is not None:
            own["shield"] = self.record["shield"]
        return {**own, "steps": done, "multipliers": by_name}

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of the run beside its training."""
        return {"best": self.best.get_state() if self.best else None, "seconds": self.seconds()}

    def restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.restore(self.model, self.checkpoints)
        self.earlier_seconds = float(state["seconds"])
        if self.best is not None:
            self.best.set_state(state["best"])

    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.start


def _number_of_validations(settings: RunSettings, steps: int, horizon: int | None) -> int:
    """As many as ``validation_share`` of the steps pays for, at most 10; unknown lengths count as 1,000 steps."""
    return min(10, int(settings.validation_share * steps / (settings.validation_episodes * (horizon or 1000))))
