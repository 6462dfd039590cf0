"""``resume``: a training that was cut, at whatever moment, goes on and ends with the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saferl.config import from_mapping
from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostFn
from saferl.envs.core import EnvFactory
from saferl.errors import ConfigError, RunFolderError
from saferl.evaluation.summary import versions
from saferl.policy.artefact import read_spaces
from saferl.storage import only_writer, read_json, remove_leftovers, write_json
from saferl.training.build import SCHEMA, Job, build_env, build_model, machine, torch_threads
from saferl.training.checkpoint import Checkpoint, newest_checkpoint
from saferl.training.initial import initialise
from saferl.training.run import Report, TrainResult, learn
from saferl.training.settings import RunSettings


def resume(
    folder: str | Path,
    *,
    env_id: str | EnvFactory | None = None,
    cost: CostFn | str | None = None,
    expected: Mapping[str, Any] | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Go on with the run in ``folder`` from its newest checkpoint, or from its start if it has none.

    The result has the same weights, bit for bit, as a run that was never cut, on the same machine and versions. A run
    that is finished is left as it is.

    Args:
        folder: The run folder.
        env_id: The environment, if it was given as an object that has no import path; else it must be the run's. Of an
            offline run: its data file, if that is no longer where it was.
        cost: The cost function, likewise.
        expected: Keys of ``run.json`` and the values that they must have; ``budgets`` stands for the constraints'.
        progress: As for :func:`saferl.train`.

    Raises:
        RunFolderError: no run there, another process trains in it, or no checkpoint is whole or of this run.
        ConfigError: the run was made for something else than ``expected``, or its environment has changed.

    Example:
        >>> result = saferl.resume("runs/goal")  # doctest: +SKIP
    """
    folder = Path(folder)
    record = read_run(folder)
    if record.get("offline"):
        return _resume_offline(folder, record, env_id, dict(expected or {}), progress)
    named = {"env": env_id if isinstance(env_id, str) else None, "cost": cost if isinstance(cost, str) else None}
    _refuse_differences(folder, record, {**{k: v for k, v in named.items() if v is not None}, **(expected or {})})
    if record["status"] == "finished":
        return _finished(folder, record)
    job = _job(folder, record, env_id, cost)
    with only_writer(folder):
        remove_leftovers(folder)
        if (folder / "checkpoint").is_dir():
            remove_leftovers(folder / "checkpoint")
        checkpoint = newest_checkpoint(folder / "checkpoint")
    if checkpoint is not None:
        checkpoint.require_same_run(record)
    with torch_threads(record["machine"]["torch_threads"]):
        env = build_env(job)
        try:
            if checkpoint is not None:
                _require_same_spaces(checkpoint, env)
            model = build_model(job, env)
            _warn_of_changes(record, {"versions": versions(), "machine": machine(model)})
            if checkpoint is None and job.init_from is not None:
                initialise(model, job.init_from)
            record = {key: value for key, value in record.items() if key not in ("error", "result")}
            record["status"] = "running"
            write_json(folder / "run.json", record)
            return learn(job, env, model, folder, record, checkpoint=checkpoint, progress=progress)
        finally:
            env.close()


def _finished(folder: Path, record: Mapping[str, Any]) -> TrainResult:
    result = record["result"]
    return TrainResult(folder, result["steps"], result["seconds"], result["validation_seconds"], None)


def _resume_offline(
    folder: Path,
    record: Mapping[str, Any],
    data: str | EnvFactory | None,
    expected: dict[str, Any],
    progress: Report | None,
) -> TrainResult:
    from saferl.training.offline import resume_offline  # it builds on the online run

    data = expected.pop("env", data)
    _refuse_differences(folder, record, expected)
    if record["status"] == "finished":
        return _finished(folder, record)
    if data is not None and not isinstance(data, str | Path):
        raise ConfigError(f"The run {folder} learns from a data file; got {data!r}. Name the file, or leave it out.")
    now = {"versions": versions(), "machine": {**record["machine"], **machine(None)}}
    now["machine"]["torch_threads"] = record["machine"]["torch_threads"]  # it is set to that
    _warn_of_changes(record, now)
    return resume_offline(folder, record, data=data, progress=progress)


def read_run(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        RunFolderError: there is none, or it is not of this version's schema.
    """
    record = read_json(folder / "run.json", what="run.json of a run folder")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or "run_id" not in record:
        got = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise RunFolderError(
            f"{folder / 'run.json'} must have schema {SCHEMA!r} with a run_id; got {got!r}. "
            "It is of another version of saferl: train again, or use that version."
        )
    return record


def _refuse_differences(folder: Path, record: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    own = {
        **record,
        **record["config"],
        **record["settings"],
        "budgets": {c["name"]: c["budget"] for c in record["constraints"]},
        "shield": (record.get("shield") or {}).get("source"),
    }
    for key, value in expected.items():
        found = own.get(key)
        if isinstance(value, tuple):
            value = list(value)
        if key == "train_budgets":
            found = {name: budget for name, budget in (record[key] or {}).items() if name in value}
        if found != value:
            raise ConfigError(
                f"The run {folder} has {key} {found!r}; got {value!r}. A resumed run keeps what it was started with: "
                "leave that option out, or train into a new folder (--init-from starts from this run's policy)."
            )


def _job(folder: Path, record: Mapping[str, Any], env_id: str | EnvFactory | None, cost: CostFn | str | None) -> Job:
    env_id = env_id if env_id is not None else record["env"]
    if env_id is None:
        raise ConfigError(
            f"The run {folder} was made with an environment that has no import path. Give it again: "
            "saferl.resume(folder, env_id=factory)."
        )
    init = record["init_from"]
    return Job(
        solver=record["solver"],
        env_id=env_id,
        steps=record["steps"],
        seed=record["seed"],
        constraints=ConstraintSet.from_list(record["constraints"]),
        train_budgets=record["train_budgets"],
        cost=cost if cost is not None else record["cost"],
        env_kwargs=record["env_kwargs"],
        options=record["config"],
        settings=from_mapping(RunSettings, record["settings"]),
        device=record["device"],
        init_from=init["policy"] if init else None,
        shield=_shield_of(folder, record),
    )


def _shield_of(folder: Path, record: Mapping[str, Any]) -> str | Path | None:
    """Where the run's shield comes from: what was kept of it, or the name that it was given by."""
    shield = record.get("shield")
    if shield is None:
        return None
    return folder / "shield" if shield["is_kept"] else str(shield["source"])


def _require_same_spaces(checkpoint: Checkpoint, env: Any) -> None:
    saved = read_spaces(checkpoint.folder / "artefact")
    for what, was, now in zip(
        ("observation space", "action space"), saved, (env.observation_space, env.action_space), strict=True
    ):
        if was != now:
            raise ConfigError(
                f"The environment {env.env_id} has changed since the checkpoint {checkpoint.folder}: its {what} was "
                f"{was} and is {now}. Bring back the environment as it was, or train into a new folder."
            )


def _warn_of_changes(record: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> None:
    changes = [
        f"{key} was {record[part].get(key)} and is {now[part].get(key)}"
        for part, keys in (("versions", now["versions"]), ("machine", ("cpu_capability", "device", "torch_threads")))
        for key in keys
        if record[part].get(key) != now[part].get(key)
    ]
    if changes:
        warnings.warn(
            f"This run was started elsewhere or before an update: {'; '.join(changes)}. It goes on, but its weights "
            "will differ from those of a run that was never cut.",
            stacklevel=3,
        )
