"""What is left of the budgets of running episodes, for policies that are told them at run time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.policy.offline import FloatArray


@dataclass
class BudgetAccount:
    """Budgets and what B episodes have spent of them so far.

    Example:
        >>> account = BudgetAccount.open(2, 1, np.array([10.0]))
        >>> account.spend(np.array([[1.0], [12.0]]))
        >>> account.left().tolist(), account.steps.tolist()
        ([[9.0], [-2.0]], [1, 1])
    """

    limits: FloatArray
    """Budgets of the episodes' cost sums, (C,), infinite where there is none."""
    spent: FloatArray
    """Sums of costs, discounted from the first step on, (B, C)."""
    steps: npt.NDArray[np.int64]
    """Steps taken, (B,)."""
    gamma: float = 1.0
    """Discount factor of the sums, in (0, 1]."""

    @classmethod
    def open(cls, lanes: int, num_costs: int, budgets: FloatArray | None, gamma: float = 1.0) -> BudgetAccount:
        """The account of ``lanes`` episodes that have not begun; no budget at all is an infinite one of every cost."""
        limits = np.full(num_costs, np.inf) if budgets is None else np.asarray(budgets, dtype=np.float64)
        return cls(limits, np.zeros((lanes, num_costs)), np.zeros(lanes, dtype=np.int64), gamma)

    def left(self) -> FloatArray:
        """Budgets minus what was spent, (B, C); negative where too much was."""
        remaining: FloatArray = self.limits - self.spent
        return remaining

    def spend(self, costs: FloatArray) -> None:
        """Note the costs of one step, (B, C)."""
        self.spent += self.gamma ** self.steps[:, None] * costs
        self.steps += 1

    def clear(self, rows: npt.NDArray[np.int64]) -> None:
        """Forget what the lanes ``rows`` spent."""
        self.spent[rows] = 0.0
        self.steps[rows] = 0
