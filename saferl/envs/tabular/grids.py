"""Grids with slips: hazards on the way to a goal, and Gymnasium's frozen lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.envs.tabular.binding import between_prices, half_way
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.random_cmdps import DENSE_STATES
from saferl.errors import ConfigError, UnknownNameError

_PLANNED_STATES, _WALK_SHARE = 10_000, 0.125
Cell = tuple[int, int]
Indices = npt.NDArray[np.int64]

_LEFT_DOWN_RIGHT_UP = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
"""Steps (row, column) of the actions 0 to 3, in the order of Gymnasium's frozen lake."""
LAKES: dict[str, tuple[str, ...]] = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
"""Gymnasium's maps: start, frozen, hole, goal."""


def gridworld(
    size: int = 8,
    slip: float = 0.1,
    hazards: float | Sequence[Cell] = 0.2,
    *,
    goal: Cell | None = None,
    start: Cell | None = None,
    gamma: float = 0.99,
    seed: int = 0,
    budget: float | None = None,
    is_sparse: bool | None = None,
) -> TabularCMDP:
    """A ``size`` x ``size`` grid: being at the goal earns 1 per step for ever, being in a hazard costs 1 per step.

    The actions are left, down, right and up. With probability ``slip`` the agent moves to one of the two sides instead,
    and a wall stops it. The state of a cell is ``row * size + column``.

    Args:
        size: Rows and columns, at least 2.
        slip: Probability of a step aside, in [0, 1].
        hazards: Cells (row, column), or the share of cells that are hazards, drawn with ``seed``.
        goal: Its cell; the last one if None. It is never a drawn hazard.
        start: The first cell; any cell that is neither goal nor hazard if None.
        gamma: Discount.
        seed: Seed of the hazards.
        budget: Limit of the discounted cost. Default: up to 10,000 cells, the optimal multiplier lies between 0.5 and 2
            (:func:`~saferl.envs.tabular.binding.between_prices`); beyond, where planning takes long, an eighth of what
            a walk straight to the goal costs, which has been about the same.
        is_sparse: Whether transitions are sparse; by default they are from 23 x 23 cells on.

    Raises:
        ConfigError: a number is out of range, or a cell outside the grid.
    """
    if size < 2 or not 0.0 <= slip <= 1.0:
        raise ConfigError(f"A gridworld needs size >= 2 and slip in [0, 1]; got size={size}, slip={slip!r}.")
    num_states = size * size
    end = _cell("goal", goal if goal is not None else (size - 1, size - 1), size)
    first = None if start is None else _cell("start", start, size)
    is_hazard = _hazards(hazards, size, end, first, seed)
    neighbours = _neighbours(size)
    neighbours[end] = end
    moves = _slippery(neighbours, slip)
    rewards, costs = np.zeros((num_states, 4)), np.zeros((num_states, 4, 1))
    rewards[end], costs[is_hazard] = 1.0, 1.0
    if is_sparse is None:
        is_sparse = num_states > DENSE_STATES
    given: Any = moves if is_sparse else moves.toarray().reshape(num_states, 4, num_states)
    cmdp = TabularCMDP(
        given, rewards, costs, gamma, _starts(is_hazard, end, first), [0.0 if budget is None else budget]
    )
    if budget is not None:
        return cmdp
    walk = _straight_walk(size, end)
    if num_states <= _PLANNED_STATES:
        return between_prices(cmdp, initial=walk)
    return cmdp.with_budgets(_WALK_SHARE * cmdp.evaluate(walk).costs / cmdp.scale)


