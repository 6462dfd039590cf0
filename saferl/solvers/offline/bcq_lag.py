r"""BCQ-Lag: batch-constrained Q-learning with multipliers: draws actions like the data's and improves them a little.

    VAE          min E |decoder(s, z) - a|^2 + beta KL(q(z | s, a) || N(0, 1))
    proposals    a_j = clip(b_j + reach tanh(f(s, b_j))), b_j = decoder(s, z_j), z_j ~ N(0, 1) clipped to +-0.5
    mix          m(Q) = share (pessimistic twin) + (1 - share) (other twin)
    reward       Q_r <- r + gamma (1 - terminal) max_j m(Q_r'(s', a'_j))
    cost i       Q_c,i <- c_i + gamma (1 - terminal) max_j m(Q_c,i'(s', a'_j))
    f            min E -Q_r(s, a) + sum_i lambda_i (Q_c,i(s, a) - q_i)
    multipliers  lambda = (K_I sum gap + K_P gap + K_D rise of gap)_+,  gap_i = mean Q_c,i(s, a) - q_i
    thresholds   q_i = budget_i (1 - gamma^T) / ((1 - gamma) T)

Pessimistic is the smaller reward and the larger cost; primes are running averages. BCQ: Fujimoto, Meger, Precup (2019),
"Off-policy deep reinforcement learning without exploration"; with PID multipliers (Stooke, Achiam, Abbeel 2020) it is
a baseline of Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao (2023), "Datasets and benchmarks for offline safe
reinforcement learning" (OSRL), whose settings are the defaults.

What it guarantees: actions lie within ``reach`` of what the auto-encoder draws. Of the budgets nothing: critics are
wrong where data are few, and multipliers may swing.

Differences from the paper (OSRL):

- Of the networks of a cost the largest value counts, where OSRL takes the smallest, as it does for the reward.
- Cost targets end at terminal states; neither rewards nor costs end at a time limit.
- ``selection="best"``, as in BCQ itself: of N proposals the one with the best Lagrangian acts, and the targets
  of reward and costs are the values of that action; ``"drawn"`` is OSRL's way. The preset ``small`` takes the best.
- The multiplier's proportional part acts on negative gaps too (Stooke's form); OSRL cuts it at 0.
- Several constraints, a critic and a multiplier each. The horizon T is the longest episode of the data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.utils import polyak_update

from saferl.config import check_ranges
from saferl.data.samplers import TransitionSampler
from saferl.errors import ConfigError
from saferl.policy.twin_critics import TwinCritics, mixed, pessimistic
from saferl.policy.vae import LATENT_LIMIT, PerturbedVae, lagrangian_best
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


@dataclass(frozen=True)
class BCQLagConfig(LagrangianCriticConfig):
    """Options of BCQ-Lag; the defaults are those of OSRL."""

    selection: Literal["drawn", "best"] = "drawn"
    """Whether one proposal acts as drawn, or the best of ``candidates`` by the Lagrangian."""
    candidates: int = 10
    """Proposals per state: in the targets, and to act where the best is taken; at least 2."""
    reach: float = 0.05
    """Largest change of a proposal, of actions in [-1, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(self, positive=("reach",))
        if self.candidates < 2:
            raise ConfigError(f"BCQLagConfig.candidates must be at least 2; got {self.candidates}. Try 10.")


SMALL: dict[str, Any] = {
    **SMALL_CRITICS,
    "selection": "best",
    "members": 1,
}
"""Options of the preset ``small``, where they differ from the published ones."""


class BCQLag(OfflineSolver):
    """Batch-constrained Q-learning with multipliers.

    Example:
        >>> solver = BCQLag(preset="small")
        >>> result = solver.fit(data, steps=20_000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "bcq_lag"
    config_class = BCQLagConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    needs_budgets = True

    config: BCQLagConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, their running averages, optimisers, multipliers and the sampler."""
        config = self.config
        self.limits = limits_of(data, config.gamma, config.horizon)
        self.thresholds = th.as_tensor(self.limits.thresholds, dtype=th.float32)
        count = len(self.limits.names)
        self.network = PerturbedVae(
            data.num_features,
            data.action_width,
            vae_width=config.vae_width,
            net_arch=config.net_arch,
            reach=config.reach,
            candidates=config.candidates if config.selection == "best" else 1,
            num_constraints=count,
            members=config.members,
        )
        self.network.shift, self.network.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.critics = self.network.critics or TwinCritics(
            count, data.num_features, data.action_width, config.net_arch, members=config.members
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_perturbation = copy.deepcopy(self.network.perturbation).requires_grad_(False)
        rate = config.learning_rate
        self.vae_optimizer = th.optim.Adam(self.network.vae.parameters(), lr=rate)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=rate)
        self.actor_optimizer = th.optim.Adam(self.network.perturbation.parameters(), lr=rate)
        self.multipliers = config.multipliers(count)
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
        self.keep(
            network=self.network,
            critics=self.critics,
            target_critics=self.target_critics,
            target_perturbation=self.target_perturbation,
            vae_optimizer=self.vae_optimizer,
            critic_optimizer=self.critic_optimizer,
            actor_optimizer=self.actor_optimizer,
            multipliers=self.multipliers,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of the auto-encoder, of the critics, of the perturbation, of the multipliers."""
        config, network = self.config, self.network
        batch = as_batch(self.sampler.sample(), self.limits.columns, scale=config.reward_scale)
        features = network.features(batch.observations)
        losses = {
            "loss/vae": descend_vae(
                self.vae_optimizer, network.vae, features, batch.actions, self.generator, config.kl_weight
            ),
            "loss/critics": descend(
                self.critic_optimizer,
                critic_loss(self.critics.every(features, batch.actions.unsqueeze(1)), self._targets(batch)),
            ),
        }
        with th.no_grad():
            proposals = network.vae.decode(features, self._latents(len(features), 1))
        rewards, costs = pessimistic(self.critics(features, network.perturbation(features, proposals)))
        means = costs.mean(dim=(1, 2))
        multipliers = self.multipliers.update(means - self.thresholds)
        loss = -rewards.mean() + (multipliers * (means - self.thresholds)).sum()
        losses["loss/policy"] = descend(self.actor_optimizer, loss)
        network.multipliers.copy_(multipliers)
        polyak_update(self.critics.parameters(), self.target_critics.parameters(), config.tau)
        polyak_update(network.perturbation.parameters(), self.target_perturbation.parameters(), config.tau)
        return {
            **losses,
            **per_constraint("cost_value", self.limits.names, means),
            **per_constraint("multiplier", self.limits.names, multipliers),
        }

    def publish(self) -> PerturbedVae:
        """The auto-encoder, its perturbation, and the critics where they choose."""
        return self.network

    def _latents(self, rows: int, count: int) -> th.Tensor:
        drawn = th.randn((rows, count, self.network.vae.latent), generator=self.generator)
        return drawn.clamp(-LATENT_LIMIT, LATENT_LIMIT)

    def _targets(self, batch: Batch) -> th.Tensor:
        """(1 + K, B)."""
        config, network = self.config, self.network
        with th.no_grad():
            features = network.features(batch.next_observations)
            proposals = network.vae.decode(features, self._latents(len(features), config.candidates))
            twins = self.target_critics(features, self.target_perturbation(features, proposals))
            best = lagrangian_best(twins, self.multipliers.values) if config.selection == "best" else None
            values = next_values(mixed(twins, config.twin_share), best)
            return bellman_targets(batch.signals, values, batch.terminals, config.gamma)


def next_values(values: th.Tensor, best: th.Tensor | None) -> th.Tensor:
    """Values of the next state, (1 + K, B): those of the action ``best``, or each signal's own largest.

    Args:
        values: Of N proposals, (1 + K, B, N).
        best: Index of the action that would be taken, (B,); None: every critic's maximum.
    """
    return values.amax(dim=2) if best is None else values[:, th.arange(values.shape[1]), best]
