"""Data sets of transitions: flat arrays, episode after episode, checked when they are made.

Costs are vectors: their last axis is always the constraint. A time limit (``timeouts``) is never a terminal state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import DataError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

REQUIRED = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
"""Arrays that every data set has."""
OPTIONAL = ("h", "next_h", "log_probs")
"""Arrays that one may have."""


@dataclass(frozen=True)
class DatasetMetadata:
    """Where data come from; DSRL's own files say nothing of it."""

    env_id: str | None = None
    """Name of the environment, None if nobody says."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments (plain JSON values)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that collected."""
    seeds: tuple[int, ...] = ()
    """Seeds of the collection."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """Budgets of the environment by name of the cost, per episode."""
    behaviours: tuple[str, ...] = ()
    """Who collected each episode, or nobody says."""
    note: str = ""
    """What else there is to say."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "seeds": list(self.seeds), "behaviours": list(self.behaviours)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote; keys of later versions are left out."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        for key in ("seeds", "behaviours"):
            values[key] = tuple(values.get(key, ()))
        return cls(**values)


@dataclass(frozen=True)
class Dataset:
    """N transitions of E whole episodes; use :meth:`from_arrays`, which checks them.

    Example:
        >>> data = Dataset.from_arrays(
        ...     observations=[[0.0], [1.0]], next_observations=[[1.0], [2.0]], actions=[[0.1], [0.2]],
        ...     rewards=[1.0, 1.0], costs=[0.0, 1.0], terminals=[False, False], timeouts=[False, True],
        ... )
        >>> data.num_episodes, data.returns().tolist(), data.cost_returns().tolist()
        (1, [2.0], [[1.0]])
    """

    observations: Floats
    """(N, ...), in env units."""
    next_observations: Floats
    """(N, ...); at an episode's end the last one, not the first of the next episode."""
    actions: Floats
    """(N, A), as they were executed."""
    rewards: Floats
    """(N,)."""
    costs: Floats
    """(N, C)."""
    terminals: Bools
    """(N,): the task ended in the next state."""
    timeouts: Bools
    """(N,): the episode was cut there; the task did not end."""
    cost_names: tuple[str, ...]
    """Names of the constraints, (C,)."""
    h: Floats | None = None
    """Signed margins of the state before the action, (N, C), > 0 where a constraint is violated; None if unknown."""
    next_h: Floats | None = None
    """Those of the next state."""
    log_probs: Floats | None = None
    """Log density of the behaviour's actions, (N,); None if unknown."""
    metadata: DatasetMetadata = DatasetMetadata()
    """Where it comes from."""

    @classmethod
    def from_arrays(
        cls,
        *,
        cost_names: tuple[str, ...] | None = None,
        metadata: DatasetMetadata | None = None,
        source: str = "the data set",
        **arrays: Any,
    ) -> Self:
        """A checked data set.

        Args:
            cost_names: Of the last axis of ``costs``; ``cost`` (and ``cost_1`` and so on for several) if None.
            metadata: Where it comes from.
            source: What errors call it: the file's path, say.
            **arrays: By the names of the attributes; vectors may come as (N, 1), costs as (N,).

        Raises:
            DataError: a missing key, wrong shapes or kinds, numbers that are not finite, or no episode's end. A tail
                that has no end is one: mark its last row as a timeout.
        """
        unknown = sorted(set(arrays) - set(REQUIRED) - set(OPTIONAL))
        missing = [key for key in REQUIRED if arrays.get(key) is None]
        if unknown or missing:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(unknown)}"
            raise DataError(f"{source} {what}. A data set has {', '.join(REQUIRED)}, and maybe {', '.join(OPTIONAL)}.")
        taken = {key: _array(source, key, value) for key, value in arrays.items() if value is not None}
        _check_shapes(source, taken)
        _check_values(source, taken)
        _check_ends(source, taken)
        width = taken["costs"].shape[1]
        names = cost_names or ("cost", *(f"cost_{i}" for i in range(1, width)))
        if len(names) != width or len(set(names)) < width:
            raise DataError(f"{source}: costs have {width} columns, which need as many names; got {names}.")
        data = cls(**taken, cost_names=tuple(names), metadata=metadata or DatasetMetadata())
        labels = data.metadata.behaviours
        if labels and len(labels) != data.num_episodes:
            raise DataError(f"{source}: {data.num_episodes} episodes need as many behaviours; got {len(labels)}.")
        return data

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rewards)

    @property
    def episode_ends(self) -> Indices:
        """One past the last transition of each episode, (E,)."""
        return np.flatnonzero(self.terminals | self.timeouts) + 1

    @property
    def episode_starts(self) -> Indices:
        """First transition of each episode, (E,)."""
        return np.concatenate([[0], self.episode_ends[:-1]])

    @property
    def num_episodes(self) -> int:
        """Number of episodes E."""
        return int(np.count_nonzero(self.terminals | self.timeouts))

    def returns(self) -> npt.NDArray[np.float64]:
        """Undiscounted returns, (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    def cost_returns(self) -> npt.NDArray[np.float64]:
        """Undiscounted cost sums, (E, C)."""
        return np.add.reduceat(self.costs.astype(np.float64), self.episode_starts, axis=0)

    def select(self, episodes: npt.ArrayLike) -> Self:
        """The given episodes, in that order.

        Args:
            episodes: Indices, or one bool per episode.

        Raises:
            DataError: nothing is selected.
        """
        chosen = np.asarray(episodes)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if not len(chosen):
            raise DataError(f"No episode of {self.num_episodes} is selected. Ask for less.")
        starts, ends = self.episode_starts[chosen], self.episode_ends[chosen]
        rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        arrays = {key: value[rows] for key, value in self.arrays().items()}
        labels = self.metadata.behaviours
        metadata = replace(self.metadata, behaviours=tuple(labels[i] for i in chosen)) if labels else self.metadata
        return replace(self, **arrays, metadata=metadata)

    def with_metadata(self, metadata: DatasetMetadata) -> Self:
        """The same data with other metadata.

        Raises:
            DataError: another number of behaviours than of episodes.
        """
        if metadata.behaviours and len(metadata.behaviours) != self.num_episodes:
            raise DataError(f"{self.num_episodes} episodes need as many behaviours; got {len(metadata.behaviours)}.")
        return replace(self, metadata=metadata)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays that it has, by name."""
        found = {key: getattr(self, key) for key in (*REQUIRED, *OPTIONAL)}
        return {key: value for key, value in found.items() if value is not None}

    def digest(self) -> str:
        """SHA-256 of all arrays, their names, kinds and shapes."""
        digest = hashlib.sha256()
        for key, value in sorted(self.arrays().items()):
            digest.update(f"{key} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


_VECTORS = ("rewards", "terminals", "timeouts", "log_probs")
_FLAGS = ("terminals", "timeouts")


def _array(source: str, key: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """The array in its own kind and number of axes."""
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise DataError(f"{source}: {key} must hold numbers; got {array.dtype}.")
    if array.ndim == 0:
        raise DataError(f"{source}: {key} must have one row per transition; got a single value.")
    if key in _VECTORS and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if key in ("costs", "h", "next_h", "actions") and array.ndim == 1:
        array = array[:, None]
    if key not in _FLAGS:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused below
            return np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        row = int(np.flatnonzero(~np.isin(array, (0, 1)).reshape(len(array), -1).all(axis=1))[0])
        raise DataError(f"{source}: {key} must be 0 or 1; row {row} is {array[row]}.")
    return np.ascontiguousarray(array, dtype=np.bool_)


def _check_shapes(source: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    count = len(arrays["rewards"])
    for key, array in arrays.items():
        if len(array) != count:
            raise DataError(
                f"{source}: every key needs one row per transition; rewards have {count}, {key} {len(array)}."
            )
        axes = 1 if key in _VECTORS else 2
        if array.ndim != axes and key not in ("observations", "next_observations"):
            raise DataError(f"{source}: {key} must have {axes} axes; got shape {array.shape}.")
    if count == 0:
        raise DataError(f"{source} holds no transition.")
    for key, like in (("next_observations", "observations"), ("h", "costs"), ("next_h", "costs")):
        if key in arrays and arrays[key].shape != arrays[like].shape:
            raise DataError(
                f"{source}: {key} must have the shape of {like}, {arrays[like].shape}; got {arrays[key].shape}."
            )
    if arrays["costs"].shape[1] == 0:
        raise DataError(f"{source}: costs need at least one column.")


def _check_values(source: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for key, array in arrays.items():
        if array.dtype == np.bool_:
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{source}: {key} must be finite; row {row} (of {int(bad.sum())} such rows) is {array[row]}. Remove "
                "the episodes, or mend what wrote them."
            )


def _check_ends(source: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    ends = arrays["terminals"] | arrays["timeouts"]
    if not ends.any():
        raise DataError(
            f"{source} marks no episode's end. Set timeouts where episodes were cut, terminals where they ended."
        )
    if not ends[-1]:
        last = int(np.flatnonzero(ends)[-1])
        raise DataError(
            f"{source}: the {len(ends) - 1 - last} rows after row {last} belong to an episode without an end. Mark the "
            "last row as a timeout, or drop them."
        )
