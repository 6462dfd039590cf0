r"""CPQ: constraints-penalised Q-learning, whose reward critic forgets the future of unsafe actions.

    thresholds   q_i = budget_i (1 - gamma^T) / ((1 - gamma) T)
    safe         S(s, a) = 1 where Q_c,i(s, a) <= q_i for every i, else 0
    reward       Q_r <- r + gamma (1 - terminal) S'(s', a') Q_r'(s', a'),   a' ~ policy(s')
    cost i       Q_c,i <- c_i + gamma (1 - terminal) Q_c,i'(s', a'),  and  - alpha_i (E_ood Q_c,i - 1.5 q_i) in the loss
    ood          of actions drawn from the policy the quarter with the largest KL(q(z | s, a) || N(0, 1)) of a VAE
    alpha_i      log alpha_i <- log alpha_i + lr alpha_i (1.5 q_i - E_ood Q_c,i), within [-5, 5]
    policy       max E S(s, a) Q_r(s, a) - pull sum_i (Q_c,i(s, a) - q_i)_+,   a ~ policy(s);  pull = 0 as published

Actions that the data do not show are so made to look costly, and costly ones to end the reward. Primes are running
averages; of the twins the smaller reward and the larger cost count. Xu, Zhan, Zhu (2022), "Constraints penalized
Q-learning for safe offline reinforcement learning"; hyper-parameters of OSRL (Liu et al. 2023), which are the defaults.

What it guarantees: nothing. With exact critics and rewards that are never negative a greedy policy prefers actions
whose discounted cost keeps the thresholds. With negative rewards a penalised 0 is better than an unpenalised value
(``shift_rewards`` mends that), and where all actions are unsafe the policy has no gradient.

Differences from the paper (and from OSRL):

- Of the twins of a cost the larger counts, where OSRL takes the smaller; cost targets end at terminal states; neither
  rewards nor costs end at a time limit.
- ``E_ood`` is the mean over the unlikely actions; OSRL's divides by the number of all, so that they are pushed to four
  times the level. They are squashed like the actions that are executed, which OSRL leaves out.
- Several constraints, a critic and an alpha each; an action is safe if it is safe for all.
- ``shift_rewards`` (preset ``small``) subtracts the data's smallest reward, so that 0 is the worst.
- ``unsafe_pull`` (preset ``small``) leads the policy out of regions where all its actions are unsafe.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import polyak_update

from saferl.config import check_ranges
from saferl.data.samplers import TransitionSampler
from saferl.policy.behaviour import GaussianMlp
from saferl.policy.twin_critics import TwinCritics, pessimistic
from saferl.policy.vae import ConditionalVae, latent_kl
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale
from saferl.solvers.offline.cost_critics import (
    SMALL_CRITICS,
    Batch,
    CriticConfig,
    as_batch,
    bellman_targets,
    critic_loss,
    descend,
    descend_vae,
    limits_of,
    per_constraint,
)

LOG_ALPHA_RANGE = (-5.0, 5.0)
"""Range of the logarithm of the penalty's weight."""


