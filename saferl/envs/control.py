"""Control tasks of dm_control, through Shimmy, with a cost that the reward needs.

Walking is rewarded upright and costs height, reaching costs speed, a gait costs effort. A budget between that of the
best policy and that of the most careful one then binds in the interior, where plain Lagrangian methods oscillate; the
idea is that of the ReLOAD paper (arXiv 2302.01275), whose own thresholds are not published.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import FlattenObservation, RescaleAction

from saferl.envs.control_tasks import CONTROL_TASKS, ControlTask
from saferl.envs.state import State, mujoco_state, set_mujoco_state
from saferl.errors import ConfigError, EnvContractError, MissingExtraError, UnknownNameError

_MOVED = ("geom_pos", "geom_size")
"""Fields of the model that tasks change at a reset (the reacher's target)."""


def _walker_height(physics: Any) -> float:
    return float(physics.torso_height())


def _reacher_speed(physics: Any) -> float:
    return float(np.abs(physics.data.qvel).max())


def _quadruped_effort(physics: Any) -> float:
    return float(np.abs(physics.data.actuator_force).mean())


_MEASURES: dict[str, Callable[[Any], float]] = {
    "walker": _walker_height,
    "reacher": _reacher_speed,
    "quadruped": _quadruped_effort,
}
"""What costs, read from the simulation, by domain."""


class ControlEnv(gymnasium.Env[Any, Any]):
    """A task of dm_control with flat float32 observations, actions in [-1, 1], and episodes of fixed length.

    Every episode is truncated at ``max_episode_steps``, and none ends before. Height is an indicator, with a signed
    margin in metres; speed and effort are shares of a largest value.

    Example:
        >>> env = make_control("DMWalkerHeight-v0")
        >>> _ = env.reset(seed=0)
        >>> info = env.step(env.action_space.sample())[-1]
        >>> info["costs"], round(info["margins"]["cost"], 1)
        ({'cost': 1.0}, 0.5)
    """

    is_fixed_horizon = True
    """No episode ends early."""

    def __init__(
        self, task: ControlTask, *, render_mode: str | None = None, max_episode_steps: int | None = 1000
    ) -> None:
        """Load the task.

        Args:
            task: What to load.
            render_mode: None or ``"rgb_array"``.
            max_episode_steps: Steps after which an episode is truncated; None: never.

        Raises:
            MissingExtraError: dm-control or shimmy is not installed.
            ConfigError: another render mode.
        """
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode must be None or 'rgb_array' for control tasks; got {render_mode!r}.")
        self.metadata = {"render_modes": ["rgb_array"]}
        self.render_mode, self.task, self.time_limit = render_mode, task, max_episode_steps
        self._dm, self._env = _load(task, render_mode)
        self.action_space = self._env.action_space
        shape = self._env.observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self._steps = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the first state; ``seed`` begins a new generator."""
        obs, _ = self._env.reset(seed=seed)
        self._steps = 0
        return obs.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take ``action``.

        Raises:
            ResetNeeded: there was no reset yet.
            EnvContractError: the simulation diverged, so no cost can be told.
        """
        if self._steps < 0:
            raise ResetNeeded(f"{self.task.domain}-{self.task.task}: call reset before step.")
        from dm_control.rl.control import PhysicsError

        try:
            obs, reward, terminated, truncated, _ = self._env.step(np.asarray(action, dtype=np.float64))
            measured = _MEASURES[self.task.domain](self._dm.physics)
            if not (math.isfinite(measured) and np.isfinite(obs).all()):
                raise PhysicsError("an observation or what costs is not finite")
        except PhysicsError as error:
            raise EnvContractError(
                f"{self.task.domain}-{self.task.task}: the simulation must stay finite; it did not ({error}). Keep "
                "actions finite and inside the action space; if they are, reset the env."
            ) from error
        self._steps += 1
        is_over = self.time_limit is not None and self._steps >= self.time_limit
        info = self._costs(measured)
        return obs.astype(np.float32), float(reward), terminated, truncated or is_over, info

    def render(self) -> Any:
        """A picture, if ``render_mode`` is ``rgb_array``."""
        return self._env.render()

    def close(self) -> None:
        """Free the simulation."""
        self._env.close()

    def get_state(self) -> State:
        """Everything that decides how the env goes on."""
        physics = self._dm.physics
        return {
            "steps": self._steps,
            "physics": mujoco_state(physics.model.ptr, physics.data.ptr),
            "model": {name: getattr(physics.model, name).copy() for name in _MOVED},
            "generator": self._dm.task.random.get_state(legacy=False),
        }

    def set_state(self, state: State) -> None:
        """Go on from a state of :meth:`get_state`."""
        # dm_control steps an environment only after a reset of its own.
        self._env.reset()
        physics = self._dm.physics
        for name, values in state["model"].items():
            getattr(physics.model, name)[:] = values
        set_mujoco_state(physics.model.ptr, physics.data.ptr, state["physics"])
        self._dm.task.random.set_state(state["generator"])
        self._steps = int(state["steps"])

    def _costs(self, measured: float) -> dict[str, Any]:
        threshold = self.task.threshold
        if self.task.domain != "walker":
            cost = min(1.0, measured / threshold)
            return {"cost": cost, "costs": {"cost": cost}}
        cost = float(measured > threshold)
        return {"cost": cost, "costs": {"cost": cost}, "margins": {"cost": measured - threshold}}


def _load(task: ControlTask, render_mode: str | None) -> tuple[Any, Any]:
    """dm_control's environment, and a Gymnasium one around it with flat observations and actions in [-1, 1]."""
    with warnings.catch_warnings():
        # Without a display GLFW warns, and dm_control goes on to another way to render.
        warnings.filterwarnings("ignore", module="glfw")
        for module, package in (("dm_control", "dm-control"), ("shimmy", "shimmy")):
            _require(module, package)
        from dm_control import suite
        from shimmy import DmControlCompatibilityV0

        # The time limit is counted here, so that there is one.
        inner = suite.load(task.domain, task.task, task_kwargs={"time_limit": math.inf})
        outer = FlattenObservation(DmControlCompatibilityV0(inner, render_mode=render_mode))
        return inner, RescaleAction(outer, np.float64(-1.0), np.float64(1.0))


def _require(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise MissingExtraError("A control task", package, "control")


def make_control(env_id: str, *, render_mode: str | None = None, max_episode_steps: int | None = 1000) -> ControlEnv:
    """The control task ``env_id``, for example ``"DMWalkerHeight-v0"``.

    Raises:
        UnknownNameError: no such task.
        MissingExtraError: dm-control or shimmy is not installed.
    """
    if env_id not in CONTROL_TASKS:
        raise UnknownNameError("control task", env_id, CONTROL_TASKS)
    return ControlEnv(CONTROL_TASKS[env_id], render_mode=render_mode, max_episode_steps=max_episode_steps)
