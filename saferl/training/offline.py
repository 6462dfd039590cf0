"""``train_offline``: an offline solver, a data file and a seed give a run folder, laid out like that of an online run.

```
run.json         everything needed to repeat the run, with "offline": true, and what came of it
progress.csv     the log, means over the updates since the row before (also as TensorBoard events)
checkpoint/      the newest two checkpoints, from which ``resume`` goes on exactly
artefact/        the last iterate
```

``steps`` are updates of the solver. There is no ``artefact-best``: choosing among policies needs the environment.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saferl.config import from_mapping
from saferl.constraints import Constraint, ConstraintSet
from saferl.data import Dataset, load_dataset
from saferl.errors import ConfigError, DataError, RunFolderError
from saferl.evaluation.summary import versions
from saferl.policy.offline_artefact import save_offline_artefact
from saferl.solvers import SOLVERS
from saferl.solvers.offline.base import OfflineSolver, choose_options, choose_preset
from saferl.solvers.offline.data import known_env, make_env
from saferl.storage import (
    atomic_folder,
    only_writer,
    prepare_output,
    remove_folder,
    remove_leftovers,
    sha256,
    write_json,
)
from saferl.training.build import LABELS, SCHEMA, machine, torch_threads
from saferl.training.checkpoint import (
    HEADER,
    IDENTITY,
    KEPT,
    Checkpoint,
    checkpoint_folders,
    new_run_id,
    newest_checkpoint,
)
from saferl.training.checkpoint import SCHEMA as CHECKPOINT_SCHEMA
from saferl.training.kinds import is_offline
from saferl.training.logs import STEPS, open_log
from saferl.training.run import Report, TrainResult
from saferl.training.settings import OfflineSettings
from saferl.trees import write_tree

EXPECTED_COSTS = "expected costs"


@dataclass(frozen=True)
class OfflineJob:
    """What an offline run is: the arguments that decide its result."""

    solver: str
    data: Path
    steps: int
    seed: int = 0
    budgets: Mapping[str, float] | None = None
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: OfflineSettings = field(default_factory=OfflineSettings)

    def __post_init__(self) -> None:
        """Check what can be checked without reading the data."""
        if self.steps < 1:
            raise ConfigError(f"The number of steps must be at least 1; got {self.steps}.")
        if self.seed < 0:
            raise ConfigError(f"The seed must be at least 0; got {self.seed}.")


def train_offline(
    solver: str,
    data: str | Path,
    *,
    out: str | Path,
    steps: int | None = None,
    seed: int = 0,
    budgets: Mapping[str, float] | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: OfflineSettings | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Train an offline solver and write a run folder. :func:`saferl.resume` goes on with a run that was cut.

    Args:
        solver: Name of an offline solver (``saferl list solvers``).
        data: A data file.
        out: New folder; one that holds files is refused and left as it is.
        steps: Updates; if None 20,000 with the preset ``small``, else the solver's own number.
        seed: Seed of everything random in the run.
        budgets: What must hold, as sums per episode: solvers that train for budgets train for these, and evaluations
            judge by them. None: those of the data's environment, or of the metadata, to judge by.
        preset: Named options of the solver; ``small``, which trains in minutes, if None and the solver has it.
            ``published`` takes the sizes of the paper.
        options: Single options on top of them.
        settings: Options of the run.
        progress: Called whenever a row is logged, with the updates done and what was logged.

    Raises:
        UnknownNameError: an unknown solver, preset, option or cost.
        ConfigError: the solver is not an offline one.
        DataError: data that cannot be read or trained on.
        RunFolderError: ``out`` cannot be written or holds files.

    Example:
        >>> result = train_offline("bc", "data/pr.hdf5", out="runs/bc", steps=2000)  # doctest: +SKIP
    """
    if not is_offline(solver):
        raise ConfigError(
            f"{solver} learns in an environment, not from data; got the data {data}. Name an environment, or an "
            "offline solver (saferl list solvers)."
        )
    preset, own_steps = choose_preset(SOLVERS.load(solver), preset)
    steps = own_steps if steps is None else steps
    job = OfflineJob(
        solver, Path(data), steps, seed, budgets, preset, dict(options or {}), settings or OfflineSettings()
    )
    choose_options(SOLVERS.load(solver), preset, job.options)
    with torch_threads(job.settings.torch_threads or 1):
        dataset = load_dataset(job.data)
        model = _start(job, dataset)
        record = _describe(job, dataset, model)
        folder = prepare_output(Path(out), what="a training run")
        write_json(folder / "run.json", record)
        return _learn(model, folder, record, progress=progress)


