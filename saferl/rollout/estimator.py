"""The cost estimate that a dual update consumes: a typed accumulator, never a value read back from a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.constraints import ConstraintSet

FloatArray = npt.NDArray[np.float64]
SUPPORTED_KINDS = ("episode_sum", "discounted", "step_rate")


class CostEstimator:
    """Estimates each constraint's value, in its own units, from the steps of a rollout.

    Fixed-horizon tasks use whole episodes only: mean over the episodes that ended since the last estimate. Otherwise
    short episodes would be over-represented, so the estimate is a ratio over the window since the last one,

        sum of (weighted) costs / number of episode ends        (episode_sum, discounted)
        sum of costs / number of steps                          (step_rate)

    where the weight of a ``discounted`` cost is gamma^t with t the step within its episode. An estimate is given only
    after ``min_episodes`` new episodes have ended.
    """

    def __init__(
        self,
        constraints: ConstraintSet,
        num_envs: int,
        *,
        min_episodes: int,
        is_fixed_horizon: bool,
        horizon: int | None,
    ) -> None:
        """Start empty; kinds other than ``SUPPORTED_KINDS`` are refused."""
        constraints.require_kinds(SUPPORTED_KINDS, by="The dual update")
        self._gammas = np.array([c.gamma for c in constraints])
        self._is_rate = np.array([c.kind == "step_rate" for c in constraints])
        self._whole_episodes = is_fixed_horizon
        self._horizon = horizon
        self._min_episodes = min_episodes
        shape = (num_envs, len(constraints))
        self._weights = np.ones(shape)
        self._open = np.zeros(shape)
        self._open_steps = np.zeros(num_envs, dtype=np.int64)
        self._total = np.zeros(len(constraints))
        self._steps = 0
        self._episodes = 0
        self.mean_length = float(horizon or 1)
        """Steps per episode of the window that the last estimate was made of."""

    def add(self, costs: FloatArray, ended: npt.NDArray[np.bool_]) -> None:
        """Take one step: ``costs`` (num_envs, num_constraints), ``ended`` (num_envs,) terminated or truncated."""
        weighted = costs * self._weights
        self._weights *= self._gammas
        self._open += weighted
        self._open_steps += 1
        if not self._whole_episodes:
            self._total += weighted.sum(axis=0)
            self._steps += len(ended)
        if not ended.any():
            return
        counted = ended & (self._open_steps == self._horizon) if self._whole_episodes and self._horizon else ended
        if self._whole_episodes:
            self._total += self._open[counted].sum(axis=0)
            self._steps += int(self._open_steps[counted].sum())
        self._episodes += int(counted.sum())
        self._open[ended] = 0.0
        self._open_steps[ended] = 0
        self._weights[ended] = 1.0

    def estimate(self) -> FloatArray | None:
        """Values of the constraints, (num_constraints,), and a fresh window; None while too few episodes ended."""
        if self._episodes < self._min_episodes:
            return None
        values = np.where(self._is_rate, self._total / self._steps, self._total / self._episodes)
        self.mean_length = self._steps / self._episodes
        self._total = np.zeros_like(self._total)
        self._steps = self._episodes = 0
        return values

    def drop_open_episodes(self) -> None:
        """Forget the episodes that have not ended: the environments are reset before they do.

        The ratio keeps the costs seen so far and counts no end for them, which errs on the side of too much cost.
        """
        self._open[:] = 0.0
        self._open_steps[:] = 0
        self._weights[:] = 1.0

    def get_state(self) -> dict[str, Any]:
        """Everything that later estimates depend on."""
        return {
            "weights": self._weights.copy(),
            "open": self._open.copy(),
            "open_steps": self._open_steps.copy(),
            "total": self._total.copy(),
            "steps": self._steps,
            "episodes": self._episodes,
            "mean_length": self.mean_length,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._weights, self._open = state["weights"].copy(), state["open"].copy()
        self._open_steps, self._total = state["open_steps"].copy(), state["total"].copy()
        self._steps, self._episodes = int(state["steps"]), int(state["episodes"])
        self.mean_length = float(state["mean_length"])
