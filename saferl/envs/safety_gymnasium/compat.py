"""Load the published safety-gymnasium 1.0.0 on today's Python, gymnasium, mujoco and numpy.

Three things stand in the way, and each has its remedy here:

1. The package's root ``__init__`` imports gymnasium modules that no longer exist. :func:`load` puts a bare module, with
   the right ``__path__`` and ``__file__`` but nothing executed, in its place; every sub-package runs unchanged.
2. Its dataclasses have arrays as defaults, which Python 3.11 refuses. While sub-modules are imported, and only then,
   ``dataclasses.dataclass`` turns such defaults into factories.
3. Each compile decodes six skybox images, 99 % of a reset, though without rendering nobody sees them.
   :func:`without_textures` removes textures from a model's XML; the physics does not depend on them.

Nothing of the package is changed on disk or patched for good, so code that imported it before keeps what it had.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NoReturn
from xml.etree import ElementTree

from saferl.errors import MissingExtraError, UsageError

DISTRIBUTION = "safety-gymnasium"
VERSION = "1.0.0"
ROOT = "safety_gymnasium"
_INSTALL = (
    f"With pip: pip install --no-deps {DISTRIBUTION}=={VERSION}, after pip install 'saferl[train]'. "
    "With uv: it is in the default dependency group 'benchmark-envs', so run uv sync."
)
_lock = threading.RLock()


def load(submodule: str) -> ModuleType:
    """The module ``safety_gymnasium.<submodule>``, imported on first use.

    Example:
        >>> load("builder").Builder.__name__
        'Builder'

    Args:
        submodule: Dotted name below the package, for example ``"builder"``.

    Raises:
        UsageError: safety-gymnasium is not installed, or is not version 1.0.0.
        MissingExtraError: something that it imports is not installed.
    """
    name = f"{ROOT}.{submodule}"
    with _lock:
        if ROOT in sys.modules and name in sys.modules:
            return sys.modules[name]
        require_installed()
        with _undone_on_error(), _array_defaults_allowed():
            if ROOT not in sys.modules:
                _forget(_loaded())  # remains of an import that failed
                sys.modules[ROOT] = _bare_root()
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] == ROOT:
                    raise
                raise MissingExtraError(DISTRIBUTION, error.name, "train") from error


def require_installed() -> None:
    """Return if the one version that this module knows is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(f"This env needs {DISTRIBUTION} {VERSION}, which is not installed. {_INSTALL}") from error
    if version != VERSION:
        raise UsageError(
            f"This env needs {DISTRIBUTION} {VERSION}, the version whose tasks are published; got {version}. {_INSTALL}"
        )


def without_textures(xml: str) -> str:
    """The MuJoCo model ``xml`` without textures; materials stay, so that what refers to them still compiles.

    Example:
        >>> without_textures('<mujoco><asset><texture name="t"/><material name="m" texture="t"/></asset></mujoco>')
        '<mujoco><asset><material name="m" /></asset></mujoco>'
    """
    root = ElementTree.fromstring(xml)
    for asset in root.iter("asset"):
        for texture in asset.findall("texture"):
            asset.remove(texture)
        for material in asset.findall("material"):
            material.attrib.pop("texture", None)
    return ElementTree.tostring(root, encoding="unicode")


def _bare_root() -> ModuleType:
    """A module for the package's root whose code has not run."""
    spec = importlib.util.find_spec(ROOT)
    if spec is None or spec.origin is None:
        raise UsageError(f"{DISTRIBUTION} {VERSION} is listed as installed, but its files are missing. {_INSTALL}")
    root = importlib.util.module_from_spec(spec)
    root.__dict__["__getattr__"] = _explain_missing
    return root


def _explain_missing(attribute: str) -> NoReturn:
    raise AttributeError(
        f"module {ROOT!r} has no attribute {attribute!r}: saferl loaded it without running its __init__, which needs "
        "gymnasium modules that no longer exist. Make its environments with saferl.make."
    )


@contextmanager
def _array_defaults_allowed() -> Iterator[None]:
    """Let the package's dataclasses have unhashable defaults; every instance gets its own copy."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return partial(dataclass, **options)
        if cls.__module__.partition(".")[0] == ROOT:
            for name in inspect.get_annotations(cls):
                default = cls.__dict__.get(name)
                if type(default).__hash__ is None:
                    setattr(cls, name, dataclasses.field(default_factory=partial(copy.deepcopy, default)))
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def _undone_on_error() -> Iterator[None]:
    """Leave ``sys.modules`` as it was if the body raises."""
    before = _loaded()
    try:
        yield
    except BaseException:
        _forget(_loaded())
        sys.modules.update(before)
        raise


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == ROOT}


def _forget(modules: dict[str, ModuleType]) -> None:
    for name in modules:
        del sys.modules[name]
