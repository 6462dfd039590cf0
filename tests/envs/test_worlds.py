"""Worlds made anew are those of the package: every place, every number of the model, every further draw."""

import mujoco
import numpy as np
import pytest

from saferl.envs.catalogue import SIMULATED_SPECS
from saferl.envs.safety_gymnasium import NavigationEnv
from saferl.envs.safety_gymnasium.layouts import LayoutSampler
from saferl.envs.safety_gymnasium.worlds import WorldMaker
from saferl.errors import EnvContractError

NAVIGATION = [spec.id for spec in SIMULATED_SPECS if "Velocity" not in spec.id]
SAMPLE = [
    "SafetyPointGoal2-v0",
    "SafetyCarPush1-v0",
    "SafetyDoggoButton0-v0",
    "SafetyAntCircle2-v0",
    "SafetyAntRun0-v0",
]
NOT_COPIED = ("cam_",)
"""Cameras are for pictures, which single envs draw."""


def arrays(model):
    names = (name for name in dir(model) if not name.startswith(("_", *NOT_COPIED)))
    values = {name: getattr(model, name) for name in names if isinstance(getattr(model, name, None), np.ndarray)}
    statistics = ("meaninertia", "meanmass", "meansize", "extent", "center")
    return values | {name: np.array(getattr(model.stat, name)) for name in statistics}


def assert_the_package_makes_the_same(env_id, seeds):
    env, maker = NavigationEnv(env_id), WorldMaker(env_id)
    world = maker.new()
    for seed in seeds:
        env.reset(seed=seed)
        maker.place(world, seed)
        task = env._builder.task
        expected, actual = arrays(task.model), arrays(world.model)
        assert len(expected) > 200
        assert [name for name in expected if not np.array_equal(expected[name], actual[name])] == []
        for name in ("qpos", "qvel", "qacc", "qacc_warmstart", "xpos", "xmat", "sensordata"):
            np.testing.assert_array_equal(getattr(world.data, name), getattr(task.data, name))
        assert list(world.layout) == list(task.world_info.layout)
        assert all(np.array_equal(world.layout[name], place) for name, place in task.world_info.layout.items())
        assert world.generator.random_sample() == task.random_generator.random_generator.random_sample()


@pytest.mark.parametrize("env_id", SAMPLE)
def test_a_world_is_the_one_that_the_package_compiles(env_id):
    assert_the_package_makes_the_same(env_id, (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("env_id", NAVIGATION)
def test_all_worlds_are_those_that_the_package_compiles(env_id):
    assert_the_package_makes_the_same(env_id, range(5))


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyPointPush2-v0", "SafetyPointButton0-v0"])
def test_layouts_are_drawn_like_the_package_draws_them(env_id):
    env = NavigationEnv(env_id)
    env.reset(seed=0)
    drawn = env._builder.task.random_generator
    sampler = LayoutSampler(drawn.placements, drawn.placements_extents, drawn.placements_margin)
    for seed in range(5):
        drawn.set_random_seed(seed)
        expected, generator = drawn.build_layout(), np.random.RandomState(seed)
        layout = sampler.layout(generator)
        assert list(layout) == list(expected)
        assert all(np.array_equal(layout[name], expected[name]) for name in expected)
        # Both draw the next goal among all the other things.
        del drawn.layout["goal"], layout["goal"]
        while not drawn.sample_goal_position():
            pass
        assert np.array_equal(sampler.goal(generator, layout), drawn.layout["goal"])
        assert generator.random_sample() == drawn.random_generator.random_sample()


def test_an_object_is_placed_in_one_of_its_rectangles_by_their_areas():
    rectangles = [(-3.0, -1.0, -2.0, 1.0), (1.0, -1.0, 4.0, 1.0), (0.0, 0.0, 0.1, 0.1)]
    sampler = LayoutSampler({"goal": (rectangles, 0.1)}, (-5, -5, 5, 5), 0.0)
    generator = np.random.RandomState(0)
    places = np.array([sampler.layout(generator)["goal"] for _ in range(2000)])
    left = places[:, 0] < 0
    # Without what is kept free: 0.8 by 1.8 on the left, 2.8 by 1.8 on the right, and the smallest has no room.
    assert left.mean() == pytest.approx(0.8 / 3.6, abs=0.03)
    assert ((places[left, 0] >= -2.9) & (places[left, 0] <= -2.1)).all()
    assert ((places[~left, 0] >= 1.1) & (places[~left, 0] <= 3.9)).all()


def test_a_layout_without_room_is_none():
    crowd = {f"thing{i}": (None, 0.5) for i in range(9)}
    sampler = LayoutSampler(crowd, (-1, -1, 1, 1), 0.0)
    assert sampler._trial(np.random.RandomState(0)) is None


def test_a_world_without_room_says_with_which_seed(monkeypatch):
    maker = WorldMaker("SafetyPointGoal0-v0")
    monkeypatch.setattr(LayoutSampler, "layout", lambda *args: None)
    with pytest.raises(EnvContractError, match=r"SafetyPointGoal0-v0: no room .* seed 5. Reset with another seed"):
        maker.place(maker.new(), 5)


def test_models_of_worlds_are_their_own():
    maker = WorldMaker("SafetyPointGoal0-v0")
    one, other = maker.new(), maker.new()
    maker.place(one, 1)
    maker.place(other, 2)
    assert not np.array_equal(one.model.body_pos, other.model.body_pos)
    mujoco.mj_step(one.model, one.data)
    assert other.data.time == 0.0
