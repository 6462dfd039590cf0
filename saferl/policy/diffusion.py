"""Actions by denoising: the discrete variance-preserving schedule, the denoiser, and sampling as fused matrix products.

A denoiser eps(a_t, s, t) is trained to find the noise in ``sqrt(abar_t) a + sqrt(1 - abar_t) noise`` (Ho et al. 2020,
"Denoising diffusion probabilistic models", equations 4, 11 and 12); sampling walks back from pure noise in T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn
from torch.nn import functional

_CHUNK = 512
"""Rows that pass through the network at once: their hidden layer stays in the cache."""


@dataclass(frozen=True)
class NoiseSchedule:
    """What remains of an action after every step of noising, and the steps back; entry i belongs to step i + 1.

    Example:
        >>> vp_schedule(5).alpha_bar.round(3).tolist()
        [0.804, 0.435, 0.159, 0.039, 0.006]
    """

    alpha: npt.NDArray[np.float64]
    """Share of the variance that one step keeps, (T,)."""

    @property
    def alpha_bar(self) -> npt.NDArray[np.float64]:
        """Share that all steps up to this one keep, (T,): the running product of ``alpha``."""
        return np.asarray(np.cumprod(self.alpha), dtype=np.float64)

    @property
    def beta(self) -> npt.NDArray[np.float64]:
        """Variance that one step adds, (T,): ``1 - alpha``."""
        added: npt.NDArray[np.float64] = 1.0 - self.alpha
        return added

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self.alpha)


def vp_schedule(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> NoiseSchedule:
    """The discretised variance-preserving schedule that FISOR uses.

    ``alpha_t = exp(-beta_min / T - (beta_max - beta_min) (2 t - 1) / (2 T^2))``, t = 1..T: the continuous schedule
    whose rate rises linearly from ``beta_min`` to ``beta_max``, integrated over each of T equal intervals.
    """
    t = np.arange(1, steps + 1)
    return NoiseSchedule(np.exp(-beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * t - 1) / steps**2))


def add_noise(actions: th.Tensor, noise: th.Tensor, alpha_bar: th.Tensor) -> th.Tensor:
    """Actions after noising, ``sqrt(abar) a + sqrt(1 - abar) noise``; ``alpha_bar`` broadcasts over (..., A)."""
    return alpha_bar.sqrt() * actions + (1.0 - alpha_bar).sqrt() * noise


def posterior_mean(noised: th.Tensor, predicted: th.Tensor, alpha: float, alpha_bar: float) -> th.Tensor:
    """Mean of the action one step earlier, for an action in [-1, 1] (Ho et al. 2020, equations 7 and 15).

    The clean action that the noise implies, ``a_0 = clip((a_t - sqrt(1 - abar) eps) / sqrt(abar), -1, 1)``, is mixed
    with the noised one: ``(sqrt(abar') (1 - alpha) a_0 + sqrt(alpha) (1 - abar') a_t) / (1 - abar)`` with
    ``abar' = abar / alpha``.
    """
    before = alpha_bar / alpha
    clean = th.sub(noised, predicted, alpha=math.sqrt(1.0 - alpha_bar)).mul_(1.0 / math.sqrt(alpha_bar)).clamp_(-1, 1)
    of_clean = math.sqrt(before) * (1.0 - alpha) / (1.0 - alpha_bar)
    of_noised = math.sqrt(alpha) * (1.0 - before) / (1.0 - alpha_bar)
    return clean.mul_(of_clean).add_(noised, alpha=of_noised)


class Denoiser(nn.Module):
    """Predicts the noise in an action from the noised action, the features of the state and the step.

    Steps become learnable Fourier features and pass a small network; together with action and features they enter
    residual blocks of dropout, layer norm, a layer ``expansion`` times as wide, Mish, and back.
    """

    def __init__(
        self,
        num_features: int,
        action_width: int,
        *,
        steps: int = 5,
        width: int = 256,
        blocks: int = 3,
        expansion: int = 4,
        time_features: int = 64,
        time_width: int = 128,
        dropout: float = 0.1,
    ) -> None:
        """Build the network for ``steps`` steps of noising."""
        super().__init__()
        self.steps, self.num_features, self.action_width = steps, num_features, action_width
        self.frequencies = nn.Parameter(0.2 * th.randn(time_features // 2))
        self.time_in = nn.Linear(2 * (time_features // 2), time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.entry = nn.Linear(action_width + num_features + time_width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.widen = nn.ModuleList(nn.Linear(width, expansion * width) for _ in range(blocks))
        self.narrow = nn.ModuleList(nn.Linear(expansion * width, width) for _ in range(blocks))
        self.exit = nn.Linear(width, action_width)
        self.dropout = dropout
        for layer in (self.entry, self.exit):
            nn.init.xavier_uniform_(layer.weight)

    def layers(self) -> list[tuple[nn.LayerNorm, nn.Linear, nn.Linear]]:
        """Norm, widening and narrowing layer of every block."""
        blocks = list(zip(self.norms, self.widen, self.narrow, strict=True))
        return cast("list[tuple[nn.LayerNorm, nn.Linear, nn.Linear]]", blocks)

    def embed_steps(self) -> th.Tensor:
        """What every step adds in front of the first block, with that layer's bias, (T, width)."""
        angles = 2.0 * math.pi * th.arange(self.steps, device=self.frequencies.device)[:, None] * self.frequencies
        hidden = functional.mish(self.time_in(th.cat([angles.cos(), angles.sin()], dim=1)))
        of_time = self.entry.weight[:, self.action_width + self.num_features :]
        return functional.linear(self.time_out(hidden), of_time, self.entry.bias)

    def forward(self, noised: th.Tensor, features: th.Tensor, step: th.Tensor) -> th.Tensor:
        """Noise (B, A) in the actions (B, A) of states with features (B, F) at steps (B,), counted from 0."""
        inputs = th.cat([noised, features], dim=1)
        hidden = functional.linear(inputs, self.entry.weight[:, : inputs.shape[1]]) + self.embed_steps()[step]
        for norm, widen, narrow in self.layers():
            inner = norm(functional.dropout(hidden, self.dropout, self.training))
            hidden = hidden + narrow(functional.mish(widen(inner)))
        predicted: th.Tensor = self.exit(functional.mish(hidden))
        return predicted


