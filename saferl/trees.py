"""Trees of plain values and numpy arrays as two files, without pickle: reading them runs no code.

``NAME.json`` holds the tree with a reference in place of every array, ``NAME.safetensors`` the arrays, bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from saferl.errors import RunFolderError

Tree = Any
"""Dicts with string keys, lists and tuples (read back as lists), numpy arrays, int, float, str, bool, None."""
_REFERENCE = "__array__"


def write_tree(folder: Path, name: str, tree: Tree) -> None:
    """Write ``tree`` as two files into ``folder``.

    Raises:
        TypeError: something that is not part of a :data:`Tree`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_tree(folder, "state", {"steps": 3, "sums": np.zeros(2)})
        >>> read_tree(folder, "state")
        {'steps': 3, 'sums': array([0., 0.])}
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    plain = _without_arrays(tree, arrays, "")
    save_file(arrays, folder / f"{name}.safetensors")
    # Numbers that JSON does not have (a NaN in a log) are written as Python reads them back.
    (folder / f"{name}.json").write_text(json.dumps(plain) + "\n", encoding="utf-8")


def read_tree(folder: Path, name: str) -> Tree:
    """What :func:`write_tree` wrote.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    try:
        plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return _with_arrays(plain, load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunFolderError(
            f"The state {folder / name} cannot be read ({error}). It is damaged or incomplete."
        ) from error


def require_tree(tree: Tree) -> None:
    """Return if ``tree`` can be written.

    Raises:
        TypeError: naming the part that cannot.
    """
    _without_arrays(tree, {}, "")


def _without_arrays(value: Tree, arrays: dict[str, npt.NDArray[Any]], path: str) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"A state tree has string keys; got {sorted(map(repr, value))} at {path or 'the top'}.")
        return {key: _without_arrays(part, arrays, f"{path}/{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(part, arrays, f"{path}/{index}") for index, part in enumerate(value)]
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            raise TypeError(f"A state tree has arrays of numbers; got one of Python objects at {path}.")
        arrays[path] = np.ascontiguousarray(value).reshape(value.shape)
        return {_REFERENCE: path}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A state tree has numbers, strings and arrays; got {type(value).__name__} at {path or 'the top'}.")


def _with_arrays(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Tree:
    if isinstance(value, dict):
        if value.keys() == {_REFERENCE}:
            return arrays[value[_REFERENCE]]
        return {key: _with_arrays(part, arrays) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_arrays(part, arrays) for part in value]
    return value
