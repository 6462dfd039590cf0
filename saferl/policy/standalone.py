"""The part of a Stable-Baselines3 model that acts: no environments, no buffers, observations as the env gives them."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize, VecTransposeImage

from saferl.errors import ConfigError
from saferl.policy.normaliser import FrozenNormaliser


class StandalonePolicy:
    """A network behind frozen statistics: Stable-Baselines3's ``predict`` on raw observations.

    Example:
        >>> from saferl.solvers import PPOLag
        >>> policy = standalone(PPOLag("MlpPolicy", "ParadoxA-v0", seed=0, device="cpu"))
        >>> policy.predict(0, deterministic=True)[0] in (0, 1)
        True
    """

    def __init__(self, policy: BasePolicy, normaliser: FrozenNormaliser | None) -> None:
        """Put ``normaliser`` in front of ``policy``."""
        self.policy, self.normaliser = policy, normaliser

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for raw observations, batched or not."""
        shown = observation if self.normaliser is None else self.normaliser(observation)
        return self.policy.predict(shown, state, episode_start, deterministic)


def standalone(model: BaseAlgorithm | BasePolicy) -> StandalonePolicy:
    """What of ``model`` acts, with the statistics of its VecNormalize as they are now; it can go to other processes.

    A model that was loaded without its environments has no statistics: one that was trained with VecNormalize then acts
    on observations that it does not know. Give it ``env=`` when it is loaded.

    Raises:
        ConfigError: another wrapper around its environments changes observations, which only the environments can do.
    """
    if isinstance(model, BasePolicy):
        return StandalonePolicy(model, None)
    statistics, layer = None, model.env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            statistics = layer if layer.norm_obs else statistics
        elif not isinstance(layer, VecTransposeImage) and layer.observation_space != layer.venv.observation_space:
            raise ConfigError(
                f"A model is evaluated on observations as its environments give them; {type(layer).__name__} around "
                f"them makes {layer.observation_space} of {layer.venv.observation_space}. Put a wrapper that does so "
                "into the environment itself, around every single one, and train there."
            )
        layer = layer.venv
    return StandalonePolicy(model.policy, FrozenNormaliser.from_vec_normalize(statistics))
