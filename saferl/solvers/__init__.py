"""Algorithms that train against constrained environments, and the table of their names.

Solvers load torch on first use; the table does not.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from saferl.errors import MissingExtraError
from saferl.registry import Registry
from saferl.solvers.catalogue import CATALOGUE

if TYPE_CHECKING:
    from saferl.solvers.cat import CaT
    from saferl.solvers.cat_vec_env import CaTCallback, CaTVecEnv
    from saferl.solvers.cpo import CPO
    from saferl.solvers.lagrangian import (
        LagrangianCallback,
        LagrangianConfig,
        LagrangianDictReplayBuffer,
        LagrangianReplayBuffer,
        LagrangianVecEnv,
    )
    from saferl.solvers.pid_lag import PIDLag
    from saferl.solvers.ppo import UnconstrainedPPO
    from saferl.solvers.ppo_lag import PPOLag
    from saferl.solvers.rcpo import RCPO
    from saferl.solvers.reload import ReLOAD
    from saferl.solvers.reload_offpolicy import ReLOADOffPolicy
    from saferl.solvers.trpo_lag import TRPOLag

SOLVERS = Registry("solver", "saferl.solvers")
for _name, _facts in CATALOGUE.items():
    SOLVERS.register(_name, _facts.target, summary=_facts.summary)

_LAZY = {
    "CPO": "saferl.solvers.cpo",
    "CaT": "saferl.solvers.cat",
    "CaTCallback": "saferl.solvers.cat_vec_env",
    "CaTVecEnv": "saferl.solvers.cat_vec_env",
    "LagrangianCallback": "saferl.solvers.lagrangian",
    "LagrangianConfig": "saferl.solvers.lagrangian",
    "LagrangianDictReplayBuffer": "saferl.solvers.lagrangian",
    "LagrangianReplayBuffer": "saferl.solvers.lagrangian",
    "LagrangianVecEnv": "saferl.solvers.lagrangian",
    "PIDLag": "saferl.solvers.pid_lag",
    "PPOLag": "saferl.solvers.ppo_lag",
    "RCPO": "saferl.solvers.rcpo",
    "ReLOAD": "saferl.solvers.reload",
    "ReLOADOffPolicy": "saferl.solvers.reload_offpolicy",
    "TRPOLag": "saferl.solvers.trpo_lag",
    "UnconstrainedPPO": "saferl.solvers.ppo",
}

__all__ = [
    "CPO",
    "RCPO",
    "SOLVERS",
    "CaT",
    "CaTCallback",
    "CaTVecEnv",
    "LagrangianCallback",
    "LagrangianConfig",
    "LagrangianDictReplayBuffer",
    "LagrangianReplayBuffer",
    "LagrangianVecEnv",
    "PIDLag",
    "PPOLag",
    "ReLOAD",
    "ReLOADOffPolicy",
    "TRPOLag",
    "UnconstrainedPPO",
]


def __getattr__(name: str) -> Any:
    """Load a solver, and with it torch, on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("stable_baselines3") is None:
        raise MissingExtraError(f"saferl.solvers.{name}", "stable-baselines3", "train")
    return getattr(importlib.import_module(_LAZY[name]), name)
