"""Verdicts of one policy on its constraints, from independent evaluation episodes.

A verdict rests on one-sided 95 % bounds that hold for any law (protocol v1, section 4): ``satisfied`` and ``violated``
are each wrong with probability at most 5 %, everything else is ``undecided``. Where no such bound exists (the largest
cost or the horizon is unknown) the interval is a labelled approximation and the verdict is ``undecided``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saferl.constraints import Constraint, Kind, Sense
from saferl.errors import ConfigError, ConstraintError, CostError
from saferl.statistics.bounds import (
    Array,
    Interval,
    betting_lower,
    betting_ratio_lower,
    betting_ratio_upper,
    betting_upper,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    finite_values,
    mean_interval_t,
)
from saferl.statistics.summaries import cvar

Verdict = Literal["satisfied", "violated", "undecided"]

SUPPORTED_KINDS: tuple[Kind, ...] = ("episode_sum", "discounted", "step_rate", "probability")
"""Kinds of constraints that :func:`assess` can judge."""

# Costs kept in float32 exceed their exact range by some 1e-7 of it: that is rounding and is clipped, more is an error.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ConstraintReport:
    """What evaluation episodes say about one constraint; every number but the rate is in the budget's unit.

    An episode's value is its cost sum (``episode_sum``), its discounted cost sum (``discounted``), its cost per step
    (``step_rate``), or 1 if it had any cost and 0 if not (``probability``).

    Example:
        >>> from saferl.constraints import Constraint
        >>> constraint = Constraint("cost", budget=25.0, max_step_cost=1.0)
        >>> report = assess(constraint, sums=[0.0] * 500, lengths=[1000] * 500, horizon=1000)
        >>> report.verdict, report.bound
        ('satisfied', 'betting on [0, 1000]')
    """

    name: str
    """Name of the constraint."""
    kind: Kind
    """What the constraint limits."""
    sense: Sense
    """Whether the budget is an upper limit (``<=``) or a lower one (``>=``)."""
    budget: float
    """The limit, in the unit of ``kind``."""
    description: str
    """The constraint in one line."""
    mean: float
    """Estimate of what the budget limits: the mean over episodes; for ``step_rate`` all costs over all steps."""
    ci95: Interval
    """Two-sided 95 % interval of what ``mean`` estimates; infinite ends if one episode is all there is."""
    lower95: float | None
    """Valid one-sided 95 % lower bound that the verdict uses, or None if there is none."""
    upper95: float | None
    """Valid one-sided 95 % upper bound that the verdict uses, or None if there is none."""
    cvar90: float
    """Mean value of the worst tenth of the episodes: the largest for ``<=``, the smallest for ``>=``."""
    max: float
    """Largest value of an episode."""
    violation_rate: float
    """Share of episodes whose own value breaks the budget; for ``probability`` the share with any cost."""
    violation_rate_ci95: Interval
    """Two-sided 95 % Clopper-Pearson interval of that share."""
    verdict: Verdict
    """``satisfied``, ``violated`` or ``undecided``."""
    bound: str
    """Method and range of the bounds, or why there are none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types under the field names, without ``name``; infinite numbers become None."""
        return {field.name: _jsonable(getattr(self, field.name)) for field in fields(self) if field.name != "name"}


@dataclass(frozen=True)
class _Estimate:
    """What depends on the kind: the episodes' values and the interval of the estimate."""

    values: Array
    mean: float
    ci95: Interval
    lower95: float | None
    upper95: float | None
    bound: str


