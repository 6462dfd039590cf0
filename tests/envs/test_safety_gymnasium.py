"""The published package runs unchanged on today's versions, and the env around it keeps Gymnasium's contract."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv

from saferl.envs.safety_gymnasium import compat, make_navigation
from saferl.envs.velocity import make_velocity
from saferl.errors import ConfigError, EnvContractError, MissingExtraError, UnknownNameError, UsageError

GOAL = "SafetyPointGoal1-v0"
CIRCLE = "SafetyPointCircle1-v0"


@pytest.fixture
def not_yet_loaded():
    """Let a test load the package anew; afterwards everything is as before."""
    before = compat._loaded()
    compat._forget(before)
    yield
    compat._forget(compat._loaded())
    sys.modules.update(before)


def rollout(env, steps, *, seed, actions_seed=0):
    """All that ``steps`` random steps return, with resets, as one list of arrays."""
    generator = np.random.default_rng(actions_seed)
    low, high = env.action_space.low, env.action_space.high
    record = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(generator.uniform(low, high))
        record.append(np.r_[obs, reward, terminated, truncated, list(info["costs"].values())])
        if terminated or truncated:
            record.append(env.reset()[0])
    return record


def assert_equal(record, other):
    assert len(record) == len(other)
    for array, other_array in zip(record, other, strict=True):
        np.testing.assert_array_equal(array, other_array)


# Loading the package


@pytest.mark.usefixtures("not_yet_loaded")
def test_loading_leaves_dataclasses_as_they_were():
    original = dataclasses.dataclass
    module = compat.load("builder")
    assert dataclasses.dataclass is original
    assert module.Builder.__module__ == "safety_gymnasium.builder"
    assert compat.load("builder") is module


@pytest.mark.usefixtures("not_yet_loaded")
@pytest.mark.parametrize("failing", ["no_such_module", "builder"])
def test_a_failed_import_leaves_nothing_behind(failing, monkeypatch):
    original = dataclasses.dataclass
    monkeypatch.setitem(sys.modules, "yaml", None)  # the builder needs it, half-way
    with pytest.raises((ImportError, MissingExtraError)):
        compat.load(failing)
    assert compat._loaded() == {}
    assert dataclasses.dataclass is original


@pytest.mark.usefixtures("not_yet_loaded")
def test_a_missing_dependency_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xmltodict", None)
    with pytest.raises(MissingExtraError, match=r"needs xmltodict.*saferl\[train\]"):
        compat.load("builder")


@pytest.mark.usefixtures("not_yet_loaded")
def test_the_package_loads_after_its_own_import_failed():
    with pytest.raises(ImportError):
        importlib.import_module("safety_gymnasium")
    assert compat.load("builder").Builder


@pytest.mark.usefixtures("not_yet_loaded")
def test_a_root_module_that_the_user_imported_stays(monkeypatch):
    root = importlib.util.module_from_spec(importlib.util.find_spec("safety_gymnasium"))
    root.make = lambda: "the user's"
    monkeypatch.setitem(sys.modules, "safety_gymnasium", root)
    compat.load("builder")
    assert sys.modules["safety_gymnasium"] is root
    assert root.make() == "the user's"


@pytest.mark.usefixtures("not_yet_loaded")
def test_what_the_bare_root_lacks_is_explained():
    compat.load("builder")
    package = importlib.import_module("safety_gymnasium")
    with pytest.raises(AttributeError, match=r"saferl\.make"):
        package.make(GOAL)


@pytest.mark.usefixtures("not_yet_loaded")
def test_threads_that_load_at_once_get_one_package():
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(compat.load, ["builder"] * 4))
    assert len(set(map(id, modules))) == 1


def test_instances_do_not_share_array_defaults():
    hazards = compat.load("assets.geoms").Hazards
    first, second = hazards(), hazards()
    np.testing.assert_array_equal(first.color, second.color)
    assert first.color is not second.color


@pytest.mark.usefixtures("not_yet_loaded")
def test_an_absent_package_is_answered_with_the_commands_that_install_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UsageError, match="not installed") as caught:
        make_navigation(GOAL)
    assert "pip install --no-deps safety-gymnasium==1.0.0" in str(caught.value)
    assert "pip install 'saferl[train]'" in str(caught.value)
    assert "uv sync" in str(caught.value)
    assert compat._loaded() == {}


@pytest.mark.usefixtures("not_yet_loaded")
def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.1")
    with pytest.raises(UsageError, match=r"needs safety-gymnasium 1\.0\.0.*got 1\.2\.1"):
        make_navigation(GOAL)


@pytest.mark.usefixtures("not_yet_loaded")
def test_missing_files_are_told_from_a_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="its files are missing"):
        make_navigation(GOAL)
    assert compat._loaded() == {}


# Textures


def test_textures_go_and_materials_stay():
    xml = (
        "<mujoco><asset><texture name='t' type='2d' builtin='flat' width='2' height='2'/>"
        "<material name='m' texture='t' rgba='1 0 0 1'/></asset>"
        "<worldbody><geom type='plane' size='1 1 1' material='m'/></worldbody></mujoco>"
    )
    model = mujoco.MjModel.from_xml_string(compat.without_textures(xml))
    assert (mujoco.MjModel.from_xml_string(xml).ntex, model.ntex, model.nmat) == (1, 0, 1)
    np.testing.assert_array_equal(model.mat_rgba[0], [1, 0, 0, 1])


def test_with_and_without_textures_the_trajectories_are_equal_to_the_last_bit():
    bare, textured = make_navigation(GOAL), make_navigation(GOAL, render_mode="rgb_array")
    assert_equal(rollout(bare, 60, seed=5), rollout(textured, 60, seed=5))
    assert bare._builder.task.model.ntex == 0
    assert textured._builder.task.model.ntex > 0


def test_trajectories_equal_those_of_the_package_alone():
    ours = make_navigation(CIRCLE)
    with np.errstate(over="ignore"):
        theirs = compat.load("builder").Builder(CIRCLE, {"agent_name": "Point"})
    np.testing.assert_array_equal(ours.reset(seed=11)[0], theirs.reset(seed=11)[0])
    generator = np.random.default_rng(0)
    for _ in range(100):
        action = generator.uniform(-1, 1, 2)
        obs, reward, terminated, truncated, info = ours.step(action)
        their_obs, their_reward, their_cost, their_terminated, their_truncated, their_info = theirs.step(action)
        np.testing.assert_array_equal(obs, their_obs)
        assert (reward, terminated, truncated) == (their_reward, their_terminated, their_truncated)
        assert info["costs"] == {"cost": their_cost, "out_of_boundary": their_info["cost_out_of_boundary"]}


# Seeds


@pytest.mark.parametrize("env_id", [GOAL, CIRCLE])
def test_one_seed_determines_all_layouts_and_trajectories(env_id):
    first, second = (make_navigation(env_id, max_episode_steps=90) for _ in range(2))
    rollout(second, 10, seed=99)  # what happened before the seed does not matter
    assert_equal(rollout(first, 300, seed=2**40), rollout(second, 300, seed=2**40))


def test_another_seed_and_the_next_reset_give_other_layouts():
    env = make_navigation(GOAL)
    observations = [env.reset(seed=0)[0], env.reset()[0], env.reset()[0], env.reset(seed=1)[0]]
    assert len({obs.tobytes() for obs in observations}) == 4


def test_numpys_global_generator_is_neither_read_nor_moved():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    env = make_navigation(GOAL)
    unseeded = env.reset()[0]
    rollout(env, 20, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert (make_navigation(GOAL).reset()[0] != unseeded).any()


# Steps


@pytest.mark.parametrize("env_id", [GOAL, CIRCLE])
def test_gymnasiums_checker_accepts_the_env(env_id):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|spec)")
        check_env(make_navigation(env_id), skip_render_check=True)


def test_a_step_inside_a_hazard_costs_one():
    env = make_navigation(GOAL)
    env.reset(seed=0)
    task = env._builder.task
    assert env.step(np.zeros(2))[-1]["costs"] == {"cost": 0.0, "hazards": 0.0}
    for hazard in ("hazard0", "hazard1"):  # two at once cost no more: every cost is an indicator
        task.model.body(hazard).pos[:2] = task.agent.pos[:2]
    info = env.step(np.zeros(2))[-1]
    assert info["costs"] == {"cost": 1.0, "hazards": 1.0}
    assert info["cost"] == 1.0


def test_a_step_beyond_the_walls_costs_one():
    env = make_navigation(CIRCLE)
    env.reset(seed=0)
    beyond = []
    for _ in range(400):
        info = env.step(np.array([1.0, 0.0]))[-1]
        beyond.append(abs(env._builder.task.agent.pos[0]) > 1.125)
        assert info["costs"]["out_of_boundary"] == info["cost"] == float(beyond[-1])
    assert set(beyond) == {False, True}


def put_the_goal_on_the_agent(env):
    task = env._builder.task
    task._set_goal(task.agent.pos[:2])


def test_a_met_goal_is_reported_and_a_new_one_appears():
    env = make_navigation(GOAL)
    env.reset(seed=0)
    put_the_goal_on_the_agent(env)
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (info["goal_met"], terminated, truncated) == (True, False, False)
    assert reward > 1.0
    assert env._builder.task.dist_goal() > 0.3
    assert env.step(np.zeros(2))[-1]["goal_met"] is False


def test_a_goal_that_finds_no_place_truncates_and_does_not_terminate(monkeypatch):
    def no_place():
        raise compat.load("utils.common_utils").ResamplingError

    env = make_navigation(GOAL)
    env.reset(seed=0)
    put_the_goal_on_the_agent(env)
    monkeypatch.setattr(env._builder.task, "build_goal_position", no_place)
    _, _, terminated, truncated, info = env.step(np.zeros(2))
    assert (info["goal_met"], terminated, truncated) == (True, False, True)
    assert set(info["costs"]) == {"cost", "hazards"}


def test_an_agent_that_dies_terminates():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion of an array", category=DeprecationWarning)
        env = make_navigation("SafetyAntCircle1-v0")
        env.reset(seed=0)
        ends = [(False, False)]
        while ends[-1] == (False, False):
            ends.append(env.step(np.full(8, 1.0) * (-1) ** len(ends))[2:4])
    assert ends[-1] == (True, False)


@pytest.mark.parametrize("value", [np.nan, 1e12])
@pytest.mark.parametrize("state", ["qpos", "qvel"])
def test_a_diverged_simulation_is_an_error_and_not_a_cost(state, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to the current folder
    env = make_navigation(GOAL)
    env.reset(seed=0)
    getattr(env._builder.task.data, state)[0] = value
    with pytest.raises(EnvContractError, match=f"{GOAL}: the simulation must stay finite"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    assert env.step(np.zeros(2))[-1]["cost"] == 0.0


def test_an_action_that_is_not_a_number_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_navigation(GOAL)
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="control"):
        env.step(np.array([np.nan, 0.0]))


def test_stepping_before_a_reset_or_after_the_end_is_an_error():
    env = make_navigation(GOAL, max_episode_steps=1)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    assert env.step(np.zeros(2))[2:4] == (False, True)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        env.step(np.zeros(2))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"env_id": "SafetyPointGoal3-v0"}, UnknownNameError, "Did you mean 'SafetyPointGoal"),
        ({"env_id": GOAL, "render_mode": "human"}, UnknownNameError, "render mode 'human'"),
        ({"env_id": GOAL, "max_episode_steps": 0}, ConfigError, "at least 1; got 0"),
    ],
)
def test_a_bad_argument_is_answered_with_the_way_out(kwargs, error, message):
    with pytest.raises(error, match=message):
        make_navigation(**kwargs)


# Processes and images


@pytest.mark.parametrize("factory", [partial(make_navigation, GOAL), partial(make_velocity, "Swimmer")])
def test_factories_work_in_spawned_processes(factory):
    factory = pickle.loads(pickle.dumps(factory))
    local = factory()
    vector = AsyncVectorEnv([factory], context="spawn", shared_memory=False)
    try:
        np.testing.assert_array_equal(vector.reset(seed=[3])[0][0], local.reset(seed=3)[0])
        action = np.full(2, 0.5, dtype=local.action_space.dtype)
        obs, reward, _, _, info = vector.step(action[None])
        expected_obs, expected_reward, _, _, expected_info = local.step(action)
        np.testing.assert_array_equal(obs[0], expected_obs)
        assert (reward[0], info["cost"][0]) == (expected_reward, expected_info["cost"])
    finally:
        vector.close()


def test_without_a_render_mode_there_is_no_image():
    env = make_navigation(GOAL)
    env.reset(seed=0)
    assert env.render() is None
    env.close()


def test_an_image_before_the_first_reset_is_an_error():
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        make_navigation(GOAL, render_mode="rgb_array").render()


def test_images_are_drawn_without_a_display():
    code = (
        "from saferl.envs.safety_gymnasium import make_navigation\n"
        "from saferl.errors import UsageError\n"
        f"env = make_navigation({GOAL!r}, render_mode='rgb_array', width=64, height=48)\n"
        "env.reset(seed=0)\n"
        "try: image = env.render()\n"
        "except UsageError as error: print('no OpenGL:', error); raise SystemExit\n"
        "env.close()\n"
        "print(image.shape, image.dtype, bool(image.std() > 1))"
    )
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    if result.stdout.startswith("no OpenGL"):
        pytest.skip(result.stdout)
    assert result.stdout.strip() == "(48, 64, 3) uint8 True"