def resume_offline(
    folder: Path, record: Mapping[str, Any], *, data: str | Path | None = None, progress: Report | None = None
) -> TrainResult:
    """Go on with the offline run of ``record`` in ``folder``; see :func:`saferl.resume`.

    Args:
        folder: The run folder.
        record: The content of its ``run.json``.
        data: The data file, if it is no longer where it was.
        progress: As for :func:`train_offline`.

    Raises:
        DataError: the data are not those of the run.
        RunFolderError: another process trains there, or no checkpoint is whole or of this run.
    """
    job = OfflineJob(
        record["solver"],
        Path(data if data is not None else record["data"]),
        record["steps"],
        record["seed"],
        record["train_budgets"],
        None,
        record["config"],
        from_mapping(OfflineSettings, record["settings"]),
    )
    with only_writer(folder):
        remove_leftovers(folder)
        if (folder / "checkpoint").is_dir():
            remove_leftovers(folder / "checkpoint")
        checkpoint = newest_checkpoint(folder / "checkpoint")
    if checkpoint is not None:
        checkpoint.require_same_run(record)
    with torch_threads(record["machine"]["torch_threads"]):
        dataset = load_dataset(job.data)
        if dataset.digest() != record["dataset"]["digest"]:
            raise DataError(
                f"The data {job.data} must be those that the run {folder} began with; their content has changed. Bring "
                "them back, or train into a new folder."
            )
        model = _start(job, dataset)
        running = {key: value for key, value in record.items() if key not in ("error", "result")}
        running["status"] = "running"
        write_json(folder / "run.json", running)
        return _learn(model, folder, running, checkpoint=checkpoint, progress=progress)


def _start(job: OfflineJob, dataset: Dataset) -> OfflineSolver:
    """The solver, ready for its first update."""
    solver_class = SOLVERS.load(job.solver)
    model: OfflineSolver = solver_class(choose_options(solver_class, job.preset, job.options))
    model.start(dataset, seed=job.seed, budgets=job.budgets)
    return model


def _constraints(job: OfflineJob, dataset: Dataset) -> ConstraintSet:
    """What evaluations of the policy judge by."""
    if known_env(dataset) is not None:
        with closing(make_env(dataset, job.budgets)) as env:
            return env.constraints
    budgets = job.budgets or dataset.metadata.budgets
    return ConstraintSet(Constraint(name, budget) for name, budget in budgets.items())


