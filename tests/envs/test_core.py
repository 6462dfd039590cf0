"""``saferl.make`` builds every kind of env, and says which argument was wrong when it cannot."""

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium.wrappers import TimeLimit

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.registry import ENVS
from saferl.envs.spec import EnvSpec
from saferl.errors import ConfigError, ConstraintError, CostError, EnvContractError, UnknownNameError, UsageError

CHEETAH = "SafetyHalfCheetahVelocity-v1"


def budgets(env):
    constraints = env.get_wrapper_attr("constraints")
    return dict(zip(constraints.names, constraints.budgets.tolist(), strict=True))


def episode(env, seed=0):
    """Costs of one episode of action 1, the number of steps, and how it ended."""
    env.reset(seed=seed)
    costs = []
    while True:
        *_, terminated, truncated, info = env.step(1)
        costs.append(info["costs"])
        if terminated or truncated:
            return costs, len(costs), (terminated, truncated)


@pytest.fixture
def registered(monkeypatch):
    """Calling it adds an entry to the catalogue for one test."""
    monkeypatch.setattr(ENVS, "_entries", dict(ENVS._entries))
    return ENVS.register


def test_an_id_of_the_catalogue_makes_its_env_with_default_budget_and_horizon():
    env = saferl.make(CHEETAH)
    assert (env.env_id, env.horizon, env.is_fixed_horizon) == (CHEETAH, 1000, True)
    assert budgets(env) == {"cost": 25.0}
    env.reset(seed=0)
    info = env.step(env.action_space.sample())[-1]
    assert info["costs"] == {"cost": info["cost"]}


def test_a_catalogue_id_works_with_the_namespace_too():
    assert saferl.make(f"saferl/{CHEETAH}").env_id == CHEETAH


def test_gymnasium_makes_the_same_env_from_the_namespaced_id():
    env = gymnasium.make(f"saferl/{CHEETAH}", budgets={"cost": 3.0})
    ours = saferl.make(CHEETAH)
    assert budgets(env) == {"cost": 3.0}
    np.testing.assert_array_equal(env.reset(seed=5)[0], ours.reset(seed=5)[0])
    action = np.full(6, 0.3, dtype=np.float32)
    (obs, reward, _, _, info), (our_obs, our_reward, _, _, our_info) = env.step(action), ours.step(action)
    np.testing.assert_array_equal(obs, our_obs)
    assert (reward, info["costs"], info["cost"]) == (our_reward, our_info["costs"], our_info["cost"])


def test_every_catalogue_id_is_registered_with_gymnasium():
    assert {f"saferl/{name}" for name in ENVS} <= set(gymnasium.registry)


def test_another_time_limit_changes_the_horizon_of_a_catalogue_env():
    env = saferl.make(CHEETAH, max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(6, dtype=np.float32))[2:4] for _ in range(3)]
    assert env.horizon == 3
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("env_id", ["toy_envs:Walk", toy_envs.Walk, lambda: toy_envs.Walk()])
def test_a_factory_is_named_by_path_or_given_as_it_is(env_id):
    env = saferl.make(env_id)
    assert isinstance(env.unwrapped, toy_envs.Walk)
    costs, length, _ = episode(env)
    assert set(costs[0]) == {"left", "right"}
    assert 2 <= length <= 5


@pytest.mark.parametrize("env_id", ["toy/Walk-v0", "toy_envs:toy/Walk-v0"])
def test_a_gymnasium_id_is_made_with_its_time_limit(env_id):
    env = saferl.make(env_id)
    assert (env.env_id, env.horizon, env.is_fixed_horizon) == (env_id, 3, False)
    assert max(episode(env, seed)[1] for seed in range(10)) == 3


def test_a_longer_time_limit_replaces_that_of_a_gymnasium_id():
    env = saferl.make("toy/Walk-v0", max_episode_steps=5)
    assert env.horizon == 5
    assert max(episode(env, seed)[1] for seed in range(10)) == 5


def test_the_time_limit_truncates_and_does_not_terminate():
    env = saferl.make("toy/Walk-v0", max_episode_steps=1)
    assert episode(env)[1:] == (1, (False, True))


def test_the_limit_that_a_factory_has_set_is_the_horizon():
    assert saferl.make(lambda: TimeLimit(toy_envs.Walk(), 4)).horizon == 4
    assert saferl.make(lambda: gymnasium.make("toy/Walk-v0")).horizon == 3
    assert saferl.make(lambda: TimeLimit(toy_envs.Walk(), 4), max_episode_steps=2).horizon == 2
    assert saferl.make(lambda: TimeLimit(toy_envs.Walk(), 4), max_episode_steps=9).horizon == 4


def test_without_a_limit_the_horizon_is_unknown():
    assert saferl.make(toy_envs.Walk).horizon is None


