"""Observations of a batch of navigation envs: the package's sensors and lidars, by array operations.

The order of entries is the package's: its observation space says which sensor stands where.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_FULL_TURN = 2 * np.pi


class Observer:
    """Computes observations of one task from the fields of its simulations."""

    def __init__(self, task: Any, model: Any) -> None:
        """Read from the package's ``task`` what it observes, and from ``model`` where that is found."""
        spaces = task.obs_info.obs_space_dict.spaces
        stops = np.cumsum([int(np.prod(box.shape)) for box in spaces.values()])
        columns = {
            name: np.arange(stop - int(np.prod(box.shape)), stop)
            for (name, box), stop in zip(spaces.items(), stops, strict=True)
        }
        self.size = int(stops[-1])

        def entries(name: str) -> npt.NDArray[np.int64]:
            sensor = model.sensor(name)
            return int(sensor.adr[0]) + np.arange(int(sensor.dim[0]))

        known = task.agent.sensor_info
        plain = {name: entries(name) for name in (*task.agent.sensor_conf.sensors, *known.hinge_vel_names)}
        plain |= {name: entries(name) for name in known.ballangvel_names}
        if known.freejoint_qvel_name:
            plain[known.freejoint_qvel_name] = entries(known.freejoint_qvel_name)
        if known.freejoint_pos_name:
            plain[known.freejoint_pos_name] = entries(known.freejoint_pos_name)[2:]  # the height only
        self._plain = _joined([columns[name] for name in plain]), _joined(list(plain.values()))
        angles = known.hinge_pos_names
        self._angles = _joined([columns[name] for name in angles]), _joined([entries(name) for name in angles])
        self._turns = [(columns[name], entries(name)) for name in known.ballquat_names]
        seen = [thing for thing in task._obstacles if thing.is_lidar_observed]
        conf = task.lidar_conf
        self._lidar = Lidar(seen, model, num_bins=conf.num_bins, max_dist=conf.max_dist) if seen else None
        # The package lists the lidars last, in the order of its obstacles.
        self._lidar_start = int(columns[f"{seen[0].name}_lidar"][0]) if seen else self.size
        self._buttons = columns.get("buttons_lidar")

    def observe(self, fields: dict[str, Array], hides_buttons: npt.NDArray[np.bool_] | None = None) -> Array:
        """Observations, (num_envs, size).

        Args:
            fields: ``xpos`` (num_envs, num_bodies, 3), ``agent_mat`` (num_envs, 9), ``agent_pos`` (num_envs, 3) and
                ``sensors`` (num_envs, num_numbers).
            hides_buttons: Where the lidar of buttons reads nothing, (num_envs,).
        """
        sensors = fields["sensors"]
        out = np.empty((len(sensors), self.size))
        out[:, self._plain[0]] = sensors[:, self._plain[1]]
        columns, entries = self._angles
        if len(entries):
            angles = sensors[:, entries]
            out[:, columns[0::2]] = np.sin(angles)
            out[:, columns[1::2]] = np.cos(angles)
        for columns, entries in self._turns:
            out[:, columns] = rotation_matrices(sensors[:, entries])
        if self._lidar is not None:
            readings = self._lidar.read(fields["xpos"], fields["agent_pos"], fields["agent_mat"])
            out[:, self._lidar_start :] = readings
        if hides_buttons is not None and self._buttons is not None and hides_buttons.any():
            out[np.ix_(hides_buttons, self._buttons)] = 0.0
        return out


class Lidar:
    """The package's pseudo lidar, for all kinds of objects at once."""

    def __init__(self, seen: list[Any], model: Any, *, num_bins: int, max_dist: float) -> None:
        """See the package's obstacles ``seen``, each kind with readings of its own.

        Args:
            seen: Obstacles of the package.
            model: A model of the task.
            num_bins: Readings per kind, around a full circle.
            max_dist: Distance in m from which on a reading is 0.
        """
        bodies, kinds = [], []
        for kind, thing in enumerate(seen):
            names = _body_names(thing)
            bodies += [model.body(name).id for name in names]
            kinds += [kind] * len(names)
        self._bodies = np.array(bodies)
        # The package looks for the circle at the origin, wherever its body is.
        self._at_origin = np.array([seen[kind].name == "circle" for kind in kinds])
        self._offsets = np.array(kinds) * num_bins
        self._num_bins, self._max_dist, self._num_kinds = num_bins, max_dist, len(seen)

    def read(self, xpos: Array, agent_pos: Array, agent_mat: Array) -> Array:
        """Readings in [0, 1], (num_envs, num_kinds * num_bins): 1 where the agent is, 0 from ``max_dist`` on.

        Every object is seen by the bin of its direction, and by the two beside it in part.
        """
        num_envs, num_bins = len(xpos), self._num_bins
        x, y = xpos[:, self._bodies, 0], xpos[:, self._bodies, 1]
        if self._at_origin.any():
            x[:, self._at_origin] = y[:, self._at_origin] = 0.0
        x -= agent_pos[:, 0, None]
        y -= agent_pos[:, 1, None]
        z = -agent_pos[:, 2, None]
        mat = agent_mat[:, :, None]
        ahead = x * mat[:, 0] + y * mat[:, 3] + z * mat[:, 6]
        aside = x * mat[:, 1] + y * mat[:, 4] + z * mat[:, 7]
        closeness = np.maximum(0.0, self._max_dist - np.hypot(ahead, aside)) / self._max_dist
        direction = np.arctan2(aside, ahead) % _FULL_TURN / (_FULL_TURN / num_bins)
        bins = direction.astype(np.int64)
        part = direction - bins
        start = np.arange(num_envs)[:, None] * (self._num_kinds * num_bins) + self._offsets
        out = np.zeros(num_envs * self._num_kinds * num_bins)
        where = np.stack([start + bins % num_bins, start + (bins + 1) % num_bins, start + (bins - 1) % num_bins])
        np.maximum.at(out, where.ravel(), np.stack([closeness, part * closeness, (1 - part) * closeness]).ravel())
        return out.reshape(num_envs, self._num_kinds * num_bins)


def rotation_matrices(quaternions: Array) -> Array:
    """Row-major rotation matrices (n, 9) of unit quaternions (n, 4), w first."""
    w, x, y, z = quaternions.T
    return np.stack(
        [
            w * w + x * x - y * y - z * z,
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            w * w - x * x + y * y - z * z,
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            w * w - x * x - y * y + z * z,
        ],
        axis=1,
    )


def _body_names(thing: Any) -> list[str]:
    """The bodies whose positions the package gives for an obstacle."""
    if not hasattr(thing, "num"):
        return [thing.name]
    suffix = "obj" if thing.type == "mocaps" else ""
    return [f"{thing.name[:-1]}{index}{suffix}" for index in range(thing.num)]


def _joined(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
