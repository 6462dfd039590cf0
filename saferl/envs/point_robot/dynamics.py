"""The equations of PointRobot for many states at once; env, batch, truth and behaviours share them.

A state is ``(x, y, v, theta)``: position (m), speed along the heading (m/s, negative backwards) and heading (rad);
speed and heading have no bounds. An action ``(a_v, a_omega)`` in [-1, 1]^2 is an acceleration (m/s^2) and a turning
rate (rad/s). One step of ``DT`` is an explicit Euler step::

    x' = x + DT v cos(theta)    y' = y + DT v sin(theta)    v' = v + DT a_v    theta' = theta + DT a_omega

Source: the toy task of FISOR (arXiv 2401.10700, section 5 and appendix), re-derived from its description.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DT = 0.05
"""Seconds per step."""
HAZARDS: Array = np.array([[0.4, -1.2], [-0.4, 1.2]])
"""Centres of the hazards, (2, 2), m."""
HAZARD_RADIUS = 0.8
"""Of every hazard, m."""
GOAL: Array = np.array([2.2, 2.2])
"""Centre of the goal, m."""
GOAL_RADIUS = 0.3
"""m."""
ARENA = 3.0
"""The arena is |x|, |y| <= ``ARENA``, m."""
HORIZON = 300
"""Steps of an episode."""
START_LOW: Array = np.array([-ARENA, -ARENA, 0.5, np.pi / 4])
START_HIGH: Array = np.array([ARENA, ARENA, 2.0, 3 * np.pi / 4])
"""Starts are uniform between the two."""
EVALUATION_START: Array = np.array([-1.8, 0.0, 2.0, np.pi / 4])
"""The published start: fast, towards a hazard that can still be avoided."""
OBSERVATION_SIZE = 5 + 3 * len(HAZARDS)


def step(states: npt.ArrayLike, actions: npt.ArrayLike) -> Array:
    """The next states, (..., 4), of ``states`` (..., 4) under ``actions`` (..., 2), which are clipped to [-1, 1].

    Example:
        >>> step([0.0, 0.0, 1.0, 0.0], [-1.0, 1.0]).tolist()
        [0.05, 0.0, 0.95, 0.05]
    """
    here, taken = np.asarray(states, dtype=np.float64), np.asarray(actions, dtype=np.float64)
    speed, heading = here[..., 2], here[..., 3]
    following = np.empty((*np.broadcast_shapes(here.shape[:-1], taken.shape[:-1]), 4))
    following[..., 0] = here[..., 0] + DT * speed * np.cos(heading)
    following[..., 1] = here[..., 1] + DT * speed * np.sin(heading)
    following[..., 2:] = here[..., 2:] + DT * np.clip(taken, -1.0, 1.0)
    return following


def margin(states: npt.ArrayLike) -> Array:
    """How deep each state is in the nearest hazard, (...), m: ``h = 0.8 - min distance``, > 0 inside.

    Example:
        >>> margin([[0.4, -1.2, 0.0, 0.0], [0.4, 0.6, 2.0, 1.0]]).round(6).tolist()
        [0.8, -0.2]
    """
    return np.asarray(HAZARD_RADIUS - hazard_distances(states).min(axis=-1))


def hazard_distances(states: npt.ArrayLike) -> Array:
    """Distance to the centre of every hazard, (..., 2), m."""
    offsets = HAZARDS - np.asarray(states, dtype=np.float64)[..., None, :2]
    return np.asarray(np.hypot(offsets[..., 0], offsets[..., 1]))


def goal_distance(states: npt.ArrayLike) -> Array:
    """Distance to the centre of the goal, (...), m."""
    offsets = GOAL - np.asarray(states, dtype=np.float64)[..., :2]
    return np.asarray(np.hypot(offsets[..., 0], offsets[..., 1]))


def is_at_goal(states: npt.ArrayLike) -> Mask:
    """Whether each state has reached the goal, (...)."""
    return np.asarray(goal_distance(states) <= GOAL_RADIUS)


def is_outside(states: npt.ArrayLike) -> Mask:
    """Whether each state has left the arena, (...)."""
    return np.asarray((np.abs(np.asarray(states)[..., :2]) > ARENA).any(axis=-1))


def reward(states: npt.ArrayLike, following: npt.ArrayLike) -> Array:
    """Progress towards the goal's centre (m), plus 1 where it is reached, (...)."""
    return np.asarray(goal_distance(states) - goal_distance(following) + is_at_goal(following))


def observe(states: npt.ArrayLike) -> Array:
    """Observations, (..., 11): x, y, v, cos and sin of the heading, then three numbers per hazard.

    These are its distance, and cos and sin of its bearing in the frame of the robot (1 and 0 in its very centre).
    """
    here = np.asarray(states, dtype=np.float64)
    cos, sin = np.cos(here[..., 3]), np.sin(here[..., 3])
    obs = np.empty((*here.shape[:-1], OBSERVATION_SIZE))
    obs[..., :3], obs[..., 3], obs[..., 4] = here[..., :3], cos, sin
    offsets = HAZARDS - here[..., None, :2]
    distances = np.hypot(offsets[..., 0], offsets[..., 1])
    ahead = offsets[..., 0] * cos[..., None] + offsets[..., 1] * sin[..., None]
    aside = offsets[..., 1] * cos[..., None] - offsets[..., 0] * sin[..., None]
    is_centre = distances == 0.0
    safe = np.where(is_centre, 1.0, distances)
    obs[..., 5::3] = distances
    obs[..., 6::3] = np.where(is_centre, 1.0, ahead / safe)
    obs[..., 7::3] = aside / safe
    return obs


def state_of(observations: npt.ArrayLike) -> Array:
    """The states that give ``observations``, (..., 4), with headings in (-pi, pi]."""
    obs = np.asarray(observations, dtype=np.float64)
    return np.concatenate([obs[..., :3], np.arctan2(obs[..., 4], obs[..., 3])[..., None]], axis=-1)


def random_starts(count: int, generator: np.random.Generator) -> Array:
    """``count`` starts of the task's own distribution, (count, 4)."""
    return generator.uniform(START_LOW, START_HIGH, size=(count, 4))
