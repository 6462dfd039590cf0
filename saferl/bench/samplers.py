"""How long a batch of transitions or windows takes: one gather of all, against one sample after the other.

OSRL makes its batches with torch's ``DataLoader`` from a data set that gives one sample at a time: an episode drawn by
``numpy.random.choice`` with probabilities, slices of its arrays, padding, and the loader stacks them.
:class:`SampleWindows` and :class:`SampleTransitions` do the same, in the loader's own process; OSRL's classes run in
the peer's own Python, where one is given. Ours are timed with the arrays in memory and left on the disk, and with the
wrapping as torch tensors, which the loader's stacking includes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch.utils.data import DataLoader, IterableDataset

from saferl.bench.measure import machine, split_command
from saferl.data import Dataset, TransitionSampler, WindowSampler, load_dataset, write_dsrl
from saferl.errors import ConfigError, TrainingError
from saferl.evaluation.summary import versions

_SECONDS = 0.4
"""Least duration of a reading."""
_PEER = Path(__file__).with_name("osrl_loader.py")
Batches = Iterator[Any]


def bench_samplers(
    data: Path | None = None,
    *,
    batches: tuple[int, ...] = (64, 2048),
    length: int = 10,
    repeats: int = 5,
    peer: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Milliseconds per batch of transitions and windows: ours, ours on the disk, sample by sample, and OSRL's.

    Args:
        data: A data file; 400 made-up episodes of 500 steps, 60 observations and 2 actions if None.
        batches: Samples of a batch.
        length: Steps of a window.
        repeats: Readings of each, taken in turn; medians are reported.
        peer: A Python that has OSRL.
        report: Told every result as it comes.

    Raises:
        ConfigError: a batch, length or number of readings below 1.
        TrainingError: the peer fails.
    """
    if min(*batches, length, repeats) < 1:
        raise ConfigError(f"batches, length and repeats must be at least 1; got {batches}, {length} and {repeats}.")
    words = None if peer is None else split_command(peer)
    dataset = load_dataset(data) if data is not None else made_up()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plain = write_dsrl(dataset, Path(folder) / "plain.hdf5", compression=0)
        mapped = load_dataset(plain, memory_map=True)
        for kind in ("transitions", "windows"):
            for batch in batches:
                row = _row(kind, dataset, mapped, batch, length, repeats)
                if words is not None:
                    row["ms"]["osrl"] = _figures([_ask_peer(words, plain, kind, batch, length) for _ in range(repeats)])
                _compare(row)
                rows.append(row)
                report(_line(row))
    return {
        "benchmark": "samplers",
        "data": {
            "file": None if data is None else data.name,
            "episodes": dataset.num_episodes,
            "steps": len(dataset),
            "observation": list(dataset.observations.shape[1:]),
            "action": dataset.actions.shape[1],
        },
        "length": length,
        "repeats": repeats,
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


def made_up(episodes: int = 400, steps: int = 500, observation: int = 60, action: int = 2) -> Dataset:
    """Random numbers in the shape of DSRL's navigation data."""
    rng, count = np.random.default_rng(0), episodes * steps
    ends = np.arange(count) % steps == steps - 1
    return Dataset.from_arrays(
        observations=rng.standard_normal((count, observation), dtype=np.float32),
        next_observations=rng.standard_normal((count, observation), dtype=np.float32),
        actions=rng.uniform(-1.0, 1.0, (count, action)),
        rewards=rng.standard_normal(count, dtype=np.float32),
        costs=rng.random(count) < rng.uniform(0.0, 0.1, episodes).repeat(steps),
        terminals=np.zeros(count, dtype=np.bool_),
        timeouts=ends,
    )


class SampleTransitions(IterableDataset[Any]):
    """One transition after the other, without end."""

    def __init__(self, dataset: Dataset, generator: np.random.Generator) -> None:
        """Keep the data."""
        super().__init__()
        self.dataset, self.generator = dataset, generator
        self.done = (dataset.terminals | dataset.timeouts).astype(np.float32)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Draw and slice."""
        data = self.dataset
        while True:
            row = self.generator.choice(len(data))
            yield (
                data.observations[row],
                data.next_observations[row],
                data.actions[row],
                data.rewards[row],
                data.costs[row],
                self.done[row],
            )


class SampleWindows(IterableDataset[Any]):
    """One window after the other, without end: an episode by its probability, a first step, slices, padding."""

    def __init__(self, dataset: Dataset, length: int, generator: np.random.Generator) -> None:
        """Cut the data into episodes."""
        super().__init__()
        sampler = WindowSampler(dataset, length, 1, generator)
        arrays = (dataset.observations, dataset.actions, sampler.returns_to_go, sampler.costs_to_go, dataset.costs)
        bounds = list(zip(dataset.episode_starts, dataset.episode_ends, strict=True))
        self.episodes = [tuple(array[start:end] for array in arrays) for start, end in bounds]
        self.length, self.generator = length, generator
        lengths = np.array([end - start for start, end in bounds], dtype=np.float64)
        self.chances = lengths / lengths.sum()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Draw, slice and pad."""
        while True:
            episode = self.episodes[self.generator.choice(len(self.episodes), p=self.chances)]
            first = int(self.generator.integers(len(episode[0])))
            parts = [array[first : first + self.length] for array in episode]
            count = len(parts[0])
            if count < self.length:
                missing = self.length - count
                parts = [np.pad(part, [(0, missing), *[(0, 0)] * (part.ndim - 1)]) for part in parts]
            mask = np.hstack([np.ones(count), np.zeros(self.length - count)])
            yield (*parts, np.arange(first, first + self.length), mask, episode[3][0])


def tensors(batch: Any) -> list[th.Tensor]:
    """The arrays of a batch as torch tensors, without a copy."""
    return [th.from_numpy(array) for array in vars(batch).values() if array is not None]


def _row(kind: str, dataset: Dataset, mapped: Dataset, batch: int, length: int, repeats: int) -> dict[str, Any]:
    """Readings in turn, so that a busy moment of the machine meets all."""

    def ours(data: Dataset) -> Batches:
        rng = np.random.default_rng(0)
        sampler = (
            TransitionSampler(data, batch, rng) if kind == "transitions" else WindowSampler(data, length, batch, rng)
        )
        while True:
            yield tensors(sampler.sample())

    def one_by_one() -> Batches:
        rng = np.random.default_rng(0)
        source = SampleTransitions(dataset, rng) if kind == "transitions" else SampleWindows(dataset, length, rng)
        return iter(DataLoader(source, batch_size=batch))

    sources = {"saferl": ours(dataset), "saferl_on_disk": ours(mapped), "sample_by_sample": one_by_one()}
    readings: dict[str, list[float]] = {name: [] for name in sources}
    with _one_thread():
        for source in sources.values():
            next(source)
        for _ in range(repeats):
            for name, source in sources.items():
                readings[name].append(milliseconds(source))
    return {"kind": kind, "batch": batch, "ms": {name: _figures(values) for name, values in readings.items()}}


def milliseconds(source: Batches, seconds: float = _SECONDS) -> float:
    """Mean time per batch, over at least ``seconds``."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2:
        next(source)
        count += 1
    return 1e3 * elapsed / count


@contextmanager
def _one_thread() -> Iterator[None]:
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)


def _ask_peer(words: list[str], data: Path, kind: str, batch: int, length: int) -> float:
    """OSRL's milliseconds per batch."""
    command = [*words, str(_PEER), str(data), kind, "--batch", str(batch), "--length", str(length)]
    done = subprocess.run([*command, "--seconds", str(_SECONDS)], capture_output=True, text=True, check=False)
    try:
        return float(json.loads(done.stdout.strip().splitlines()[-1])["ms"])
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(
            f"The peer's Python must have OSRL, and end with its result; it ended with {done.returncode} and this "
            f"output: {(done.stderr.strip() or done.stdout.strip())[-500:] or '(none)'}"
        ) from error


def _figures(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 4), "all": [round(value, 4) for value in values]}


def _compare(row: dict[str, Any]) -> None:
    medians: dict[str, float] = {name: entry["median"] for name, entry in row["ms"].items()}
    others = [name for name in medians if not name.startswith("saferl")]
    row["times_as_fast"] = {
        mine: {other: round(medians[other] / medians[mine], 1) for other in others}
        for mine in medians
        if mine.startswith("saferl")
    }


def _line(row: dict[str, Any]) -> str:
    readings = ", ".join(f"{name} {entry['median']:.3f} ms" for name, entry in row["ms"].items())
    return f"{row['kind']}, batch of {row['batch']}: {readings}"
