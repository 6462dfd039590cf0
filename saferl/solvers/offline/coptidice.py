r"""COptiDICE: the state-action distribution that is best within the budgets, and the policy behind it.

Over distributions d of states and actions that the dynamics allow, with the data's d^D and a convex f:

    max_d  E_d[r] - alpha E_D[f(d / d^D)]   subject to  E_d[c_i] <= (1 - gamma) q_i

Its dual has the ratio w = d / d^D in closed form, so that no policy is asked for actions:

    e(s, a, s')  = r - sum_i lambda_i c_i + gamma (1 - terminal) nu(s') - nu(s)
    w            = max(0, (f')^-1(e / alpha))
    nu           min  (1 - gamma) E_{s0} nu(s0) + E_D[w e - alpha f(w)]
    lambda_i     ascends lambda_i (C_i - (1 - gamma) q_i)
    policy       max  E_D[w log pi(a | s)]
    q_i          = budget_i (1 - gamma^T) / ((1 - gamma) T),  a discounted sum; times (1 - gamma) it is a mean per step

C_i bounds E_D[w c_i] over all reweightings p of the samples within a KL ball, min over tau, chi of the dual:

    l            = w (c_i + gamma (1 - terminal) chi_i(s') - chi_i(s)) + (1 - gamma) chi_i(s0)
    bound        = min_{tau, chi} tau log E exp(l / tau) + tau epsilon,   p = softmax(l / tau),   C_i = E_p[w c_i]

Lee, Paduraru, Mankowitz, Heess, Precup, Kim, Guez (2022), "COptiDICE: offline constrained reinforcement learning via
stationary distribution correction estimation"; hyper-parameters of OSRL (Liu et al. 2023), which are the defaults.

What it guarantees: with exact expectations and functions that can express the optimum, w is that of the regularised
problem and the bound holds for every distribution within the ball. The learned policy guarantees nothing: nu, chi
and the weighted imitation have errors, and with random transitions e of single samples biases w.

Differences from the paper (and from OSRL):

- The limit of E_D[w c] is ``(1 - gamma) q``: w weighs a normalised distribution, whose mean is that much of a
  discounted sum. OSRL compares with q itself, which is 1 / (1 - gamma) times too much and hardly ever binds.
- First states are drawn apart from transitions, as in the paper; OSRL marks those of the batch, few or none.
- The policy is imitated through its squashing; OSRL takes the density before it. Of chi's networks the largest counts.
- Terminal states end both values; a time limit ends neither.
- Several constraints, each with its own lambda, chi and tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th

from saferl.config import check_ranges
from saferl.data.samplers import TransitionSampler
from saferl.errors import ConfigError
from saferl.policy.behaviour import GaussianMlp
from saferl.policy.ensemble import Ensemble
from saferl.solvers.dual import AdamDual
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale
from saferl.solvers.offline.cost_critics import Batch, Multipliers, as_batch, descend, limits_of, per_constraint
from saferl.solvers.offline.data import EDGE

FIRST_SCALAR = float(np.log1p(np.e))
"""First lambda and tau: softplus of 1, as OSRL has it."""


@dataclass(frozen=True)
class COptiDICEConfig:
    """Options of COptiDICE; the defaults are those of OSRL."""

    gamma: float = 0.99
    """Discount factor of reward and costs, in [0, 1)."""
    horizon: int = 0
    """Steps T of an episode, by which budgets become thresholds; 0: the longest of the data."""
    reward_scale: float = 0.1
    """Rewards are multiplied by this."""
    divergence: Literal["softchi", "chi2", "kl"] = "softchi"
    """f: chi-square, whose weights can be 0; the same above 1 and KL below; or KL."""
    alpha: float = 0.5
    """Weight of the divergence from the data, in units of scaled reward per step."""
    ball: float = 0.01
    """Radius epsilon of the KL ball over which costs are bounded; 0: costs are estimated, not bounded."""
    noise: float = 0.1
    """Noise on imitated observations and actions, in standard deviations of the data."""
    members: int = 2
    """Networks of nu, of which the smallest counts, and of every chi, of which the largest does."""
    actor_learning_rate: float = 1e-4
    """Step size of Adam, for the policy."""
    learning_rate: float = 1e-4
    """Step size of Adam, for nu and chi."""
    scalar_learning_rate: float = 1e-4
    """Step size of Adam, for lambda and tau."""
    batch_size: int = 512
    """Transitions per update."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of all networks."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=(
                *("reward_scale", "alpha", "members", "actor_learning_rate", "learning_rate"),
                *("scalar_learning_rate", "batch_size"),
            ),
            non_negative=("horizon", "ball", "noise"),
            unit=("gamma",),
        )
        if self.gamma == 1.0:
            raise ConfigError("COptiDICEConfig.gamma must be below 1, or sums have no bound; got 1. Try 0.99.")


