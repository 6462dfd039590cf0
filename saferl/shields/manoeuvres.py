"""Manoeuvres: where a planar agent goes by braking, swerving or going on, and how deep inside obstacles.

Braking is u = clip(-a l / b, -1, 1) in the words of :mod:`saferl.shields.motion`, which stops without going back.
"""

from __future__ import annotations

import numpy as np

from saferl.shields.motion import Array, ComplexArray, MotionModel
from saferl.shields.scene import Scene

_TABLE = np.array(
    # own input (1) or none, throttle and turn while it holds; share of the horizon that it holds; turn after it; brakes
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, -1.0, 1.0],
        [1.0, 0.0, 0.0, 0.3, 0.0, 1.0],
        [0.0, 1.0, 1.0, 0.4, 0.0, 1.0],
        [0.0, 1.0, -1.0, 0.4, 0.0, 1.0],
        [1.0, 0.0, 0.0, 0.3, 0.0, 0.0],
    ]
)
_BRAKES = _TABLE[:, 5] == 1.0
"""Manoeuvres that stop; the last one goes on as proposed."""
_STILL = 0.05
"""Speed in m/s above which an agent is taken to want to go backwards."""
SLACK = 1e-9
"""Depth in m that counts as none."""


class Manoeuvres:
    """The manoeuvres of one motion model."""

    def __init__(self, model: MotionModel, *, stride: int, horizon: int, look: int) -> None:
        """Prepare the model.

        Args:
            model: Of one control step.
            stride: Control steps per step of a manoeuvre.
            horizon: Steps of a manoeuvre.
            look: Steps for which going on must be free.
        """
        self._model, self._coarse = model, model.repeat(stride)
        self._look = look
        self.seconds = model.dt * (1 + stride * horizon)
        own, _, turn, share, last_turn, brakes = _TABLE.T
        self._holds = np.arange(horizon)[:, None, None] < np.round(share * horizon)
        self._stops = ~self._holds & (brakes == 1.0)
        # The heading is linear in turn rate and turns, so what each manoeuvre adds to it is known beforehand.
        self._by_rate = self._coarse.gamma * np.cumsum(self._coarse.alpha ** np.arange(horizon))[:, None, None]
        self._by_turn = self._turned(self._holds * own)
        self._by_table = self._turned(np.where(self._holds, turn, last_turn))

    def depths(self, scene: Scene, effects: Array, *, margin: float, reserve: float, creep: float) -> Array:
        """How deep each action leads inside obstacles, summed over steps, in m; 0 is clear. Shape (n, 2).

        The first column is for the best of the manoeuvres that stop, the second for going on.

        Args:
            scene: What is around.
            effects: Saturated actions, (n, 2).
            margin: Distance kept from obstacles, in m.
            reserve: What going on keeps on top of it.
            creep: How much closer an agent inside the margin may come, in m.
        """
        points = self.paths(scene, effects)
        stops = _inside(scene, points[:, :, _BRAKES], margin, creep).sum(axis=0).min(axis=1)
        goes_on = _inside(scene, points[: self._look + 1, :, ~_BRAKES], margin + reserve, creep).sum(axis=0).min(axis=1)
        return np.column_stack([stops, goes_on])

    def paths(self, scene: Scene, effects: Array) -> ComplexArray:
        """Where the agent goes, (horizon + 2, n, manoeuvres): the action, the manoeuvre, and coasting to rest."""
        model, horizon = self._coarse, len(self._holds)
        u, r = self._model.inputs(effects)
        position, velocity, heading, rate = (
            value[:, None] for value in self._model.step(0.0, scene.velocity, 0.0, scene.turn_rate + 0.0 * r, u, r)
        )
        angles = heading + rate * self._by_rate + r[:, None] * self._by_turn + self._by_table
        ahead = np.exp(1j * angles)
        own, throttle = _TABLE[:, 0], _TABLE[:, 1]
        drive = 1.0 if scene.velocity.real >= -_STILL else -1.0
        pushes = model.b * np.where(self._holds, own * u[:, None] + drive * throttle, drive)
        velocities = np.empty((horizon + 1, *pushes.shape[1:]), dtype=np.complex128)
        velocities[0] = velocity
        for k in range(horizon):
            moved = velocities[k] * ahead[k].conj()
            kept = model.a * moved.real
            pushed = np.where(self._stops[k], -np.clip(kept, -model.b, model.b), pushes[k])
            velocities[k + 1] = (kept + pushed + 1j * (model.g * moved.imag)) * ahead[k]
        points = np.empty((horizon + 2, *pushes.shape[1:]), dtype=np.complex128)
        points[0] = position
        points[1:-1] = position + np.cumsum(model.dt / 2.0 * (velocities[:-1] + velocities[1:]), axis=0)
        points[-1] = points[-2] + velocities[-1] * (self._model.dt / (1.0 - self._model.a))
        return points

    def _turned(self, turns: Array) -> Array:
        """How far ``turns``, (horizon, ...), have turned the agent after each step, in rad."""
        model, rate, angles = self._coarse, np.zeros(turns.shape[1:]), np.empty(turns.shape)
        angle = np.zeros(turns.shape[1:])
        for k, turn in enumerate(turns):
            angle = angle + model.gamma * rate + model.delta * turn
            rate = model.alpha * rate + model.beta * turn
            angles[k] = angle
        return angles


def _inside(scene: Scene, points: ComplexArray, margin: float, creep: float) -> Array:
    """How deep each point is inside the obstacle and its margin that it is deepest in, >= 0 in m."""
    inside = np.zeros(points.shape)
    limits = _limits(np.abs(scene.centres), scene.radii, margin, creep)
    for centre, limit in zip(scene.centres, limits, strict=True):
        np.maximum(inside, limit - np.abs(points - centre), out=inside)
    allowed = scene.offsets - _limits(scene.offsets, np.zeros(len(scene.offsets)), margin, creep)
    for normal, most in zip(scene.normals, allowed, strict=True):
        np.maximum(inside, (points * np.conj(normal)).real - most, out=inside)
    return inside


def _limits(distances: Array, radii: Array, margin: float, creep: float) -> Array:
    """What distances to keep: near or in the margin, about the ones that there are, so that turning is allowed."""
    inner = np.minimum(distances - SLACK, radii + margin / 2.0)
    near = np.minimum(radii + margin, np.maximum(inner, distances - creep))
    return np.where(distances <= radii, radii + margin, near)
