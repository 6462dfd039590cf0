"""Environments with costs: ``make``, ``make_vec``, the catalogue and the adapters.

Everything that needs gymnasium is loaded on first use, so the catalogue can be listed without it.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec as _find_module
from typing import TYPE_CHECKING, Any

from saferl.envs.registry import ENVS, register
from saferl.envs.spec import EnvSpec
from saferl.errors import MissingExtraError

if TYPE_CHECKING:
    from saferl.envs.adapters import CostContract, CostFunction, SixTupleAdapter
    from saferl.envs.core import make
    from saferl.envs.vector import CostVectorEnv, make_vec

_LAZY = {
    "CostContract": "saferl.envs.adapters",
    "CostFunction": "saferl.envs.adapters",
    "CostVectorEnv": "saferl.envs.vector",
    "SixTupleAdapter": "saferl.envs.adapters",
    "make": "saferl.envs.core",
    "make_vec": "saferl.envs.vector",
}

__all__ = [
    "ENVS",
    "CostContract",
    "CostFunction",
    "CostVectorEnv",
    "EnvSpec",
    "SixTupleAdapter",
    "make",
    "make_vec",
    "register",
]


def __getattr__(name: str) -> Any:
    """Load what needs gymnasium on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _find_module("gymnasium") is None:
        raise MissingExtraError(f"saferl.envs.{name}", "gymnasium", "train")
    return getattr(importlib.import_module(_LAZY[name]), name)


if _find_module("gymnasium") is not None:
    from saferl.envs.core import register_with_gymnasium

    register_with_gymnasium()
