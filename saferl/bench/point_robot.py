"""PointRobot's avoidable set: solved at two resolutions, compared on four slices, checked by rollouts, and drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.bench.figure import BUDGET_COLOUR, check_figure, new_figure, save_figure
from saferl.bench.measure import machine
from saferl.envs.point_robot import dynamics, manoeuvre
from saferl.envs.point_robot.behaviours import anywhere, rollout
from saferl.envs.point_robot.dynamics import ARENA, Array
from saferl.envs.point_robot.truth import COARSE, FINE, Resolution, Truth, solve

SLICES = ((0.5, 45.0), (1.0, 90.0), (1.5, 45.0), (2.0, 45.0))
"""Speed (m/s) and heading (degrees) of the slices that FISOR shows."""
POINTS = 201
"""Points per axis of a slice."""
RESOLUTIONS: Mapping[str, Resolution] = {"coarse": COARSE, "fine": FINE}
_LEARNED_COLOUR = "#1f5fa8"
_HAZARD_COLOUR = "#b3541e"


def slice_states(speed: float, heading: float, points: int = POINTS) -> Array:
    """The states of one slice, (points, points, 4), x first.

    Args:
        speed: m/s.
        heading: Degrees.
        points: Per axis, from -3 to 3 m.
    """
    line = np.linspace(-ARENA, ARENA, points)
    x, y = np.meshgrid(line, line, indexing="ij")
    return np.stack([x, y, np.full_like(x, speed), np.full_like(x, np.deg2rad(heading))], axis=-1)


def load_truth(name: str, cache: Path, report: Callable[[str], None] | None = None) -> Truth:
    """The truth ``"coarse"`` (seconds) or ``"fine"`` (minutes), from the folder ``cache`` if it is there, else solved.

    Raises:
        DataError: a file in the cache that is not a truth.
    """
    path, resolution = cache / f"point-robot-{name}.npz", RESOLUTIONS[name]
    if path.exists():
        saved = Truth.load(path)
        if saved.resolution == resolution:
            return saved
    truth = solve(
        resolution,
        None if report is None else lambda n, rise: report(f"{name}: sweep {n} raised V by up to {rise:.5f} m"),
    )
    truth.save(path)
    return Truth.load(path)


def agreement(predicted: npt.NDArray[np.bool_], actual: npt.NDArray[np.bool_]) -> dict[str, float]:
    """How a predicted avoidable set fits the actual one: shares.

    Returns:
        ``agreement`` of all states, ``false_safe`` of the unavoidable ones and ``coverage`` of the avoidable ones.
    """
    return {
        "agreement": float((predicted == actual).mean()),
        "false_safe": float(predicted[~actual].mean()) if (~actual).any() else 0.0,
        "coverage": float(predicted[actual].mean()) if actual.any() else 1.0,
    }


def bench_point_robot_truth(
    *, cache: Path, figure: Path | None = None, states: int = 4000, report: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Both truths on the four slices, beside the published mask, and rollouts of the policy that is greedy on each.

    Args:
        cache: Folder of the solved grids.
        figure: ``.svg`` or ``.png`` to draw the slices to.
        states: From which the greedy policy starts.
        report: Called with a line per stage.

    Raises:
        ConfigError: a figure that cannot be drawn.
    """
    if figure is not None:
        check_figure(figure)
    truths, seconds = {}, {}
    for name in RESOLUTIONS:
        began = time.perf_counter()
        truths[name] = load_truth(name, cache, report)
        seconds[name] = round(time.perf_counter() - began, 1)
    fine = truths["fine"]
    slices = [
        _compare(truths["coarse"].avoidable(here), fine.avoidable(here), manoeuvre.is_avoided(here))
        | {"speed": speed, "heading": heading}
        for speed, heading, here in ((*point, slice_states(*point)) for point in SLICES)
    ]
    rollouts = {name: _roll(truth, states) for name, truth in truths.items()}
    if figure is not None:
        draw_slices(figure, fine)
    return {
        "benchmark": "point-robot-truth",
        "machine": machine(),
        "resolutions": {name: asdict(RESOLUTIONS[name]) | {"sweeps": truths[name].sweeps} for name in truths},
        "seconds": seconds,
        "slices": slices,
        "rollouts": rollouts,
    }


