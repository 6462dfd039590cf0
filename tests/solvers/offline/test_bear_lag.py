"""BEAR-Lag's distance by brute force, exact resume, and the budget kept on data whose best action is known."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from cost_data import BEST, BUDGET, QUICKER, assert_repeats_and_resumes, known_data, mean_action

from saferl.solvers.offline.bear_lag import BEARLag, mmd, next_values


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_the_distance_is_the_mean_over_all_pairs(kernel):
    generator = th.Generator().manual_seed(0)
    first, second = th.randn(1, 3, 2, generator=generator), th.randn(1, 4, 2, generator=generator)

    def mean(left, right):
        pairs = list(itertools.product(left[0].tolist(), right[0].tolist()))
        power = 2 if kernel == "gaussian" else 1
        distances = [sum(abs(a - b) ** power for a, b in zip(x, y, strict=True)) for x, y in pairs]
        return sum(math.exp(-d / (2 * 0.7)) for d in distances) / len(pairs)

    by_hand = math.sqrt(mean(first, first) + mean(second, second) - 2 * mean(first, second) + 1e-6)
    assert mmd(first, second, kernel=kernel, width=0.7).item() == pytest.approx(by_hand, rel=1e-4)


def test_the_distance_of_a_sample_to_itself_is_nothing_and_has_a_gradient():
    sample = th.randn(2, 5, 1).requires_grad_()
    distance = mmd(sample, sample.detach(), kernel="gaussian", width=50.0)
    np.testing.assert_allclose(distance.detach(), 1e-3, atol=1e-3)
    distance.sum().backward()
    assert th.isfinite(sample.grad).all()


def test_targets_take_the_largest_reward_and_the_largest_or_mean_cost():
    values = th.tensor([[[1.0, 3.0]], [[9.0, 7.0]]])
    np.testing.assert_array_equal(next_values(values, "max"), [[3.0], [9.0]])
    np.testing.assert_array_equal(next_values(values, "mean"), [[3.0], [8.0]])


@pytest.mark.parametrize("next_cost", ["max", "mean"])
def test_training_repeats_and_resumes_exactly(next_cost):
    assert_repeats_and_resumes(BEARLag, next_cost=next_cost)


def test_the_budget_decides_how_far_the_action_goes():
    tight, loose = (BEARLag(preset="small", ki=0.1, target_distance=0.2, **QUICKER) for _ in range(2))
    tight.fit(known_data(), steps=150, budgets={"cost": BUDGET})
    loose.fit(known_data(), steps=150, budgets={"cost": 19.0})
    assert mean_action(tight) == pytest.approx(BEST, abs=0.25)
    assert mean_action(loose) > mean_action(tight) + 0.3
