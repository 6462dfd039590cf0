"""The input of a tabular CMDP, checked once; errors name the array, the index and the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]
TOLERANCE = 1e-9
"""How far a sum of probabilities may be from 1."""


@dataclass(frozen=True)
class CheckedArrays:
    """What :class:`~saferl.envs.tabular.TabularCMDP` keeps."""

    transitions: list[Any]
    rewards: Array
    costs: Array
    rho: Array
    budgets: Array


def checked_arrays(
    transitions: Any,
    rewards: npt.ArrayLike,
    costs: npt.ArrayLike,
    gamma: float | None,
    rho: npt.ArrayLike,
    budgets: npt.ArrayLike,
    horizon: int | None,
) -> CheckedArrays:
    """The arrays as float64 in the shapes that evaluation needs.

    Raises:
        ConfigError: what is wrong, and where.
    """
    _check_end(gamma, horizon)
    r = _numbers("r", rewards)
    if r.ndim not in ((2,) if horizon is None else (2, 3)) or 0 in r.shape:
        expected = "(S, A)" if horizon is None else "(S, A) or (H, S, A)"
        raise ConfigError(f"r must have shape {expected} without an empty axis; got {r.shape}.")
    num_states, num_actions = r.shape[-2:]
    c = _numbers("C", costs)
    head = (num_states, num_actions)
    lead = (horizon,) if horizon is not None else ()
    if c.ndim not in (3, 3 + len(lead)) or c.shape[-3:-1] != head or c.shape[-1] == 0 or c.shape[:-3] not in ((), lead):
        raise ConfigError(
            f"C must have shape {(*head, 'K')}, the last axis one cost per constraint, to match r {r.shape}; "
            f"got {c.shape}."
        )
    if horizon is not None:
        if r.ndim == 3 and r.shape[0] != horizon:
            raise ConfigError(f"r must have one row per step of the horizon {horizon}; got shape {r.shape}.")
        r = np.broadcast_to(r, (horizon, *head)).copy()
        c = np.broadcast_to(c, (horizon, *head, c.shape[-1])).copy()
    first = _numbers("rho", rho)
    if first.shape != (num_states,):
        raise ConfigError(f"rho must have shape ({num_states},), one probability per state; got {first.shape}.")
    _check_distributions("rho", first[None], lambda _, state: f"[{state}]", lambda _: "")
    moves = _transitions(transitions, num_states, num_actions, horizon)
    return CheckedArrays(moves, r, c, first, checked_budgets(budgets, c.shape[-1]))


def checked_budgets(budgets: npt.ArrayLike, num_constraints: int) -> Array:
    """The budgets as float64, (K,).

    Raises:
        ConfigError: another number of them, or one that is not finite.
    """
    limits = _numbers("budgets", budgets)
    if limits.shape != (num_constraints,):
        raise ConfigError(
            f"budgets must have shape ({num_constraints},), one per cost in the last axis of C; got {limits.shape}."
        )
    return limits


def _check_end(gamma: float | None, horizon: int | None) -> None:
    if horizon is not None:
        if gamma is not None:
            raise ConfigError(f"A finite horizon has no discount: give gamma=None with horizon; got gamma={gamma!r}.")
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
            raise ConfigError(f"horizon must be a whole number of steps, at least 1; got {horizon!r}.")
    elif isinstance(gamma, bool) or not isinstance(gamma, int | float | np.number) or not 0.0 <= float(gamma) < 1.0:
        raise ConfigError(
            f"gamma must be a number in [0, 1); got {gamma!r}. For a sum without discount give gamma=None, horizon=H."
        )


def _numbers(name: str, values: npt.ArrayLike) -> Array:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be an array of numbers; got {type(values).__name__} ({error}).") from error
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ConfigError(f"{name} must be finite; got {array[index]} at {name}{list(index)}.")
    return array


def _transitions(given: Any, num_states: int, num_actions: int, horizon: int | None) -> list[Any]:
    """One (S * A, S) matrix, dense or CSR, for a finite horizon one per step (the same object if given once)."""
    if sparse.issparse(given):
        return [_sparse_matrix(given, num_states, num_actions, "P")] * (horizon or 1)
    if isinstance(given, list | tuple) and any(sparse.issparse(part) for part in given):
        if horizon is None or len(given) != horizon or not all(sparse.issparse(part) for part in given):
            needed = "one sparse matrix" if horizon is None else f"{horizon} sparse matrices, one per step"
            raise ConfigError(f"P must be {needed}, or a dense array; got a list of {len(given)} items.")
        return [_sparse_matrix(part, num_states, num_actions, f"P[{step}]") for step, part in enumerate(given)]
    array = _numbers("P", given)
    shape = (num_states, num_actions, num_states)
    if array.shape == (num_states * num_actions, num_states):
        array = array.reshape(shape)
    if array.shape not in ((shape,) if horizon is None else (shape, (horizon, *shape))):
        expected = f"(S, A, S) = {shape}" + ("" if horizon is None else f" or (H, S, A, S) = {(horizon, *shape)}")
        raise ConfigError(f"P must have shape {expected} to match r; got {array.shape}.")
    steps = array[None] if array.ndim == 3 else array
    rows = steps.reshape(-1, num_states)

    def row_name(row: int) -> str:
        step, rest = divmod(row, num_states * num_actions)
        state, action = divmod(rest, num_actions)
        return f"[{state}, {action}]" if len(steps) == 1 else f"[{step}, {state}, {action}]"

    _check_distributions("P", rows, lambda row, state: row_name(row)[:-1] + f", {state}]", row_name)
    matrices = [step.reshape(num_states * num_actions, num_states) for step in steps]
    return matrices * (horizon or 1) if len(matrices) == 1 else matrices


def _sparse_matrix(given: Any, num_states: int, num_actions: int, name: str) -> Any:
    """A CSR copy of the rows ``s * A + a``, checked."""
    matrix = sparse.csr_array(given, dtype=np.float64, copy=True)
    if matrix.shape != (num_states * num_actions, num_states):
        raise ConfigError(
            f"A sparse {name} must have shape {(num_states * num_actions, num_states)}, row s * A + a; "
            f"got {matrix.shape}."
        )
    matrix.sum_duplicates()
    for what, bad in (("finite", ~np.isfinite(matrix.data)), ("at least 0", matrix.data < 0)):
        if bad.any():
            entry = int(np.flatnonzero(bad)[0])
            state, action = divmod(int(np.searchsorted(matrix.indptr, entry, side="right")) - 1, num_actions)
            raise ConfigError(
                f"P must be {what}; got {matrix.data[entry]:g} at {name}[{state}, {action}, {matrix.indices[entry]}]."
            )
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    wrong = np.flatnonzero(np.abs(sums - 1.0) > TOLERANCE)
    if len(wrong):
        state, action = divmod(int(wrong[0]), num_actions)
        raise ConfigError(f"The rows of P must sum to 1; got {sums[wrong[0]]:.9g} at {name}[{state}, {action}].")
    return matrix


def _check_distributions(name: str, rows: Array, entry_name: Any, row_name: Any) -> None:
    negative = np.argwhere(rows < 0)
    if len(negative):
        row, entry = (int(i) for i in negative[0])
        raise ConfigError(f"{name} must be at least 0; got {rows[row, entry]:g} at {name}{entry_name(row, entry)}.")
    sums = rows.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1.0) > TOLERANCE)
    if len(wrong):
        row = int(wrong[0])
        what = f"{name} must sum to 1" if len(rows) == 1 and not row_name(row) else f"The rows of {name} must sum to 1"
        where = f" at {name}{row_name(row)}" if row_name(row) else ""
        raise ConfigError(f"{what}; got {sums[row]:.9g}{where}.")
