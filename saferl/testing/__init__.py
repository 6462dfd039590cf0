"""Public conformance checks and probe environments with known optima, for our tests and for yours.

Everything that needs gymnasium is loaded on first use.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec as _find_module
from typing import TYPE_CHECKING, Any

from saferl.errors import MissingExtraError

if TYPE_CHECKING:
    from saferl.testing.env_checker import check_env
    from saferl.testing.probes import BanditProbe, LoopProbe, Optimum, bandit_probe, loop_probe
    from saferl.testing.reports import EnvCheckReport, Problem

_LAZY = {
    "BanditProbe": "saferl.testing.probes",
    "EnvCheckReport": "saferl.testing.reports",
    "LoopProbe": "saferl.testing.probes",
    "Optimum": "saferl.testing.probes",
    "Problem": "saferl.testing.reports",
    "bandit_probe": "saferl.testing.probes",
    "check_env": "saferl.testing.env_checker",
    "loop_probe": "saferl.testing.probes",
}

__all__ = [
    "BanditProbe",
    "EnvCheckReport",
    "LoopProbe",
    "Optimum",
    "Problem",
    "bandit_probe",
    "check_env",
    "loop_probe",
]


def __getattr__(name: str) -> Any:
    """Load what needs gymnasium on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _find_module("gymnasium") is None:
        raise MissingExtraError(f"saferl.testing.{name}", "gymnasium", "train")
    return getattr(importlib.import_module(_LAZY[name]), name)
