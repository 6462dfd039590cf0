"""Every tabular solver on every tabular instance, measured against the exact optimum."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from saferl.bench.measure import machine
from saferl.envs.tabular.instances import INSTANCES
from saferl.errors import ConfigError, TrainingError
from saferl.evaluation.summary import versions
from saferl.solvers.tabular import TABULAR_SOLVERS, lp
from saferl.solvers.tabular.metrics import summarise
from saferl.solvers.tabular.solution import TabularSolution

PICTURED = "paradox_a"
"""The instance of the figure: reward and constraint are the same signal, so plain methods circle for ever."""
_CURVES = ("npg_pd", "reload")


def bench_tabular(
    instances: Sequence[str] | None = None,
    solvers: Sequence[str] | None = None,
    *,
    iterations: int = 2000,
    figure: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Last and average iterates of ``solvers`` on ``instances``, with their default step sizes.

    Args:
        instances: Names of :data:`saferl.envs.tabular.instances.INSTANCES`; all that are small if None.
        solvers: Names of :data:`saferl.solvers.tabular.TABULAR_SOLVERS`; all if None.
        iterations: Iterations of every solver that has this option.
        figure: Picture to draw (``.svg`` or ``.png``): gap and multiplier against iteration on Paradox A.
        report: Told every result as it comes.

    Raises:
        UnknownNameError: a name that is not in a table.
        ConfigError: fewer than one iteration.
    """
    if iterations < 1:
        raise ConfigError(f"iterations must be at least 1; got {iterations}.")
    start = time.perf_counter()
    rows: dict[str, Any] = {}
    for instance in instances if instances is not None else list(INSTANCES):
        cmdp = INSTANCES.load(instance)()
        optimum = lp.solve(cmdp)
        if isinstance(optimum, lp.Infeasible):
            raise TrainingError(f"The instance {instance} has no feasible policy: {optimum.message}")
        results: dict[str, Any] = {}
        for name in solvers if solvers is not None else list(TABULAR_SOLVERS):
            results[name] = _result(name, cmdp, iterations, optimum)
            report(f"{instance}, {name}: {results[name]}")
        rows[instance] = {
            "cmdp": repr(cmdp),
            "optimal_value": optimum.value,
            "multipliers": optimum.multipliers.tolist(),
            "lp_gap": optimum.certificate.gap,
            "solvers": results,
        }
    if figure is not None:
        draw(figure, iterations)
    return {
        "benchmark": "tabular solvers against the exact optimum, normalised units",
        "iterations": iterations,
        "instances": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


def _result(name: str, cmdp: Any, iterations: int, optimum: Any) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        solution = _solve(name, cmdp, iterations)
    except (ConfigError, TrainingError) as error:
        return {"error": str(error)}
    return {**summarise(solution, optimum.value).to_dict(), "seconds": round(time.perf_counter() - start, 2)}


def _solve(name: str, cmdp: Any, iterations: int) -> TabularSolution:
    entry = TABULAR_SOLVERS.load(name)
    options = {"iterations": iterations} if entry.has_option("iterations") else {}
    solution: TabularSolution = entry.solve(cmdp, **options)
    return solution


def draw(path: Path, iterations: int = 600) -> None:
    """Draw gap and multiplier against iteration on Paradox A: the picture that explains ReLOAD.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from saferl.bench.figure import draw_last_iterates

    cmdp = INSTANCES.load(PICTURED)()
    optimum = lp.solve(cmdp)
    solutions = {name: _solve(name, cmdp, iterations) for name in _CURVES}
    draw_last_iterates(path, solutions, optimum)
