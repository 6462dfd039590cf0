"""Safe, constrained reinforcement learning: train under budgets, evaluate with statistics, report.

``import saferl`` loads neither torch nor mujoco; each name below loads what it needs on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saferl.constraints import Constraint, ConstraintSet
    from saferl.envs import make, make_vec
    from saferl.evaluation import evaluate
    from saferl.policy import load
    from saferl.report import build_report
    from saferl.training import resume, train

__version__ = "0.1.0"

_LAZY = {
    "Constraint": "saferl.constraints",
    "ConstraintSet": "saferl.constraints",
    "build_report": "saferl.report",
    "evaluate": "saferl.evaluation",
    "load": "saferl.policy",
    "make": "saferl.envs",
    "make_vec": "saferl.envs",
    "resume": "saferl.training",
    "train": "saferl.training",
}

__all__ = ["Constraint", "ConstraintSet", "build_report", "evaluate", "load", "make", "make_vec", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        from saferl.errors import missing_extra

        raise missing_extra(error, f"saferl.{name}") or error from error


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted([*__all__, "__version__"])
