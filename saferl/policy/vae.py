"""A conditional variational auto-encoder of actions, and the policy that perturbs what it draws (BCQ)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn

from saferl.policy.offline import Generators, OfflinePolicy, State, standard_normal
from saferl.policy.twin_critics import TwinCritics, pessimistic

LATENT_LIMIT = 0.5
"""Latents are clipped to this before they are decoded, so that drawn actions stay where the data are (BCQ's code)."""
LOG_STD_RANGE = (-4.0, 15.0)
"""Range of the logarithm of the latent's standard deviation (BCQ's code)."""


class ConditionalVae(nn.Module):
    """``q(z | s, a) = N(mean, std^2)`` and ``a = tanh(decoder(s, z))`` with prior ``z ~ N(0, 1)``.

    Example:
        >>> vae = ConditionalVae(3, 2, width=8)
        >>> tuple(vae.decode(th.zeros(5, 3), th.zeros(5, 4, vae.latent)).shape)
        (5, 4, 2)
    """

    def __init__(self, num_features: int, action_width: int, *, width: int) -> None:
        """Build encoder and decoder with two hidden layers of ``width``; the latent has twice the action's width."""
        super().__init__()
        self.latent = 2 * action_width
        self.encoder = _layers((num_features + action_width, width, width, 2 * self.latent), nn.ReLU)
        self.decoder = _layers((num_features + self.latent, width, width, action_width), nn.ReLU)

    def encode(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and logarithm of the standard deviation of the latent, (..., L), of actions (..., A)."""
        mean, log_std = self.encoder(th.cat([features, actions], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def decode_raw(self, features: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """Actions (B, N, A) before squashing, of features (B, F) with N latents each, (B, N, L)."""
        beside = features.unsqueeze(1).expand(-1, latents.shape[1], -1)
        raw: th.Tensor = self.decoder(th.cat([beside, latents], dim=-1))
        return raw

    def decode(self, features: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """Actions (B, N, A) in (-1, 1), of features (B, F) with N latents each, (B, N, L)."""
        actions: th.Tensor = self.decode_raw(features, latents).tanh()
        return actions


def latent_kl(mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """``KL(N(mean, std^2) || N(0, 1))`` averaged over the last axis (Kingma, Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0 - 2.0 * log_std).mean(dim=-1)


def vae_loss(vae: ConditionalVae, features: th.Tensor, actions: th.Tensor, noise: th.Tensor, beta: float) -> th.Tensor:
    """Mean squared error per action entry plus ``beta`` times the mean KL per latent number.

    Args:
        vae: The networks.
        features: (B, F).
        actions: (B, A).
        noise: Standard normal, (B, L).
        beta: Weight of the KL.
    """
    mean, log_std = vae.encode(features, actions)
    decoded = vae.decode(features, (mean + log_std.exp() * noise).unsqueeze(1))[:, 0]
    return (decoded - actions).square().mean() + beta * latent_kl(mean, log_std).mean()


class Perturbation(nn.Module):
    """``clip(a + reach tanh(f(s, a)), -1, 1)``: small changes of proposed actions."""

    def __init__(self, num_features: int, action_width: int, net_arch: Sequence[int], reach: float) -> None:
        """Build f with hidden layers ``net_arch`` of tanh units; ``reach`` is the largest change."""
        super().__init__()
        self.reach = reach
        self.layers = _layers((num_features + action_width, *net_arch, action_width), nn.Tanh)

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Changed actions (B, N, A) of features (B, F) and proposals (B, N, A)."""
        beside = features.unsqueeze(1).expand(-1, actions.shape[1], -1)
        change = self.layers(th.cat([beside, actions], dim=-1)).tanh()
        changed: th.Tensor = (actions + self.reach * change).clamp(-1.0, 1.0)
        return changed


class PerturbedVae(OfflinePolicy):
    """Draws actions like those of the data and changes them a little; of several it takes the best.

    Best is the largest ``Q_r - sum_i multiplier_i Q_c,i``, with the pessimistic twins.
    """

    kind = "perturbed_vae"

    multipliers: th.Tensor
    latents: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        vae_width: int = 400,
        net_arch: Sequence[int] = (256, 256),
        reach: float = 0.05,
        candidates: int = 1,
        num_constraints: int = 1,
        members: int = 2,
    ) -> None:
        """Build the networks.

        Args:
            num_features: Width of an observation.
            action_width: Width of an action.
            vae_width: Hidden width of the auto-encoder.
            net_arch: Hidden layers of the perturbation and of the critics.
            reach: Largest change of an action.
            candidates: Actions N drawn per observation; with one there are no critics.
            num_constraints: Constraints K that the critics know.
            members: Networks per twin of the critics.
        """
        arch = {
            "vae_width": vae_width,
            "net_arch": list(net_arch),
            "reach": reach,
            "candidates": candidates,
            "num_constraints": num_constraints,
            "members": members,
        }
        super().__init__(num_features, action_width, arch)
        self.candidates = candidates
        self.vae = ConditionalVae(num_features, action_width, width=vae_width)
        self.perturbation = Perturbation(num_features, action_width, net_arch, reach)
        self.critics = (
            TwinCritics(num_constraints, num_features, action_width, net_arch, members=members)
            if candidates > 1
            else None
        )
        fixed = th.randn((candidates, self.vae.latent), generator=th.Generator().manual_seed(0))
        fixed[0] = 0.0
        self.register_buffer("latents", fixed.clamp(-LATENT_LIMIT, LATENT_LIMIT))
        self.register_buffer("multipliers", th.zeros(num_constraints))

    def act(
        self, observations: th.Tensor, state: State, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """Actions (B, A); deterministic ones come from one fixed set of latents, the first of which is 0."""
        with th.no_grad():
            rows, features = len(observations), self.features(observations)
            if deterministic:
                latents = self.latents.expand(rows, -1, -1)
            else:
                shape = (rows, self.candidates, self.vae.latent)
                latents = standard_normal(shape, generators).clamp(-LATENT_LIMIT, LATENT_LIMIT)
            actions: th.Tensor = self.perturbation(features, self.vae.decode(features, latents))
            if self.critics is None:
                return actions[:, 0]
            best = lagrangian_best(self.critics(features, actions), self.multipliers)
            return actions[th.arange(rows), best]


def lagrangian_best(twins: th.Tensor, multipliers: th.Tensor) -> th.Tensor:
    """Index (B,) of the action with the largest ``Q_r - sum_i multiplier_i Q_c,i``.

    Args:
        twins: Of :class:`~saferl.policy.twin_critics.TwinCritics`, (1 + K, 2, B, N).
        multipliers: (K,).
    """
    rewards, costs = pessimistic(twins)
    return (rewards - (multipliers[:, None, None] * costs).sum(dim=0)).argmax(dim=1)


def _layers(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])
