"""Options as frozen dataclasses: one definition serves the code, the CLI and the docs.

Each field carries a docstring (unit, range) under it; :func:`describe` reads them for ``--help`` and the docs.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from saferl.errors import ConfigError, UnknownNameError

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Option:
    """One field of a config, as the CLI and the docs show it."""

    name: str
    type: str
    default: Any
    help: str


def from_mapping(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config from parsed values (TOML, JSON, keyword arguments).

    Raises:
        UnknownNameError: a key that is not a field.
        ConfigError: a value of the wrong type, or none for a field without default.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise UnknownNameError(f"option of {cls.__name__}", key, names)
        checked[key] = _coerce(value, hints[key], f"{cls.__name__}.{key}")
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name not in checked and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{cls.__name__}.{field.name} must be {_name(hints[field.name])}; got nothing. Give it.")
    return cls(**checked)


def from_assignments(cls: type[ConfigT], assignments: list[str], base: Mapping[str, Any] | None = None) -> ConfigT:
    """Build a config from ``KEY=VALUE`` strings (``--set``), on top of the values of ``base``."""
    return from_mapping(cls, {**(base or {}), **parse_assignments(assignments)})


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` strings as a mapping.

    Values are read as JSON where that is possible (``0.1``, ``true``, ``[64, 64]``, ``null``), else as text.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ConfigError(f"An option must look like KEY=VALUE; got {assignment!r}.")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


def describe(cls: type[Any]) -> list[Option]:
    """The fields of a config with type, default and the docstring under each."""
    docs: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        docs.update(_field_docs(base))
    options = []
    for field in fields(cls):
        default = field.default if field.default is not MISSING else None
        if field.default_factory is not MISSING:
            default = field.default_factory()
        options.append(Option(field.name, str(field.type), default, docs.get(field.name, "")))
    return options


def check_ranges(
    config: Any, *, positive: Iterable[str] = (), non_negative: Iterable[str] = (), unit: Iterable[str] = ()
) -> None:
    """Raise if an option lies outside its range; None passes.

    Args:
        config: A config dataclass.
        positive: Options that must be > 0.
        non_negative: Options that must be >= 0.
        unit: Options that must lie in [0, 1].

    Raises:
        ConfigError: naming the first option out of range.
    """
    for names, words, low, high in (
        (positive, "greater than 0", math.ulp(0.0), math.inf),
        (non_negative, "at least 0", 0.0, math.inf),
        (unit, "in [0, 1]", 0.0, 1.0),
    ):
        for name in names:
            value = getattr(config, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{type(config).__name__}.{name} must be {words}; got {value:g}.")


def _field_docs(cls: type[Any]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Check ``value`` against a type hint; ints become floats and lists tuples where the hint asks for them."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _coerce(value, option, where)
            except ConfigError:
                continue
    elif origin is Literal:
        if any(type(value) is type(arg) and value == arg for arg in args):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
            if len(inner) == len(value):
                return tuple(_coerce(v, h, where) for v, h in zip(value, inner, strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif origin is dict:
        if isinstance(value, dict):
            return value
    elif hint is type(None):
        if value is None:
            return None
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} must be {_name(hint)}; got {value!r}.")


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(hint))
    if hint is float:
        return "a finite number"
    if get_origin(hint) is not None:
        return str(hint).replace("typing.", "")
    return getattr(hint, "__name__", str(hint))
