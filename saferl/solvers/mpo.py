r"""Maximum a posteriori policy optimisation: expectation and maximisation step as pure functions.

Expectation. Among the distributions q within a KL divergence eps of the prior policy p, the one of the largest value is

    q(a|s) = p(a|s) exp(Q(s, a) / T) / E_{a ~ p} exp(Q(s, a) / T)

with the temperature T that minimises the dual, convex in T:

    g(T) = T eps + T E_s log E_{a ~ p} exp(Q(s, a) / T),        g'(T) = eps - E_s KL(q || p)

Over all actions of a discrete space the inner expectation is exact; otherwise it is a mean over actions drawn from p.

Maximisation. The policy fits q by weighted log-likelihood, close to the prior. Mean and deviation of a Gaussian are
fitted apart, each with the other's value of the prior, so that each has a trust region of its own:

    minimise - E_s sum_a q(a|s) [log N(a; mu, sigma_p) + log N(a; mu_p, sigma)]
             + alpha_mu KL(N(mu_p, sigma_p) || N(mu, sigma_p)) + alpha_sigma KL(N(mu_p, sigma_p) || N(mu_p, sigma))

with alpha descending alpha (eps - KL). Categorical policies have one term of each.

Papers: Abdolmaleki et al. (2018), "Maximum a posteriori policy optimisation", arXiv 1806.06920 (temperature dual: its
equation 8); Abdolmaleki et al. (2018), "Relative entropy regularized policy iteration", arXiv 1812.02256 (the decoupled
maximisation step).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import nn
from torch.nn import functional


def expectation_weights(values: th.Tensor, temperature: th.Tensor, log_prior: th.Tensor | None = None) -> th.Tensor:
    """q(a|s) of the expectation step, (B, N); every row sums to 1.

    Args:
        values: Q(s, a), (B, N).
        temperature: T > 0, in the unit of ``values``.
        log_prior: Log-probabilities of the N actions, (B, N); None if they were drawn from the prior.
    """
    logits = values / temperature
    return functional.softmax(logits if log_prior is None else logits + log_prior, dim=1)


def temperature_dual(
    values: th.Tensor, temperature: th.Tensor, epsilon: float, log_prior: th.Tensor | None = None
) -> th.Tensor:
    """g(T), whose derivative is eps - E KL(q || p); arguments as for :func:`expectation_weights`."""
    if log_prior is None:
        log_prior = th.full_like(values, -math.log(values.shape[1]))
    return temperature * (epsilon + th.logsumexp(values / temperature + log_prior, dim=1).mean())


def mixed_with_uniform(log_probs: th.Tensor, share: float) -> th.Tensor:
    """Log-probabilities (B, N) of (1 - share) p + share / N."""
    if share == 0.0:
        return log_probs
    return th.logaddexp(log_probs + math.log1p(-share), th.full_like(log_probs, math.log(share / log_probs.shape[1])))


def optimistic_values(now: th.Tensor, before: th.Tensor) -> th.Tensor:
    """2 Q_k - Q_{k-1}: Q_k where nothing has changed."""
    return 2.0 * now - before


def deviation_over_actions(values: th.Tensor) -> th.Tensor:
    """The mean over states of the standard deviation of ``values`` (B, N) over actions, a scalar.

    All N actions count alike. Weighted by a policy, it would vanish where the policy becomes deterministic.
    """
    return values.std(dim=1, unbiased=False).mean()


@dataclass(frozen=True)
class Candidates:
    """The actions among which an expectation step weighs."""

    actions: th.Tensor
    """(B, N, action_dim), or (1, N, action_dim) for the same in every state."""
    log_prior: th.Tensor | None
    """Their log-probabilities (B, N) if they are all there are; None if they were drawn from the prior."""


class ActionModel(Protocol):
    """The policy's distributions for a batch of observations; ``prior`` is another of the same class."""

    def candidates(self, count: int, generator: th.Generator) -> Candidates:
        """All actions, or ``count`` drawn ones."""

    def log_likelihood(self, prior: Any, actions: th.Tensor) -> th.Tensor:
        """What the maximisation step weighs, (B, N); parts of the distribution are fitted apart."""

    def divergences(self, prior: Any) -> dict[str, th.Tensor]:
        """KL(prior || this), mean over states, by the part that has a trust region of its own."""


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussians of every action dimension."""

    mean: th.Tensor
    """(B, A)."""
    std: th.Tensor
    """(B, A)."""

    def candidates(self, count: int, generator: th.Generator) -> Candidates:
        """``count`` drawn actions."""
        noise = th.randn((len(self.mean), count, self.mean.shape[1]), generator=generator).to(self.mean.device)
        return Candidates(self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise, None)

    def log_likelihood(self, prior: Any, actions: th.Tensor) -> th.Tensor:
        """Of ``actions``, (B, N): log N(a; mean, prior's std) + log N(a; prior's mean, std)."""
        return _log_density(actions, self.mean, prior.std) + _log_density(actions, prior.mean, self.std)

    def divergences(self, prior: Any) -> dict[str, th.Tensor]:
        """Of the mean at the prior's deviation, and of the deviation at the prior's mean, summed over dimensions."""
        of_mean = 0.5 * ((self.mean - prior.mean) / prior.std) ** 2
        ratio = prior.std / self.std
        of_std = 0.5 * (ratio**2 - 1.0) - ratio.log()
        return {"mean": of_mean.sum(dim=1).mean(), "std": of_std.sum(dim=1).mean()}


@dataclass(frozen=True)
class Categorical:
    """One or more independent categories per action."""

    logits: tuple[th.Tensor, ...]
    """Normalised log-probabilities of each, (B, number of its values)."""

    def candidates(self, count: int, generator: th.Generator) -> Candidates:
        """All values of a single category; ``count`` drawn actions of several."""
        if len(self.logits) == 1:
            return Candidates(
                th.arange(self.logits[0].shape[1]).view(1, -1, 1).to(self.logits[0].device), self.logits[0]
            )
        drawn = [
            th.multinomial(part.exp().cpu(), count, replacement=True, generator=generator).to(part.device)
            for part in self.logits
        ]
        return Candidates(th.stack(drawn, dim=2), None)

    def log_likelihood(self, prior: Any, actions: th.Tensor) -> th.Tensor:
        """Log-probabilities of ``actions``, (B, N)."""
        parts = (part.gather(1, actions[..., i].expand(len(part), -1).long()) for i, part in enumerate(self.logits))
        return th.stack(list(parts)).sum(dim=0)

    def divergences(self, prior: Any) -> dict[str, th.Tensor]:
        """Of the probabilities, summed over categories."""
        parts = [
            (old.exp() * (old - new)).sum(dim=1).mean() for new, old in zip(self.logits, prior.logits, strict=True)
        ]
        return {"probs": th.stack(parts).sum()}


def action_model(distribution: Distribution) -> ActionModel:
    """The distributions of a Stable-Baselines3 policy.

    Raises:
        TypeError: a distribution that is none of Gaussian, categorical, multi-categorical.
    """
    inner: Any = distribution.distribution
    if isinstance(distribution, DiagGaussianDistribution):
        return Gaussian(inner.mean, inner.stddev)
    if isinstance(distribution, CategoricalDistribution):
        return Categorical((inner.logits,))
    if isinstance(distribution, MultiCategoricalDistribution):
        return Categorical(tuple(part.logits for part in inner))
    raise TypeError(f"No expectation step for {type(distribution).__name__}.")


class StepSizes(nn.Module):
    """Temperature and KL penalties, as logarithms, which their duals move."""

    def __init__(self, parts: Mapping[str, float], *, temperature: float, floor: float = 1e-2) -> None:
        """Start at ``temperature`` and at penalties of 1.

        Args:
            parts: Trust region of every part of the policy, the largest KL divergence of one iteration.
            temperature: First T.
            floor: Smallest penalty, so that one that was not needed for long can come back.
        """
        super().__init__()
        self.epsilons = dict(parts)
        self.log_temperature = nn.Parameter(th.tensor(math.log(temperature)))
        self.log_penalties = nn.ParameterDict({name: nn.Parameter(th.zeros(())) for name in parts})
        self._log_floor = math.log(floor)

    @property
    def temperature(self) -> th.Tensor:
        """T, a scalar with a gradient."""
        return self.log_temperature.exp()

    def penalty(self, divergences: Mapping[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
        """The policy's loss, sum alpha KL, and the loss of the penalties, sum alpha (eps - KL)."""
        for_policy, for_penalties = th.zeros(()), th.zeros(())
        for name, divergence in divergences.items():
            alpha = self.log_penalties[name].exp()
            for_policy = for_policy + alpha.detach() * divergence
            for_penalties = for_penalties + alpha * (self.epsilons[name] - divergence.detach())
        return for_policy, for_penalties

    def clamp(self, *, least_temperature: float) -> None:
        """Bring T and every alpha back to at least their floors."""
        with th.no_grad():
            self.log_temperature.clamp_(min=math.log(least_temperature))
            for penalty in self.log_penalties.values():
                penalty.clamp_(min=self._log_floor)


def _log_density(actions: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    scaled = (actions - mean.unsqueeze(1)) / std.unsqueeze(1)
    return (-0.5 * scaled**2 - std.unsqueeze(1).log() - 0.5 * math.log(2.0 * math.pi)).sum(dim=2)
