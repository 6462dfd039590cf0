"""Many MuJoCo simulations advanced on threads; MuJoCo's bindings release Python's lock while they compute.

Each simulation is advanced by one thread alone, so results do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from saferl.envs.cores import usable_cores
from saferl.errors import ConfigError

Array = npt.NDArray[Any]
Advance = Callable[[int], None]
"""Moves one simulation by one step, given its number."""

_FATAL = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]


class Simulations:
    """Simulations of equal sizes, with the fields that are read after every step in arrays of the whole batch."""

    def __init__(
        self,
        models: Sequence[Any],
        datas: Sequence[Any],
        *,
        fields: dict[str, Callable[[Any], Array]],
        num_threads: int | None = None,
    ) -> None:
        """Prepare to advance ``datas``.

        Args:
            models: One model per simulation (they may be the same object).
            datas: One state per simulation.
            fields: By name, a function from a state to a view of it, of the same shape in all.
            num_threads: Threads (default: the usable cores, at most one per simulation).

        Raises:
            ConfigError: fewer than one thread.
        """
        self.models, self.datas = list(models), list(datas)
        count = len(self.datas)
        self.num_threads = min(count, usable_cores() if num_threads is None else num_threads)
        if self.num_threads < 1:
            raise ConfigError(f"num_threads must be at least 1; got {num_threads}.")
        self._pool = ThreadPoolExecutor(self.num_threads - 1) if self.num_threads > 1 else None
        views = {name: [field(data) for data in self.datas] for name, field in fields.items()}
        self.fields = {name: np.zeros((count, *rows[0].shape), rows[0].dtype) for name, rows in views.items()}
        self._copies = [[(self.fields[name][row], rows[row]) for name, rows in views.items()] for row in range(count)]
        self._warnings = [data.warning.number for data in self.datas]
        self._warned = np.zeros((count, len(self._warnings[0])), dtype=np.int64)
        self._velocities = [data.qvel for data in self.datas]

    def advance(self, step: Advance) -> None:
        """Call ``step`` for every simulation, and read its fields."""

        def work(rows: Iterator[int]) -> None:
            for row in rows:
                step(row)
                self._warned[row] = self._warnings[row]
                for target, view in self._copies[row]:
                    target[...] = view

        # Every thread takes the next one that nobody has taken; taking one is atomic in CPython.
        queue = iter(range(len(self.datas)))
        helpers = [self._pool.submit(work, queue) for _ in range(self.num_threads - 1)] if self._pool else []
        work(queue)
        for helper in helpers:
            helper.result()

    def read(self, rows: Iterable[int]) -> None:
        """Read the fields of some simulations anew."""
        for row in rows:
            self._warned[row] = self._warnings[row]
            for target, view in self._copies[row]:
                target[...] = view

    def diverged(self) -> npt.NDArray[np.bool_]:
        """Whose state or control MuJoCo has replaced since the last reset, or whose fields are not finite, (count,).

        MuJoCo answers a diverged state with a warning and the initial state, which would go unnoticed.
        """
        bad = np.asarray((self._warned[:, _FATAL] > 0).any(axis=1))
        for values in self.fields.values():
            if not np.isfinite(values).all():
                bad |= ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        return bad

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
