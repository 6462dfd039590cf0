"""Days of the microgrid: what each policy burns, with and without the shield, against who knows the day.

Every policy sees the same days. Fuel is compared with the charge priced (:mod:`saferl.envs.microgrid.foresight`). A
trained policy samples its actions, as it did in training; its mean actions behind the shield have a row of their own.
The share of the gap is ``sum(realistic - policy) / sum(realistic - foresight)`` over the days, where realistic is the
operator without a shield; its interval is a bootstrap over days, which keeps each day's three numbers together.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from saferl.bench.measure import machine
from saferl.envs.microgrid.baselines import BASELINES, baseline
from saferl.envs.microgrid.env import Microgrid
from saferl.envs.microgrid.foresight import adjusted_fuel, perfect_foresight
from saferl.envs.microgrid.series import DAY, SERIES, Series
from saferl.errors import ConfigError, UnknownNameError
from saferl.evaluation.summary import versions
from saferl.shields.scu import MicrogridShield
from saferl.statistics import cluster_bootstrap_interval, mean_interval_t

FIRST_SEED = 50_000
"""Days of the benchmark have the seeds from here on; training draws others."""
UNSHIELDED = ("random", "lazy", "greedy", "realistic")
"""Baselines that are shown without the shield as well."""
REFERENCE = "realistic, no shield"
"""Whose fuel is the other end of the gap."""


@dataclass(frozen=True)
class DayRecord:
    """What one policy did on one day."""

    deficit: int
    """Minutes with a deficit."""
    excess: int
    """Minutes with an excess."""
    unmet: float
    """kWh."""
    fuel: float
    """Litres."""
    adjusted_fuel: float
    """Litres, with the change of the charge priced."""
    starts: int
    """Of gensets."""
    breaches: int
    """Of warm-up, cool-down and minimum run time."""
    outside_band: int
    """Minutes with the charge outside the normal band."""
    overload: int
    """Minutes."""
    wear: float
    """Of the battery."""
    overrides: int
    """Decisions that were changed."""
    command_overrides: int
    """Decisions that changed the command for the gensets."""
    lowest: float
    """Charge."""
    highest: float
    """Charge."""
    last: float
    """Charge at the end."""
    decision_us: float
    """Median time of a decision of the shield; 0 without one."""


def bench_microgrid(
    *,
    days: int = 30,
    series: Sequence[str] = ("synthetic", "adversarial"),
    runs: Mapping[str, Path] | None = None,
    soc: float = 0.2,
    first_seed: int = FIRST_SEED,
    jobs: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Every baseline, and the given runs behind the shield and without it, on the same days.

    Args:
        days: Per series, at least 2.
        series: Kinds of days.
        runs: Run folders or artefacts by the name that they have in the table.
        soc: Charge at 07:00, when the days begin.
        first_seed: Of the first day.
        jobs: Processes.
        report: Told of every finished day.

    Raises:
        ConfigError: fewer than two days or one job, or a run with the name of a baseline.
        UnknownNameError: an unknown kind of days.
    """
    chosen = dict(runs or {})
    if days < 2 or jobs < 1:
        raise ConfigError(f"The benchmark needs at least 2 days and 1 job; got {days} and {jobs}.")
    for name in series:
        if name not in SERIES:
            raise UnknownNameError("series of the microgrid", name, SERIES)
    taken = sorted(set(chosen) & set(BASELINES))
    if taken:
        raise ConfigError(f"Names of runs must not be those of baselines; got {taken[0]!r}. Choose another.")
    start = time.perf_counter()
    sources = tuple((name, str(path)) for name, path in chosen.items())
    tasks = [(name, first_seed + day, soc, sources) for name in series for day in range(days)]
    done = {(task[0], task[1]): found for task, found in _run(tasks, jobs, report)}
    tables = {}
    for name in series:
        found = [done[name, first_seed + day] for day in range(days)]
        tables[name] = _table(found)
    return {
        "days": days,
        "first_seed": first_seed,
        "charge_at_start": soc,
        "runs": {name: _provenance(str(path)) for name, path in chosen.items()},
        "series": tables,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


Task = tuple[str, int, float, tuple[tuple[str, str], ...]]
Found = dict[str, Any]


def _run(tasks: Sequence[Task], jobs: int, report: Callable[[str], None]) -> list[tuple[Task, Found]]:
    results = []
    if jobs == 1:
        for task in tasks:
            results.append((task, run_day(task)))
            report(f"{task[0]} day {task[1]}")
        return results
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_day, task): task for task in tasks}
        for future in as_completed(futures):
            results.append((futures[future], future.result()))
            report(f"{futures[future][0]} day {futures[future][1]}")
    return results


def run_day(task: Task) -> Found:
    """All policies on one day: ``foresight`` (litres) and ``records`` by name."""
    series, seed, soc, sources = task
    env = Microgrid(series=series, start="evaluation", soc=soc)
    env.reset(seed=seed)
    day = Series(env.day.demand[1 : DAY + 1], env.day.wind[1 : DAY + 1])
    shield = MicrogridShield.for_env(env)
    records = {}
    for name in BASELINES:
        records[f"{name}, shield"] = asdict(_episode(env, baseline(name, seed=seed), shield, seed))
        if name in UNSHIELDED:
            records[f"{name}, no shield"] = asdict(_episode(env, baseline(name, seed=seed), None, seed))
    for name, path in sources:
        policy = _load(path)
        records[f"{name}, shield"] = asdict(_episode(env, policy, shield, seed, is_sampled=True))
        records[f"{name}, no shield"] = asdict(_episode(env, policy, None, seed, is_sampled=True))
        records[f"{name} (mean actions), shield"] = asdict(_episode(env, policy, shield, seed))
    return {"foresight": perfect_foresight(day, soc, env.params).adjusted_fuel, "records": records}


