"""The cells of the benchmark: one training each, measured, in processes of their own, and kept as lines of a file."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saferl.errors import ConfigError, RunFolderError, UnknownNameError

Record = dict[str, Any]
"""``cell``, ``metrics`` by name, ``trace`` (what the figure shows) and ``seconds``; JSON types."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    task: str
    """Environment id."""
    variant: str
    """Name of a variant."""
    solver: str
    """Name of its solver."""
    options: str
    """Options of the solver, as JSON with sorted keys."""
    seed: int
    """Training seed."""
    steps: int
    """Environment steps."""
    episodes: int
    """Fresh episodes of every late iterate of a sampled task; 0 on finite CMDPs, which need none."""


@functools.cache
def is_finite(task: str) -> bool:
    """Whether the iterates of ``task`` can be evaluated exactly.

    Raises:
        UnknownNameError: an id that ``saferl list envs`` does not know.
    """
    from saferl.envs.core import find_spec
    from saferl.envs.registry import ENVS
    from saferl.evaluation.exact import cmdp_of

    if find_spec(task) is None:
        raise UnknownNameError("environment", task, ENVS)
    try:
        cmdp_of(task)
    except ConfigError:
        return False
    return True


def run_cell(cell: Cell) -> Record:
    """Train and measure."""
    from saferl.bench.reload import finite, sampled
    from saferl.training.build import torch_threads

    start = time.perf_counter()
    with torch_threads(1):
        metrics, trace = finite.measure(cell) if is_finite(cell.task) else sampled.measure(cell)
    seconds = round(time.perf_counter() - start, 1)
    return {"cell": asdict(cell), "metrics": metrics, "trace": trace, "seconds": seconds}


class Records:
    """Finished cells, in a file of one JSON object per line where there is one; what a killed process left is kept."""

    def __init__(self, path: Path | None) -> None:
        """Read ``path``; None keeps everything in memory.

        Raises:
            RunFolderError: the file is not one of records, or cannot be written.
        """
        self._path = path
        self._known: dict[Cell, Record] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                size = file.tell()
            content = path.read_bytes()
            # A process that was killed while it wrote leaves half a line.
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) != size:
                os.truncate(path, len(whole))
            for line in whole.splitlines():
                record = json.loads(line)
                self._known[Cell(**record["cell"])] = record
        except OSError as error:
            raise RunFolderError(
                f"--cells must name a file of records that can be written; got {path} ({error.strerror})."
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"--cells must name a new file or one of finished cells, one JSON object per line; got {path}, which "
                f"holds something else ({error}). Choose another name."
            ) from error

    def __contains__(self, cell: Cell) -> bool:
        """Whether ``cell`` is finished."""
        return cell in self._known

    def __getitem__(self, cell: Cell) -> Record:
        """What came of a finished cell."""
        return self._known[cell]

    def add(self, record: Record) -> None:
        """Keep one more."""
        self._known[Cell(**record["cell"])] = record
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


class Workers:
    """Runs cells, in this process or across some; use as a context."""

    def __init__(self, jobs: int) -> None:
        """Prepare ``jobs`` processes; one job runs in this one.

        Raises:
            ConfigError: fewer than one.
        """
        if jobs < 1:
            raise ConfigError(f"--jobs must be at least 1; got {jobs}.")
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, mp_context=context) if jobs > 1 else None

    def __enter__(self) -> Workers:
        """Nothing starts before the first cell."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; cells that have not begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, cells: Iterable[Cell]) -> Iterator[Record]:
        """Records as the cells finish."""
        if self._pool is None:
            yield from map(run_cell, cells)
            return
        for future in as_completed([self._pool.submit(run_cell, cell) for cell in cells]):
            yield future.result()


def rounded(values: Any, digits: int = 5) -> Any:
    """Nested lists of numbers as short JSON."""
    if isinstance(values, Mapping):
        return {key: rounded(value, digits) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(value, digits) for value in values]
    return round(float(values), digits)
