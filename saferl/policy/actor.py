"""Stable-Baselines3's actor-critic policies without their critic: the actor of an off-policy solver."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule


class ActorPolicy(ActorCriticPolicy):
    """Observations to a distribution of actions; critics of states and actions are networks of their own.

    Gaussian actions have a deviation that does not depend on the observation, and are clipped to the action space, as
    Stable-Baselines3's on-policy algorithms do it, so that an artefact deploys both alike.
    """

    def __init__(self, *args: Any, net_arch: Any = None, **kwargs: Any) -> None:
        """Build the network; other arguments are those of Stable-Baselines3's ActorCriticPolicy."""
        sizes = [64, 64] if net_arch is None else net_arch
        kwargs["net_arch"] = sizes if isinstance(sizes, dict) else {"pi": sizes, "vf": []}
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        del self.value_net
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> th.Tensor:  # type: ignore[override]
        """Actions (B, ...)."""
        return self._predict(obs, deterministic=deterministic)

    def sample(self, obs: PyTorchObs) -> th.Tensor:
        """Sampled actions (B, ...), Gaussian ones not yet clipped."""
        return self.get_distribution(obs).get_actions().reshape((-1, *(self.action_space.shape or ())))


class ActorCnnPolicy(ActorPolicy):
    """The same for images."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        """Build the network on a convolutional feature extractor."""
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputActorPolicy(ActorPolicy):
    """The same for Dict observations."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        """Build the network on a feature extractor per key."""
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
