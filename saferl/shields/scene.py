"""Scenes: what is around an agent, in its own axes, from privileged state or from what its lidars see.

The axes are those of the throttle: x ahead, y to the left, the agent at the origin; points are complex numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.shields.motion import Array, ComplexArray

_EXPLAINED = 1e-6
"""A bin that differs by less from what its neighbour spills over shows nothing of its own."""


@dataclass(frozen=True)
class Scene:
    """The surroundings of an agent, in its axes."""

    velocity: complex
    """In m/s."""
    turn_rate: float
    """In rad/s."""
    centres: ComplexArray
    """Of the round obstacles, (n,) in m."""
    radii: Array
    """Theirs, (n,) in m."""
    normals: ComplexArray
    """Outward unit normals of walls, (m,)."""
    offsets: Array
    """Distances to the walls, (m,) in m; negative behind one."""


def privileged_scene(state: Mapping[str, Any], forward: float) -> Scene:
    """The scene of a ``privileged_state()`` of a navigation task.

    Args:
        state: See ``docs/environments.md``.
        forward: Direction of the throttle from the agent's x axis, in rad.
    """
    turn = np.exp(-1j * (state["heading"] + forward))
    position = complex(*state["position"])
    hazards, walls = state["hazards"], state["walls"]
    normals = walls[:, 0] + 1j * walls[:, 1]
    return Scene(
        velocity=complex(complex(*state["velocity"]) * turn),
        turn_rate=float(state["turn_rate"]),
        centres=(hazards[:, 0] + 1j * hazards[:, 1] - position) * turn,
        radii=np.full(len(hazards), float(state["hazard_size"])),
        normals=normals * turn,
        offsets=walls[:, 2] - (np.conj(normals) * position).real,
    )


@dataclass(frozen=True)
class LidarLayout:
    """Where an observation holds what a scene needs."""

    velocimeter: int
    """Entry of the first of three speeds, m/s along the agent's axes."""
    gyro: int
    """Entry of the first of three turn rates, rad/s."""
    lidar: int
    """Entry of the first bin of the hazards' lidar."""
    bins: int
    """Its number of bins."""
    reach: float
    """Distance in m from which on it reads 0."""
    radius: float
    """Of hazards, in m; the lidar sees their centres."""


def lidar_scene(obs: Array, layout: LidarLayout, forward: float) -> Scene:
    """The scene that an observation shows: hazards hidden behind a nearer one in the same bin are missing."""
    turn = np.exp(-1j * forward)
    centres = decode_lidar(obs[layout.lidar : layout.lidar + layout.bins], layout.reach) * turn
    return Scene(
        velocity=complex(complex(obs[layout.velocimeter], obs[layout.velocimeter + 1]) * turn),
        turn_rate=float(obs[layout.gyro + 2]),
        centres=centres,
        radii=np.full(len(centres), layout.radius),
        normals=np.zeros(0, dtype=np.complex128),
        offsets=np.zeros(0),
    )


def decode_lidar(readings: npt.ArrayLike, reach: float) -> ComplexArray:
    """Where the objects may be that a pseudo-lidar shows, in the agent's axes.

    An object at distance d in bin i, a share q in [0, 1) of the bin past its start, gives the bin the reading
    v = 1 - d / reach, the next one at least q v and the one before at least (1 - q) v; each bin shows the largest. So
    the neighbours bound q from both sides: the bounds meet for an object alone, and both ends are given otherwise. A
    bin that shows no more than what an object next to it spills over is taken to be empty.

    Args:
        readings: One per bin, in [0, 1].
        reach: In m.
    """
    values = np.asarray(readings, dtype=np.float64)
    following, before = np.roll(values, -1), np.roll(values, 1)
    is_own = (values > 0.0) & ~_is_spill(values, following, before)
    own = values[is_own]
    most = np.minimum(following[is_own] / own, 1.0)
    least = np.minimum(np.maximum(1.0 - before[is_own] / own, 0.0), most)
    bins = np.flatnonzero(is_own)
    shares = np.concatenate([least, most])
    distances = reach * (1.0 - np.concatenate([own, own]))
    turns = 2.0 * np.pi / len(values) * (np.concatenate([bins, bins]) + shares)
    return np.asarray(distances * np.exp(1j * turns), dtype=np.complex128)


def _is_spill(values: Array, following: Array, before: Array) -> npt.NDArray[np.bool_]:
    """Where a bin shows exactly what a larger neighbour, whose other side is known, spills over."""
    # The neighbour after it spills (1 - q) v, and q v into the bin after that; the one before the other way round.
    beyond, behind = np.roll(values, -2), np.roll(values, 2)
    from_next = (following >= values) & (values + beyond <= following + _EXPLAINED)
    # (strictly larger: an object lies before the end of its bin, so one on a border is in the bin that begins there)
    from_last = (before > values) & (values + behind <= before + _EXPLAINED)
    return np.asarray(from_next | from_last)
