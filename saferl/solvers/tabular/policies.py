"""What tabular solvers share: softmax policies in log space, the simplex, and the base of their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges, from_mapping
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.linear import ValueSystem

Array = npt.NDArray[np.float64]
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class TabularConfig:
    """Options that every iterative tabular solver has. Step sizes are for normalised values, order 1 is sane."""

    iterations: int = 3000
    """Iterations, >= 1."""
    policy_step: float = 1.0
    """Step size eta of the policy on normalised Q, > 0."""
    multiplier_step: float = 1.0
    """Step size eta_lambda of the multipliers on normalised gaps, > 0."""
    multiplier_max: float = 1000.0
    """Upper bound of every multiplier, > 0. Iterates that rest at a bound say nothing about convergence."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, positive=("iterations", "policy_step", "multiplier_step", "multiplier_max"))


def options(cls: type[ConfigT], config: ConfigT | None, given: Mapping[str, Any]) -> ConfigT:
    """``config``, or the default one, with the options ``given`` by name replaced.

    Raises:
        UnknownNameError: an option that the solver does not have.
        ConfigError: a value of the wrong type or out of range.
    """
    return from_mapping(cls, {**(vars(config) if config is not None else {}), **given})


def action_values(cmdp: TabularCMDP, system: ValueSystem, policy: Array, signal: Array) -> Array:
    """Normalised Q of a further signal (..., A), such as an entropy bonus, from the ``system`` of the policy."""
    scaled = cmdp.scale * signal
    values = system.values((policy * scaled).sum(axis=-1)[..., None])[..., 0]
    return np.asarray(scaled + cmdp.discount * cmdp.expected_next(values))


def softmax(logits: Array) -> Array:
    """Probabilities proportional to exp(logits) along the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def log_sum_exp(logits: Array) -> Array:
    """Logarithm of the sum of exp(logits) along the last axis, without overflow."""
    top = logits.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0])


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities proportional to exp(logits) along the last axis, without overflow."""
    return np.asarray(logits - log_sum_exp(logits)[..., None])


def centred(logits: Array) -> Array:
    """The same softmax policy, with the largest logit at 0, so that sums over many iterations do not grow."""
    return np.asarray(logits - logits.max(axis=-1, keepdims=True))


def project_to_simplex(points: Array) -> Array:
    """The nearest distributions along the last axis (Euclidean; Duchi et al. 2008, algorithm 1)."""
    descending = -np.sort(-points, axis=-1)
    excess = np.cumsum(descending, axis=-1) - 1.0
    ranks = np.arange(1, points.shape[-1] + 1)
    kept = (descending * ranks > excess).sum(axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, kept - 1, axis=-1) / kept
    return np.asarray(np.maximum(points - threshold, 0.0))
