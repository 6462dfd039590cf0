"""The picture of the benchmark: the cost of every iterate against its budget, a row per task, a column per variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saferl.bench.figure import BUDGET_COLOUR, new_figure, save_figure
from saferl.bench.reload.cells import Record

_COLOURS = {
    "ppo_lag": "#b3541e",
    "pid_lag": "#8a5a9e",
    "reload": "#1f5fa8",
    "reload without optimism": "#5f6b7a",
}


def draw(path: Path, tasks: Mapping[str, Any], records: Mapping[str, Mapping[str, Sequence[Record]]]) -> None:
    """Draw one line per reported seed to ``path``.

    On finite CMDPs it is the exact cost per step of every iterate. On sampled tasks the thin line is what episodes cost
    in training, and the thick one the fresh evaluation of late iterates.

    Args:
        path: ``.svg`` or ``.png``.
        tasks: The tasks of the result.
        records: By task and variant, the records of the reported seeds.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: another suffix.
    """
    names = list(next(iter(tasks.values()))["variants"])
    figure = new_figure(path, (2.6 * len(names) + 0.6, 1.9 * len(tasks) + 0.5))
    grid = figure.subplots(len(tasks), len(names), sharex="row", sharey="row", squeeze=False)
    for axes, (task, entry) in zip(grid, tasks.items(), strict=True):
        for axis, name in zip(axes, names, strict=True):
            for record in records[task][name]:
                _lines(axis, record["trace"], _COLOURS[name])
            axis.axhline(entry["limits"][0], color=BUDGET_COLOUR, linewidth=1.0)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        axes[0].set_ylabel(f"{task}\ncost per {'step' if entry['kind'] == 'exact' else 'episode'}", fontsize=8)
    for axis, name in zip(grid[0], names, strict=True):
        axis.set_title(name, fontsize=10)
    for axis in grid[-1]:
        axis.set_xlabel("thousand steps", fontsize=8)
    save_figure(figure, path)


def _lines(axis: Any, trace: Mapping[str, Any], colour: str) -> None:
    late = [step / 1000.0 for step in trace["steps"]]
    training = trace.get("training")
    if training is None:
        axis.plot(late, trace["cost"], color=colour, linewidth=0.8, alpha=0.8)
        return
    axis.plot(
        [row[0] / 1000.0 for row in training], [row[2] for row in training], color=colour, linewidth=0.6, alpha=0.5
    )
    axis.plot(late, trace["cost"], color=colour, linewidth=1.4)
