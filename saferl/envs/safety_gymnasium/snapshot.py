"""The state of a navigation task, to continue it exactly in another env of the same id.

A layout is decided by its seed, so the seed stands for the model, and only what has changed since is kept: the
simulation, the goal's place in the model, the places that the package remembers, the task's own variables, the number
of steps, and its generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saferl.envs.state import State, mujoco_state, set_mujoco_state

_TASK = ("last_dist_goal", "last_dist_box", "last_box_goal", "old_potential")
"""What tasks remember of the last step, for rewards that are differences."""
_BUTTONS = ("timer", "goal_button")
_BUILDER = ("steps", "terminated", "truncated")


def get_builder_state(builder: Any) -> State:
    """The state of the package's env after a reset."""
    task = builder.task
    buttons = getattr(task, "buttons", None)
    return {
        "physics": mujoco_state(task.model, task.data),
        "body_pos": task.model.body_pos.copy(),
        "layout": {name: np.array(place) for name, place in task.world_info.layout.items()},
        "generator": task.random_generator.random_generator.get_state(legacy=False),
        "task": {name: _plain(getattr(task, name)) for name in _TASK if hasattr(task, name)},
        "buttons": None if buttons is None else {name: _plain(getattr(buttons, name)) for name in _BUTTONS},
        "builder": {name: getattr(builder, name) for name in _BUILDER},
    }


def set_builder_state(builder: Any, state: State) -> None:
    """Bring the package's env, just reset with the seed of the layout, to a state of :func:`get_builder_state`."""
    task = builder.task
    task.model.body_pos[:] = state["body_pos"]
    set_mujoco_state(task.model, task.data, state["physics"])
    # The package's generator looks at the same dict when it draws the next goal.
    layout = task.world_info.layout
    layout.clear()
    layout.update({name: place.copy() for name, place in state["layout"].items()})
    task.random_generator.random_generator.set_state(state["generator"])
    for name, value in state["task"].items():
        setattr(task, name, value)
    if state["buttons"] is not None:
        for name, value in state["buttons"].items():
            setattr(task.buttons, name, value)
    for name, value in state["builder"].items():
        setattr(builder, name, value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
