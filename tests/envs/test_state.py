import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeReward

import saferl
from saferl.envs.state import get_state, has_state, set_state
from saferl.errors import EnvContractError

VELOCITY = ["HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid"]


def _actions(space, count):
    rng = np.random.default_rng(3)
    return rng.uniform(space.low, space.high, (count, *space.shape)).astype(space.dtype)


def _play(env, actions):
    trace = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        trace.append((obs.copy(), reward, terminated, truncated, dict(info["costs"])))
        if terminated or truncated:
            trace.append((env.reset()[0].copy(),))
    return trace


def _same(one, other):
    return all(all(np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("task", VELOCITY)
def test_a_velocity_task_goes_on_exactly_in_a_fresh_env_through_resets_and_the_time_limit(task):
    first = saferl.make(f"Safety{task}Velocity-v1", max_episode_steps=60)
    first.reset(seed=5)
    actions = _actions(first.action_space, 150)
    _play(first, actions[:47])
    state = get_state(first)
    expected = _play(first, actions[47:])
    other = saferl.make(f"Safety{task}Velocity-v1", max_episode_steps=60)
    other.reset(seed=99)
    _play(other, actions[60:75])
    set_state(other, state)
    assert _same(expected, _play(other, actions[47:]))


def test_the_state_of_another_env_is_refused():
    hopper, limited = (
        saferl.make("SafetyHopperVelocity-v1"),
        saferl.make("SafetyHopperVelocity-v1", cost=lambda *_: 0.0, budgets={"cost": 1.0}),
    )
    hopper.reset(seed=0)
    with pytest.raises(EnvContractError, match="made of"):
        set_state(limited, get_state(hopper))
    walker, state = saferl.make("SafetyWalker2dVelocity-v1"), get_state(hopper)
    walker.reset(seed=0)
    state["layers"][-1]["type"] = get_state(walker)["layers"][-1]["type"]
    with pytest.raises(EnvContractError, match="another model"):
        set_state(walker, state)


def test_a_layer_that_may_hide_state_makes_an_env_stateless():
    env = saferl.make(lambda: NormalizeReward(gymnasium.make("CartPole-v1")), cost=lambda *_: 0.0, budgets={"cost": 1})
    assert not has_state(env)
    with pytest.raises(EnvContractError, match="NormalizeReward"):
        get_state(env)


@pytest.mark.parametrize("backend", ["sync", "process"])
def test_a_batch_goes_on_exactly(backend):
    batch = saferl.make_vec("SafetyHopperVelocity-v1", 3, backend=backend)
    try:
        batch.reset(seed=0)
        actions = _actions(batch.single_action_space, 120).reshape(40, 3, -1)
        for action in actions[:13]:
            batch.step(action)
        states = batch.get_states()
        expected = [batch.step(action)[:4] for action in actions[13:]]
        batch.reset(seed=77)
        batch.set_states(states)
        assert _same(expected, [batch.step(action)[:4] for action in actions[13:]])
    finally:
        batch.close()


def test_a_batch_of_envs_without_state_says_so():
    batch = saferl.make_vec("CartPole-v1", 2, cost="toy_envs:step_number", budgets={"cost": 1.0}, backend="process")
    try:
        assert batch.get_states() is None
    finally:
        batch.close()
