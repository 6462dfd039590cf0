"""Cells on finite CMDPs: sampled training, and the exact value of every iterate."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

from saferl.bench.reload.cells import Cell, rounded
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.env import default_time_limit
from saferl.envs.vector import make_vec
from saferl.errors import ConfigError
from saferl.evaluation.exact import cmdp_of, evaluate_exactly
from saferl.solvers import SOLVERS
from saferl.solvers.tabular import lp

Array = npt.NDArray[np.float64]

LATE = 0.1
"""Share of the iterates that counts as late."""
_NUM_ENVS, _ROLLOUT = 16, 64
"""Environments, and the least number of steps of a rollout in each; rollouts are whole episodes."""


class ExactTrace(BaseCallback):
    """Evaluates the policy of every iteration exactly, before its update."""

    def __init__(self, cmdp: TabularCMDP) -> None:
        """Evaluate on ``cmdp``."""
        super().__init__()
        self._cmdp = cmdp
        self.steps: list[int] = []
        self.values: list[float] = []
        self.costs: list[Array] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.take()

    def take(self) -> None:
        """Evaluate the policy of the moment."""
        result = evaluate_exactly(self.model, self._cmdp)
        self.steps.append(self.model.num_timesteps)
        self.values.append(result.value)
        self.costs.append(result.costs)


@functools.cache
def optimum_of(task: str) -> lp.LPSolution:
    """The exact optimum of ``task``.

    Raises:
        ConfigError: it has no feasible policy.
    """
    optimum = lp.solve(cmdp_of(task))
    if isinstance(optimum, lp.Infeasible):
        raise ConfigError(f"{task} has no feasible policy: {optimum.message}")
    return optimum


def options_of(cmdp: TabularCMDP) -> dict[str, Any]:
    """Options of every solver on ``cmdp``: its own discount, and rollouts of whole episodes."""
    length = default_time_limit(cmdp)
    return {
        "n_steps": length * -(-_ROLLOUT // length),
        "gamma": cmdp.discount,
        "cost_gamma": cmdp.discount,
        "dual_min_episodes": 1,
    }


def train(task: str, solver: str, options: Mapping[str, Any], *, steps: int, seed: int) -> ExactTrace:
    """Train ``solver`` on ``task`` for ``steps`` environment steps, and give the exact values of every iterate."""
    envs = make_vec(task, _NUM_ENVS)
    callback = ExactTrace(cmdp_of(task))
    try:
        model = SOLVERS.load(solver)("MlpPolicy", envs, seed=seed, policy_kwargs={"net_arch": [32]}, **options)
        model.learn(steps, callback=callback)
        callback.take()
    finally:
        envs.close()
    return callback


def late_metrics(values: Array, costs: Array, limits: Array, optimum: float) -> dict[str, float]:
    """How the late iterates behave, in means per step.

    Args:
        values: Mean reward of every iterate, (T,).
        costs: Mean costs of every iterate, (T, K).
        limits: Budgets per step, (K,).
        optimum: The largest feasible mean reward.
    """
    late = slice(int(len(values) * (1.0 - LATE)), None)
    excess = (costs - limits).max(axis=1)
    violations, gaps = np.maximum(excess, 0.0), optimum - values
    return {
        "last_gap": float(gaps[-1]),
        "last_violation": float(violations[-1]),
        "late_mean_gap": float(np.mean(gaps[late])),
        "late_mean_violation": float(np.mean(violations[late])),
        "late_worst_violation": float(np.max(violations[late])),
        "late_error": float(np.mean(np.abs(gaps[late]) + violations[late])),
        "late_cost_deviation": float(np.max(np.std(costs[late], axis=0))),
        "late_oscillation": float(np.ptp(values[late])),
        "late_crossings": crossings(excess[late]),
    }


def crossings(excess: Array) -> int:
    """How often a sequence of excess costs (T,) changes between broken (> 0) and kept."""
    above = excess > 0.0
    return int(np.count_nonzero(above[1:] != above[:-1]))


def score(metrics: Mapping[str, float]) -> tuple[float, ...]:
    """What tuning minimises: the mean distance of late iterates from the optimum, absolute gap plus violation."""
    return (metrics["late_error"],)


def measure(cell: Cell) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and trace of one training."""
    cmdp = cmdp_of(cell.task)
    options = {**options_of(cmdp), **json.loads(cell.options)}
    found = train(cell.task, cell.solver, options, steps=cell.steps, seed=cell.seed)
    metrics = late_metrics(np.array(found.values), np.array(found.costs), cmdp.limits, optimum_of(cell.task).value)
    worst = [costs[int(np.argmax(costs - cmdp.limits))] for costs in found.costs]
    return metrics, {"steps": found.steps, "cost": rounded(worst), "value": rounded(found.values)}
