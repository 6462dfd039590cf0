"""Drawing states of a finite CMDP by the inverse of its distribution functions, one or many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.envs.tabular.cmdp import TabularCMDP

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class StateSampler:
    """First and next states from uniform numbers in [0, 1), so that equal numbers give equal states.

    The distributions of all rows (state, action, and step where the dynamics depend on it) stand in one increasing
    array: row i fills (i, i + 1]. A draw is then one binary search, for any number of rows at once. Adding the number
    of the row rounds probabilities to about 1e-16 times the number of rows.
    """

    def __init__(self, cmdp: TabularCMDP) -> None:
        """Sum up the probabilities of ``cmdp`` once."""
        self._num_states, self._num_actions = cmdp.num_states, cmdp.num_actions
        is_stationary = all(matrix is cmdp.transitions[0] for matrix in cmdp.transitions)
        self._rows_per_step = 0 if is_stationary else cmdp.num_states * cmdp.num_actions
        matrices = [_compressed(matrix) for matrix in (cmdp.transitions[:1] if is_stationary else cmdp.transitions)]
        stacked = matrices[0] if is_stationary else sparse.csr_array(sparse.vstack(matrices))
        self._successors = stacked.indices.astype(np.int64)
        self._starts = stacked.indptr.astype(np.int64)
        self._levels = _levels(stacked.data, self._starts)
        possible = np.flatnonzero(cmdp.rho)
        self._first_states = possible
        self._first_levels = _levels(cmdp.rho[possible], np.array([0, len(possible)]))

    def first(self, uniform: Any) -> Any:
        """First states for uniform numbers of any shape."""
        return self._first_states[np.searchsorted(self._first_levels, uniform, side="right")]

    def next(self, steps: Any, states: Any, actions: Any, uniform: Any) -> Any:
        """Next states after ``actions`` in ``states`` at ``steps`` of their episodes; all of one shape."""
        rows = steps * self._rows_per_step + states * self._num_actions + actions
        found = np.searchsorted(self._levels, rows + uniform, side="right")
        # A number just below 1 may round up to the next row.
        return self._successors[np.minimum(found, self._starts[rows + 1] - 1)]


def _compressed(matrix: Any) -> Any:
    """A CSR copy without zeros, so that dense and sparse transitions give the same draws."""
    result = sparse.csr_array(matrix, copy=True)
    result.sum_duplicates()
    result.eliminate_zeros()
    return result


def _levels(probabilities: Array, starts: Indices) -> Array:
    """Cumulative probabilities of every row, plus the number of the row; each row ends at exactly that plus 1."""
    counts = np.diff(starts)
    rows = np.repeat(np.arange(len(counts)), counts)
    total = np.concatenate([[0.0], np.cumsum(probabilities)])
    within = np.clip(total[1:] - total[starts[:-1]][rows], 0.0, 1.0)
    within[starts[1:] - 1] = 1.0
    return np.asarray(rows + within)