SMALL: dict[str, Any] = {
    "reward_scale": 1.0,
    "alpha": 0.1,
    "members": 1,
    "actor_learning_rate": 1e-3,
    "learning_rate": 1e-3,
    "scalar_learning_rate": 1e-2,
    "batch_size": 256,
    "net_arch": (64, 64),
    "standardise": True,
}
"""Options of the preset ``small``, where they differ from the published ones."""


def divergence(weights: th.Tensor, kind: str) -> th.Tensor:
    """f(w) >= 0, convex, 0 at 1: half a chi-square, KL, or KL below 1 and chi-square above (``softchi``)."""
    chi = 0.5 * (weights - 1.0).square()
    if kind == "chi2":
        return chi
    kl = th.xlogy(weights, weights) - weights + 1.0
    return kl if kind == "kl" else th.where(weights < 1.0, kl, chi)


def closed_form_weights(advantages: th.Tensor, alpha: float, kind: str) -> th.Tensor:
    """``w = max(0, (f')^-1(e / alpha))``, the maximiser of ``w e - alpha f(w)`` (COptiDICE, proposition 1)."""
    slopes = advantages / alpha
    if kind == "chi2":
        return (slopes + 1.0).clamp(min=0.0)
    if kind == "kl":
        return slopes.exp()
    return th.where(slopes < 0.0, slopes.clamp(max=0.0).exp(), slopes + 1.0)


def nu_loss(first: th.Tensor, advantages: th.Tensor, alpha: float, gamma: float, kind: str) -> th.Tensor:
    """``(1 - gamma) E nu(s0) + E[w e - alpha f(w)]``, convex in nu.

    Args:
        first: nu of first states, (B,).
        advantages: e, (B,).
        alpha: Weight of the divergence.
        gamma: Discount factor.
        kind: Of the divergence.
    """
    weights = closed_form_weights(advantages, alpha, kind)
    return (1.0 - gamma) * first.mean() + (weights * advantages - alpha * divergence(weights, kind)).mean()


def ball_weights(values: th.Tensor, temperatures: th.Tensor) -> th.Tensor:
    """The worst reweighting ``p ~ exp(l / tau)`` of the samples, with mean 1, (K, B).

    Args:
        values: l, (K, B).
        temperatures: tau, (K,).
    """
    return th.softmax(values / temperatures[:, None], dim=1) * values.shape[1]


def ball_divergence(weights: th.Tensor) -> th.Tensor:
    """``KL(p || uniform) = E[p log p]`` of reweightings with mean 1, (K,)."""
    return th.xlogy(weights, weights).mean(dim=1)


def cost_bound(values: th.Tensor, temperatures: th.Tensor, ball: float) -> th.Tensor:
    """``tau log E exp(l / tau) + tau epsilon``, (K,): at the best tau the worst mean of l within the ball.

    Args:
        values: l, (K, B).
        temperatures: tau, (K,).
        ball: Radius epsilon.
    """
    logs = th.logsumexp(values / temperatures[:, None], dim=1) - float(np.log(values.shape[1]))
    return temperatures * (logs + ball)


