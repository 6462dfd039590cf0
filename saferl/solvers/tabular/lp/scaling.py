"""The same CMDP with signals of order 1, so that tolerances mean the same on every instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaled:
    """A CMDP whose largest absolute reward and costs are 1, and what it takes to go back."""

    cmdp: TabularCMDP
    """The scaled CMDP; the given one where nothing had to be done."""
    reward_unit: float
    """Largest absolute reward of the original, or 1."""
    cost_units: Array
    """Largest absolute value of each cost of the original, or 1, (K,)."""

    def multipliers(self, scaled: Array) -> Array:
        """Multipliers of the original from those of the scaled CMDP, (K,)."""
        return np.asarray(scaled * self.reward_unit / self.cost_units)


def scaled(cmdp: TabularCMDP) -> Scaled:
    """``cmdp`` in units in which its largest reward, and each of its largest costs, is 1."""
    reward_unit = _unit(float(np.abs(cmdp.rewards).max()))
    largest = np.abs(cmdp.costs).reshape(-1, cmdp.num_constraints).max(axis=0)
    cost_units = np.array([_unit(float(size)) for size in largest])
    if reward_unit == 1.0 and (cost_units == 1.0).all():
        return Scaled(cmdp, reward_unit, cost_units)
    copy = cmdp.with_budgets(cmdp.budgets / cost_units)
    copy.rewards, copy.costs = cmdp.rewards / reward_unit, cmdp.costs / cost_units
    return Scaled(copy, reward_unit, cost_units)


def _unit(largest: float) -> float:
    return largest if largest > 0.0 else 1.0
