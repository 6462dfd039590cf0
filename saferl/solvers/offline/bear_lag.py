r"""BEAR-Lag: Q-learning whose policy stays within the support of the data by a kernel distance, with multipliers.

    VAE          min E |decoder(s, z) - a|^2 + beta KL(q(z | s, a) || N(0, 1))
    distance     MMD(s)^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)
                 x: actions of the VAE, y: actions of the policy, both before squashing
    mix          m(Q) = share (pessimistic twin) + (1 - share) (other twin),   a'_j ~ policy'(s')
    reward       Q_r <- r + gamma (1 - terminal) max_j m(Q_r'(s', a'_j))
    cost i       Q_c,i <- c_i + gamma (1 - terminal) max_j m(Q_c,i'(s', a'_j))
    policy       min E -Q_r(s, a) + alpha (MMD(s) - target) + sum_i lambda_i (Q_c,i(s, a) - q_i)
    alpha        ascends alpha (E MMD - target) in log alpha, within [-5, 5]
    multipliers  lambda = (K_I sum gap + K_P gap + K_D rise of gap)_+,  gap_i = mean Q_c,i(s, a) - q_i
    thresholds   q_i = budget_i (1 - gamma^T) / ((1 - gamma) T)

The kernel is ``exp(-|x - y|^2 / (2 sigma))`` or ``exp(-|x - y|_1 / (2 sigma))``. BEAR: Kumar, Fu, Tucker, Levine
(2019), "Stabilizing off-policy Q-learning via bootstrapping error reduction"; with PID multipliers (Stooke, Achiam,
Abbeel 2020) it is a baseline of Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao (2023), "Datasets and
benchmarks for offline safe reinforcement learning" (OSRL), whose settings are the defaults.

What it guarantees: nothing about the budgets. The mean distance to the data's actions is steered to its target, which
keeps critics from being asked far off the data; they may be wrong all the same, and multipliers may swing.

Differences from the paper (OSRL):

- Of the networks of a cost the largest value counts, where OSRL takes the smallest, as it does for the reward.
- Cost targets end at terminal states; neither rewards nor costs end at a time limit.
- ``next_cost="mean"`` evaluates the policy's own cost; the published maximum over drawn actions overstates it. The
  preset ``small`` takes the mean.
- The multipliers take one step per update; OSRL's take two, one of them with alpha's step. Their proportional part
  acts on negative gaps too (Stooke's form); OSRL cuts it at 0.
- Several constraints, a critic and a multiplier each. The horizon T is the longest episode of the data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.utils import polyak_update
from torch import nn

from saferl.config import check_ranges
from saferl.data.samplers import TransitionSampler
from saferl.policy.behaviour import GaussianMlp
from saferl.policy.twin_critics import TwinCritics, mixed, pessimistic
from saferl.policy.vae import LATENT_LIMIT, ConditionalVae
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale
from saferl.solvers.offline.cost_critics import (
    SMALL_CRITICS,
    Batch,
    LagrangianCriticConfig,
    as_batch,
    bellman_targets,
    critic_loss,
    descend,
    descend_vae,
    limits_of,
    per_constraint,
)

LOG_ALPHA_RANGE = (-5.0, 5.0)
"""Range of the logarithm of the distance's multiplier."""


