"""Finite constrained MDPs, and the exact value of any policy in them.

Everything a solver needs is *normalised*: values are means per step, ``(1 - gamma) J`` for a discounted horizon and
``J / H`` for a finite one, so that a value lies in the range of the rewards and step sizes mean the same on every
instance. Budgets and what users read are in the units of the environment, ``J`` itself.

A policy is an array of probabilities whose last axis is the action: (S, A), or (H, S, A) for a finite horizon, where
the optimum depends on time. Everything below works on both, so solvers are written once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.tabular.checks import checked_arrays, checked_budgets
from saferl.envs.tabular.linear import ValueSystem
from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The exact values of one policy, all normalised; ``...`` is (S,), or (H, S) for a finite horizon."""

    value: float
    """Mean reward per step, Jbar_r."""
    costs: Array
    """Mean costs per step, Jbar_c, (K,)."""
    reward_values: Array
    """Reward value of every state, (...)."""
    cost_values: Array
    """Cost values of every state, (..., K)."""
    reward_q: Array
    """Reward value of every state and action, (..., A)."""
    cost_q: Array
    """Cost values of every state and action, (..., A, K)."""

    def mixed_q(self, multipliers: Array) -> Array:
        """Q of the mixed reward r - sum_i lambda_i c_i, (..., A)."""
        return np.asarray(self.reward_q - self.cost_q @ multipliers)


