"""Risk in a finite MDP: the least probability of ever being unsafe, with certified bounds, as pure functions.

A *violation* is a pair of state and action. With beta(s) the least probability of one from s on,

    risk(s, a) = 1 if (s, a) is a violation, else sum_s' P(s'|s, a) beta(s'),        beta(s) = min_a risk(s, a)

beta is the least fixed point. Iterating from 0 gives lower bounds; iterating from 1 gives upper bounds, and these come
down to it because states from which some policy avoids violations surely begin, and so stay, at 0 (without that they
would stay at 1 in every cycle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RiskBounds:
    """Bounds of the least probability of a violation."""

    lower: Array
    """(S,)."""
    upper: Array
    """(S,); an upper bound whenever the iteration stopped, and min_a risk(s, a) under it is at most it."""
    action_risk: Array
    """risk(s, a) under the upper bound, (S, A)."""
    iterations: int
    """Sweeps that were taken."""

    @property
    def gap(self) -> float:
        """The largest distance of the bounds."""
        return float(np.max(self.upper - self.lower, initial=0.0))


def read_transitions(transitions: Any, num_actions: int) -> Any:
    """Transition probabilities as one CSR matrix (S * A, S), row ``s * A + a``.

    Args:
        transitions: Dense (S, A, S), or dense or sparse (S * A, S).
        num_actions: A.

    Raises:
        ConfigError: another shape, or rows that are not distributions.
    """
    if not sparse.issparse(transitions):
        transitions = np.asarray(transitions, dtype=np.float64)
        if transitions.ndim == 3:
            transitions = transitions.reshape(-1, transitions.shape[-1])
    if transitions.ndim != 2 or transitions.shape[0] != transitions.shape[1] * num_actions:
        raise ConfigError(
            f"Transitions must be (S, {num_actions}, S) or (S * {num_actions}, S); got the shape {transitions.shape}."
        )
    matrix = sparse.csr_array(transitions, dtype=np.float64)
    matrix.eliminate_zeros()
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    if np.any(matrix.data < 0.0) or not np.all(np.abs(sums - 1.0) < 1e-8):
        worst = int(np.argmax(np.abs(sums - 1.0)))
        raise ConfigError(
            f"Every row of the transitions must be a distribution; row {worst} (state {worst // num_actions}, action "
            f"{worst % num_actions}) sums to {sums[worst]:.6g}."
        )
    return matrix


def read_violations(violations: npt.ArrayLike, num_states: int, num_actions: int) -> npt.NDArray[np.bool_]:
    """Violations as (S, A); a vector (S,) of unsafe states means all of their actions.

    Raises:
        ConfigError: another shape.
    """
    given = np.asarray(violations).astype(bool)
    if given.shape == (num_states,):
        given = np.repeat(given[:, None], num_actions, axis=1)
    if given.shape != (num_states, num_actions):
        raise ConfigError(f"Violations must be ({num_states},) or ({num_states}, {num_actions}); got {given.shape}.")
    return given


def surely_safe_states(matrix: Any, violations: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """States from which some policy never violates, (S,): the greatest fixed point."""
    states, actions = violations.shape
    support = sparse.csr_array((np.ones(len(matrix.data)), matrix.indices, matrix.indptr), shape=matrix.shape)
    safe = np.ones(states, dtype=bool)
    while True:
        leaves = (support @ (~safe).astype(float)).reshape(states, actions) > 0.0
        smaller = np.any(~violations & ~leaves, axis=1) & safe
        if np.array_equal(smaller, safe):
            return safe
        safe = smaller


def least_risk(
    matrix: Any, violations: npt.NDArray[np.bool_], *, precision: float = 1e-10, most: int = 10_000
) -> RiskBounds:
    """Bounds of the least probability of a violation by interval iteration.

    Args:
        matrix: (S * A, S), from :func:`read_transitions`.
        violations: (S, A).
        precision: Distance of the bounds at which to stop.
        most: Sweeps after which to stop anyway; the upper bound is valid then, too.
    """
    states, actions = violations.shape
    safe = surely_safe_states(matrix, violations)
    both = np.stack([np.zeros(states), np.where(safe, 0.0, 1.0)], axis=1)
    sweeps = 0
    while sweeps < most:
        sweeps += 1
        risks = np.where(violations[..., None], 1.0, (matrix @ both).reshape(states, actions, 2))
        following = risks.min(axis=1)
        # Both iterations are monotone; rounding is not allowed to undo that.
        both = np.stack([np.maximum(both[:, 0], following[:, 0]), np.minimum(both[:, 1], following[:, 1])], axis=1)
        if np.max(both[:, 1] - both[:, 0], initial=0.0) <= precision:
            break
    upper = both[:, 1]
    risk = np.where(violations, 1.0, (matrix @ upper).reshape(states, actions))
    return RiskBounds(both[:, 0], upper, np.clip(risk, 0.0, 1.0), sweeps)


def fill_up(probabilities: Array, floor: Array, mean: float) -> Array:
    """Budgets min(1, floor + level) whose mean is ``mean``, (n,): the largest equal rise of all successors.

    Args:
        probabilities: (n,), sum 1.
        floor: Least budgets, (n,), at most 1.
        mean: What the budgets average to; at most it if the floors alone average to more, they are given back.
    """
    if float(probabilities @ floor) >= mean:
        return floor.copy()
    gaps = 1.0 - floor
    order = np.argsort(gaps)
    weight, filled, level = 1.0, float(probabilities @ floor), 0.0
    for index in order.tolist():
        step = gaps[index] - level
        if filled + weight * step >= mean:
            level += (mean - filled) / weight
            return np.minimum(1.0, floor + level)
        filled, level = filled + weight * step, float(gaps[index])
        weight = max(weight - float(probabilities[index]), 1e-300)
    return np.ones_like(floor)


def model_of(env: Any, unit: str) -> tuple[Any, npt.NDArray[np.bool_], Array]:
    """Transitions (O * A, O), violations (O, A) and first distribution (O,) over the observations of a tabular env.

    A violation is a step that costs. With a finite horizon O is horizon times states, and the last step ends in itself.

    Raises:
        ConfigError: the env has no finite CMDP.
    """
    cmdp = getattr(getattr(env, "unwrapped", env), "cmdp", None)
    if cmdp is None:
        raise ConfigError(
            f"{unit} needs a finite MDP with known transitions; {env!r} has none (no attribute 'cmdp'). "
            "Build the shield from an abstraction's transitions instead."
        )
    states, actions = cmdp.num_states, cmdp.num_actions
    costly = np.any(np.asarray(cmdp.costs) > 0.0, axis=-1)
    if cmdp.horizon is None:
        return read_transitions(cmdp.transitions[0], actions), costly, np.asarray(cmdp.rho)
    blocks: list[list[Any]] = [[None] * cmdp.horizon for _ in range(cmdp.horizon)]
    for step in range(cmdp.horizon):
        last = step == cmdp.horizon - 1
        block = np.repeat(np.eye(states), actions, axis=0) if last else cmdp.transitions[step]
        blocks[step][step if last else step + 1] = sparse.csr_array(block)
        if blocks[step][0] is None:
            blocks[step][0] = sparse.csr_array((states * actions, states))
    matrix = sparse.csr_array(sparse.block_array(blocks, format="csr"))
    violations = costly if costly.ndim == 3 else np.repeat(costly[None], cmdp.horizon, axis=0)
    first = np.zeros(cmdp.horizon * states)
    first[:states] = cmdp.rho
    return matrix, violations.reshape(-1, actions), first


def matrix_data(matrix: Any) -> dict[str, npt.NDArray[Any]]:
    """A CSR matrix as arrays; :func:`matrix_from` is the inverse."""
    return {"values": matrix.data, "indices": matrix.indices.astype(np.int64), "starts": matrix.indptr.astype(np.int64)}


def matrix_from(arrays: Any, num_states: int) -> Any:
    """A CSR matrix from :func:`matrix_data`."""
    starts = arrays["starts"]
    return sparse.csr_array((arrays["values"], arrays["indices"], starts), shape=(len(starts) - 1, num_states))
