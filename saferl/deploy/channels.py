"""Interventions as costs: two channels beside those of the environment, each with a budget of its own if wanted.

``interventions`` is 1 in a step in which the shield executed something else than was proposed (kind != ``pass``), and 0
otherwise. ``intervention_distance`` is how far it moved the action, as a share of the largest possible change:

    min(1, distance / (2 sqrt(dim)))     box (the distance is in units of half the range of each action)
    distance                             discrete actions (0 or 1)

Without a budget for one of them a shield hides the costs that it prevents, the multipliers fall to 0, and the policy
behind the shield never learns to be safe by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from saferl.constraints import Constraint, ConstraintSet
from saferl.errors import ConfigError
from saferl.shields.protocol import ActionSpec, ShieldDecision

CHANNELS = ("interventions", "intervention_distance")
"""Names of the channels."""


def channel_costs(decision: ShieldDecision, actions: ActionSpec) -> dict[str, float]:
    """The costs of one decision by channel, each in [0, 1]."""
    largest = 2.0 * np.sqrt(actions.dim) if actions.is_box else 1.0
    share = min(1.0, decision.distance / largest)
    return dict(zip(CHANNELS, (float(decision.intervened), float(share)), strict=True))


def channel_constraints(budgets: Mapping[str, float] | ConstraintSet | None) -> ConstraintSet:
    """Constraints on the channels: mean sums per episode for plain budgets.

    Raises:
        ConfigError: a name that is no channel.
    """
    found = (
        budgets
        if isinstance(budgets, ConstraintSet)
        else ConstraintSet(Constraint(name, value, max_step_cost=1.0) for name, value in (budgets or {}).items())
    )
    for name in found.names:
        if name not in CHANNELS:
            raise ConfigError(f"A budget for a shield must be for {' or '.join(CHANNELS)}; got {name!r}.")
    return found


def split_channels(
    budgets: Mapping[str, float] | None, constraints: ConstraintSet | None
) -> tuple[dict[str, float] | None, ConstraintSet | None, ConstraintSet]:
    """Budgets and constraints of the environment, and constraints on the channels, from what holds for both.

    Args:
        budgets: Budgets by cost name, or None for the environment's own.
        constraints: Full constraints instead of budgets, or None.

    Returns:
        Budgets (None if none are left, so that the environment's own hold), constraints, constraints on channels.

    Example:
        >>> split_channels({"cost": 25.0, "interventions": 10.0}, None)[::2]
        ({'cost': 25.0}, ConstraintSet(E[sum of interventions per episode] <= 10))
    """
    if constraints is not None:
        own = ConstraintSet(c for c in constraints if c.name not in CHANNELS)
        return None, own, ConstraintSet(c for c in constraints if c.name in CHANNELS)
    own_budgets = {name: value for name, value in (budgets or {}).items() if name not in CHANNELS}
    channels = {name: value for name, value in (budgets or {}).items() if name in CHANNELS}
    return own_budgets or None, None, channel_constraints(channels)
