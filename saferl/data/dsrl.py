"""DSRL's file layout: one flat HDF5 file per task, read with all its quirks, written with what it leaves unsaid.

DSRL (Liu, Guo, Lin and others, 2023, arXiv 2306.09303) keeps ``observations``, ``next_observations``, ``actions``,
``rewards``, ``costs``, ``terminals`` and ``timeouts`` at the root, gzipped, one row per transition; vectors may come as
(N, 1) and flags as bytes. It names no environment, no seed, no budget, and holds one cost only.

What :func:`write_dsrl` adds, so that any reader of DSRL's files reads ours: ``h``, ``next_h`` and ``log_probs``;
``vector_costs`` (N, C) where there are several costs (``costs`` is the first one then); and the attributes ``schema``,
``cost_names``, ``metadata`` (JSON) and ``sha256`` of all arrays.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import OPTIONAL, REQUIRED, Dataset, DatasetMetadata
from saferl.errors import DataError

if TYPE_CHECKING:
    import h5py

SCHEMA = "saferl.data/1"
ENDINGS = (".hdf5", ".h5")
"""Endings of data files."""
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)
"""What h5py raises on damaged files."""
_PLAIN = "Write it plainly: saferl data convert {path} --to dsrl --compression 0 --out NEW.hdf5"


def load_dataset(path: str | Path, *, memory_map: bool = False) -> Dataset:
    """The data set in a file of DSRL's layout or in a folder of Minari's.

    Args:
        path: The file or folder.
        memory_map: Leave the arrays of an uncompressed file on the disk, and read from there what is used.

    Raises:
        DataError: no file there, not HDF5, or content that :class:`~saferl.data.Dataset` refuses.

    Example:
        >>> data = load_dataset("data/pr.hdf5")  # doctest: +SKIP
    """
    from saferl.data.minari import is_minari_folder, read_minari

    if not is_minari_folder(path):
        return read_dsrl(path, memory_map=memory_map)
    if memory_map:
        raise DataError(f"{path} cannot be memory-mapped: it is Minari's. {_PLAIN.format(path=path)}")
    return read_minari(path)


def is_data_file(name: str | Path) -> bool:
    """Whether ``name`` is that of a data file or folder, rather than of an environment."""
    from saferl.data.minari import is_minari_folder

    return str(name).lower().endswith(ENDINGS) or is_minari_folder(name)


def read_dsrl(path: str | Path, *, memory_map: bool = False) -> Dataset:
    """The data set in an HDF5 file of DSRL's layout, DSRL's own or ours.

    A tail without an end is kept, its last row marked as a timeout, with a warning: other readers drop it silently.

    Args:
        path: The file.
        memory_map: Leave the arrays on the disk; the file must be written with ``compression=0``. It is read through
            once, to be checked, but not held.

    Raises:
        DataError: no file there, not HDF5 or cut short, a missing key, or content that is refused; naming file, key and
            row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"The data file must exist; {path} does not. 'saferl collect' makes one.")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            keys = [key for key in (*REQUIRED, *OPTIONAL, "vector_costs") if key in file]
            arrays = {key: _read(path, file, key, memory_map) for key in keys}
            attributes = dict(file.attrs)
    except _HDF5_ERRORS as error:
        raise DataError(
            f"The data file {path} is not HDF5, or was cut short ({error}). Copy or collect it again."
        ) from error
    names, metadata = _describe(path, attributes)
    if "vector_costs" in arrays:
        arrays["costs"] = arrays.pop("vector_costs")
    _close_tail(path, arrays)
    data = Dataset.from_arrays(**arrays, cost_names=names, metadata=metadata, source=str(path))
    expected = attributes.get("sha256")
    if expected is not None and expected != data.digest():
        raise DataError(
            f"The arrays of {path} were changed after it was written (their SHA-256 differs). Collect again."
        )
    return data


def write_dsrl(dataset: Dataset, path: str | Path, *, compression: int = 4) -> Path:
    """Write ``dataset``, whole or not at all.

    Args:
        dataset: What to write.
        path: The file; one that exists is refused.
        compression: Level of gzip, 1 to 9; 0 writes plain arrays, which can be memory-mapped.

    Raises:
        DataError: ``path`` exists or cannot be written.
    """
    import h5py

    path = Path(path)
    if path.exists():
        raise DataError(f"The data file {path} exists already. Give another name, or move it away.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            arrays = dataset.arrays()
            if dataset.costs.shape[1] > 1:
                arrays["vector_costs"] = dataset.costs
            arrays["costs"] = dataset.costs[:, 0]
            for key, array in arrays.items():
                how = {"compression": "gzip", "compression_opts": compression} if compression else {}
                file.create_dataset(key, data=array, **how)
            file.attrs["schema"] = SCHEMA
            file.attrs["cost_names"] = json.dumps(list(dataset.cost_names))
            file.attrs["metadata"] = json.dumps(dataset.metadata.to_dict())
            file.attrs["sha256"] = dataset.digest()
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be written ({error}). Give another name.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read(path: Path, file: h5py.File, key: str, memory_map: bool) -> npt.NDArray[Any]:
    entry = file[key]
    if not hasattr(entry, "dtype"):
        raise DataError(f"{path}: {key} must be an array; got a group. DSRL's files keep their arrays at the root.")
    if entry.dtype.kind not in "buif":
        raise DataError(f"{path}: {key} must hold numbers; got {entry.dtype}.")
    if memory_map:
        offset = entry.id.get_offset() if entry.chunks is None else None
        if offset is None:
            raise DataError(f"{path} cannot be memory-mapped: {key} is compressed. {_PLAIN.format(path=path)}")
        return np.memmap(path, dtype=entry.dtype, mode="r", offset=offset, shape=entry.shape)
    try:
        return np.asarray(entry[()])
    except _HDF5_ERRORS as error:
        raise DataError(
            f"{path}: {key} cannot be read ({error}). The file is damaged: copy or collect it again."
        ) from error


def _describe(path: Path, attributes: dict[str, Any]) -> tuple[tuple[str, ...] | None, DatasetMetadata]:
    """Names of costs and metadata; nothing is known of a file of DSRL's own."""
    schema = attributes.get("schema")
    if schema is None:
        return None, DatasetMetadata()
    if schema != SCHEMA:
        raise DataError(f"{path} must have the schema {SCHEMA}; got {schema!r}. Read it with a newer saferl.")
    try:
        names = tuple(json.loads(attributes["cost_names"]))
        return names, DatasetMetadata.from_dict(json.loads(attributes["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its attributes cannot be read ({error}). Collect it again.") from error


def _close_tail(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    if not {"terminals", "timeouts"} <= arrays.keys() or not len(arrays["timeouts"]):
        return
    ends = arrays["terminals"].reshape(-1).astype(bool) | arrays["timeouts"].reshape(-1).astype(bool)
    if ends.any() and not ends[-1]:
        rows = len(ends) - 1 - int(np.flatnonzero(ends)[-1])
        warnings.warn(
            f"{path}: its last {rows} rows have no end; they are kept as an episode that was cut.", stacklevel=3
        )
        closed = arrays["timeouts"].copy()
        closed[-1] = 1
        arrays["timeouts"] = closed