def _compare(coarse: Any, fine: Any, published: Any) -> dict[str, Any]:
    return {
        "avoidable": {"coarse": float(coarse.mean()), "fine": float(fine.mean()), "published": float(published.mean())},
        "coarse_to_fine": agreement(coarse, fine),
        "published_to_fine": agreement(published, fine),
    }


def _roll(truth: Truth, states: int) -> dict[str, Any]:
    """How many of the states that are called avoidable the greedy policy keeps free for an episode."""
    starts = anywhere(2 * states, np.random.default_rng(0))
    starts = starts[truth.avoidable(starts)][:states]
    data = rollout(starts, truth.best_actions)
    ends = np.flatnonzero(data["terminals"] | data["timeouts"]) + 1
    deepest = np.maximum.reduceat(data["next_h"][:, 0], np.concatenate([[0], ends[:-1]]))
    return {"states": len(starts), "kept": float((deepest <= 0.0).mean()), "deepest": float(deepest.max())}


def draw_slices(
    path: Path,
    truth: Truth,
    learned: Callable[[Array], npt.NDArray[Any]] | None = None,
    *,
    label: str = "learned",
) -> None:
    """Draw the four slices: hazards, states that are unavoidable in truth, and a learned boundary.

    Args:
        path: ``.svg`` or ``.png``.
        truth: The safety value.
        learned: A value for states (N, 4), feasible where it is at most 0; drawn as its zero line.
        label: Of that line.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: another suffix.
    """
    figure = new_figure(path, (11.0, 3.6))
    axes = figure.subplots(1, len(SLICES), sharey=True)
    line = np.linspace(-ARENA, ARENA, POINTS)
    for axis, (speed, heading) in zip(axes, SLICES, strict=True):
        states = slice_states(speed, heading)
        value = truth.value(states).T
        axis.contourf(line, line, value, levels=[0.0, 10.0], colors=["#e3b79c"])
        axis.contour(line, line, value, levels=[0.0], colors=["#444444"], linewidths=1.2)
        if learned is not None:
            found = np.asarray(learned(states.reshape(-1, 4)), dtype=np.float64).reshape(POINTS, POINTS).T
            axis.contour(line, line, found, levels=[0.0], colors=[_LEARNED_COLOUR], linewidths=1.4, linestyles="--")
        _draw_scene(axis, np.deg2rad(heading), speed)
        axis.set_title(f"{speed:g} m/s, {heading:g}°", fontsize=11)
        axis.set_xlabel("x (m)")
    axes[0].set_ylabel("y (m)")
    _draw_legend(figure, label if learned is not None else None)
    save_figure(figure, path)


def _draw_scene(axis: Any, heading: float, speed: float) -> None:
    from matplotlib.patches import Circle

    for x, y in dynamics.HAZARDS:
        axis.add_patch(Circle((x, y), dynamics.HAZARD_RADIUS, facecolor=_HAZARD_COLOUR, edgecolor="none", alpha=0.85))
    goal_x, goal_y = dynamics.GOAL
    axis.add_patch(
        Circle((goal_x, goal_y), dynamics.GOAL_RADIUS, facecolor="none", edgecolor=BUDGET_COLOUR, linewidth=1.6)
    )
    step = 0.2 + 0.4 * speed
    axis.annotate(
        "",
        xy=(-2.4 + step * np.cos(heading), -2.6 + step * np.sin(heading)),
        xytext=(-2.4, -2.6),
        arrowprops={"arrowstyle": "->", "color": "#222222", "linewidth": 1.4},
    )
    axis.set(xlim=(-ARENA, ARENA), ylim=(-ARENA, ARENA), aspect="equal", xticks=range(-3, 4), yticks=range(-3, 4))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: Any, learned: str | None) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=_HAZARD_COLOUR, alpha=0.85, label="hazard"),
        Patch(facecolor="#e3b79c", edgecolor="#444444", label="unavoidable (truth)"),
        Line2D([], [], color=BUDGET_COLOUR, marker="o", fillstyle="none", linestyle="none", label="goal"),
        Line2D([], [], color="#222222", marker="$\\rightarrow$", markersize=12, linestyle="none", label="velocity"),
    ]
    if learned is not None:
        handles.append(Line2D([], [], color=_LEARNED_COLOUR, linestyle="--", label=learned))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
