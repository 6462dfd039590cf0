"""The avoidable set of PointRobot: from which states some control never enters a hazard, by dynamic programming.

The safety value is the depth that the best control cannot help reaching (Hamilton-Jacobi reachability, undiscounted)::

    V(s) = max( h(s), min_a max( h(s_1), ..., h(s_k), V(s_k) ) )

where ``s_1 .. s_k`` follow from holding ``a`` for ``k`` env steps, exactly. ``a`` accelerates by -1, 0 or 1, or so that
the robot stops (without which it could never stand still), and turns by -1, 0 or 1. ``V(s_k)`` is read off a grid over
(x, y, v, theta) by multilinear interpolation, and the sweeps start from ``V = h``, so that they rise to the least fixed
point. A state is avoidable where ``V <= 0``.

Three facts keep the grid small. Driving backwards is driving forwards the other way round, so only ``v >= 0`` is
stored: ``V(x, y, -v, theta) = V(x, y, v, theta + pi)``. The hazards are symmetric about the origin, so half of the
headings will do: ``V(x, y, v, theta + pi) = V(-x, -y, v, theta)``. And what an action does to (v, theta) and to the
displacement does not depend on (x, y), so a backup is a weighted sum of shifted planes.

What is approximate: interpolation (two resolutions show how much), and actions that are held for ``k`` steps, which
errs to the safe side. Speeds above ``MAX_SPEED`` may not be chosen. That an episode ends at the goal or beyond the
arena changes nothing: at the speeds of the grid no state in the goal is unavoidable, and who leaves the arena may drive
straight on, so whoever gets there without a violation was avoidable anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RegularGridInterpolator

from saferl.envs.point_robot import dynamics
from saferl.envs.point_robot.dynamics import ARENA, Array, Mask
from saferl.errors import ConfigError, DataError

Plane = npt.NDArray[np.float32]

MAX_SPEED = 2.5
"""Largest speed of the grid, m/s."""
TOLERANCE = 1e-4
"""Sweeps end when no value rises by more, m."""
_MAX_SWEEPS = 200
_FORMAT = 1


@dataclass(frozen=True)
class Resolution:
    """How fine a grid is."""

    positions: int
    """Points per axis from -3 to 3 m, odd."""
    speeds: int
    """Points from 0 to ``MAX_SPEED``."""
    headings: int
    """Points in half a turn, a multiple of 4."""
    hold: int
    """Env steps for which an action is held."""

    def __post_init__(self) -> None:
        """Refuse a grid that is not symmetric or has no cells."""
        if self.positions < 3 or self.positions % 2 == 0 or self.speeds < 2 or self.headings % 4 or self.hold < 1:
            raise ConfigError(
                "A grid needs an odd number of positions from 3 on, two speeds, headings that are a multiple of 4, and "
                f"hold from 1 on; got {self}."
            )

    @property
    def spacing(self) -> float:
        """Between positions, m."""
        return 2.0 * ARENA / (self.positions - 1)

    @property
    def speed_step(self) -> float:
        """Between speeds, m/s."""
        return MAX_SPEED / (self.speeds - 1)

    @property
    def heading_step(self) -> float:
        """Between headings, rad."""
        return np.pi / self.headings


COARSE = Resolution(positions=61, speeds=26, headings=32, hold=4)
"""10 cm, 0.1 m/s, 5.6 degrees."""
FINE = Resolution(positions=121, speeds=26, headings=64, hold=4)
"""5 cm, 0.1 m/s, 2.8 degrees: speeds need be no finer, an action that is held changes them by two steps exactly."""


@dataclass(frozen=True)
class Truth:
    """The safety value on a grid.

    Example:
        >>> truth = solve(Resolution(positions=31, speeds=11, headings=8, hold=4))
        >>> truth.avoidable([[-1.8, 0.0, 0.5, 0.8], [0.4, -2.1, 2.0, 1.6]]).tolist()
        [True, False]
    """

    resolution: Resolution
    """Of the grid."""
    values: Plane
    """(speeds, headings, positions, positions): v from 0, theta from 0 to below pi, x, y."""
    sweeps: int
    """How many it took."""

    def value(self, states: npt.ArrayLike) -> Array:
        """V of states (..., 4), (...), by multilinear interpolation, at least their h; outside the arena, just that.

        Raises:
            ConfigError: a speed above ``MAX_SPEED``: the grid does not know.
        """
        here = np.asarray(states, dtype=np.float64)
        flat = here.reshape(-1, 4)
        if len(flat) and not np.abs(flat[:, 2]).max() <= MAX_SPEED + 1e-9:
            fastest = np.abs(flat[:, 2]).max()
            raise ConfigError(
                f"The truth knows speeds up to {MAX_SPEED:g} m/s in size; got {fastest:g}. Leave these out."
            )
        folded = fold(flat)
        found = np.asarray(self._interpolator()(np.clip(folded, self._low, self._high)))
        depth = dynamics.margin(flat)
        found = np.where(dynamics.is_outside(flat), depth, np.maximum(depth, found))
        return np.asarray(found.reshape(here.shape[:-1]))

    def avoidable(self, states: npt.ArrayLike) -> Mask:
        """Whether some control keeps each of ``states`` (..., 4) out of the hazards for ever, (...)."""
        return np.asarray(self.value(states) <= 0.0)

    def best_actions(self, states: npt.ArrayLike) -> Array:
        """For each of ``states`` (N, 4) the action, (N, 2), with the least value of holding it."""
        here = np.asarray(states, dtype=np.float64)
        actions = candidates(here[:, 2], self.resolution.hold)
        return np.asarray(actions[np.arange(len(here)), self.action_values(here).argmin(axis=1)])

    def action_values(self, states: npt.ArrayLike) -> Array:
        """What holding each of :func:`candidates` leads to, (N, 12); infinite where it gets too fast."""
        here = np.asarray(states, dtype=np.float64)
        actions = candidates(here[:, 2], self.resolution.hold)
        here = here[:, None, :].repeat(actions.shape[1], axis=1)
        worst = np.full(here.shape[:2], -np.inf)
        for _ in range(self.resolution.hold):
            here = dynamics.step(here, actions)
            worst = np.maximum(worst, dynamics.margin(here))
        is_known = np.abs(here[..., 2]) <= MAX_SPEED + 1e-9
        here[..., 2] = np.clip(here[..., 2], -MAX_SPEED, MAX_SPEED)
        return np.where(is_known, np.maximum(worst, self.value(here)), np.inf)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` of half-precision values (exact to 1e-3 m or better)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                format=np.array(_FORMAT),
                resolution=np.array(list(asdict(self.resolution).values())),
                values=self.values.astype(np.float16),
                sweeps=np.array(self.sweeps),
            )

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["format"]) != _FORMAT:
                    raise DataError(
                        f"{path} must be a truth of format {_FORMAT}; got {int(file['format'])}. Solve anew."
                    )
                resolution = Resolution(*(int(n) for n in file["resolution"]))
                values, sweeps = file["values"].astype(np.float32), int(file["sweeps"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} must be a saved truth of PointRobot; it cannot be read: {error}.") from error
        return cls(resolution, values, sweeps)

    @property
    def _low(self) -> Array:
        return np.array([-ARENA, -ARENA, 0.0, 0.0])

    @property
    def _high(self) -> Array:
        return np.array([ARENA, ARENA, MAX_SPEED, np.pi])

    def _interpolator(self) -> Any:
        if "_cached" not in self.__dict__:
            grid = self.resolution
            # The heading pi closes the axis: there the plane is that of heading 0, turned by half a turn.
            values = np.concatenate([self.values, self.values[:, :1, ::-1, ::-1]], axis=1)
            line = np.linspace(-ARENA, ARENA, grid.positions)
            axes = (np.linspace(0.0, MAX_SPEED, grid.speeds), np.linspace(0.0, np.pi, grid.headings + 1), line, line)
            inner = RegularGridInterpolator(axes, values)
            object.__setattr__(self, "_cached", lambda states: inner(states[:, [2, 3, 0, 1]]))
        return self.__dict__["_cached"]


def fold(states: Array) -> Array:
    """Equivalent states (N, 4) with ``v >= 0`` and ``theta`` in [0, pi)."""
    x, y, v, theta = states.T
    turn = np.mod(np.where(v < 0.0, theta + np.pi, theta), 2.0 * np.pi)
    is_second = turn >= np.pi
    sign = np.where(is_second, -1.0, 1.0)
    return np.stack([sign * x, sign * y, np.abs(v), np.where(is_second, turn - np.pi, turn)], axis=1)


def solve(resolution: Resolution = COARSE, report: Callable[[int, float], None] | None = None) -> Truth:
    """The truth on a grid.

    Args:
        resolution: Of the grid.
        report: Called after every sweep with its number and the largest rise of a value (m).

    Raises:
        ConfigError: a displacement that is smaller than the rounding of the grid, so that sweeps do not end.
    """
    backup = _Backup(resolution)
    for sweep in range(1, _MAX_SWEEPS + 1):
        rise = backup.sweep()
        if report is not None:
            report(sweep, rise)
        if rise <= TOLERANCE:
            return Truth(resolution, np.ascontiguousarray(backup.inner), sweep)
    raise ConfigError(f"{_MAX_SWEEPS} sweeps did not settle the values on {resolution}. Hold actions for longer.")


def candidates(speeds: npt.ArrayLike, hold: int) -> Array:
    """Actions that the best control chooses from at each of ``speeds`` (...), (..., 12, 2).

    The last three stop the robot within ``hold`` steps if that is possible, else they brake.
    """
    speed = np.asarray(speeds, dtype=np.float64)
    actions = np.empty((*speed.shape, 4, 3, 2))
    actions[..., :3, :, 0] = np.array([-1.0, 0.0, 1.0])[:, None]
    actions[..., 3, :, 0] = np.clip(-speed / (hold * dynamics.DT), -1.0, 1.0)[..., None]
    actions[..., 1] = np.array([-1.0, 0.0, 1.0])
    return actions.reshape(*speed.shape, 12, 2)


class _Backup:
    """The planes of one grid, and a sweep over them.

    Planes reach beyond the arena, as far as an action may carry, where values are h and stay so. A plane is backed up
    again only when one that it reads has risen since.
    """

    def __init__(self, resolution: Resolution) -> None:
        grid = self.grid = resolution
        reach = MAX_SPEED * grid.hold * dynamics.DT
        self.pad = int(np.ceil(reach / grid.spacing)) + 1
        count = grid.positions + 2 * self.pad
        line = (np.arange(count) - (count - 1) / 2) * grid.spacing
        points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
        depth = dynamics.margin(points).astype(np.float32)
        self.line = line[self.pad : -self.pad]
        self.planes = np.broadcast_to(depth, (grid.speeds, grid.headings, count, count)).copy()
        self.inner = self.planes[:, :, self.pad : -self.pad, self.pad : -self.pad]
        self.depth = depth[self.pad : -self.pad, self.pad : -self.pad].copy()
        self.clock = 1
        self.risen = np.ones((grid.speeds, grid.headings), dtype=np.int64)
        self.backed_up = np.zeros_like(self.risen)

    def sweep(self) -> float:
        """Back up every plane that may rise, in place, slow speeds first since brakes lead there; the largest rise."""
        grid, most = self.grid, 0.0
        for i, j in itertools.product(range(grid.speeds), range(grid.headings)):
            path = self._paths(i, j)
            if self._newest(path[-1]) <= self.backed_up[i, j]:
                continue
            self.clock += 1
            self.backed_up[i, j] = self.clock
            found = np.maximum(self.inner[i, j], self._best(path))
            rise = float((found - self.inner[i, j]).max())
            if rise > TOLERANCE:
                self.inner[i, j] = found
                self.clock += 1
                self.risen[i, j] = self.clock
                most = max(most, rise)
        return most

    def _paths(self, i: int, j: int) -> Array:
        """Where actions lead from the origin at speed i and heading j, (1 + hold, actions, 4)."""
        grid = self.grid
        actions = np.unique(candidates(i * grid.speed_step, grid.hold), axis=0)
        actions = actions[i * grid.speed_step + grid.hold * dynamics.DT * actions[:, 0] <= MAX_SPEED + 1e-9]
        path = np.zeros((grid.hold + 1, len(actions), 4))
        path[0, :, 2:] = i * grid.speed_step, j * grid.heading_step
        for step in range(grid.hold):
            path[step + 1] = dynamics.step(path[step], actions)
        return path

    def _newest(self, ends: Array) -> int:
        """When one of the planes that are read at ``ends`` (actions, 4) rose last."""
        return max(
            int(self.risen[abs(i), j % self.grid.headings])
            for _, _, v, theta in ends
            for (i, _), (j, _) in itertools.product(self._speeds(v), self._headings(theta))
        )

    def _best(self, path: Array) -> Plane:
        """The least value over actions from every position, (positions, positions)."""
        best: Plane | None = None
        for states in path.transpose(1, 0, 2):
            found = np.maximum(self._deepest(states[1:, :2]), self._shifted(states[-1]))
            best = found if best is None else np.minimum(best, found, out=best)
        assert best is not None  # braking is always allowed
        return best

    def _deepest(self, offsets: Array) -> Plane:
        """The largest h at ``offsets`` (steps, 2) from every position."""
        columns = np.square(self.line + offsets[:, :1] - dynamics.HAZARDS[:, None, :1]).astype(np.float32)
        rows = np.square(self.line + offsets[:, 1:] - dynamics.HAZARDS[:, None, 1:]).astype(np.float32)
        columns, rows = columns.reshape(-1, len(self.line)), rows.reshape(-1, len(self.line))
        nearest = columns[0][:, None] + rows[0]
        squares = np.empty_like(nearest)
        for column, row in zip(columns[1:], rows[1:], strict=True):
            np.add(column[:, None], row, out=squares)
            np.minimum(nearest, squares, out=nearest)
        return np.asarray(np.float32(dynamics.HAZARD_RADIUS) - np.sqrt(nearest, out=nearest))

    def _shifted(self, state: Array) -> Plane:
        """Values at ``state``, (dx, dy, v, theta), from every position."""
        xs, ys = (_corners(state[axis] / self.grid.spacing) for axis in (0, 1))
        total = np.zeros((self.grid.positions + len(xs) - 1, self.grid.positions + len(ys) - 1), dtype=np.float32)
        rows = slice(self.pad + xs[0][0], self.pad + xs[0][0] + total.shape[0])
        columns = slice(self.pad + ys[0][0], self.pad + ys[0][0] + total.shape[1])
        for (i, wi), (j, wj) in itertools.product(self._speeds(state[2]), self._headings(state[3])):
            total += self._plane(i, j)[rows, columns] * np.float32(wi * wj)
        if len(xs) == 2:
            total = total[:-1] * np.float32(xs[0][1]) + total[1:] * np.float32(xs[1][1])
        if len(ys) == 2:
            total = total[:, :-1] * np.float32(ys[0][1]) + total[:, 1:] * np.float32(ys[1][1])
        return total

    def _speeds(self, v: float) -> list[tuple[int, float]]:
        return _corners(v / self.grid.speed_step)

    def _headings(self, theta: float) -> list[tuple[int, float]]:
        return _corners(theta / self.grid.heading_step)

    def _plane(self, i: int, j: int) -> Plane:
        """The plane of any speed and heading, by the two symmetries."""
        turns, j = divmod(j, self.grid.headings)
        is_turned = (turns + (i < 0)) % 2 == 1
        plane = self.planes[abs(i), j]
        turned: Plane = plane[::-1, ::-1]
        return turned if is_turned else plane


def _corners(position: float) -> list[tuple[int, float]]:
    """The grid points around ``position`` (in cells) that have weight, with their weights."""
    low = int(np.floor(position + 1e-9))
    weight = position - low
    return [(low, 1.0)] if weight < 1e-6 else [(low, 1.0 - weight), (low + 1, weight)]
