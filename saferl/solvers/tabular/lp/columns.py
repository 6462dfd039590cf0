"""Column generation (Dantzig and Wolfe 1960) over the multipliers: the occupancy program of large CMDPs.

The set of occupancies is the convex hull of those of deterministic policies, so the program is a mixture of policies,

    maximise sum_j w_j Jr(pi_j)   subject to   sum_j w_j Jc(pi_j) <= d,   sum_j w_j = 1,   w >= 0

The *master* solves it over the policies found so far; its prices lambda go to the *oracle*, which answers with the best
policy for r - lambda c. That policy joins the master, and bounds the optimum from above,

    v* <= D(lambda) = max_pi [ Jr(pi) - lambda Jc(pi) ] + lambda d

until the bound meets the master's value. This is Kelley's cutting-plane method on the dual function D. A first phase of
the same shape minimises the worst violation; its prices w (sum 1) bound it from below,

    min_pi max_i (Jc_i - d_i) >= min_pi sum_i w_i (Jc_i - d_i)

which proves infeasibility where it is positive. The policy of the mixture is the one of the mean occupancies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import one_hot
from saferl.errors import TrainingError
from saferl.solvers.tabular.lp.candidate import Candidate
from saferl.solvers.tabular.lp.master import Mixture, best_mixture, least_violation
from saferl.solvers.tabular.lp.oracle import KnownPolicy, PolicyOracle, Response

Array = npt.NDArray[np.float64]

FEASIBLE = 1e-10
"""A worst violation up to this, in units of each largest cost, counts as rounding."""
_PROGRESS = 1e-13
"""A policy that betters the master by less than this does not count."""
_MAX_CALLS = 2000


@dataclass(frozen=True)
class Violation:
    """The smallest reachable worst violation, and the proof of it."""

    value: float
    """The worst violation of a mixture of policies, max_i (Jc_i - d_i)."""
    lower_bound: float
    """No policy has a smaller one."""
    weights: Array
    """The proof, (K,), sum 1: every policy has sum_i w_i (Jc_i - d_i) >= ``lower_bound``."""


class ColumnGeneration:
    """The policies found so far in one CMDP, and the two programs over their mixtures."""

    def __init__(self, cmdp: TabularCMDP) -> None:
        """Begin without policies."""
        self.cmdp = cmdp
        self.oracle = PolicyOracle(cmdp)
        self._policies: list[npt.NDArray[np.integer]] = []
        self._totals: list[Array] = []
        self._known: dict[int, KnownPolicy] = {}
        self._digests: set[bytes] = set()

    def least_violation(self, indices: npt.NDArray[np.int64] | None = None, *, stop_at_zero: bool = False) -> Violation:
        """The smallest reachable worst violation of the constraints ``indices`` (all if None).

        With ``stop_at_zero`` the search ends as soon as a mixture keeps all of their budgets.
        """
        chosen = np.arange(self.cmdp.num_constraints) if indices is None else indices
        limits = self.cmdp.limits[chosen]
        weights, lower_bound = np.zeros(self.cmdp.num_constraints), -np.inf
        if not self._totals:
            self._ask(np.append(0.0, -np.ones(self.cmdp.num_constraints)))
        for _ in range(_MAX_CALLS):
            costs = np.array(self._totals)[:, 1 + chosen]
            mixture = least_violation(costs, limits)
            self._forget(mixture)
            if stop_at_zero and mixture.value <= 0.0:
                return Violation(mixture.value, lower_bound, weights)
            prices = np.zeros(self.cmdp.num_constraints)
            prices[chosen] = mixture.prices
            response, is_news = self._ask(np.append(0.0, -prices))
            reached = float(prices[chosen] @ (response.policy.totals[1 + chosen] - limits))
            proved = -response.upper_bound - float(prices[chosen] @ limits)
            if proved > lower_bound:
                weights, lower_bound = prices, proved
            if not is_news or reached >= mixture.value - _PROGRESS or mixture.value - lower_bound <= _PROGRESS:
                return Violation(mixture.value, lower_bound, weights)
        raise TrainingError(f"The least violation of {self.cmdp!r} must be found within {_MAX_CALLS} best responses.")

    def optimise(self, tolerance: float, multipliers: Array | None = None) -> Candidate | None:
        """Optimal occupancies up to ``tolerance`` in value, or None where no policy keeps the budgets.

        ``multipliers`` (K,) near the optimal ones save work.
        """
        start = np.zeros(self.cmdp.num_constraints) if multipliers is None else multipliers
        self._ask(np.append(1.0, -start))
        violation = self.least_violation(stop_at_zero=True)
        if violation.lower_bound > FEASIBLE:
            return None
        limits = self.cmdp.limits + max(0.0, violation.value)
        bound, prices, response = np.inf, start, None
        for _ in range(_MAX_CALLS):
            totals = np.array(self._totals)
            mixture = best_mixture(totals[:, 0], totals[:, 1:], limits)
            self._forget(mixture)
            if bound - mixture.value <= tolerance:
                return self._candidate(mixture, prices, response)
            answer, is_news = self._ask(np.append(1.0, -mixture.prices))
            answered = answer.upper_bound + float(mixture.prices @ limits)
            if answered < bound:
                bound, prices, response = answered, mixture.prices, answer
            reached = answer.policy.totals @ np.append(1.0, -mixture.prices) + mixture.prices @ limits
            if not is_news or reached <= mixture.value + _PROGRESS:
                return self._candidate(mixture, prices, response)
        raise TrainingError(
            f"Column generation must close the gap within {_MAX_CALLS} best responses; {self.cmdp!r} is left with "
            f"{bound - mixture.value:.1e}. Ask for a larger tolerance than {tolerance:g}."
        )

    def _ask(self, prices: Array) -> tuple[Response, bool]:
        """The oracle's answer, and whether the master has learnt a policy from it."""
        response = self.oracle.respond(prices, list(self._known.values()))
        count = len(self._policies)
        for policy in response.visited:
            digest = hashlib.blake2b(policy.actions.tobytes()).digest()
            if digest not in self._digests:
                self._digests.add(digest)
                self._known[len(self._policies)] = policy
                self._policies.append(policy.actions)
                self._totals.append(policy.totals)
        return response, len(self._policies) > count

    def _forget(self, mixture: Mixture) -> None:
        """Keep the state values of the policies that the mixture uses, and of the newest one; they take most memory."""
        newest = len(self._policies) - 1
        self._known = {i: p for i, p in self._known.items() if i == newest or mixture.weights[i] > 0.0}

    def _candidate(self, mixture: Mixture, multipliers: Array, response: Response | None) -> Candidate:
        cmdp = self.cmdp
        occupancy = np.zeros(cmdp.policy_shape)
        for index in np.flatnonzero(mixture.weights):
            occupancy += mixture.weights[index] * cmdp.occupancy(one_hot(self._policies[index], cmdp.num_actions))
        return Candidate(
            occupancy=occupancy,
            multipliers=multipliers,
            value=mixture.value,
            response=None if response is None else one_hot(response.policy.actions, cmdp.num_actions),
            details={
                "oracle_calls": self.oracle.calls,
                "policy_evaluations": self.oracle.evaluations,
                "policies_mixed": int((mixture.weights > 0.0).sum()),
            },
        )
