"""Actions sampled from a network's distribution with one generator per row.

``predict`` of Stable-Baselines3 draws from torch's global generator, so an episode's actions would depend on which
other episodes run beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)

Generators = Sequence[np.random.Generator]


def sample_rows(distribution: Distribution, generators: Generators) -> npt.NDArray[Any]:
    """One raw action per row of the distribution's batch; row i is drawn from ``generators[i]`` alone.

    Raises:
        TypeError: a distribution that is none of Gaussian, categorical, multi-categorical, Bernoulli.
    """
    if isinstance(distribution, DiagGaussianDistribution):
        mean, std = _numpy(distribution.distribution.mean), _numpy(distribution.distribution.stddev)
        noise = np.stack([rng.standard_normal(mean.shape[1], dtype=np.float32) for rng in generators])
        actions: npt.NDArray[Any] = mean + std * noise
        return actions
    if isinstance(distribution, CategoricalDistribution):
        return _categorical(distribution.distribution.probs, generators)
    if isinstance(distribution, MultiCategoricalDistribution):
        return np.stack([_categorical(part.probs, generators) for part in distribution.distribution], axis=1)
    if isinstance(distribution, BernoulliDistribution):
        probs = _numpy(distribution.distribution.probs)
        return np.stack([rng.random(p.shape) < p for p, rng in zip(probs, generators, strict=True)]).astype(np.int8)
    raise TypeError(f"No per-row sampling for {type(distribution).__name__}.")


def _categorical(probs: th.Tensor, generators: Generators) -> npt.NDArray[np.int64]:
    cumulative = np.cumsum(_numpy(probs).astype(np.float64), axis=1)
    draws = np.array([rng.random() for rng in generators]) * cumulative[:, -1]
    chosen: npt.NDArray[np.int64] = (cumulative <= draws[:, None]).sum(axis=1)
    return chosen


def _numpy(tensor: th.Tensor) -> npt.NDArray[Any]:
    return tensor.detach().cpu().numpy()
