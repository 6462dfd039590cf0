"""A stateful offline policy for tests, importable in worker processes."""

import numpy as np
import torch as th

from saferl.policy.offline import OfflinePolicy, standard_normal


class Remembering(OfflinePolicy):
    """Acts on what it saw of rewards and costs, on its budget, and on noise."""

    kind = "remembering"
    is_stateful = True
    takes_budgets = True

    def __init__(self, num_features, action_width):
        super().__init__(num_features, action_width, {})
        self.weight = th.nn.Parameter(th.tensor(0.1))

    def begin(self, lanes, budgets):
        limit = 0.0 if budgets is None else min(budgets[0], 100.0) / 100.0
        return {"seen": np.zeros(lanes), "limit": limit}

    def act(self, observations, state, generators, deterministic):
        seen = th.tensor(state["seen"] + state["limit"], dtype=th.float32)[:, None]
        noise = 0.0 if deterministic else standard_normal((len(observations), self.action_width), generators)
        return th.tanh(self.weight * (seen + noise) + th.zeros(len(observations), self.action_width))

    def observe(self, state, rewards, costs, ended):
        state["seen"] = np.where(ended, 0.0, state["seen"] + rewards + costs.sum(axis=1))

    def restart(self, state, rows):
        state["seen"][rows] = 0.0
