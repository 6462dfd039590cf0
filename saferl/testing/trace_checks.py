"""What must hold at every step of an env: pure functions over a recorded run, used by ``check_env``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium import spaces

from saferl.constraints import ConstraintSet
from saferl.testing.reports import Finding
from saferl.testing.values import is_same, kind_of, mismatch

_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


@dataclass(frozen=True)
class Step:
    """Copies of what one step gave."""

    where: str
    """``step 3`` or ``reset``, for messages."""
    obs: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False
    info: Mapping[str, Any] | None = None
    """None for a reset."""

    @property
    def has_ended(self) -> bool:
        """Whether the episode ended here, whatever the type of the flags."""
        return bool(np.any(self.terminated) or np.any(self.truncated))

    @property
    def costs(self) -> Any:
        """What stands for the costs by name; None if nothing does."""
        info = self.info or {}
        if "costs" in info:
            return info["costs"]
        return {"cost": info["cost"]} if "cost" in info else None


Trace = Sequence[Step]
"""A reset and the steps after it, through several episodes."""
TraceCheck = Callable[[Trace, spaces.Space[Any], ConstraintSet | None], Iterator[Finding]]


def check_observations(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """Every observation is in the space."""
    for step in trace:
        found = mismatch(space, step.obs)
        if found is not None:
            what, must, got, way_out = found
            yield Finding(what, must, f"{got} at {step.where}", way_out)


def check_rewards(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """Every reward is a finite number."""
    for step in trace:
        if not isinstance(step.reward, _NUMBERS):
            got = f"{kind_of(step.reward)} at {step.where}"
            yield Finding("the reward", "be a float", got, "Return float(reward).")
        elif not math.isfinite(step.reward):
            got = f"{step.reward} at {step.where}"
            yield Finding("the value of the reward", "be finite", got, "End the episode before the state diverges.")


def check_flags(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """``terminated`` and ``truncated`` are bools."""
    for step in trace:
        for what, flag in (("terminated", step.terminated), ("truncated", step.truncated)):
            if not isinstance(flag, bool | np.bool_):
                yield Finding(what, "be a bool", f"{kind_of(flag)} ({flag!r}) at {step.where}", f"Return bool({what}).")


def check_costs(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """Every step reports every cost, as a finite number under the same name."""
    keys: set[str] | None = None
    for step in trace:
        if step.info is None:
            continue
        costs = step.costs
        where = f"{step.where}, the last of its episode" if step.has_ended else step.where
        if costs is None:
            yield Finding(
                "info",
                "hold 'costs' (or 'cost' for a single one) at every step, also the last of an episode",
                f"the keys {sorted(step.info)} at {where}",
                "Report every cost at every step, 0.0 if there was none; or give saferl.make a cost function.",
            )
            continue
        if not isinstance(costs, Mapping):
            got = f"{kind_of(costs)} at {where}"
            yield Finding("info['costs']", "be a dict from name to number", got, "Return {'cost': value}.")
            continue
        for name, cost in costs.items():
            yield from _check_number(f"the cost {name!r}", cost, where)
        absent = [name for name in constraints.names if name not in costs] if constraints else []
        if absent:
            yield Finding(
                f"info['costs'] for the constraint {absent[0]!r}",
                "hold its cost at every step",
                f"the costs {sorted(costs)} at {where}",
                "Name the constraint after its cost, and report it at every step.",
            )
        elif keys is not None and set(costs) != keys:
            yield Finding(
                "the keys of info['costs']",
                "be the same at every step",
                f"{sorted(costs)} at {where} after {sorted(keys)}",
                "Report 0.0 for a cost that did not occur.",
                # All constrained costs are there; a budget for the one that comes and goes would fail later.
                is_warning=bool(constraints),
            )
        keys = set(costs) if keys is None else keys


def check_cost_scalars(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """``info["cost"]``, where it exists, is a finite number, and not another one than ``info["costs"]["cost"]``."""
    for step in trace:
        if step.info is None or "cost" not in step.info:
            continue
        cost, costs = step.info["cost"], step.costs
        yield from _check_number("info['cost']", cost, step.where)
        if isinstance(costs, Mapping) and not is_same(costs.get("cost", cost), cost):
            yield Finding(
                "info['cost']",
                "be info['costs']['cost'] where both exist",
                f"{cost!r} and {costs['cost']!r} at {step.where}",
                "Give the two quantities different names.",
                is_warning=True,
            )


def check_cost_bounds(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """A cost with a declared largest value lies between 0 and that."""
    for step in trace:
        costs = step.costs if isinstance(step.costs, Mapping) else {}
        for constraint in constraints or ():
            most, value = constraint.max_step_cost, costs.get(constraint.name)
            if most is None or not isinstance(value, _NUMBERS) or not math.isfinite(value) or 0.0 <= value <= most:
                continue
            yield Finding(
                f"the cost {constraint.name!r}",
                f"lie in [0, {most:g}], since its max_step_cost is {most:g}",
                f"{value} at {step.where}",
                "Confidence bounds rely on it: correct the cost, raise max_step_cost, or leave it out.",
            )


def check_episode_ends(trace: Trace, space: spaces.Space[Any], constraints: ConstraintSet | None) -> Iterator[Finding]:
    """Episodes do not all terminate at one length, as they do where a time limit is taken for a termination."""
    ends = [number for number, step in enumerate(trace) if step.has_ended]
    lengths = {stop - start for start, stop in pairwise([0, *ends])}
    if len(ends) >= 3 and len(lengths) == 1 and lengths != {1} and all(np.any(trace[end].terminated) for end in ends):
        yield Finding(
            "an episode that a time limit ends",
            "be truncated, not terminated",
            f"terminated=True after exactly {lengths.pop()} steps in each of {len(ends)} episodes",
            "If that is a time limit, return truncated=True there: values are then bootstrapped.",
            is_warning=True,
        )


def _check_number(what: str, value: Any, where: str) -> Iterator[Finding]:
    if not isinstance(value, _NUMBERS):
        yield Finding(what, "be a number", f"{kind_of(value)} ({value!r}) at {where}", "Return float(cost).")
    elif not math.isfinite(value):
        got = f"{value} at {where}"
        yield Finding(what, "be finite", got, "A cost that is not a number would hide a violation: fix the env.")


TRACE_CHECKS: Mapping[str, TraceCheck] = MappingProxyType(
    {
        "observation": check_observations,
        "reward": check_rewards,
        "flags": check_flags,
        "costs": check_costs,
        "cost-scalar": check_cost_scalars,
        "cost-bounds": check_cost_bounds,
        "episode-ends": check_episode_ends,
    }
)
"""By the name of the check."""
