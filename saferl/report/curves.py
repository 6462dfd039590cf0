"""Learning curves: the ``progress.csv`` of the run folder that holds an evaluation, if there is one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saferl.errors import RunFolderError

FloatArray = npt.NDArray[np.float64]
_COLUMNS = ("rollout/ep_cost/", "multiplier/")


@dataclass(frozen=True)
class Curves:
    """Learning curves of the run that holds the evaluation; gaps are NaN, all arrays have shape (num_rows,)."""

    run: Path
    steps: FloatArray
    returns: FloatArray | None
    costs: Mapping[str, FloatArray]
    multipliers: Mapping[str, FloatArray]


def find_curves(folder: Path) -> Curves | None:
    """Curves of the nearest of parent and grandparent that is a run folder with a ``progress.csv``."""
    for run in folder.resolve().parents[:2]:
        if (run / "run.json").is_file() and (run / "progress.csv").is_file():
            return _read_curves(run)
    return None


def _read_curves(run: Path) -> Curves | None:
    """Columns of Stable-Baselines3's CSV logger; None without a step column or a row."""
    path = run / "progress.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"progress.csv of a run cannot be read: {path} ({error}).") from error
    # A line without its newline is still being written by a run that goes on.
    rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    if len(rows) < 2 or "time/total_timesteps" not in rows[0]:
        return None
    header = rows[0]
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise RunFolderError(
                f"Line {line} of {path} must have {len(header)} cells, like its header; got {len(row)}. It was edited."
            )
    columns = {}
    for index, name in enumerate(header):
        if name in ("time/total_timesteps", "rollout/ep_rew_mean") or name.startswith(_COLUMNS):
            columns[name] = _read_column(name, [row[index] for row in rows[1:]], path)
    steps = columns["time/total_timesteps"]
    order = np.argsort(steps, kind="stable")  # NaN sorts last
    order = order[: int(np.isfinite(steps).sum())]
    kept = {name: column[order] for name, column in columns.items() if np.isfinite(column[order]).any()}
    if not order.size:
        return None
    return Curves(
        run=run,
        steps=steps[order],
        returns=kept.get("rollout/ep_rew_mean"),
        costs=_with_prefix(kept, "rollout/ep_cost/"),
        multipliers=_with_prefix(kept, "multiplier/"),
    )


def _read_column(name: str, cells: Sequence[str], path: Path) -> FloatArray:
    column = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        try:
            column[row] = float(cell) if cell else np.nan
        except ValueError as error:
            raise RunFolderError(
                f"Column {name!r} in line {row + 2} of {path} must be a number or empty; got {cell!r}. It was edited."
            ) from error
    column[~np.isfinite(column)] = np.nan
    return column


def _with_prefix(columns: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    return {name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)}
