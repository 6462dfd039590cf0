"""Brake and turn away: the manoeuvre that avoids a hazard from (nearly) everywhere where anything does.

FISOR's picture of the avoidable set is where it works against each hazard by itself. That is neither an inner nor an
outer approximation, since turning away from one hazard may lead into the other; for these two hazards it differs from
the truth (:mod:`.truth`) on less than 0.1 % of the arena.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saferl.envs.point_robot import dynamics
from saferl.envs.point_robot.dynamics import ARENA, DT, HAZARD_RADIUS, HAZARDS, Array, Mask

_TURNS: Array = np.array([-1.0, 0.0, 1.0])
RESERVE = 0.02
"""What feasible starts leave to the hazards, m."""


def is_avoided(states: npt.ArrayLike, radius: npt.ArrayLike = HAZARD_RADIUS) -> Mask:
    """Whether the manoeuvre avoids every hazard by itself, (...); with 0.8 m, the published mask.

    Args:
        states: (..., 4). The manoeuvre ends when the robot stands.
        radius: Of the hazards, (...) or one for all, m.

    Example:
        >>> is_avoided([[-1.8, 0.0, 2.0, np.pi / 4], [-1.5, 0.0, 2.0, np.pi / 4]]).tolist()
        [True, False]
    """
    here = np.asarray(states, dtype=np.float64)
    size = np.broadcast_to(np.asarray(radius, dtype=np.float64), here.shape[:-1])[..., None]
    is_free = np.ones(here.shape[:-1], dtype=np.bool_)
    for centre in HAZARDS:
        offsets = centre - _braking_path(here, _away(here, centre))
        is_free &= (np.hypot(offsets[..., 0], offsets[..., 1]) >= size).all(axis=-1)
    return is_free


def escape(states: npt.ArrayLike) -> Array:
    """The actions of the manoeuvre against the hazard whose edge would be reached first, (..., 2)."""
    here = np.asarray(states, dtype=np.float64)
    offsets = HAZARDS - here[..., None, :2]
    closing = offsets[..., 0] * np.cos(here[..., None, 3]) + offsets[..., 1] * np.sin(here[..., None, 3])
    # Hazards ahead come before hazards behind, then the nearer one.
    urgency = np.hypot(offsets[..., 0], offsets[..., 1]) + 10.0 * (closing * here[..., None, 2] < 0.0)
    first = urgency.argmin(axis=-1)
    turns = np.stack([_away(here, centre) for centre in HAZARDS], axis=-1)
    turn = np.take_along_axis(turns, first[..., None], axis=-1)[..., 0]
    return np.stack([_brake(here), turn], axis=-1)


def stays_inside(states: npt.ArrayLike) -> Mask:
    """Whether full braking, straight on or to one side at the full rate, keeps the robot in the arena, (...)."""
    return np.asarray(_stops_inside(np.asarray(states, dtype=np.float64)).any(axis=-1))


def stop_inside(states: npt.ArrayLike) -> Array:
    """Full braking with the first turn that keeps the robot in the arena, (..., 2); to the right if none does."""
    here = np.asarray(states, dtype=np.float64)
    return np.stack([_brake(here), _TURNS[_stops_inside(here).argmax(axis=-1)]], axis=-1)


def _stops_inside(states: Array) -> Mask:
    """Whether the robot stands before the border with each of ``_TURNS``, (..., 3)."""
    path = _braking_path(states[..., None, :], np.broadcast_to(_TURNS, (*states.shape[:-1], len(_TURNS))))
    return np.asarray((np.abs(path) <= ARENA).all(axis=(-2, -1)))


def _braking_path(states: Array, turns: Array) -> Array:
    """Positions from each of ``states`` (..., 4) to where it stands, braking and turning at ``turns`` (...).

    Returns:
        (..., 1 + steps, 2), with as many steps as the fastest needs.
    """
    speed, heading = states[..., 2, None], states[..., 3, None]
    count = np.arange(int(np.ceil(np.abs(speed).max(initial=0.0) / DT - 1e-9)))
    speed = np.sign(speed) * np.maximum(np.abs(speed) - DT * count, 0.0)
    heading = heading + DT * turns[..., None] * count
    moves = DT * np.stack([speed * np.cos(heading), speed * np.sin(heading)], axis=-1)
    first = np.broadcast_to(states[..., None, :2], (*moves.shape[:-2], 1, 2))
    return np.cumsum(np.concatenate([first, moves], axis=-2), axis=-2)


def feasible_starts(count: int, generator: np.random.Generator) -> Array:
    """``count`` starts of the task's distribution from which hazards and border can be avoided, (count, 4).

    The manoeuvre must leave ``RESERVE`` to the hazards, so that these starts are avoidable in truth, not only by the
    mask; without the second condition a fifth of the starts leaves the arena whatever is done.
    """
    found = np.empty((0, 4))
    while len(found) < count:
        drawn = dynamics.random_starts(max(2 * (count - len(found)), 8), generator)
        found = np.concatenate([found, drawn[is_avoided(drawn, HAZARD_RADIUS + RESERVE) & stays_inside(drawn)]])
    return found[:count]


def _away(states: Array, centre: Array) -> Array:
    """The turning rate that turns the motion away from ``centre``."""
    offset = centre - states[..., :2]
    aside = np.cos(states[..., 3]) * offset[..., 1] - np.sin(states[..., 3]) * offset[..., 0]
    # Backwards, the motion turns in the same sense as the heading, and the hazard lies on the other side of it.
    aside = np.where(states[..., 2] < 0.0, -aside, aside)
    return np.where(aside > 0.0, -1.0, 1.0)


def _brake(states: Array) -> Array:
    """The acceleration that stops the robot as fast as possible."""
    return np.clip(-states[..., 2] / DT, -1.0, 1.0)
