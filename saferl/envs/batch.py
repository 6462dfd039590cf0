"""Flat arrays that hold one step of many environments, in private or in shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from saferl.errors import EnvContractError

Array = npt.NDArray[Any]
Batch = Array | dict[str, Array]
"""A batch of observations: one array, or one per key of a Dict space; the first axis is the environment."""


def leaf_spaces(space: spaces.Space[Any], what: str) -> dict[str, spaces.Space[Any]]:
    """The array-like parts of a space: itself under the key ``""``, or the parts of a flat Dict.

    Raises:
        EnvContractError: a part is not Box, Discrete, MultiDiscrete or MultiBinary.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise EnvContractError(
                f"The {what} space must be Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of them; "
                f"got {part} {f'under {key!r}' if key else ''}. Flatten it with "
                "gymnasium.wrappers.FlattenObservation or FilterObservation."
            )
    return parts


@dataclass(frozen=True)
class StepArrays:
    """Everything a step of ``num_envs`` environments returns; row i belongs to environment i."""

    obs: dict[str, Array]
    """Observation to act on next (after a reset where an episode ended)."""
    final_obs: dict[str, Array]
    """Last observation of the episode; only rows whose episode just ended are meaningful."""
    actions: dict[str, Array]
    """Actions to take."""
    rewards: Array
    """float64 (num_envs,)."""
    costs: Array
    """float64 (num_envs, num_constraints), of the step just taken, also at episode end."""
    margins: Array
    """float64 (num_envs, num_constraints), of the step just taken: how far each constraint is from being broken, > 0
    where it is. Where an env gives no margin, the positive part of the cost (1 where an indicator occurs, else 0)."""
    cost: Array
    """float64 (num_envs,), the env's own scalar."""
    terminated: Array
    """bool (num_envs,)."""
    truncated: Array
    """bool (num_envs,)."""

    @classmethod
    def allocate(
        cls,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_envs: int,
        num_constraints: int,
        *,
        memory: Any = None,
    ) -> StepArrays:
        """Lay the arrays out in ``memory`` (any writable buffer of :meth:`nbytes`), or in fresh zeroed memory.

        The layout depends on the arguments alone, so two processes that map one buffer see the same arrays.
        """
        if memory is None:
            memory = bytearray(cls.nbytes(observation_space, action_space, num_envs, num_constraints))
        offset = 0

        def array(shape: tuple[int, ...], dtype: Any) -> Array:
            nonlocal offset
            count = int(np.prod(shape))
            view = np.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(shape)
            offset += _aligned(count * view.itemsize)
            return view

        def tree(space: spaces.Space[Any], what: str) -> dict[str, Array]:
            return {
                key: array((num_envs, *(part.shape or ())), part.dtype)
                for key, part in leaf_spaces(space, what).items()
            }

        return cls(
            obs=tree(observation_space, "observation"),
            final_obs=tree(observation_space, "observation"),
            actions=tree(action_space, "action"),
            rewards=array((num_envs,), np.float64),
            costs=array((num_envs, num_constraints), np.float64),
            margins=array((num_envs, num_constraints), np.float64),
            cost=array((num_envs,), np.float64),
            terminated=array((num_envs,), np.bool_),
            truncated=array((num_envs,), np.bool_),
        )

    @staticmethod
    def nbytes(
        observation_space: spaces.Space[Any], action_space: spaces.Space[Any], num_envs: int, num_constraints: int
    ) -> int:
        """Bytes that :meth:`allocate` needs."""
        observations = list(leaf_spaces(observation_space, "observation").values())
        parts = [*observations, *observations, *leaf_spaces(action_space, "action").values()]
        total = sum(_aligned(num_envs * int(np.prod(p.shape or ())) * np.dtype(p.dtype).itemsize) for p in parts)
        total += _aligned(8 * num_envs) * 2 + _aligned(8 * num_envs * num_constraints) * 2 + _aligned(num_envs) * 2
        return max(1, total)

    def contract_state(self, row: int) -> dict[str, Any]:
        """What :func:`saferl.envs.state.get_state` gives for the contract of the single env in ``row``."""
        return {
            "last_costs": self.costs[row].copy(),
            "last_margins": self.margins[row].copy(),
            "last_cost": float(self.cost[row]),
        }

    def set_contract_state(self, row: int, state: Mapping[str, Any]) -> None:
        """Take back :meth:`contract_state`."""
        self.costs[row], self.margins[row] = state["last_costs"], state["last_margins"]
        self.cost[row] = state["last_cost"]

    def rows(self, start: int, stop: int) -> StepArrays:
        """Views of the rows [start, stop)."""
        part = slice(start, stop)

        def cut(tree: dict[str, Array]) -> dict[str, Array]:
            return {key: value[part] for key, value in tree.items()}

        return StepArrays(
            obs=cut(self.obs),
            final_obs=cut(self.final_obs),
            actions=cut(self.actions),
            rewards=self.rewards[part],
            costs=self.costs[part],
            margins=self.margins[part],
            cost=self.cost[part],
            terminated=self.terminated[part],
            truncated=self.truncated[part],
        )


def write_row(tree: dict[str, Array], row: int, value: Any) -> None:
    """Write one observation or action into row ``row``.

    Raises:
        EnvContractError: its shape or keys are not those of its space (numpy would broadcast it in silence).
    """
    for array, part in _pairs(tree, value):
        if np.shape(part) != array.shape[1:]:
            raise EnvContractError(
                f"An observation must have its space's shape {array.shape[1:]}; got {np.shape(part)}."
            )
        array[row] = part


def read_row(tree: dict[str, Array], row: int, space: spaces.Space[Any]) -> Any:
    """One action as the single env expects it (a Discrete one as a Python int)."""
    if isinstance(space, spaces.Dict):
        return {key: _read(array[row], space[key]) for key, array in tree.items()}
    return _read(tree[""][row], space)


def write_batch(tree: dict[str, Array], value: Any) -> None:
    """Write a whole batch of actions.

    Raises:
        EnvContractError: its shape or keys are not those of the space (numpy would broadcast it in silence).
    """
    for array, part in _pairs(tree, value):
        if np.shape(part) != array.shape:
            raise EnvContractError(f"A batch of actions must have shape {array.shape}; got {np.shape(part)}.")
        array[:] = part


def copy_batch(tree: dict[str, Array]) -> Batch:
    """A batch that later steps do not overwrite."""
    if "" in tree:
        return tree[""].copy()
    return {key: array.copy() for key, array in tree.items()}


def _pairs(tree: dict[str, Array], value: Any) -> list[tuple[Array, Any]]:
    if "" in tree:
        return [(tree[""], value)]
    if not isinstance(value, Mapping) or value.keys() != tree.keys():
        got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise EnvContractError(f"A value of a Dict space must have the keys {sorted(tree)}; got {got}.")
    return [(array, value[key]) for key, array in tree.items()]


def _read(value: Any, space: spaces.Space[Any]) -> Any:
    return int(value) if isinstance(space, spaces.Discrete) else value.copy()


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
