"""Signed margins of navigation tasks: how far each constraint is from being broken, > 0 where it is.

Only what the geometry gives exactly. Contacts (vases, pillars, buttons, gremlins) happen or not: they have no margin.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.linalg import norm


def margins_of(task: Any, cost_names: Collection[str]) -> dict[str, float]:
    """Margins by cost name, for the state that the simulation of the package's ``task`` is in.

    - ``hazards``: radius minus distance to the nearest centre, in m;
    - ``out_of_boundary``: distance beyond the nearest wall, in m;
    - ``vases_velocity``: speed of the fastest vase minus the threshold below which it counts as still, in m/s;
    - ``cost``: the largest of all, only where every part has one.

    Args:
        task: A task of the package after a step.
        cost_names: Names of its costs, ``cost`` among them.
    """
    margins: dict[str, float] = {}
    data = task.data
    position = data.body("agent").xpos
    if "hazards" in cost_names:
        centres = np.array([data.body(f"hazard{i}").xpos[:2] for i in range(task.hazards.num)])
        margins["hazards"] = float(task.hazards.size - norm(centres - position[:2], axis=1).min())
    if "out_of_boundary" in cost_names:
        walls = task.sigwalls
        reach = np.abs(position[:2]).max() if walls.num == 4 else abs(position[0])
        margins["out_of_boundary"] = float(reach - walls.locate_factor)
    if "vases_velocity" in cost_names:
        margins["vases_velocity"] = _vase_speed(task) - float(task.vases.velocity_threshold)
    parts = [name for name in cost_names if name != "cost"]
    if parts and all(name in margins for name in parts):
        margins["cost"] = max(margins[name] for name in parts)
    return margins


def _vase_speed(task: Any) -> float:
    # The first three speeds of a free joint are the body's linear velocity in world axes.
    model, data = task.model, task.data
    starts = [int(model.body_dofadr[model.body(f"vase{index}").id]) for index in range(task.vases.num)]
    return max(float(norm(data.qvel[start : start + 3])) for start in starts)