@dataclass(frozen=True)
class CPQConfig(CriticConfig):
    """Options of CPQ; the defaults are those of OSRL."""

    shift_rewards: bool = False
    """Whether the data's smallest reward is subtracted from all, so that the penalised value 0 is the worst."""
    unsafe_pull: float = 0.0
    """Weight of the excess over the thresholds in the policy's loss; 0: unsafe actions have no gradient."""
    samples: int = 10
    """Actions drawn per state, among which the unlikely ones are looked for."""
    unlikely_share: float = 0.25
    """Share of them that counts as not shown by the data, in (0, 1]."""
    unlikely_level: float = 1.5
    """How many thresholds the cost critic of unlikely actions is driven to."""
    actor_learning_rate: float = 1e-4
    """Step size of Adam, for the policy."""
    alpha_learning_rate: float = 1e-4
    """Step size of log alpha."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(
            self,
            positive=("samples", "unlikely_share", "actor_learning_rate"),
            non_negative=("unsafe_pull", "unlikely_level", "alpha_learning_rate"),
            unit=("unlikely_share",),
        )


SMALL: dict[str, Any] = {
    **SMALL_CRITICS,
    "shift_rewards": True,
    "unsafe_pull": 1.0,
    "alpha_learning_rate": 0.1,
    "samples": 5,
    "actor_learning_rate": 3e-4,
}
"""Options of the preset ``small``, where they differ from the published ones."""


def is_safe(costs: th.Tensor, thresholds: th.Tensor) -> th.Tensor:
    """1 where every cost keeps its threshold, else 0.

    Args:
        costs: (K, ...).
        thresholds: (K,).
    """
    limits = thresholds.view(-1, *(1,) * (costs.dim() - 1))
    return (costs <= limits).all(dim=0).float()


def penalised(rewards: th.Tensor, costs: th.Tensor, thresholds: th.Tensor) -> th.Tensor:
    """``S(s, a) Q_r(s, a)`` (CPQ, equation 8): the value of safe actions, 0 for the others.

    Args:
        rewards: (...,).
        costs: (K, ...).
        thresholds: (K,).
    """
    return is_safe(costs, thresholds) * rewards


def unlikely_mean(costs: th.Tensor, kl: th.Tensor, share: float) -> th.Tensor:
    """Mean cost value of the actions that the auto-encoder finds least likely, (K,).

    Args:
        costs: (K, B, N).
        kl: Of each action's latent, (B, N).
        share: Of all B N actions that count as unlikely.
    """
    unlikely = (kl >= th.quantile(kl.flatten(), 1.0 - share)).float()
    return (costs * unlikely).sum(dim=(1, 2)) / unlikely.sum()


class CPQ(OfflineSolver):
    """Constraints-penalised Q-learning.

    Example:
        >>> solver = CPQ(preset="small")
        >>> result = solver.fit(data, steps=20_000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "cpq"
    config_class = CPQConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    needs_budgets = True

    config: CPQConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, the critics' running averages, optimisers, alphas and the sampler."""
        config = self.config
        self.limits = limits_of(data, config.gamma, config.horizon)
        self.thresholds = th.as_tensor(self.limits.thresholds, dtype=th.float32)
        self.offset = float(data.dataset.rewards.min()) if config.shift_rewards else 0.0
        count, sizes = len(self.limits.names), (data.num_features, data.action_width)
        self.network = GaussianMlp(*sizes, net_arch=config.net_arch)
        self.network.shift, self.network.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.vae = ConditionalVae(*sizes, width=config.vae_width)
        self.critics = TwinCritics(count, *sizes, config.net_arch)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.penalties = Penalties(count, config.alpha_learning_rate)
        self.vae_optimizer = th.optim.Adam(self.vae.parameters(), lr=config.learning_rate)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=config.learning_rate)
        self.actor_optimizer = th.optim.Adam(self.network.parameters(), lr=config.actor_learning_rate)
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
        self.keep(
            network=self.network,
            vae=self.vae,
            critics=self.critics,
            target_critics=self.target_critics,
            penalties=self.penalties,
            vae_optimizer=self.vae_optimizer,
            critic_optimizer=self.critic_optimizer,
            actor_optimizer=self.actor_optimizer,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of the auto-encoder, of the critics and alphas, of the policy."""
        config = self.config
        batch = as_batch(self.sampler.sample(), self.limits.columns, scale=config.reward_scale, offset=self.offset)
        features = self.network.features(batch.observations)
        losses = {
            "loss/vae": descend_vae(
                self.vae_optimizer, self.vae, features, batch.actions, self.generator, config.kl_weight
            )
        }
        with th.no_grad():
            drawn = self._draw(batch.observations, config.samples)
            beside = features.unsqueeze(1).expand(-1, config.samples, -1)
            kl = latent_kl(*self.vae.encode(beside, drawn))
        unlikely = unlikely_mean(pessimistic(self.critics(features, drawn))[1], kl, config.unlikely_share)
        excess = unlikely - config.unlikely_level * self.thresholds
        alphas = self.penalties.update(-excess.detach())
        errors = critic_loss(self.critics.every(features, batch.actions.unsqueeze(1)), self._targets(batch))
        losses["loss/critics"] = descend(self.critic_optimizer, errors - (alphas * excess).sum())
        rewards, costs = pessimistic(self.critics(features, self._draw(batch.observations, 1)))
        beyond = (costs - self.thresholds[:, None, None]).clamp(min=0.0).sum(dim=0).mean()
        loss = -penalised(rewards, costs, self.thresholds).mean() + config.unsafe_pull * beyond
        losses["loss/policy"] = descend(self.actor_optimizer, loss)
        polyak_update(self.critics.parameters(), self.target_critics.parameters(), config.tau)
        return {
            **losses,
            "safe_share": float(is_safe(costs.detach(), self.thresholds).mean()),
            **per_constraint("cost_value", self.limits.names, costs.mean(dim=(1, 2))),
            **per_constraint("unlikely_cost_value", self.limits.names, unlikely),
            **per_constraint("alpha", self.limits.names, alphas),
        }

    def publish(self) -> GaussianMlp:
        """The policy."""
        return self.network

    def _draw(self, observations: th.Tensor, count: int) -> th.Tensor:
        """Actions of the policy, (B, count, A)."""
        mean, log_std = self.network(observations)
        noise = th.randn((len(mean), count, mean.shape[1]), generator=self.generator)
        drawn: th.Tensor = (mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise).tanh()
        return drawn

    def _targets(self, batch: Batch) -> th.Tensor:
        """(1 + K, B)."""
        with th.no_grad():
            actions = self._draw(batch.next_observations, 1)
            rewards, costs = pessimistic(self.target_critics(self.network.features(batch.next_observations), actions))
            values = th.cat([penalised(rewards, costs, self.thresholds)[None], costs])[..., 0]
            return bellman_targets(batch.signals, values, batch.terminals, self.config.gamma)


class Penalties:
    """Weights alpha of the unlikely actions' costs: ``log alpha <- clip(log alpha + lr alpha gap, -5, 5)``."""

    def __init__(self, num_constraints: int, learning_rate: float) -> None:
        """Start at alpha = 1."""
        self.log_alpha, self.learning_rate = th.zeros(num_constraints), learning_rate

    def update(self, gaps: th.Tensor) -> th.Tensor:
        """Take one step along ``gaps`` (K,), positive where unlikely actions look too cheap; the new alphas."""
        self.log_alpha = (self.log_alpha + self.learning_rate * self.log_alpha.exp() * gaps).clamp(*LOG_ALPHA_RANGE)
        return self.log_alpha.exp()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {"log_alpha": self.log_alpha.numpy().copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.log_alpha = th.tensor(state["log_alpha"])