@dataclass(frozen=True)
class BEARLagConfig(LagrangianCriticConfig):
    """Options of BEAR-Lag; the defaults are those of OSRL."""

    next_cost: Literal["max", "mean"] = "max"
    """What the cost targets take of the next state's drawn actions."""
    samples: int = 10
    """Actions drawn per state, in the targets and for the distance."""
    kernel: Literal["gaussian", "laplacian"] = "gaussian"
    """Kernel of the distance."""
    kernel_width: float = 50.0
    """Width sigma of the kernel, in squared (gaussian) or plain (laplacian) units of unsquashed actions."""
    target_distance: float = 0.05
    """Mean MMD that the policy is kept at."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(self, positive=("samples", "kernel_width"), non_negative=("target_distance",))


SMALL: dict[str, Any] = {
    **SMALL_CRITICS,
    "next_cost": "mean",
    "samples": 5,
    "members": 1,
}
"""Options of the preset ``small``, where they differ from the published ones."""


def mmd(first: th.Tensor, second: th.Tensor, *, kernel: str, width: float) -> th.Tensor:
    """Maximum mean discrepancy between two samples per row, (B,): the square root of the biased estimate plus 1e-6.

    Args:
        first: (B, N, A).
        second: (B, M, A).
        kernel: ``gaussian`` or ``laplacian``.
        width: Sigma of ``exp(-distance / (2 sigma))``.
    """

    def mean(left: th.Tensor, right: th.Tensor) -> th.Tensor:
        difference = left.unsqueeze(2) - right.unsqueeze(1)
        distance = difference.square() if kernel == "gaussian" else difference.abs()
        return (-distance.sum(dim=-1) / (2.0 * width)).exp().mean(dim=(1, 2))

    squared = mean(first, first) + mean(second, second) - 2.0 * mean(first, second)
    return (squared.clamp(min=0.0) + 1e-6).sqrt()


class BEARLag(OfflineSolver):
    """Q-learning within the support of the data, with multipliers.

    Example:
        >>> solver = BEARLag(preset="small")
        >>> result = solver.fit(data, steps=20_000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "bear_lag"
    config_class = BEARLagConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    default_steps = 300_000
    needs_budgets = True

    config: BEARLagConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, their running averages, optimisers, multipliers and the sampler."""
        config = self.config
        self.limits = limits_of(data, config.gamma, config.horizon)
        self.thresholds = th.as_tensor(self.limits.thresholds, dtype=th.float32)
        count, sizes = len(self.limits.names), (data.num_features, data.action_width)
        self.network = GaussianMlp(*sizes, net_arch=config.net_arch)
        self.network.shift, self.network.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.vae = ConditionalVae(*sizes, width=config.vae_width)
        self.critics = TwinCritics(count, *sizes, config.net_arch, members=config.members)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_policy = copy.deepcopy(self.network).requires_grad_(False)
        self.log_alpha = nn.ParameterList([nn.Parameter(th.zeros(()))])
        rate = config.learning_rate
        self.vae_optimizer = th.optim.Adam(self.vae.parameters(), lr=rate)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=rate)
        self.actor_optimizer = th.optim.Adam(self.network.parameters(), lr=rate)
        self.alpha_optimizer = th.optim.Adam(self.log_alpha.parameters(), lr=rate)
        self.multipliers = config.multipliers(count)
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
        self.keep(
            network=self.network,
            vae=self.vae,
            critics=self.critics,
            target_critics=self.target_critics,
            target_policy=self.target_policy,
            log_alpha=self.log_alpha,
            vae_optimizer=self.vae_optimizer,
            critic_optimizer=self.critic_optimizer,
            actor_optimizer=self.actor_optimizer,
            alpha_optimizer=self.alpha_optimizer,
            multipliers=self.multipliers,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of the auto-encoder, of the critics, of the policy, of alpha and the multipliers."""
        config = self.config
        batch = as_batch(self.sampler.sample(), self.limits.columns, scale=config.reward_scale)
        features = self.network.features(batch.observations)
        losses = {
            "loss/vae": descend_vae(
                self.vae_optimizer, self.vae, features, batch.actions, self.generator, config.kl_weight
            ),
            "loss/critics": descend(
                self.critic_optimizer,
                critic_loss(self.critics.every(features, batch.actions.unsqueeze(1)), self._targets(batch)),
            ),
        }
        raw = self._draw(self.network, batch.observations)
        distance = mmd(self._like_data(features), raw, kernel=config.kernel, width=config.kernel_width).mean()
        rewards, costs = pessimistic(self.critics(features, raw[:, :1].tanh()))
        means = costs.mean(dim=(1, 2))
        multipliers = self.multipliers.update(means - self.thresholds)
        alpha = self.log_alpha[0].exp()
        excess = distance - config.target_distance
        loss = -rewards.mean() + alpha.detach() * excess + (multipliers * (means - self.thresholds)).sum()
        losses["loss/policy"] = descend(self.actor_optimizer, loss)
        descend(self.alpha_optimizer, -alpha * excess.detach())
        with th.no_grad():
            self.log_alpha[0].clamp_(*LOG_ALPHA_RANGE)
        polyak_update(self.critics.parameters(), self.target_critics.parameters(), config.tau)
        polyak_update(self.network.parameters(), self.target_policy.parameters(), config.tau)
        return {
            **losses,
            "distance": float(distance.detach()),
            "alpha": float(alpha.detach()),
            **per_constraint("cost_value", self.limits.names, means),
            **per_constraint("multiplier", self.limits.names, multipliers),
        }

    def publish(self) -> GaussianMlp:
        """The policy."""
        return self.network

    def _draw(self, policy: GaussianMlp, observations: th.Tensor) -> th.Tensor:
        """Actions before squashing, (B, samples, A)."""
        mean, log_std = policy(observations)
        noise = th.randn((len(mean), self.config.samples, mean.shape[1]), generator=self.generator)
        drawn: th.Tensor = mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise
        return drawn

    def _like_data(self, features: th.Tensor) -> th.Tensor:
        """Actions of the auto-encoder before squashing, (B, samples, A), without gradients."""
        latents = th.randn((len(features), self.config.samples, self.vae.latent), generator=self.generator)
        with th.no_grad():
            return self.vae.decode_raw(features, latents.clamp(-LATENT_LIMIT, LATENT_LIMIT))

    def _targets(self, batch: Batch) -> th.Tensor:
        """(1 + K, B)."""
        config = self.config
        with th.no_grad():
            actions = self._draw(self.target_policy, batch.next_observations).tanh()
            twins = self.target_critics(self.network.features(batch.next_observations), actions)
            values = next_values(mixed(twins, config.twin_share), config.next_cost)
            return bellman_targets(batch.signals, values, batch.terminals, config.gamma)


def next_values(values: th.Tensor, next_cost: str) -> th.Tensor:
    """Values of the next state, (1 + K, B): the reward's largest of N drawn actions, the costs' largest or mean.

    Args:
        values: (1 + K, B, N).
        next_cost: ``max`` or ``mean``.
    """
    costs = values[1:].amax(dim=2) if next_cost == "max" else values[1:].mean(dim=2)
    return th.cat([values[:1].amax(dim=2), costs])
