"""A shielded environment executes the shield's action, says what it did, and counts interventions as costs."""

import gymnasium
import numpy as np
import pytest
from shielded_point import Point, WallShield, build_shield, make_point

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.deploy import CHANNELS, ShieldedEnv, find_shield, split_channels
from saferl.deploy.channels import channel_costs
from saferl.deploy.sources import shield_name
from saferl.envs.state import get_state, has_state, set_state
from saferl.errors import ConfigError, EnvContractError, UnknownNameError
from saferl.shields import SHIELDS, ActionSpec, save_shield
from saferl.shields.base import Shield
from saferl.shields.bounds import Bounds

RIGHT = np.ones(1, dtype=np.float32)


def shielded(shield=None, **options):
    return ShieldedEnv(saferl.make(make_point), shield or WallShield(Point.action_space), **options)


def test_it_executes_the_shields_action_and_says_both():
    env = shielded()
    env.reset(seed=0)
    for _ in range(20):
        _, _, _, _, info = env.step(RIGHT)
        assert info["proposed_action"] is RIGHT
        assert info["executed_action"].tolist() == env.unwrapped.executed.tolist()
        assert info["shield"] is env.last_decision
        assert info["costs"]["cost"] == 0.0
    assert env.unwrapped._x <= 1.0
    assert info["shield"].kind == "projected"


def test_interventions_are_costs_and_the_scalar_stays_the_environments_own():
    env = shielded(Bounds(Point.action_space, -0.5, 0.5), budgets={"interventions": 3.0})
    env.reset(seed=0)
    _, _, _, _, info = env.step(RIGHT)
    assert info["costs"] == {"cost": 0.0, "interventions": 1.0, "intervention_distance": 0.25}
    assert info["cost"] == 0.0
    assert env.constraints.names == ("cost", "interventions")
    assert env.last_costs.tolist() == [0.0, 1.0]
    _, _, _, _, info = env.step(RIGHT / 2)
    assert info["costs"] == {"cost": 0.0, "interventions": 0.0, "intervention_distance": 0.0}


def test_the_channel_equals_the_number_of_decisions_that_are_no_pass():
    env = shielded(budgets={"interventions": 3.0, "intervention_distance": 1.0})
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    counted = kinds = 0.0
    for _ in range(20):
        action = rng.uniform(-1.0, 1.0, 1).astype(np.float32)
        _, _, _, _, info = env.step(action if rng.random() < 0.8 else np.full(1, np.nan))
        counted += env.last_costs[1]
        kinds += info["shield"].kind != "pass"
    assert counted == kinds > 0


def test_the_distance_is_a_share_of_the_largest_change_also_without_a_finite_proposal():
    square = ActionSpec.box([0.0, -1.0], [4.0, 1.0])
    corner = Bounds(square, high=[0.0, -1.0])
    assert channel_costs(corner.filter(None, [4.0, 1.0]), square)["intervention_distance"] == pytest.approx(1.0)
    assert channel_costs(corner.filter(None, [np.nan, 0.0]), square)["intervention_distance"] == 1.0


def test_the_context_has_step_costs_so_far_privileged_state_and_a_generator_of_the_episode():
    env = shielded(WallShield(Point.action_space, wall=5.0))
    env.reset(seed=3)
    for _ in range(12):
        env.step(RIGHT)
    seen = env.shield.seen
    assert [c.step for c in seen] == list(range(12))
    assert seen[0].privileged["x"] < seen[-1].privileged["x"]
    assert seen[-1].spent["cost"] == sum(c > 1.0 for c in (s.privileged["x"] for s in seen[1:])) > 0
    assert seen[0].generator.random() == np.random.default_rng([3, 2]).random()
    env.reset(seed=3)
    env.step(RIGHT)
    assert (env.shield.seen[-1].step, env.shield.seen[-1].spent) == (0, {})


class Twinned(WallShield):
    def spec(self):
        from saferl.shields import ShieldSpec

        return ShieldSpec("wall", ("twin",), "hard")


def test_the_twin_of_the_environment_is_asked_for_where_the_shield_needs_one():
    for kind, expected in ((WallShield, None), (Twinned, "the twin")):
        inner = saferl.make(make_point)
        inner.unwrapped.digital_twin = lambda: "the twin"
        env = ShieldedEnv(inner, kind(Point.action_space))
        env.reset(seed=0)
        env.step(RIGHT)
        assert env.shield.seen[0].twin == expected


