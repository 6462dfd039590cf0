"""CPO's way back to a broken budget, on which every step costs reward."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import saferl
from saferl.solvers import CPO


class CostlyShare(BaseCallback):
    """The probability of the costly arm before every update."""

    def __init__(self):
        super().__init__()
        self.shares = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        with th.no_grad():
            probs = self.model.policy.get_distribution(th.ones(1, 1)).distribution.probs
        self.shares.append(float(probs[0, -1]))


@pytest.mark.parametrize("target_kl", [0.01, 0.05])
def test_a_broken_budget_is_restored_although_that_costs_reward(target_kl):
    """The bandit's optimum spends the budget 0.3 exactly; within one step of it, lower costs are lower rewards too."""
    env = saferl.make_vec("saferl.testing.probes:bandit_probe", 64)
    model = CPO("MlpPolicy", env, n_steps=16, target_kl=target_kl, cg_damping=1e-4, anneal_steps=True, seed=0)
    trace = CostlyShare()
    model.learn(64 * 16 * 60, callback=trace)
    assert trace.shares[0] > 0.4
    assert np.mean(trace.shares[-20:]) == pytest.approx(0.3, abs=0.015)
