"""Latency of shields, beside the same program in cvxpy, and the rate of the batched projector."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.bench.measure import machine
from saferl.errors import ConfigError, MissingExtraError, UnknownNameError, missing_extra
from saferl.evaluation.summary import versions
from saferl.shields.base import Shield
from saferl.shields.protocol import ShieldContext

Array = npt.NDArray[np.float64]

_WARM_UP = 200
"""Calls before the first reading."""
_MOST_REFERENCE_CALLS = 500
"""Calls of cvxpy, each of which takes over a millisecond."""


@dataclass(frozen=True)
class ShieldCaseToTime:
    """A shield with what it is timed on."""

    shield: Shield
    """The shield."""
    obs: Sequence[Any]
    """Observations, taken in turn."""
    actions: Sequence[Any]
    """Proposals, taken in turn."""
    context: Callable[[], ShieldContext] = ShieldContext
    """What the shield is told beside; made before the clock starts."""


CASES: dict[str, str] = {
    "bounds": "saferl.bench.shield_cases:bounds",
    "cbf_qp": "saferl.bench.shield_cases:cbf_qp",
    "cbf_qp_obstacles": "saferl.bench.shield_cases:cbf_qp_obstacles",
    "cbf_qp_one_row": "saferl.bench.shield_cases:cbf_qp_one_row",
    "cbf_qp_braking": "saferl.bench.shield_cases:cbf_qp_braking",
    "safety_layer": "saferl.bench.shield_cases:safety_layer",
    "critic_project": "saferl.bench.shield_cases:critic_project",
    "critic_resample": "saferl.bench.shield_cases:critic_resample",
    "mpsc": "saferl.bench.shield_cases:mpsc",
    "backup_rollout": "saferl.bench.shield_cases:backup_rollout",
    "scu_microgrid": "saferl.bench.shield_cases:scu_microgrid",
}
"""Import path of a function that gives a :class:`ShieldCaseToTime`, by name; the first line of its docstring is shown.

To add a shield, add a line.
"""


def bench_shields(
    cases: Sequence[str] | None = None,
    *,
    calls: int = 5_000,
    batch: int = 4_096,
    repeats: int = 15,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Quantiles of the time of one decision by case, the cvxpy ratio, and projections per second.

    ``wall`` is what a control loop waits, other programs of the machine included; ``cpu`` is the time of the thread,
    from calls of their own. The reference is one cvxpy problem with parameters (DPP, CLARABEL), solved again and again
    on the states of the case ``cbf_qp``, in the same run.

    Args:
        cases: Names of :data:`CASES`; all if None.
        calls: Decisions of each.
        batch: Problems of one call of the projector.
        repeats: Calls of the projector; the median counts.
        report: Told every result as it comes.

    Raises:
        UnknownNameError: a name that is not in the table.
        ConfigError: a number below 1.
        MissingExtraError: torch, cvxpy or DAQP is not installed.
    """
    for name, value in (("calls", calls), ("batch", batch), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}.")
    rows: dict[str, Any] = {}
    for name in cases if cases is not None else list(CASES):
        make = _builder(name)
        rows[name] = {"what": (make.__doc__ or "").partition("\n")[0], **time_shield(make(), calls)}
        report(f"{name}: {_line(rows[name]['wall_us'])}")
    reference = _time_cvxpy(min(calls, _MOST_REFERENCE_CALLS))
    report(f"cvxpy: {_line(reference['wall_us'])}")
    projector = time_projector(batch, repeats)
    report(f"projector: {projector['per_second']:,.0f} projections/s")
    ratios = {
        name: round(reference["wall_us"]["median"] / row["wall_us"]["median"], 1)
        for name, row in rows.items()
        if name.startswith("cbf_qp")
    }
    return {
        "benchmark": "microseconds of one shield decision, our own code included; projections per second",
        "calls": calls,
        "cases": rows,
        "cvxpy": reference,
        "cvxpy_to_cbf_qp": ratios,
        "projector": projector,
        "machine": machine(),
        "versions": {**versions(), **_solver_versions()},
    }