@pytest.mark.parametrize("env_id", ["toy_envs:SixTuple", "toy_envs:toy/SixTuple-v0", toy_envs.SixTuple])
def test_a_6_tuple_env_reports_its_cost(env_id):
    env = saferl.make(env_id, budgets={"cost": 1.0}, scale=0.5, max_episode_steps=2)
    costs, length, end = episode(env)
    assert costs == [{"cost": 0.5}] * 2
    assert (length, end) == (2, (False, True))


def test_a_6_tuple_env_keeps_the_time_limit_of_its_id():
    env = saferl.make("toy/SixTuple-v0", budgets={"cost": 1.0})
    assert env.horizon == 4
    assert episode(env)[1:] == (4, (False, True))


def test_arguments_reach_the_env():
    assert saferl.make("toy_envs:Walk", actions="box").action_space == toy_envs.ACTIONS["box"]
    assert saferl.make("toy/Walk-v0", actions="box").action_space == toy_envs.ACTIONS["box"]
    assert saferl.make("CartPole-v1", budgets={"cost": 1}, render_mode="rgb_array").render_mode == "rgb_array"


@pytest.mark.parametrize("cost", [toy_envs.step_number, "toy_envs:step_number"])
def test_a_cost_function_gives_costs_to_an_env_without(cost):
    env = saferl.make("toy_envs:Walk", cost=cost, budgets={"cost": 2.0})
    costs, length, _ = episode(env)
    assert costs == [{"cost": 10.0 * step + step + 1} for step in range(length)]


def test_a_cost_function_by_name_gives_one_column_per_budget_in_order():
    env = saferl.make(
        "CartPole-v1", cost=lambda obs, action, next_obs: {"a": 1.0, "b": 2.0}, budgets={"b": 3.0, "a": 4.0}
    )
    env.reset(seed=0)
    assert env.step(0)[-1]["cost"] == 3.0
    np.testing.assert_array_equal(env.last_costs, [2.0, 1.0])
    assert budgets(env) == {"b": 3.0, "a": 4.0}


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), None, {"cost": float("nan")}, {"other": 1.0}])
def test_a_bad_value_of_a_cost_function_is_a_cost_error(cost):
    env = saferl.make("CartPole-v1", cost=lambda obs, action, next_obs: cost, budgets={"cost": 1.0})
    env.reset(seed=0)
    with pytest.raises(CostError, match="CartPole-v1: the cost 'cost'"):
        env.step(0)


def test_an_env_that_reports_no_cost_is_a_cost_error_at_its_first_step():
    env = saferl.make("CartPole-v1", budgets={"cost": 1.0})
    env.reset(seed=0)
    with pytest.raises(CostError, match=r"CartPole-v1: info\['costs'\] is missing.* cost=function"):
        env.step(0)


def test_the_envs_own_constraints_hold_unless_budgets_choose_among_them():
    assert budgets(saferl.make(toy_envs.Walk)) == {"left": 3.0, "right": 4.0}
    assert budgets(saferl.make(toy_envs.Walk, budgets={"right": 1})) == {"right": 1.0}


def test_a_budget_changes_the_budget_and_nothing_else_of_the_envs_own_constraint(monkeypatch):
    monkeypatch.setattr(toy_envs.Walk, "constraints", ConstraintSet([Constraint("left", 3.0, kind="cvar")]))
    assert saferl.make(toy_envs.Walk, budgets={"left": 9.0}).constraints == ConstraintSet(
        [Constraint("left", 9.0, kind="cvar")]
    )


def test_the_constraints_are_in_the_order_of_the_budgets():
    env = saferl.make(toy_envs.Walk, budgets={"right": 1.0, "left": 2.0})
    env.reset(seed=0)
    costs = env.step(1)[-1]["costs"]
    np.testing.assert_array_equal(env.last_costs, [costs["right"], costs["left"]])


def test_full_constraints_may_be_given_instead_of_budgets():
    chosen = ConstraintSet([Constraint("left", 0.5, kind="step_rate")])
    assert saferl.make(toy_envs.Walk, constraints=chosen).constraints is chosen
    with pytest.raises(ConfigError, match="budgets or constraints, not both"):
        saferl.make(toy_envs.Walk, constraints=chosen, budgets={"left": 1.0})


@pytest.mark.parametrize("given", [None, {}])
def test_a_foreign_env_without_a_budget_is_an_error_that_shows_how_to_give_one(given):
    with pytest.raises(ConstraintError, match=r"CartPole-v1 declares no constraints.*budgets=\{'cost': 25.0\}"):
        saferl.make("CartPole-v1", budgets=given)


@pytest.mark.parametrize("budget", [-1.0, float("nan"), float("inf"), "25", True])
@pytest.mark.parametrize("env_id", [CHEETAH, "CartPole-v1"])
def test_a_malformed_budget_is_an_error(env_id, budget):
    with pytest.raises(ConstraintError, match="the budget must be"):
        saferl.make(env_id, budgets={"cost": budget})


