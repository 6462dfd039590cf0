"""The replay buffer against what was put in: true next observations, normalisation as of today, small exact states."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

import saferl
from saferl.rollout import CostVecEnv
from saferl.rollout.replay import ConstrainedReplayBuffer

BOX = spaces.Box(-100.0, 100.0, (2,), np.float32)


def generator(seed=0):
    return th.Generator().manual_seed(seed)


def buffer_of(capacity, steps, *, space=BOX, ends=()):
    """Filled by two environments that count: in step t environment e is at t + 1000 e; ``ends`` are (t, e)."""
    buffer = ConstrainedReplayBuffer(capacity, 2, space, spaces.Box(-1, 1, (1,)), num_constraints=2)
    for t in range(steps):
        place = np.array([[t, t], [t + 1000.0, t + 1000.0]])
        after = place + 1.0
        for e in (e for when, e in ends if when == t):
            after[e] = -5.0 - t
        obs, next_obs = ({"x": x, "k": x[:, 0] % 3} if isinstance(space, spaces.Dict) else x for x in (place, after))
        costs = np.stack([place[:, 0], -place[:, 0]], axis=1)
        terminated = np.array([(t, 0) in ends, (t, 1) in ends])
        buffer.add(obs, next_obs, place[:, :1] / 5000.0, place[:, 0], costs, terminated)
    return buffer


def test_every_field_of_a_drawn_transition_belongs_to_the_same_step_and_environment():
    data = buffer_of(100, 30, ends=[(7, 0), (9, 1)]).sample(4000, generator())
    place = data.obs[:, 0]
    assert set(place.tolist()) == set(range(30)) | set(range(1000, 1030))
    np.testing.assert_array_equal(data.rewards, place)
    np.testing.assert_array_equal(data.costs, th.stack([place, -place], dim=1))
    np.testing.assert_allclose(data.actions[:, 0], place / 5000.0)
    ended = (place == 7) | (place == 1009)
    np.testing.assert_array_equal(data.terminated, ended.float())
    np.testing.assert_array_equal(data.next_obs[~ended, 0], place[~ended] + 1.0)
    assert set(data.next_obs[ended, 0].tolist()) == {-12.0, -14.0}


def test_the_oldest_transitions_are_overwritten_first():
    buffer = buffer_of(20, 13)
    assert len(buffer) == 20
    places = set((buffer.sample(2000, generator()).obs[:, 0] % 1000).tolist())
    assert places == set(range(3, 13))


def test_the_generator_alone_decides_what_is_drawn():
    buffer = buffer_of(100, 30)
    np.random.seed(1)  # noqa: NPY002
    th.manual_seed(1)
    first = buffer.sample(50, generator(4)).obs
    assert th.equal(first, buffer.sample(50, generator(4)).obs)
    assert not th.equal(first, buffer.sample(50, generator(5)).obs)


@pytest.mark.parametrize("steps", [4, 10, 13])
@pytest.mark.parametrize("space", [BOX, spaces.Dict({"x": BOX, "k": spaces.Discrete(3)})])
def test_a_state_brings_back_every_transition_also_when_the_buffer_has_wrapped(steps, space):
    ends = [(3, 0), (5, 1), (steps - 1, 0)]
    old = buffer_of(20, steps, space=space, ends=ends)
    new = ConstrainedReplayBuffer(20, 2, space, spaces.Box(-1, 1, (1,)), num_constraints=2)
    new.set_state(old.get_state())
    assert len(new) == len(old)
    for key in old.obs:
        np.testing.assert_array_equal(new.obs[key], old.obs[key])
        np.testing.assert_array_equal(new.next_obs[key], old.next_obs[key])
    for buffer in (old, new):
        place = np.full((2, 2), 77.0)
        obs = {"x": place, "k": np.zeros(2)} if isinstance(space, spaces.Dict) else place
        buffer.add(obs, obs, np.zeros(2), np.zeros(2), np.zeros((2, 2)), np.zeros(2))
    np.testing.assert_array_equal(new.rewards, old.rewards)
    np.testing.assert_array_equal(new.costs, old.costs)
    np.testing.assert_array_equal(new.terminated, old.terminated)


def test_a_state_holds_filled_rows_and_the_next_observations_of_ends_only():
    state = buffer_of(10_000, 30, ends=[(7, 0), (9, 1)]).get_state()
    assert state["obs"][""].shape == (30, 2, 2)
    rows, envs = (state["next_obs"][""][key].tolist() for key in ("rows", "envs"))
    assert sorted(zip(rows, envs, strict=True)) == [(7, 0), (9, 1), (29, 0), (29, 1)]


def test_observations_and_rewards_are_normalised_when_they_are_drawn_and_costs_never():
    layer = VecNormalize(CostVecEnv(saferl.make_vec("saferl.testing.solver_envs:drift", 2)))
    space = layer.observation_space
    buffer = ConstrainedReplayBuffer(50, 2, space, layer.action_space, num_constraints=2)
    obs = np.arange(6.0).reshape(2, 3)
    buffer.add(obs, obs + 1.0, np.zeros((2, 2)), np.array([4.0, 4.0]), np.full((2, 2), 3.0), np.zeros(2))
    layer.obs_rms.mean, layer.obs_rms.var, layer.ret_rms.var = np.full(3, 1.0), np.full(3, 4.0), 16.0
    data = buffer.sample(20, generator(), normaliser=layer)
    row = (data.obs[:, 0] > 0).long()
    expected = (th.as_tensor(obs, dtype=th.float32)[row] - 1.0) / 2.0
    np.testing.assert_allclose(data.obs, expected, rtol=1e-6)
    np.testing.assert_allclose(data.next_obs, expected + 0.5, rtol=1e-6)
    np.testing.assert_allclose(data.rewards, np.full(20, 1.0), rtol=1e-6)
    np.testing.assert_array_equal(data.costs, np.full((20, 2), 3.0))
    layer.close()
