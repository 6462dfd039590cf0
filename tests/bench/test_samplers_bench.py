"""The benchmark of samplers compares batches that hold the same."""

import numpy as np
import pytest
import torch as th
from torch.utils.data import DataLoader

from saferl.bench.samplers import SampleTransitions, SampleWindows, bench_samplers, made_up, tensors
from saferl.data import WindowSampler, write_dsrl
from saferl.errors import ConfigError, TrainingError


@pytest.fixture(scope="module")
def data():
    return made_up(episodes=4, steps=6, observation=3)


def test_windows_made_one_by_one_are_those_of_the_sampler(data):
    loader = DataLoader(SampleWindows(data, 4, np.random.default_rng(0)), batch_size=50)
    observations, actions, returns, costs, _, steps, mask, totals = next(iter(loader))
    starts = steps[:, 0].numpy()
    episodes = np.array([int(np.flatnonzero((data.observations == row).all(axis=1))[0]) for row in observations[:, 0]])
    same = WindowSampler(data, 4, 50, np.random.default_rng(0)).take((episodes // 6).astype(np.int64), starts)
    assert np.array_equal(same.observations, observations)
    assert np.array_equal(same.actions, actions)
    assert np.array_equal(same.returns_to_go, returns)
    assert np.array_equal(same.costs_to_go, costs)
    assert np.array_equal(same.mask, mask.bool())
    assert np.array_equal(totals, data.cost_returns()[episodes // 6].astype(np.float32))


def test_transitions_made_one_by_one_are_rows_of_the_data(data):
    observations, following, *_, done = next(iter(DataLoader(SampleTransitions(data, np.random.default_rng(0)), 30)))
    rows = [int(np.flatnonzero((data.observations == row).all(axis=1))[0]) for row in observations]
    assert np.array_equal(data.next_observations[rows], following)
    assert np.array_equal(data.timeouts[rows], done.bool())


def test_our_batches_become_tensors_without_a_copy(data):
    batch = WindowSampler(data, 4, 8, np.random.default_rng(0)).sample()
    first = tensors(batch)[0]
    assert isinstance(first, th.Tensor)
    assert first.data_ptr() == batch.observations.ctypes.data


def test_a_peer_without_osrl_is_named(data, tmp_path):
    path = write_dsrl(data, tmp_path / "a.hdf5")
    with pytest.raises(TrainingError, match=r"must have OSRL.*ended with 0 and this output: \(none\)"):
        bench_samplers(path, batches=(4,), length=2, repeats=1, peer="true")


def test_impossible_readings_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        bench_samplers(repeats=0)
