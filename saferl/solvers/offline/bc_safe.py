r"""BC-Safe: behaviour cloning on the episodes that kept the budgets.

    keep the episodes with sum_t c_i,t <= budget_i for every constraint i, then clone them as BC does:
    mse          min E |pi(s) - a|^2
    likelihood   min -E log pi(a | s)

The baseline of OSRL (Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao 2023, "Datasets and benchmarks for offline
safe reinforcement learning").

What it guarantees: every episode that it learns from kept every budget. Of the policy nothing: its errors lead it to
states that the chosen episodes do not show, and few episodes may be left at a small budget. Data without a single
such episode are refused.

Differences from the paper: several constraints at once; each budget is its own, where OSRL has one; the scaled actions
end at 1 - 1e-5; observations can be standardised (preset ``small``).
"""

from __future__ import annotations

import numpy as np

from saferl.data.dataset import Dataset
from saferl.errors import DataError
from saferl.policy.offline import FloatArray
from saferl.solvers.offline.base import TrainingData
from saferl.solvers.offline.imitation import Imitation


class BCSafe(Imitation):
    """Behaviour cloning of the episodes within the budgets.

    Example:
        >>> solver = BCSafe(preset="small")
        >>> result = solver.fit(data, steps=2000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "bc_safe"
    needs_budgets = True

    def choose(self, data: TrainingData) -> Dataset:
        """The episodes within the budgets.

        Raises:
            DataError: there is none.
        """
        assert data.budgets is not None
        return episodes_within(data.dataset, data.budgets)


def episodes_within(dataset: Dataset, budgets: FloatArray) -> Dataset:
    """The episodes whose cost sums lie at or below the budgets (C,), every one of them.

    Raises:
        DataError: there is none; the message names the lowest cost sums.
    """
    sums = dataset.cost_returns()
    keeps = (sums <= budgets).all(axis=1)
    if keeps.any():
        return dataset.select(keeps)
    limited = [index for index, budget in enumerate(budgets) if np.isfinite(budget)]
    lowest = ", ".join(f"{dataset.cost_names[i]} {sums[:, i].min():g} (budget {budgets[i]:g})" for i in limited)
    together = " at once" if (sums <= budgets).any(axis=0).all() else ""
    raise DataError(
        f"No episode of {dataset.num_episodes} keeps the budgets{together}; the lowest cost sums are {lowest}. Give "
        "higher budgets, or data of safer episodes."
    )
