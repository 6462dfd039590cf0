"""The velocity tasks are the published ones, and their cost says what the step did."""

import math
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest

from saferl.envs.safety_gymnasium import compat
from saferl.envs.velocity import TASKS, VelocityCost, VelocityTask, make_velocity
from saferl.errors import EnvContractError, UnknownNameError

MODULES = {
    "HalfCheetah": "half_cheetah",
    "Hopper": "hopper",
    "Walker2d": "walker2d",
    "Swimmer": "swimmer",
    "Ant": "ant",
    "Humanoid": "humanoid",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def published(task):
    module = compat.load(f"tasks.safe_velocity.safety_{MODULES[task]}_velocity_v1")
    return getattr(module, f"Safety{task}VelocityEnv")()


def push(env, index, velocity):
    """Set one entry of the generalised velocity and step without control."""
    simulation = env.unwrapped
    qvel = np.zeros_like(simulation.data.qvel)
    qvel[index] = velocity
    simulation.set_state(simulation.data.qpos.copy(), qvel)
    return env.step(np.zeros(env.action_space.shape))[-1]


@pytest.mark.parametrize("task", list(TASKS))
def test_steps_equal_those_of_the_published_package(task):
    """Both run on the installed mujoco; against the mujoco 2.3.3 that the package pins, trajectories differ."""
    ours, theirs = make_velocity(task), published(task)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    ours.action_space.seed(1)
    observations = [env.reset(seed=7)[0] for env in (ours, theirs)]
    np.testing.assert_array_equal(*observations)
    for _ in range(200):
        action = ours.action_space.sample()
        obs, reward, terminated, _, info = ours.step(action)
        their_obs, their_reward, their_cost, their_terminated, _, _ = theirs.step(action)
        np.testing.assert_array_equal(obs, their_obs)
        assert (reward, info["cost"], terminated) == (their_reward, their_cost, their_terminated)
        if terminated:
            np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])


@pytest.mark.parametrize("task", list(TASKS))
def test_the_limit_is_the_published_one(task):
    assert published(task)._velocity_threshold == TASKS[task].threshold


@pytest.mark.parametrize("task", list(TASKS))
def test_the_cost_follows_from_the_reported_velocity_at_every_step(task):
    env = make_velocity(task)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(100):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        speed = (
            math.hypot(info["x_velocity"], info["y_velocity"]) if task in ("Ant", "Humanoid") else info["x_velocity"]
        )
        assert info["margins"]["cost"] == pytest.approx(speed - TASKS[task].threshold)
        assert info["cost"] == info["costs"]["cost"] == float(info["margins"]["cost"] > 0)
        if terminated or truncated:
            env.reset()


@pytest.mark.parametrize(("task", "velocity", "cost"), [("HalfCheetah", 8.0, 1.0), ("HalfCheetah", -8.0, 0.0)])
def test_only_the_forward_velocity_counts_for_a_runner_in_the_plane(task, velocity, cost):
    env = make_velocity(task)
    env.reset(seed=0)
    assert push(env, 0, velocity)["cost"] == cost


@pytest.mark.parametrize(("task", "cost"), [("Ant", 1.0), ("Swimmer", 0.0)])
def test_sideways_speed_counts_for_ant_and_not_for_swimmer(task, cost):
    env = make_velocity(task)
    env.reset(seed=0)
    info = push(env, 1, 10.0)
    assert abs(info["y_velocity"]) > TASKS[task].threshold
    assert info["cost"] == cost


def test_a_speed_exactly_at_the_limit_costs_nothing():
    def step(threshold):
        env = VelocityCost(make_velocity("HalfCheetah").env, VelocityTask(threshold))
        env.reset(seed=0)
        return env.step(np.full(6, 0.5, dtype=np.float32))[-1]

    speed = step(0.0)["x_velocity"]
    assert step(speed)["cost"] == 0.0
    assert step(np.nextafter(speed, -np.inf))["cost"] == 1.0


def test_the_time_limit_truncates_and_does_not_terminate():
    env = make_velocity("HalfCheetah", max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(6, dtype=np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_without_a_time_limit_an_episode_goes_on():
    env = make_velocity("Swimmer", max_episode_steps=None)
    env.reset(seed=0)
    assert not any(env.step(np.zeros(2, dtype=np.float32))[3] for _ in range(1001))


def test_a_fall_terminates():
    env = make_velocity("Hopper")
    env.reset(seed=0)
    for _ in range(1000):
        _, _, terminated, truncated, info = env.step(np.ones(3, dtype=np.float32))
        assert "cost" in info
        if terminated:
            break
    assert terminated
    assert not truncated


@pytest.mark.parametrize("task", list(TASKS))
def test_making_an_env_warns_of_nothing_and_writes_no_file(task, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_velocity(task)
    assert list(folder.iterdir()) == []


def test_making_an_env_silences_nothing_else():
    heard = []
    mujoco.set_mju_user_warning(heard.append)
    make_velocity("HalfCheetah")
    gymnasium.make("HalfCheetah-v5")
    mujoco.set_mju_user_warning(None)
    assert len(heard) == 1
    assert "settotalmass" in heard[0]
    with pytest.warns(DeprecationWarning, match="out of date"):
        gymnasium.make("Hopper-v4")


def test_an_unknown_task_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'HalfCheetah'"):
        make_velocity("HalfCheeta")


@pytest.mark.parametrize("velocity", [np.nan, 1e12])
def test_a_diverged_simulation_is_an_error_and_not_a_cost(velocity):
    env = make_velocity("HalfCheetah")
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="must stay finite; got a NaN, infinite or huge velocity"):
        push(env, 0, velocity)
    env.reset(seed=0)
    assert env.step(np.zeros(6, dtype=np.float32))[-1]["cost"] == 0.0


def test_an_action_that_is_not_a_number_is_an_error():
    env = make_velocity("HalfCheetah")
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="control"):
        env.step(np.full(6, np.nan, dtype=np.float32))


def test_equal_seeds_give_equal_episodes():
    def episode():
        env = make_velocity("Walker2d")
        env.action_space.seed(3)
        env.reset(seed=3)
        return [env.step(env.action_space.sample())[:3] for _ in range(20)]

    for (obs, reward, terminated), other in zip(episode(), episode(), strict=True):
        np.testing.assert_array_equal(obs, other[0])
        assert (reward, terminated) == other[1:]
