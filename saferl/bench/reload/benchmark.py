"""Oscillation-prone tasks: every variant tuned alike, then its late iterates on the reported seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from saferl.bench.measure import machine
from saferl.bench.reload import finite, sampled
from saferl.bench.reload.cells import Cell, Record, Records, Workers, is_finite
from saferl.bench.reload.variants import FINITE_TASKS, FINITE_VARIANTS, SAMPLED_VARIANTS, VARIANTS, Variant
from saferl.envs.core import make
from saferl.errors import ConfigError, UnknownNameError
from saferl.evaluation.exact import cmdp_of
from saferl.evaluation.summary import versions

Report = Callable[[str], None]


def bench_reload(
    tasks: Sequence[str] = FINITE_TASKS,
    variants: Sequence[str] = VARIANTS,
    *,
    steps: int = 200_000,
    tuning_steps: int | None = None,
    seeds: Sequence[int] = (0, 5, 10),
    tuning_seed: int = 1000,
    episodes: int = 8,
    jobs: int = 1,
    cells: Path | None = None,
    figure: Path | None = None,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Late iterates of every variant on every task, each at its best setting by the tuning seed.

    On finite CMDPs a setting is chosen by the mean of absolute gap plus violation of its late iterates, on sampled
    tasks by their excess cost beyond 5 % of the budget and then by their return. Every variant has six settings.

    Args:
        tasks: Ids of environments.
        variants: Names of :data:`~saferl.bench.reload.variants.VARIANTS`.
        steps: Environment steps of every reported training.
        tuning_steps: Environment steps of every training of the choice; ``steps`` if None.
        seeds: Reported training seeds.
        tuning_seed: The seed of the choice, not among them.
        episodes: Fresh episodes of every late iterate on sampled tasks, at least 2.
        jobs: Processes.
        cells: File of finished trainings, which are not done again; new ones are appended.
        figure: Picture to draw (``.svg`` or ``.png``).
        report: Told every result as it comes.

    Raises:
        UnknownNameError: an unknown task or variant.
        ConfigError: the tuning seed is among the reported ones, or a number that makes no sense.
    """
    _check(tasks, variants, seeds, tuning_seed, episodes, min(steps, tuning_steps or steps))
    if figure is not None:
        from saferl.bench.figure import check_figure

        check_figure(figure)
    start = time.perf_counter()
    records = Records(cells)
    results: dict[str, Any] = {}
    shown: dict[str, dict[str, list[Record]]] = {}
    with Workers(jobs) as workers:
        for task in tasks:
            plan = Plan(task, variants, steps, tuning_steps or steps, seeds, tuning_seed, episodes)
            results[task], shown[task] = plan.carry_out(records, workers, report)
    if figure is not None:
        from saferl.bench.reload.figure import draw

        draw(figure, results, shown)
    return {
        "benchmark": "late iterates on oscillation-prone tasks; exact means per step on finite CMDPs, fresh episodes "
        "on sampled tasks",
        "steps": steps,
        "tuning_steps": tuning_steps or steps,
        "tuning_seed": tuning_seed,
        "seeds": list(seeds),
        "episodes": episodes,
        "late_share": finite.LATE,
        "tasks": results,
        "training_seconds": round(sum(r["seconds"] for t in shown.values() for row in t.values() for r in row), 1),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


@dataclass(frozen=True)
class Plan:
    """What is measured on one task."""

    task: str
    """Environment id."""
    variants: Sequence[str]
    """Names of the variants."""
    steps: int
    """Environment steps of a reported training."""
    tuning_steps: int
    """Environment steps of a training of the choice."""
    seeds: Sequence[int]
    """Reported training seeds."""
    tuning_seed: int
    """Training seed of the choice."""
    episodes: int
    """Fresh episodes of every late iterate, where values are not exact."""

    @property
    def kind(self) -> ModuleType:
        """The module that measures: exactly, or by fresh episodes."""
        return finite if is_finite(self.task) else sampled

    def carry_out(
        self, records: Records, workers: Workers, report: Report
    ) -> tuple[dict[str, Any], dict[str, list[Record]]]:
        """The task's part of the result, and by variant the records of the reported seeds."""
        table = FINITE_VARIANTS if self.kind is finite else SAMPLED_VARIANTS
        tuning = {
            name: [self._cell(name, row, index, self.tuning_seed, self.tuning_steps) for index in range(len(row.grid))]
            for name, row in table.items()
            if name in self.variants
        }
        _finish(tuning.values(), records, workers, report)
        scores = {name: [self.kind.score(records[cell]["metrics"]) for cell in row] for name, row in tuning.items()}
        best = {name: row.index(min(row)) for name, row in scores.items()}
        reported = {
            name: [self._cell(name, table[name], best[name], seed, self.steps) for seed in self.seeds]
            for name in tuning
        }
        _finish(reported.values(), records, workers, report)
        found = {name: [records[cell] for cell in row] for name, row in reported.items()}
        rows = {
            name: _row(table[name], best[name], [list(score) for score in scores[name]], found[name]) for name in tuning
        }
        return {**_about(self.task), "variants": rows}, found

    def _cell(self, name: str, variant: Variant, setting: int, seed: int, steps: int) -> Cell:
        options = json.dumps({**variant.shared, **variant.grid[setting]}, sort_keys=True)
        episodes = 0 if self.kind is finite else self.episodes
        return Cell(self.task, name, variant.solver, options, seed, steps, episodes)


def _check(
    tasks: Sequence[str], variants: Sequence[str], seeds: Sequence[int], tuning_seed: int, episodes: int, steps: int
) -> None:
    for name in variants:
        if name not in VARIANTS:
            raise UnknownNameError("variant", name, VARIANTS)
    for task in tasks:
        is_finite(task)
    if tuning_seed in seeds:
        raise ConfigError(f"The tuning seed must not be reported; got {tuning_seed} among {list(seeds)}.")
    for what, number, least in (("steps", steps, 1), ("episodes", episodes, 2), ("seeds", len(seeds), 1)):
        if number < least:
            raise ConfigError(f"The number of {what} must be at least {least}; got {number}.")


def _finish(rows: Iterable[Sequence[Cell]], records: Records, workers: Workers, report: Report) -> None:
    """Run the cells of ``rows`` that are not finished."""
    open_cells = [cell for row in rows for cell in row if cell not in records]
    for done, record in enumerate(workers.run(open_cells), start=1):
        records.add(record)
        cell, metrics = record["cell"], record["metrics"]
        first = "last_gap" if "last_gap" in metrics else "last_return"
        report(
            f"{cell['task']}, {cell['variant']}, {cell['options']}, seed {cell['seed']}: "
            f"{first.replace('_', ' ')} {metrics[first]:.4g}, violation {metrics['last_violation']:.4g}, late "
            f"deviation {metrics['late_cost_deviation']:.3g}; {record['seconds']:.0f} s ({done} of {len(open_cells)})"
        )


def _about(task: str) -> dict[str, Any]:
    if is_finite(task):
        optimum = finite.optimum_of(task)
        return {
            "kind": "exact",
            "optimal_value": optimum.value,
            "multipliers": optimum.multipliers.tolist(),
            "limits": cmdp_of(task).limits.tolist(),
        }
    env = make(task)
    env.close()
    return {"kind": "sampled", "limits": env.constraints.budgets.tolist()}


def _row(variant: Variant, setting: int, scores: list[list[float]], records: Sequence[Record]) -> dict[str, Any]:
    runs: Mapping[str, Any] = {str(record["cell"]["seed"]): record["metrics"] for record in records}
    keys = next(iter(runs.values()))
    return {
        "solver": variant.solver,
        "setting": {**variant.shared, **variant.grid[setting]},
        "tuning_scores": scores,
        "mean": {key: float(np.mean([run[key] for run in runs.values()])) for key in keys},
        "seeds": runs,
        "seconds": [record["seconds"] for record in records],
    }
