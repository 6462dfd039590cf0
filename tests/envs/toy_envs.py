"""Small environments for tests; worker processes import them as ``toy_envs:NAME``."""

import multiprocessing
import os

import gymnasium
import numpy as np
from gymnasium import spaces

from saferl.constraints import Constraint, ConstraintSet

OBSERVATIONS = {
    "box": spaces.Box(-100.0, 100.0, (2,), np.float64),
    "discrete": spaces.Discrete(50, start=-10),
    "dict": spaces.Dict(
        {
            "place": spaces.Box(-100.0, 100.0, (2, 1), np.float32),
            "time": spaces.Discrete(20),
            "ends": spaces.MultiBinary(2),
        }
    ),
}
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict({"turn": spaces.Discrete(3, start=-1), "push": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
}


class Walk(gymnasium.Env):
    """Walks on a line for 2 to 5 steps drawn at reset; an even number ends by termination, an odd one by truncation.

    Both costs change at every step, so that a cost of another step or another lane is noticed; ``left`` has a margin.
    """

    constraints = ConstraintSet([Constraint("left", 3.0), Constraint("right", 4.0)])

    def __init__(self, observations="box", actions="discrete"):
        self.observation_space = OBSERVATIONS[observations]
        self.action_space = ACTIONS[actions]
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place = float(self.np_random.uniform(-1.0, 1.0)) + (options or {}).get("shift", 0.0)
        self._length = int(self.np_random.integers(2, 6))
        self._time = 0
        return self._observe(), {}

    def step(self, action):
        self.actions.append(action)
        parts = action.values() if isinstance(action, dict) else [action]
        self._time += 1
        self._place += self._time * (sum(float(np.sum(part)) for part in parts) - 0.5)
        costs = {"right": self._time + max(self._place, 0.0), "left": self._time + max(-self._place, 0.0)}
        is_end = self._time == self._length
        terminated, truncated = is_end and self._length % 2 == 0, is_end and self._length % 2 == 1
        info = {"costs": costs, "margins": {"left": -self._place}}
        return self._observe(), self._place, terminated, truncated, info

    def _observe(self):
        if isinstance(self.observation_space, spaces.Box):
            return np.array([self._place, self._time])
        if isinstance(self.observation_space, spaces.Discrete):
            return np.int64(np.clip(self._place, -10, 39))
        place = np.array([[self._place], [-self._place]], dtype=np.float32)
        return {
            "place": place,
            "time": self._time,
            "ends": np.array([self._time == 0, self._length % 2], dtype=np.int8),
        }


class Scripted(gymnasium.Env):
    """Returns what it was given; a dict in ``results`` stands for the info of an ordinary step."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, *results):
        self._results = iter(results)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        result = next(self._results)
        return (np.zeros(1), 1.0, False, False, result) if isinstance(result, dict) else result


class SixTuple(Scripted):
    """A step returns (obs, reward, cost, terminated, truncated, info); the cost is 0.25 times the action."""

    def __init__(self, scale=0.25):
        self._scale = scale

    def step(self, action):
        return np.zeros(1), 1.0, self._scale * action, False, False, {"seen": True}


class Faulty(Walk):
    """A Walk whose second step fails in the lane that was reset with ``seed``."""

    def __init__(self, fault, seed):
        super().__init__()
        self._fault, self._faulty_seed = fault, seed

    def reset(self, *, seed=None, options=None):
        self._is_faulty = seed == self._faulty_seed
        return super().reset(seed=seed)

    def step(self, action):
        *step, info = super().step(action)
        if self._is_faulty and self._time == 2:
            if self._fault == "die":
                os._exit(3)
            if self._fault == "raise":
                raise ZeroDivisionError("the motor stalled")
            info["costs"]["left"] = float("nan")
        return (*step, info)


def only_in_the_parent():
    """A Walk that cannot be built in a worker process."""
    if multiprocessing.parent_process() is not None:
        raise FileNotFoundError("no model file here")
    return Walk()


def needs_size(size):
    """A Walk whose factory has a required argument."""
    return Walk() if size else None


def step_number(obs, action, next_obs):
    """A cost function: 10 times the step before plus the step after."""
    return float(10.0 * obs[1] + next_obs[1])


NOT_AN_ENV = 3

for _id, _kwargs in (
    ("toy/Walk-v0", {"entry_point": "toy_envs:Walk", "max_episode_steps": 3}),
    ("toy/SixTuple-v0", {"entry_point": "toy_envs:SixTuple", "max_episode_steps": 4}),
):
    # pytest's search for doctests imports this file a second time.
    if _id not in gymnasium.registry:
        gymnasium.register(_id, **_kwargs)
