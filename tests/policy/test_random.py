"""The random policy is uniform, and each of its rows depends on one generator alone."""

import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from saferl.errors import ConfigError
from saferl.policy import RandomPolicy
from saferl.policy.random import uniform_action

N, LEVEL = 20_000, 1e-6  # the fixed seeds below pass; fresh ones would fail with the probability LEVEL
SPACES = {
    "box": spaces.Box(np.array([[-1.0, 2.0]], np.float32), np.array([[3.0, 2.5]], np.float32)),
    "double": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "whole numbers": spaces.Box(-2, 2, (2,), np.int32),
    "discrete": spaces.Discrete(4, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "multibinary": spaces.MultiBinary((2, 2)),
}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))


def draw(space, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([uniform_action(space, rng) for _ in range(N)])


@each_space
def test_every_action_lies_in_the_space(space):
    rng = np.random.default_rng(0)
    assert all(space.contains(uniform_action(space, rng)) for _ in range(500))


def test_box_actions_are_uniform_between_the_bounds():
    box = SPACES["box"]
    actions = draw(box)[:, 0, :]
    for column, low, high in zip(actions.T, box.low[0], box.high[0], strict=True):
        assert stats.kstest(column, "uniform", (low, high - low)).pvalue > LEVEL
    assert actions.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "size"), [("whole numbers", 25), ("discrete", 4), ("multidiscrete", 6), ("multibinary", 16)]
)
def test_all_combinations_of_categories_are_equally_frequent(name, size):
    _, counted = np.unique(draw(SPACES[name]).reshape(N, -1), axis=0, return_counts=True)
    assert len(counted) == size
    assert stats.chisquare(counted).pvalue > LEVEL


@each_space
def test_a_row_depends_on_its_own_generator_alone(space):
    policy = RandomPolicy(space)
    first = policy.sample(None, [np.random.default_rng(seed) for seed in (1, 2, 3)])
    other = policy.sample(None, [np.random.default_rng(seed) for seed in (7, 2, 8, 9)])
    np.testing.assert_array_equal(first[1], other[1])
    assert len(first) == 3
    assert len(other) == 4


@pytest.mark.parametrize(
    "observation", [np.zeros((5, 3)), np.zeros(5, np.int64), {"a": np.zeros((5, 2)), "b": np.zeros(5)}]
)
def test_predict_gives_one_action_per_row_and_passes_the_state_on(observation):
    actions, state = RandomPolicy(SPACES["discrete"], seed=0).predict(observation, state="kept", deterministic=True)
    assert actions.shape == (5,)
    assert state == "kept"


def test_a_seed_fixes_predict():
    obs = np.zeros((8, 3))
    actions = [RandomPolicy(SPACES["box"], seed=seed).predict(obs)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-np.inf, 1.0, (2,)), spaces.Text(3), spaces.Dict({"a": spaces.Discrete(2)})],
    ids=lambda space: type(space).__name__,
)
def test_a_space_without_a_uniform_distribution_is_refused_at_once(space):
    with pytest.raises(ConfigError, match=r"bounded Box.*Gymnasium wrapper"):
        RandomPolicy(space)
