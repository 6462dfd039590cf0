"""Parts of a shield that are code (a twin, a backup policy, a denoiser) as data: an import path and plain options.

A function of a module travels as its path; an instance of a dataclass as the path of its class and its fields, which
may be parts again. Nothing is pickled: the machine that loads a shield must have the code that it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from saferl.errors import ArtefactError, ConfigError

_PATH, _OPTIONS, _ARRAY = "path", "options", "array"


def describe_part(part: Any, what: str) -> Any:
    """``part`` in plain JSON types; :func:`restore_part` is the inverse.

    Args:
        part: None, plain data, an array, a function or class of a module, or an instance of a dataclass.
        what: What it is, for the message.

    Raises:
        ConfigError: a lambda, a closure, a bound method or another object that no import path leads to.
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, np.ndarray):
        return {_ARRAY: part.tolist()}
    if isinstance(part, list | tuple):
        return [describe_part(item, what) for item in part]
    if is_dataclass(part) and not isinstance(part, type):
        options = {field.name: describe_part(getattr(part, field.name), what) for field in fields(part) if field.init}
        return {_PATH: _path_of(type(part), what), _OPTIONS: options}
    return {_PATH: _path_of(part, what)}


def restore_part(data: Any, what: str) -> Any:
    """The part that :func:`describe_part` described.

    Raises:
        ArtefactError: its module or name is not there, or it has options and is no dataclass.
    """
    if isinstance(data, list):
        return [restore_part(item, what) for item in data]
    if not isinstance(data, Mapping):
        return data
    if _ARRAY in data:
        return np.array(data[_ARRAY])
    module, _, name = str(data[_PATH]).partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in name.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise ArtefactError(
            f"The {what} of this shield is code at {data[_PATH]!r}, which must be importable here; {error}. "
            "Install the package that has it."
        ) from error
    if _OPTIONS not in data:
        return found
    if not (isinstance(found, type) and is_dataclass(found)):  # an artefact must not call whatever it names
        raise ArtefactError(f"The {what} of this shield must be made by a dataclass; {data[_PATH]!r} is none.")
    return found(**{key: restore_part(value, what) for key, value in data[_OPTIONS].items()})


def _path_of(part: Any, what: str) -> str:
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not module or not name or "<" in name or getattr(part, "__self__", None) is not None:
        raise ConfigError(
            f"To be saved, the {what} of a shield must be a function of a module or an instance of a dataclass; "
            f"got {part!r}. Move it to a module, or make its class a dataclass."
        )
    return f"{module}:{name}"
