"""Reading costs strictly: a missing, NaN or infinite cost is an error, never a zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import CostError

_WAY_OUT = (
    "Every step must report every cost in info['costs'] (or info['cost'] for a single one); "
    "give a cost function with saferl.make(..., cost=function) or --cost module:function if the env has none."
)


def read_costs(info: Mapping[str, Any], names: Sequence[str], env_id: str) -> npt.NDArray[np.float64]:
    """The costs of one step in the order of ``names``, shape (len(names),).

    Raises:
        CostError: a cost is missing, not a number, NaN or infinite; the message names env, key and way out.
    """
    reported = info.get("costs")
    if reported is None or not isinstance(reported, Mapping):
        if "cost" in info and tuple(names) == ("cost",):
            reported = {"cost": info["cost"]}
        else:
            raise CostError(f"{env_id}: info['costs'] is missing; got the keys {sorted(info)}. {_WAY_OUT}")
    values = np.empty(len(names), dtype=np.float64)
    for index, name in enumerate(names):
        if name not in reported:
            raise CostError(
                f"{env_id}: the cost {name!r} is missing from info['costs']; got {sorted(reported)}. {_WAY_OUT}"
            )
        values[index] = check_cost(reported[name], name, env_id)
    return values


def read_margins(
    info: Mapping[str, Any], names: Sequence[str], costs: npt.NDArray[np.float64], env_id: str
) -> npt.NDArray[np.float64]:
    """How far the constraints ``names`` are from being broken in one step, > 0 where they are, shape (len(names),).

    Where ``info["margins"]`` does not name one, it is the positive part of the cost: an indicator counts as 1 where it
    occurs, and as 0, which is not broken, where it does not.

    Args:
        info: Of the step.
        names: Names of the constraints.
        costs: Their costs, of :func:`read_costs`.
        env_id: For messages.

    Raises:
        CostError: the margins are not a mapping, or one is not a finite number.
    """
    margins = np.maximum(costs, 0.0)
    given = info.get("margins")
    if given is None:
        return margins
    if not isinstance(given, Mapping):
        raise CostError(
            f"{env_id}: info['margins'] must be a mapping from names of costs to numbers; got {given!r}. "
            "Give signed distances by name, > 0 where the cost occurs, or leave the key out."
        )
    for index, name in enumerate(names):
        if name in given:
            margins[index] = _finite_margin(given[name], name, env_id)
    return margins


def _finite_margin(value: Any, name: str, env_id: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CostError(
            f"{env_id}: the margin of {name!r} must be a finite number; got {value!r}. "
            "Fix the env, or leave this name out of info['margins']."
        )
    return number


def check_cost(value: Any, name: str, env_id: str) -> float:
    """``value`` as a finite float.

    Raises:
        CostError: it is not one.
    """
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise CostError(f"{env_id}: the cost {name!r} must be a number; got {value!r}. {_WAY_OUT}") from error
    if not math.isfinite(number):
        raise CostError(
            f"{env_id}: the cost {name!r} must be finite; got {number}. A cost that is not a number would hide a "
            "violation. Fix the env, or end the episode before its state diverges."
        )
    return number
