"""The control tasks as data: what costs in each, and how its limit was found. Nothing here needs a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class BindingLimit:
    """A limit between what it costs to ignore the cost and what it costs to care about nothing else.

    Both costs are means over episodes of policies that were trained for it, so they belong to a training length.
    ``saferl bench limits`` measures them.
    """

    high: float
    """Cost per episode of a policy trained on the return alone."""
    low: float
    """Cost per episode of a policy trained on the negative cost alone."""
    steps: int
    """Training steps of each of the two."""
    high_return: float
    """Return per episode of the first policy, of at most 1,000: how far it had learned the task by then."""

    @property
    def limit(self) -> float:
        """Half-way between the two."""
        return self.low + 0.5 * (self.high - self.low)


@dataclass(frozen=True)
class ControlTask:
    """A task of dm_control's suite and its cost per step in [0, 1]."""

    domain: str
    """Name of the domain in the suite."""
    task: str
    """Name of the task in the domain."""
    threshold: float
    """Height (m) above which a step costs 1, or speed (rad/s) or force (N, N m) at which the cost of a step is 1."""
    budget: BindingLimit
    """How the limit was found."""
    summary: str
    """One line for lists."""


CONTROL_TASKS = MappingProxyType(
    {
        "DMWalkerHeight-v0": ControlTask(
            *("walker", "walk", 0.8),
            BindingLimit(215.2, 11.8, 500_000, 275.2),
            "dm_control's walker walks, which it is rewarded for doing upright; a step with the torso above 0.8 m "
            "costs 1.",
        ),
        "DMReacherVelocity-v0": ControlTask(
            *("reacher", "easy", 5.0),
            BindingLimit(276.2, 58.1, 300_000, 353.1),
            "dm_control's two-link arm reaches into a target; a step costs the speed of the faster joint, as a share "
            "of 5 rad/s, at most 1.",
        ),
        "DMQuadrupedTorque-v0": ControlTask(
            *("quadruped", "walk", 200.0),
            BindingLimit(729.4, 302.7, 300_000, 117.1),
            "dm_control's quadruped walks; a step costs the mean effort of its twelve actuators, as a share of 200 N "
            "(N m), at most 1.",
        ),
    }
)
"""By id. The numbers of a budget come from ``saferl bench limits``."""
