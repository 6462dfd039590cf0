"""A state that forgets something, is no tree, or goes on changing is caught; a good one passes."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.state import generator_state, new_generator
from saferl.testing import check_env


class Counter(gymnasium.Env):
    """A noisy counter with a complete state; the broken ones below change one thing each."""

    observation_space = spaces.Box(-100.0, 100.0, (2,), np.float64)
    action_space = spaces.Discrete(2)
    constraints = ConstraintSet([Constraint("cost", 5.0, max_step_cost=1.0)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(5))
        self.place = self.np_random.normal(size=2)
        return self.place.copy(), {}

    def step(self, action):
        self.count += 1
        self.place += action + 0.1 * self.np_random.normal(size=2)
        return self.place.copy(), float(action), False, False, {"costs": {"cost": float(self.count % 3 == 0)}}

    def get_state(self):
        generator = None if self._np_random is None else generator_state(self.np_random)
        return {"count": self.count, "place": self.place.copy(), "generator": generator}

    def set_state(self, state):
        self.count, self.place = state["count"], state["place"].copy()
        self.np_random = new_generator(state["generator"])


class ForgetsItsCount(Counter):
    def set_state(self, state):
        super().set_state({**state, "count": 0})


class ForgetsItsGenerator(Counter):
    def set_state(self, state):
        self.count, self.place = state["count"], state["place"].copy()


class HandsOutItsPlace(Counter):
    def get_state(self):
        return {**super().get_state(), "place": self.place}


class KeepsItsCountToItself(Counter):
    """The state says nothing of ``count``, which the env itself never loses."""

    def set_state(self, state):
        super().set_state({**state, "count": getattr(self, "count", 0)})


class IsNoTree(Counter):
    def get_state(self):
        return {**super().get_state(), "generator": self.np_random}


def limited(env_class):
    return TimeLimit(env_class(), 20)


def test_a_complete_state_passes():
    report = check_env(lambda: limited(Counter))
    assert report.ok, str(report)
    assert "state" in report.checks


def test_an_env_object_is_checked_in_itself():
    report = check_env(limited(Counter))
    assert report.ok, str(report)
    assert "state" in report.checks
    assert not check_env(limited(ForgetsItsCount)).ok


@pytest.mark.parametrize(
    ("env_class", "what", "got"),
    [
        (ForgetsItsCount, "another env that is set to the state", "something else at step"),
        (ForgetsItsGenerator, "another env that is set to the state", "something else at step 1"),
        (KeepsItsCountToItself, "another env that is set to the state", "something else at step"),
        (HandsOutItsPlace, "the state", "one that had changed"),
        (IsNoTree, "the state", "got Generator at /layers/"),
    ],
)
def test_a_faulty_state_is_one_problem(env_class, what, got):
    report = check_env(lambda: limited(env_class))
    (problem,) = report.problems
    assert (problem.check, problem.what) == ("state", what), str(report)
    assert got in problem.got
