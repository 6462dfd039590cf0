"""Algorithms that train against constrained environments, and the table of their names.

Solvers load torch on first use; the table does not.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from saferl.errors import MissingExtraError
from saferl.registry import Registry

if TYPE_CHECKING:
    from saferl.solvers.ppo import UnconstrainedPPO
    from saferl.solvers.ppo_lag import PPOLag

SOLVERS = Registry("solver", "saferl.solvers")
SOLVERS.register(
    "ppo", "saferl.solvers.ppo:UnconstrainedPPO", summary="PPO of Stable-Baselines3; ignores costs (the baseline)."
)
SOLVERS.register(
    "ppo_lag", "saferl.solvers.ppo_lag:PPOLag", summary="PPO-Lagrangian; expected costs, one multiplier each."
)

_LAZY = {"PPOLag": "saferl.solvers.ppo_lag", "UnconstrainedPPO": "saferl.solvers.ppo"}

__all__ = ["SOLVERS", "PPOLag", "UnconstrainedPPO"]


def __getattr__(name: str) -> Any:
    """Load a solver, and with it torch, on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("stable_baselines3") is None:
        raise MissingExtraError(f"saferl.solvers.{name}", "stable-baselines3", "train")
    return getattr(importlib.import_module(_LAZY[name]), name)
