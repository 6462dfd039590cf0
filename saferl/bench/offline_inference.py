"""How long FISOR's policies take per action, alone and in a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch as th

from saferl.bench.measure import machine
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions

LIMITS_MS = {"published": {1: 12.0, 64: 4.5}, "small": {1: 2.0, 64: 0.2}}
"""Milliseconds per action that are to be reached, by preset and batch."""


def bench_offline_inference(
    *,
    observation: int = 60,
    action: int = 2,
    repeats: int = 5,
    threads: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Milliseconds per action of FISOR's presets with random weights, for one environment and for 64 at once.

    Args:
        observation: Width of an observation.
        action: Width of an action.
        repeats: Readings of each; medians are reported.
        threads: Threads of torch.
        report: Told every result as it comes.

    Raises:
        ConfigError: a width, number of readings or threads below 1.
    """
    if min(observation, action, repeats, threads) < 1:
        raise ConfigError(
            f"observation, action, repeats and threads must be at least 1; got {observation}, {action}, {repeats} and "
            f"{threads}."
        )
    from saferl.solvers.offline.fisor import PRESETS, FISORConfig
    from saferl.solvers.offline.fisor_networks import FISORNetworks

    before, rows = th.get_num_threads(), []
    th.set_num_threads(threads)
    try:
        for preset, options in PRESETS.items():
            policy = FISORNetworks(observation, action, FISORConfig(**options)).publish()
            for batch, limit in LIMITS_MS[preset].items():
                observations, noise = th.randn(batch, observation), th.randn(*_noise_shape(policy.noise_shape, batch))
                readings = [_milliseconds(policy, observations, noise) for _ in range(repeats)]
                walls, processors = zip(*readings, strict=True)
                median = statistics.median(walls)
                rows.append(
                    {
                        "preset": preset,
                        "parameters": policy.num_parameters,
                        "batch": batch,
                        "ms_per_action": {"median": round(median, 3), "all": [round(wall, 3) for wall in walls]},
                        "processor_ms_per_action": round(statistics.median(processors), 3),
                        "limit_ms": limit,
                        "is_reached": median <= limit,
                    }
                )
                report(f"{preset}, batch of {batch}: {median:.3f} ms per action")
    finally:
        th.set_num_threads(before)
    return {
        "benchmark": "inference of FISOR with random weights",
        "observation": observation,
        "action": action,
        "threads": threads,
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


def _noise_shape(shape: tuple[int, int, int], batch: int) -> tuple[int, int, int, int]:
    steps, candidates, width = shape
    return steps, batch, candidates, width


def _milliseconds(policy: Any, observations: th.Tensor, noise: th.Tensor, seconds: float = 0.5) -> tuple[float, float]:
    """Mean time per action and the processor's part of it, over at least half a second, after one uncounted call."""
    policy.choose_from(observations, noise)
    calls, start, used = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        policy.choose_from(observations, noise)
        calls += 1
    scale = 1e3 / (calls * len(observations))
    return scale * elapsed, scale * (time.process_time() - used)
