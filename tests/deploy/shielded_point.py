"""A point on a line and a shield that keeps it left of a wall; worker processes import it as ``shielded_point``."""

import gymnasium
import numpy as np
from gymnasium import spaces

from saferl.constraints import Constraint, ConstraintSet
from saferl.shields.base import Ruling, Shield, ShieldData

WALL, GAIN = 1.0, 0.1


class Point(gymnasium.Env):
    """x' = x + 0.1 a + noise, 20 steps; right pays, and a step beyond 1 costs 1."""

    observation_space = spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    constraints = ConstraintSet([Constraint("cost", 0.5, max_step_cost=1.0)])
    is_fixed_horizon = True
    start = (0.0, 0.5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x = float(self.np_random.uniform(*self.start))
        return self._obs(), {}

    def step(self, action):
        self.executed = np.array(action)
        self._x += GAIN * float(action[0])
        cost = float(self._x > WALL)
        return self._obs(), float(action[0]), False, False, {"costs": {"cost": cost}, "cost": cost}

    def _obs(self):
        return np.array([self._x], dtype=np.float32)

    def get_state(self):
        return {"x": self._x, "generator": dict(self.np_random.bit_generator.state)}

    def set_state(self, state):
        self._x = state["x"]
        self.np_random.bit_generator.state = state["generator"]

    def privileged_state(self):
        return {"x": self._x}


def make_point():
    from gymnasium.wrappers import TimeLimit

    return TimeLimit(Point(), 20)


class WallShield(Shield):
    """a <= (wall - x) / gain, a hard shield for the point; it remembers how often it was asked."""

    unit = "wall"

    def __init__(self, action_space, wall=WALL - 1e-3, jitter=0.0):
        super().__init__(action_space)
        self.wall, self.jitter, self.asked = wall, jitter, 0
        self.seen = []

    def spec(self):
        from saferl.shields import ShieldSpec

        return ShieldSpec("wall", ("state vector",), "hard", ("Box",), ("The gain is known.",))

    def certifies(self, obs, context=None):
        return float(obs[0]) <= self.wall - 0.3

    def reset(self, obs=None, context=None):
        self.asked = 0

    def get_memory(self):
        return {"asked": self.asked}

    def set_memory(self, memory):
        self.asked = int(memory["asked"])

    def _remember(self, obs, decision, context):
        self.asked += 1

    def _decide(self, obs, proposed, context):
        self.seen.append(context)
        limit = (self.wall - float(obs[0])) / GAIN
        if self.jitter and self.asked % 3 == 0:  # depends on memory and generator, so that resuming must restore both
            limit -= self.jitter * context.generator.random()
        return Ruling(np.minimum(proposed, max(limit, -1.0)), margin=limit - float(proposed[0]))

    def _fallback(self, obs, context):
        return np.array([-1.0])

    def _to_data(self):
        return ShieldData({"wall": self.wall, "jitter": self.jitter})

    @classmethod
    def _from_data(cls, data, action_space):
        return cls(action_space, **data.config)


def build_shield(env):
    return WallShield(env.action_space)


def build_jittery(env):
    """A shield that acts often, whose decisions depend on its memory and on its generator."""
    return WallShield(env.action_space, wall=0.6, jitter=3.0)


class Unregistered(WallShield):
    unit = "other_wall"


def build_other(env):
    return Unregistered(env.action_space, wall=0.6, jitter=3.0)


class Constant:
    """A policy that always proposes the same."""

    def __init__(self, action=1.0, action_space=Point.action_space):
        self.action, self.action_space = action, action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.action, dtype=np.float32), state
