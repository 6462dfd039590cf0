"""PointRobot's avoidable set: solved at two resolutions, checked by rollouts, and compared with what FISOR learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.bench.figure import BUDGET_COLOUR, check_figure, new_figure, save_figure
from saferl.bench.measure import machine
from saferl.envs.point_robot import dynamics, manoeuvre
from saferl.envs.point_robot.behaviours import anywhere, rollout, seek
from saferl.envs.point_robot.dynamics import ARENA, Array
from saferl.envs.point_robot.truth import COARSE, FINE, Resolution, Truth, solve
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions
from saferl.policy import load
from saferl.policy.feasible_diffusion import FeasibleDiffusion
from saferl.shields.feasibility import feasibility_shield
from saferl.solvers.offline.feasibility import calibrate_epsilon
from saferl.statistics import clopper_pearson
from saferl.storage import read_json

SLICES = ((0.5, 45.0), (1.0, 90.0), (1.5, 45.0), (2.0, 45.0))
"""Speed (m/s) and heading (degrees) of the slices that FISOR shows."""
POINTS = 201
"""Points per axis of a slice."""
RESOLUTIONS: Mapping[str, Resolution] = {"coarse": COARSE, "fine": FINE}
LEVEL = 0.02
"""Share of the unavoidable states that may count as safe."""
COVERAGE = 0.95
"""Share of the avoidable states that must count as safe."""
REACHED = 0.9
"""Share of the episodes that must reach the goal."""
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


def bench_point_robot(
    *,
    runs: Sequence[Path],
    cache: Path,
    figure: Path | None = None,
    episodes: int = 300,
    calibration: int = 2000,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What FISOR learned on PointRobot: its feasible set against the truth, and its policy in episodes.

    Epsilon is calibrated without the truth, on episodes from all over the state space that the training did not see.

    Args:
        runs: Run or artefact folders of FISOR.
        cache: Folder of the solved grids.
        figure: ``.svg`` or ``.png`` to draw the first run's slices to.
        episodes: From feasible starts, and as many again from the published one.
        calibration: Held-out episodes that choose epsilon.
        seed: Of starts and noise.
        report: Called with a line per stage.

    Raises:
        ConfigError: no run, no episode, a run of another solver, or a figure that cannot be drawn.
    """
    if figure is not None:
        check_figure(figure)
    if not runs or episodes < 1:
        raise ConfigError(f"The benchmark needs a run and an episode; got {len(runs)} runs, {episodes} episodes.")
    policies = [_policy_of(run) for run in runs]
    truth, rows = load_truth("fine", cache, report), []
    for run, policy in zip(runs, policies, strict=True):
        row = _measure(policy, truth, episodes=episodes, calibration=calibration, seed=seed) | _training_of(run)
        row["shield"] = _as_shield(run, row["epsilon"], episodes=episodes, seed=seed)
        rows.append(row)
        if report is not None:
            worst = max(one["calibrated"]["false_safe"] for one in row["slices"])
            least = min(one["calibrated"]["coverage"] for one in row["slices"])
            report(f"{run}: epsilon {row['epsilon']:.3f}, false-safe up to {worst:.2%}, coverage from {least:.1%}")
    if figure is not None:
        first, epsilon = policies[0], rows[0]["epsilon"]
        draw_slices(figure, truth, lambda states: _values(first, states) + epsilon, label="learned, calibrated")
    return {
        "benchmark": "point-robot",
        "targets": {"false_safe": LEVEL, "coverage": COVERAGE, "violations": 0, "goal": REACHED},
        "episodes": episodes,
        "calibration_episodes": calibration,
        "seed": seed,
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


def _policy_of(run: Path) -> FeasibleDiffusion:
    policy = getattr(load(run).policy, "policy", None)
    if not isinstance(policy, FeasibleDiffusion) or policy.num_features != dynamics.OBSERVATION_SIZE:
        raise ConfigError(
            f"{run} must be a run of fisor on PointRobot-v0; it holds another policy. Train one: saferl collect "
            "PointRobot-v0 --out data.hdf5, then saferl train fisor data.hdf5 --preset small."
        )
    return policy


def _training_of(run: Path) -> dict[str, Any]:
    header = run / "run.json"
    if not header.is_file():
        return {"run": run.name}
    about = read_json(header, what="run.json of a run folder")
    keys = ("seed", "steps", "preset", "options", "data", "duration_seconds")
    return {"run": run.name, "training": {key: about[key] for key in keys if key in about}}


def _values(policy: FeasibleDiffusion, states: Array) -> Array:
    """V_h of states (..., 4), (...)."""
    flat = dynamics.observe(states.reshape(-1, 4)).astype(np.float32)
    return policy.feasibility(th.from_numpy(flat)).numpy().astype(np.float64).reshape(states.shape[:-1])


def _measure(policy: FeasibleDiffusion, truth: Truth, *, episodes: int, calibration: int, seed: int) -> dict[str, Any]:
    """One policy's numbers."""
    streams = [np.random.default_rng([seed, index]) for index in range(4)]
    starts = anywhere(calibration, streams[0])
    held_out = _episodes(policy, starts, streams[1])
    epsilon = calibrate_epsilon(_values(policy, starts), held_out["violated"], LEVEL)
    slices: list[dict[str, Any]] = []
    for speed, heading in SLICES:
        states = slice_states(speed, heading)
        value, actual = _values(policy, states), truth.avoidable(states)
        slices.append(
            {
                "speed": speed,
                "heading": heading,
                "calibrated": agreement(value <= -epsilon, actual),
                "epsilon_0": agreement(value <= 0.0, actual),
                "h_alone": agreement(dynamics.margin(states) <= 0.0, actual),
            }
        )
    feasible = manoeuvre.feasible_starts(episodes, streams[2])
    published = np.tile(dynamics.EVALUATION_START, (episodes, 1))
    rows = {"feasible": feasible, "published": published}
    return {
        "epsilon": epsilon,
        "calibration": {
            "violated": int(held_out["violated"].sum()),
            "of_them_avoidable": int(truth.avoidable(starts[held_out["violated"]]).sum()),
        },
        "slices": slices,
        "episodes": {name: _summary(_episodes(policy, part, streams[3])) for name, part in rows.items()},
        "is_reached": all(
            part["calibrated"]["false_safe"] <= LEVEL and part["calibrated"]["coverage"] >= COVERAGE for part in slices
        ),
    }


def _episodes(policy: FeasibleDiffusion, starts: Array, generator: np.random.Generator) -> dict[str, Any]:
    """One episode of the stochastic policy from each of ``starts``; see :func:`_outcomes`."""
    noise = th.Generator().manual_seed(int(generator.integers(2**62)))
    steps, count, width = policy.noise_shape

    def act(states: Array) -> npt.NDArray[np.float32]:
        drawn = th.randn((steps, len(states), count, width), generator=noise)
        observations = th.from_numpy(dynamics.observe(states).astype(np.float32))
        actions: npt.NDArray[np.float32] = policy.choose_from(observations, drawn).numpy()
        return actions

    return _outcomes(starts, act)


def _outcomes(starts: Array, act: Callable[[Array], npt.ArrayLike]) -> dict[str, Any]:
    """One episode from each of ``starts``: arrays (E,)."""
    data = rollout(starts, act)
    ends = np.flatnonzero(data["terminals"] | data["timeouts"]) + 1
    begins = np.concatenate([[0], ends[:-1]])
    last = dynamics.state_of(data["next_observations"][ends - 1])
    deepest = np.maximum.reduceat(np.maximum(data["h"], data["next_h"])[:, 0], begins)
    return {
        "violated": deepest > 0.0,
        "deepest": deepest,
        # Observations are rounded to half of single precision's last digit, hence the tolerance.
        "is_at_goal": data["terminals"][ends - 1] & (dynamics.goal_distance(last) <= dynamics.GOAL_RADIUS + 1e-5),
        "steps": ends - begins,
        "returns": np.add.reduceat(data["rewards"].astype(np.float64), begins),
    }


def _as_shield(run: Path, epsilon: float, *, episodes: int, seed: int) -> dict[str, Any]:
    """A driver that sees no hazard, alone and behind the shield that the run's values make, from feasible starts."""
    shield = feasibility_shield(run, epsilon=epsilon)
    starts = manoeuvre.feasible_starts(episodes, np.random.default_rng([seed, 4]))

    def reckless(states: Array) -> Array:
        return seek(states, 1.0)

    def filtered(states: Array) -> Array:
        proposed, observations = reckless(states), dynamics.observe(states).astype(np.float32)
        return np.array([decision.action for decision in shield.filter_batch(observations, proposed)])

    return {name: _summary(_outcomes(starts, act)) for name, act in (("alone", reckless), ("shielded", filtered))}


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
    count, violations = len(found["violated"]), int(found["violated"].sum())
    goals = int(found["is_at_goal"].sum())
    return {
        "episodes": count,
        "violations": violations,
        "violations_ci95": list(clopper_pearson(violations, count, confidence=0.95)),
        "deepest": float(found["deepest"].max()),
        "goal": goals / count,
        "goal_ci95": list(clopper_pearson(goals, count, confidence=0.95)),
        "mean_steps": float(found["steps"].mean()),
        "mean_return": float(found["returns"].mean()),
    }


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