def time_shield(case: ShieldCaseToTime, calls: int) -> dict[str, Any]:
    """Quantiles of one decision in microseconds by wall clock and by the thread's own time, and the kinds decided."""
    shield = case.shield.copy()
    shield.reset()
    kinds: dict[str, int] = {}
    pairs = itertools.cycle(list(zip(case.obs, case.actions, strict=True)))
    for obs, action in itertools.islice(pairs, _WARM_UP):
        shield.filter(obs, action, case.context())
    readings = {}
    for name, clock in (("wall_us", time.perf_counter_ns), ("cpu_us", time.thread_time_ns)):
        taken = np.empty(calls)
        for k, (obs, action) in enumerate(itertools.islice(pairs, calls)):
            context = case.context()
            start = clock()
            decision = shield.filter(obs, action, context)
            taken[k] = (clock() - start) / 1e3
            kinds[decision.kind] = kinds.get(decision.kind, 0) + 1
        readings[name] = quantiles(taken)
    return {**readings, "kinds": {kind: round(count / (2 * calls), 4) for kind, count in sorted(kinds.items())}}


def quantiles(values: Array) -> dict[str, float]:
    """Median, 95 %, 99 % and the largest, to a tenth."""
    found = np.quantile(values, [0.5, 0.95, 0.99, 1.0])
    return dict(zip(("median", "p95", "p99", "max"), (round(float(value), 1) for value in found), strict=True))


def time_projector(batch: int, repeats: int) -> dict[str, Any]:
    """Projections per second of random problems with 2 inputs and 4 rows, and the largest miss of a feasible one.

    The rows of the problems of one call lie close together in memory and are too short to share out: one torch thread
    is fastest, and is what is measured; the number of before is put back.
    """
    torch = _import("torch", "The batched projector")
    from saferl.shields.projector import project_batch

    generator, rates, residual, exact, infeasible = np.random.default_rng(0), [], 0.0, 0, 0
    low, high = -torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for repeat in range(repeats + 1):
            rows = torch.from_numpy(generator.normal(size=(batch, 4, 2)))
            bounds = torch.from_numpy(generator.uniform(-1.0, 0.3, (batch, 4)))
            starts = torch.from_numpy(generator.uniform(-1.5, 1.5, (batch, 2)))
            start = time.perf_counter()
            found = project_batch(starts, rows, bounds, low, high)
            taken = time.perf_counter() - start
            if repeat == 0:  # the first call allocates
                continue
            rates.append(batch / taken)
            missed = ((bounds - (rows * found.action[:, None]).sum(-1)) / rows.norm(dim=-1))[found.feasible]
            residual = max(residual, found.residual, float(missed.max()) if len(missed) else 0.0)
            exact, infeasible = exact + found.exact, infeasible + int((~found.feasible).sum())
    finally:
        torch.set_num_threads(threads)
    count = batch * repeats
    return {
        "batch": batch,
        "inputs": 2,
        "rows": 4,
        "threads": 1,
        "per_second": round(float(np.median(rates))),
        "slowest_per_second": round(min(rates)),
        "largest_residual": residual,
        "infeasible": round(infeasible / count, 4),
        "solved_one_by_one": round(exact / count, 4),
    }


def _time_cvxpy(calls: int) -> dict[str, Any]:
    """The program of the case ``cbf_qp`` in cvxpy, parametrised once and solved again."""
    cp = _import("cvxpy", "The cvxpy reference")
    case = _builder("cbf_qp")()
    rows, bounds, wish = cp.Parameter((4, 2)), cp.Parameter(4), cp.Parameter(2)
    action = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(action - wish)), [rows @ action >= bounds, cp.abs(action) <= 1.0])
    taken, differences = np.empty(calls), []
    pairs = itertools.cycle(list(zip(case.obs, case.actions, strict=True)))
    for k, (obs, proposal) in enumerate(itertools.islice(pairs, calls + 5)):
        start = time.perf_counter_ns()
        rows.value, bounds.value = case.shield.half_spaces(obs)
        wish.value = proposal
        problem.solve(solver="CLARABEL")
        if k >= 5:  # the first calls compile
            taken[k - 5] = (time.perf_counter_ns() - start) / 1e3
        if problem.status == "optimal":
            differences.append(float(np.abs(case.shield.filter(obs, proposal).action - action.value).max()))
    return {"calls": calls, "wall_us": quantiles(taken), "largest_difference": max(differences, default=float("nan"))}


def _builder(name: str) -> Callable[[], Any]:
    if name not in CASES:
        raise UnknownNameError("case of the benchmark", name, CASES)
    module, _, attribute = CASES[name].partition(":")
    builder: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    return builder


def _import(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error, what) or MissingExtraError(what, name, "train") from error


def _solver_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("daqp", "cvxpy", "clarabel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _line(row: dict[str, float]) -> str:
    return f"median {row['median']:,.1f} us, 99 % within {row['p99']:,.1f} us"
