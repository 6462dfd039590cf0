"""A policy that draws candidates by diffusion and takes the one whose future is safest, with its values of safety."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from saferl.policy.critic import QEnsemble
from saferl.policy.diffusion import Denoiser, FusedSampler, NoiseSchedule, vp_schedule
from saferl.policy.ensemble import Ensemble
from saferl.policy.offline import Generators, OfflinePolicy, State, standard_normal


class FeasibleDiffusion(OfflinePolicy):
    """Everything that acting needs: a denoiser, twin critics of actions, the value V_h of states, and scales.

    ``Q_h`` and ``V_h`` estimate the largest constraint margin that will be met; above 0 means a violation.
    """

    kind = "feasible_diffusion"

    fixed_noise: th.Tensor

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        denoiser: dict[str, Any],
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
        arch = {
            "denoiser": dict(denoiser),
            "critic_arch": list(critic_arch),
            "candidates": candidates,
            "is_rewarding": is_rewarding,
            "margin": margin,
        }
        super().__init__(num_features, action_width, arch)
        self.candidates = candidates
        self.is_rewarding, self.margin = is_rewarding, margin
        self.denoiser = Denoiser(num_features, action_width, **denoiser)
        self.critics = QEnsemble(4 if is_rewarding else 2, num_features, action_width, critic_arch)
        """The twins of Q_h and, where they choose, those of Q_r."""
        self.value = Ensemble(1, num_features, critic_arch)
        self.schedule: NoiseSchedule = vp_schedule(self.denoiser.steps)
        steps, count, width = self.noise_shape
        noise = th.randn((steps, 1, count, width), generator=th.Generator().manual_seed(0))
        self.register_buffer("fixed_noise", noise, persistent=False)
        self._sampler: FusedSampler | None = None
        self.register_load_state_dict_post_hook(_forget_sampler)  # type: ignore[no-untyped-call]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(T, N, A): the standard normal numbers that one action is made from."""
        return self.denoiser.steps, self.candidates, self.action_width

    def refresh(self) -> None:
        """Forget the prepared sampler: call after the denoiser's weights changed."""
        self._sampler = None

    def act(
        self, observations: th.Tensor, state: State, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """The chosen candidates (B, A); those of ``deterministic`` come from the same noise in every state."""
        if deterministic:
            return self.choose_from(observations, self.fixed_noise)
        noise = standard_normal((len(observations), *self.noise_shape), generators)
        return self.choose_from(observations, noise.transpose(0, 1))

    def choose_from(self, observations: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """The chosen candidates (B, A) for observations (B, F) and noise (T, B or 1, N, A)."""
        with th.no_grad():
            features = self.features(observations)
            actions = self.sampler()(features, noise)
            values = self.critics(features, actions)
            best = choose(values[:2].amax(dim=0), values[2:].amin(dim=0) if self.is_rewarding else None, self.margin)
            return actions[th.arange(len(actions)), best]

    def sampler(self) -> FusedSampler:
        """The denoiser as it was at the last :meth:`refresh`, prepared for drawing candidates."""
        if self._sampler is None:
            self._sampler = FusedSampler(self.denoiser, self.schedule)
        return self._sampler

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


def _forget_sampler(module: Any, _: Any) -> None:
    module.refresh()


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
