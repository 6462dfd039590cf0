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
    from saferl.solvers.trpo_lag import TRPOLag

SOLVERS = Registry("solver", "saferl.solvers")
for _name, _class, _summary in (
    ("ppo", "ppo:UnconstrainedPPO", "PPO of Stable-Baselines3; ignores costs (the baseline)."),
    ("ppo_lag", "ppo_lag:PPOLag", "PPO-Lagrangian; expected costs, one multiplier each."),
    ("pid_lag", "pid_lag:PIDLag", "PPO-Lagrangian with PID-controlled multipliers; damped swings."),
    ("trpo_lag", "trpo_lag:TRPOLag", "TRPO-Lagrangian; natural-gradient steps inside a trust region."),
    ("rcpo", "rcpo:RCPO", "Penalised reward with one critic and a slow multiplier."),
    ("reload", "reload:ReLOAD", "Optimistic descent-ascent on a natural gradient; the last iterate settles."),
    ("cpo", "cpo:CPO", "Constrained policy optimisation; every step meets the linearised budgets."),
    ("cat", "cat:CaT", "Constraints as terminations; few violating steps, no budget."),
):
    SOLVERS.register(_name, f"saferl.solvers.{_class}", summary=_summary)

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
