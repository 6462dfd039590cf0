"""Data whose best action within a budget is known, and checks that the solvers with cost critics share."""

import numpy as np
import torch as th

from saferl.data.dataset import Dataset

QUICK = {"gamma": 0.8, "net_arch": (32, 32), "batch_size": 128}
QUICKER = {"gamma": 0.5, "net_arch": (16, 16), "batch_size": 64, "learning_rate": 3e-3, "tau": 0.05}
"""Enough for the data below within some 200 updates."""
BUDGET = 8.0
"""Of episodes of 20 steps: 0.4 per step."""
BEST = -0.2
"""Reward ``2 a - a^2`` rises with the action, cost ``(a + 1) / 2`` too; 0.4 per step is the action -0.2."""


def known_data(num_costs=1, seed=0):
    """100 episodes of 20 independent steps with uniform actions in [-1, 1]; a second cost is always 0."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(2000, 2)).astype(np.float32)
    actions = rng.uniform(-1.0, 1.0, size=(2000, 1)).astype(np.float32)
    timeouts = np.arange(2000) % 20 == 19
    costs = np.hstack([(actions + 1.0) / 2.0, np.zeros_like(actions)])[:, :num_costs]
    return Dataset.from_arrays(
        observations=observations,
        next_observations=np.where(timeouts[:, None], observations, np.roll(observations, -1, axis=0)),
        actions=actions,
        rewards=(2.0 * actions - actions**2)[:, 0],
        costs=costs,
        terminals=np.zeros(2000, dtype=bool),
        timeouts=timeouts,
    )


def mean_action(solver):
    """Of deterministic actions at 500 observations."""
    probe = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    return float(solver.predict(probe, deterministic=True)[0].mean())


def assert_repeats_and_resumes(solver_class, **options):
    """The same seed gives the same weights, another seed others, and a resumed training goes on exactly."""

    def weights(solver):
        return np.concatenate([value.numpy().ravel() for value in solver.policy().state_dict().values()])

    def new():
        return solver_class(preset="small", **{**QUICK, **options})

    data, budgets = known_data(2), {"cost": BUDGET, "cost_1": 3.0}
    whole, again, other = new(), new(), new()
    whole.fit(data, steps=8, seed=1, budgets=budgets)
    again.fit(data, steps=8, seed=1, budgets=budgets)
    other.fit(data, steps=8, seed=2, budgets=budgets)
    np.testing.assert_array_equal(weights(whole), weights(again))
    assert np.abs(weights(whole) - weights(other)).max() > 0
    first, second = new(), new()
    first.fit(data, steps=5, seed=1, budgets=budgets)
    second.start(data, seed=1, budgets=budgets)
    second.load_state_dict(first.state_dict())
    th.manual_seed(99)
    second.advance(3)
    np.testing.assert_array_equal(weights(second), weights(whole))
    left, right = whole.state_dict()["parts"], second.state_dict()["parts"]
    for name in left:
        np.testing.assert_equal(right[name], left[name])
