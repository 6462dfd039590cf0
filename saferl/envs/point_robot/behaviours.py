"""Scripted behaviours of PointRobot, and data that they collect: every part of the state space, every degree of care.

No learning is needed for a spread over return and cost: a *seeker* drives to the goal around hazards that it takes to
have the radius ``1.1 (1 - g)`` metres, and brakes and turns away (:mod:`.manoeuvre`) where it could not do so later.
Its aggressiveness ``g`` is 0 for much too careful, about 0.27 for exact, 1 for reckless. The others give what a seeker
does not: a *roamer* visits random points, inside hazards too; a *switcher* holds extreme actions; *random* is uniform
noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.point_robot import dynamics, manoeuvre
from saferl.envs.point_robot.dynamics import ARENA, DT, GOAL, HAZARD_RADIUS, HAZARDS, HORIZON, Array
from saferl.envs.point_robot.truth import Truth, candidates
from saferl.errors import ConfigError

EXACT = 1.0 - HAZARD_RADIUS / 1.1
"""The aggressiveness at which a seeker takes hazards to be as large as they are."""
KINDS = ("seeker", "roamer", "switcher", "random")
_SHARES = (0.45, 0.3, 0.2, 0.05)
_ANYWHERE = 0.65
"""Share of episodes that start anywhere in the state space; the others start as the task does."""
_TOP_SPEED = 2.0
_CLEARANCE = 0.1
"""What a way around a hazard keeps from the radius that a seeker takes it to have, m."""


@dataclass
class Crew:
    """Behaviours for many episodes at once, one per row; all arrays are (rows,) or (rows, ...)."""

    kinds: npt.NDArray[np.int64]
    """Indices into ``KINDS``."""
    aggressiveness: Array
    """Of seekers, in [0, 1]."""
    noise: Array
    """Standard deviation of what is added to the actions of seekers and roamers."""
    speeds: Array
    """At which seekers and roamers cruise, m/s."""
    generator: np.random.Generator
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        """Draw first targets and actions."""
        rows = len(self.kinds)
        self._targets = self._points(rows)
        self._held = self._corners(rows)
        self._left = self.generator.integers(2, 20, size=rows)

    @classmethod
    def draw(cls, rows: int, generator: np.random.Generator) -> Crew:
        """A mixture: nearly half are seekers, of every care, with and without noise."""
        noise = generator.uniform(0.0, 0.6, size=rows) * (generator.random(rows) < 0.6)
        aggressiveness = generator.random(rows)
        # A third of the seekers are about exact: they show what avoids at the boundary.
        is_exact = generator.random(rows) < 1 / 3
        aggressiveness[is_exact] = generator.uniform(0.15, EXACT, size=int(is_exact.sum()))
        return cls(
            kinds=generator.choice(len(KINDS), size=rows, p=_SHARES),
            aggressiveness=aggressiveness,
            noise=noise,
            speeds=generator.uniform(0.5, _TOP_SPEED, size=rows),
            generator=generator,
        )

    @property
    def labels(self) -> list[str]:
        """What each row is called in the metadata of its data."""
        return [
            f"{KINDS[kind]}/g={g:.2f}/noise={noise:.2f}" if KINDS[kind] == "seeker" else KINDS[kind]
            for kind, g, noise in zip(self.kinds, self.aggressiveness, self.noise, strict=True)
        ]

    def act(self, states: Array) -> npt.NDArray[np.float32]:
        """Actions in [-1, 1], (rows, 2)."""
        rows = len(states)
        actions = self.generator.uniform(-1.0, 1.0, size=(rows, 2))
        seekers, roamers, switchers = (np.flatnonzero(self.kinds == kind) for kind in range(3))
        is_new = self._left == 0
        self._held[is_new] = self._corners(int(is_new.sum()))
        self._left[is_new] = self.generator.integers(2, 20, size=int(is_new.sum()))
        self._left -= 1
        is_there = np.hypot(*(self._targets - states[:, :2]).T) < 0.3
        self._targets[is_there] = self._points(int(is_there.sum()))
        actions[switchers] = _within_speeds(states[switchers], self._held[switchers])
        actions[roamers] = drive(states[roamers], self._targets[roamers], self.speeds[roamers])
        actions[seekers] = seek(states[seekers], self.aggressiveness[seekers], self.speeds[seekers])
        is_noisy = self.kinds < 2
        noise = self.generator.normal(size=(rows, 2)) * self.noise[:, None]
        return np.clip(actions + noise * is_noisy[:, None], -1.0, 1.0).astype(np.float32)

    def _points(self, count: int) -> Array:
        return self.generator.uniform(-ARENA, ARENA, size=(count, 2))

    def _corners(self, count: int) -> Array:
        return self.generator.choice([-1.0, 0.0, 1.0], size=(count, 2), p=[0.4, 0.2, 0.4])


def drive(states: Array, targets: Array, speeds: npt.ArrayLike) -> Array:
    """Actions that steer towards ``targets`` (N, 2) at ``speeds`` (N,), slower while the heading is wrong, (N, 2)."""
    offsets = targets - states[:, :2]
    return _follow(states, np.arctan2(offsets[:, 1], offsets[:, 0]), speeds)


def seek(states: Array, aggressiveness: npt.ArrayLike, speeds: npt.ArrayLike = 1.5) -> Array:
    """Actions of seekers, (N, 2): to the goal, inside the arena, around hazards of the radius ``1.1 (1 - g)``.

    Args:
        states: (N, 4).
        aggressiveness: g in [0, 1], (N,) or one for all.
        speeds: At which they cruise, (N,) or one for all, m/s.

    Raises:
        ConfigError: an aggressiveness outside [0, 1].
    """
    g = np.broadcast_to(np.asarray(aggressiveness, dtype=np.float64), len(states))
    if not ((g >= 0.0) & (g <= 1.0)).all():
        raise ConfigError(f"The aggressiveness of a seeker must be in [0, 1]; got {aggressiveness!r}.")
    radius = 1.1 * (1.0 - g)
    actions = _follow(states, _heading_around(states, radius), speeds)
    stopping = 0.5 * np.square(states[:, 2]) + 0.3
    is_leaving = np.abs(states[:, :2]).max(axis=1) >= ARENA - stopping
    is_leaving[is_leaving] = ~manoeuvre.stays_inside(dynamics.step(states[is_leaving], actions[is_leaving]))
    actions[is_leaving] = manoeuvre.stop_inside(states[is_leaving])
    following = dynamics.step(states, actions)
    # Nothing that is this far away can become unavoidable in one step.
    edge = dynamics.hazard_distances(states).min(axis=1) - radius
    is_near = edge <= stopping
    is_lost = np.zeros(len(states), dtype=np.bool_)
    is_lost[is_near] = ~manoeuvre.is_avoided(following[is_near], radius[is_near])
    # Whoever is inside already drives out, as the way around says.
    is_lost &= edge > 0.0
    actions[is_lost] = manoeuvre.escape(states[is_lost])
    return actions


def guarded(truth: Truth, proposed: Callable[[Array], Array], reserve: float = 0.02) -> Callable[[Array], Array]:
    """A behaviour that is greedy on the truth: of the actions that avoid, the nearest to what is proposed.

    Args:
        truth: The safety value.
        proposed: Actions (N, 2) for states (N, 4).
        reserve: Values up to ``-reserve`` count as avoiding, m; where there is no such action, the least value wins.
    """

    def act(states: Array) -> Array:
        values = truth.action_values(states)
        options = candidates(states[:, 2], truth.resolution.hold)
        distances = np.square(options - proposed(states)[:, None, :]).sum(axis=-1)
        is_fine = values <= -reserve
        choice = np.where(
            is_fine.any(axis=1), np.where(is_fine, distances, np.inf).argmin(axis=1), values.argmin(axis=1)
        )
        return np.asarray(options[np.arange(len(states)), choice])

    return act


def anywhere(count: int, generator: np.random.Generator) -> Array:
    """Starts all over the arena, with speeds of 0 to 2 m/s and every heading, (count, 4)."""
    low, high = [-ARENA, -ARENA, 0.0, -np.pi], [ARENA, ARENA, _TOP_SPEED, np.pi]
    return generator.uniform(low, high, size=(count, 4))


def collect_scripted(episodes: int, seed: int) -> dict[str, Any]:
    """Episodes of a mixture of behaviours, as flat arrays for :meth:`saferl.data.Dataset.from_arrays`.

    Args:
        episodes: At least 1.
        seed: Of starts and behaviours.

    Returns:
        ``observations``, ``next_observations``, ``actions``, ``rewards``, ``costs``, ``terminals``, ``timeouts``, ``h``
        and ``next_h`` (float32 and bool), and ``behaviours``, a name per episode, which belongs into the metadata.

    Raises:
        ConfigError: no episode.

    Example:
        >>> arrays = collect_scripted(3, seed=0)
        >>> arrays["observations"].shape[1], int((arrays["terminals"] | arrays["timeouts"]).sum())
        (11, 3)
    """
    if episodes < 1:
        raise ConfigError(f"A collection needs at least one episode; got {episodes}.")
    generator = np.random.default_rng(seed)
    crew = Crew.draw(episodes, generator)
    starts = np.where(
        generator.random((episodes, 1)) < _ANYWHERE,
        anywhere(episodes, generator),
        dynamics.random_starts(episodes, generator),
    )
    return {**rollout(starts, crew.act), "behaviours": crew.labels}


def rollout(starts: Array, act: Callable[[Array], npt.ArrayLike], steps: int = HORIZON) -> dict[str, Any]:
    """One episode from each of ``starts`` (E, 4), one after the other, with the rewards, costs and ends of the env.

    Args:
        starts: States inside the arena.
        act: Actions (E, 2) for states (E, 4); rows whose episode has ended are asked as well and do not count.
        steps: Time limit.

    Returns:
        The arrays of :func:`collect_scripted`.
    """
    count = len(starts)
    states = np.empty((steps + 1, count, 4))
    actions = np.zeros((steps, count, 2), dtype=np.float32)
    lengths = np.full(count, steps)
    is_terminal = np.zeros(count, dtype=np.bool_)
    states[0] = starts
    live = np.ones(count, dtype=np.bool_)
    for step in range(steps):
        actions[step] = np.asarray(act(states[step]), dtype=np.float32)
        states[step + 1] = np.where(live[:, None], dynamics.step(states[step], actions[step]), states[step])
        ended = live & (dynamics.is_at_goal(states[step + 1]) | dynamics.is_outside(states[step + 1]))
        lengths[ended], is_terminal[ended] = step + 1, True
        live &= ~ended
        if not live.any():
            states, actions = states[: step + 2], actions[: step + 1]
            break
    rows = np.arange(len(actions))[:, None] < lengths
    # Episode after episode: the row of an episode comes before its step.
    before, after = (part.swapaxes(0, 1)[rows.T] for part in (states[:-1], states[1:]))
    ends = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros((2, len(before)), dtype=np.bool_)
    terminals[ends], timeouts[ends] = is_terminal, ~is_terminal
    h = dynamics.margin(after)[:, None]
    return {
        "observations": dynamics.observe(before).astype(np.float32),
        "next_observations": dynamics.observe(after).astype(np.float32),
        "actions": actions.swapaxes(0, 1)[rows.T],
        "rewards": dynamics.reward(before, after).astype(np.float32),
        "costs": (h > 0.0).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "h": dynamics.margin(before)[:, None].astype(np.float32),
        "next_h": h.astype(np.float32),
    }


def _follow(states: Array, headings: Array, speeds: npt.ArrayLike) -> Array:
    """Actions that bring the heading to ``headings`` and the speed to ``speeds``, slower while it is wrong."""
    error = np.mod(headings - states[:, 3] + np.pi, 2.0 * np.pi) - np.pi
    wanted = np.asarray(speeds) * np.clip(np.cos(error), 0.1, 1.0)
    return np.clip(np.stack([(wanted - states[:, 2]) / DT / 4.0, error / DT / 4.0], axis=1), -1.0, 1.0)


def _heading_around(states: Array, radius: Array) -> Array:
    """The direction to the goal, or along the tangent of the nearest hazard that is in the way, (N,)."""
    to_goal = GOAL - states[:, :2]
    heading = np.arctan2(to_goal[:, 1], to_goal[:, 0])
    reach = np.hypot(to_goal[:, 0], to_goal[:, 1])
    nearest = np.full(len(states), np.inf)
    wide = np.where(radius > 0.0, radius + _CLEARANCE, 0.0)
    result = heading.copy()
    for centre in HAZARDS:
        offset = centre - states[:, :2]
        distance = np.maximum(np.hypot(offset[:, 0], offset[:, 1]), 1e-9)
        bearing = np.arctan2(offset[:, 1], offset[:, 0])
        apart = np.mod(heading - bearing + np.pi, 2.0 * np.pi) - np.pi
        # Half of the angle under which the hazard is seen; inside of it, the way is straight out.
        half = np.where(distance > wide, np.arcsin(np.minimum(wide / distance, 1.0)), np.pi)
        is_blocking = (np.abs(apart) < half) & (distance < reach) & (distance < nearest) & (wide > 0.0)
        side = np.where(apart >= 0.0, 1.0, -1.0)
        result = np.where(is_blocking, bearing + side * half, result)
        nearest = np.where(is_blocking, distance, nearest)
    return result


def _within_speeds(states: Array, actions: Array) -> Array:
    """``actions`` with an acceleration that keeps the speed between 0 and 2 m/s."""
    kept = actions.copy()
    kept[states[:, 2] <= 0.0, 0] = np.abs(kept[states[:, 2] <= 0.0, 0])
    kept[states[:, 2] >= _TOP_SPEED, 0] = -np.abs(kept[states[:, 2] >= _TOP_SPEED, 0])
    return kept
