"""Networks over sequences of steps: a U-Net that denoises them, and a regressor of numbers about them.

Convolutions run over the steps, so that a plan is locally consistent and of any length that halves evenly (Janner, Du,
Tenenbaum, Levine 2022, "Planning with diffusion for flexible behavior synthesis").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import nn
from torch.nn import functional


def embed_step(step: th.Tensor, width: int) -> th.Tensor:
    """Sines and cosines of steps (B,), (B, width), with frequencies from 1 to 1/10,000."""
    half = width // 2
    frequencies = th.exp(th.arange(half) * (-math.log(10_000.0) / max(1, half - 1)))
    angles = step[:, None] * frequencies
    return th.cat([angles.sin(), angles.cos()], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    """Eight groups as in Diffuser, fewer where they would hold less than four channels.

    A short plan has few numbers per channel, and a norm over few numbers forgets how large they were.
    """
    return nn.GroupNorm(math.gcd(8, max(1, channels // 4)), channels)


class _Conditioned(nn.Module):
    """Two convolutions over the steps with group norm and Mish, the noise level in between, and a skip."""

    def __init__(self, inner: int, outer: int, time_width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(inner, outer, 5, padding=2), nn.Conv1d(outer, outer, 5, padding=2)
        self.first_norm, self.second_norm = _norm(outer), _norm(outer)
        self.of_time = nn.Linear(time_width, outer)
        self.skip: nn.Module = nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, signal: th.Tensor, time: th.Tensor) -> th.Tensor:
        hidden = functional.mish(self.first_norm(self.first(signal)))
        hidden = hidden + self.of_time(functional.mish(time)).unsqueeze(2)
        hidden = functional.mish(self.second_norm(self.second(hidden)))
        merged: th.Tensor = hidden + self.skip(signal)
        return merged


class _Level(nn.Module):
    """Two conditioned blocks and a change of resolution."""

    def __init__(self, inner: int, outer: int, time_width: int, change: nn.Module) -> None:
        super().__init__()
        self.one = _Conditioned(inner, outer, time_width)
        self.two = _Conditioned(outer, outer, time_width)
        self.change = change

    def forward(self, signal: th.Tensor, time: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        before = self.two(self.one(signal, time), time)
        return self.change(before), before


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.widen, self.narrow = nn.Linear(2 * (width // 2), 4 * width), nn.Linear(4 * width, width)

    def forward(self, step: th.Tensor) -> th.Tensor:
        embedded: th.Tensor = self.narrow(functional.mish(self.widen(embed_step(step, self.width))))
        return embedded


class TemporalUnet(nn.Module):
    """Clean sequences (B, H, D) from noised ones and their steps of noising, (B,)."""

    def __init__(self, width: int, *, channels: int, multipliers: Sequence[int]) -> None:
        """Build the network.

        Args:
            width: Numbers D per step of a sequence.
            channels: Of the first level.
            multipliers: Of the channels, one per level; H must divide by 2 once for every level but the last.
        """
        super().__init__()
        self.time = _TimeEmbedding(channels)
        sizes = list(pairwise([width, *(channels * factor for factor in multipliers)]))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for index, (inner, outer) in enumerate(sizes):
            is_last = index == len(sizes) - 1
            change: nn.Module = nn.Identity() if is_last else nn.Conv1d(outer, outer, 3, 2, 1)
            self.downs.append(_Level(inner, outer, channels, change))
        deepest = sizes[-1][1]
        self.middle = _Level(deepest, deepest, channels, nn.Identity())
        for inner, outer in reversed(sizes[1:]):
            self.ups.append(_Level(2 * outer, inner, channels, nn.ConvTranspose1d(inner, inner, 4, 2, 1)))
        last = channels * multipliers[0]
        self.out = nn.Sequential(
            nn.Conv1d(last, last, 5, padding=2),
            _norm(last),
            nn.Mish(),
            nn.Conv1d(last, width, 1),
        )

    def forward(self, noised: th.Tensor, step: th.Tensor) -> th.Tensor:
        """Predicted clean sequences (B, H, D)."""
        time, signal = self.time(step), noised.transpose(1, 2)
        skips = []
        for level in self.downs:
            signal, before = level(signal, time)
            skips.append(before)
        signal, _ = self.middle(signal, time)
        for level in self.ups:
            signal, _ = level(th.cat([signal, skips.pop()], dim=1), time)
        clean: th.Tensor = self.out(signal).transpose(1, 2)
        return clean


class TemporalRegressor(nn.Module):
    """Numbers (B, outputs) about noised sequences (B, H, D), and about how much of the episode is left."""

    def __init__(
        self, width: int, length: int, outputs: int, *, channels: int, multipliers: Sequence[int], has_clock: bool
    ) -> None:
        """Build the network.

        Args:
            width: Numbers D per step of a sequence.
            length: Steps H of a sequence.
            outputs: Numbers to predict.
            channels: Of the first level.
            multipliers: Of the channels, one per level; each halves the resolution.
            has_clock: Whether it sees the share of the episode that is left.
        """
        super().__init__()
        self.has_clock = has_clock
        self.time = _TimeEmbedding(channels)
        self.levels = nn.ModuleList()
        for inner, outer in pairwise([width, *(channels * factor for factor in multipliers)]):
            self.levels.append(_Level(inner, outer, channels, nn.Conv1d(outer, outer, 3, 2, 1)))
            length = (length + 1) // 2
        flat = channels * multipliers[-1] * length + channels + int(has_clock)
        self.head = nn.Sequential(nn.Linear(flat, 4 * channels), nn.Mish(), nn.Linear(4 * channels, outputs))

    def forward(self, noised: th.Tensor, step: th.Tensor, clock: th.Tensor) -> th.Tensor:
        """Predictions for steps of noising (B,) and shares of the episode that are left, (B,)."""
        time, signal = self.time(step), noised.transpose(1, 2)
        for level in self.levels:
            signal, _ = cast("_Level", level)(signal, time)
        parts = [signal.flatten(1), time] + ([clock.unsqueeze(1)] if self.has_clock else [])
        predicted: th.Tensor = self.head(th.cat(parts, dim=1))
        return predicted
