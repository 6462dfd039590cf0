"""How long a training step of CDT takes, and a thousand of its actions, beside OSRL's in turn."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th

from saferl.bench.measure import machine, split_command
from saferl.bench.osrl_policy import DRIVER
from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, TrainingError
from saferl.evaluation.summary import versions

BATCHES = (64, 2048)
STEP_RATIO = 1.5
"""How many times faster than OSRL's a training step is to be."""
ACTIONS_LIMIT_S = 1.5
"""Seconds that a thousand actions in one environment may take."""


def bench_offline_training(
    *,
    observation: int = 60,
    action: int = 2,
    batches: Sequence[int] = BATCHES,
    actions: int = 1000,
    repeats: int = 5,
    threads: int = 2,
    peer: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seconds per training step (windows of 10, the published sizes, float32) and per thousand actions.

    One reading of each that does not count comes first. Data are random: neither step depends on them.

    Args:
        observation: Width of an observation.
        action: Width of an action.
        batches: Windows per step.
        actions: Taken in one environment, by exact windows, and by the banded variant with kept keys.
        repeats: Readings of each; medians are reported.
        threads: Threads of torch, the peer's too.
        peer: Python that has OSRL; None: ours alone.
        report: Told every result as it comes.

    Raises:
        ConfigError: a number below 1.
        TrainingError: the peer ends without an answer.
    """
    if min(observation, action, *batches, actions, repeats, threads) < 1:
        raise ConfigError(
            f"Widths, batches, actions, repeats and threads must be at least 1; got {observation}, {action}, "
            f"{list(batches)}, {actions}, {repeats}, {threads}."
        )
    before = th.get_num_threads()
    th.set_num_threads(threads)
    rows = []
    try:
        with _Peer(peer, observation, action, threads) as theirs:
            for batch in batches:
                readings = {"saferl": _steps(observation, action, batch)}
                if peer is not None:
                    readings["osrl"] = theirs.reading(f"step {batch}")
                rows.append(_row("training step", batch, _in_turn(readings, repeats), report))
            readings = {
                "saferl": _actions(observation, action, actions, "window"),
                "saferl, banded variant": _actions(observation, action, actions, "banded"),
            }
            if peer is not None:
                readings["osrl"] = theirs.reading(f"act {actions}")
            rows.append(_row("actions in one environment", actions, _in_turn(readings, repeats), report))
    finally:
        th.set_num_threads(before)
    return {
        "benchmark": "CDT: seconds per training step and per actions in one environment, in turn with the peer",
        "observation": observation,
        "action": action,
        "window": 10,
        "threads": threads,
        "to_reach": {"step_ratio": STEP_RATIO, "seconds_per_1000_actions": ACTIONS_LIMIT_S},
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


class _Peer:
    """The peer's process, which measures itself."""

    def __init__(self, command: str | None, observation: int, action: int, threads: int) -> None:
        self._words = None if command is None else [*split_command(command), str(DRIVER), "time"]
        self._options = [f"--observation={observation}", f"--action={action}", f"--threads={threads}"]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Peer:
        if self._words is not None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen([*self._words, *self._options], text=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()

    def reading(self, request: str) -> Callable[[], float]:
        """What measures once when it is called: seconds."""

        def measure() -> float:
            process = self._process
            assert process is not None
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise TrainingError(f"The peer must answer {request!r} with seconds; its process ended.")
            return float(line)

        return measure


def _steps(observation: int, action: int, batch: int) -> Callable[[], float]:
    """One update on a batch that is there."""
    from saferl.solvers.offline.cdt import CDT

    solver = CDT(preset="published", batch_size=batch)
    solver.start(_random_data(observation, action))
    prepared = solver.prepare_batch(solver.sampler.sample())

    def measure() -> float:
        start = time.perf_counter()
        solver.train_on(prepared)
        return time.perf_counter() - start

    return measure


def _actions(observation: int, action: int, count: int, attention: str) -> Callable[[], float]:
    """``count`` actions of an untrained policy, with what it is told in between."""
    from saferl.solvers.offline.cdt import CDT

    solver = CDT(preset="published", attention=attention, batch_size=1)
    solver.start(_random_data(observation, action))
    policy = solver.policy()
    observations = th.from_numpy(np.random.default_rng(0).normal(size=(count, 1, observation)).astype(np.float32))
    nothing = (np.ones(1), np.zeros((1, 1)), np.zeros(1, dtype=np.bool_))

    def measure() -> float:
        state = policy.begin(1, None)
        start = time.perf_counter()
        for seen in observations:
            policy.act(seen, state, None, True)
            policy.observe(state, *nothing)
        return time.perf_counter() - start

    return measure


def _random_data(observation: int, action: int) -> Dataset:
    rng, rows = np.random.default_rng(0), 4000
    observations = rng.normal(size=(rows, observation)).astype(np.float32)
    return Dataset.from_arrays(
        observations=observations,
        next_observations=np.roll(observations, -1, axis=0),
        actions=rng.uniform(-1.0, 1.0, size=(rows, action)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        costs=rng.integers(0, 2, size=(rows, 1)).astype(np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=np.arange(rows) % 1000 == 999,
    )


def _in_turn(readings: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in readings}
    for index in range(repeats + 1):
        for name, measure in readings.items():
            seconds = measure()
            if index:
                found[name].append(seconds)
    return found


def _row(what: str, size: int, found: dict[str, list[float]], report: Callable[[str], None]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in found.items()}
    row: dict[str, Any] = {
        "what": what,
        "size": size,
        "seconds": {
            name: {"median": round(medians[name], 4), "all": [round(value, 4) for value in values]}
            for name, values in found.items()
        },
    }
    if "osrl" in medians:
        row["ratio"] = round(medians["osrl"] / medians["saferl"], 2)
    beside = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in medians.items())
    report(f"{what}, {size}: {beside}" + (f" (ratio {row['ratio']})" if "ratio" in row else ""))
    return row