def test_a_safe_reset_draws_until_the_shield_certifies_or_says_that_it_does_not():
    env = shielded(WallShield(Point.action_space, wall=0.4), safe_reset=50)
    for seed in range(20):
        obs, info = env.reset(seed=seed)
        assert obs[0] <= 0.1 + 1e-6
        assert info["certified_start"] is True
    never = WallShield(Point.action_space, wall=-1.0)
    with pytest.raises(EnvContractError, match="certified none of 3"):
        shielded(never, safe_reset=3).reset(seed=0)
    assert shielded(never, safe_reset=3, on_uncertified="flag").reset(seed=0)[1]["certified_start"] is False
    with pytest.raises(ConfigError, match="at least 0"):
        shielded(never, safe_reset=-1)


def test_its_state_includes_the_shields():
    env = shielded(WallShield(Point.action_space, jitter=0.5), budgets={"interventions": 3.0})
    assert has_state(env)
    env.reset(seed=0)
    for _ in range(4):
        env.step(RIGHT)
    state = get_state(env)
    first = [env.step(RIGHT)[-1]["executed_action"].item() for _ in range(10)]
    other = shielded(WallShield(Point.action_space, jitter=0.5), budgets={"interventions": 3.0})
    other.reset(seed=5)
    set_state(other, state)
    assert [other.step(RIGHT)[-1]["executed_action"].item() for _ in range(10)] == first
    assert len(set(first)) > 3


def test_a_plain_gymnasium_environment_can_be_shielded():
    env = ShieldedEnv(gymnasium.make("Pendulum-v1"), Bounds(ActionSpec.box([-2.0], [2.0]), -1.0, 1.0))
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([2.0], dtype=np.float32))
    assert info["executed_action"].tolist() == [1.0]
    assert info["costs"] == {"interventions": 1.0, "intervention_distance": 0.25}
    assert len(env.constraints) == 0


class NeedsMore(Bounds):
    def spec(self):
        from saferl.shields import ShieldSpec

        return ShieldSpec("bounds", ("privileged state",), "hard")


def test_a_shield_that_does_not_fit_is_refused_by_name_of_what_is_missing():
    with pytest.raises(ConfigError, match="privileged_state"):
        ShieldedEnv(gymnasium.make("Pendulum-v1"), NeedsMore(ActionSpec.box([-2.0], [2.0])))
    with pytest.raises(ConfigError, match="Build it for the action space"):
        shielded(Bounds(ActionSpec.box([-2.0], [2.0])))
    with pytest.raises(ConfigError, match="interventions or intervention_distance; got 'cost'"):
        shielded(budgets={"cost": 1.0})
    with pytest.raises(ConfigError, match="shield the environment once"):
        ShieldedEnv(shielded(budgets={"interventions": 1.0}), WallShield(Point.action_space))


def test_budgets_of_channels_are_separated_from_the_environments():
    assert split_channels(None, None) == (None, None, ConstraintSet())
    budgets, constraints, channels = split_channels({"interventions": 2.0}, None)
    assert (budgets, constraints, channels.names) == (None, None, ("interventions",))
    both = ConstraintSet([Constraint(name, 1.0) for name in ("cost", *CHANNELS)])
    assert [c.names for c in split_channels(None, both)[1:]] == [("cost",), CHANNELS]


def test_a_shield_is_found_by_name_folder_import_path_and_factory(tmp_path):
    env = saferl.make(make_point)
    assert find_shield("bounds", env).unit == "bounds"
    folder = save_shield(Bounds(env.action_space, -0.5), tmp_path / "half")
    for path in (folder, str(folder)):
        assert find_shield(path, env).low.tolist() == [-0.5]
        assert shield_name(path) == "half"
    save_shield(Bounds(env.action_space, -0.5), tmp_path / "run" / "shield")
    assert find_shield(tmp_path / "run", env).low.tolist() == [-0.5]
    assert shield_name(tmp_path / "run") == "bounds"
    assert find_shield("shielded_point:build_shield", env).unit == "wall"
    assert find_shield(build_shield, env).unit == "wall"


class Unnamed(Shield):
    unit = "unnamed"


def test_what_is_no_shield_is_refused_with_the_way_out(tmp_path):
    env = saferl.make(make_point)
    with pytest.raises(UnknownNameError, match="bounds"):
        find_shield("bound", env)
    with SHIELDS.temporarily("unnamed", Unnamed), pytest.raises(ConfigError, match="give the folder, or give module"):
        find_shield("unnamed", env)
    with pytest.raises(ConfigError, match=r"must hold shield\.json"):
        find_shield(tmp_path, env)
    with pytest.raises(ConfigError, match="gave dict"):
        find_shield(lambda env: {}, env)
    with pytest.raises(ConfigError, match="failed: ZeroDivisionError"):
        find_shield(lambda env: 1 / 0, env)
