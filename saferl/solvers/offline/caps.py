r"""CAPS: constraint-adaptive policy switching, one training for all budgets.

Nothing of the training knows a budget. Critics of the reward and of every cost by implicit Q-learning, with the
expectile loss ``L_p(u) = |p - 1(u < 0)| u^2``, twins of which the pessimistic one counts, and primes for running
averages:

    V_r <- min E L_p(min_i Q_r,i'(s, a) - V_r(s))        Q_r,i <- r + gamma (1 - terminal) V_r(s')
    V_c <- min E L_p(V_c(s) - max_i Q_c,i'(s, a))        Q_c,i <- c + gamma (1 - terminal) V_c(s')

K heads on one trunk imitate the data, each with weights of its own, ``A_r = Q_r - V_r`` and ``A_c = V_c - Q_c``:

    w_k = min(exp(beta A_r), clip) + share_k min(exp(beta A_c), clip),   min E -sum_k w_k log pi_k(a | s)
    share_0 = 0,  share_k = k / ((K - 1) / 2);   w_{K-1} = min(exp(beta A_c), clip)

At run time, with b what is left of the budget and n of the episode's steps, the threshold is
``q = max(0, b) (1 - gamma^n) / ((1 - gamma) n)``; of the heads whose action has ``Q_c(s, a_k) < q`` the one with the
largest Q_r acts, and where there is none the one with the smallest Q_c. Chemingui, Deshwal, Wei, Fern, Doppa (2025),
"Constraint-adaptive policy switching for offline safe reinforcement learning" (the variant CAPS-IQL).

What it guarantees: nothing for learned critics. The paper bounds the violation where the optimal cost changes little
from step to step; here the critics are those of improved data, not of the switching policy, costs need not come evenly,
and no head need be cheap enough.

Differences from the paper:

- Several costs: one critic each. The cost's advantage in the heads' weights is the sum over the costs, each in units of
  the spread of its discounted sums in the data (relative to the mean spread, so that a single cost has unit 1); a head
  is safe if it is below every threshold, and the fallback is the head whose largest excess, in these units, is
  smallest. A cost without a budget limits nothing.
- The network and losses are those of implicit Q-learning with state-independent deviations; the step size of the
  policy is constant.
- Rewards and costs bootstrap through time limits; steps beyond the horizon count as its last step.
- Observations can be standardised and rewards scaled to the spread of returns (preset ``small``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from scipy.signal import lfilter
from stable_baselines3.common.utils import polyak_update

from saferl.config import check_ranges
from saferl.data.dataset import Dataset
from saferl.data.samplers import TransitionSampler
from saferl.errors import ConfigError
from saferl.policy.ensemble import Ensemble
from saferl.policy.offline import FloatArray
from saferl.policy.switching_heads import SwitchingHeads
from saferl.policy.twin_critics import pessimistic
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale
from saferl.solvers.offline.cost_critics import (
    Batch,
    as_batch,
    bellman_targets,
    critic_loss,
    descend,
    longest_episode,
    per_constraint,
)
from saferl.solvers.offline.feasibility import expectile_loss, reward_factor


@dataclass(frozen=True)
class CAPSConfig:
    """Options of CAPS; the defaults are the published ones."""

    heads: int = 2
    """Heads K: the first for the reward, the last for costs, the others between them; >= 2."""
    gamma: float = 0.99
    """Discount factor of reward and costs, in [0, 1]."""
    horizon: int = 0
    """Steps of an episode, over which the rest of a budget is spread; 0: the longest of the data."""
    expectile: float = 0.7
    """Expectile of the reward's value, and from below of the costs' values, in (0, 1)."""
    temperature: float = 3.0
    """Sharpness beta of the heads' weights, >= 0."""
    max_weight: float = 100.0
    """Largest exponential in them."""
    reward_scale: float = 0.1
    """Rewards are multiplied by this."""
    reward_span: float = 0.0
    """Where not 0, rewards are multiplied so that returns span this many times the longest episode, and by no other."""
    learning_rate: float = 3e-4
    """Step size of Adam, for all networks."""
    batch_size: int = 512
    """Transitions per update."""
    tau: float = 0.005
    """Share of the critics that the running averages take over at every update, in (0, 1]."""
    net_arch: tuple[int, ...] = (512, 512)
    """Hidden layers of the heads' trunk."""
    critic_arch: tuple[int, ...] = (512, 512)
    """Hidden layers of critics and values."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=("heads", "expectile", "max_weight", "reward_scale", "learning_rate", "batch_size", "tau"),
            non_negative=("horizon", "temperature", "reward_span"),
            unit=("gamma", "expectile", "tau"),
        )
        if self.heads < 2:
            raise ConfigError(
                f"CAPSConfig.heads must be at least 2, one for reward and one for costs; got {self.heads}."
            )


SMALL: dict[str, Any] = {
    "heads": 4,
    "reward_span": 1.0,
    "learning_rate": 1e-3,
    "batch_size": 256,
    "tau": 0.01,
    "net_arch": (128, 128),
    "critic_arch": (128, 128),
    "standardise": True,
}
"""Options of the preset ``small``, where they differ from the published ones."""


def head_weights(
    reward_advantages: th.Tensor, cost_advantages: th.Tensor, heads: int, temperature: float, max_weight: float
) -> th.Tensor:
    """Weights of transitions in the imitation of every head, (K, B).

    Args:
        reward_advantages: A_r, (B,).
        cost_advantages: A_c, positive for actions that are cheaper than expected, (B,).
        heads: K.
        temperature: Sharpness beta.
        max_weight: Largest exponential.
    """
    rewarding = (temperature * reward_advantages).exp().clamp(max=max_weight)
    cheap = (temperature * cost_advantages).exp().clamp(max=max_weight)
    rows = [rewarding]
    rows += [rewarding + 2.0 * k / (heads - 1) * cheap for k in range(1, heads - 1)]
    return th.stack([*rows, cheap])


def cost_units(dataset: Dataset, gamma: float) -> FloatArray:
    """Spread of each cost's discounted sums to the episode's end relative to the mean spread, (C,).

    A single cost has 1; costs that never vary have a unit of 1e9, and so no say.
    """
    sums = np.concatenate(
        [
            lfilter([1.0], [1.0, -gamma], dataset.costs[start:end][::-1].astype(np.float64), axis=0)
            for start, end in zip(dataset.episode_starts, dataset.episode_ends, strict=True)
        ]
    )
    spread = sums.std(axis=0)
    varies = spread > 1e-9
    if len(spread) == 1 or not varies.any():
        return np.ones(len(spread))
    return np.where(varies, spread / spread[varies].mean(), 1e9)


class CAPS(OfflineSolver):
    """Constraint-adaptive policy switching.

    Example:
        >>> solver = CAPS(preset="small")
        >>> solver.fit(data, steps=20_000)                       # doctest: +SKIP
        >>> actor = solver.actor().with_budgets({"cost": 10.0})  # doctest: +SKIP
    """

    name = "caps"
    config_class = CAPSConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only

    config: CAPSConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, the critics' running averages, optimisers and the sampler."""
        config = self.config
        self.names = data.cost_names
        self.columns = np.arange(data.num_constraints)
        self.policy_network = SwitchingHeads(
            data.num_features,
            data.action_width,
            num_costs=data.num_constraints,
            num_heads=config.heads,
            horizon=config.horizon or longest_episode(data.dataset),
            gamma=config.gamma,
            net_arch=config.net_arch,
            critic_arch=config.critic_arch,
        )
        network = self.policy_network
        network.shift, network.scale = observation_scale(data.dataset, standardise=config.standardise)
        network.units = th.as_tensor(cost_units(data.dataset, config.gamma), dtype=th.float32)
        self.reward_scale = (
            reward_factor(data.dataset, config.reward_span) if config.reward_span > 0.0 else config.reward_scale
        )
        self.values = Ensemble(1 + data.num_constraints, data.num_features, config.critic_arch)
        """V_r, then V_c of every cost."""
        self.targets = copy.deepcopy(network.critics).requires_grad_(False)
        heads = [*network.trunk.parameters(), *network.heads.parameters(), network.log_std]
        self.value_optimizer = th.optim.Adam(self.values.parameters(), lr=config.learning_rate)
        self.critic_optimizer = th.optim.Adam(network.critics.parameters(), lr=config.learning_rate)
        self.policy_optimizer = th.optim.Adam(heads, lr=config.learning_rate)
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
        self.keep(
            policy_network=network,
            values=self.values,
            targets=self.targets,
            value_optimizer=self.value_optimizer,
            critic_optimizer=self.critic_optimizer,
            policy_optimizer=self.policy_optimizer,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of the values, of the heads, of the critics; their losses, the weights' mean, the costs' values."""
        config, network = self.config, self.policy_network
        batch = as_batch(self.sampler.sample(), self.columns, scale=self.reward_scale)
        features = network.features(batch.observations)
        with th.no_grad():
            rewards, costs = pessimistic(self.targets(features, batch.actions.unsqueeze(1)))
        rewards, costs = rewards[:, 0], costs[..., 0]
        values = self.values(features)
        value_loss = expectile_loss(rewards - values[0], config.expectile)
        for cost_values, targets in zip(values[1:], costs, strict=True):
            value_loss = value_loss + expectile_loss(cost_values - targets, config.expectile)
        losses = {"loss/values": descend(self.value_optimizer, value_loss)}
        with th.no_grad():
            values = self.values(features)
            saved = ((values[1:] - costs) / network.units[:, None]).sum(dim=0)
            weights = head_weights(rewards - values[0], saved, config.heads, config.temperature, config.max_weight)
        imitation = -(weights * network.head_log_probs(features, batch.actions).T).mean(dim=1).sum()
        losses["loss/policy"] = descend(self.policy_optimizer, imitation)
        losses["loss/critics"] = descend(self.critic_optimizer, self._critic_loss(batch, features))
        polyak_update(network.critics.parameters(), self.targets.parameters(), config.tau)
        return {
            **losses,
            "weight/mean": float(weights.mean()),
            **per_constraint("cost_value", self.names, values[1:].mean(dim=1)),
        }

    def publish(self) -> SwitchingHeads:
        """Heads and critics."""
        return self.policy_network

    def _critic_loss(self, batch: Batch, features: th.Tensor) -> th.Tensor:
        network = self.policy_network
        with th.no_grad():
            following = self.values(network.features(batch.next_observations))
            targets = bellman_targets(batch.signals, following, batch.terminals, self.config.gamma)
        return critic_loss(network.critics.every(features, batch.actions.unsqueeze(1)), targets)
