"""Critics of states and actions: reward critics and one critic per constraint, evaluated as one batched network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn import functional


class ActionEncoder(nn.Module):
    """Actions as the numbers that a critic sees: finite boxes clipped and brought to [-1, 1], categories one-hot."""

    low: th.Tensor
    high: th.Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Encode actions of ``space``: Box, Discrete or MultiDiscrete."""
        super().__init__()
        self.sizes: tuple[int, ...] = ()
        low, high = np.zeros(0), np.zeros(0)
        if isinstance(space, spaces.Box):
            low, high = space.low.ravel(), space.high.ravel()
            self.width = len(low)
        else:
            self.sizes = (int(space.n),) if isinstance(space, spaces.Discrete) else tuple(map(int, space.nvec))  # type: ignore[attr-defined]
            self.width = sum(self.sizes)
        self._is_finite = bool(np.all(np.isfinite(low) & np.isfinite(high)))
        self.register_buffer("low", th.as_tensor(low, dtype=th.float32), persistent=False)
        self.register_buffer("high", th.as_tensor(high, dtype=th.float32), persistent=False)

    def forward(self, actions: th.Tensor) -> th.Tensor:
        """(..., action_dim) in the env's units to (..., width)."""
        if self.sizes:
            indices = actions.long()
            parts = [functional.one_hot(indices[..., i], size) for i, size in enumerate(self.sizes)]
            return th.cat(parts, dim=-1).float()
        clipped = th.clamp(actions, self.low, self.high)
        return 2.0 * (clipped - self.low) / (self.high - self.low) - 1.0 if self._is_finite else clipped


class QEnsemble(nn.Module):
    """Networks of the same shape and nothing else in common, each from features and an action to one number.

    The first layer is a sum of one part for the features and one for the action, so that many actions of one state cost
    little more than their own part.
    """

    def __init__(self, num_members: int, num_features: int, action_width: int, net_arch: Sequence[int]) -> None:
        """Build ``num_members`` networks with hidden layers ``net_arch`` of rectified units."""
        super().__init__()
        sizes = [*net_arch, 1]
        bound = 1.0 / math.sqrt(num_features + action_width)
        self.of_features = _uniform((num_members, num_features, sizes[0]), bound)
        self.of_actions = _uniform((num_members, action_width, sizes[0]), bound)
        self.bias = _uniform((num_members, 1, sizes[0]), bound)
        layers = [
            (_uniform((num_members, m, n), 1.0 / math.sqrt(m)), _uniform((num_members, 1, n), 1.0 / math.sqrt(m)))
            for m, n in pairwise(sizes)
        ]
        self.weights = nn.ParameterList([weight for weight, _ in layers])
        self.biases = nn.ParameterList([bias for _, bias in layers])

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Values (M, B, N) of features (B, F) with N encoded actions each, (B, N, A), or the same (1, N, A) for all."""
        members, num_features, width = self.of_features.shape
        rows, count, size = actions.shape
        of_state = th.baddbmm(self.bias, features.expand(members, -1, num_features), self.of_features)
        of_action = actions.reshape(1, rows * count, size).expand(members, -1, size) @ self.of_actions
        hidden = of_state.unsqueeze(2) + of_action.view(members, rows, count, width)
        hidden = hidden.reshape(members, len(features) * count, width)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = th.baddbmm(bias, functional.relu(hidden), weight)
        return hidden.view(members, len(features), count)


class ConstrainedCritic(BaseModel):
    """Q(s, a) of the reward, by one or more critics, and of every cost, by one critic each.

    Example:
        >>> critic = ConstrainedCritic(
        ...     spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4), num_constraints=2, num_reward_critics=2
        ... )
        >>> rewards, costs = critic(th.zeros(5, 3), th.zeros(5, 1, 1))
        >>> tuple(rewards.shape), tuple(costs.shape)
        ((2, 5, 1), (2, 5, 1))
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        num_constraints: int,
        num_reward_critics: int = 1,
        net_arch: Sequence[int] = (64, 64),
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        normalize_images: bool = True,
    ) -> None:
        """Build the networks; observations pass through a features extractor of the critics' own."""
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_class,
            normalize_images=normalize_images,
        )
        self.num_reward_critics = num_reward_critics
        self.features_extractor = self.make_features_extractor()
        self.encoder = ActionEncoder(action_space)
        self.ensemble = QEnsemble(
            num_reward_critics + num_constraints, self.features_extractor.features_dim, self.encoder.width, net_arch
        )

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Reward values (R, B, N) and cost values (K, B, N) of N actions per observation, (B or 1, N, action_dim)."""
        values = self.ensemble(self.extract_features(obs, self.features_extractor), self.encoder(actions))
        return values[: self.num_reward_critics], values[self.num_reward_critics :]

    def lowest(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """The smallest reward value (B, N), against overestimation, and the cost values (K, B, N)."""
        rewards, costs = self(obs, actions)
        return rewards.amin(dim=0), costs


def _uniform(shape: tuple[int, ...], bound: float) -> nn.Parameter:
    return nn.Parameter(th.empty(shape).uniform_(-bound, bound))
