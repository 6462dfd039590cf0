"""Comparing and describing what environments return; used by the conformance checkers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import TimeLimit

from saferl.envs.adapters import CostContract
from saferl.envs.vector import CostVectorEnv


def kind_of(value: Any) -> str:
    """Type of a value, with length, shape and dtype where it has them.

    Example:
        >>> kind_of((1, 2)), kind_of(np.zeros(3))
        ('a tuple of length 2', 'an array of shape (3,) and dtype float64')
    """
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of length {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit, through dicts, tuples and arrays (NaN equals NaN)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(is_same(a, b) for a, b in zip(one, other, strict=True))
    first, second = np.asarray(one), np.asarray(other)
    has_nan = all(np.issubdtype(array.dtype, np.inexact) for array in (first, second))
    return bool(np.array_equal(first, second, equal_nan=has_nan))


def mismatch(space: spaces.Space[Any], value: Any, name: str = "observation") -> tuple[str, str, str, str] | None:
    """Why ``value`` is not in ``space``: what is wrong, what it must be, what it is, the way out; None if it fits."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            return f"the {name}", f"be a dict with the keys {sorted(space)}", kind_of(value), "Return a dict."
        if set(value) != set(space):
            way_out = "Return every key of the space and no other."
            return f"the keys of the {name}", f"be {sorted(space)}", f"{sorted(value)}", way_out
        found = (mismatch(part, value[key], f"{name} {key!r}") for key, part in space.items())
        return next((entry for entry in found if entry is not None), None)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return _array_mismatch(space, value, name)
    if space.contains(value):
        return None
    return f"the {name}", f"be in {space}", f"{value!r} ({kind_of(value)})", "Return a member of the space."


def _array_mismatch(space: Any, value: Any, name: str) -> tuple[str, str, str, str] | None:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        must = f"be a numpy array of shape {space.shape} and dtype {space.dtype}"
        return f"the {name}", must, kind_of(value), f"Return np.asarray(obs, dtype=np.{space.dtype})."
    if not np.can_cast(value.dtype, space.dtype):
        way_out = f"Return obs.astype(np.{space.dtype}), or declare the space with dtype {value.dtype}."
        return f"the dtype of the {name}", f"be {space.dtype}", f"{value.dtype}", way_out
    if value.shape != space.shape:
        way_out = "Declare the shape that you return, or reshape it."
        return f"the shape of the {name}", f"be {space.shape}", f"{value.shape}", way_out
    if np.issubdtype(value.dtype, np.inexact) and np.isnan(value).any():
        where = tuple(int(i) for i in np.argwhere(np.isnan(value))[0])
        return f"the {name}", "be a number in every entry", f"NaN in entry {where}", "Find where the NaN arises."
    if isinstance(space, spaces.Box):
        outside = (value < space.low) | (value > space.high)
        if outside.any():
            where = tuple(int(i) for i in np.argwhere(outside)[0])
            got = f"{value[where]:g} in entry {where}, outside [{space.low[where]:g}, {space.high[where]:g}]"
            way_out = "Clip it, or widen low and high (np.inf is allowed)."
            return f"the {name}", "lie within the bounds of its space", got, way_out
    elif not space.contains(value):
        return f"the {name}", f"be in {space}", f"{value!r}", "Return a member of the space."
    return None


def vector_difference(factory: Callable[[], CostContract], *, seed: int, steps: int) -> str | None:
    """First difference between a :class:`CostVectorEnv` of two envs and the same two stepped by hand; None if equal.

    Observations, rewards, ends, costs and final observations are compared, with SAME_STEP autoreset, under a time
    limit of a third of ``steps``, so that some episodes end.
    """

    def short() -> CostContract:
        env = factory()
        limit = max(1, steps // 3)
        return CostContract(TimeLimit(env.env, limit), env.constraints, env_id=env.env_id, horizon=limit)

    singles = [short(), short()]
    vector = CostVectorEnv([short, short])
    try:
        batch, _ = vector.reset(seed=seed)
        for row, (env, obs) in enumerate(zip(singles, iterate(vector.observation_space, batch), strict=True)):
            if not is_same(obs, env.reset(seed=seed + row)[0]):
                return f"another obs of env {row} at reset"
        vector.action_space.seed(seed)
        for number in range(1, steps + 1):
            found = _step_difference(vector, singles)
            if found is not None:
                return f"{found} at step {number}"
        return None
    finally:
        vector.close()
        for env in singles:
            env.close()


def _step_difference(vector: CostVectorEnv, singles: list[CostContract]) -> str | None:
    actions = vector.action_space.sample()
    batch, rewards, terminated, truncated, infos = vector.step(actions)
    shown = list(iterate(vector.observation_space, batch))
    for row, (env, action) in enumerate(zip(singles, iterate(vector.action_space, actions), strict=True)):
        obs, *results, _ = env.step(action)
        pairs = dict(zip(("reward", "terminated", "truncated"), results, strict=True))
        found = {"reward": rewards[row], "terminated": terminated[row], "truncated": truncated[row]}
        pairs["costs"], found["costs"] = env.last_costs, infos["costs"][row]
        pairs["margins"], found["margins"] = env.last_margins, infos["margins"][row]
        if pairs["terminated"] or pairs["truncated"]:
            pairs["final_obs"] = obs
            found["final_obs"] = list(iterate(vector.observation_space, infos["final_obs"]))[row]
            obs, _ = env.reset()
        pairs["obs"], found["obs"] = obs, shown[row]
        for what, value in pairs.items():
            if not is_same(value, found[what]):
                return f"another {what} of env {row}"
    return None
