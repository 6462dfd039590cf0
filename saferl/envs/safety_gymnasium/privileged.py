"""What a navigation task can tell a shield beside the observation: where the agent is, and where not to go.

One reader for the single environment and the batched backend, so that both say the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_WALLS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
"""Outward normals of Circle's walls; Circle1 has the first two."""


class PrivilegedReader:
    """Reads the privileged state of one task from the arrays of a simulation.

    Positions and sizes do not say what costs: see ``docs/tasks.md`` for that.
    """

    def __init__(self, task: Any, model: Any) -> None:
        """Look up the places of everything.

        Args:
            task: The package's task, after a reset.
            model: Its MuJoCo model, or one of another layout of it.
        """
        things = {thing.name: thing for thing in task._obstacles}
        self._agent = model.body("agent").id
        self._velocity = _entries(model, "velocimeter")
        self._gyro = _entries(model, "gyro")
        self._round = {}
        for name in ("hazards", "pillars"):
            if name in things:
                bodies = [model.body(f"{name[:-1]}{i}").id for i in range(things[name].num)]
                self._round[name] = np.array(bodies, dtype=np.int64), float(things[name].size)
        walls = things.get("sigwalls")
        self._walls = np.zeros((0, 3))
        if walls is not None:
            normals = _WALLS[: walls.num]
            self._walls = np.column_stack([normals, np.full(len(normals), float(walls.locate_factor))])
        self._limits = model.actuator_ctrlrange.T.copy()

    def read(self, xpos: Array, mat: Array, sensors: Array) -> dict[str, Any]:
        """The privileged state, in copies.

        Args:
            xpos: Positions of all bodies, (num_bodies, 3).
            mat: Row-major rotation matrix of the agent, (9,).
            sensors: Readings of all sensors.

        Returns:
            ``position`` (2,) in m, ``heading`` in rad (of the agent's x axis), ``velocity`` (2,) in m/s, ``turn_rate``
            in rad/s; ``hazards`` and ``pillars``, centres (n, 2) in m (n = 0 without any), ``hazard_size`` and
            ``pillar_size``, radii in m; ``walls`` (n, 3), rows (a, b, c) of the lines a x + b y <= c within which the
            agent must stay; ``action_low`` and ``action_high``, limits of the actuators.
        """
        rotation = mat.reshape(3, 3)
        velocity = rotation @ sensors[self._velocity]
        state: dict[str, Any] = {
            "position": xpos[self._agent, :2].copy(),
            "heading": float(np.arctan2(rotation[1, 0], rotation[0, 0])),
            "velocity": velocity[:2].copy(),
            "turn_rate": float(sensors[self._gyro][2]),
            "walls": self._walls.copy(),
            "action_low": self._limits[0].copy(),
            "action_high": self._limits[1].copy(),
        }
        for name in ("hazards", "pillars"):
            bodies, size = self._round.get(name, (np.zeros(0, dtype=np.int64), 0.0))
            state[name], state[f"{name[:-1]}_size"] = xpos[bodies, :2].copy(), size
        return state


def _entries(model: Any, name: str) -> npt.NDArray[np.int64]:
    sensor = model.sensor(name)
    return np.asarray(int(sensor.adr[0]) + np.arange(int(sensor.dim[0])), dtype=np.int64)
