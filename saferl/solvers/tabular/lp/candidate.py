"""What a method hands over before anything is certified, and the policy in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_UNVISITED = 1e-15
"""Share of all steps below which a state counts as never visited; rounding leaves less than that."""


@dataclass(frozen=True)
class Candidate:
    """Occupancies and multipliers that a method claims to be optimal."""

    occupancy: Array
    """Normalised occupancies, shaped like a policy, with sum 1."""
    multipliers: Array
    """Multipliers, (K,), >= 0."""
    value: float
    """Objective of the program that was solved."""
    response: Array | None = None
    """A deterministic policy that is a best response to the multipliers, or nearly; where the certificate starts."""
    details: dict[str, Any] = field(default_factory=dict)
    """Counts of the work done."""


def policy_of(occupancy: Array) -> Array:
    """The policy with these occupancies: their shares per state, uniform in states that are never visited."""
    positive = np.maximum(occupancy, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    is_visited = total > _UNVISITED
    return np.where(is_visited, positive / np.where(is_visited, total, 1.0), 1.0 / occupancy.shape[-1])
