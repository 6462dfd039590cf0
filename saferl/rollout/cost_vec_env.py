"""Stable-Baselines3's view of a :class:`~saferl.envs.CostVectorEnv`, with costs as arrays."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from saferl.constraints import ConstraintSet
from saferl.envs.vector import CostVectorEnv

_SUMS = ("returns", "lengths", "cost_sums", "discounted_sums", "discounts", "largest_costs")
"""What is known of each open episode."""


class CostVecEnv(VecEnv):
    """A VecEnv whose last step's ``costs``, ``margins``, ``terminated``, ``truncated`` and ``final_obs`` are arrays.

    They can be read through any VecEnvWrapper (``env.costs``). ``infos`` is filled only where an episode ended, with
    Stable-Baselines3's ``terminal_observation``, ``TimeLimit.truncated`` and ``episode``; the latter also holds the
    undiscounted cost sums under ``costs``.
    """

    def __init__(self, venv: CostVectorEnv) -> None:
        """Wrap ``venv``."""
        self.venv_with_costs = venv
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)
        self.constraints: ConstraintSet = venv.constraints
        self.env_id = venv.env_id
        self.horizon = venv.horizon
        self.is_fixed_horizon = venv.is_fixed_horizon
        num_constraints = len(self.constraints)
        self.costs: npt.NDArray[np.float64] = np.zeros((venv.num_envs, num_constraints))
        self.margins: npt.NDArray[np.float64] = np.zeros((venv.num_envs, num_constraints))
        self.terminated: npt.NDArray[np.bool_] = np.zeros(venv.num_envs, dtype=np.bool_)
        self.truncated: npt.NDArray[np.bool_] = np.zeros(venv.num_envs, dtype=np.bool_)
        self.final_obs: Any = None
        self.recent_costs: deque[npt.NDArray[np.float64]] = deque(maxlen=100)
        """Undiscounted cost sums of the last 100 finished episodes, each (num_constraints,)."""
        self.totals = TrainingCosts(self.constraints)
        self._returns = np.zeros(venv.num_envs)
        self._lengths = np.zeros(venv.num_envs, dtype=np.int64)
        self._cost_sums = np.zeros((venv.num_envs, num_constraints))
        self._discounted_sums = np.zeros((venv.num_envs, num_constraints))
        self._discounts = np.ones((venv.num_envs, num_constraints))
        self._largest_costs = np.zeros((venv.num_envs, num_constraints))
        self._gammas = np.array([c.gamma for c in self.constraints])
        self._is_statewise = np.array([c.kind == "statewise" for c in self.constraints], dtype=np.bool_)
        self._actions: Any = None
        self._start = time.time()

    @property
    def stored_actions(self) -> Any:
        """Actions of the last step that a replay buffer keeps: those that were executed."""
        return self._actions

    def reset(self) -> Any:
        """Reset all environments (with the seeds given by :meth:`seed`, once)."""
        seeds = None if all(s is None for s in self._seeds) else list(self._seeds)
        obs, _ = self.venv_with_costs.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        for sums in (self._returns, self._lengths, self._cost_sums, self._discounted_sums, self._largest_costs):
            sums[...] = 0
        self._discounts[...] = 1.0
        return obs

    def step_async(self, actions: Any) -> None:
        """Remember the actions."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Step and publish the cost arrays."""
        obs, rewards, self.terminated, self.truncated, step_infos = self.venv_with_costs.step(self._actions)
        self.costs, self.margins = step_infos["costs"], step_infos["margins"]
        dones = self.terminated | self.truncated
        self._returns += rewards
        self._lengths += 1
        self._cost_sums += self.costs
        self._discounted_sums += self._discounts * self.costs
        self._discounts *= self._gammas
        np.maximum(self._largest_costs, self.costs, out=self._largest_costs)
        self.totals.steps += len(rewards)
        self.totals.costs += self.costs.sum(axis=0)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            self.final_obs = step_infos["final_obs"]
            for row in np.flatnonzero(dones):
                infos[row] = self._finish(int(row))
        return obs, rewards.astype(np.float32), dones, infos

    def _finish(self, row: int) -> dict[str, Any]:
        sums = self._cost_sums[row].copy()
        self.recent_costs.append(sums)
        values = np.where(self._is_statewise, self._largest_costs[row], self._discounted_sums[row])
        self.totals.add_episode(values, int(self._lengths[row]))
        episode = {
            "r": float(self._returns[row]),
            "l": int(self._lengths[row]),
            "t": round(time.time() - self._start, 6),
            "costs": dict(zip(self.constraints.names, sums.tolist(), strict=True)),
        }
        self._returns[row], self._lengths[row], self._cost_sums[row] = 0.0, 0, 0.0
        self._discounted_sums[row], self._discounts[row], self._largest_costs[row] = 0.0, 1.0, 0.0
        final = self.final_obs
        return {
            "episode": episode,
            "terminal_observation": {k: v[row] for k, v in final.items()} if isinstance(final, dict) else final[row],
            "TimeLimit.truncated": bool(self.truncated[row] and not self.terminated[row]),
        }

    def get_state(self) -> dict[str, Any]:
        """Sums of open episodes, recent costs and totals, and the environments' states (None where they have none)."""
        return {
            "envs": self.venv_with_costs.get_states(),
            "recent_costs": list(self.recent_costs),
            "totals": self.totals.get_state(),
            **{name: getattr(self, f"_{name}").copy() for name in _SUMS},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`; environments without a state are left as they are."""
        if state["envs"] is not None:
            self.venv_with_costs.set_states(state["envs"])
        self.recent_costs.clear()
        self.recent_costs.extend(state["recent_costs"])
        self.totals.set_state(state["totals"])
        for name in _SUMS:
            getattr(self, f"_{name}")[...] = state[name]

    def close(self) -> None:
        """Close the environments."""
        self.venv_with_costs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Read an attribute of the environments, or, for ``render_mode`` and shared facts, of the batch."""
        rows = list(self._get_indices(indices))
        if self.venv_with_costs.envs:
            return [self.venv_with_costs.envs[row].get_wrapper_attr(attr_name) for row in rows]
        return [getattr(self.venv_with_costs, attr_name) for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of environments in this process."""
        for row in self._get_indices(indices):
            self.venv_with_costs.envs[row].set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of environments in this process."""
        envs = self.venv_with_costs.envs
        return [
            envs[row].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for row in self._get_indices(indices)
        ]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Say that episodes are monitored, which Stable-Baselines3 asks before it adds a Monitor."""
        from stable_baselines3.common.monitor import Monitor

        rows: Sequence[int] = list(self._get_indices(indices))
        return [wrapper_class is Monitor for _ in rows]


class TrainingCosts:
    """What training itself cost (PROTOCOL: training-time safety), over whole episodes and all steps."""

    def __init__(self, constraints: ConstraintSet) -> None:
        """Start at zero."""
        self._constraints = constraints
        self.steps = 0
        self.episodes = 0
        self.costs = np.zeros(len(constraints))
        self.violating_episodes = np.zeros(len(constraints), dtype=np.int64)
        self.overshoot = np.zeros(len(constraints))
        self._iteration: list[npt.NDArray[np.float64]] = []

    def add_episode(self, sums: npt.NDArray[np.float64], length: int) -> None:
        """Count one finished episode.

        Args:
            sums: Cost sums (num_constraints,), discounted where the constraint is; the largest cost of a step where it
                is statewise.
            length: Steps of the episode.
        """
        self.episodes += 1
        values = np.array(
            [s / length if c.kind == "step_rate" else s for s, c in zip(sums, self._constraints, strict=True)]
        )
        gaps = self._constraints.signs * (values - self._constraints.budgets)
        self.violating_episodes += gaps > 0
        self._iteration.append(gaps)

    def end_iteration(self) -> None:
        """Add the positive part of this iteration's mean gap: violations do not cancel against slack elsewhere."""
        if self._iteration:
            self.overshoot += np.maximum(np.mean(self._iteration, axis=0), 0.0)
            self._iteration.clear()

    def get_state(self) -> dict[str, Any]:
        """Everything counted so far."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "iteration": list(self._iteration),
            **{name: getattr(self, name).copy() for name in ("costs", "violating_episodes", "overshoot")},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.steps, self.episodes = int(state["steps"]), int(state["episodes"])
        self._iteration = list(state["iteration"])
        for name in ("costs", "violating_episodes", "overshoot"):
            getattr(self, name)[...] = state[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON types by constraint name."""
        share = self.violating_episodes / max(1, self.episodes)
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "total_cost": dict(zip(self._constraints.names, self.costs.tolist(), strict=True)),
            "violating_episode_share": dict(zip(self._constraints.names, share.tolist(), strict=True)),
            "overshoot_sum": dict(zip(self._constraints.names, self.overshoot.tolist(), strict=True)),
        }
