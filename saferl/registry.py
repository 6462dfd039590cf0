"""Names for environments, solvers and shields, ours and those of installed plug-ins.

A plug-in registers through an entry point, without a fork::

    [project.entry-points."saferl.solvers"]
    my_solver = "my_package.my_solver:MySolver"

or at run time with :meth:`Registry.register`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from saferl.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    name: str
    """The name that users type."""
    target: Any
    """The object, or a string ``"package.module:attribute"`` that is imported on first use."""
    summary: str = ""
    """One line for ``saferl list``."""
    source: str = "saferl"
    """The distribution that registered it."""

    def load(self) -> Any:
        """The object behind the name."""
        return load_object(self.target) if isinstance(self.target, str) else self.target


class Registry:
    """A table of names that also looks into the entry points of installed packages.

    Example:
        >>> solvers = Registry("solver", "saferl.solvers")
        >>> solvers.register("answer", 42, summary="Not a solver.")
        >>> solvers.load("answer")
        42
    """

    def __init__(self, what: str, group: str) -> None:
        """Make an empty table; ``what`` names one entry in messages, ``group`` is the entry-point group."""
        self.what = what
        self.group = group
        self._entries: dict[str, Entry] = {}
        self._plugins: dict[str, Entry] | None = None

    def register(self, name: str, target: Any, *, summary: str = "", source: str = "saferl") -> None:
        """Add a name; one that is taken is an error."""
        if name in self._entries:
            raise UsageError(f"The {self.what} {name!r} is already registered. Choose another name.")
        self._entries[name] = Entry(name, target, summary, source)

    @contextmanager
    def temporarily(self, name: str, target: Any) -> Iterator[None]:
        """Register ``name`` for the duration of a block."""
        self.register(name, target)
        try:
            yield
        finally:
            del self._entries[name]

    def get(self, name: str) -> Entry:
        """The entry of ``name``; an unknown name is answered with "did you mean"."""
        table = self.entries()
        if name not in table:
            raise UnknownNameError(self.what, name, table)
        return table[name]

    def load(self, name: str) -> Any:
        """The object that ``name`` stands for."""
        return self.get(name).load()

    def entries(self) -> dict[str, Entry]:
        """All entries by name: our own first, then those of plug-ins (which cannot shadow ours)."""
        if self._plugins is None:
            self._plugins = {point.name: _entry_of(point) for point in entry_points(group=self.group)}
        return {**self._plugins, **self._entries}

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is registered."""
        return name in self.entries()

    def __iter__(self) -> Iterator[str]:
        """Sorted names."""
        return iter(sorted(self.entries()))


def load_object(path: str) -> Any:
    """Import ``"package.module:attribute"``; what is wrong with the path is said in one error."""
    module_name, _, attribute = path.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise UsageError(f"An import path must look like 'package.module:name'; got {path!r}.")
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"Cannot import {module_name!r} of {path!r}: {error}. It must be importable from the current folder "
            "or installed."
        ) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise UnknownNameError(f"attribute of {module_name!r}:", part, [n for n in dir(target) if n[0] != "_"])
        target = getattr(target, part)
    return target


def _entry_of(point: EntryPoint) -> Entry:
    source = point.dist.name if point.dist is not None else "plug-in"
    return Entry(point.name, point.value, summary=f"from {source}", source=source)
