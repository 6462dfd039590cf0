"""A policy that draws candidates by diffusion and takes the one whose future is safest, with its values of safety."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from saferl.policy.critic import QEnsemble
from saferl.policy.diffusion import Denoiser, FusedSampler, NoiseSchedule, vp_schedule
from saferl.policy.ensemble import Ensemble


class FeasibleDiffusion(nn.Module):
    """Everything that acting needs: a denoiser, twin critics of actions, the value V_h of states, and scales.

    Observations (B, F) are flat and raw, actions (B, A) in [-1, 1]. ``Q_h`` and ``V_h`` estimate the largest
    constraint margin that will be met; above 0 means a violation.
    """

    shift: th.Tensor
    scale: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        denoiser: dict[str, int | float],
        critic_arch: Sequence[int],
        candidates: int,
        is_rewarding: bool = False,
        margin: float = 0.0,
    ) -> None:
        """Build the networks.

        Args:
            num_features: Width of an observation.
            action_width: Width of an action.
            denoiser: Keyword arguments of :class:`~saferl.policy.diffusion.Denoiser`.
            critic_arch: Hidden layers of critics and V_h.
            candidates: Actions drawn per state.
            is_rewarding: Whether the best Q_r among the safe candidates is taken, and not the smallest Q_h of all.
            margin: Candidates with ``Q_h <= -margin`` are safe.
        """
        super().__init__()
        self.candidates, self.action_width = candidates, action_width
        self.is_rewarding, self.margin = is_rewarding, margin
        self.denoiser = Denoiser(num_features, action_width, **denoiser)  # type: ignore[arg-type]
        self.critics = QEnsemble(4 if is_rewarding else 2, num_features, action_width, critic_arch)
        """The twins of Q_h and, where they choose, those of Q_r."""
        self.value = Ensemble(1, num_features, critic_arch)
        self.schedule: NoiseSchedule = vp_schedule(self.denoiser.steps)
        self.register_buffer("shift", th.zeros(num_features))
        self.register_buffer("scale", th.ones(num_features))
        self._sampler: FusedSampler | None = None

    @property
    def num_parameters(self) -> int:
        """Learned numbers in all networks that acting uses."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(T, N, A): the standard normal numbers that one action is made from."""
        return self.denoiser.steps, self.candidates, self.action_width

    def features(self, observations: th.Tensor) -> th.Tensor:
        """Observations (B, F), scaled as in training."""
        return (observations - self.shift) / self.scale

    def refresh(self) -> None:
        """Forget the prepared sampler: call after the denoiser's weights changed."""
        self._sampler = None

    def act(self, observations: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """The chosen candidates (B, A) for observations (B, F) and noise (T, B or 1, N, A)."""
        if self._sampler is None:
            self._sampler = FusedSampler(self.denoiser, self.schedule)
        with th.no_grad():
            features = self.features(observations)
            actions = self._sampler(features, noise)
            values = self.critics(features, actions)
            best = choose(values[:2].amax(dim=0), values[2:].amin(dim=0) if self.is_rewarding else None, self.margin)
            return actions[th.arange(len(actions)), best]

    def action_feasibility(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Q_h (B,), the larger of the twins."""
        with th.no_grad():
            worst: th.Tensor = self.critics(self.features(observations), actions.unsqueeze(1))[:2].amax(dim=0)[:, 0]
            return worst

    def feasibility(self, observations: th.Tensor) -> th.Tensor:
        """V_h (B,)."""
        with th.no_grad():
            value: th.Tensor = self.value(self.features(observations))[0]
            return value


def choose(action_values: th.Tensor, reward_values: th.Tensor | None, margin: float) -> th.Tensor:
    """Indices (B,) of the candidates to take.

    Args:
        action_values: Q_h of the candidates, (B, N).
        reward_values: Q_r of the candidates, (B, N): the largest among those with ``Q_h <= -margin`` is taken. None, or
            no such candidate: the smallest Q_h.
        margin: How far below 0 a safe candidate lies.
    """
    safest = action_values.argmin(dim=1)
    if reward_values is None:
        return safest
    is_safe = action_values <= -margin
    return th.where(is_safe.any(dim=1), reward_values.masked_fill(~is_safe, -th.inf).argmax(dim=1), safest)
