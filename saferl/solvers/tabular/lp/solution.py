"""What the LP oracle returns: an optimum with its proof, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import best_response
from saferl.errors import ConfigError
from saferl.solvers.tabular.lp.uniqueness import are_multipliers_unique

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """How far a policy and multipliers can be from the optimum: no policy that keeps the budgets is better by more.

    All in normalised units. With the exact values V of the best response to the multipliers, occupancies x of the
    policy and its slack V(s) - Q(s, a), the gap has two parts and nothing else (up to rounding):

        dual - evaluated = <x, V - Q> / scale + sum_i lambda_i (d_i - Jc_i)
    """

    primal_value: float
    """Objective of the linear program, as the method found it."""
    dual_value: float
    """Upper bound of the value of every feasible policy: max over policies of the mixed reward, plus lambda d."""
    evaluated_value: float
    """Mean reward of the policy, by exact evaluation."""
    primal_feasibility: float
    """The worst of the violated budgets and of the flow equations of the policy's occupancies, at least 0."""
    dual_feasibility: float
    """The largest Q(s, a) - V(s), and the most negative multiplier, at least 0."""
    complementary_slackness: float
    """The largest lambda_i |Jc_i - d_i|: only budgets that are used up have a price."""
    bellman_slack: float
    """What the policy loses by actions that are not best for the mixed reward: the first part of the gap."""

    @property
    def gap(self) -> float:
        """Dual minus evaluated value. Below 0 by no more than what the policy violates its budgets by."""
        return self.dual_value - self.evaluated_value


@dataclass(frozen=True)
class LPSolution:
    """An optimal policy of a CMDP with its multipliers and the certificate of both."""

    cmdp: TabularCMDP = field(repr=False)
    """What was solved."""
    policy: Array = field(repr=False)
    """The optimal policy, (S, A) or (H, S, A); uniform where it never gets."""
    value: float
    """Mean reward per step of ``policy``."""
    costs: Array
    """Mean costs per step of ``policy``, (K,)."""
    multipliers: Array
    """Optimal multipliers, (K,); the same for normalised values and for the units of the environment."""
    certificate: Certificate
    """How far this can be from the optimum."""
    method: str
    """``cvxpy``, ``highs`` or ``columns``."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    """Counts of the method's work, by name."""

    @property
    def return_(self) -> float:
        """Expected return of ``policy`` in the units of the environment, J_r."""
        return self.value / self.cmdp.scale

    @property
    def total_costs(self) -> Array:
        """Expected costs of ``policy`` in the units of its budgets, J_c, (K,)."""
        return self.costs / self.cmdp.scale

    def dual_function(self, multipliers: npt.ArrayLike) -> float:
        """The dual function at ``multipliers`` (K,) >= 0, by an exact best response; normalised.

            D(lambda) = max_pi [ Jr(pi) - sum_i lambda_i Jc_i(pi) ] + sum_i lambda_i d_i

        It bounds the value of every policy that keeps the budgets, and is smallest at the optimal multipliers.

        Raises:
            ConfigError: not one finite number >= 0 per constraint.
        """
        prices = np.asarray(multipliers, dtype=np.float64)
        if prices.shape != (self.cmdp.num_constraints,) or not np.isfinite(prices).all() or (prices < 0).any():
            raise ConfigError(
                f"multipliers must be {self.cmdp.num_constraints} finite numbers >= 0, one per constraint; "
                f"got {multipliers!r}."
            )
        plan = best_response(self.cmdp, self.cmdp.rewards - self.cmdp.costs @ prices)
        return plan.upper_bound + float(prices @ self.cmdp.limits)

    @cached_property
    def are_multipliers_unique(self) -> bool | None:
        """Whether no other multipliers are optimal: at most 2 K small linear programs, solved when first asked for.

        None where the CMDP is too large for that, or where rounding leaves it open.
        """
        return are_multipliers_unique(self.cmdp, self.policy)


@dataclass(frozen=True)
class Infeasible:
    """No policy keeps all budgets; which of them are in conflict, and how much is missing."""

    cmdp: TabularCMDP = field(repr=False)
    """What was to be solved."""
    conflict: tuple[str, ...]
    """Names of constraints that cannot be kept together, while all but any one of them can."""
    smallest_costs: Array
    """Smallest reachable mean cost per step of each constraint alone, (K,)."""
    margin: float
    """Smallest reachable worst violation, min over policies of max_i (Jc_i - d_i), normalised."""
    weights: Array
    """Proof, (K,), >= 0 with sum 1: every policy has sum_i w_i (Jc_i - d_i) >= ``margin``, up to rounding."""
    message: str
    """All of this in words, with the way out."""

    @property
    def smallest_total_costs(self) -> Array:
        """Smallest reachable cost of each constraint alone in the units of its budget, (K,)."""
        return self.smallest_costs / self.cmdp.scale

    @property
    def total_margin(self) -> float:
        """The margin in the units of the budgets."""
        return self.margin / self.cmdp.scale
