"""Batches gathered at once are those that a loop over samples makes."""

import numpy as np
import pytest

from saferl.data import TransitionSampler, WindowSampler
from saferl.errors import ConfigError, DataError
from tests.data.data_sets import random_data


def _rng(seed=0):
    return np.random.default_rng(seed)


def test_windows_are_those_of_a_loop():
    data = random_data((3, 1, 7, 2))
    sampler = WindowSampler(data, 4, 50, _rng())
    batch = sampler.sample()
    starts, ends = data.episode_starts, data.episode_ends
    for row, episode in enumerate(batch.episodes):
        first = starts[episode] + batch.time_steps[row, 0]
        steps = range(first, min(first + 4, ends[episode]))
        count = len(steps)
        assert batch.mask[row].tolist() == [True] * count + [False] * (4 - count)
        assert np.array_equal(batch.observations[row, :count], data.observations[steps.start : steps.stop])
        assert np.array_equal(batch.actions[row, :count], data.actions[steps.start : steps.stop])
        for key in ("observations", "actions", "rewards", "costs", "returns_to_go", "costs_to_go", "time_steps"):
            assert not getattr(batch, key)[row, count:].any()
        for k, step in enumerate(steps):
            assert batch.time_steps[row, k] == step - starts[episode]
            assert batch.returns_to_go[row, k] == pytest.approx(data.rewards[step : ends[episode]].sum(), abs=1e-5)
            assert batch.costs_to_go[row, k] == pytest.approx(data.costs[step : ends[episode]].sum(axis=0), abs=1e-5)


def test_every_step_is_as_likely_to_begin_a_window():
    data = random_data((2, 8))
    batch = WindowSampler(data, 1, 20_000, _rng()).sample()
    first = np.where(batch.episodes == 0, batch.time_steps[:, 0], 2 + batch.time_steps[:, 0])
    assert np.bincount(first, minlength=10) / 20_000 == pytest.approx(np.full(10, 0.1), abs=0.01)


def test_weights_choose_episodes():
    data = random_data((2, 8))
    assert set(WindowSampler(data, 3, 100, _rng(), weights=[1.0, 0.0]).sample().episodes) == {0}


def test_transitions_are_rows_of_the_data():
    data = random_data(h=np.ones((9, 2)))
    batch = TransitionSampler(data, 30, _rng()).sample()
    rows = _rng().integers(len(data), size=30)
    assert np.array_equal(batch.next_observations, data.next_observations[rows])
    assert np.array_equal(batch.terminals, data.terminals[rows].astype(np.float32))
    assert batch.h.shape == (30, 2)
    assert batch.next_h is None


@pytest.mark.parametrize("kind", ["transitions", "windows"])
def test_a_sampler_goes_on_where_it_was(kind):
    def make():
        data = random_data()
        return TransitionSampler(data, 5, _rng()) if kind == "transitions" else WindowSampler(data, 2, 5, _rng())

    sampler, other = make(), make()
    sampler.sample()
    other.load_state_dict(sampler.state_dict())
    assert np.array_equal(sampler.sample().observations, other.sample().observations)


def test_impossible_batches_are_refused():
    data = random_data()
    with pytest.raises(ConfigError, match="batch_size=0"):
        TransitionSampler(data, 0, _rng())
    with pytest.raises(ConfigError, match="length=0"):
        WindowSampler(data, 0, 4, _rng())
    with pytest.raises(DataError, match="Weights of episodes must be 3 numbers"):
        WindowSampler(data, 2, 4, _rng(), weights=[0.0, 0.0, 0.0])
