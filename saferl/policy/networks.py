"""Stable-Baselines3's actor-critic policies with one more critic: a head per constraint."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn


class ConstrainedActorCriticPolicy(ActorCriticPolicy):
    """An actor, a reward critic, and a cost critic of shape (batch, num_constraints).

    The cost critic has its own hidden layers (the sizes of the reward critic's) over the critics' features.
    """

    def __init__(self, *args: Any, num_constraints: int = 1, **kwargs: Any) -> None:
        """Build the networks; other arguments are those of Stable-Baselines3's ActorCriticPolicy."""
        self.num_constraints = num_constraints
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        sizes = self.net_arch["vf"] if isinstance(self.net_arch, dict) else list(self.net_arch)
        layers: list[nn.Module] = []
        width = self.features_dim
        for size in sizes:
            layers += [nn.Linear(width, size), self.activation_fn()]
            width = size
        self.cost_critic = nn.Sequential(*layers)
        self.cost_value_net = nn.Linear(width, self.num_constraints)
        if self.ortho_init:
            self.cost_critic.apply(partial(self.init_weights, gain=np.sqrt(2)))
            self.cost_value_net.apply(partial(self.init_weights, gain=1.0))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "num_constraints": self.num_constraints}

    def sample(self, obs: PyTorchObs) -> th.Tensor:
        """Sampled actions, (B, ...); the critics are not asked."""
        features = self.extract_features(obs)
        latent_pi = self.mlp_extractor.forward_actor(features[0] if isinstance(features, tuple) else features)
        actions = self._get_action_dist_from_latent(latent_pi).get_actions()
        return actions.reshape((-1, *(self.action_space.shape or ())))

    def assess(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Log-probabilities (B,) and entropies (B,) of given actions, reward values (B,), cost values (B, K)."""
        latent_pi, values, cost_values = self._latents(obs)
        distribution = self._get_action_dist_from_latent(latent_pi)
        log_probs = distribution.log_prob(actions)
        entropy = distribution.entropy()
        return log_probs, -log_probs if entropy is None else entropy, values, cost_values

    def predict_all_values(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """Reward values (B,) and cost values (B, K)."""
        features = self.extract_features(obs)
        critic_features = features[1] if isinstance(features, tuple) else features
        return self._values_from(critic_features)

    def _latents(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        features = self.extract_features(obs)
        actor_features, critic_features = features if isinstance(features, tuple) else (features, features)
        return self.mlp_extractor.forward_actor(actor_features), *self._values_from(critic_features)

    def _values_from(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        values = self.value_net(self.mlp_extractor.forward_critic(features)).flatten()
        return values, self.cost_value_net(self.cost_critic(features))


class ConstrainedActorCriticCnnPolicy(ConstrainedActorCriticPolicy):
    """The same for images."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        """Build the networks on a convolutional feature extractor."""
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class ConstrainedMultiInputActorCriticPolicy(ConstrainedActorCriticPolicy):
    """The same for Dict observations."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        """Build the networks on a feature extractor per key."""
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
