"""Navigation tasks (Goal, Push, Button, Circle, Run) of Safety-Gymnasium behind Gymnasium's API.

Layouts, dynamics, observations, rewards and costs are computed by the package (Ji et al., 2023). What differs:

- The cost is in ``info``, every cost at every step, by name.
- ``reset(seed=s)`` gives the package's layout of seed ``s``; a later ``reset()`` draws its layout seed from the env's
  own generator. The package continues an unseeded one, and draws from numpy's global state when it is made.
- An episode that ends because no place for the next goal was found is truncated: the agent did not end it.
- A diverged simulation is an error.
- ``buttons`` costs 0 while the buttons rest after a press: the package leaves it out of those steps.
- ``info["margins"]`` says how far constraints are from being broken (:mod:`saferl.envs.safety_gymnasium.margins`).
- Textures are decoded only if the env can render.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import gymnasium
import mujoco  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from saferl.envs.safety_gymnasium import compat
from saferl.envs.safety_gymnasium.margins import margins_of
from saferl.envs.safety_gymnasium.privileged import PrivilegedReader
from saferl.envs.safety_gymnasium.snapshot import get_builder_state, set_builder_state
from saferl.envs.state import State, generator_state, new_generator
from saferl.envs.velocity import require_valid_simulation
from saferl.errors import ConfigError, EnvContractError, UnknownNameError, UsageError

Array = npt.NDArray[np.float64]

AGENTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
TASKS = (*(f"{task}{level}" for task in ("Goal", "Push", "Button", "Circle") for level in range(3)), "Run0")
SEEDS = 2**32
"""The package's generator takes seeds below this."""


def make_navigation(
    env_id: str,
    *,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    width: int = 256,
    height: int = 256,
    camera: str = "fixedfar",
) -> NavigationEnv:
    """The navigation task ``env_id``, for example ``"SafetyPointGoal1-v0"``.

    Args:
        env_id: ``Safety<agent><task>-v0`` with an agent of :data:`AGENTS` and a task of :data:`TASKS`.
        render_mode: ``"rgb_array"``, or None for an env that cannot render but resets 20 times faster.
        max_episode_steps: Time limit in steps; None for the task's own (1000, or 500 for Circle and Run).
        width: Width of rendered images in pixels.
        height: Height of rendered images in pixels.
        camera: ``"fixedfar"``, ``"fixednear"``, ``"track"`` (behind the agent) or ``"vision"`` (its eyes).

    Raises:
        UnknownNameError: no such task or render mode.
        UsageError: safety-gymnasium is not installed, or is another version than 1.0.0.
    """
    return NavigationEnv(
        env_id,
        render_mode=render_mode,
        max_episode_steps=max_episode_steps,
        width=width,
        height=height,
        camera=camera,
    )


