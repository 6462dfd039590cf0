"""``PointRobot``: drive to the goal past two hazards; the feasible region is known (:mod:`.truth`).

The reward is the progress towards the goal, plus 1 on reaching it. An episode ends at the goal or beyond the arena,
and is truncated after 300 steps. A step costs 1 when the state that it reaches lies in a hazard; ``info["margins"]``
has the signed ``h`` of that state. Equations: :mod:`.dynamics`.

Differences from the published code: its ``info["cost"]`` is inverted (1 where the robot is safe); here a cost is a
violation. Its data files call the violation ``cost``, as here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from saferl.envs.point_robot import dynamics, manoeuvre
from saferl.envs.point_robot.dynamics import Array
from saferl.envs.state import State, generator_state, new_generator
from saferl.errors import ConfigError, EnvContractError, UnknownNameError

STARTS = ("random", "feasible", "evaluation")


class PointRobot(gymnasium.Env[Any, Any]):
    """The task of FISOR's toy example (arXiv 2401.10700), with costs and margins by name.

    Example:
        >>> env = PointRobot(start="evaluation")
        >>> obs, info = env.reset(seed=0)
        >>> obs.shape, round(info["h"], 3)
        ((11,), -1.044)
        >>> env.step(np.array([-1.0, -1.0]))[-1]["costs"]
        {'cost': 0.0}
    """

    def __init__(
        self,
        *,
        start: str = "random",
        max_episode_steps: int | None = dynamics.HORIZON,
        render_mode: str | None = None,
    ) -> None:
        """Describe the task.

        Args:
            start: ``"random"``: x, y, speed 0.5 to 2 and heading 45 to 135 degrees uniformly, in hazards too;
                ``"feasible"``: those of them from which hazards and border can be avoided
                (:func:`~saferl.envs.point_robot.manoeuvre.feasible_starts`); ``"evaluation"``: the published start
                (-1.8, 0, 2 m/s, 45 degrees).
            max_episode_steps: Steps after which an episode is truncated.
            render_mode: Must be None.

        Raises:
            ConfigError: a time limit below 1, or a render mode.
            UnknownNameError: an unknown start.
        """
        if render_mode is not None:
            raise ConfigError(f"PointRobot has no pictures: render_mode must be None; got {render_mode!r}.")
        if start not in STARTS:
            raise UnknownNameError("start of PointRobot", start, STARTS)
        self.time_limit = checked_time_limit(max_episode_steps)
        self.start, self.render_mode = start, None
        self.observation_space, self.action_space = observation_space(), action_space()
        self._state: Array | None = None
        self._steps = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw a start; ``options={"state": (x, y, v, theta)}`` gives one.

        Raises:
            ConfigError: an unknown option, or a start that is not four finite numbers inside the arena.
        """
        super().reset(seed=seed)
        given = start_of(options)
        self._state = self._draw() if given is None else given
        self._steps = 0
        return dynamics.observe(self._state), {"h": float(dynamics.margin(self._state))}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one Euler step of 0.05 s; actions beyond [-1, 1] are clipped.

        Raises:
            ResetNeeded: there was no reset yet.
            EnvContractError: an action that is not two finite numbers.
        """
        if self._state is None:
            raise ResetNeeded("PointRobot: call reset before step.")
        taken = np.asarray(action, dtype=np.float64)
        if taken.shape != (2,) or not np.isfinite(taken).all():
            raise EnvContractError(
                f"An action of PointRobot must be two finite numbers; got {action!r}. Put a shield before it."
            )
        before, self._state = self._state, dynamics.step(self._state, taken)
        self._steps += 1
        h = float(dynamics.margin(self._state))
        cost = float(h > 0.0)
        is_at_goal = bool(dynamics.is_at_goal(self._state))
        terminated = is_at_goal or bool(dynamics.is_outside(self._state))
        info = {"costs": {"cost": cost}, "cost": cost, "margins": {"cost": h}, "is_at_goal": is_at_goal}
        reward = float(dynamics.reward(before, self._state))
        return dynamics.observe(self._state), reward, terminated, self._steps >= self.time_limit, info

    @property
    def state(self) -> Array:
        """A copy of (x, y, v, theta).

        Raises:
            ResetNeeded: there was no reset yet.
        """
        if self._state is None:
            raise ResetNeeded("PointRobot: call reset before reading its state.")
        return self._state.copy()

    def _draw(self) -> Array:
        if self.start == "evaluation":
            return dynamics.EVALUATION_START.copy()
        draw = manoeuvre.feasible_starts if self.start == "feasible" else dynamics.random_starts
        return np.asarray(draw(1, self.np_random)[0])

    def get_state(self) -> State:
        """Everything that decides how the env goes on."""
        state: State = {"state": None if self._state is None else self._state.copy(), "step": self._steps}
        if self._np_random is not None:
            state |= {"generator": generator_state(self._np_random), "generator_seed": self._np_random_seed}
        return state

    def set_state(self, state: State) -> None:
        """Go on from a state of :meth:`get_state`."""
        here = state["state"]
        self._state = None if here is None else np.array(here, dtype=np.float64)
        self._steps = int(state["step"])
        if "generator" in state:
            self._np_random, self._np_random_seed = new_generator(state["generator"]), state["generator_seed"]


def observation_space() -> spaces.Box:
    """Of one env: positions, speed and distances have no bounds."""
    high = np.full(dynamics.OBSERVATION_SIZE, np.inf)
    high[[3, 4, 6, 7, 9, 10]] = 1.0 + 1e-9  # cosines and sines, rounded
    low = -high
    low[[5, 8]] = 0.0
    return spaces.Box(low, high, dtype=np.float64)


def action_space() -> spaces.Box:
    """Acceleration and turning rate."""
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


def checked_time_limit(max_episode_steps: int | None) -> int:
    """Steps after which an episode is truncated.

    Raises:
        ConfigError: below 1.
    """
    limit = dynamics.HORIZON if max_episode_steps is None else max_episode_steps
    if limit < 1:
        raise ConfigError(f"max_episode_steps must be at least 1; got {limit}.")
    return limit


def start_of(options: Mapping[str, Any] | None) -> npt.NDArray[np.float64] | None:
    """The start that options of a reset ask for, or None.

    Raises:
        ConfigError: an unknown option, or a start that is not four finite numbers inside the arena.
    """
    given = dict(options or {})
    value = given.pop("state", None)
    if given:
        raise ConfigError(f"The only option of a reset of PointRobot is state; got {', '.join(sorted(given))}.")
    if value is None:
        return None
    state = np.array(value, dtype=np.float64)
    if state.shape != (4,) or not np.isfinite(state).all() or bool(dynamics.is_outside(state)):
        raise ConfigError(
            f"A start of PointRobot must be (x, y, v, theta), finite and with |x|, |y| <= {dynamics.ARENA:g}; "
            f"got {value!r}."
        )
    return state


def make_point_robot(**kwargs: Any) -> PointRobot:
    """A :class:`PointRobot`, for the catalogue."""
    return PointRobot(**kwargs)
