"""Each wrapper does its one duty; a cost that is missing or not finite is never a zero."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import Scripted, SixTuple, Walk

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs import CostContract, CostFunction, SixTupleAdapter
from saferl.envs.costs import check_cost, read_costs
from saferl.errors import CostError, EnvContractError

COST = ConstraintSet([Constraint("cost", 1.0)])
TWO = ConstraintSet([Constraint("right", 1.0), Constraint("left", 1.0)])


def contract(*results, constraints=COST):
    """A checked env whose steps return ``results``."""
    env = CostContract(Scripted(*results), constraints, env_id="Lab-v3")
    env.reset(seed=0)
    return env


def test_the_third_of_six_entries_becomes_the_cost():
    env = SixTupleAdapter(SixTuple())
    env.reset()
    obs, reward, terminated, truncated, info = env.step(1)
    assert (obs, reward, terminated, truncated) == (np.zeros(1), 1.0, False, False)
    assert info == {"seen": True, "cost": 0.25}


@pytest.mark.parametrize("result", [({}, 1.0, True, False, {"cost": 2.0}), (1, 2, 3, 4), None, "sixsix"])
def test_anything_but_six_entries_passes_unchanged(result):
    env = SixTupleAdapter(Scripted(result))
    env.reset()
    assert env.step(0) is result


def test_a_cost_function_gets_the_observations_before_and_after_and_the_action():
    seen = []

    def cost(obs, action, next_obs):
        seen.append((obs.copy(), action, next_obs.copy()))
        return 0.5

    env = CostFunction(Walk(), cost)
    observations = [env.reset(seed=0)[0]]
    for action in (2, 1):
        obs, *_, info = env.step(action)
        observations.append(obs)
        assert info["cost"] == 0.5
        assert info["costs"] == {"cost": 0.5}
    assert [action for _, action, _ in seen] == [2, 1]
    np.testing.assert_array_equal([before for before, _, _ in seen], observations[:2])
    np.testing.assert_array_equal([after for _, _, after in seen], observations[1:])


def test_after_a_reset_a_cost_function_gets_the_first_observation_of_the_new_episode():
    env = CostFunction(Walk(), lambda obs, action, next_obs: float(obs[1]))
    env.reset(seed=0)
    env.step(0)
    assert env.step(0)[-1]["cost"] == 1.0
    env.reset()
    assert env.step(0)[-1]["cost"] == 0.0


def test_an_env_that_overwrites_its_observation_does_not_change_the_one_before():
    class Reuses(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 10, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.buffer = np.zeros(1)
            return self.buffer, {}

        def step(self, action):
            self.buffer += 1.0
            return self.buffer, 0.0, False, False, {}

    env = CostFunction(Reuses(), lambda obs, action, next_obs: float(next_obs[0] - obs[0]))
    env.reset()
    assert [env.step(0)[-1]["cost"] for _ in range(3)] == [1.0, 1.0, 1.0]


def test_a_cost_function_may_give_several_costs_by_name():
    env = CostFunction(Scripted({}), lambda obs, action, next_obs: {"heat": 2.0, "force": 3.0})
    env.reset()
    assert env.step(0)[-1] == {"costs": {"heat": 2.0, "force": 3.0}}


def test_costs_are_ordered_as_the_constraints_are_and_not_as_the_env_reports_them():
    env = contract({"costs": {"left": 1.0, "other": 5.0, "right": 2.0}}, constraints=TWO)
    info = env.step(0)[-1]
    assert env.last_costs.dtype == np.float64
    np.testing.assert_array_equal(env.last_costs, [2.0, 1.0])
    assert info["costs"] == {"left": 1.0, "other": 5.0, "right": 2.0}


def test_the_envs_own_scalar_is_kept_and_only_an_env_without_one_gets_the_sum():
    costs = {"left": 1.0, "right": 2.0}
    env = contract({"cost": 1.0, "costs": costs}, {"costs": costs}, constraints=TWO)
    for scalar in (1.0, 3.0):
        assert env.step(0)[-1]["cost"] == scalar
        assert env.last_cost == scalar


@pytest.mark.parametrize("info", [{"cost": 2}, {"cost": 2, "costs": None}, {"cost": 2, "costs": 7.0}])
def test_a_single_cost_is_reported_by_name_too(info):
    env = contract(info)
    assert env.step(0)[-1]["costs"] == {"cost": 2.0}
    np.testing.assert_array_equal(env.last_costs, [2.0])


@pytest.mark.parametrize("cost", [True, 1, np.float32(1.0), np.int64(1), np.bool_(True)])
def test_any_number_and_any_truth_value_is_a_cost(cost):
    env = contract({"cost": cost})
    env.step(0)
    np.testing.assert_array_equal(env.last_costs, [1.0])
    assert type(env.last_cost) is float


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({}, "info['costs'] is missing; got the keys []"),
        ({"speed": 3.0}, "info['costs'] is missing; got the keys ['speed']"),
        ({"costs": {"hazards": 1.0}}, "the cost 'cost' is missing from info['costs']; got ['hazards']"),
        ({"cost": None}, "the cost 'cost' must be a number; got None"),
        ({"costs": {"cost": "high"}}, "the cost 'cost' must be a number; got 'high'"),
    ],
)
def test_a_missing_cost_is_an_error_with_env_key_and_way_out(info, text):
    with pytest.raises(CostError) as caught:
        contract(info).step(0)
    assert str(caught.value).startswith(f"Lab-v3: {text}")
    assert "saferl.make(..., cost=function)" in str(caught.value)
    assert "--cost module:function" in str(caught.value)


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf, np.float32("nan")])
@pytest.mark.parametrize("report", [lambda cost: {"cost": cost}, lambda cost: {"costs": {"cost": cost}}])
def test_a_cost_that_is_not_finite_is_an_error_with_env_key_and_way_out(cost, report):
    with pytest.raises(CostError, match=r"Lab-v3: the cost 'cost' must be finite; got .* Fix the env"):
        contract(report(cost)).step(0)


def test_a_scalar_cannot_stand_for_a_cost_of_another_name():
    with pytest.raises(CostError, match="is missing"):
        contract({"cost": 1.0}, constraints=ConstraintSet([Constraint("hazards", 1.0)])).step(0)


def test_a_cost_that_no_constraint_names_must_be_finite_too():
    with pytest.raises(CostError, match="'vases' must be finite"):
        contract({"costs": {"cost": 0.0, "vases": math.nan}}).step(0)


def test_a_scalar_that_is_not_finite_beside_good_costs_is_an_error():
    with pytest.raises(CostError, match="'cost' must be finite"):
        contract({"cost": math.nan, "costs": {"left": 0.0, "right": 0.0}}, constraints=TWO).step(0)


@pytest.mark.parametrize("reward", [math.nan, math.inf, None, "1", np.zeros(2)])
def test_a_reward_that_is_not_a_finite_number_is_an_error(reward):
    with pytest.raises(EnvContractError, match="Lab-v3: the reward must be a finite number"):
        contract((np.zeros(1), reward, False, False, {"cost": 0.0})).step(0)


@pytest.mark.parametrize(
    ("result", "got"), [((1, 2, False, {}), "4"), ((1, 2, 3, 4, 5, {}), "6"), (None, "NoneType"), ([0] * 5, "list")]
)
def test_a_step_that_is_not_a_5_tuple_is_an_error(result, got):
    with pytest.raises(EnvContractError, match=rf"Lab-v3: step must return .* got {got}\."):
        contract(result).step(0)


@pytest.mark.parametrize("info", [None, [], "cost"])
def test_an_info_that_is_not_a_dict_is_an_error(info):
    with pytest.raises(EnvContractError, match="Lab-v3: info must be a dict"):
        contract((np.zeros(1), 1.0, False, False, info)).step(0)


def test_a_cost_counts_at_the_step_that_ends_the_episode():
    env = contract((np.zeros(1), 1.0, True, False, {"cost": 4.0}))
    assert env.step(0)[2]
    np.testing.assert_array_equal(env.last_costs, [4.0])


def test_costs_of_earlier_steps_are_not_overwritten():
    env = contract({"cost": 1.0}, {"cost": 2.0})
    env.step(0)
    first = env.last_costs
    env.step(0)
    np.testing.assert_array_equal(first, [1.0])


def test_the_constraints_are_found_through_other_wrappers():
    env = gymnasium.wrappers.TimeLimit(contract(), 5)
    assert env.get_wrapper_attr("constraints") is COST


def test_read_costs_gives_the_costs_in_the_order_asked_for():
    info = {"costs": {"a": 1, "b": np.float32(2.0), "c": 3.0}}
    np.testing.assert_array_equal(read_costs(info, ("c", "a"), "Lab-v3"), [3.0, 1.0])


def test_check_cost_gives_a_python_float():
    assert type(check_cost(np.int32(3), "cost", "Lab-v3")) is float


def test_margins_are_the_envs_own_or_the_positive_part_of_the_cost():
    info = {"costs": {"right": 1.0, "left": -2.0}, "margins": {"left": np.float32(-0.5), "up": math.nan}}
    env = contract(
        info, {"costs": {"right": 0.0, "left": -2.0}}, {"cost": 3.0, "costs": {"right": 3, "left": 0}}, constraints=TWO
    )
    seen = []
    for _ in range(3):
        env.step(0)
        seen.append(env.last_margins)
    np.testing.assert_array_equal(seen, [[1.0, -0.5], [0.0, 0.0], [3.0, 0.0]])
    assert seen[0].dtype == np.float64


@pytest.mark.parametrize("margin", [math.nan, math.inf, None, "far", np.zeros(2)])
def test_a_margin_that_is_not_a_finite_number_is_an_error_with_env_key_and_way_out(margin):
    with pytest.raises(
        CostError, match=r"Lab-v3: the margin of 'cost' must be a finite number; got .* Fix the env, or"
    ):
        contract({"cost": 1.0, "margins": {"cost": margin}}).step(0)


def test_margins_without_names_are_an_error():
    with pytest.raises(CostError, match=r"Lab-v3: info\['margins'\] must be a mapping .* got 0\.5\. Give signed"):
        contract({"cost": 1.0, "margins": 0.5}).step(0)
