"""Confidence bounds on means, rates and probabilities, and bootstrap intervals.

Two families, kept apart by name:

* valid for any law with the stated range, at any sample size: ``betting_*`` (bounded values) and ``clopper_pearson*``
  (yes or no). Only these carry verdicts.
* approximations that need many values: :func:`mean_interval_t` and the ``*bootstrap_interval`` functions.

The betting bounds follow Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
2024. A gambler doubts that the mean of values in [0, 1] is as large as m and bets on values below m. The capital

    K_t(m) = prod_{i <= t} (1 + lambda_i(m) (m - X_i)),   0 <= lambda_i(m) <= c / (1 - m),   c < 1,

never reaches 0, and if the mean is m it is a martingale that starts at 1, because lambda_i depends only on
X_1..X_{i-1}. By Ville's inequality it then ever reaches 1/alpha with probability at most alpha, so the means m with
max_t K_t(m) >= 1/alpha are rejected, and the largest one that is not rejected is a (1 - alpha) upper bound.

Means are the case a_i = 1 of a ratio E[b] / E[a] of values 0 <= b_i <= a_i <= 1 (costs and steps of an episode, say):
the ratio is delta exactly if E[delta a - b] = 0, so the same capital with the payoff delta a_i - b_i in place of
m - X_i bounds the ratio. One implementation serves both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped, unused-ignore]

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
Statistic = Callable[[Array], float]

# Largest share of the capital that one bet may lose (c in the paper): 1 could end the game at a single value.
_MAX_LOSS = 0.99
_EPS = float(np.finfo(np.float64).eps)


def betting_upper(values: npt.ArrayLike, *, low: float, high: float, alpha: float = 0.05) -> float:
    """An upper bound on the mean of iid bounded values that is right with probability at least 1 - ``alpha``.

    It holds for any law on [``low``, ``high``] and any fixed number of values, and is never below their sample mean.
    The bets depend on the order, so the order must not depend on the values (do not sort them).

    Args:
        values: The iid values, shape (n,), n >= 1.
        low: Smallest value that the law allows, known beforehand (not the sample's minimum).
        high: Largest value that the law allows, known beforehand.
        alpha: Largest probability that the bound is below the mean, in (0, 1).

    Raises:
        ConfigError: no values, a value that is not finite or outside the range, or a malformed range or ``alpha``.

    Source: Waudby-Smith and Ramdas (2024); the plug-in bets are their equation for a fixed n, one-sided.
    """
    array = finite_values(values, what="The values of a betting bound")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"The range of a betting bound must be finite with low < high; got [{low!r}, {high!r}].")
    if array.min() < low or array.max() > high:
        raise ConfigError(
            f"The values of a betting bound must lie in the declared range [{low:g}, {high:g}]; got values from "
            f"{array.min():g} to {array.max():g}. Declare the range that the law allows."
        )
    _check_probability("alpha", alpha)
    scaled = np.clip((array - low) / (high - low), 0.0, 1.0)
    bound = low + (high - low) * _scaled_ratio_upper(scaled, np.ones_like(scaled), alpha)
    return min(float(high), max(math.nextafter(bound, math.inf), float(array.mean())))


def betting_lower(values: npt.ArrayLike, *, low: float, high: float, alpha: float = 0.05) -> float:
    """A lower bound on the mean of iid bounded values that is right with probability at least 1 - ``alpha``.

    The mirror of :func:`betting_upper`: minus the upper bound of the negated values. Arguments and errors are the same.
    """
    array = finite_values(values, what="The values of a betting bound")
    return 0.0 - betting_upper(-array, low=-high, high=-low, alpha=alpha)  # 0.0 - x, so that no bound is -0.0


def betting_ratio_upper(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    *,
    max_ratio: float,
    max_denominator: float,
    alpha: float = 0.05,
) -> float:
    """An upper bound on E[numerator] / E[denominator] that is right with probability at least 1 - ``alpha``.

    The pairs are iid with 0 < denominator <= ``max_denominator`` and 0 <= numerator <= ``max_ratio`` * denominator; the
    two may depend on each other in any way. With costs and lengths of episodes it bounds the expected cost per step
    (long episodes weigh more, as they do in a step rate). It is never below the sample's ratio of sums.

    Why one bisection over the ratio is enough: see ``_is_rejected``.

    Args:
        numerators: Shape (n,), n >= 1, for example the cost of each episode.
        denominators: Shape (n,), for example the steps of each episode.
        max_ratio: Largest ratio that one pair can have, known beforehand (the largest cost of a step).
        max_denominator: Largest denominator, known beforehand (the horizon).
        alpha: Largest probability that the bound is below the ratio, in (0, 1).

    Raises:
        ConfigError: no pairs, shapes that differ, or values outside what is declared.
    """
    tops, bottoms = _checked_pairs(numerators, denominators, max_ratio, max_denominator)
    _check_probability("alpha", alpha)
    weights = np.clip(bottoms / max_denominator, 0.0, 1.0)
    scaled = np.clip(tops / (max_ratio * max_denominator), 0.0, weights)
    bound = math.nextafter(max_ratio * _scaled_ratio_upper(scaled, weights, alpha), math.inf)
    return min(float(max_ratio), max(bound, float(tops.sum() / bottoms.sum())))


def betting_ratio_lower(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    *,
    max_ratio: float,
    max_denominator: float,
    alpha: float = 0.05,
) -> float:
    """A lower bound on E[numerator] / E[denominator] that is right with probability at least 1 - ``alpha``.

    The mirror of :func:`betting_ratio_upper`: ``max_ratio`` minus the upper bound on the ratio of what each
    numerator lacks to its largest value, ``max_ratio * denominator - numerator``. Arguments and errors are the same.
    """
    tops, bottoms = _checked_pairs(numerators, denominators, max_ratio, max_denominator)
    missing = np.clip(max_ratio * bottoms - tops, 0.0, max_ratio * bottoms)
    upper = betting_ratio_upper(missing, bottoms, max_ratio=max_ratio, max_denominator=max_denominator, alpha=alpha)
    bound = math.nextafter(max_ratio - upper, -math.inf)
    return max(0.0, min(bound, float(tops.sum() / bottoms.sum())))


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """The two-sided exact interval of a probability; it covers with probability at least ``confidence``.

    Only for independent trials of one thing, for example episodes of one policy.

    Args:
        successes: How many of the trials succeeded, 0 to ``trials``.
        trials: Number of independent trials, at least 1.
        confidence: Smallest coverage, in (0, 1); each side misses with at most half of the rest.

    Raises:
        ConfigError: counts that are not whole numbers or do not fit, or a malformed ``confidence``.

    Source: Clopper and Pearson (1934), by quantiles of the beta distribution.
    """
    _check_probability("confidence", confidence)
    alpha = (1.0 - confidence) / 2.0
    lower = clopper_pearson_lower(successes, trials, alpha=alpha)
    return lower, clopper_pearson_upper(successes, trials, alpha=alpha)


def clopper_pearson_upper(successes: int, trials: int, *, alpha: float = 0.05) -> float:
    """The one-sided exact upper bound of a probability; it is too low with probability at most ``alpha``.

    It solves P(at most ``successes`` successes | p) = ``alpha`` for p: the 1 - ``alpha`` quantile of
    Beta(successes + 1, trials - successes); 1 when every trial succeeded. Errors as in :func:`clopper_pearson`.
    """
    _check_counts(successes, trials)
    _check_probability("alpha", alpha)
    if successes == trials:
        return 1.0
    return float(special.betainccinv(successes + 1, trials - successes, alpha))


def clopper_pearson_lower(successes: int, trials: int, *, alpha: float = 0.05) -> float:
    """The one-sided exact lower bound of a probability; it is too high with probability at most ``alpha``.

    It solves P(at least ``successes`` successes | p) = ``alpha`` for p: the ``alpha`` quantile of
    Beta(successes, trials - successes + 1); 0 when no trial succeeded. Errors as in :func:`clopper_pearson`.
    """
    _check_counts(successes, trials)
    _check_probability("alpha", alpha)
    if successes == 0:
        return 0.0
    return float(special.betaincinv(successes, trials - successes + 1, alpha))


def mean_interval_t(values: npt.ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean: an approximation that is exact for normal values only.

    With few values of a skewed law (rare large costs) it covers much less than it says: zeros only give an interval of
    width 0. It carries no verdict. One value gives (-inf, inf).

    Args:
        values: The iid values, shape (n,), n >= 1.
        confidence: Nominal coverage, in (0, 1).

    Raises:
        ConfigError: no values, a value that is not finite, or a malformed ``confidence``.
    """
    array = finite_values(values, what="The values of a t interval")
    _check_probability("confidence", confidence)
    if array.size == 1:
        return -math.inf, math.inf
    mean = float(array.mean())
    quantile = float(special.stdtrit(array.size - 1, 0.5 + confidence / 2.0))
    half = quantile * float(array.std(ddof=1)) / math.sqrt(array.size)
    return mean - half, mean + half


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of ``statistic``: an approximation that is too narrow for few values.

    One value says nothing about spread and gives (-inf, inf).

    Args:
        values: The iid values, shape (n,), n >= 1.
        statistic: Maps an array of shape (n,) to a number, for example :func:`saferl.statistics.iqm`.
        rng: Source of the resamples; the same generator state gives the same interval.
        resamples: Number of bootstrap resamples, at least 1.
        confidence: Nominal coverage, in (0, 1).

    Raises:
        ConfigError: no values, a value that is not finite, or a malformed option.

    Source: Efron (1979); the percentile method.
    """
    array = finite_values(values, what="The values of a bootstrap")
    return cluster_bootstrap_interval(
        array.reshape(-1, 1), statistic, rng=rng, resamples=resamples, confidence=confidence
    )


def cluster_bootstrap_interval(
    clusters: Sequence[npt.ArrayLike] | Array,
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of ``statistic`` when values within a cluster depend on each other.

    Whole clusters are drawn with replacement (all episodes of a training seed, all steps of an episode), so the
    interval speaks of new clusters. Few clusters make it too narrow; one cluster gives (-inf, inf).

    Args:
        clusters: One array of values per cluster, shape (values of the cluster,) each; sizes may differ.
        statistic: Maps the values of the drawn clusters, concatenated, to a number.
        rng: Source of the resamples; the same generator state gives the same interval.
        resamples: Number of bootstrap resamples, at least 1.
        confidence: Nominal coverage, in (0, 1).

    Raises:
        ConfigError: no clusters, an empty one, a value that is not finite, or a malformed option.
    """
    groups = [finite_values(group, what="Each cluster of a bootstrap") for group in clusters]
    _check_bootstrap(len(groups), "cluster", resamples, confidence)
    if len(groups) == 1:
        return -math.inf, math.inf

    def draw() -> Array:
        return np.concatenate([groups[index] for index in rng.integers(len(groups), size=len(groups))])

    return _percentile_interval([statistic(draw()) for _ in range(resamples)], confidence)


def stratified_bootstrap_interval(
    strata: Sequence[npt.ArrayLike] | Array,
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of ``statistic`` over fixed strata, for example runs of a fixed list of tasks.

    Values are drawn with replacement within each stratum, whose size stays. A stratum of one value hides its spread and
    gives (-inf, inf).

    Args:
        strata: One array of values per stratum, shape (values of the stratum,) each; sizes may differ.
        statistic: Maps all drawn values, concatenated in the order of the strata, to a number.
        rng: Source of the resamples; the same generator state gives the same interval.
        resamples: Number of bootstrap resamples, at least 1.
        confidence: Nominal coverage, in (0, 1).

    Raises:
        ConfigError: no strata, an empty one, a value that is not finite, or a malformed option.

    Source: Agarwal et al., "Deep RL at the edge of the statistical precipice", NeurIPS 2021.
    """
    groups = [finite_values(group, what="Each stratum of a bootstrap") for group in strata]
    _check_bootstrap(len(groups), "stratum", resamples, confidence)
    if any(group.size == 1 for group in groups):
        return -math.inf, math.inf

    def draw() -> Array:
        return np.concatenate([group[rng.integers(group.size, size=group.size)] for group in groups])

    return _percentile_interval([statistic(draw()) for _ in range(resamples)], confidence)


def finite_values(values: npt.ArrayLike, *, what: str) -> Array:
    """``values`` as float64 of shape (n,), n >= 1, all finite.

    Args:
        values: What a caller passed.
        what: The subject of the error message.

    Raises:
        ConfigError: ``values`` is not numeric, not one-dimensional, empty, or has NaN or an infinite number.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} must be numbers; got {values!r}.") from error
    if array.ndim != 1 or array.size == 0:
        raise ConfigError(f"{what} must have shape (n,) with n >= 1; got shape {array.shape}.")
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ConfigError(f"{what} must be finite; got {array[first]} at index {first}.")
    return array


def _scaled_ratio_upper(numerators: Array, weights: Array, alpha: float) -> float:
    """The (1 - ``alpha``) upper bound on E[numerator] / E[weight] in [0, 1], rounded up; 0 <= numerator <= weight <= 1.

    Not below the ratio of the sums: an unlucky order (small values first) can push the capital over 1/alpha for ratios
    below it. Reporting the larger of the two stays valid and is never absurd.
    """
    bets = _predictable_bets(numerators, weights, alpha)
    lower = min(1.0, float(numerators.sum() / weights.sum()))
    upper = 1.0
    if not _is_rejected(upper, numerators, weights, bets, alpha):
        return upper
    if _is_rejected(lower, numerators, weights, bets, alpha):
        return lower
    # Invariant: `lower` is not rejected, `upper` is; the bound returned is the rejected end, so it errs upward only.
    while upper - lower > 4.0 * _EPS:
        middle = 0.5 * (lower + upper)
        if _is_rejected(middle, numerators, weights, bets, alpha):
            upper = middle
        else:
            lower = middle
    return upper


def _predictable_bets(numerators: Array, weights: Array, alpha: float) -> Array:
    """Bets lambda_t, shape (n,), that use values before t only: sqrt(2 log(1/alpha) / (n sigma2_{t-1})).

    sigma2 is the running mean of squared residuals b_i - rhat_i a_i about the running ratio rhat, started as if one
    value with mean 1/2 and variance 1/4 had been seen. For weights of 1 these are the paper's running mean and
    variance. Every predictable choice gives a valid bound; the choice decides its width only.
    """
    n = numerators.size
    ratios = (0.5 + np.cumsum(numerators)) / (1.0 + np.cumsum(weights))
    squares = (numerators - ratios * weights) ** 2
    # variances[t] is sigma2_t of values 1..t; the bet on value t + 1 uses it, so the last entry is never needed.
    sums = np.concatenate(([0.0], np.cumsum(squares)[:-1]))
    variances = (0.25 + sums) / np.arange(1, n + 1)
    bets: Array = np.sqrt(2.0 * math.log(1.0 / alpha) / (n * variances))
    return bets


def _is_rejected(ratio: float, numerators: Array, weights: Array, bets: Array, alpha: float) -> bool:
    """Whether the capital against a true ratio of at least ``ratio`` reaches 1/``alpha`` at some t.

    The factor of value i with payoff g = r a - b is 1 + min(lambda_i, c / (1 - r)) g, where 0 <= b <= a <= 1.

    * It stays positive: g >= -(1 - r), because b - r a <= (1 - r) a, so it is at least 1 - c.
    * It does not fall as r rises, also where the bet is truncated. Untruncated, its slope is lambda_i a >= 0.
      Truncated, it is 1 + c (r a - b) / (1 - r) with the derivative
      c (a (1 - r) + r a - b) / (1 - r)^2 = c (a - b) / (1 - r)^2 >= 0.
      The two agree where c / (1 - r) = lambda_i, as lambda_i does not depend on r.

    So K_t(r) and max_t K_t(r) do not fall in r, the ratios that are not rejected form an interval that starts at 0, and
    bisection finds its end.
    """
    limit = _MAX_LOSS / (1.0 - ratio) if ratio < 1.0 else math.inf
    terms = np.log1p(np.minimum(bets, limit) * (ratio * weights - numerators))
    # More than the rounding error of the sums below, so that rounding never rejects a ratio that exact numbers keep:
    # a factor is wrong by a few eps times the bet, its log by at most 1 / (1 - c) = 100 times that, and a running sum
    # by eps per addition.
    slack = terms.size * _EPS * (1.0 + 400.0 * float(bets.max()) + float(np.abs(terms).sum()))
    return bool(np.cumsum(terms).max() >= math.log(1.0 / alpha) + slack)


def _checked_pairs(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, max_ratio: float, max_denominator: float
) -> tuple[Array, Array]:
    """Both sides of a ratio as arrays of shape (n,), within what is declared; errors as in the bounds."""
    tops = finite_values(numerators, what="The numerators of a ratio bound")
    bottoms = finite_values(denominators, what="The denominators of a ratio bound")
    if tops.shape != bottoms.shape:
        raise ConfigError(
            f"Numerators and denominators must have the same shape; got {tops.shape} and {bottoms.shape}."
        )
    for name, limit in (("max_ratio", max_ratio), ("max_denominator", max_denominator)):
        if not (math.isfinite(limit) and limit > 0):
            raise ConfigError(f"{name} must be finite and positive; got {limit!r}.")
    if bottoms.min() <= 0 or bottoms.max() > max_denominator:
        raise ConfigError(
            f"Denominators must lie in (0, {max_denominator:g}]; got values from {bottoms.min():g} to "
            f"{bottoms.max():g}."
        )
    if tops.min() < 0 or (tops > max_ratio * bottoms).any():
        raise ConfigError(
            f"Numerators must lie between 0 and {max_ratio:g} times their denominators; got numerators from "
            f"{tops.min():g} to {tops.max():g}, and ratios up to {(tops / bottoms).max():g}."
        )
    return tops, bottoms


def _check_probability(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} must lie strictly between 0 and 1; got {value!r}.")


def _check_counts(successes: int, trials: int) -> None:
    for name, value in (("successes", successes), ("trials", trials)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ConfigError(f"{name} must be a whole number; got {value!r}.")
    if trials < 1 or not 0 <= successes <= trials:
        raise ConfigError(f"Counts must satisfy 0 <= successes <= trials and trials >= 1; got {successes} of {trials}.")


def _check_bootstrap(groups: int, what: str, resamples: int, confidence: float) -> None:
    _check_probability("confidence", confidence)
    if groups == 0:
        raise ConfigError(f"A bootstrap needs at least one {what}; got none.")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1; got {resamples!r}.")


def _percentile_interval(estimates: list[float], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(np.asarray(estimates, dtype=np.float64), [tail, 1.0 - tail])
    return float(lower), float(upper)
