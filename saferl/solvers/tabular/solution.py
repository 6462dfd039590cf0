"""What a tabular solver returns: its last iterate, and the exact values of every iterate on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import Evaluation, TabularCMDP
from saferl.errors import TrainingError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """Every iterate's exact, normalised values; T is the number of iterates."""

    values: Array
    """Mean reward per step, (T,)."""
    costs: Array
    """Mean costs per step, (T, K)."""
    multipliers: Array
    """The multipliers with which the iterate's update was computed, (T, K)."""

    def __len__(self) -> int:
        """Number of iterates."""
        return len(self.values)

    @property
    def average_values(self) -> Array:
        """Mean reward of the mixture of all policies so far, one drawn per episode, (T,).

        Mixing policies over episodes averages their values; averaging probabilities would not.
        """
        return np.asarray(np.cumsum(self.values) / np.arange(1, len(self) + 1))

    @property
    def average_costs(self) -> Array:
        """Mean costs of that mixture, (T, K)."""
        return np.asarray(np.cumsum(self.costs, axis=0) / np.arange(1, len(self) + 1)[:, None])


@dataclass(frozen=True)
class TabularSolution:
    """The last iterate of a tabular solver, and its trajectory."""

    solver: str
    """Name of the solver."""
    cmdp: TabularCMDP = field(repr=False)
    """What was solved."""
    policy: Array = field(repr=False)
    """The last policy, (S, A) or (H, S, A)."""
    multipliers: Array
    """The last multipliers, (K,)."""
    trajectory: Trajectory = field(repr=False)
    """All iterates; the last entry belongs to ``policy``."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    """What else the solver has to say, by name."""

    @property
    def value(self) -> float:
        """Mean reward per step of ``policy``."""
        return float(self.trajectory.values[-1])

    @property
    def costs(self) -> Array:
        """Mean costs per step of ``policy``, (K,)."""
        return np.asarray(self.trajectory.costs[-1])

    @property
    def return_(self) -> float:
        """Expected return of ``policy`` in the units of the environment, J_r."""
        return self.value / self.cmdp.scale

    @property
    def total_costs(self) -> Array:
        """Expected costs of ``policy`` in the units of its budgets, J_c, (K,)."""
        return self.costs / self.cmdp.scale


class Recorder:
    """Collects iterates; a solver adds one evaluation per iteration."""

    def __init__(self, solver: str, cmdp: TabularCMDP) -> None:
        """Begin with nothing."""
        self.solver, self.cmdp = solver, cmdp
        self._values: list[float] = []
        self._costs: list[Array] = []
        self._multipliers: list[Array] = []

    def add(self, evaluation: Evaluation, multipliers: Array) -> None:
        """Note an iterate: the values of its policy, and the multipliers (K,) it is paired with.

        Raises:
            TrainingError: it is not finite; the step sizes are too large.
        """
        if not (np.isfinite(evaluation.value) and np.isfinite(multipliers).all()):
            raise TrainingError(
                f"{self.solver} must stay finite; iterate {len(self._values)} has value {evaluation.value} and "
                f"multipliers {multipliers}. Take smaller step sizes."
            )
        self._values.append(evaluation.value)
        self._costs.append(np.array(evaluation.costs))
        self._multipliers.append(np.array(multipliers, dtype=np.float64))

    def solution(self, policy: Array, multipliers: Array, **details: Any) -> TabularSolution:
        """The solution whose last iterate is ``policy``, which is evaluated here."""
        self.add(self.cmdp.evaluate(policy), multipliers)
        trajectory = Trajectory(np.array(self._values), np.array(self._costs), np.array(self._multipliers))
        return TabularSolution(self.solver, self.cmdp, policy, np.array(multipliers), trajectory, details)
