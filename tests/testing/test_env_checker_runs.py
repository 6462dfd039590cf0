"""Seeds, resets, time limits and batches are tried out, and the report lists everything that is wrong."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.errors import ConstraintError, EnvContractError, UnknownNameError, UsageError
from saferl.testing import EnvCheckReport, Problem, check_env

LIMIT = 20


class Good(gymnasium.Env):
    """Drifts at random; keeps the contract. The broken envs below change one thing each."""

    def __init__(self):
        self.observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.constraints = ConstraintSet([Constraint("cost", budget=5.0, max_step_cost=1.0)])
        self.position = np.zeros(2, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.observe(), {}

    def step(self, action):
        noise = 0.1 * self.np_random.normal(size=2).astype(np.float32)
        self.position = np.clip(self.position + 0.1 * action[0] + noise, -10.0, 10.0, dtype=np.float32)
        return self.observe(), self.reward(), False, False, self.info()

    def observe(self):
        return self.position.copy()

    def reward(self):
        return float(self.position[0])

    def info(self):
        return {"costs": {"cost": self.cost()}}

    def cost(self):
        return float(self.position[1] > 0.0)


class Counting(Good):
    """Also counts the steps of the episode."""

    count = 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.count += 1
        return super().step(action)


def limited(env_class):
    return TimeLimit(env_class(), LIMIT)


def declared(env, **facts):
    """``env`` as saferl.make would hand it over, with facts that nothing else says."""
    return CostContract(env, env.constraints, env_id="Declared", **facts)


def problems_of(env, **kwargs):
    report = check_env(env, **kwargs)
    return [str(problem) for problem in report.problems]


def only_problem(env, **kwargs):
    (problem,) = problems_of(env, **kwargs)
    return problem


def only_warning(env, **kwargs):
    report = check_env(env, **kwargs)
    assert report.ok, str(report)
    (warning,) = report.warnings
    return str(warning)


# Seeding.


def test_a_generator_that_the_seed_does_not_reach_is_caught():
    generator = np.random.default_rng(0)

    class Broken(Good):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.position = generator.uniform(-1.0, 1.0, 2).astype(np.float32)
            return self.observe(), {}

    problem = only_problem(limited(Broken))
    assert problem.startswith("seeding: a reset with the same seed and the same actions must give the same obs; got")
    assert "another obs at reset(seed). Draw from self.np_random only" in problem


def test_an_unseeded_reset_that_ignores_the_seed_before_is_caught():
    generator = np.random.default_rng(0)

    class Broken(Good):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=int(generator.integers(2**31)) if seed is None else seed)

    assert "another obs at a later reset()" in only_problem(Broken())


def test_state_that_survives_a_reset_is_caught():
    class Broken(Good):
        level = 0.0

        def reward(self):
            self.level += 1.0
            return self.level

    assert "must give the same reward; got another reward at step 1" in only_problem(limited(Broken))


def test_seeds_that_change_nothing_and_episodes_that_repeat_are_warnings():
    class Deterministic(Good):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=0)

    class Repeating(Good):
        last = 0

        def reset(self, *, seed=None, options=None):
            self.last = self.last if seed is None else seed
            return super().reset(seed=self.last)

    assert "different seeds must differ, unless the env is deterministic" in only_warning(Deterministic())
    assert "reset() without a seed must go on with the generator of the last seed" in only_warning(Repeating())


# Time limits and resets.


class TerminatesAtLimit(Counting):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.count == LIMIT, False, info


def test_a_time_limit_that_terminates_is_caught():
    report = check_env(declared(TerminatesAtLimit(), horizon=LIMIT))
    (problem,) = report.problems
    assert str(problem).startswith(
        "time-limit: the last step before the time limit must have truncated=True; "
        f"got terminated=True, truncated=False at step {LIMIT}."
    )
    assert "use gymnasium.wrappers.TimeLimit" in problem.way_out


def test_a_time_limit_that_nothing_enforces_is_caught():
    assert "got terminated=False, truncated=False at step 20" in only_problem(declared(Good(), horizon=LIMIT))


def test_a_termination_exactly_at_the_limit_is_a_warning():
    report = check_env(limited(TerminatesAtLimit))
    assert report.ok
    assert "must have terminated=False; got terminated=True, truncated=True at step 20" in str(report)


def test_a_limit_unknown_to_us_that_looks_like_a_termination_is_a_warning():
    warning = only_warning(TerminatesAtLimit())
    assert warning.startswith("episode-ends: an episode that a time limit ends must be truncated, not terminated; got")
    assert "after exactly 20 steps in each of 10 episodes" in warning


def test_a_fixed_horizon_that_is_not_fixed_is_caught():
    class Early(Counting):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.count == 5 + int(10 * self.seed_of_episode), False, info

        def reset(self, *, seed=None, options=None):
            result = super().reset(seed=seed)
            self.seed_of_episode = self.np_random.random()
            return result

    env = declared(Early(), horizon=LIMIT, is_fixed_horizon=True)
    assert "an episode of an env declared is_fixed_horizon must last 20 steps; got a termination" in only_problem(env)


def test_a_limit_too_long_to_try_or_never_reached_is_skipped_by_name():
    class Falls(Counting):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, bool(self.np_random.random() < 0.5), False, info

    assert "time-limit (none of 3 episodes lasted 20 steps)" in check_env(limited(Falls)).skipped
    assert "time-limit (no time limit is known)" in check_env(Falls()).skipped
    long = check_env(TimeLimit(Good(), 1000), steps=50)
    assert "time-limit (it is 1000 steps; give more steps to try it)" in long.skipped


def test_a_reset_that_is_refused_in_the_middle_of_an_episode_is_caught():
    class Broken(Counting):
        def reset(self, *, seed=None, options=None):
            if 0 < self.count < LIMIT:
                raise RuntimeError("finish the episode first")
            return super().reset(seed=seed)

    report = check_env(limited(Broken))
    (problem,) = report.problems
    assert str(problem).startswith("mid-episode-reset: the env must not raise an error; got RuntimeError: finish the")
    assert "seeding (needs mid-episode-reset)" in report.skipped


def test_a_step_counter_that_survives_a_reset_is_caught():
    class Broken(Good):
        count = 0

        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            self.count = (self.count + 1) % LIMIT
            return obs, reward, False, self.count == 0, info

    problem = problems_of(declared(Broken(), horizon=LIMIT))[0]
    assert problem.startswith("mid-episode-reset: reset in the middle of an episode must begin a new one of up to 20")
    assert "got a truncation after 10 steps, when 10 had been taken before the reset" in problem
    assert "Set the step counter to 0 in reset." in problem


# Batches.


def test_envs_that_share_state_are_caught_in_a_batch():
    shared = {"position": np.zeros(2, dtype=np.float32)}

    class Broken(Good):
        @property
        def position(self):
            return shared["position"]

        @position.setter
        def position(self, value):
            shared["position"] = value

    problem = only_problem(lambda: limited(Broken))
    assert problem.startswith("vector-env: saferl.make_vec's batch of two envs must do what the two envs do alone; got")
    assert " of env 0 at step 1. " in problem
    assert "Envs must share no state" in problem


def test_one_env_handed_out_twice_is_caught():
    env = limited(Good)
    assert "vector-env: " in only_problem(lambda: env)


# The report.


class ManyFaults(Counting):
    def observe(self):
        return super().observe().astype(np.float64)

    def reward(self):
        return float("nan")

    def cost(self):
        return -1.0

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, info["costs"]["cost"], False, int(self.count == LIMIT), {}


def test_an_env_with_many_faults_lists_them_all():
    report = check_env(ManyFaults())
    assert [problem.check for problem in report.problems] == [
        "step",
        "observation",
        "reward",
        "flags",
        "cost-bounds",
    ]
    text = str(report)
    assert text.startswith(
        "ManyFaults breaks saferl's contract: 15 checks, 5 problems, 0 warnings.\nProblems:\n  1. step"
    )
    assert "\n  5. cost-bounds: " in text
    with pytest.raises(EnvContractError) as caught:
        report.raise_if_failed()
    assert str(caught.value) == text


def test_a_report_turns_into_json():
    report = check_env(ManyFaults())
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert set(data) == {"env", "ok", "problems", "warnings", "checks", "skipped"}
    assert (
        EnvCheckReport(
            data["env"],
            tuple(Problem(**problem) for problem in data["problems"]),
            tuple(Problem(**warning) for warning in data["warnings"]),
            tuple(data["checks"]),
            tuple(data["skipped"]),
        )
        == report
    )


@pytest.mark.parametrize(
    ("target", "kwargs", "error"),
    [
        ("SafetyHalfCheetahVelocity", {}, UnknownNameError),
        ("SafetyHalfCheetahVelocity-v1", {"budgets": {"costs": 1.0}}, UnknownNameError),
        ("CartPole-v1", {}, ConstraintError),
        (42, {}, UsageError),
        (dict, {}, UsageError),
        (Good(), {"budgets": {"cost": 1.0}}, UsageError),
        ("SafetyHalfCheetahVelocity-v1", {"steps": 0}, UsageError),
    ],
)
def test_a_target_that_cannot_be_made_is_the_callers_error(target, kwargs, error):
    with pytest.raises(error):
        check_env(target, **kwargs)


def test_budgets_and_cost_functions_reach_saferl_make():
    report = check_env("CartPole-v1", cost=lambda obs, action, next_obs: float(next_obs[0] > 0), budgets={"cost": 1.0})
    assert report.ok, str(report)
    assert report.env == "CartPole-v1"