def frozen_lake(lake: str | Sequence[str] = "4x4", *, is_slippery: bool = True, gamma: float = 0.99) -> TabularCMDP:
    """Gymnasium's FrozenLake as a CMDP: every step in the goal earns 1, every step in a hole costs 1, both for ever.

    States and actions are Gymnasium's. Where Gymnasium ends an episode, this one stays there for ever, so that the mean
    reward and cost per step are the discounted probabilities of either end. The budget binds.

    Args:
        lake: ``4x4``, ``8x8``, or the rows of a map: ``S`` start, ``F`` frozen, ``H`` hole, ``G`` goal.
        is_slippery: Whether a step goes to either side with probability 1/3 each.
        gamma: Discount.

    Raises:
        UnknownNameError: no map of this name.
        ConfigError: a map that is not a square with one start.
    """
    if isinstance(lake, str) and lake not in LAKES:
        raise UnknownNameError("map of the frozen lake", lake, LAKES)
    rows = LAKES[lake] if isinstance(lake, str) else tuple(lake)
    size = len(rows)
    letters = np.array([letter for row in rows for letter in row])
    if any(len(row) != size for row in rows) or not set(letters) <= set("SFHG") or (letters == "S").sum() != 1:
        raise ConfigError(f"The map of a lake must be a square of the letters F, H, G and one S; got {list(rows)}.")
    num_states = size * size
    neighbours = _neighbours(size)
    is_end = (letters == "H") | (letters == "G")
    neighbours[is_end] = np.flatnonzero(is_end)[:, None]
    moves = _slippery(neighbours, 2.0 / 3.0 if is_slippery else 0.0).toarray().reshape(num_states, 4, num_states)
    rewards, costs = np.zeros((num_states, 4)), np.zeros((num_states, 4, 1))
    rewards[letters == "G"], costs[letters == "H"] = 1.0, 1.0
    return half_way(TabularCMDP(moves, rewards, costs, gamma, (letters == "S").astype(np.float64), [0.0]))


def _neighbours(size: int) -> Indices:
    """Where each action leads from each cell without a slip, (size * size, 4)."""
    places = np.stack(np.divmod(np.arange(size * size), size), axis=-1)
    moved = np.clip(places[:, None] + _LEFT_DOWN_RIGHT_UP, 0, size - 1)
    return np.asarray(moved[..., 0] * size + moved[..., 1])


def _slippery(neighbours: Indices, slip: float) -> Any:
    """Transitions (S * 4, S) as CSR: the neighbour of the action, or of those to its sides with ``slip / 2`` each."""
    num_states = len(neighbours)
    targets = np.stack([neighbours, np.roll(neighbours, 1, axis=1), np.roll(neighbours, -1, axis=1)], axis=-1)
    shares = np.tile([1.0 - slip, 0.5 * slip, 0.5 * slip], num_states * 4)
    matrix = sparse.csr_array(
        (shares, targets.ravel(), np.arange(num_states * 4 + 1) * 3), shape=(num_states * 4, num_states)
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _cell(what: str, cell: Cell, size: int) -> int:
    row, column = cell
    if not (0 <= row < size and 0 <= column < size):
        raise ConfigError(f"The {what} must be a cell (row, column) of a {size} x {size} grid; got {cell}.")
    return int(row) * size + int(column)


def _hazards(
    hazards: float | Sequence[Cell], size: int, goal: int, start: int | None, seed: int
) -> npt.NDArray[np.bool_]:
    """Which cells are hazards, (size * size,)."""
    mask = np.zeros(size * size, dtype=np.bool_)
    if isinstance(hazards, int | float):
        if not 0.0 <= hazards < 1.0:
            raise ConfigError(f"The share of hazards must lie in [0, 1); got {hazards!r}.")
        mask = np.random.default_rng(seed).uniform(size=size * size) < hazards
        mask[[goal] if start is None else [goal, start]] = False
        return mask
    for cell in hazards:
        mask[_cell("hazard", cell, size)] = True
    return mask


def _starts(is_hazard: npt.NDArray[np.bool_], goal: int, start: int | None) -> npt.NDArray[np.float64]:
    """The start, or any cell that is neither goal nor hazard with the same probability, (size * size,)."""
    rho = (~is_hazard).astype(np.float64)
    rho[goal] = 0.0
    if start is not None:
        rho[:] = 0.0
        rho[start] = 1.0
    if not rho.any():
        raise ConfigError("A gridworld needs a cell that is neither goal nor hazard; got none. Give fewer hazards.")
    return np.asarray(rho / rho.sum())


def _straight_walk(size: int, goal: int) -> npt.NDArray[np.float64]:
    """Walk along the longer of the two distances to the goal, (S, 4) probabilities."""
    rows, columns = np.divmod(np.arange(size * size), size)
    down, right = goal // size - rows, goal % size - columns
    vertical = np.where(down > 0, 1, 3)
    horizontal = np.where(right > 0, 2, 0)
    return np.asarray(np.eye(4)[np.where(np.abs(down) > np.abs(right), vertical, horizontal)])