class NavigationEnv(gymnasium.Env[Array, Array]):
    """One navigation task.

    ``info`` of every step holds ``costs`` (``cost``, which is 1 if any part is, and each part by name), ``cost``,
    ``margins`` and ``goal_met``.

    Example:
        >>> env = NavigationEnv("SafetyPointGoal1-v0")
        >>> obs, info = env.reset(seed=0)
        >>> obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> info["costs"]
        {'cost': 0.0, 'hazards': 0.0}
        >>> sorted(info["margins"])
        ['cost', 'hazards']
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        width: int = 256,
        height: int = 256,
        camera: str = "fixedfar",
    ) -> None:
        """Build the task; see :func:`make_navigation` for the arguments and errors."""
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UnknownNameError("render mode", render_mode, self.metadata["render_modes"])
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1; got {max_episode_steps}.")
        self.env_id = env_id
        self.render_mode = render_mode
        self._image = {"height": height, "width": width}
        self._camera = camera
        self._renderer: mujoco.Renderer | None = None
        self._builder = build_package_env(env_id, keeps_textures=render_mode is not None)
        if max_episode_steps is not None:
            self._builder.task.num_steps = max_episode_steps
        self._cost_keys: dict[str, str] = {}  # by name; complete after a reset
        self._layout_seed: int | None = None
        self._reader: tuple[Any, PrivilegedReader] | None = None
        self.observation_space = self._builder.observation_space
        self.action_space = self._builder.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Build a new layout; with ``seed``, the one that the seed determines, and all later ones too."""
        super().reset(seed=seed, options=options)
        return self._build_layout(
            seed if seed is not None and seed < SEEDS else int(self.np_random.integers(SEEDS))
        ), {}

    def _build_layout(self, layout_seed: int) -> Array:
        obs: Array = self._builder.reset(seed=layout_seed)[0]
        self._layout_seed = layout_seed
        self._cost_keys = {key.removeprefix("cost_"): key for key in self._builder.cost if key != "cost_sum"}
        return obs

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move for one control step.

        Raises:
            EnvContractError: the simulation diverged.
        """
        builder = self._builder
        if builder.done:
            raise gymnasium.error.ResetNeeded(f"{self.env_id}: the episode is over or has not begun; call reset first.")
        buttons_rest = hasattr(builder.task, "buttons") and builder.task.buttons.timer > 0
        try:
            obs, reward, _, terminated, truncated, package_info = builder.step(np.asarray(action, dtype=np.float64))
        except Exception:
            # After a divergence the package fails in many ways, all misleading.
            require_valid_simulation(builder.task.data, self.env_id)
            raise
        require_valid_simulation(builder.task.data, self.env_id)
        costs = {"cost": float(package_info["cost_sum"])}
        for name, key in self._cost_keys.items():
            if key in package_info:
                costs[name] = float(package_info[key])
            elif name == "buttons" and buttons_rest:
                costs[name] = 0.0
            # Any other part that is left out stays out: whoever constrains it gets an error, never a zero.
        goal_met = bool(package_info.get("goal_met", False))
        if terminated and goal_met and builder.task.mechanism_conf.continue_goal and builder.task.agent.is_alive():
            terminated, truncated = False, True
        margins = margins_of(builder.task, costs)
        info = {"cost": costs["cost"], "costs": costs, "margins": margins, "goal_met": goal_met}
        return obs, float(reward), bool(terminated), bool(truncated), info

    def privileged_state(self) -> dict[str, Any]:
        """Where the agent and the obstacles are now; see :meth:`.privileged.PrivilegedReader.read`.

        Raises:
            ResetNeeded: there was no reset yet.
        """
        task = self._builder.task
        if task.model is None:
            raise gymnasium.error.ResetNeeded(f"{self.env_id}: nothing has a place yet; call reset first.")
        if self._reader is None or self._reader[0] is not task.model:  # each layout is a model of its own
            self._reader = task.model, PrivilegedReader(task, task.model)
        data = task.data
        return self._reader[1].read(data.xpos, data.body("agent").xmat, data.sensordata)

    def lidar_layout(self, kind: str) -> dict[str, Any]:
        """Where observations hold what a shield needs to see ``kind`` with the lidar.

        Returns:
            ``velocimeter``, ``gyro`` and ``lidar``, the first entry of each; ``bins`` of the lidar and its ``reach``,
            and the ``radius`` of the objects, in m.

        Raises:
            ConfigError: the task shows no such objects.
        """
        task = self._builder.task
        starts, start = {}, 0
        for name, box in task.obs_info.obs_space_dict.spaces.items():
            starts[name], start = start, start + int(np.prod(box.shape))
        if f"{kind}_lidar" not in starts:
            raise ConfigError(f"{self.env_id} has no lidar that shows {kind}; it observes {', '.join(starts)}.")
        radius = next(float(thing.size) for thing in task._obstacles if thing.name == kind)
        return {
            "velocimeter": starts["velocimeter"],
            "gyro": starts["gyro"],
            "lidar": starts[f"{kind}_lidar"],
            "bins": int(task.lidar_conf.num_bins),
            "reach": float(task.lidar_conf.max_dist),
            "radius": radius,
        }

    def get_state(self) -> State:
        """Everything that decides how the env goes on, in this env or in another one of the same id and time limit."""
        return {
            "env_id": self.env_id,
            "layout_seed": self._layout_seed,
            "world": None if self._layout_seed is None else get_builder_state(self._builder),
            "generator": None if self._np_random is None else generator_state(self._np_random),
            "generator_seed": self._np_random_seed,
        }

    def set_state(self, state: State) -> None:
        """Go on from :meth:`get_state`.

        Raises:
            EnvContractError: the state is of another task.
        """
        if state["env_id"] != self.env_id:
            raise EnvContractError(f"The state must be of {self.env_id}; got one of {state['env_id']}.")
        if state["layout_seed"] is None:
            raise EnvContractError(f"{self.env_id}: the state must be taken after a reset; got one of before.")
        self._build_layout(state["layout_seed"])
        set_builder_state(self._builder, state["world"])
        self._np_random = None if state["generator"] is None else new_generator(state["generator"])
        self._np_random_seed = state["generator_seed"]

    def render(self) -> npt.NDArray[np.uint8] | None:
        """An RGB image of the current state, shape (height, width, 3); None without a render mode.

        Raises:
            UsageError: OpenGL does not work here.
        """
        if self.render_mode is None:
            return None
        task = self._builder.task
        if task.model is None:
            raise gymnasium.error.ResetNeeded(f"{self.env_id}: there is nothing to draw yet; call reset first.")
        if self._renderer is None or self._renderer.model is not task.model:  # each layout is a model of its own
            self.close()
            self._renderer = _new_renderer(task.model, **self._image)
        options = mujoco.MjvOption()
        options.geomgroup[:] = 1  # goals and obstacles are in groups that MuJoCo hides by default
        self._renderer.update_scene(task.data, camera=self._camera, scene_option=options)
        image: npt.NDArray[np.uint8] = self._renderer.render()
        return image

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def build_package_env(env_id: str, *, keeps_textures: bool) -> Any:
    """The package's env for ``env_id``, made without touching numpy's global generator."""
    known = {f"Safety{agent}{task}-v0": agent for agent, task in itertools.product(AGENTS, TASKS)}
    if env_id not in known:
        raise UnknownNameError("navigation task", env_id, known)
    package_builder: Any = compat.load("builder").Builder
    package_world: Any = compat.load("world").World

    class SeededBuilder(package_builder):  # type: ignore[misc]
        def set_seed(self, seed: int | None = None) -> None:
            super().set_seed(0 if seed is None else seed)

    class BareWorld(package_world):  # type: ignore[misc]
        """A world whose model has no textures: the package compiles what it reads back from ``xml_string``."""

        @property
        def xml_string(self) -> str | None:
            return self._xml

        @xml_string.setter
        def xml_string(self, xml: str | None) -> None:
            self._xml = None if xml is None else compat.without_textures(xml)

    with warnings.catch_warnings(), np.errstate(over="ignore"):
        # Both are harmless: index arrays of one element, and a float32 bound compared with float64's largest number.
        warnings.filterwarnings("ignore", message="Conversion of an array with ndim > 0", category=DeprecationWarning)
        builder = SeededBuilder(env_id, {"agent_name": known[env_id]})
    _hand_angles_over_as_scalars(builder.task.agent)
    # A world made beforehand also spares the first reset one of its two compilations.
    world_class = package_world if keeps_textures else BareWorld
    builder.task.world = world_class(builder.task.agent, builder.task._obstacles)
    return builder


def _hand_angles_over_as_scalars(agent: Any) -> None:
    """Keep numpy from warning at every joint and step: the package converts arrays of one element to floats."""
    if agent.sensor_conf.sensors_angle_components:
        read, angles = agent.get_sensor, frozenset(agent.sensor_info.hinge_pos_names)
        agent.get_sensor = lambda name: read(name)[0] if name in angles else read(name)


def _new_renderer(model: mujoco.MjModel, *, height: int, width: int) -> mujoco.Renderer:
    try:
        return mujoco.Renderer(model, height, width)
    except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
        raise UsageError(
            f"Rendering needs OpenGL, which does not work here: {error}. On a machine without a display, start Python "
            "with the environment variable MUJOCO_GL=egl (or osmesa) and that library installed."
        ) from error
