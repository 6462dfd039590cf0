"""Stable-Baselines3 models are evaluated by what of them acts, in any number of processes, on what they were shown."""

import sys
import threading

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError
from saferl.evaluation import evaluate
from saferl.policy.standalone import standalone
from saferl.rollout import CostVecEnv
from saferl.solvers import PPOLag

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import this module


class Shifted(gymnasium.Env):
    """Ten steps of observations around 100; the right action is 1 where the first number is above 100."""

    constraints = ConstraintSet([Constraint("wrong", 5.0, max_step_cost=1.0)])
    observation_space = spaces.Box(0.0, 200.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action):
        is_wrong = float((self._obs[0] > 100.0) != bool(action))
        self._steps += 1
        return self._observe(), 1.0 - is_wrong, False, self._steps == 10, {"costs": {"wrong": is_wrong}}

    def _observe(self):
        self._obs = (100.0 + self.np_random.normal(size=2)).astype(np.float32)
        return self._obs


def vector():
    return CostVecEnv(saferl.make_vec(Shifted, 4, max_episode_steps=10))


def assess(policy, **kwargs):
    arguments = {"episodes": 48, "env_kwargs": {"max_episode_steps": 10}, **kwargs}
    return evaluate(policy, Shifted, **arguments)


@pytest.fixture(scope="module")
def normalised():
    """A model that only sees anything in normalised observations."""
    env = VecNormalize(vector(), norm_reward=False)
    return PPOLag("MlpPolicy", env, n_steps=64, learning_rate=0.01, seed=0, device="cpu").learn(4_000)


@pytest.mark.slow
def test_a_model_that_holds_its_environments_is_evaluated_in_several_processes():
    model = A2C("MlpPolicy", vector(), seed=0, device="cpu")
    assert assess(model, workers=2).records == assess(model, workers=1).records


def test_the_statistics_of_its_vec_normalize_go_with_a_model(normalised):
    result = assess(normalised, workers=1, deterministic=True)
    assert result.summary["return"]["mean"] > 8.0  # of 10; guessing gives 5
    assert result.summary["policy"]["name"] == "PPOLag"
    blind = assess(normalised.policy, workers=1, deterministic=True)
    assert blind.summary["return"]["mean"] < 7.0


def test_an_evaluation_leaves_the_statistics_as_they_are(normalised):
    before = normalised.env.obs_rms.mean.copy()
    policy = standalone(normalised)
    assess(normalised, episodes=2, workers=1)
    np.testing.assert_array_equal(normalised.env.obs_rms.mean, before)
    normalised.env.obs_rms.mean += 1.0
    np.testing.assert_array_equal(policy.normaliser.mean[""], before)
    normalised.env.obs_rms.mean -= 1.0


def test_what_acts_is_the_same_as_the_model():
    model = DQN("MlpPolicy", vector(), seed=0, device="cpu", learning_starts=1)
    obs = Shifted.observation_space.sample()[None]
    np.testing.assert_array_equal(
        standalone(model).predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_a_wrapper_that_changes_observations_is_refused():
    model = A2C("MlpPolicy", VecFrameStack(vector(), 2), seed=0, device="cpu")
    with pytest.raises(ConfigError, match=r"VecFrameStack around them makes Box.*into the environment itself"):
        assess(model, workers=1)


class HoldsALock:
    """A policy that no other process can take over."""

    def __init__(self):
        self.lock = threading.Lock()

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), dtype=np.int64), None


def test_a_policy_that_cannot_go_to_other_processes_is_refused_with_the_way_out():
    policy = HoldsALock()
    with pytest.raises(ConfigError, match=r"must go to 2 processes; HoldsALock cannot be pickled .*workers=1"):
        assess(policy, workers=2)
    assert len(assess(policy, workers=1).records) == 48
