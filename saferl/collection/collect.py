"""``collect``: a plan and an environment give one data file; a collection that is cut goes on where it stopped.

```
OUT              the data, written at the end
OUT.work/        plan.json, the runs of agents, and finished shards of episodes; removed at the end
```

Every unit of work (a stage of an agent, a shard of episodes) has a seed of its own and is written when it is whole, so
that neither the number of processes nor a kill changes the data.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from saferl.collection.grid import thin
from saferl.collection.plan import Plan, find_plan
from saferl.collection.work import Agents, Scripted, UniformActions, constraints_of, read_progress, read_shards
from saferl.data import Dataset, DatasetMetadata, write_dsrl
from saferl.errors import ConfigError, RunFolderError
from saferl.evaluation.summary import versions
from saferl.storage import only_writer, read_json, write_json

Report = Callable[[int, int], None]
"""Told of the steps done and those that there are."""

_SURPLUS = 1.5
"""Episodes collected per episode kept, as DSRL does before it thins."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Collection:
    """What was collected."""

    path: Path
    """The data file."""
    dataset: Dataset
    """Its content."""
    collected: int
    """Episodes before thinning."""
    seconds: float
    """Wall-clock time of this call."""


def collect(
    env_id: str,
    *,
    episodes: int,
    out: str | Path,
    seed: int = 0,
    jobs: int = 1,
    plan: Plan | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    keep_work: bool = False,
    report: Report | None = None,
) -> Collection:
    """Collect ``episodes`` episodes, spread over cost and return, and write them to ``out``.

    The same call again goes on with a collection that was cut.

    Args:
        env_id: Name of an environment.
        episodes: What the data keeps, at least 1.
        out: New HDF5 file in DSRL's layout, with our own keys beside it (``docs/datasets.md``).
        seed: Of everything random.
        jobs: Processes; the data does not depend on it.
        plan: Who collects; that of the environment if None.
        env_kwargs: More arguments of the environment (plain JSON values).
        keep_work: Whether the working folder, with the agents' runs, stays.
        report: Told about twice a second how far it is.

    Raises:
        ConfigError: no plan for the environment, or spaces that data cannot hold.
        RunFolderError: ``out`` exists, or a working folder of another collection is beside it.
    """
    start = time.perf_counter()
    if episodes < 1 or jobs < 1 or seed < 0:
        raise ConfigError(f"collect needs episodes >= 1, jobs >= 1 and a seed >= 0; got {episodes}, {jobs}, {seed}.")
    path, plan = Path(out), plan or find_plan(env_id)
    if path.exists():
        raise RunFolderError(f"The data file {path} exists already. Give another --out, or move it away.")
    work = path.with_name(f"{path.name}.work")
    request = {
        "env": env_id,
        "env_kwargs": dict(env_kwargs or {}),
        "episodes": episodes,
        "seed": seed,
        "plan": asdict(plan),
    }
    _open(work, request)
    with only_writer(work):
        units = list(_units(plan, request, work))
        _run(units, jobs, work, report)
        dataset, collected = _merge(work, request, plan)
        write_dsrl(dataset, path)
    if not keep_work:
        shutil.rmtree(work)
    return Collection(path, dataset, collected, time.perf_counter() - start)


def _open(work: Path, request: Mapping[str, Any]) -> None:
    """Make the working folder, or go on with one of the same request."""
    note = work / "plan.json"
    if not note.exists():
        if work.exists() and any(work.iterdir()):
            raise RunFolderError(f"The working folder {work} holds files that no collection wrote. Move it away.")
        work.mkdir(parents=True, exist_ok=True)
        write_json(note, request)
        return
    # Through JSON, tuples of the plan are lists.
    before = read_json(note, what="The plan of a collection")
    different = [key for key in request if before.get(key) != _as_json(request[key])]
    if different:
        raise RunFolderError(
            f"{work} belongs to a collection with another {', '.join(different)}. Ask for the same again to go on with "
            "it, remove it to start anew, or give another --out."
        )


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _units(plan: Plan, request: Mapping[str, Any], work: Path) -> Iterator[Agents | Scripted | UniformActions]:
    """What can run side by side, with how many episodes each."""
    wanted = int(np.ceil(_SURPLUS * request["episodes"]))
    share = int(np.ceil(plan.random_share * wanted))
    seeds = iter(np.random.SeedSequence(request["seed"]).generate_state(2 + len(plan.agents)).tolist())
    common = {"work": work, "env_id": request["env"], "env_kwargs": request["env_kwargs"]}
    policies = sum(len(agent.steps) for agent in plan.agents) * len(plan.noise)
    scripted = 0 if plan.scripted is None else (wanted - share if not plan.agents else wanted // 2)
    each = -(-(wanted - share - scripted) // policies) if policies else 0
    if scripted:
        yield Scripted(**common, seed=next(seeds), function=str(plan.scripted), episodes=scripted)
    if share:
        yield UniformActions(**common, seed=next(seeds), episodes=share)
    for agent in plan.agents:
        yield Agents(**common, seed=next(seeds), agent=agent, noise=plan.noise, episodes=each)


def _run(units: list[Agents | Scripted | UniformActions], jobs: int, work: Path, report: Report | None) -> None:
    total = sum(unit.steps for unit in units)
    # Longest first: the last process does not start on a long chain when the others are done.
    ordered = sorted(units, key=lambda unit: -unit.steps)
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        pending: set[Future[None]] = {pool.submit(unit.run) for unit in ordered}
        try:
            while pending:
                done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if report is not None:
                    report(min(read_progress(work), total), total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            raise


def _merge(work: Path, request: Mapping[str, Any], plan: Plan) -> tuple[Dataset, int]:
    """One data set of all shards, thinned."""
    arrays, behaviours = read_shards(work)
    constraints = constraints_of(request["env"], request["env_kwargs"])
    everything = Dataset.from_arrays(**arrays, cost_names=constraints.names)
    generator = np.random.default_rng([request["seed"], 1])
    kept = thin(everything.returns(), everything.cost_returns()[:, 0], request["episodes"], generator)
    metadata = DatasetMetadata(
        env_id=request["env"],
        env_kwargs=request["env_kwargs"],
        versions=versions(),
        seeds=(request["seed"],),
        budgets={c.name: c.budget for c in constraints},
        behaviours=tuple(behaviours[index] for index in kept),
        note=f"collected by plan {plan.name}; {len(behaviours)} episodes thinned to {len(kept)}",
    )
    return everything.select(kept).with_metadata(metadata), len(behaviours)
