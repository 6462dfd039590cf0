"""Costs and margins of a batch of navigation envs, by array operations; ``fields`` as for :mod:`.batch_tasks`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saferl.envs.safety_gymnasium.batch_tasks import Array, ButtonBatch, Fields, Mask, TaskBatch, lengths
from saferl.envs.safety_gymnasium.worlds import WorldMaker


class CostBatch:
    """The costs of a task, each 0 or 1 per step, and their margins: ``cost`` is 1 if any other is."""

    def __init__(self, maker: WorldMaker, task: TaskBatch) -> None:
        """Read from the package's task what is constrained."""
        self._task = task
        model, things = maker.model, {thing.name: thing for thing in maker.obstacles if thing.is_constrained}
        self._hazards = self._walls = None
        self._touching: dict[str, npt.NDArray[np.int64]] = {}
        self._vases: tuple[npt.NDArray[np.int64], float] | None = None
        self.names: tuple[str, ...] = ()
        for name, thing in things.items():
            if name == "hazards":
                self._hazards = np.array([model.body(f"hazard{i}").id for i in range(thing.num)]), thing.size
                self.names += ("hazards",)
            elif name == "sigwalls":
                self._walls = thing.locate_factor, 2 if thing.num == 4 else 1
                self.names += ("out_of_boundary",)
            elif name == "buttons":
                self.names += ("buttons",)
            else:
                geoms = [i for i in range(model.ngeom) if model.geom(i).name.startswith(name[:-1])]
                label = "vases_contact" if name == "vases" else name
                self._touching[label] = np.array(geoms)
                self.names += (label,)
            if name == "vases":
                starts = [int(model.body_dofadr[model.body(f"vase{i}").id]) for i in range(thing.num)]
                self._vases = np.array(starts)[:, None] + np.arange(3), thing.velocity_threshold
                self.names += ("vases_velocity",)
        self.needs_contacts = bool(self._touching) or "buttons" in self.names
        self.needs_velocities = self._vases is not None

    def of(self, fields: Fields) -> tuple[dict[str, Mask], dict[str, Array]]:
        """Costs of the step just taken, and the margins (:mod:`.margins`) of those that have one, (num_envs,) each."""
        costs: dict[str, Mask] = {}
        margins: dict[str, Array] = {}
        agent = fields["agent_pos"]
        if self._hazards is not None:
            bodies, size = self._hazards
            # Inside counts by its depth, so that a distance of exactly the radius costs nothing.
            margins["hazards"] = size - lengths(fields["xpos"][:, bodies, :2] - agent[:, None, :2]).min(axis=1)
            costs["hazards"] = margins["hazards"] > 0
        if self._walls is not None:
            factor, axes = self._walls
            margins["out_of_boundary"] = np.abs(agent[:, :axes]).max(axis=1) - factor
            costs["out_of_boundary"] = margins["out_of_boundary"] > 0
        if isinstance(self._task, ButtonBatch) and "buttons" in self.names:
            costs["buttons"] = self._task.wrong(fields)
        for name, geoms in self._touching.items():
            costs[name] = fields["touched"][:, geoms].any(axis=1)
        if self._vases is not None:
            entries, threshold = self._vases
            fastest = lengths(fields["qvel"][:, entries]).max(axis=1)
            margins["vases_velocity"], costs["vases_velocity"] = fastest - threshold, fastest >= threshold
        if len(costs) == 1:
            (costs["cost"],) = costs.values()
        else:
            parts = list(costs.values())
            costs["cost"] = np.asarray(np.any(parts, axis=0)) if parts else np.zeros(len(agent), dtype=np.bool_)
        if margins and len(margins) == len(costs) - 1:
            margins["cost"] = np.maximum.reduce(list(margins.values()))
        return costs, margins
