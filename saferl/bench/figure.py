"""Figures of benchmarks: how they are begun and saved, and that of ``saferl bench tabular``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saferl.errors import ConfigError, MissingExtraError
from saferl.solvers.tabular.solution import TabularSolution

_COLOURS = {"npg_pd": "#b3541e", "reload": "#1f5fa8"}
_TITLES = {"npg_pd": "Plain descent-ascent (npg_pd)", "reload": "Optimistic (reload)"}
_SHOWN = 400
"""Iterations drawn; everything happens in them."""
BUDGET_COLOUR = "#1b7f4d"
"""Of budgets and optima."""


def check_figure(path: Path) -> None:
    """Raise before the work, rather than after it, if a picture could not be drawn to ``path``.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: another suffix than .svg or .png.
    """
    new_figure(path, (1.0, 1.0))


def new_figure(path: Path, size: tuple[float, float]) -> Any:
    """An empty matplotlib figure of ``size`` (inches), to be saved to ``path``.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: another suffix than .svg or .png.
    """
    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"The figure must be an .svg or a .png file; got {path.name!r}.")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("The figure", "matplotlib", "report") from error
    return Figure(figsize=size, layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of :func:`new_figure` so that the same picture gives the same file."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    # No date, and ids from a fixed salt.
    with matplotlib.rc_context({"svg.hashsalt": "saferl", "svg.fonttype": "path"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def draw_last_iterates(path: Path, solutions: Mapping[str, TabularSolution], optimum: Any) -> None:
    """Draw value and multiplier of every iteration, last and average iterate beside the optimum, to ``path``.

    Args:
        path: ``.svg`` or ``.png``.
        solutions: By solver, in columns from left to right.
        optimum: The exact solution.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: another suffix.
    """
    figure = new_figure(path, (9.0, 5.0))
    axes = figure.subplots(2, len(solutions), sharex=True, sharey="row", squeeze=False)
    for column, (name, solution) in enumerate(solutions.items()):
        values, multipliers = axes[0][column], axes[1][column]
        colour, trajectory = _COLOURS[name], solution.trajectory
        values.plot(trajectory.values[:_SHOWN], color=colour, linewidth=1.0, label="last iterate")
        values.plot(trajectory.average_values[:_SHOWN], color="#444444", linestyle="--", label="average iterate")
        values.axhline(optimum.value, color=BUDGET_COLOUR, linewidth=1.0, label="optimum")
        values.set_title(_TITLES[name], fontsize=11)
        multipliers.plot(trajectory.multipliers[:_SHOWN, 0], color=colour, linewidth=1.0)
        multipliers.axhline(optimum.multipliers[0], color=BUDGET_COLOUR, linewidth=1.0)
        multipliers.set_xlabel("iteration")
    axes[0][0].set_ylabel("mean reward per step")
    axes[1][0].set_ylabel("multiplier")
    axes[0][0].legend(loc="lower right", fontsize=8, framealpha=0.9)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
