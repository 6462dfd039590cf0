"""Minari's folders: data sets with costs written to them and read from them, on this machine only.

Minari keeps ``NAME-vN/data/``: ``metadata.json`` and one group per episode with T + 1 observations, T actions,
rewards, terminations and truncations, and ``infos`` aligned with the observations. It knows no costs; they stand in
``infos``, as Gymnasium has it: ``cost`` (the first one), and ``costs/NAME`` for each. Row t + 1 is the cost of step t,
row 0 is 0. The rest is kept as well: ``margins/NAME`` (``h`` of every state) and ``log_probs``; names, metadata and the
digest of all arrays stand under ``saferl`` in ``metadata.json``, which Minari leaves alone.

A folder that is put where ``MINARI_DATASETS_PATH`` points is found by ``minari.load_dataset("NAME-vN")``. Nothing is
downloaded, and no code that a folder names is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset, DatasetMetadata
from saferl.errors import DataError, MissingExtraError
from saferl.storage import atomic_folder

Arrays = dict[str, Any]
_NAME = re.compile(r"[\w-]+-v\d+")


def is_minari_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder of Minari's."""
    return (Path(path) / "data" / "metadata.json").is_file()


def write_minari(dataset: Dataset, path: str | Path) -> Path:
    """Write ``dataset`` as a Minari folder, whole or not at all; :func:`read_minari` gives back the same arrays.

    Args:
        dataset: What to write. Within an episode, every next observation (and margin) must be the following one.
        path: New folder ``.../NAME-vN``; its last part is Minari's name of the data set.

    Raises:
        MissingExtraError: Minari is not installed.
        DataError: ``path`` exists or has no such name, or a next observation is not the following one.
    """
    path = Path(path)
    if not _NAME.fullmatch(path.name):
        raise DataError(f"A Minari folder must be named like NAME-v0, in letters, digits, - and _; got {path.name!r}.")
    if path.exists():
        raise DataError(f"The folder {path} exists already. Give another name, or move it away.")
    storage_class, buffer_class, version = _minari()
    from gymnasium import spaces

    _check_chain(dataset, "observations", dataset.observations, dataset.next_observations)
    if dataset.h is not None and dataset.next_h is not None:
        _check_chain(dataset, "h", dataset.h, dataset.next_h)
    bound = 1.0 if float(np.abs(dataset.actions).max()) <= 1.0 else np.inf
    note = {"cost_names": list(dataset.cost_names), "metadata": dataset.metadata.to_dict(), "sha256": dataset.digest()}
    with atomic_folder(path) as temporary:
        storage = storage_class.new(
            temporary / "data",
            observation_space=spaces.Box(-np.inf, np.inf, dataset.observations.shape[1:], np.float32),
            action_space=spaces.Box(-bound, bound, dataset.actions.shape[1:], np.float32),
            jpeg_encoding=False,
        )
        storage.update_metadata({"dataset_id": path.name, "minari_version": version, "saferl": json.dumps(note)})
        bounds = zip(dataset.episode_starts, dataset.episode_ends, strict=True)
        storage.update_episodes(buffer_class(**_episode(dataset, start, end)) for start, end in bounds)
    return path


def read_minari(path: str | Path) -> Dataset:
    """The data set in a Minari folder, one of ours or any with boxes of observations and ``infos`` that hold costs.

    Args:
        path: The folder that holds ``data/``.

    Raises:
        MissingExtraError: Minari is not installed.
        DataError: no such folder, other spaces, a missing cost, or content that :class:`Dataset` refuses; naming folder
            and episode.
    """
    path = Path(path)
    if not is_minari_folder(path):
        raise DataError(f"A Minari folder must hold data/metadata.json; {path} does not. Give the folder NAME-vN.")
    storage_class, _, _ = _minari()
    note = _describe(path)
    try:
        storage = storage_class.read(path / "data")
        episodes = list(storage.get_episodes(range(storage.total_episodes)))
    except (OSError, ValueError, KeyError, AssertionError, ImportError, RuntimeError) as error:
        raise DataError(f"The Minari folder {path} cannot be read ({error}). Copy or export it again.") from error
    if not episodes:
        raise DataError(f"The Minari folder {path} holds no episode.")
    names = tuple(note["cost_names"]) if note else _cost_names(path, episodes[0])
    parts = [_rows(path, index, episode, names) for index, episode in enumerate(episodes)]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in _common(path, parts)}
    metadata = DatasetMetadata.from_dict(note["metadata"]) if note else DatasetMetadata(note=f"Minari's {path.name}")
    data = Dataset.from_arrays(**arrays, cost_names=names, metadata=metadata, source=str(path))
    if note and note["sha256"] != data.digest():
        raise DataError(f"The arrays of {path} were changed after it was written (SHA-256 differs). Export again.")
    return data


def _minari() -> tuple[Any, Any, str]:
    """Storage, episode buffer and version."""
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading and writing Minari folders", "minari", "minari") from error
    return MinariStorage, EpisodeBuffer, str(minari.__version__)


