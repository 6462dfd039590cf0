"""The linear systems behind exact policy evaluation, dense or sparse, discounted or finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from scipy.sparse.linalg import splu

Array = npt.NDArray[np.float64]

_SMALL = 100
"""States up to which a dense system is solved anew for every right side: LAPACK's solution from factors starts threads,
which takes longer than the work, and milliseconds on a busy machine."""


class ValueSystem:
    """``(I - gamma P_pi) V = R_pi`` of one policy, solved for any number of right sides, and its transpose.

    The matrix is factorised once, when the first solution is asked for; small dense ones are solved anew every time. A
    finite horizon needs no factors: it is solved by backward (values) and forward (occupancies) induction.
    """

    def __init__(self, transitions: list[Any], policy: Array, discount: float, horizon: int | None) -> None:
        """Prepare the chain of ``policy``, (S, A) or (H, S, A)."""
        self._discount, self._horizon = discount, horizon
        if horizon is None:
            self.chains = [self._chain(transitions[0], policy)]
        else:
            self.chains = [self._chain(transitions[step], policy[step]) for step in range(horizon)]
        self._factors: Any = None

    @staticmethod
    def _chain(transitions: Any, policy: Array) -> Any:
        """P_pi, (S, S): the transition matrix between states when the policy acts."""
        num_states, num_actions = policy.shape
        if not sparse.issparse(transitions):
            return np.einsum("sa,sat->st", policy, transitions.reshape(num_states, num_actions, num_states))
        taken = np.flatnonzero(policy)
        choose = sparse.csr_array(
            (policy.ravel()[taken], (taken // num_actions, taken)), shape=(num_states, num_states * num_actions)
        )
        return sparse.csr_array(choose @ transitions)

    def values(self, signals: Array) -> Array:
        """V for signals per state (S, K), or (H, S, K) for a finite horizon; the same shape."""
        if self._horizon is None:
            return self._solve(signals, transposed=False)
        result = np.array(signals, dtype=np.float64)
        for step in range(self._horizon - 2, -1, -1):
            result[step] += self.chains[step] @ result[step + 1]
        return result

    def occupancies(self, start: Array) -> Array:
        """Expected discounted visits of every state from the distribution ``start`` (S,); (S,), or (H, S)."""
        if self._horizon is None:
            return self._solve(start, transposed=True)
        result = np.zeros((self._horizon, len(start)))
        result[0] = start
        for step in range(1, self._horizon):
            result[step] = self.chains[step - 1].T @ result[step - 1]
        return result

    def _solve(self, right: Array, *, transposed: bool) -> Array:
        chain = self.chains[0]
        if not sparse.issparse(chain):
            if len(chain) <= _SMALL:
                matrix = np.eye(len(chain)) - self._discount * chain
                return np.asarray(np.linalg.solve(matrix.T if transposed else matrix, right))
            if self._factors is None:
                self._factors = linalg.lu_factor(np.eye(len(chain)) - self._discount * chain, check_finite=False)
            return np.asarray(linalg.lu_solve(self._factors, right, trans=int(transposed), check_finite=False))
        if self._factors is None:
            matrix = sparse.csc_array(sparse.eye_array(chain.shape[0]) - self._discount * chain)
            # Diagonally dominant by rows: no pivoting is needed, and a symmetric ordering keeps grids sparse.
            self._factors = splu(
                matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        return np.asarray(self._factors.solve(np.ascontiguousarray(right), "T" if transposed else "N"))
