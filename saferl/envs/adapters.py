"""Wrappers that bring any Gymnasium-like env to saferl's contract; each has one duty.

Order, from the inside: :class:`SixTupleAdapter`, Gymnasium's time limit, :class:`CostFunction`,
:class:`CostContract`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from saferl.constraints import ConstraintSet
from saferl.envs.costs import check_cost, read_costs, read_margins
from saferl.errors import EnvContractError

CostFn = Callable[[Any, Any, Any], float | Mapping[str, float]]
"""``cost(obs, action, next_obs)`` gives one cost, or several by name."""


class SixTupleAdapter(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns ``obs, reward, cost, terminated, truncated, info`` into Gymnasium's 5-tuple with ``info["cost"]``.

    A step that already has five entries passes unchanged.
    """

    def step(self, action: Any) -> Any:
        """Step the env; the third of six entries becomes ``info["cost"]``."""
        result: Any = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 6:
            return result
        obs, reward, cost, terminated, truncated, info = result
        return obs, reward, terminated, truncated, {**info, "cost": cost}


class CostFunction(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds costs computed from ``(obs, action, next_obs)`` to an env that reports none.

    Example:
        >>> import gymnasium
        >>> env = CostFunction(gymnasium.make("CartPole-v1"), lambda obs, action, next_obs: float(next_obs[0] > 0.0))
        >>> _ = env.reset(seed=0)
        >>> env.step(1)[-1]["cost"] in (0.0, 1.0)
        True
    """

    def __init__(self, env: gymnasium.Env[Any, Any], cost: CostFn) -> None:
        """Wrap ``env``; ``cost`` gets the observation before the step, the action, and the one after."""
        super().__init__(env)
        self._cost = cost
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the env and remember its first observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._obs = copy.deepcopy(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """Step the env and add ``info["cost"]`` or ``info["costs"]``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        cost = self._cost(self._obs, action, obs)
        # Some envs write every observation into one array.
        self._obs = copy.deepcopy(obs)
        if isinstance(cost, Mapping):
            return obs, reward, terminated, truncated, {**info, "costs": dict(cost)}
        return obs, reward, terminated, truncated, {**info, "cost": cost, "costs": {"cost": cost}}


class CostContract(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper of ``saferl.make``: checks every step and carries the constraints.

    ``info["costs"]`` holds every cost by name, ``info["cost"]`` the env's own scalar (the sum of the named costs only
    if it has none), ``last_costs`` the costs of the constraints in order, float64 of shape (num_constraints,), and
    ``last_margins`` how far each constraint was from being broken in that step, > 0 where it was: the env's
    ``info["margins"]``, or the positive part of the cost where it gives none.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        constraints: ConstraintSet,
        *,
        env_id: str,
        horizon: int | None = None,
        is_fixed_horizon: bool = False,
    ) -> None:
        """Wrap ``env``; ``horizon`` (steps) and ``is_fixed_horizon`` say what is known of episode lengths."""
        super().__init__(env)
        self.constraints = constraints
        self.env_id = env_id
        self.horizon = horizon
        self.is_fixed_horizon = is_fixed_horizon
        self.last_costs = np.zeros(len(constraints))
        self.last_margins = np.zeros(len(constraints))
        self.last_cost = 0.0

    def step(self, action: Any) -> Any:
        """Step the env.

        Raises:
            CostError: a cost is missing, or a cost or a margin is NaN or infinite.
            EnvContractError: the step is not a 5-tuple, the reward is not finite, or info is not a dict.
        """
        result: Any = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            raise EnvContractError(
                f"{self.env_id}: step must return (obs, reward, terminated, truncated, info); "
                f"got {len(result) if isinstance(result, tuple) else type(result).__name__}. "
                "Wrap a 6-tuple env in saferl.envs.SixTupleAdapter before any other wrapper."
            )
        obs, reward, terminated, truncated, info = result
        if not _is_finite_number(reward):
            raise EnvContractError(f"{self.env_id}: the reward must be a finite number; got {reward!r}.")
        if not isinstance(info, dict):
            raise EnvContractError(f"{self.env_id}: info must be a dict with the costs; got {info!r}.")
        self.last_costs = read_costs(info, self.constraints.names, self.env_id)
        self.last_margins = read_margins(info, self.constraints.names, self.last_costs, self.env_id)
        if not isinstance(info.get("costs"), Mapping):
            info["costs"] = {"cost": float(self.last_costs[0])}
        if "cost" not in info:
            info["cost"] = sum(check_cost(value, name, self.env_id) for name, value in info["costs"].items())
        self.last_cost = check_cost(info["cost"], "cost", self.env_id)
        return obs, reward, terminated, truncated, info


def _is_finite_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