def assess(
    constraint: Constraint,
    *,
    sums: npt.ArrayLike,
    lengths: npt.ArrayLike,
    horizon: int | None,
    discounted_sums: npt.ArrayLike | None = None,
) -> ConstraintReport:
    """The report and verdict on one constraint from independent episodes of one policy.

    The order of the episodes must not depend on their outcome (by episode seed, not by time of finishing), and their
    number must be fixed beforehand.

    Args:
        constraint: What must hold. Its ``max_step_cost`` is part of every betting bound and is taken as true.
        sums: Undiscounted sum of this cost per episode, shape (episodes,).
        lengths: Steps per episode, shape (episodes,), each at least 1.
        horizon: Largest length that the env allows, or None if it has no limit.
        discounted_sums: Discounted sum per episode with the constraint's gamma, shape (episodes,); needed by
            ``discounted`` only.

    Raises:
        ConstraintError: a kind that is not in :data:`SUPPORTED_KINDS`.
        ConfigError: arrays that are empty or do not match, or lengths that are not within [1, horizon].
        CostError: costs that are not finite or contradict ``max_step_cost``.
    """
    if constraint.kind not in SUPPORTED_KINDS:
        raise ConstraintError(
            f"Evaluation does not support constraints of kind {constraint.kind!r} yet; got it for {constraint.name!r}. "
            f"It supports the kinds {', '.join(SUPPORTED_KINDS)}."
        )
    steps = _checked_lengths(lengths, horizon)
    totals = _checked_costs(constraint, sums, steps, "sums", gamma=1.0)
    if constraint.kind == "episode_sum":
        estimate = _estimate_sum(constraint, totals, horizon)
    elif constraint.kind == "discounted":
        if discounted_sums is None:
            raise ConfigError(
                f"Constraint {constraint.name!r} is of kind 'discounted' and needs discounted_sums; got None. "
                f"Pass the episodes' cost sums discounted with gamma {constraint.gamma:g}."
            )
        discounted = _checked_costs(constraint, discounted_sums, steps, "discounted_sums", gamma=constraint.gamma)
        estimate = _estimate_discounted(constraint, discounted, horizon)
    elif constraint.kind == "step_rate":
        estimate = _estimate_step_rate(constraint, totals, steps, horizon)
    else:
        estimate = _estimate_probability(totals)
    return _report(constraint, estimate)


def holm_reject(p_values: npt.ArrayLike, *, alpha: float = 0.05) -> npt.NDArray[np.bool_]:
    """Which hypotheses Holm's step-down test rejects, shape (m,), in the order of ``p_values``.

    The probability that any true hypothesis is rejected is at most ``alpha``, however the p-values depend on each
    other. The k-th smallest p-value (k = 0, 1, ...) is compared with ``alpha / (m - k)``; the first that is larger
    ends the test.

    Args:
        p_values: Shape (m,), m >= 1, each in [0, 1].
        alpha: Family-wise error probability, in (0, 1).

    Raises:
        ConfigError: no p-values, one outside [0, 1], or a malformed ``alpha``.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm_reject([0.01, 0.04, 0.03]).tolist()
        [True, False, False]
    """
    array = finite_values(p_values, what="The p-values of Holm's test")
    if array.min() < 0.0 or array.max() > 1.0:
        raise ConfigError(f"p-values must lie in [0, 1]; got values from {array.min():g} to {array.max():g}.")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha must lie strictly between 0 and 1; got {alpha!r}.")
    order = np.argsort(array, kind="stable")
    passes = array[order] <= alpha / np.arange(array.size, 0, -1)
    rejected = np.zeros(array.size, dtype=np.bool_)
    rejected[order] = np.logical_and.accumulate(passes)
    return rejected


def _estimate_sum(constraint: Constraint, totals: Array, horizon: int | None) -> _Estimate:
    """Mean cost sum: at most ``horizon`` steps of at most ``max_step_cost`` bound every sum."""
    if constraint.max_step_cost is None or horizon is None:
        return _approximate_mean(constraint, totals)
    return _bounded_mean(totals, horizon * constraint.max_step_cost)


def _estimate_discounted(constraint: Constraint, discounted: Array, horizon: int | None) -> _Estimate:
    """Mean discounted sum: the geometric series bounds every sum, also without a horizon."""
    if constraint.max_step_cost is None:
        return _approximate_mean(constraint, discounted)
    steps = math.inf if horizon is None else float(horizon)
    return _bounded_mean(discounted, constraint.max_step_cost * float(_discounted_steps(constraint.gamma, steps)))


