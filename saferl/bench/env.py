"""Throughput of environments: the batched backend, its bare physics, the single environment and a peer, in turn."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mujoco  # type: ignore[import-untyped]

import saferl
from saferl.bench.measure import figures_of, machine, run_peer, split_command
from saferl.envs.batched import SimulationBatch
from saferl.envs.cores import usable_cores
from saferl.envs.simulations import Simulations
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions

_ACTIONS = 64
"""Batches of random actions, taken again and again."""


def bench_env(
    env_id: str,
    *,
    num_envs: int = 64,
    steps: int | None = None,
    repeats: int = 5,
    num_threads: int | None = None,
    scaling: Sequence[int] = (1, 4, 16, 64, 256),
    peer: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Env steps per second, as medians over ``repeats`` readings that are taken in turn, and their ratios.

    ``batched`` steps the vector environment with random actions, resets included; ``physics`` advances its simulations
    with the same models and threads and does nothing else (the substeps, mocap bodies moved before each, and one
    forward pass where the task has one); a tabular environment has none;
    ``reference`` is the single environment in one process, resets included.

    Args:
        env_id: A name of ``saferl list envs``.
        num_envs: Environments in the batch.
        steps: Steps of each reading (default: one episode, so that every environment is reset once).
        repeats: Readings of each.
        num_threads: Threads of batched and physics (default: the usable cores).
        scaling: Sizes of batches to read the speed of once each; empty for none.
        peer: A command that prints a line ``ENV_STEPS_PER_SECOND x`` (or ``STEPS_PER_SECOND x``).
        report: Told every reading as it comes.

    Raises:
        ConfigError: no batched version of ``env_id``, or a number is out of range.
        TrainingError: the peer's command fails or prints no throughput.
    """
    for name, value in (
        ("num_envs", num_envs),
        ("steps", steps),
        ("repeats", repeats),
        *(("scaling", n) for n in scaling),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}.")
    peer_words = None if peer is None else split_command(peer)
    threads = usable_cores() if num_threads is None else num_threads
    envs = saferl.make_vec(env_id, num_envs, backend="batched", num_workers=threads)
    single = saferl.make(env_id)
    batch: Any = envs.batch  # type: ignore[attr-defined]
    steps = steps or envs.horizon or 1000
    sources: dict[str, Callable[[], float]] = {
        "reference": lambda: _reference_speed(single, steps),
        "batched": lambda: _batched_speed(envs, steps),
    }
    if isinstance(batch, SimulationBatch):
        sources["physics"] = lambda: _physics_speed(envs, batch, steps)
    if peer_words is not None:
        sources["peer"] = lambda: run_peer(peer_words)
    readings: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(repeats):
        for name, read in sources.items():
            readings[name].append(read())
            report(f"{name} {readings[name][-1]:,.0f} steps/s")
    reset_ms = _reset_time(envs)
    envs.close()
    single.close()
    medians = {name: statistics.median(values) for name, values in readings.items()}
    ratios = {f"batched_to_{name}": round(medians["batched"] / value, 3) for name, value in medians.items()}
    del ratios["batched_to_batched"]
    return {
        "benchmark": "env steps per second of wall-clock, random actions, resets included (but for physics)",
        "env": env_id,
        "num_envs": num_envs,
        "threads": min(threads, num_envs),
        "steps": steps,
        "repeats": repeats,
        "peer_command": None if peer_words is None else " ".join(Path(word).name for word in peer_words),
        "steps_per_second": {name: figures_of(values) for name, values in readings.items()},
        "ratios": ratios,
        "reset_ms": round(reset_ms, 3),
        "memory_mb_per_env": _memory_per_env(env_id),
        "scaling": {str(count): _speed_of(env_id, count, threads, report) for count in scaling},
        "machine": machine(),
        "versions": versions(),
    }


def _actions(space: Any) -> list[Any]:
    space.seed(0)
    return [space.sample() for _ in range(_ACTIONS)]


def _reference_speed(env: Any, steps: int) -> float:
    actions = itertools.cycle(_actions(env.action_space))
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps):
        *_, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()
    return float(steps / (time.perf_counter() - start))


def _batched_speed(envs: Any, steps: int) -> float:
    actions = itertools.cycle(_actions(envs.action_space))
    envs.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps):
        envs.step(next(actions))
    return float(steps * envs.num_envs / (time.perf_counter() - start))


def _physics_speed(envs: Any, batch: SimulationBatch, steps: int) -> float:
    """The same simulations from the same states, advanced and nothing else."""
    actions = itertools.cycle(_actions(envs.action_space))
    envs.reset(seed=0)
    bare = Simulations(
        batch.simulations.models, batch.simulations.datas, fields={}, num_threads=batch.simulations.num_threads
    )
    controls = [data.ctrl for data in bare.datas]
    substeps, needs_forward = batch.substeps, batch.needs_forward

    def step(row: int) -> None:
        model, data = bare.models[row], bare.datas[row]
        controls[row][:] = batch_of_actions[row]
        if targets is None:
            mujoco.mj_step(model, data, substeps)
        else:
            for target in targets[row]:
                data.mocap_pos[:] = target
                mujoco.mj_step(model, data)
        if needs_forward:
            mujoco.mj_forward(model, data)

    start = time.perf_counter()
    for _ in range(steps):
        batch_of_actions, targets = next(actions), batch.mocap_targets()
        bare.advance(step)
    speed = float(steps * envs.num_envs / (time.perf_counter() - start))
    bare.close()
    return speed


def _reset_time(envs: Any) -> float:
    """Milliseconds per environment of a reset of all, the median of five."""
    times = []
    for seed in range(5):
        start = time.perf_counter()
        envs.reset(seed=1000 * seed)
        times.append((time.perf_counter() - start) / envs.num_envs * 1e3)
    return float(statistics.median(times))


def _speed_of(env_id: str, num_envs: int, threads: int, report: Callable[[str], None]) -> float:
    envs = saferl.make_vec(env_id, num_envs, backend="batched", num_workers=threads)
    speed = _batched_speed(envs, max(20, 12_800 // num_envs))
    envs.close()
    report(f"batched with {num_envs} {speed:,.0f} steps/s")
    return round(speed, 1)


def _memory_per_env(env_id: str, more: int = 32) -> float | None:
    """Resident megabytes that each further environment takes after some steps, in a process of its own (Linux only)."""
    if not Path("/proc/self/statm").exists():
        return None
    context = multiprocessing.get_context("spawn")
    used = []
    for count in (1, 1 + more):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_resident, args=(env_id, count, theirs))
        process.start()
        used.append(ours.recv())
        process.join()
    return float(round((used[1] - used[0]) / more / 1e6, 3))


def _resident(env_id: str, num_envs: int, answer: Any) -> None:  # pragma: no cover - runs in a child process
    envs = saferl.make_vec(env_id, num_envs, backend="batched")
    actions = _actions(envs.action_space)
    envs.reset(seed=0)
    for batch_of_actions in actions:
        envs.step(batch_of_actions)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    answer.send(pages * os.sysconf("SC_PAGE_SIZE"))
    envs.close()
