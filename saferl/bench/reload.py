"""Do late iterates settle? Sampled solvers on finite CMDPs where plain ones swing, every iterate evaluated exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

from saferl.bench.measure import machine
from saferl.envs.tabular import TabularCMDP
from saferl.envs.vector import make_vec
from saferl.errors import ConfigError
from saferl.evaluation.exact import cmdp_of, evaluate_exactly
from saferl.evaluation.summary import versions
from saferl.solvers import SOLVERS
from saferl.solvers.tabular import lp

Array = npt.NDArray[np.float64]

TASKS = ("ParadoxA-v0", "ParadoxB-v0", "RandomBinding10-v0")
"""Finite CMDPs whose budget binds in the interior."""
_LATE = 0.1
"""Share of the iterates that counts as late."""
_SHARED: Mapping[str, Any] = {"n_steps": 66, "gamma": 0.9, "cost_gamma": 0.9, "dual_min_episodes": 1}
_RATES = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Variant:
    """A solver with the options among which it is tuned; all variants have equally many."""

    solver: str
    """Name of a solver."""
    shared: Mapping[str, Any]
    """Options that are not tuned."""
    grid: tuple[Mapping[str, Any], ...]
    """Options to choose from on the tuning seed."""


def _grid(name: str, steps: Sequence[float], **extra: Callable[[float], float]) -> tuple[Mapping[str, Any], ...]:
    """Every pair of a policy step, under its option's ``name``, and a rate of the multipliers."""
    return tuple(
        {name: step, "multiplier_lr": rate, **{key: of(rate) for key, of in extra.items()}}
        for step in steps
        for rate in _RATES
    )


_LEARNING = (3e-4, 1e-3)
_NATURAL = (0.1, 0.3)
VARIANTS: Mapping[str, Variant] = {
    "ppo_lag": Variant("ppo_lag", {"batch_size": 512}, _grid("learning_rate", _LEARNING)),
    "pid_lag": Variant(
        "pid_lag", {"batch_size": 512}, _grid("learning_rate", _LEARNING, multiplier_kp=lambda rate: 10.0 * rate)
    ),
    "reload": Variant("reload", {}, _grid("policy_step", _NATURAL)),
    "reload without optimism": Variant("reload", {"optimism": "none"}, _grid("policy_step", _NATURAL)),
}
"""What is compared: six settings each. Multipliers and Q are discounted alike, so that rates mean the same."""


class ExactTrace(BaseCallback):
    """Evaluates the policy of every iteration exactly, before its update."""

    def __init__(self, cmdp: TabularCMDP) -> None:
        """Evaluate on ``cmdp``."""
        super().__init__()
        self._cmdp = cmdp
        self.values: list[float] = []
        self.costs: list[Array] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        result = evaluate_exactly(self.model, self._cmdp)
        self.values.append(result.value)
        self.costs.append(result.costs)


def trace(
    task: str, solver: str, options: Mapping[str, Any], *, steps: int, seed: int, num_envs: int = 16
) -> ExactTrace:
    """Train ``solver`` on ``task`` for ``steps`` environment steps, and give the exact values of every iterate."""
    envs = make_vec(task, num_envs)
    callback = ExactTrace(cmdp_of(task))
    model = SOLVERS.load(solver)("MlpPolicy", envs, seed=seed, policy_kwargs={"net_arch": [32]}, **options)
    model.learn(steps, callback=callback)
    callback._on_rollout_start()  # the last iterate
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
    late = slice(int(len(values) * (1.0 - _LATE)), None)
    excess = costs - limits
    violations = np.maximum(excess.max(axis=1), 0.0)
    above = excess[late].max(axis=1) > 0.0
    return {
        "last_gap": float(optimum - values[-1]),
        "last_violation": float(violations[-1]),
        "late_mean_gap": float(np.mean(optimum - values[late])),
        "late_mean_violation": float(np.mean(violations[late])),
        "late_worst_violation": float(np.max(violations[late])),
        "late_cost_deviation": float(np.max(np.std(costs[late], axis=0))),
        "late_oscillation": float(np.ptp(values[late])),
        "late_crossings": int(np.count_nonzero(above[1:] != above[:-1])),
    }


def bench_reload(
    tasks: Sequence[str] = TASKS,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    steps: int = 200_000,
    seeds: Sequence[int] = (0, 5, 10),
    tuning_seed: int = 1000,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Late iterates of every variant on every task, each at its best setting by the tuning seed.

    A setting is chosen by the mean absolute gap plus violation of its late iterates; every variant has six settings.

    Args:
        tasks: Ids of finite CMDPs.
        variants: Names of :data:`VARIANTS`.
        steps: Environment steps of every training.
        seeds: Reported training seeds.
        tuning_seed: The seed of the choice, not among them.
        report: Told every result as it comes.

    Raises:
        ConfigError: the tuning seed is among the reported ones.
    """
    if tuning_seed in seeds:
        raise ConfigError(f"The tuning seed must not be reported; got {tuning_seed} among {list(seeds)}.")
    start = time.perf_counter()
    results: dict[str, Any] = {}
    for task in tasks:
        cmdp = cmdp_of(task)
        optimum = lp.solve(cmdp)
        if isinstance(optimum, lp.Infeasible):
            raise ConfigError(f"{task} has no feasible policy: {optimum.message}")
        best = optimum.value

        def measure(variant: Variant, setting: Mapping[str, Any], seed: int) -> dict[str, float]:
            options = {**_SHARED, **variant.shared, **setting}
            if cmdp.horizon is not None:  # noqa: B023 - called within the iteration
                options |= {"gamma": 1.0, "cost_gamma": 1.0}
            found = trace(task, variant.solver, options, steps=steps, seed=seed)  # noqa: B023
            return late_metrics(np.array(found.values), np.array(found.costs), cmdp.limits, best)  # noqa: B023

        rows: dict[str, Any] = {}
        for name in variants:
            variant = VARIANTS[name]
            scores = [_score(measure(variant, setting, tuning_seed)) for setting in variant.grid]
            setting = variant.grid[int(np.argmin(scores))]
            runs = {str(seed): measure(variant, setting, seed) for seed in seeds}
            means = {key: float(np.mean([run[key] for run in runs.values()])) for key in next(iter(runs.values()))}
            rows[name] = {"setting": dict(setting), "tuning_scores": scores, "mean": means, "seeds": runs}
            report(f"{task}, {name}: {means}")
        results[task] = {"optimal_value": best, "limits": cmdp.limits.tolist(), "variants": rows}
    return {
        "benchmark": "late iterates of sampled solvers, every iterate evaluated exactly; means per step",
        "steps": steps,
        "tuning_seed": tuning_seed,
        "tasks": results,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


def _score(metrics: Mapping[str, float]) -> float:
    return abs(metrics["late_mean_gap"]) + metrics["late_mean_violation"]
