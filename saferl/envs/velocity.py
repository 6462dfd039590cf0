"""Velocity tasks: Gymnasium's MuJoCo runners, with a cost of 1 for every step faster than a published limit.

The tasks are those of Safety-Gymnasium's ``Safety<Task>Velocity-v1`` (Ji et al., 2023), built directly on Gymnasium's
``-v4`` models: observations, rewards, ends and costs are the published ones (the tests compare them step by step). The
speed is the displacement in one step divided by its duration, as Gymnasium reports it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, SupportsFloat

import gymnasium
import mujoco  # type: ignore[import-untyped]
import numpy as np

from saferl.errors import EnvContractError, UnknownNameError


@dataclass(frozen=True)
class VelocityTask:
    """What is limited in one task."""

    threshold: float
    """Largest speed without a cost, in m/s."""
    is_horizontal: bool = False
    """True: the limit is on the speed in the ground plane, in any direction; False: on the signed forward velocity."""

    def speed(self, info: dict[str, Any]) -> float:
        """The limited speed, from the ``info`` of a Gymnasium runner."""
        if self.is_horizontal:
            return math.sqrt(info["x_velocity"] ** 2 + info["y_velocity"] ** 2)
        return float(info["x_velocity"])


TASKS = MappingProxyType(
    {
        "HalfCheetah": VelocityTask(3.2096),
        "Hopper": VelocityTask(0.7402),
        "Walker2d": VelocityTask(2.3415),
        "Swimmer": VelocityTask(0.2282),
        "Ant": VelocityTask(2.6222, is_horizontal=True),
        "Humanoid": VelocityTask(1.4149, is_horizontal=True),
    }
)
"""The published limits (version 1), by name of Gymnasium's model."""


class VelocityCost(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds ``cost`` (0 or 1), ``costs`` and ``margins`` (speed minus limit, in m/s) to the info of every step.

    Example:
        >>> env = make_velocity("Swimmer")
        >>> _ = env.reset(seed=0)
        >>> info = env.step(env.action_space.sample())[-1]
        >>> info["costs"] == {"cost": float(info["margins"]["cost"] > 0)}
        True
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: VelocityTask) -> None:
        """Wrap ``env``, a Gymnasium runner that reports its velocity."""
        super().__init__(env)
        self.task = task

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env.

        Raises:
            EnvContractError: the simulation diverged, so no cost can be told.
        """
        obs, reward, terminated, truncated, info = self.env.step(action)
        require_valid_simulation(self.env.unwrapped.data, self.spec.id if self.spec else "velocity task")  # type: ignore[attr-defined]
        speed = self.task.speed(info)
        cost = float(speed > self.task.threshold)
        info["cost"] = cost
        info["costs"] = {"cost": cost}
        info["margins"] = {"cost": speed - self.task.threshold}
        return obs, reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Nothing: the wrapped env holds it all (see :mod:`saferl.envs.state`)."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def make_velocity(
    task: str, *, render_mode: str | None = None, max_episode_steps: int | None = 1000
) -> gymnasium.Env[Any, Any]:
    """The velocity task on Gymnasium's model ``task``, for example ``"HalfCheetah"``.

    Args:
        task: A key of :data:`TASKS`.
        render_mode: Gymnasium's render mode.
        max_episode_steps: Time limit in steps; None for no limit.

    Raises:
        UnknownNameError: no such task.
    """
    if task not in TASKS:
        raise UnknownNameError("velocity task", task, TASKS)
    with warnings.catch_warnings(), _quiet_about_total_mass():
        # The benchmark is defined on -v4: -v5 changes Walker2d's friction and Ant's reward and observation.
        warnings.filterwarnings("ignore", message=".*is out of date", category=DeprecationWarning)
        env = gymnasium.make(
            f"{task}-v4",
            max_episode_steps=-1 if max_episode_steps is None else max_episode_steps,
            disable_env_checker=True,
            render_mode=render_mode,
        )
    return VelocityCost(env, TASKS[task])


@contextmanager
def _quiet_about_total_mass() -> Iterator[None]:
    """Keep MuJoCo from writing MUJOCO_LOG.TXT to the current folder to say that HalfCheetah's file is old-fashioned."""
    previous = mujoco.get_mju_user_warning()

    def answer(message: str) -> None:
        if "settotalmass" in message:
            return
        if previous is not None:
            previous(message)
        else:
            mujoco.mju_writeLog("WARNING", message)

    mujoco.set_mju_user_warning(answer)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


_FATAL = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]
_WHAT = ("position", "velocity", "acceleration", "control")


def require_valid_simulation(data: mujoco.MjData, env_id: str) -> None:
    """Return if the last steps of ``data`` were physics.

    MuJoCo answers a diverged state with a warning and the initial state, and a bad control with no control; both would
    go unnoticed and give a cost that means nothing.

    Raises:
        EnvContractError: MuJoCo replaced a state or a control since the last reset, or a velocity is not finite.
    """
    counts = data.warning.number
    if not (counts.any() and counts[_FATAL].any()) and np.isfinite(data.qvel).all():
        return
    bad = [what for what, count in zip(_WHAT, counts[_FATAL], strict=True) if count] or ["velocity"]
    raise EnvContractError(
        f"{env_id}: the simulation must stay finite; got a NaN, infinite or huge {' and '.join(bad)} at time "
        f"{data.time:.3f} s. The reward and the costs of this step mean nothing. Keep actions finite and inside the "
        "action space; if they are, reset the env (with another seed if it happens again)."
    )