def _check_chain(dataset: Dataset, key: str, now: npt.NDArray[Any], following: npt.NDArray[Any]) -> None:
    inner = np.ones(len(dataset), dtype=np.bool_)
    inner[dataset.episode_ends - 1] = False
    rows = np.flatnonzero(inner)
    differ = (following[rows] != now[rows + 1]).any(axis=tuple(range(1, now.ndim)))
    if differ.any():
        row = int(rows[np.argmax(differ)])
        raise DataError(
            f"Minari keeps each {key} once, so that next_{key} must be those of the following row; row {row} differs. "
            "Keep these data in DSRL's layout."
        )


def _episode(dataset: Dataset, start: int, end: int) -> Arrays:
    rows, last = slice(start, end), slice(end - 1, end)

    def after(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros_like(values[:1]), values])

    costs = after(dataset.costs[rows])
    infos: Arrays = {"cost": costs[:, 0], "costs": dict(zip(dataset.cost_names, costs.T.copy(), strict=True))}
    if dataset.h is not None and dataset.next_h is not None:
        margins = np.concatenate([dataset.h[rows], dataset.next_h[last]])
        infos["margins"] = dict(zip(dataset.cost_names, margins.T.copy(), strict=True))
    if dataset.log_probs is not None:
        infos["log_probs"] = after(dataset.log_probs[rows])
    return {
        "observations": np.concatenate([dataset.observations[rows], dataset.next_observations[last]]),
        "actions": dataset.actions[rows],
        "rewards": dataset.rewards[rows],
        "terminations": dataset.terminals[rows],
        "truncations": dataset.timeouts[rows],
        "infos": infos,
    }


def _describe(path: Path) -> Mapping[str, Any]:
    """Our note, empty in a folder of somebody else."""
    file = path / "data" / "metadata.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        note: Mapping[str, Any] = json.loads(raw.get("saferl", "{}"))
        is_whole = not note or {"cost_names", "metadata", "sha256"} <= note.keys()
        has_spaces = {"observation_space", "action_space"} <= raw.keys()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Copy or export the folder again.") from error
    if not is_whole:
        raise DataError(f"{file}: the note of saferl is incomplete. Export the folder again.")
    if not has_spaces:
        # Minari would make the environment that the folder names, which can be any code.
        raise DataError(f"{file} must hold observation_space and action_space. Export it with a newer Minari.")
    return note


def _cost_names(path: Path, episode: Mapping[str, Any]) -> tuple[str, ...]:
    infos = episode["infos"] or {}
    if isinstance(infos.get("costs"), Mapping):
        return tuple(sorted(infos["costs"]))
    if "cost" not in infos:
        raise DataError(
            f"{path}: infos of episode 0 must hold cost, or costs by name; got "
            f"{', '.join(sorted(infos)) or 'nothing'}. Record info['cost'] at every step."
        )
    return ("cost",)


def _rows(path: Path, index: int, episode: Mapping[str, Any], names: tuple[str, ...]) -> Arrays:
    observations, actions = episode["observations"], episode["actions"]
    if not (isinstance(observations, np.ndarray) and isinstance(actions, np.ndarray)):
        raise DataError(f"{path}: observations and actions must be boxes; episode {index} has others. Flatten them.")
    steps, infos = len(episode["rewards"]), episode["infos"] or {}
    if steps == 0 or len(observations) != steps + 1:
        raise DataError(
            f"{path}: an episode must have one observation more than rewards, and at least two; episode {index} has "
            f"{len(observations)} and {steps}."
        )

    def info(key: str) -> npt.NDArray[Any]:
        value: Any = infos
        for part in key.split("/", 1):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or len(value) not in (steps, steps + 1):
            got = "nothing" if value is None else f"{len(value)} rows"
            raise DataError(f"{path}: infos of episode {index} must hold {key}, one row per step; got {got}.")
        return np.asarray(value)

    by_name = "costs" in infos
    found = [info(f"costs/{name}" if by_name else "cost")[-steps:] for name in names]
    timeouts = np.asarray(episode["truncations"]).copy()
    if not (timeouts[-1] or episode["terminations"][-1]):
        timeouts[-1] = True  # Minari closes an episode that its collector left open without a flag
    rows = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": actions,
        "rewards": episode["rewards"],
        "costs": np.stack(found, axis=1),
        "terminals": episode["terminations"],
        "timeouts": timeouts,
    }
    if "margins" in infos and by_name:
        margins = np.stack([info(f"margins/{name}") for name in names], axis=1)
        rows |= {"h": margins[:-1], "next_h": margins[1:]}
    if "log_probs" in infos:
        rows["log_probs"] = info("log_probs")[-steps:]
    return rows


def _common(path: Path, parts: list[Arrays]) -> set[str]:
    """Keys that every episode has; their shapes must agree."""
    keys = set.intersection(*(set(part) for part in parts))
    for key in keys:
        shapes = {part[key].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise DataError(f"{path}: {key} must have one shape in all episodes; got {sorted(shapes)}.")
    return keys