def denoising_errors(
    denoiser: Denoiser, features: th.Tensor, actions: th.Tensor, step: th.Tensor, noise: th.Tensor, alpha_bar: th.Tensor
) -> th.Tensor:
    """Squared error of the predicted noise, summed over the action, (B,).

    Args:
        denoiser: The network.
        features: Features of the states, (B, F).
        actions: Clean actions in [-1, 1], (B, A).
        step: Steps of noising from 0, (B,).
        noise: Standard normal noise, (B, A).
        alpha_bar: The schedule's, (T,).
    """
    noised = add_noise(actions, noise, alpha_bar[step].unsqueeze(1))
    errors: th.Tensor = (denoiser(noised, features, step) - noise).square().sum(dim=1)
    return errors


class FusedSampler:
    """Draws actions from a frozen denoiser; prepared once, many times faster than calling the network per state.

    The layer norm's scale and shift are folded into the layer behind it, the steps' embedding is a table, the part of
    the features in the first layer is computed once for all candidates and steps, and Mish is written with one
    exponential: ``x tanh(ln(1 + e^x)) = x - 2 x / ((1 + e^x)^2 + 1)``. Equal to the network to rounding.
    """

    def __init__(self, denoiser: Denoiser, schedule: NoiseSchedule) -> None:
        """Copy the weights of ``denoiser`` as they are now."""
        self.schedule = schedule
        actions, states = denoiser.action_width, denoiser.action_width + denoiser.num_features
        with th.no_grad():
            entry = denoiser.entry.weight.T
            self.of_action = entry[:actions].contiguous().clone()
            self.of_features = entry[actions:states].contiguous().clone()
            self.of_step = denoiser.embed_steps().clone()
            self.blocks = [
                (
                    (norm.weight[:, None] * widen.weight.T).contiguous(),
                    widen.bias + norm.bias @ widen.weight.T,
                    narrow.weight.T.contiguous().clone(),
                    narrow.bias.detach().clone(),
                )
                for norm, widen, narrow in denoiser.layers()
            ]
            self.exit = denoiser.exit.weight.T.contiguous().clone()
            self.exit_bias = denoiser.exit.bias.detach().clone()

    def __call__(self, features: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Actions (B, N, A) in [-1, 1] for features (B, F).

        Args:
            features: Features of the states.
            noise: Standard normal, (T, B or 1, N, A): the start and the noise of the T - 1 steps that add some.
        """
        steps, _, count, width = noise.shape
        with th.no_grad():
            of_state = features @ self.of_features
            rows = max(1, _CHUNK // count)
            parts = []
            for first in range(0, len(features), rows):
                part = of_state[first : first + rows]
                own = noise[:, first : first + rows] if noise.shape[1] > 1 else noise.expand(-1, len(part), -1, -1)
                parts.append(self._denoise(part, own.reshape(steps, len(part) * count, width), count))
            return th.cat(parts).view(len(features), count, width)

    def _denoise(self, of_state: th.Tensor, noise: th.Tensor, count: int) -> th.Tensor:
        alpha, alpha_bar, beta = self.schedule.alpha, self.schedule.alpha_bar, self.schedule.beta
        repeated = of_state.repeat_interleave(count, dim=0)
        actions = noise[0]
        for step in reversed(range(len(self.schedule))):
            hidden = (repeated + self.of_step[step]).addmm_(actions, self.of_action)
            for widen, bias, narrow, last_bias in self.blocks:
                inner = functional.layer_norm(hidden, hidden.shape[1:])
                hidden = hidden.add_(last_bias).addmm_(_mish_(th.addmm(bias, inner, widen)), narrow)
            predicted = th.addmm(self.exit_bias, _mish_(hidden), self.exit)
            actions = posterior_mean(actions, predicted, float(alpha[step]), float(alpha_bar[step]))
            if step > 0:
                actions = actions.add_(noise[len(self.schedule) - step], alpha=math.sqrt(beta[step]))
        return actions.clamp_(-1.0, 1.0)


def _mish_(values: th.Tensor) -> th.Tensor:
    """Mish in place; the exponential may overflow to infinity, where the quotient is 0 as it should be."""
    below = values.exp().add_(1.0).square_().add_(1.0)
    return values.addcdiv_(values, below, value=-2.0)
