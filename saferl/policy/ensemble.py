"""Networks of the same shape and nothing else in common, evaluated as one batched product per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn
from torch.nn import functional


class Ensemble(nn.Module):
    """Values (M, B) of M networks of rectified units from features (B, F).

    Example:
        >>> values = Ensemble(2, 3, (8, 8))(th.zeros(5, 3))
        >>> tuple(values.shape)
        (2, 5)
    """

    def __init__(self, num_members: int, num_features: int, net_arch: Sequence[int]) -> None:
        """Build ``num_members`` networks with hidden layers ``net_arch``, Glorot-uniform with zero biases."""
        super().__init__()
        sizes = [num_features, *net_arch, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = math.sqrt(6.0 / (inputs + outputs))
            self.weights.append(nn.Parameter(th.empty(num_members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(th.zeros(num_members, 1, outputs)))

    def forward(self, features: th.Tensor) -> th.Tensor:
        """One number per member and row."""
        hidden = features.expand(len(self.weights[0]), *features.shape)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = th.baddbmm(bias, functional.relu(hidden) if index else hidden, weight)
        return hidden.squeeze(-1)
