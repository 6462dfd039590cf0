"""Units that filter actions at execution time, and the table of their names.

Packages add theirs through the entry-point group ``saferl.shields``. The units load on first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from saferl.registry import Registry
from saferl.shields import storage
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import ActionSpec, ShieldContext, ShieldDecision, ShieldSpec, Twin
from saferl.shields.storage import save_shield

SHIELDS = Registry("shield", "saferl.shields")
for _name, _facts in CATALOGUE.items():
    SHIELDS.register(_name, _facts.target, summary=_facts.summary)

_LAZY = {facts.target.partition(":")[2]: facts.target.partition(":")[0] for facts in CATALOGUE.values()}

__all__ = [
    "SHIELDS",
    "ActionSpec",
    "Ruling",
    "Shield",
    "ShieldContext",
    "ShieldData",
    "ShieldDecision",
    "ShieldSpec",
    "Twin",
    "load_shield",
    "save_shield",
    *sorted(_LAZY),
]


def load_shield(folder: str | Path) -> Shield:
    """Read a shield that :func:`save_shield` wrote; see :func:`saferl.shields.storage.load_shield` for its errors."""
    return storage.load_shield(Path(folder), SHIELDS)


def __getattr__(name: str) -> Any:
    """Load a unit on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
