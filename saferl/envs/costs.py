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
