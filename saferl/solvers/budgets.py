"""What every constrained solver on Stable-Baselines3 does with its budgets: multipliers, their update and their log."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.constraints import ConstraintSet
from saferl.rollout.estimator import CostEstimator
from saferl.solvers.dual import Dual, constraint_gaps


class KeepsBudgets:
    """A mixin for algorithms: one multiplier per constraint, moved by an estimate of the constraint's own kind."""

    constraints: ConstraintSet
    """The constraints at the budgets that are trained for."""
    cost_estimator: CostEstimator
    dual: Dual | None
    logger: Any
    device: th.device

    @property
    def train_budgets(self) -> dict[str, float] | None:
        """Budgets that training looks at, by name; None if it looks at none."""
        return {c.name: c.budget for c in self.constraints}

    @property
    def multipliers(self) -> npt.NDArray[np.float64]:
        """Current multipliers, (num_constraints,).

        Raises:
            AttributeError: this solver has none.
        """
        if self.dual is None:
            raise AttributeError(f"{type(self).__name__} has no multipliers.")
        return self.dual.values

    def signed_multipliers(self) -> th.Tensor:
        """What costs are weighted with on the solver's device, (num_constraints,): negative for a lower limit."""
        return th.as_tensor(self.multipliers * self.constraints.signs, dtype=th.float32, device=self.device)

    def update_multipliers(self) -> npt.NDArray[np.float64] | None:
        """Take the dual's step if enough episodes have ended; the estimate it was taken with, (num_constraints,)."""
        estimate = self.cost_estimator.estimate()
        if estimate is not None:
            if self.dual is not None:
                self.dual.update(constraint_gaps(estimate, self.constraints))
            for name, value in zip(self.constraints.names, estimate, strict=True):
                self.logger.record(f"dual/estimate/{name}", float(value))
        if self.dual is not None:
            for name, value in zip(self.constraints.names, self.multipliers, strict=True):
                self.logger.record(f"multiplier/{name}", float(value))
        return estimate

    def drop_open_episodes(self) -> None:
        """Leave episodes that have not ended out of the cost estimates: the environments are about to be reset."""
        self.cost_estimator.drop_open_episodes()
