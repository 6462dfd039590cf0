"""The log of a run: ``progress.csv`` and TensorBoard events, which a resumed run continues where its checkpoint was."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys
from torch.utils.tensorboard import SummaryWriter

from saferl.storage import write_text

STEPS = "time/total_timesteps"


def open_log(folder: Path, *, steps_done: int = 0) -> Logger:
    """The logger of the run in ``folder``; rows after ``steps_done`` steps, of a run that was cut, are dropped."""
    return Logger(str(folder), [ProgressCsv(folder / "progress.csv", steps_done), _Events(folder, steps_done)])


class ProgressCsv(KVWriter):
    """One row per iteration; a column that first appears later is added to the header."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Keep the rows of ``path`` up to ``steps_done`` steps."""
        self._path = path
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        if steps_done and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or ())
                # The last line may be half of one: its steps are after the checkpoint's, or missing.
                self._rows = [row for row in reader if 0 < _steps_of(row) <= steps_done]
        self._write_all()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append one row."""
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        new = [key for key in row if key not in self._columns]
        self._rows.append(row)
        if new:
            self._columns += new
            self._write_all()
        else:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def close(self) -> None:
        """Every row is on disk already."""

    def _write_all(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if self._columns:
            writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())


class _Events(TensorBoardOutputFormat):
    """TensorBoard events; those that a cut run wrote after its checkpoint are marked as superseded."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=steps_done + 1 if steps_done else None)
        self._is_closed = False


def _steps_of(row: dict[str, Any]) -> int:
    try:
        return int(row[STEPS])
    except (KeyError, TypeError, ValueError):
        return 0
