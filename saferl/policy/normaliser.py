"""Observation normalisation as it was when training stopped; evaluation never updates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecNormalize

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrozenNormaliser:
    """(obs - mean) / sqrt(var + epsilon), clipped to [-clip, clip], per key of a Dict space (``""`` otherwise)."""

    mean: Mapping[str, FloatArray]
    """Mean by key, shape of the observation."""
    var: Mapping[str, FloatArray]
    """Variance by key, shape of the observation."""
    clip: float
    """Largest absolute value of a normalised entry."""
    epsilon: float
    """Added to the variance."""
    count: Mapping[str, float]
    """Observations that the statistics are made of, by key."""

    @classmethod
    def from_vec_normalize(cls, env: VecNormalize | None) -> FrozenNormaliser | None:
        """Copy the statistics of ``env``; None if there is no normalisation of observations."""
        if env is None or not env.norm_obs:
            return None
        statistics = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
        return cls(
            mean={key: rms.mean.copy() for key, rms in statistics.items()},
            var={key: rms.var.copy() for key, rms in statistics.items()},
            clip=float(env.clip_obs),
            epsilon=float(env.epsilon),
            count={key: float(rms.count) for key, rms in statistics.items()},
        )

    def __call__(self, obs: Any) -> Any:
        """Normalise one observation or a batch; keys without statistics pass unchanged."""
        if isinstance(obs, Mapping):
            return {key: self._scale(key, value) if key in self.mean else value for key, value in obs.items()}
        return self._scale("", obs)

    def _scale(self, key: str, obs: Any) -> npt.NDArray[np.float32]:
        scaled = (np.asarray(obs) - self.mean[key]) / np.sqrt(self.var[key] + self.epsilon)
        clipped: npt.NDArray[np.float32] = np.clip(scaled, -self.clip, self.clip).astype(np.float32)
        return clipped