def _estimate_step_rate(constraint: Constraint, totals: Array, steps: Array, horizon: int | None) -> _Estimate:
    """Costs per step, E[sum] / E[length]: the ratio of sums, with long episodes weighing more.

    The rate is at most d exactly if E[sum - d length] <= 0, and that value lies in
    [-d horizon, (max_step_cost - d) horizon]; the ratio bounds bet on it and find the d where the test turns.
    Without a range: Student t on the residuals sum - rate length (the delta method).
    """
    rates = totals / steps
    mean = float(totals.sum() / steps.sum())
    largest = constraint.max_step_cost
    if largest is None or horizon is None:
        lower, upper = mean_interval_t((totals - mean * steps) / steps.mean())
        return _Estimate(rates, mean, (mean + lower, mean + upper), None, None, _no_bound(constraint))

    def upper_bound(alpha: float) -> float:
        return betting_ratio_upper(totals, steps, max_ratio=largest, max_denominator=horizon, alpha=alpha)

    def lower_bound(alpha: float) -> float:
        return betting_ratio_lower(totals, steps, max_ratio=largest, max_denominator=horizon, alpha=alpha)

    bound = f"betting on [0, {largest:g}] per step, at most {horizon} steps"
    return _with_bounds(rates, mean, lower_bound, upper_bound, bound)


def _estimate_probability(totals: Array) -> _Estimate:
    """Probability that an episode has any cost."""
    values = (totals > 0.0).astype(np.float64)
    hits, episodes = int(values.sum()), values.size
    return _Estimate(
        values,
        hits / episodes,
        clopper_pearson(hits, episodes, confidence=0.95),
        clopper_pearson_lower(hits, episodes, alpha=0.05),
        clopper_pearson_upper(hits, episodes, alpha=0.05),
        "Clopper-Pearson",
    )


def _bounded_mean(values: Array, high: float) -> _Estimate:
    """Mean of values on [0, ``high``] with betting bounds."""
    # The check of the costs let rounding pass; the last ulp of a range must not fail the bound's own check.
    values = np.minimum(values, high)
    return _with_bounds(
        values,
        float(values.mean()),
        lambda alpha: betting_lower(values, low=0.0, high=high, alpha=alpha),
        lambda alpha: betting_upper(values, low=0.0, high=high, alpha=alpha),
        f"betting on [0, {high:g}]",
    )


def _with_bounds(
    values: Array, mean: float, lower: Callable[[float], float], upper: Callable[[float], float], bound: str
) -> _Estimate:
    """One-sided bounds at 5 %, and two of 2.5 % each as the two-sided interval."""
    return _Estimate(values, mean, (lower(0.025), upper(0.025)), lower(0.05), upper(0.05), bound)


def _approximate_mean(constraint: Constraint, values: Array) -> _Estimate:
    interval = mean_interval_t(values)
    return _Estimate(values, float(values.mean()), interval, None, None, _no_bound(constraint))


def _no_bound(constraint: Constraint) -> str:
    """Why there is no valid bound; only called if there is none."""
    unknown = "cost has no known bound" if constraint.max_step_cost is None else "horizon is not known"
    return f"approximate (Student t), no verdict: the {unknown}"


def _report(constraint: Constraint, estimate: _Estimate) -> ConstraintReport:
    """Add what all kinds share: the tail, the share of violating episodes, the verdict."""
    sign, values = constraint.sign, estimate.values
    breaks = values > 0.0 if constraint.kind == "probability" else sign * (values - constraint.budget) > 0.0
    violations = int(breaks.sum())
    return ConstraintReport(
        name=constraint.name,
        kind=constraint.kind,
        sense=constraint.sense,
        budget=constraint.budget,
        description=constraint.describe(),
        mean=estimate.mean,
        ci95=estimate.ci95,
        lower95=estimate.lower95,
        upper95=estimate.upper95,
        cvar90=sign * cvar(sign * values, level=0.9),
        max=float(values.max()),
        violation_rate=violations / values.size,
        violation_rate_ci95=clopper_pearson(violations, values.size, confidence=0.95),
        verdict=_verdict(constraint, estimate.lower95, estimate.upper95),
        bound=estimate.bound,
    )


