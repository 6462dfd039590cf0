"""How the exact optimum and an iteration of ReLOAD scale with the number of states, on sparse grids."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saferl.bench.measure import machine
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.grids import gridworld
from saferl.envs.tabular.planning import best_response
from saferl.errors import ConfigError, SaferlError, TrainingError
from saferl.evaluation.summary import versions
from saferl.solvers.tabular import lp, reload

GAMMA, SLIP, HAZARDS = 0.99, 0.1, 0.2
"""Discount, chance of a step aside, and share of cells that cost 1 per step, of every grid."""
_TIE_BREAK = 1e-6
"""Price of a cost where only the reward counts, so that the budget binds: ties go to the cheaper policy."""
_STATUS = Path("/proc/self/status")


def bench_tabular_scale(
    sizes: Sequence[int] = (100, 1_000, 10_000, 100_000),
    *,
    tolerance: float = 1e-8,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seconds, oracle calls and memory of the exact optimum by column generation, and seconds of a ReLOAD iteration.

    Every size is measured in a process of its own. A grid is the smallest square with that many cells; rewards wait at
    one corner, a fifth of the cells are hazards, and the budget is half-way between the cost of the best policy without
    a budget and the smallest reachable cost. Making the grid and finding these two policies is not part of the time.

    Args:
        sizes: Numbers of states, each at least 4.
        tolerance: Certified gap at which the optimum counts as found, in mean reward per step.
        seed: Seed of the hazards.
        report: Told every result as it comes.

    Raises:
        ConfigError: no size, or one below 4.
        TrainingError: a measurement fails, for example for lack of memory.
    """
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 4 for size in sizes):
        raise ConfigError(f"sizes must be whole numbers of states, at least 4 each; got {list(sizes)}.")
    start = time.perf_counter()
    rows = []
    for size in sizes:
        rows.append(_in_own_process(size, tolerance, seed))
        report(f"{rows[-1]['states']:,} states: {rows[-1]}")
    return {
        "benchmark": "exact optimum by column generation and one ReLOAD iteration, sparse grids with 4 actions",
        "instance": {"gamma": GAMMA, "slip": SLIP, "hazards": HAZARDS, "seed": seed},
        "tolerance": tolerance,
        "sizes": rows,
        "growth": growth(rows),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents p between neighbouring sizes: a quantity grows like states ** p; 1 is linear."""
    exponents = []
    for small, large in itertools.pairwise(rows):
        if small["states"] == large["states"]:
            continue
        span = math.log(large["states"] / small["states"])
        found = {
            name: round(math.log(large[name] / small[name]) / span, 2)
            for name in ("lp_seconds", "reload_iteration_seconds", "memory_mb")
            if small[name] and large[name]
        }
        exponents.append({"from_states": small["states"], "to_states": large["states"], **found})
    return exponents


def binding_grid(states: int, seed: int = 0) -> TabularCMDP:
    """The grid with at least ``states`` cells that is measured."""
    side = math.isqrt(states - 1) + 1
    grid = gridworld(side, SLIP, HAZARDS, gamma=GAMMA, seed=seed, budget=0.0, is_sparse=True)
    costs = grid.costs[..., 0]
    greedy = best_response(grid, grid.rewards - _TIE_BREAK * costs).policy
    careful = best_response(grid, -costs).policy
    limits = 0.5 * (grid.evaluate(greedy).costs + grid.evaluate(careful).costs)
    return grid.with_budgets(limits / grid.scale)


def _in_own_process(states: int, tolerance: float, seed: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(states, tolerance, seed, theirs))
    process.start()
    theirs.close()
    answer: Any = None
    with contextlib.suppress(EOFError):
        answer = ours.recv()
    process.join()
    if isinstance(answer, SaferlError):
        raise answer
    if answer is None:
        raise TrainingError(
            f"The measurement of {states} states must end with a result; its process ended with exit code "
            f"{process.exitcode}. Try a smaller size."
        )
    figures: dict[str, Any] = answer
    return figures


def _answer(states: int, tolerance: float, seed: int, pipe: Any) -> None:
    try:
        pipe.send(measure(states, tolerance, seed))
    except SaferlError as error:
        pipe.send(error)


def measure(states: int, tolerance: float = 1e-8, seed: int = 0) -> dict[str, Any]:
    """The figures of one size, measured in this process."""
    before = _memory_mb("VmRSS")
    cmdp = binding_grid(states, seed)
    start = time.perf_counter()
    optimum = lp.solve(cmdp, method="columns", tolerance=tolerance)
    seconds = time.perf_counter() - start
    if isinstance(optimum, lp.Infeasible):
        raise TrainingError(f"The grid with {states} states must be feasible. {optimum.message}")
    iteration_seconds = _reload_iteration(cmdp)
    peak = _memory_mb("VmHWM")
    return {
        "states": cmdp.num_states,
        "transitions": int(cmdp.transitions[0].nnz),
        "lp_seconds": round(seconds, 3),
        "certified_gap": float(optimum.certificate.gap),
        "primal_feasibility": float(optimum.certificate.primal_feasibility),
        "value": optimum.value,
        "budget": float(cmdp.limits[0]),
        "multiplier": float(optimum.multipliers[0]),
        "oracle_calls": optimum.details["oracle_calls"],
        "policy_evaluations": optimum.details["policy_evaluations"],
        "reload_iteration_seconds": round(iteration_seconds, 6),
        "peak_memory_mb": peak,
        "memory_mb": None if peak is None or before is None else round(max(peak - before, 0.0), 1),
    }


def _reload_iteration(cmdp: TabularCMDP) -> float:
    """Seconds of one exact evaluation and update: what further iterations add to the time of the first."""

    def seconds(iterations: int) -> float:
        start = time.perf_counter()
        reload.solve(cmdp, iterations=iterations)
        return time.perf_counter() - start

    once = seconds(1)
    more = int(np.clip(math.ceil(0.5 / once), 2, 200))
    return (seconds(1 + more) - once) / more


def _memory_mb(field: str) -> float | None:
    """A line of this process's memory (Linux only): ``VmRSS`` is resident now, ``VmHWM`` its peak."""
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
    return round(int(lines[field].split()[0]) / 1e3, 1)
