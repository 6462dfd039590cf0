"""Every wrong value, space or tuple is caught by name, with the way out, and good envs pass."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs import SixTupleAdapter
from saferl.testing import check_env

LIMIT = 20
STATELESS = "state (no get_state and set_state: training resets it at every checkpoint)"


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


# Good envs.


@pytest.mark.parametrize("env_id", ["SafetyHalfCheetahVelocity-v1", "SafetyPointCircle1-v0"])
def test_our_own_envs_pass_every_check(env_id):
    report = check_env(env_id)
    assert report.ok, str(report)
    assert (report.env, report.warnings, report.skipped) == (env_id, (), ())
    assert {"reset", "step", "costs", "seeding", "time-limit", "mid-episode-reset", "vector-env"} <= set(report.checks)


def test_a_good_factory_passes_every_check():
    report = check_env(lambda: limited(Good))
    assert (report.problems, report.warnings, report.skipped) == ((), (), (STATELESS,))
    assert str(report) == (
        f"<lambda> keeps saferl's contract: 17 checks, 0 problems, 0 warnings.\nSkipped:\n  1. {STATELESS}"
    )
    report.raise_if_failed()


def test_a_bare_env_is_inspected_as_it_is_and_stays_open():
    env = limited(Good)
    env.close = lambda: pytest.fail("check_env must not close an env that is not its own")
    report = check_env(env)
    assert report.ok
    assert report.env == "Good"
    assert report.skipped == (STATELESS, "vector-env (needs an id or a factory, to make several)")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiBinary(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Box(0, 255, (2, 2), np.uint8),
        spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(2)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_every_supported_observation_space_passes(space):
    class Sampling(Good):
        def __init__(self):
            super().__init__()
            self.observation_space = space

        def observe(self):
            space.seed(int(self.np_random.integers(2**31)))
            return space.sample()

    report = check_env(lambda: limited(Sampling))
    assert (report.problems, report.warnings) == ((), ())


def test_one_scalar_cost_is_enough_for_one_constraint():
    class Scalar(Good):
        def info(self):
            return {"cost": self.cost()}

    assert problems_of(lambda: limited(Scalar)) == []


# Broken envs: observations.


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (
            np.zeros(2),
            "observation: the dtype of the observation must be float32; got float64 at reset. "
            "Return obs.astype(np.float32), or declare the space with dtype float64.",
        ),
        (np.zeros(3, np.float32), "observation: the shape of the observation must be (2,); got (3,) at reset."),
        ([0.0, 0.0], "observation: the observation must be a numpy array of shape (2,) and dtype float32; got a list"),
        (
            np.array([0.0, 11.0], np.float32),
            "must lie within the bounds of its space; got 11 in entry (1,), outside [-10, 10] at reset. Clip",
        ),
        (np.array([np.nan, 0.0], np.float32), "must be a number in every entry; got NaN in entry (0,) at reset."),
    ],
    ids=["dtype", "shape", "type", "bounds", "nan"],
)
def test_an_observation_outside_its_space_is_described(obs, message):
    class Broken(Good):
        def observe(self):
            return obs

    problem = problems_of(Broken())[0]
    assert message in problem


def test_a_key_missing_from_a_dict_observation_is_named():
    class Broken(Good):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Dict({"near": spaces.Discrete(2), "far": spaces.Discrete(2)})

        def observe(self):
            return {"near": 1}

    assert "the keys of the observation must be ['far', 'near']; got ['near'] at reset" in only_problem(Broken())


def test_an_observation_that_a_later_step_changes_is_caught():
    class Broken(Good):
        def reset(self, *, seed=None, options=None):
            self.buffer = np.zeros(2, dtype=np.float32)
            return super().reset(seed=seed)

        def observe(self):
            self.buffer[:] = self.position
            return self.buffer

    problem = only_problem(limited(Broken))
    assert problem.startswith("aliasing: an observation must keep its values after it was returned; got one that")
    assert "Return a copy: obs.copy()." in problem


# Spaces and constraints.


@pytest.mark.parametrize(
    ("which", "space", "message"),
    [
        ("observation", spaces.Tuple([spaces.Discrete(2)]), "Flatten it"),
        ("observation", spaces.Discrete(2, start=1), "the observation space must count from 0"),
        ("action", spaces.Box(-np.inf, np.inf, (1,)), "the bounds of the action space must be finite"),
        ("action", spaces.Dict({"a": spaces.Discrete(2)}), "must be Box, Discrete, MultiDiscrete or MultiBinary"),
        ("action", spaces.Discrete(2, start=1), "Shift it inside the env: start=0."),
        ("action", spaces.Text(3), "the action space must be Box, Discrete, MultiDiscrete, MultiBinary"),
    ],
)
def test_a_space_that_solvers_do_not_support_is_named(which, space, message):
    class Broken(Good):
        def __init__(self):
            super().__init__()
            setattr(self, f"{which}_space", space)

        def step(self, action):
            return super().step([0.0])

        def observe(self):
            if which == "action":
                return super().observe()
            self.observation_space.seed(int(self.np_random.integers(2**31)))
            return self.observation_space.sample()

    problem = only_problem(Broken())
    assert problem.startswith(f"{which}-space: ")
    assert message in problem


def test_an_env_without_spaces_is_reported_and_nothing_is_stepped():
    class Broken(Good):
        def __init__(self):
            pass

    report = check_env(Broken())
    assert [problem.check for problem in report.problems] == ["observation-space", "action-space"]
    assert "AttributeError" in str(report)
    assert "reset (needs observation-space)" in report.skipped


def test_an_action_space_that_is_not_normalised_is_a_warning():
    class Wide(Good):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    warning = only_warning(limited(Wide))
    assert "the action space must span [-1, 1] in every entry; got Box(-2.0, 2.0" in warning
    assert "gymnasium.wrappers.RescaleAction(env, -1, 1)" in warning


def test_a_bare_env_without_constraints_is_a_warning_and_a_wrong_kind_of_them_a_problem():
    class Without(Good):
        def __init__(self):
            super().__init__()
            del self.constraints

    class Wrong(Good):
        def __init__(self):
            super().__init__()
            self.constraints = {"cost": 25.0}

    assert "constraints: the attribute constraints must be a saferl.ConstraintSet" in only_warning(limited(Without))
    assert "got {'cost': 25.0}. Set it in __init__" in only_problem(limited(Wrong))


# The shape of reset and step.


def test_a_reset_that_returns_only_an_observation_is_caught():
    class Broken(Good):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    report = check_env(Broken())
    (problem,) = report.problems
    assert str(problem) == (
        "reset: reset must return (obs, info) with a dict info; got an array of shape (2,) and dtype float32. "
        "Return obs, {}."
    )
    assert "step (needs reset)" in report.skipped
    assert report.checks == ("observation-space", "action-space", "constraints", "reset")


def test_a_reset_without_seed_is_caught():
    class Broken(Good):
        def reset(self):
            return self.observe(), {}

    problem = only_problem(Broken())
    assert "TypeError" in problem
    assert problem.endswith("Take the keywords seed and options.")


def test_an_old_four_tuple_is_caught():
    class Broken(Good):
        def step(self, action):
            obs, reward, terminated, _, info = super().step(action)
            return obs, reward, terminated, info

    report = check_env(Broken())
    (problem,) = report.problems
    assert "got a tuple of length 4 at step 1. An old Gym env's done is terminated" in str(problem)
    assert "reward (needs step)" in report.skipped
    assert "observation" in report.checks


class SixTuple(Good):
    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, self.cost(), terminated, truncated, {}


def test_a_six_tuple_is_named_with_its_adapter_and_the_rest_is_still_checked():
    problem = only_problem(SixTuple())
    assert "got a 6-tuple at step 1" in problem
    assert "saferl.envs.SixTupleAdapter" in problem
    assert problems_of(SixTupleAdapter(SixTuple())) == []
    assert problems_of(SixTuple) == []  # saferl.make adapts it
    assert "before any other wrapper" in only_problem(limited(SixTuple))  # whose TimeLimit cannot read it


def test_an_info_that_is_not_a_dict_is_caught():
    class Broken(Good):
        def info(self):
            return None

    assert "step must return a dict as info; got a NoneType at step 1" in only_problem(Broken())


def test_an_error_inside_step_is_a_problem_with_its_text_and_dependent_checks_are_skipped():
    class Broken(Counting):
        def step(self, action):
            if self.count == 7:
                raise ZeroDivisionError("the wheel\nhas no radius")
            return super().step(action)

    report = check_env(Broken())
    assert [str(problem) for problem in report.problems] == [
        "step: the env must not raise an error; got ZeroDivisionError: the wheel has no radius. "
        "Repair the env where it raises this."
    ]
    assert "reward" in report.checks  # of the seven steps before
    assert {"seeding (needs mid-episode-reset)", "mid-episode-reset (needs step)"} <= set(report.skipped)


def test_an_error_inside_the_factory_is_a_problem():
    def factory():
        raise OSError("no simulator")

    report = check_env(factory)
    assert (report.env, report.ok, report.checks) == ("factory", False, ("make",))
    assert "make: the env must not raise an error; got OSError: no simulator." in str(report)


# Rewards, flags and costs.


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (float("nan"), "reward: the value of the reward must be finite; got nan at step 1."),
        (float("inf"), "reward: the value of the reward must be finite; got inf at step 1."),
        (np.zeros(1), "the reward must be a float; got an array of shape (1,) and dtype float64 at step 1. Return fl"),
        (None, "reward: the reward must be a float; got a NoneType at step 1."),
    ],
)
def test_a_reward_that_is_not_a_finite_float_is_caught(reward, message):
    class Broken(Good):
        def reward(self):
            return reward

    assert message in only_problem(limited(Broken))


@pytest.mark.parametrize("index", [2, 3])
def test_a_flag_that_is_not_a_bool_is_caught(index):
    class Broken(Good):
        def step(self, action):
            result = list(super().step(action))
            result[index] = 0
            return tuple(result)

    name = ("terminated", "truncated")[index - 2]
    assert only_problem(Broken()) == f"flags: {name} must be a bool; got an int (0) at step 1. Return bool({name})."


def test_costs_missing_at_the_last_step_of_an_episode_are_caught():
    class Broken(Counting):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            has_ended = self.count == 10
            return obs, reward, has_ended, False, {} if has_ended else info

    problem = problems_of(Broken())[0]
    assert problem.startswith("costs: info must hold 'costs' (or 'cost' for a single one) at every step")
    assert "got the keys [] at step 10, the last of its episode" in problem
    assert "give saferl.make a cost function" in problem


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (float("nan"), "the cost 'cost' must be finite; got nan at step 1. A cost that is not a number would hide"),
        ("1.0", "the cost 'cost' must be a number; got a str ('1.0') at step 1. Return float(cost)."),
        (None, "the cost 'cost' must be a number; got a NoneType (None) at step 1."),
    ],
)
def test_a_cost_that_is_not_a_finite_number_is_caught(cost, message):
    class Broken(Good):
        def cost(self):
            return cost

    assert message in only_problem(Broken())


def test_costs_that_are_not_a_dict_are_caught():
    class Broken(Good):
        def info(self):
            return {"costs": [0.0]}

    assert "info['costs'] must be a dict from name to number; got a list of length 1" in only_problem(Broken())


def test_a_constraint_without_its_cost_is_named():
    class Broken(Good):
        def info(self):
            return {"costs": {"hazards": self.cost()}}

    problem = only_problem(Broken())
    assert "info['costs'] for the constraint 'cost' must hold its cost at every step; got the costs ['haz" in problem
    assert "Name the constraint after its cost" in problem


class Fickle(Counting):
    def info(self):
        costs = {"cost": self.cost()}
        return {"costs": costs if self.count % 2 else {**costs, "extra": 0.0}}


def test_cost_keys_that_come_and_go_are_a_warning_where_nobody_constrains_them_and_else_a_problem():
    class Unconstrained(Fickle):
        def __init__(self):
            super().__init__()
            del self.constraints

    message = "the keys of info['costs'] must be the same at every step; got ['cost', 'extra'] at step 2 after ['cost']"
    assert message in only_warning(Fickle())
    assert message in only_problem(Unconstrained())


@pytest.mark.parametrize("cost", [-0.5, 2.0])
def test_a_cost_outside_its_declared_bound_is_caught(cost):
    class Broken(Good):
        def cost(self):
            return cost

    problem = only_problem(Broken())
    assert f"the cost 'cost' must lie in [0, 1], since its max_step_cost is 1; got {cost} at step 1" in problem


def test_the_scalar_cost_is_checked_and_compared():
    class NotFinite(Good):
        def info(self):
            return {"costs": {"cost": 0.0, "extra": 0.0}, "cost": float("inf")}

    class Different(Good):
        def info(self):
            return {"costs": {"cost": 0.0}, "cost": 1.0}

    assert "info['cost'] must be finite; got inf at step 1" in only_problem(NotFinite())
    assert "info['cost'] must be info['costs']['cost'] where both exist; got 1.0 and 0.0" in only_warning(Different())