@functools.cache
def _load(path: str) -> Any:
    from saferl.policy import load

    return load(path)


def _provenance(path: str) -> dict[str, Any]:
    """What a run says of itself."""
    said = _load(path).provenance
    return {key: said[key] for key in ("solver", "env", "env_kwargs", "seed", "steps", "trained_for") if key in said}


def _episode(
    env: Microgrid, policy: Any, shield: MicrogridShield | None, seed: int, *, is_sampled: bool = False
) -> DayRecord:
    obs, info = env.reset(seed=seed)
    first, state, starts = float(info["soc"]), None, np.ones(1, dtype=np.bool_)
    sums, charges, times = dict.fromkeys(("fuel", "unmet"), 0.0), [first], []
    costs: dict[str, float] = {}
    overrides = command_overrides = 0
    generators = [np.random.default_rng(seed)]
    is_over = False
    while not is_over:
        if is_sampled:
            action = policy.sample(obs[None], generators)
        else:
            action, state = policy.predict(obs[None], state, starts, deterministic=True)
        executed, starts = action[0], np.zeros(1, dtype=np.bool_)
        if shield is not None:
            decision = shield.filter(obs, executed)
            executed = decision.action
            overrides += decision.intervened
            command_overrides += decision.kind == "replaced"
            times.append(decision.elapsed_us)
        obs, _, _, is_over, info = env.step(executed)
        charges.append(float(info["soc"]))
        for key in sums:
            sums[key] += info[key]
        for key, value in info["costs"].items():
            costs[key] = costs.get(key, 0.0) + value
    return DayRecord(
        int(costs["deficit"]),
        int(costs["excess"]),
        sums["unmet"],
        sums["fuel"],
        adjusted_fuel(sums["fuel"], first, charges[-1]),
        int(costs["starts"]),
        int(costs["breaches"]),
        int(costs["soc_band"]),
        int(costs["overload"]),
        costs["wear"],
        overrides,
        command_overrides,
        min(charges),
        max(charges),
        charges[-1],
        float(np.median(times)) if times else 0.0,
    )


def _table(found: Sequence[Found]) -> dict[str, Any]:
    """Means over days by policy, with paired differences and the share of the gap; and all days."""
    foresight = np.array([day["foresight"] for day in found])
    fuels = {name: np.array([day["records"][name]["adjusted_fuel"] for day in found]) for name in found[0]["records"]}
    reference = fuels[REFERENCE]
    rows = {}
    for name, fuel in fuels.items():
        records = [day["records"][name] for day in found]
        means = {field.name: float(np.mean([r[field.name] for r in records])) for field in fields(DayRecord)}
        wear = np.array([r["wear"] - day["records"][REFERENCE]["wear"] for r, day in zip(records, found, strict=True)])
        lazy = fuel - fuels["lazy, shield"]
        rows[name] = {
            "mean": means,
            "is_comparable": means["deficit"] == 0.0,
            "worst_deficit": max(r["deficit"] for r in records),
            "worst_excess": max(r["excess"] for r in records),
            "saved": _mean(reference - fuel),
            "saved_to_shield_only": _mean(-lazy),
            "more_wear": _mean(wear),
            "gap_closed": gap_closed(fuel, reference, foresight),
        }
    return {
        "foresight": _mean(foresight),
        "room": float((reference - foresight).sum() / reference.sum()),
        "policies": rows,
        "by_day": list(found),
    }


def _mean(values: Any) -> dict[str, Any]:
    """Mean over days with Student's interval (95 %)."""
    low, high = mean_interval_t(values)
    return {"mean": float(np.mean(values)), "ci95": [low, high]}


def gap_closed(policy: Any, reference: Any, best: Any, *, seed: int = 0) -> dict[str, Any]:
    """Share of the gap between a reference and the best that a policy closes, from numbers per day.

    Args:
        policy: Shape (days,).
        reference: Of the same days, shape (days,).
        best: Of the same days, shape (days,).
        seed: Of the bootstrap.

    Example:
        >>> gap_closed([15.0, 25.0], [20.0, 30.0], [10.0, 20.0])["share"]
        0.5
    """
    gained = np.asarray(reference, dtype=np.float64) - policy
    gaps = np.asarray(reference, dtype=np.float64) - best
    days = len(gaps)

    def ratio(picked: Any) -> float:
        chosen = picked.astype(np.intp)
        return float(gained[chosen].sum() / gaps[chosen].sum())

    order = np.arange(days, dtype=np.float64)
    rng = np.random.default_rng(seed)
    low, high = cluster_bootstrap_interval(order.reshape(-1, 1), ratio, rng=rng)
    return {"share": ratio(order), "ci95": [low, high]}
