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
    from saferl.testing.reports import EnvCheckReport, Problem, ShieldCheckReport, SolverCheckReport
    from saferl.testing.route_probes import CorridorProbe, TimeLimitProbe, corridor_probe, time_limit_probe
    from saferl.testing.shield_checker import ShieldCase, ShieldPlant, check_shield
    from saferl.testing.solver_checker import check_solver

_LAZY = {
    "BanditProbe": "saferl.testing.probes",
    "CorridorProbe": "saferl.testing.route_probes",
    "EnvCheckReport": "saferl.testing.reports",
    "LoopProbe": "saferl.testing.probes",
    "Optimum": "saferl.testing.probes",
    "Problem": "saferl.testing.reports",
    "ShieldCase": "saferl.testing.shield_checker",
    "ShieldCheckReport": "saferl.testing.reports",
    "ShieldPlant": "saferl.testing.shield_checker",
    "SolverCheckReport": "saferl.testing.reports",
    "TimeLimitProbe": "saferl.testing.route_probes",
    "bandit_probe": "saferl.testing.probes",
    "check_env": "saferl.testing.env_checker",
    "check_shield": "saferl.testing.shield_checker",
    "check_solver": "saferl.testing.solver_checker",
    "corridor_probe": "saferl.testing.route_probes",
    "loop_probe": "saferl.testing.probes",
    "time_limit_probe": "saferl.testing.route_probes",
}

_NUMPY_ONLY = {"Problem", "ShieldCase", "ShieldCheckReport", "ShieldPlant", "check_shield"}

__all__ = [
    "BanditProbe",
    "CorridorProbe",
    "EnvCheckReport",
    "LoopProbe",
    "Optimum",
    "Problem",
    "ShieldCase",
    "ShieldCheckReport",
    "ShieldPlant",
    "SolverCheckReport",
    "TimeLimitProbe",
    "bandit_probe",
    "check_env",
    "check_shield",
    "check_solver",
    "corridor_probe",
    "loop_probe",
    "time_limit_probe",
]


def __getattr__(name: str) -> Any:
    """Load what needs gymnasium on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _NUMPY_ONLY and _find_module("gymnasium") is None:
        raise MissingExtraError(f"saferl.testing.{name}", "gymnasium", "train")
    return getattr(importlib.import_module(_LAZY[name]), name)
