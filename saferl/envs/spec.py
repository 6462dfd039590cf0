"""What saferl knows about an environment without importing it: id, factory, costs, budgets, horizon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saferl.constraints import ConstraintSet
from saferl.errors import ConstraintError, UnknownNameError


@dataclass(frozen=True)
class EnvSpec:
    """One environment id. Static data: building it needs neither gymnasium nor the simulator."""

    id: str
    """Name that users type, for example ``SafetyPointGoal1-v0``."""
    factory: str
    """``"package.module:function"``; called as ``function(**kwargs)`` and returns a Gymnasium env (5-tuple) whose
    ``info`` carries ``cost`` and ``costs`` at every step. The time limit is applied by the factory."""
    constraints: ConstraintSet
    """Every cost that the env reports, each with the budget that the field uses."""
    default_constraints: tuple[str, ...] = ("cost",)
    """Names of the constraints that hold when the user names no budget."""
    horizon: int | None = None
    """Time limit in steps; None if episodes have none."""
    is_fixed_horizon: bool = False
    """True if no episode ends before the horizon."""
    summary: str = ""
    """One line for ``saferl list envs``."""
    prefers_processes: bool = False
    """True if a step takes so long that worker processes pay off (``make_vec(..., backend="auto")`` starts them)."""
    batched: str = ""
    """``"package.module:function"`` that makes the task's :class:`saferl.envs.vector.Batch`; empty if it has none."""
    requires: tuple[str, ...] = ()
    """Distributions that the factory needs, beyond saferl's base."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the factory."""

    def select(self, budgets: Mapping[str, float] | None = None) -> ConstraintSet:
        """The constraints in force: the default ones, or exactly those that ``budgets`` names.

        Raises:
            UnknownNameError: a budget for a cost that the env does not have.
            ConstraintError: a negative, NaN or infinite budget.
        """
        names = tuple(budgets) if budgets else self.default_constraints
        for name in names:
            if name not in self.constraints.names:
                raise UnknownNameError(f"cost of {self.id}", name, self.constraints.names)
        if not names:
            raise ConstraintError(f"{self.id} has no default constraint. Name one with --budget NAME=VALUE.")
        chosen = ConstraintSet(self.constraints[name] for name in names)
        return chosen.with_budgets(budgets) if budgets else chosen