def _describe(job: OfflineJob, dataset: Dataset, model: OfflineSolver) -> dict[str, Any]:
    """The content of ``run.json`` before learning starts."""
    assert model.data is not None
    record = {
        "schema": SCHEMA,
        "status": "running",
        "command": shlex.join(["saferl", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("saferl", "__main__") else None,
        "offline": True,
        "solver": job.solver,
        "label": LABELS.get(job.solver, type(model).__name__),
        "env": known_env(dataset),
        "env_kwargs": dict(dataset.metadata.env_kwargs),
        "cost": None,
        "seed": job.seed,
        "steps": job.steps,
        "constraints": _constraints(job, dataset).to_list(),
        "trained_for": EXPECTED_COSTS,
        "train_budgets": dict(job.budgets) if job.budgets else None,
        "data": str(job.data.resolve()),
        "dataset": {
            "digest": dataset.digest(),
            "transitions": len(dataset),
            "episodes": dataset.num_episodes,
            "cost_names": list(dataset.cost_names),
            "has_margins": dataset.h is not None,
            "env": dataset.metadata.env_id,
            "spaces": model.data.spaces.source,
        },
        "preset": job.preset,
        "config": asdict(model.config),
        "settings": asdict(job.settings),
        "device": "cpu",
        "init_from": None,
        "shield": None,
        "recipe": None,
        "versions": versions(),
        "machine": machine(model),
    }
    return {**record, "run_id": new_run_id(record, time.time())}


def _learn(
    model: OfflineSolver,
    folder: Path,
    record: Mapping[str, Any],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Train to the end, from the start or from ``checkpoint``, and note in ``run.json`` how that went."""
    with only_writer(folder):
        try:
            return _Learning(model, folder, record, progress).run(checkpoint)
        except KeyboardInterrupt:
            write_json(folder / "run.json", {**record, "status": "interrupted"})
            raise
        except BaseException as error:
            write_json(folder / "run.json", {**record, "status": "failed", "error": f"{type(error).__name__}: {error}"})
            raise


class _Learning:
    """One process's part of a run."""

    def __init__(self, model: OfflineSolver, folder: Path, record: Mapping[str, Any], progress: Report | None) -> None:
        self.model, self.folder, self.record, self.progress = model, folder, record, progress
        self.settings = from_mapping(OfflineSettings, record["settings"])
        self.steps = int(record["steps"])
        self.constraints = ConstraintSet.from_list(record["constraints"])
        self.log_every = self.settings.log_every or max(1, min(1000, self.steps // 100))
        shares = self.settings.num_checkpoints
        self.save_every = max(1, -(-self.steps // shares)) if shares else 0
        self.earlier_seconds = 0.0
        self.start = self.last_saved = time.perf_counter()
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def run(self, checkpoint: Checkpoint | None) -> TrainResult:
        done = 0 if checkpoint is None else checkpoint.steps
        self.log = open_log(self.folder, steps_done=done)
        try:
            if checkpoint is not None:
                self.restore(checkpoint)
            if done < self.steps:
                self.model.advance(self.steps - done, self.after_update)
        finally:
            self.log.close()
        self.save_artefact(self.folder / "artefact")
        result = TrainResult(self.folder, self.model.num_updates, self.seconds(), 0.0, self.model)
        outcome = {
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "validation_seconds": 0.0,
            "steps_per_second": round(result.steps_per_second, 1),
        }
        write_json(self.folder / "run.json", {**self.record, "status": "finished", "result": outcome})
        return result

    def after_update(self, done: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1
        if done % self.log_every == 0 or done == self.steps:
            self.write_row(done)
        if not self.save_every or done == self.steps:
            return
        is_due = time.perf_counter() - self.last_saved >= self.settings.checkpoint_seconds
        if is_due or done % self.save_every == 0:
            self.save_checkpoint(done)
            self.last_saved = time.perf_counter()

    def write_row(self, done: int) -> None:
        means = {key: total / self.counts[key] for key, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        for key, value in means.items():
            self.log.record(key, value)
        self.log.record(STEPS, done)
        self.log.record("time/fps", done / max(1e-9, self.seconds()))
        self.log.dump(done)
        if self.progress is not None:
            self.progress(done, means)

    def save_artefact(self, folder: Path) -> None:
        assert self.model.data is not None
        save_offline_artefact(
            folder,
            self.model.actor(),
            self.constraints,
            self.provenance(),
            spaces_from=self.model.data.spaces.source,
        )

    def provenance(self) -> dict[str, Any]:
        """What an artefact of this run says about where it comes from."""
        keys = ("solver", "label", "env", "env_kwargs", "cost", "seed", "trained_for", "train_budgets", "init_from")
        own = {key: self.record[key] for key in (*keys, "offline", "dataset", "versions")}
        return {**own, "steps": self.model.num_updates, "multipliers": None}

    def save_checkpoint(self, done: int) -> None:
        base = self.folder / "checkpoint"
        with atomic_folder(base / f"step-{done:09d}") as temporary:
            self.save_artefact(temporary / "artefact")
            state = {
                "training": self.model.state_dict(),
                "run": {"seconds": self.seconds(), "sums": self.sums, "counts": self.counts},
            }
            write_tree(temporary, "state", state)
            files = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
            write_json(
                temporary / HEADER,
                {
                    "schema": CHECKPOINT_SCHEMA,
                    "steps": done,
                    "run": {key: self.record.get(key) for key in IDENTITY},
                    "versions": self.record["versions"],
                    "sha256": {name: sha256(temporary / name) for name in files},
                },
            )
        for old in checkpoint_folders(base)[:-KEPT]:
            remove_folder(old)

    def restore(self, checkpoint: Checkpoint) -> None:
        try:
            self.model.load_state_dict(checkpoint.state["training"])
            run = checkpoint.state["run"]
            self.earlier_seconds = float(run["seconds"])
            self.sums, self.counts = dict(run["sums"]), dict(run["counts"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunFolderError(
                f"The checkpoint {checkpoint.folder} does not fit the solver {self.record['solver']}: {error}. It is "
                "of another version: use that one, or train again."
            ) from error

    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.start
