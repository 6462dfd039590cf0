"""A policy with several heads on one trunk, which takes the best one that the rest of the budget allows.

The heads range from the most rewarding to the cheapest behaviour that the data show; critics of the reward and of every
cost compare their actions (Chemingui, Deshwal, Wei, Fern, Doppa 2025, "Constraint-adaptive policy switching for offline
safe reinforcement learning").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from saferl.policy.budget_account import BudgetAccount
from saferl.policy.offline import FloatArray, Generators, OfflinePolicy, standard_normal
from saferl.policy.twin_critics import TwinCritics, pessimistic

LOG_STD_RANGE = (-5.0, 2.0)
"""Range of the logarithm of the heads' standard deviations."""


def remaining_thresholds(left: FloatArray, steps_left: npt.NDArray[np.int64], gamma: float) -> FloatArray:
    """The rest of the budgets as discounted sums over the rest of the episode, (B, C).

    ``q = max(0, b) (1 - gamma^n) / ((1 - gamma) n)``: what critics of discounted costs say of costs that sum up to b
    and come evenly over n steps (the paper's conversion of remaining budgets).

    Args:
        left: What is left of the budgets, (B, C).
        steps_left: Steps n that are left, (B,); fewer than 1 count as 1.
        gamma: Discount factor of the critics, in [0, 1].

    Example:
        >>> remaining_thresholds(np.array([[10.0]]), np.array([200]), 0.99).round(3).tolist()
        [[4.33]]
    """
    steps = np.maximum(steps_left, 1).astype(np.float64)
    share = np.ones_like(steps) if gamma == 1.0 else (1.0 - gamma**steps) / ((1.0 - gamma) * steps)
    return np.asarray(np.maximum(left, 0.0) * share[:, None])


def choose_head(rewards: th.Tensor, costs: th.Tensor, thresholds: th.Tensor, units: th.Tensor) -> th.Tensor:
    """Indices (B,) of the heads to follow: the most rewarding below all thresholds, else the one that is least above.

    Args:
        rewards: Q_r of every head's action, (B, K).
        costs: Q_c of them, (C, B, K).
        thresholds: (C, B), infinite where nothing is limited.
        units: What an excess of each cost is measured in, (C,); of one cost it does not matter.
    """
    excess = (costs - thresholds.unsqueeze(2)) / units.view(-1, 1, 1)
    is_safe = (costs < thresholds.unsqueeze(2)).all(dim=0)
    least = excess.amax(dim=0).argmin(dim=1)
    best = rewards.masked_fill(~is_safe, -th.inf).argmax(dim=1)
    return th.where(is_safe.any(dim=1), best, least)


class SwitchingHeads(OfflinePolicy):
    """K Gaussian heads on one trunk, with the critics that choose among them at every step.

    It must be told the costs of its steps by ``observe``: without, it acts as at the start of an episode.
    """

    kind = "switching_heads"
    is_stateful = True
    takes_budgets = True

    units: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        num_costs: int,
        num_heads: int,
        horizon: int,
        gamma: float,
        net_arch: Sequence[int],
        critic_arch: Sequence[int],
    ) -> None:
        """Build the networks.

        Args:
            num_features: Width of an observation.
            action_width: Width of an action.
            num_costs: Constraints C.
            num_heads: Heads K.
            horizon: Steps of an episode.
            gamma: Discount factor of the critics.
            net_arch: Hidden layers of the trunk.
            critic_arch: Hidden layers of the critics.
        """
        arch = {
            "num_costs": num_costs,
            "num_heads": num_heads,
            "horizon": horizon,
            "gamma": gamma,
            "net_arch": list(net_arch),
            "critic_arch": list(critic_arch),
        }
        super().__init__(num_features, action_width, arch)
        self.num_costs, self.num_heads, self.horizon, self.gamma = num_costs, num_heads, horizon, gamma
        widths = [num_features, *net_arch]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Linear(widths[-1], num_heads * action_width)
        self.log_std = nn.Parameter(th.zeros(num_heads, action_width))
        self.critics = TwinCritics(num_costs, num_features, action_width, critic_arch)
        self.register_buffer("units", th.ones(num_costs))

    def means(self, features: th.Tensor) -> th.Tensor:
        """The heads' mean actions, (B, K, A), with gradients."""
        outputs: th.Tensor = self.heads(self.trunk(features))
        return outputs.view(len(features), self.num_heads, self.action_width).tanh()

    def head_log_probs(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log densities of actions (B, A) under every head, (B, K): Gaussians around the means, as in IQL."""
        log_std = self.log_std.clamp(*LOG_STD_RANGE)
        errors = (actions.unsqueeze(1) - self.means(features)) / log_std.exp()
        return (-0.5 * errors.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=2)

    def begin(self, lanes: int, budgets: FloatArray | None) -> BudgetAccount:
        """Nothing is spent; no budget is an infinite one."""
        return BudgetAccount.open(lanes, self.num_costs, budgets)

    def act(
        self, observations: th.Tensor, state: BudgetAccount, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """The action (B, A) of the chosen head; ``deterministic`` its mean."""
        with th.no_grad():
            features = self.features(observations)
            actions = self.means(features)
            if not deterministic:
                noise = standard_normal(tuple(actions.shape), generators)
                actions = (actions + self.log_std.clamp(*LOG_STD_RANGE).exp() * noise).clamp(-1.0, 1.0)
            rewards, costs = pessimistic(self.critics(features, actions))
            chosen = choose_head(rewards, costs, self.thresholds(state), self.units)
            return actions[th.arange(len(actions)), chosen]

    def thresholds(self, state: BudgetAccount) -> th.Tensor:
        """What the cost critics are compared with now, (C, B)."""
        limits = remaining_thresholds(state.left(), self.horizon - state.steps, self.gamma)
        return th.as_tensor(limits.T, dtype=th.float32)

    def observe(
        self, state: BudgetAccount, rewards: FloatArray, costs: FloatArray, ended: npt.NDArray[np.bool_]
    ) -> None:
        """Costs (B, C) are spent."""
        state.spend(costs)

    def restart(self, state: BudgetAccount, rows: npt.NDArray[np.int64]) -> None:
        """The budgets of these lanes are whole again."""
        state.clear(rows)
