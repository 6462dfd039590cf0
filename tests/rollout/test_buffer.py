import numpy as np
import torch as th
from gymnasium import spaces

from saferl.rollout import ConstrainedRolloutBuffer

BOX = spaces.Box(-1, 1, (2,), np.float64)


def filled(truncated_at=None, observation_space=BOX):
    buffer = ConstrainedRolloutBuffer(3, 2, observation_space, spaces.Discrete(3), 2)
    rng = np.random.default_rng(0)
    for step in range(3):
        buffer.add(
            rng.normal(size=(2, 2)),
            rng.integers(3, size=2),
            rewards=np.ones(2),
            costs=np.ones((2, 2)),
            terminated=np.zeros(2),
            truncated=np.array([step == truncated_at, False]),
        )
    buffer.assess(
        rng.normal(size=6),
        values=np.array([[step, 10.0 + step] for step in range(3)]).ravel(),
        cost_values=np.array([[[step, -step], [5.0, 6.0]] for step in range(3)]).reshape(6, 2),
    )
    if truncated_at is not None:
        buffer.bootstrap(np.array([truncated_at]), np.array([0]), np.array([77.0]), np.array([[78.0, 79.0]]))
    buffer.finish(
        np.array([100.0, 200.0]),
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        gamma=1.0,
        gae_lambda=0.0,
        cost_gamma=0.5,
        cost_gae_lambda=0.0,
    )
    return buffer


def test_next_values_are_those_of_the_next_step_and_of_the_last_observation():
    buffer = filled()
    np.testing.assert_array_equal(buffer.next_values, [[1, 11], [2, 12], [100, 200]])
    np.testing.assert_array_equal(buffer.next_cost_values[-1], [[1, 2], [3, 4]])


def test_a_truncated_step_keeps_the_value_of_its_final_observation():
    buffer = filled(truncated_at=1)
    np.testing.assert_array_equal(buffer.next_values[:, 0], [1, 77, 100])
    np.testing.assert_array_equal(buffer.next_cost_values[1, 0], [78, 79])


def test_a_truncation_at_the_last_step_is_not_overwritten_by_the_next_episode():
    buffer = filled(truncated_at=2)
    assert buffer.next_values[2, 0] == 77
    assert buffer.next_values[2, 1] == 200


def test_reward_and_costs_use_their_own_discounts():
    buffer = filled()
    np.testing.assert_allclose(buffer.reward_advantages[0], [1 + 1 - 0, 1 + 11 - 10])
    np.testing.assert_allclose(buffer.cost_advantages[0, 1], [1 + 0.5 * 5 - 5, 1 + 0.5 * 6 - 6])


def test_tensors_line_up_samples_of_all_arrays():
    buffer = filled()
    data = buffer.tensors(th.device("cpu"))
    assert len(data) == 6
    assert data.cost_advantages.shape == (6, 2)
    np.testing.assert_allclose(data.reward_returns.numpy(), data.reward_advantages.numpy() + data.values.numpy())
    np.testing.assert_array_equal(data.obs_at(th.tensor([3])).numpy()[0], buffer.obs[""][1, 1])
    assert data.obs.dtype == th.float32


def test_dict_observations_are_kept_by_key():
    space = spaces.Dict({"a": BOX, "b": spaces.Discrete(4)})
    buffer = ConstrainedRolloutBuffer(1, 2, space, BOX, 1)
    obs = {"a": np.ones((2, 2)), "b": np.array([3, 1])}
    zeros = np.zeros(2)
    buffer.add(obs, np.zeros((2, 2)), zeros, np.zeros((2, 1)), zeros, zeros)
    data = buffer.tensors(th.device("cpu"))
    assert data.obs_at(th.tensor([0]))["b"].flatten().tolist() == [3]
    assert data.obs["b"].dtype == th.int64