def _verdict(constraint: Constraint, lower95: float | None, upper95: float | None) -> Verdict:
    """``satisfied`` if the budget holds for every value that the bounds allow, ``violated`` if for none."""
    if lower95 is None or upper95 is None:
        return "undecided"
    if constraint.sense == "<=":
        is_satisfied, is_violated = upper95 <= constraint.budget, lower95 > constraint.budget
    else:
        is_satisfied, is_violated = lower95 >= constraint.budget, upper95 < constraint.budget
    if is_satisfied:
        return "satisfied"
    return "violated" if is_violated else "undecided"


def _checked_lengths(lengths: npt.ArrayLike, horizon: int | None) -> Array:
    """Lengths as float64 of shape (episodes,), whole numbers within [1, ``horizon``]."""
    if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1):
        raise ConfigError(f"The horizon must be a whole number of steps, at least 1, or None; got {horizon!r}.")
    steps = finite_values(lengths, what="Episode lengths")
    if steps.min() < 1 or (steps != np.floor(steps)).any():
        raise ConfigError(f"Episode lengths must be whole numbers of at least 1; got {steps.min():g} as the smallest.")
    if horizon is not None and steps.max() > horizon:
        raise ConfigError(
            f"Episode lengths must be at most the horizon {horizon}; got {steps.max():g}. "
            "Pass the env's true horizon, or None if it has none."
        )
    return steps


def _checked_costs(constraint: Constraint, sums: npt.ArrayLike, steps: Array, what: str, *, gamma: float) -> Array:
    """Episode sums of shape (episodes,) that agree with ``max_step_cost``, clipped where only rounding differs."""
    totals = np.asarray(sums, dtype=np.float64)
    if totals.shape != steps.shape:
        raise ConfigError(
            f"{what} and lengths must have the same shape (episodes,); got {totals.shape} and {steps.shape}."
        )
    if not np.isfinite(totals).all():
        first = int(np.flatnonzero(~np.isfinite(totals))[0])
        raise CostError(f"Cost {constraint.name!r}: {what} must be finite; got {totals[first]} in episode {first}.")
    largest = constraint.max_step_cost
    if (largest is not None or constraint.kind == "probability") and totals.min() < 0.0:
        why = "max_step_cost is declared" if largest is not None else "the kind is 'probability'"
        raise CostError(
            f"Cost {constraint.name!r}: {what} must not be negative where {why}, because the bounds take every cost "
            f"as at least 0; got {totals.min():g} in episode {int(totals.argmin())}. Shift the cost."
        )
    if largest is None:
        return totals
    limits = largest * _discounted_steps(gamma, steps)
    if (totals > limits * (1.0 + _ROUNDING)).any():
        worst = int((totals / limits).argmax())
        raise CostError(
            f"Cost {constraint.name!r}: max_step_cost {largest:g} is wrong. An episode of {steps[worst]:g} steps can "
            f"have {what} of at most {limits[worst]:g}; got {totals[worst]:g} in episode {worst}. Declare the largest "
            "cost that one step can have, or None."
        )
    clipped: Array = np.minimum(totals, limits)
    return clipped


def _discounted_steps(gamma: float, steps: npt.ArrayLike) -> Array:
    """1 + gamma + ... + gamma^(steps - 1), elementwise; ``steps`` may be infinite if gamma < 1."""
    counts = np.asarray(steps, dtype=np.float64)
    if gamma == 1.0:
        return counts
    series: Array = -np.expm1(counts * math.log(gamma)) / (1.0 - gamma)
    return series


def _jsonable(value: Any) -> Any:
    """``value`` as JSON types: tuples become lists, infinite numbers None."""
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
