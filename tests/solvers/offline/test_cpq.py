"""CPQ's penalised backup by hand, and exact resume."""

import numpy as np
import pytest
import torch as th
from cost_data import BEST, BUDGET, QUICK, QUICKER, assert_repeats_and_resumes, known_data, mean_action

from saferl.errors import ConfigError
from saferl.solvers.offline.cost_critics import bellman_targets
from saferl.solvers.offline.cpq import CPQ, Penalties, is_safe, penalised, unlikely_mean


def test_an_action_is_safe_if_every_cost_keeps_its_threshold():
    costs = th.tensor([[1.0, 1.0, 3.0, 2.0], [5.0, 6.0, 5.0, 5.0]])
    np.testing.assert_array_equal(is_safe(costs, th.tensor([2.0, 5.0])), [1.0, 0.0, 0.0, 1.0])


def test_the_penalised_backup_forgets_the_future_of_unsafe_actions():
    later, costs = th.tensor([10.0, 10.0, 10.0]), th.tensor([[1.0, 3.0, 1.0]])
    values = th.cat([penalised(later, costs, th.tensor([2.0]))[None], costs])
    targets = bellman_targets(th.tensor([[1.0] * 3, [0.5] * 3]), values, th.tensor([0.0, 0.0, 1.0]), 0.9)
    np.testing.assert_allclose(targets, [[10.0, 1.0, 1.0], [1.4, 3.2, 0.5]], rtol=1e-6)


def test_the_unlikely_quarter_is_averaged_alone():
    kl = th.tensor([[0.0, 1.0], [2.0, 3.0]])
    costs = th.tensor([[[1.0, 2.0], [4.0, 8.0]], [[10.0, 20.0], [40.0, 80.0]]])
    np.testing.assert_array_equal(unlikely_mean(costs, kl, 0.25), [8.0, 80.0])
    np.testing.assert_array_equal(unlikely_mean(costs, kl, 1.0), [3.75, 37.5])


def test_alpha_grows_while_unlikely_actions_look_cheap_and_stays_in_range():
    penalties = Penalties(2, 0.1)
    np.testing.assert_allclose(penalties.update(th.tensor([2.0, -2.0])), np.exp([0.2, -0.2]), rtol=1e-6)
    penalties.update(th.tensor([1e6, -1e6]))
    np.testing.assert_allclose(penalties.log_alpha, [5.0, -5.0])


def test_training_repeats_and_resumes_exactly():
    assert_repeats_and_resumes(CPQ)


def test_without_any_budget_left_the_policy_goes_to_the_cheapest_actions():
    """No action is safe: the pull is all that it follows."""
    solver = CPQ(preset="small", actor_learning_rate=3e-3, **QUICKER)
    solver.fit(known_data(), steps=100, budgets={"cost": 0.0})
    assert mean_action(solver) < -0.5


@pytest.mark.slow
def test_the_budget_decides_how_far_the_action_goes():
    tight, loose = (CPQ(preset="small", actor_learning_rate=1e-3, **QUICK) for _ in range(2))
    tight.fit(known_data(), steps=600, budgets={"cost": BUDGET})
    loose.fit(known_data(), steps=600, budgets={"cost": 19.0})
    assert mean_action(tight) < BEST + 0.25
    assert mean_action(loose) > mean_action(tight) + 0.3


def test_gamma_must_leave_sums_finite():
    with pytest.raises(ConfigError, match="gamma must be below 1"):
        CPQ(gamma=1.0)
