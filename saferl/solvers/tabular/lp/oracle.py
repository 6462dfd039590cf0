"""The pricing problem of column generation: the best policy for any prices, by policy iteration on all signals at once.

Every policy is evaluated for the reward and all costs together, so its values under new prices are a product and no
linear solve. A search under new prices starts from the best of the known policies in every state: with
V(s) = max_j V_j(s), the greedy policy of V is at least as good as each of them (generalised policy improvement, Barreto
et al. 2017, theorem 1), and every policy that is met on the way is a column of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import MAX_ITERATIONS, best_response, hidden_value, improved, one_hot, rounding
from saferl.errors import TrainingError

Array = npt.NDArray[np.float64]
Actions = npt.NDArray[Any]


@dataclass(frozen=True)
class KnownPolicy:
    """A deterministic policy and its exact values; signals are the reward and the K costs."""

    actions: Actions = field(repr=False)
    """Its actions, (S,) or (H, S)."""
    totals: Array
    """Its normalised value and costs, (1 + K,)."""
    values: Array = field(repr=False)
    """The normalised values of all states, (S, 1 + K) or (H, S, 1 + K)."""


@dataclass(frozen=True)
class Response:
    """What the oracle answers to prices."""

    policy: KnownPolicy
    """A best policy."""
    upper_bound: float
    """No policy is worth more under these prices."""
    visited: list[KnownPolicy]
    """All policies that were evaluated on the way."""


class PolicyOracle:
    """Best responses in one CMDP; counts its work."""

    def __init__(self, cmdp: TabularCMDP) -> None:
        """Prepare the signals."""
        self.cmdp = cmdp
        self.calls = 0
        """Best responses found so far."""
        self.evaluations = 0
        """Policies evaluated so far, one factorisation each."""
        self._signals = np.concatenate([cmdp.rewards[..., None], cmdp.costs], axis=-1)
        self._dtype = np.min_scalar_type(cmdp.num_actions - 1)

    def evaluate(self, actions: Actions) -> KnownPolicy:
        """The exact values of a deterministic policy."""
        cmdp = self.cmdp
        self.evaluations += 1
        taken = np.take_along_axis(self._signals, actions[..., None, None], axis=-2)[..., 0, :]
        values = cmdp.value_system(one_hot(actions, cmdp.num_actions)).values(cmdp.scale * taken)
        totals = cmdp.rho @ (values if cmdp.horizon is None else values[0])
        return KnownPolicy(actions.astype(self._dtype), totals, values)

    def respond(self, prices: Array, known: Sequence[KnownPolicy] = ()) -> Response:
        """The policy whose totals weighted by ``prices`` (1 + K,) are largest, searched for from the ``known`` ones."""
        self.calls += 1
        if self.cmdp.horizon is not None:
            plan = best_response(self.cmdp, self._signals @ prices)
            policy = self.evaluate(plan.policy.argmax(axis=-1))
            return Response(policy, plan.upper_bound, [policy])
        return self._iterate(prices, known)

    def _iterate(self, prices: Array, known: Sequence[KnownPolicy]) -> Response:
        """Howard's policy iteration from the upper envelope of the known policies."""
        cmdp = self.cmdp
        signal = cmdp.scale * (self._signals @ prices)
        tolerance = rounding(signal) / cmdp.scale
        values, actions = _envelope(signal, prices, known)
        policy = next((p for p in known if np.array_equal(p.actions, actions)), None)
        visited: list[KnownPolicy] = []
        for iteration in range(MAX_ITERATIONS):
            better = improved(cmdp, signal, values, actions, tolerance, iteration)
            if policy is not None and better.is_same:
                bound = float(cmdp.rho @ values) + hidden_value(cmdp, better.residual)
                return Response(policy, bound, visited)
            actions = better.actions
            policy = self.evaluate(actions)
            visited.append(policy)
            values = policy.values @ prices
        raise TrainingError(f"Policy iteration must end within {MAX_ITERATIONS} iterations; {cmdp!r} did not.")


def _envelope(signal: Array, prices: Array, known: Sequence[KnownPolicy]) -> tuple[Array, Actions]:
    """The best known value of every state, and the action of the policy that has it."""
    if not known:
        return np.zeros(signal.shape[:-1]), signal.argmax(axis=-1)
    values = np.stack([policy.values @ prices for policy in known])
    best = values.argmax(axis=0)[None]
    actions = np.take_along_axis(np.stack([policy.actions for policy in known]), best, axis=0)[0]
    return np.take_along_axis(values, best, axis=0)[0], actions.astype(np.int64)
