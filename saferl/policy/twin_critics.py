"""Twin critics of the reward and of every cost, each twin an ensemble, with the pessimistic side of each at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from saferl.policy.critic import QEnsemble


class TwinCritics(nn.Module):
    """Q(s, a) of the reward and of K costs: two twins each, every twin the pessimistic one of its ``members``.

    Pessimistic is the smallest value of the reward and the largest of a cost.

    Example:
        >>> twins = TwinCritics(2, 3, 1, (8,), members=2)(th.zeros(5, 3), th.zeros(5, 4, 1))
        >>> tuple(twins.shape)
        (3, 2, 5, 4)
    """

    def __init__(
        self, num_constraints: int, num_features: int, action_width: int, net_arch: Sequence[int], *, members: int = 1
    ) -> None:
        """Build ``2 members`` networks for the reward and for each of ``num_constraints`` costs."""
        super().__init__()
        self.num_signals, self.members = 1 + num_constraints, members
        self.networks = QEnsemble(2 * members * self.num_signals, num_features, action_width, net_arch)

    def every(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """What each network says, (1 + K, 2, members, B, N), of features (B, F) with N actions each, (B, N, A)."""
        values: th.Tensor = self.networks(features, actions)
        return values.view(self.num_signals, 2, self.members, *values.shape[1:])

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Twins (1 + K, 2, B, N): row 0 the reward's, then one row per cost."""
        values = self.every(features, actions)
        return th.cat([values[:1].amin(dim=2), values[1:].amax(dim=2)])


def pessimistic(twins: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The smaller twin of the reward, (B, N), and the larger one of every cost, (K, B, N).

    Args:
        twins: Of :class:`TwinCritics`, (1 + K, 2, B, N).
    """
    return twins[0].amin(dim=0), twins[1:].amax(dim=1)


def mixed(twins: th.Tensor, share: float) -> th.Tensor:
    """``share`` of the pessimistic twin and the rest of the other (BCQ, equation 13), (1 + K, B, N).

    Args:
        twins: Of :class:`TwinCritics`, (1 + K, 2, B, N).
        share: Weight of the pessimistic one, in [0, 1].
    """
    low, high = twins.amin(dim=1), twins.amax(dim=1)
    return th.cat([share * low[:1] + (1.0 - share) * high[:1], share * high[1:] + (1.0 - share) * low[1:]])
