"""Worlds of a navigation task for the batched backend: the package's own, but made anew in a millisecond.

A :class:`WorldMaker` holds one env of the package and the description that it compiled. For each new layout the package
says where everything stands (its placements, its world configuration, its generator); the poses are written into the
description, MuJoCo compiles it, and the numbers that depend on poses are copied into the model at hand. That model is
equal, bit for bit, to the one that the package compiles from XML (the tests compare every array).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from saferl.envs.safety_gymnasium.layouts import LayoutSampler
from saferl.envs.safety_gymnasium.navigation import build_package_env
from saferl.errors import EnvContractError

Array = npt.NDArray[np.float64]

_POSE_DEPENDENT = ("body_", "geom_", "site_", "light_", "jnt_", "dof_", "eq_", "tendon_", "actuator_", "qpos")
_STATISTICS = ("meaninertia", "meanmass", "meansize", "extent", "center")


@dataclass
class World:
    """One simulation, and what the package remembers beside it."""

    model: Any
    data: Any
    layout_seed: int | None = None
    layout: dict[str, Array] = field(default_factory=dict)
    """Places in m by object, as of the last new goal (the package draws the next goal among them)."""
    generator: np.random.RandomState = field(default_factory=lambda: np.random.RandomState(0))
    goal_button: int = 0
    steps_drawn: int = 0
    """Steps of the episode for which ``generator`` has given what the package draws in each."""


class WorldMaker:
    """Makes and re-makes the worlds of one task."""

    def __init__(self, env_id: str) -> None:
        """Build the package's env of ``env_id``.

        Raises:
            UnknownNameError: no such task.
            UsageError: safety-gymnasium is not installed, or is another version than 1.0.0.
        """
        self.env_id = env_id
        self.builder = build_package_env(env_id, keeps_textures=False)
        self.builder.reset(seed=0)
        self.task = self.builder.task
        self.engine = self.task.world.engine
        self.agent = self.task.agent
        self.obstacles = self.task._obstacles
        drawn = self.task.random_generator
        self.sampler = LayoutSampler(drawn.placements, drawn.placements_extents, drawn.placements_margin)
        self._spec = mujoco.MjSpec.from_string(self.task.world.xml_string)
        self.model = self._spec.compile()
        self._copied = [name for name in _float_arrays(self.model) if name.startswith(_POSE_DEPENDENT)]
        self._bodies = {body.name: body for body in self._spec.bodies}
        self._goal = self.model.body("goal").id if hasattr(self.task, "goal") else None

    def new(self) -> World:
        """A world that has no layout yet."""
        model = self._spec.compile()
        return World(model, mujoco.MjData(model))

    def place(self, world: World, layout_seed: int) -> None:
        """Bring ``world`` to the start of an episode in the layout of ``layout_seed``.

        Raises:
            EnvContractError: no trial found room for everything.
        """
        world.generator = np.random.RandomState(layout_seed)
        world.layout_seed, world.steps_drawn = layout_seed, 0
        layout = self.sampler.layout(world.generator)
        if layout is None:
            raise EnvContractError(
                f"{self.env_id}: no room for all objects was found in the layout of seed {layout_seed}. Reset with "
                "another seed."
            )
        world.layout = layout
        self._pose(world)
        self._start(world)

    def _pose(self, world: World) -> None:
        """Give the model of ``world`` the poses of its layout."""
        task = self.task
        task.random_generator.random_generator = world.generator
        config = task._build_world_config(world.layout)
        agent = self._bodies["agent"]
        agent.pos = [*config["agent_xy"], self.agent.z_height]
        agent.quat = _about_z(config["agent_rot"])
        for group in ("geoms", "free_geoms"):
            for name, thing in config[group].items():
                self._bodies[name].pos = thing["pos"]
                self._bodies[name].quat = _about_z(thing["rot"])
        for name, thing in config["mocaps"].items():
            geom = self._bodies[name].first_geom()
            geom.pos, geom.quat = thing["pos"], _about_z(thing["rot"])
        compiled, model = self._spec.compile(), world.model
        for name in self._copied:
            getattr(model, name)[:] = getattr(compiled, name)
        for name in _STATISTICS:
            setattr(model.stat, name, getattr(compiled.stat, name))

    def _start(self, world: World) -> None:
        """What the package does after compiling: a first goal, and the agent's first pose."""
        model, data = world.model, world.data
        mujoco.mj_resetData(model, data)
        mujoco.mj_forward(model, data)
        if hasattr(self.task, "buttons"):
            self.choose_button(world)
        elif self._goal is not None and not self.move_goal(world):
            raise EnvContractError(
                f"{self.env_id}: no room for a goal was found in the layout of seed {world.layout_seed}. Reset with "
                "another seed."
            )
        self.engine.update(model, data)
        self.agent.random_generator.random_generator = world.generator
        self.agent.reset()
        mujoco.mj_forward(model, data)

    def move_goal(self, world: World) -> bool:
        """Draw a new place for the goal; False if there is none."""
        world.layout.pop("goal", None)  # it goes to the end, where the package has it
        place = self.sampler.goal(world.generator, world.layout)
        if place is None:
            return False
        world.layout["goal"] = place
        self._put_goal(world, place)
        return True

    def choose_button(self, world: World) -> None:
        """Draw the next button to press, and put the goal there."""
        world.goal_button = int(world.generator.choice(self.task.buttons.num))
        self._put_goal(world, world.data.body(f"button{world.goal_button}").xpos[:2])

    def _put_goal(self, world: World, place: Array) -> None:
        world.model.body_pos[self._goal, :2] = place
        mujoco.mj_forward(world.model, world.data)

    def note_places(self, world: World) -> None:
        """Update the layout by where things are now, as the package does before it draws a goal."""
        for name in world.layout:
            if "gremlin" not in name:
                world.layout[name] = world.data.body(name).xpos[:2].copy()

    def catch_up(self, world: World, steps: int) -> None:
        """Draw what the package has drawn until the end of step ``steps``: one number per step, for the frame skip."""
        if steps > world.steps_drawn:
            world.generator.random_sample(steps - world.steps_drawn)
            world.steps_drawn = steps


def _about_z(angle: float) -> list[float]:
    """The quaternion of a turn by ``angle`` rad about the vertical."""
    return [float(np.cos(angle / 2)), 0.0, 0.0, float(np.sin(angle / 2))]


def _float_arrays(model: Any) -> list[str]:
    names = (name for name in dir(model) if not name.startswith("_"))
    return [name for name in names if isinstance(getattr(model, name, None), np.ndarray)]