class TabularCMDP:
    """A finite CMDP: maximise the expected return subject to one budget per cost.

    Args:
        P: Transition probabilities: dense (S, A, S), or a scipy sparse matrix (S * A, S) whose row ``s * A + a`` is the
            distribution of the successor; for a finite horizon also dense (H, S, A, S), or a list of H sparse ones.
        r: Rewards (S, A); for a finite horizon also (H, S, A).
        C: Costs (S, A, K), the last axis is the constraint; for a finite horizon also (H, S, A, K). They may be signed:
            a utility u with a lower limit b is a cost -u with the budget -b.
        gamma: Discount in [0, 1); None for a finite horizon.
        rho: Distribution of the first state, (S,).
        budgets: Upper limits of the expected discounted (or summed) costs, (K,), in the units of J_c.
        horizon: Steps of an episode, for a finite horizon without discount.
        names: Names of the costs (default ``cost``, or ``cost_0``, ``cost_1``, ...).

    Raises:
        ConfigError: naming the array, the index and the value that is wrong.

    Example:
        >>> stay_or_leave = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> reward = np.array([[1.0, 0.0], [0.0, 0.0]])
        >>> cmdp = TabularCMDP(stay_or_leave, reward, reward[:, :, None], 0.9, [1.0, 0.0], [5.0])
        >>> always_stay = cmdp.evaluate(np.array([[1.0, 0.0], [1.0, 0.0]]))
        >>> round(always_stay.value, 6), always_stay.costs.round(6)
        (1.0, array([1.]))
    """

    def __init__(
        self,
        P: Any,  # noqa: N803 - the field's symbols
        r: npt.ArrayLike,
        C: npt.ArrayLike,  # noqa: N803
        gamma: float | None,
        rho: npt.ArrayLike,
        budgets: npt.ArrayLike,
        *,
        horizon: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Check everything once, so that nothing after it has to."""
        arrays = checked_arrays(P, r, C, gamma, rho, budgets, horizon)
        self.transitions: list[Any] = arrays.transitions
        """One (S * A, S) matrix, dense or CSR; for a finite horizon one per step (the same object if stationary)."""
        self.rewards: Array = arrays.rewards
        """Rewards, (S, A) or (H, S, A)."""
        self.costs: Array = arrays.costs
        """Costs, (S, A, K) or (H, S, A, K)."""
        self.rho: Array = arrays.rho
        """Distribution of the first state, (S,)."""
        self.budgets: Array = arrays.budgets
        """Upper limits in the units of J_c, (K,)."""
        self.gamma, self.horizon = gamma, horizon
        self.num_states, self.num_actions, self.num_constraints = self.costs.shape[-3:]
        self.is_sparse = sparse.issparse(self.transitions[0])
        self.names: tuple[str, ...] = self._names(names)

    def _names(self, names: Sequence[str] | None) -> tuple[str, ...]:
        count = self.num_constraints
        if names is None:
            return ("cost",) if count == 1 else tuple(f"cost_{index}" for index in range(count))
        if len(names) != count or len(set(names)) != count:
            raise ConfigError(f"names must hold {count} different names, one per cost of C; got {list(names)}.")
        return tuple(names)

    def __repr__(self) -> str:
        """Show the sizes."""
        end = f"gamma={self.gamma:g}" if self.horizon is None else f"horizon={self.horizon}"
        return f"TabularCMDP({self.num_states} states, {self.num_actions} actions, {', '.join(self.names)}; {end})"

    @property
    def scale(self) -> float:
        """What turns J into its mean per step: 1 - gamma, or 1 / H."""
        return 1.0 - self.gamma if self.gamma is not None else 1.0 / float(self.horizon or 1)

    @property
    def limits(self) -> Array:
        """The budgets as means per step, (K,)."""
        return self.budgets * self.scale

    @property
    def discount(self) -> float:
        """gamma, or 1 for a finite horizon."""
        return 1.0 if self.gamma is None else self.gamma

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """(S, A), or (H, S, A)."""
        head = () if self.horizon is None else (self.horizon,)
        return (*head, self.num_states, self.num_actions)

    @property
    def constraints(self) -> ConstraintSet:
        """The budgets as :class:`~saferl.constraints.Constraint` objects, for environments and reports.

        Raises:
            ConstraintError: a budget is negative (such a CMDP has no counterpart among the environments).
        """
        kind: dict[str, Any] = (
            {"kind": "episode_sum"} if not self.gamma else {"kind": "discounted", "gamma": self.gamma}
        )
        largest = self.costs.reshape(-1, self.num_constraints).max(axis=0)
        bounded = self.costs.min(initial=0.0) >= 0.0
        return ConstraintSet(
            Constraint(name, float(budget), max_step_cost=float(top) if bounded and top > 0 else None, **kind)
            for name, budget, top in zip(self.names, self.budgets, largest, strict=True)
        )

    def uniform_policy(self) -> Array:
        """Every action with the same probability."""
        return np.full(self.policy_shape, 1.0 / self.num_actions)

    def with_budgets(self, budgets: npt.ArrayLike) -> TabularCMDP:
        """The same CMDP under other budgets, (K,); all else is shared.

        Raises:
            ConfigError: another number of budgets, or one that is not finite.
        """
        other = copy.copy(self)
        other.budgets = checked_budgets(budgets, self.num_constraints)
        return other

    def expected_next(self, values: Array) -> Array:
        """E[values(s') | s, a] for state values (...) or (..., K): (..., A) or (..., A, K).

        For a finite horizon ``values[h]`` belongs to step h, the result at h looks at h + 1, and the last step at 0.
        """
        tail = values.shape[len(self.policy_shape) - 1 :]
        if self.horizon is None:
            return np.asarray(self.transitions[0] @ values).reshape(*self.policy_shape, *tail)
        result = np.zeros((*self.policy_shape, *tail))
        for step in range(self.horizon - 1):
            result[step] = (self.transitions[step] @ values[step + 1]).reshape(self.policy_shape[1:] + tail)
        return result

    def value_system(self, policy: Array) -> ValueSystem:
        """The linear system whose solutions are the values of ``policy``; factorised once, used for all costs."""
        return ValueSystem(self.transitions, policy, self.discount, self.horizon)

    def evaluate(self, policy: Array) -> Evaluation:
        """The exact values of a policy, by linear solves (discounted) or backward induction (finite horizon)."""
        return self.evaluation(self.value_system(policy), policy)

    def evaluation(self, system: ValueSystem, policy: Array) -> Evaluation:
        """The same from the ``system`` of the policy, for callers that need it for more."""
        signals = self.scale * np.concatenate([self.rewards[..., None], self.costs], axis=-1)
        values = system.values((policy[..., None] * signals).sum(axis=-2))
        q = signals + self.discount * self.expected_next(values)
        first = self.rho @ (values if self.horizon is None else values[0])
        return Evaluation(
            value=float(first[0]),
            costs=first[1:],
            reward_values=values[..., 0],
            cost_values=values[..., 1:],
            reward_q=q[..., 0],
            cost_q=q[..., 1:],
        )

    def occupancy(self, policy: Array) -> Array:
        """The normalised occupancy measure of a policy, shaped like it: it sums to 1, <x, r> is the mean reward."""
        states = self.value_system(policy).occupancies(self.rho) * self.scale
        return np.asarray(states[..., None] * policy)

    def flow(self) -> tuple[Any, Array]:
        """The flow equations ``A x = b`` of normalised occupancies x, (N * A,), as a CSC matrix and its right side.

        N is S, or H * S for a finite horizon; x is flat in the order of a policy.

            sum_a x(s', a) - gamma sum_{s, a} P(s'|s, a) x(s, a) = (1 - gamma) rho(s')
        """
        ones = np.ones((1, self.num_actions))
        if self.horizon is None:
            out = sparse.kron(sparse.eye_array(self.num_states), ones)
            return sparse.csc_array(
                out - self.discount * sparse.csr_array(self.transitions[0]).T
            ), self.scale * self.rho
        out = sparse.kron(sparse.eye_array(self.horizon * self.num_states), ones)
        blocks: list[list[Any]] = [[None] * self.horizon for _ in range(self.horizon)]
        for step in range(self.horizon):
            blocks[step][step] = sparse.csr_array((self.num_states, self.num_states * self.num_actions))
            if step:
                blocks[step][step - 1] = sparse.csr_array(self.transitions[step - 1]).T
        right = np.zeros(self.horizon * self.num_states)
        right[: self.num_states] = self.scale * self.rho
        return sparse.csc_array(sparse.csr_array(out) - sparse.block_array(blocks, format="csr")), right
