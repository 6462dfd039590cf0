"""The fitted cap on the real runners: what it predicts, how much slower it makes them, and what it refuses."""

import numpy as np
import pytest

import saferl
from saferl.envs.velocity import TASKS
from saferl.errors import ConfigError
from saferl.shields import load_shield, save_shield
from saferl.shields.velocity_cap import ARRAYS, MARGIN, VelocityCap, about
from saferl.testing import check_shield


def env_of(task):
    return saferl.make(f"Safety{task}Velocity-v1")


def fast_states(env, count, generator):
    """States about the limit: a runner thrown forwards that then moved at random for up to 5 steps."""
    limit = env.get_wrapper_attr("task").threshold
    for _ in range(count):
        env.reset(seed=int(generator.integers(2**31)))
        data = env.unwrapped
        speeds = data.data.qvel.copy()
        speeds[0] = limit * generator.uniform(0.7, 1.3)
        data.set_state(data.data.qpos.copy(), speeds)
        for _ in range(generator.integers(1, 6)):
            obs, *_ = env.step(generator.uniform(env.action_space.low, env.action_space.high).astype(np.float32))
        yield obs


def speed_after(env, state, action):
    """The speed that ``action`` leads to from ``state``."""
    env.get_wrapper_attr("set_state")(state)
    info = env.step(np.asarray(action, dtype=np.float32))[-1]
    return info["margins"]["cost"] + env.get_wrapper_attr("task").threshold


@pytest.mark.parametrize("task", about()["models"])
def test_what_is_executed_is_slower_than_what_was_proposed_when_it_is_done(task):
    env, generator = env_of(task), np.random.default_rng(0)
    shield, drops = VelocityCap.for_env(env), []
    for obs in fast_states(env, 120, generator):
        proposed = generator.uniform(env.action_space.low, env.action_space.high)
        decision = shield.filter(obs, proposed)
        if decision.kind == "pass":
            continue
        state = env.get_wrapper_attr("get_state")()
        drops.append(speed_after(env, state, proposed) - speed_after(env, state, decision.action))
    env.close()
    assert len(drops) > 20
    assert np.mean(np.array(drops) > 0.0) > 0.8
    assert np.mean(drops) > 0.02 * TASKS[task].threshold


def test_every_model_states_its_error_under_the_shield():
    for task, model in about()["models"].items():
        shielded, unshielded = model["held_out"]["shielded"], model["held_out"]["unshielded"]
        assert 0.0 < model["errors"]["rmse"] < TASKS[task].threshold, task
        assert shielded["costs"] <= unshielded["costs"], task
    assert ARRAYS.stat().st_size < 300_000


def test_limit_and_margin_come_from_the_environment():
    env = env_of("HalfCheetah")
    assert VelocityCap.for_env(env).limits == pytest.approx([3.2096 * (1.0 - MARGIN)])
    assert VelocityCap.for_env(env, margin=0.5).limits == pytest.approx([2.7096])
    env.close()


def test_a_runner_that_stands_still_is_left_alone():
    env = env_of("HalfCheetah")
    shield, (obs, _) = VelocityCap.for_env(env), env.reset(seed=0)
    for wish in np.random.default_rng(0).uniform(-1, 1, (20, 6)):
        assert shield.filter(obs, wish).kind == "pass"
    env.close()


def test_its_assumptions_state_the_error_of_the_model():
    env = env_of("HalfCheetah")
    spec = VelocityCap.for_env(env).spec()
    env.close()
    error = about()["models"]["HalfCheetah"]["errors"]["p99"]
    assert spec.guarantee == "empirical"
    assert f"{error:.2f} m/s" in spec.assumptions[0]


def test_it_keeps_the_protocol():
    env = env_of("HalfCheetah")
    shield = VelocityCap.for_env(env)
    obs = list(fast_states(env, 30, np.random.default_rng(3)))
    report = check_shield(shield, sample_obs=lambda generator: obs[generator.integers(len(obs))], steps=200)
    env.close()
    assert report.problems == ()


def test_it_travels_as_data(tmp_path):
    env = env_of("HalfCheetah")
    shield = VelocityCap.for_env(env, margin=0.3)
    again = load_shield(save_shield(shield, tmp_path / "cap"))
    assert isinstance(again, VelocityCap)
    assert (again.limits.tolist(), again.report) == (shield.limits.tolist(), shield.report)
    generator = np.random.default_rng(0)
    for obs in fast_states(env, 5, generator):
        wish = generator.uniform(-1.0, 1.0, env.action_space.shape)
        assert again.filter(obs, wish).action.tolist() == shield.filter(obs, wish).action.tolist()
    env.close()


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("SafetyPointGoal1-v0", {}, "SafetyPointGoal1-v0 is another task"),
        ("SafetyHalfCheetahVelocity-v1", {"margin": -0.1}, r"must be in \[0, 3.2096\) m/s, the limit; got -0.1"),
        ("SafetyHalfCheetahVelocity-v1", {"margin": 3.3}, "got 3.3"),
        ("SafetyHalfCheetahVelocity-v1", {"margin": float("nan")}, "got nan"),
    ],
)
def test_it_refuses_what_it_cannot_do(env_id, options, message):
    env = saferl.make(env_id)
    with pytest.raises(ConfigError, match=message):
        VelocityCap.for_env(env, **options)
    env.close()