class COptiDICE(OfflineSolver):
    """Stationary distribution correction within budgets.

    Example:
        >>> solver = COptiDICE(preset="small")
        >>> result = solver.fit(data, steps=20_000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "coptidice"
    config_class = COptiDICEConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    needs_budgets = True

    config: COptiDICEConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, optimisers, multipliers, temperatures and the sampler."""
        config = self.config
        self.limits = limits_of(data, config.gamma, config.horizon)
        self.rates = th.as_tensor((1.0 - config.gamma) * self.limits.thresholds, dtype=th.float32)
        count, width = len(self.limits.names), data.num_features
        self.network = GaussianMlp(width, data.action_width, net_arch=config.net_arch)
        self.network.shift, self.network.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.nu = Ensemble(config.members, width, config.net_arch)
        self.chi = Ensemble(count * config.members, width, config.net_arch)
        self.actor_optimizer = th.optim.Adam(self.network.parameters(), lr=config.actor_learning_rate)
        self.nu_optimizer = th.optim.Adam(self.nu.parameters(), lr=config.learning_rate)
        self.chi_optimizer = th.optim.Adam(self.chi.parameters(), lr=config.learning_rate)
        scalar = {"learning_rate": config.scalar_learning_rate, "is_softplus": True, "initial": FIRST_SCALAR}
        self.multipliers = Multipliers(AdamDual(count, **scalar))  # type: ignore[arg-type]
        self.temperatures = Multipliers(AdamDual(count, **scalar))  # type: ignore[arg-type]
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
        self.first = th.from_numpy(data.dataset.observations[data.dataset.episode_starts])
        self.spreads = (
            config.noise * th.from_numpy(data.dataset.observations).std(dim=0, correction=0),
            config.noise * th.from_numpy(data.dataset.actions).std(dim=0, correction=0),
        )
        self.keep(
            network=self.network,
            nu=self.nu,
            chi=self.chi,
            actor_optimizer=self.actor_optimizer,
            nu_optimizer=self.nu_optimizer,
            chi_optimizer=self.chi_optimizer,
            multipliers=self.multipliers,
            temperatures=self.temperatures,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of chi and tau, of nu, of lambda, and of the policy."""
        config = self.config
        batch = as_batch(self.sampler.sample(), self.limits.columns, scale=config.reward_scale)
        drawn = self.sampler.generator.integers(len(self.first), size=config.batch_size)
        first = self.network.features(self.first[th.from_numpy(drawn)])
        advantages = self._advantages(batch)
        with th.no_grad():
            weights = closed_form_weights(advantages, config.alpha, config.divergence)
        costs, losses = self._bounded_costs(batch, weights, first)
        loss = nu_loss(self.nu(first).amin(dim=0), advantages, config.alpha, config.gamma, config.divergence)
        losses["loss/nu"] = descend(self.nu_optimizer, loss)
        multipliers = self.multipliers.update(costs - self.rates)
        losses["loss/policy"] = descend(self.actor_optimizer, self._imitation(batch))
        return {
            **losses,
            "weight/mean": float(weights.mean()),
            "weight/divergence": float(divergence(weights, config.divergence).mean()),
            **per_constraint("cost_rate", self.limits.names, costs),
            **per_constraint("multiplier", self.limits.names, multipliers),
        }

    def publish(self) -> GaussianMlp:
        """The policy."""
        return self.network

    def _advantages(self, batch: Batch) -> th.Tensor:
        """E of the docstring, (B,), at the current multipliers."""
        now, later = (
            self.nu(self.network.features(s)).amin(dim=0) for s in (batch.observations, batch.next_observations)
        )
        rewards = batch.signals[0] - (self.multipliers.values[:, None] * batch.signals[1:]).sum(dim=0)
        advantages: th.Tensor = rewards + self.config.gamma * (1.0 - batch.terminals) * later - now
        return advantages

    def _bounded_costs(self, batch: Batch, weights: th.Tensor, first: th.Tensor) -> tuple[th.Tensor, dict[str, float]]:
        """Move chi and tau; upper bounds C of the costs per step, (K,), and what there is to log."""
        config, costs = self.config, batch.signals[1:]
        if config.ball == 0.0:
            return (weights * costs).mean(dim=1), {}
        start, now, later = (
            self.chi(features).view(len(costs), config.members, -1).amax(dim=1)
            for features in (
                first,
                self.network.features(batch.observations),
                self.network.features(batch.next_observations),
            )
        )
        flow = costs + config.gamma * (1.0 - batch.terminals) * later - now
        values = (1.0 - config.gamma) * start + weights * flow
        temperatures = self.temperatures.values
        worst = ball_weights(values.detach(), temperatures)
        loss = cost_bound(values, temperatures, config.ball).sum()
        losses = {"loss/chi": descend(self.chi_optimizer, loss)}
        self.temperatures.update(ball_divergence(worst) - config.ball)
        return (worst * weights * costs).mean(dim=1), {
            **losses,
            **per_constraint("temperature", self.limits.names, temperatures),
        }

    def _imitation(self, batch: Batch) -> th.Tensor:
        """``-E[w log pi(a | s)]`` on noisy pairs, with the weights of the new nu and lambda."""
        config = self.config
        with th.no_grad():
            weights = closed_form_weights(self._advantages(batch), config.alpha, config.divergence)
        noisy = [
            values + spread * th.randn(values.shape, generator=self.generator)
            for values, spread in zip((batch.observations, batch.actions), self.spreads, strict=True)
        ]
        densities = self.network.log_prob(noisy[0], noisy[1].clamp(-EDGE, EDGE))
        loss: th.Tensor = -(weights * densities).mean()
        return loss