@pytest.mark.parametrize(("env_id", "name", "nearest"), [(CHEETAH, "costs", "cost"), ("toy_envs:Walk", "lef", "left")])
def test_a_budget_for_an_unknown_cost_is_answered_with_the_nearest_name(env_id, name, nearest):
    with pytest.raises(UnknownNameError, match=f"Unknown cost of {env_id} '{name}'. Did you mean '{nearest}'"):
        saferl.make(env_id, budgets={name: 1.0})


@pytest.mark.parametrize("name", ["SafetyHalfCheetahVelocty-v1", "saferl/SafetyHalfCheetahVelocity-v2"])
def test_an_unknown_env_is_answered_with_the_nearest_id_and_a_way_out(name):
    with pytest.raises(UnknownNameError, match=f"Did you mean .*'{CHEETAH}'.* named 'package.module:factory'"):
        saferl.make(name)


def test_an_unknown_factory_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"in 'toy_envs': 'Wlak'\. Did you mean 'Walk'"):
        saferl.make("toy_envs:Wlak")


def test_a_module_that_cannot_be_imported_is_an_error_that_names_it():
    with pytest.raises(UsageError, match="Cannot import 'no_such_module' of env 'no_such_module:Walk'"):
        saferl.make("no_such_module:Walk")


@pytest.mark.parametrize("env_id", ["toy_envs:Walk", "toy/Walk-v0", toy_envs.Walk])
def test_an_unknown_argument_is_answered_with_the_nearest_one(env_id):
    with pytest.raises(UnknownNameError, match=r"'action'\. Did you mean 'actions'"):
        saferl.make(env_id, action="box")


def test_an_argument_to_a_factory_without_any_is_an_error():
    with pytest.raises(UnknownNameError, match=r"'size'\. There is none"):
        saferl.make("toy_envs:only_in_the_parent", size=3)


def test_a_missing_argument_of_a_factory_is_an_error_that_shows_its_signature():
    with pytest.raises(ConfigError, match=r"'toy_envs:needs_size' needs other arguments: .*'size'.*name\(size\)"):
        saferl.make("toy_envs:needs_size")


def test_an_argument_that_only_a_factory_of_any_arguments_can_judge_is_passed_on():
    def factory(**kwargs):
        return toy_envs.Walk(**kwargs)

    assert saferl.make(factory, actions="box").action_space == toy_envs.ACTIONS["box"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'action'"):
        saferl.make(factory, action="box")


def test_what_is_no_factory_is_an_error():
    with pytest.raises(UsageError, match="must be a function or class that returns an env; got 3"):
        saferl.make("toy_envs:NOT_AN_ENV")


def test_a_factory_that_returns_no_env_is_an_error():
    with pytest.raises(UsageError, match=r"must be a gymnasium\.Env; its factory returned NoneType"):
        saferl.make("toy_envs:needs_size", size=0)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_time_limit_below_1_is_an_error(steps):
    with pytest.raises(ConfigError, match=f"max_episode_steps must be at least 1; got {steps}"):
        saferl.make(CHEETAH, max_episode_steps=steps)


def test_a_step_that_is_not_a_tuple_is_an_error_that_names_the_env():
    def lab():
        return toy_envs.Scripted(None)

    env = saferl.make(lab, budgets={"cost": 1.0})
    env.reset()
    with pytest.raises(EnvContractError, match=r"lab: step must return .* got NoneType"):
        env.step(0)


def test_a_catalogue_entry_gives_factory_arguments_costs_and_horizon(registered):
    spec = EnvSpec(
        "ToyWalk-v0",
        "toy_envs:Walk",
        ConstraintSet([Constraint("left", 3.0), Constraint("right", 4.0)]),
        default_constraints=("right",),
        horizon=5,
        kwargs={"actions": "box"},
    )
    registered(spec.id, spec)
    env = saferl.make("ToyWalk-v0")
    assert (env.env_id, env.horizon) == ("ToyWalk-v0", 5)
    assert env.action_space == toy_envs.ACTIONS["box"]
    assert budgets(env) == {"right": 4.0}
    assert budgets(saferl.make("ToyWalk-v0", budgets={"left": 1.0, "right": 2.0})) == {"left": 1.0, "right": 2.0}
    assert saferl.make("ToyWalk-v0", actions="multi").action_space == toy_envs.ACTIONS["multi"]


def test_a_catalogue_entry_without_default_constraint_needs_a_budget():
    spec = EnvSpec("X-v0", "toy_envs:Walk", ConstraintSet([Constraint("left", 3.0)]), default_constraints=())
    with pytest.raises(ConstraintError, match="X-v0 has no default constraint"):
        spec.select()
    assert spec.select({"left": 1.0}).names == ("left",)


def test_a_plugin_may_register_a_plain_factory(registered):
    registered("plugin-walk", "toy_envs:Walk", source="my-package")
    env = saferl.make("plugin-walk", actions="box")
    assert env.env_id == "plugin-walk"
    assert env.action_space == toy_envs.ACTIONS["box"]
