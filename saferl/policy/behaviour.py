"""Plain networks from observation to action: one action, or a Gaussian squashed into [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn
from torch.nn import functional

from saferl.policy.offline import Generators, OfflinePolicy, State, standard_normal

LOG_STD_RANGE = (-5.0, 2.0)
"""Range of the logarithm of a Gaussian's standard deviation, before squashing."""


class _Mlp(OfflinePolicy):
    """Layers behind observations that are shifted and scaled."""

    def __init__(self, num_features: int, action_width: int, net_arch: Sequence[int], outputs: int) -> None:
        super().__init__(num_features, action_width, {"net_arch": list(net_arch)})
        widths = [num_features, *net_arch]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def _outputs(self, observations: th.Tensor) -> th.Tensor:
        outputs: th.Tensor = self.layers(self.features(observations))
        return outputs


class DeterministicMlp(_Mlp):
    """One action per observation, ``tanh(f(s))``."""

    kind = "deterministic_mlp"

    def __init__(self, num_features: int, action_width: int, *, net_arch: Sequence[int] = (256, 256)) -> None:
        """Build the network with hidden layers ``net_arch``."""
        super().__init__(num_features, action_width, net_arch, action_width)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Actions (B, A), with gradients."""
        return self._outputs(observations).tanh()

    def act(
        self, observations: th.Tensor, state: State, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """The action of each observation, (B, A); nothing is drawn."""
        with th.no_grad():
            actions: th.Tensor = self(observations)
            return actions


class GaussianMlp(_Mlp):
    """``tanh`` of a Gaussian whose mean and standard deviations depend on the observation.

    Its density is ``log N(u; mean, std) - sum_i log(1 - a_i^2)``, ``u = atanh(a)`` (Haarnoja et al. 2018, appendix C).
    """

    kind = "gaussian_mlp"
    has_density = True

    def __init__(self, num_features: int, action_width: int, *, net_arch: Sequence[int] = (256, 256)) -> None:
        """Build the network with hidden layers ``net_arch``."""
        super().__init__(num_features, action_width, net_arch, 2 * action_width)

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and logarithm of the standard deviation before squashing, (B, A) each, with gradients."""
        mean, log_std = self._outputs(observations).chunk(2, dim=1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def act(
        self, observations: th.Tensor, state: State, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """Drawn actions (B, A), or the squashed means."""
        with th.no_grad():
            mean, log_std = self(observations)
            if deterministic:
                return th.tanh(mean)
            return th.tanh(mean + log_std.exp() * standard_normal(tuple(mean.shape), generators))

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log density of actions in (-1, 1), (B,), with gradients."""
        mean, log_std = self(observations)
        before = actions.atanh()
        gaussian = -0.5 * ((before - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh(u)^2) without loss of digits far out
        slope = 2.0 * (math.log(2.0) - before - functional.softplus(-2.0 * before))
        log_density: th.Tensor = (gaussian - slope).sum(dim=1)
        return log_density


def imitation_loss(network: DeterministicMlp | GaussianMlp, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Mean squared error per action entry, or the mean negative log density.

    Args:
        network: What acts.
        observations: (B, F).
        actions: In (-1, 1), (B, A).
    """
    if isinstance(network, GaussianMlp):
        return -network.log_prob(observations, actions).mean()
    errors: th.Tensor = network(observations) - actions
    return errors.square().mean()
