"""OneShotDual: the convex dual of the KL-regularised CMDP, minimised directly.

With a reference policy and a temperature beta > 0, the regularised problem

    max_pi  Jbar_r(pi) - beta E_pi [KL(pi(.|s) || ref(.|s))]    subject to  Jbar_c(pi) <= dbar

has for every multiplier the optimal policy pi_lambda(a|s) prop. to ref(a|s) exp(Q_lambda(s, a) / beta), by soft value
iteration with V_lambda(s) = beta log sum_a ref(a|s) exp(Q_lambda(s, a) / beta) and Q_lambda of the reward r - lambda c.
Its dual function is explicit, convex and smooth,

    D(lambda) = V_lambda(rho) + lambda dbar,     D'(lambda) = dbar - Jbar_c(pi_lambda)

so it is minimised over lambda >= 0 once: the root of D' by bracketing and Brent's method for one constraint, L-BFGS-B
for several. No descent-ascent, and so no oscillation. As beta goes to 0 the value approaches the optimum of the CMDP
from below.

Paper: Huang, Li, Dobriban, Bastani, Hassani, Ding (2024), "One-shot safety alignment for large language models via
optimal dualization", arXiv 2405.19544, where the problem has one step and answers are sampled from the reference.

Differences from the paper: a CMDP with many steps, so that the log-mean-exp becomes soft value iteration (tilting whole
trajectories would tilt the dynamics too); everything is exact, and the dual is minimised by a root finder instead of
gradient steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.planning import soft_best_response
from saferl.errors import ConfigError, TrainingError
from saferl.solvers.tabular.policies import options
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]

_FEASIBLE = 1e-6
"""A normalised gap up to this still counts as a kept budget when the search ends."""


@dataclass(frozen=True)
class OneShotDualConfig:
    """Options of OneShotDual."""

    temperature: float = 0.02
    """Weight beta of the divergence from the reference, in units of the reward per nat, > 0. Smaller is nearer to the
    optimum of the CMDP, and takes some more evaluations of the dual."""
    multiplier_max: float = 1000.0
    """Upper bound of every multiplier, > 0; a budget that needs more is refused."""
    max_evaluations: int = 1000
    """Evaluations of the dual function after which the search gives up, >= 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, positive=("temperature", "multiplier_max", "max_evaluations"))


@dataclass(frozen=True)
class DualPoint:
    """The dual function at one multiplier, normalised."""

    value: float
    """D(lambda)."""
    gradient: Array
    """D'(lambda), dbar - Jbar_c(pi_lambda), (K,)."""
    policy: Array
    """pi_lambda, (S, A) or (H, S, A)."""


def dual_function(cmdp: TabularCMDP, multipliers: Array, reference: Array, temperature: float) -> DualPoint:
    """D, D' and the policy at ``multipliers`` (K,), by exact soft policy iteration."""
    # The divergence is summed over an episode like the rewards, so it is normalised like them.
    plan = soft_best_response(cmdp, cmdp.rewards - cmdp.costs @ multipliers, reference, temperature * cmdp.scale)
    gradient = cmdp.limits - cmdp.evaluate(plan.policy).costs
    return DualPoint(plan.value + float(multipliers @ cmdp.limits), gradient, plan.policy)


def solve(
    cmdp: TabularCMDP,
    config: OneShotDualConfig | None = None,
    *,
    reference: npt.ArrayLike | None = None,
    **given: Any,
) -> TabularSolution:
    """The optimum of the regularised CMDP.

    The trajectory has this one iterate. ``details`` has the ``dual_value`` and the number of ``evaluations``.

    Args:
        cmdp: What to solve.
        config: Options.
        reference: The policy to stay near, (S, A) or (H, S, A); None is uniform.
        **given: Single options by name.

    Raises:
        ConfigError: ``reference`` is not a policy of the CMDP.
        TrainingError: no multiplier up to ``multiplier_max`` keeps the budgets: they are infeasible, or reachable only
            where the reference has no probability.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solution = solve(paradox_a())
        >>> solution.costs.round(9), bool(0.49 < solution.value <= 0.5)
        (array([0.5]), True)
    """
    config = options(OneShotDualConfig, config, given)
    anchor = _checked_reference(cmdp, reference)
    count = 0

    def dual(multipliers: Array) -> DualPoint:
        nonlocal count
        count += 1
        if count > config.max_evaluations:
            raise TrainingError(
                f"The search for multipliers of {cmdp!r} must end within {config.max_evaluations} evaluations of the "
                "dual. Allow more, or take a larger temperature."
            )
        return dual_function(cmdp, multipliers, anchor, config.temperature)

    search = _root if cmdp.num_constraints == 1 else _minimum
    multipliers = search(dual, cmdp.num_constraints, config)
    point = dual(multipliers)
    violated = np.flatnonzero(-point.gradient > _FEASIBLE)
    if len(violated):
        worst = int(violated[np.argmin(point.gradient[violated])])
        raise TrainingError(
            f"Some multiplier up to {config.multiplier_max:g} must keep all budgets; at {multipliers} the cost "
            f"{cmdp.names[worst]!r} exceeds its limit of {cmdp.limits[worst]:g} per step by "
            f"{-point.gradient[worst]:.3g}. Raise the budget, multiplier_max or the temperature."
        )
    return Recorder("one_shot_dual", cmdp).solution(
        point.policy, multipliers, dual_value=point.value, evaluations=count
    )


def _root(dual: Callable[[Array], DualPoint], _: int, config: OneShotDualConfig) -> Array:
    """The minimiser for one constraint: 0 if the budget is slack there, else the root of D', which is increasing."""

    def slope(multiplier: float) -> float:
        return float(dual(np.array([multiplier])).gradient[0])

    if slope(0.0) >= 0.0:
        return np.zeros(1)
    low, high = 0.0, min(1.0, config.multiplier_max)
    while slope(high) < 0.0:
        if high >= config.multiplier_max:
            return np.array([high])
        low, high = high, min(4.0 * high, config.multiplier_max)
    # Four times the machine precision is the least relative tolerance that brentq takes.
    root = optimize.brentq(slope, low, high, xtol=1e-14, rtol=4.0 * np.finfo(np.float64).eps)
    return np.array([float(root)])


def _minimum(dual: Callable[[Array], DualPoint], num_constraints: int, config: OneShotDualConfig) -> Array:
    """The minimiser for several constraints, within [0, multiplier_max]."""

    def objective(multipliers: Array) -> tuple[float, Array]:
        point = dual(multipliers)
        return point.value, point.gradient

    found = optimize.minimize(
        objective,
        np.zeros(num_constraints),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, config.multiplier_max)] * num_constraints,
        options={"ftol": 0.0, "gtol": 1e-10, "maxiter": config.max_evaluations, "maxfun": config.max_evaluations},
    )
    return np.asarray(found.x, dtype=np.float64)


def _checked_reference(cmdp: TabularCMDP, reference: npt.ArrayLike | None) -> Array:
    if reference is None:
        return cmdp.uniform_policy()
    policy = np.asarray(reference, dtype=np.float64)
    if policy.shape != cmdp.policy_shape:
        raise ConfigError(f"reference must be a policy of shape {cmdp.policy_shape}; got shape {policy.shape}.")
    if not ((policy >= 0.0).all() and np.allclose(policy.sum(axis=-1), 1.0, atol=1e-9)):
        raise ConfigError(
            "reference must hold probabilities that sum to 1 along the last axis; got entries from "
            f"{policy.min():g} to {policy.max():g} and sums from {policy.sum(axis=-1).min():g} to "
            f"{policy.sum(axis=-1).max():g}."
        )
    return policy
