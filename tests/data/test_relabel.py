"""The data's frontier and relabelled episodes, against brute force and by the invariants of the relabelling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.data.dataset import Dataset
from saferl.data.relabel import Frontier, TargetSampler, pareto_front, relabel, thrifty_weights

HOW = {"share": 0.5, "headroom": 0.2, "slack": 0.2, "spread": 0.02}


def episodes(count=12, length=5, num_costs=1, seed=0, least_cost=0.0):
    rng = np.random.default_rng(seed)
    rows = count * length
    return Dataset.from_arrays(
        observations=rng.normal(size=(rows, 2)).astype(np.float32),
        next_observations=rng.normal(size=(rows, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(rows, 1)).astype(np.float32),
        rewards=rng.uniform(0, 1, size=rows).astype(np.float32),
        costs=(least_cost + rng.integers(0, 3, size=(rows, num_costs))).astype(np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=np.arange(rows) % length == length - 1,
    )


def is_beaten(by, returns, costs, episode):
    as_good = returns[by] >= returns[episode] and (costs[by] <= costs[episode]).all()
    return as_good and (returns[by] > returns[episode] or (costs[by] < costs[episode]).any())


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12))
def test_the_frontier_has_every_episode_that_no_other_beats(points):
    table = np.array(points, dtype=np.float64)
    returns, costs = table[:, 0], table[:, 1:]
    count = range(len(points))
    expected = {e for e in count if not any(is_beaten(other, returns, costs, e) for other in count)}
    front = pareto_front(returns, costs)
    assert set(front.tolist()) == expected
    assert len(front) == len(expected)
    assert (np.diff(returns[front]) >= 0).all()


@given(st.integers(0, 50), st.floats(0, 40))
def test_the_frontier_gives_the_best_return_within_a_budget(seed, budget):
    data = episodes(seed=seed)
    front = Frontier.of(data)
    returns, costs = data.returns(), data.cost_returns()[:, 0]
    picked = front.pick([budget])
    if (costs <= budget).any():
        assert front.returns[picked] == returns[costs <= budget].max()
        assert front.costs[picked, 0] <= budget
    else:
        assert front.costs[picked, 0] == costs.min()


@pytest.mark.parametrize("num_costs", [1, 2])
def test_added_episodes_keep_their_budget_and_are_asked_for_more_than_data_reach_within_it(num_costs):
    data = episodes(count=40, num_costs=num_costs)
    returns, costs = data.returns(), data.cost_returns()
    labels = relabel(returns, costs, np.random.default_rng(0), **HOW)
    assert len(labels.episodes) == 40 + 20
    np.testing.assert_array_equal(labels.episodes[:40], np.arange(40))
    assert not labels.return_shifts[:40].any()
    assert not labels.cost_shifts[:40].any()
    assert (labels.cost_shifts >= 0).all()
    assert labels.return_shifts[40:].max() > 0
    span, seen = np.ptp(returns), set()
    added = (labels.episodes[40:], labels.return_shifts[40:], labels.cost_shifts[40:])
    for episode, more, spare in zip(*added, strict=True):
        budget, asked = costs[episode] + spare, returns[episode] + more
        within = (costs <= budget + 1e-9).all(axis=1)
        best = returns[within].max()
        assert best - 1e-9 <= asked <= returns.max() + 0.2 * span + 1e-9
        assert returns[episode] >= best - 0.2 * span - 1e-9
        if returns[episode] != best:
            assert seen & set(np.flatnonzero(within & (returns == best)).tolist())  # that one had served already
        seen.add(int(episode))
    if num_costs == 1:
        np.testing.assert_allclose(
            (costs[labels.episodes] + labels.cost_shifts)[40:, 0], np.linspace(costs.min(), costs.max(), 20)
        )


def test_no_share_adds_nothing():
    data = episodes()
    labels = relabel(data.returns(), data.cost_returns(), np.random.default_rng(0), **{**HOW, "share": 0.0})
    np.testing.assert_array_equal(labels.episodes, np.arange(12))


def test_data_that_cost_a_lot_everywhere_are_still_drawn():
    """OSRL's chances, 70 minus the cost, leave nothing of these."""
    weights = thrifty_weights(np.array([[100.0], [200.0], [150.0]]), 0.9)
    np.testing.assert_allclose(weights, [1.0, 0.1, 0.55])
    np.testing.assert_array_equal(thrifty_weights(np.full((3, 2), 80.0), 0.9), np.ones(3))


def test_windows_show_shifted_targets_whose_steps_are_those_of_the_data():
    data = episodes(count=30, num_costs=2)
    labels = relabel(data.returns(), data.cost_returns(), np.random.default_rng(3), **HOW)
    weights = np.ones(len(labels.episodes))
    sampler = TargetSampler(data, 4, 8, np.random.default_rng(0), relabelling=labels, weights=weights)
    drawn = np.arange(len(labels.episodes))
    whole = sampler.take(drawn, np.zeros(len(drawn), dtype=np.int64))
    start = data.episode_starts[labels.episodes]
    np.testing.assert_allclose(
        whole.returns_to_go[:, 0], data.returns()[labels.episodes] + labels.return_shifts, rtol=1e-5
    )
    np.testing.assert_allclose(
        whole.costs_to_go[:, 0], data.cost_returns()[labels.episodes] + labels.cost_shifts, rtol=1e-5
    )
    np.testing.assert_allclose(-np.diff(whole.returns_to_go), data.rewards[start[:, None] + np.arange(3)], atol=1e-5)
    np.testing.assert_allclose(
        -np.diff(whole.costs_to_go, axis=1), data.costs[start[:, None] + np.arange(3)], atol=1e-5
    )
    late = sampler.take(drawn, np.full(len(drawn), 3))
    assert late.mask.tolist() == [[True, True, False, False]] * len(drawn)
    for array in (late.observations, late.actions, late.returns_to_go, late.costs_to_go, late.time_steps):
        assert not array[:, 2:].any()


def test_episodes_are_drawn_by_their_weights():
    data = episodes(count=3)
    labels = relabel(data.returns(), data.cost_returns(), np.random.default_rng(0), **{**HOW, "share": 0.0})
    sampler = TargetSampler(
        data, 1, 30_000, np.random.default_rng(0), relabelling=labels, weights=np.array([1.0, 0.0, 3.0])
    )
    first = sampler.sample().observations[:, 0, 0]
    shares = [np.isin(first, data.observations[5 * e : 5 * e + 5, 0]).mean() for e in range(3)]
    np.testing.assert_allclose(shares, [0.25, 0.0, 0.75], atol=0.01)
