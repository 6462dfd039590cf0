"""Cells on sampled tasks: late iterates are evaluated by fresh episodes, and what those add by chance is subtracted."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

from saferl.bench.reload.cells import Cell, rounded
from saferl.bench.reload.finite import LATE, crossings
from saferl.bench.reload.fresh import Episodes, FreshEpisodes
from saferl.envs.vector import make_vec
from saferl.errors import ConfigError
from saferl.evaluation import EVALUATION_SEED
from saferl.solvers import SOLVERS
from saferl.training.build import Job, build_env, build_model
from saferl.training.recipes import find_recipe
from saferl.training.settings import split_assignments

Array = npt.NDArray[np.float64]
_TOLERANCE = 0.05
"""Excess, as a share of the budget, that counts as feasible in tuning: it cannot be told from none by few episodes."""


class LateIterates(BaseCallback):
    """Evaluates the policies of late iterations, and keeps what episodes of training earned and cost."""

    def __init__(self, fresh: FreshEpisodes, from_step: float) -> None:
        """Evaluate by ``fresh`` from ``from_step`` on."""
        super().__init__()
        self._fresh, self._from_step = fresh, from_step
        self._ended: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.late: list[Episodes] = []
        self.training: list[tuple[int, float, float]] = []
        """Steps, mean return and mean cost of the episodes that ended in a rollout, where any did."""

    def _on_step(self) -> bool:
        self._ended += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_start(self) -> None:
        if self._ended:
            returns = [episode["r"] for episode in self._ended]
            costs = [next(iter(episode["costs"].values())) for episode in self._ended]
            self.training.append((self.num_timesteps, float(np.mean(returns)), float(np.mean(costs))))
            self._ended = []
        if self.num_timesteps >= self._from_step:
            self.take()

    def take(self) -> None:
        """Evaluate the policy of the moment."""
        self.steps.append(self.model.num_timesteps)
        self.late.append(self._fresh.run(self.model))


def settled_deviation(samples: Array) -> float:
    """The deviation of the true means of T iterates, from M samples of each, (T, M).

    The variance of the T sample means is that of the true means plus sigma^2 / M on average, so that part is
    subtracted; where nothing is left, the iterates cannot be told apart and the deviation is 0.
    """
    count, episodes = samples.shape
    if count < 2 or episodes < 2:
        return 0.0
    between = float(samples.mean(axis=1).var(ddof=1))
    within = float(samples.var(axis=1, ddof=1).mean()) / episodes
    return math.sqrt(max(0.0, between - within))


def late_metrics(returns: Array, costs: Array, budgets: Array) -> dict[str, float]:
    """How the late iterates behave, per episode.

    Args:
        returns: Returns of the fresh episodes, (T, M).
        costs: Their costs, (T, M, K).
        budgets: Budgets per episode, (K,).
    """
    mean_returns, mean_costs = returns.mean(axis=1), costs.mean(axis=1)
    excess = (mean_costs - budgets).max(axis=1)
    worst = int(np.argmax((mean_costs - budgets).mean(axis=0)))
    return {
        "last_return": float(mean_returns[-1]),
        "last_cost": float(mean_costs[-1, worst]),
        "last_violation": float(max(0.0, excess[-1])),
        "late_mean_return": float(mean_returns.mean()),
        "late_mean_cost": float(mean_costs[:, worst].mean()),
        "late_mean_violation": float(np.maximum(excess, 0.0).mean()),
        "late_worst_violation": float(max(0.0, excess.max())),
        "late_excess": float(np.max((mean_costs.mean(axis=0) - budgets) / np.maximum(budgets, 1e-9))),
        "late_cost_deviation": max(settled_deviation(costs[..., k]) for k in range(costs.shape[-1])),
        "late_oscillation": float(np.ptp(mean_returns)),
        "late_crossings": crossings(excess),
    }


def score(metrics: Mapping[str, float]) -> tuple[float, ...]:
    """What tuning minimises: excess cost of the late iterates beyond 5 % of the budget, and then minus the return."""
    return (max(0.0, metrics["late_excess"] - _TOLERANCE), -metrics["late_mean_return"])


def measure(cell: Cell) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and trace of one training, with the recipe of the task.

    Raises:
        ConfigError: so few steps that there are not two late iterates.
    """
    recipe = find_recipe(cell.task)
    base = recipe.options_for(cell.solver) if recipe is not None else {}
    values = {**base, **json.loads(cell.options)}
    config, settings = split_assignments([], SOLVERS.load(cell.solver).config_class, values)
    options = {name: getattr(config, name) for name in type(config).__dataclass_fields__}
    rollout = config.n_steps * settings.num_envs
    if rollout > cell.steps * LATE:
        raise ConfigError(
            f"The last tenth of a training must hold two iterates, one rollout of {rollout:,} steps apart; got "
            f"{cell.steps:,} steps on {cell.task}. Give --steps {math.ceil(rollout / LATE):,} or more."
        )
    job = Job(cell.solver, cell.task, cell.steps, cell.seed, options=options, settings=settings)
    env = build_env(job)
    fresh = FreshEpisodes(functools.partial(make_vec, cell.task, cell.episodes), EVALUATION_SEED)
    try:
        model = build_model(job, env)
        callback = LateIterates(fresh, cell.steps * (1.0 - LATE))
        model.learn(cell.steps, callback=callback)
        callback.take()
    finally:
        fresh.close()
        env.close()
    returns = np.stack([episodes.returns for episodes in callback.late])
    costs = np.stack([episodes.costs for episodes in callback.late])
    trace = {
        "steps": callback.steps,
        "return": rounded(returns.mean(axis=1).tolist(), 2),
        "cost": rounded(costs.mean(axis=1)[:, 0].tolist(), 2),
        "training": [[steps, round(ret, 2), round(cost, 2)] for steps, ret, cost in callback.training],
    }
    return late_metrics(returns, costs, env.constraints.budgets), trace
