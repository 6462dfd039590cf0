"""Where shields meet policies and environments: controllers, shielded environments, and how a shield is named.

The controller itself needs numpy alone; what needs gymnasium or torch loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saferl.deploy.channels import CHANNELS, split_channels
    from saferl.deploy.controller import ShieldedController, load_controller
    from saferl.deploy.lane import Lane
    from saferl.deploy.shielded_env import ShieldedEnv
    from saferl.deploy.sources import ShieldSource, find_shield

_LAZY = {
    "CHANNELS": "saferl.deploy.channels",
    "Lane": "saferl.deploy.lane",
    "ShieldSource": "saferl.deploy.sources",
    "ShieldedController": "saferl.deploy.controller",
    "ShieldedEnv": "saferl.deploy.shielded_env",
    "find_shield": "saferl.deploy.sources",
    "load_controller": "saferl.deploy.controller",
    "split_channels": "saferl.deploy.channels",
}

__all__ = [
    "CHANNELS",
    "Lane",
    "ShieldSource",
    "ShieldedController",
    "ShieldedEnv",
    "find_shield",
    "load_controller",
    "split_channels",
]


def __getattr__(name: str) -> Any:
    """Load what needs gymnasium or torch on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
