"""Confidence bounds: exact values, exact coverage where it can be enumerated, simulated coverage elsewhere."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from saferl.errors import ConfigError
from saferl.statistics import (
    betting_lower,
    betting_ratio_lower,
    betting_ratio_upper,
    betting_upper,
    bootstrap_interval,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cluster_bootstrap_interval,
    mean_interval_t,
    stratified_bootstrap_interval,
)

unit_values = st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=30)
unit_pairs = st.lists(
    st.tuples(st.integers(1, 20), st.floats(0.0, 1.0, width=32)).map(lambda pair: (pair[0], pair[0] * pair[1])),
    min_size=1,
    max_size=20,
)
few = settings(max_examples=60, deadline=None, derandomize=True)


def gamma_costs(rng, size, *, mean=20.0, sd=35.0):
    """Skewed episode costs on [0, 1000]; clipping hardly moves the mean (P(cost > 1000) is below 1e-11)."""
    return np.clip(rng.gamma((mean / sd) ** 2, sd**2 / mean, size), 0.0, 1000.0)


def allowed_misses(repetitions, alpha):
    """Misses that a bound with miss probability ``alpha`` exceeds with probability below 1e-6."""
    return int(stats.binom.isf(1e-6, repetitions, alpha))


# Betting bounds on a mean


def test_a_hundred_zeros_on_a_thousand_give_about_thirty():
    assert 29.5 < betting_upper(np.zeros(100), low=0, high=1000) <= 31.0


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_zeros_give_a_bound_close_to_the_best_possible_one_and_never_below_it(n, alpha):
    # A coin with P(1) = p shows n zeros with probability (1 - p)^n, so no valid bound is below 1 - alpha^(1/n).
    best = 1.0 - alpha ** (1.0 / n)
    assert best <= betting_upper(np.zeros(n), low=0, high=1, alpha=alpha) <= min(1.0, 1.6 * best)


def test_skewed_costs_of_mean_20_and_sd_35_are_bounded_near_24_with_a_thousand_episodes():
    rng = np.random.default_rng(0)
    bounds = [betting_upper(gamma_costs(rng, 1000), low=0, high=1000) for _ in range(20)]
    assert 22.0 < np.mean(bounds) < 25.0


def test_betting_bounds_miss_a_coins_probability_at_most_alpha_often_by_enumeration():
    n, alpha = 8, 0.1
    sequences = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    ones = sequences.sum(axis=1)
    uppers = np.array([betting_upper(row, low=0, high=1, alpha=alpha) for row in sequences])
    lowers = np.array([betting_lower(row, low=0, high=1, alpha=alpha) for row in sequences])
    for p in np.linspace(0.005, 0.995, 199):
        chances = p**ones * (1 - p) ** (n - ones)
        assert chances[uppers < p].sum() <= alpha
        assert chances[lowers > p].sum() <= alpha


@pytest.mark.parametrize("bound", [betting_upper, betting_lower])
def test_betting_bounds_miss_a_skewed_mean_at_most_alpha_often(bound):
    # A valid bound fails this test with probability below 1e-6.
    rng, repetitions, alpha = np.random.default_rng(1), 400, 0.05
    sign = 1.0 if bound is betting_upper else -1.0
    mean = 1000.0 * 0.1 / (0.1 + 3.0)  # Beta(0.1, 3): most values near 0, a few large ones
    misses = sum(
        sign * (bound(1000.0 * rng.beta(0.1, 3.0, 60), low=0, high=1000, alpha=alpha) - mean) < 0
        for _ in range(repetitions)
    )
    assert misses <= allowed_misses(repetitions, alpha)


def test_the_t_interval_misses_rare_large_costs_that_the_betting_bound_covers():
    # One episode in 50 costs 1000: with 30 episodes the sample is all zeros with probability 0.545.
    rng, repetitions = np.random.default_rng(2), 200
    samples = 1000.0 * (rng.random((repetitions, 30)) < 0.02)
    missed_t = sum(mean_interval_t(row, confidence=0.9)[1] < 20.0 for row in samples)
    missed_betting = sum(betting_upper(row, low=0, high=1000) < 20.0 for row in samples)
    assert missed_t > 0.4 * repetitions
    assert missed_betting <= allowed_misses(repetitions, 0.05)


def test_more_data_of_the_same_pattern_gives_tighter_bounds():
    pattern = np.array([0.1, 0.7, 0.0, 0.4, 0.3])
    uppers = [betting_upper(np.tile(pattern, k), low=0, high=1) for k in (2, 8, 32, 128)]
    lowers = [betting_lower(np.tile(pattern, k), low=0, high=1) for k in (2, 8, 32, 128)]
    assert uppers == sorted(uppers, reverse=True)
    assert lowers == sorted(lowers)
    assert uppers[-1] - lowers[-1] < 0.1


def test_a_smaller_alpha_gives_a_wider_bound():
    values = np.tile([0.1, 0.7, 0.0, 0.4, 0.3], 20)
    uppers = [betting_upper(values, low=0, high=1, alpha=alpha) for alpha in (0.2, 0.05, 0.025, 0.001)]
    assert uppers == sorted(uppers)
    assert len(set(uppers)) == 4


def test_every_order_of_zeros_and_ones_brackets_the_sample_mean():
    for order in set(itertools.permutations([0.0] * 5 + [1.0] * 3)):
        assert betting_lower(order, low=0, high=1) <= 3 / 8 <= betting_upper(order, low=0, high=1)


def test_sorted_values_do_not_give_a_bound_beyond_their_own_mean():
    values = np.repeat([0.0, 1.0], 500)  # the zeros alone would reject every mean above 0.01
    assert betting_upper(values, low=0, high=1) == pytest.approx(0.5)
    assert betting_lower(values[::-1], low=0, high=1) == pytest.approx(0.5)


def test_values_at_an_end_of_the_range_keep_the_bound_at_that_end():
    assert betting_upper(np.full(50, 7.0), low=2, high=7) == 7.0
    assert betting_lower(np.full(50, 2.0), low=2, high=7) == 2.0
    assert math.copysign(1.0, betting_lower(np.zeros(5), low=0, high=1)) == 1.0


def test_one_value_says_little():
    assert betting_upper([0.5], low=0, high=1) == 1.0
    assert betting_lower([0.5], low=0, high=1) == 0.0


def test_the_bound_is_where_the_capital_of_the_paper_reaches_one_over_alpha():
    values, alpha = np.array([0.2, 0.0, 0.5, 0.1, 0.0, 0.3, 0.0, 0.0, 0.1, 0.2] * 4), 0.05
    bound = betting_upper(values, low=0, high=1, alpha=alpha)

    def largest_capital(m):
        capital, best, total, squares = 1.0, 1.0, 0.5, 0.25
        for t, x in enumerate(values):
            bet = math.sqrt(2 * math.log(1 / alpha) / (len(values) * squares / (t + 1)))
            capital *= 1 + min(bet, 0.99 / (1 - m)) * (m - x)
            best = max(best, capital)
            total += x
            squares += (x - total / (t + 2)) ** 2
        return best

    assert largest_capital(bound) >= 1 / alpha
    assert largest_capital(bound - 1e-9) < 1 / alpha


@few
@given(unit_values)
def test_betting_bounds_bracket_the_sample_mean_within_the_range(values):
    mean = np.mean(values)
    lower, upper = betting_lower(values, low=0, high=1), betting_upper(values, low=0, high=1)
    assert 0.0 <= lower <= mean + 1e-15
    assert mean - 1e-15 <= upper <= 1.0


@few
@given(unit_values)
def test_betting_bounds_scale_with_the_values(values):
    scaled = 1000.0 * np.array(values)
    assert betting_upper(scaled, low=0, high=1000) == pytest.approx(
        1000 * betting_upper(values, low=0, high=1), rel=1e-9
    )
    assert betting_lower(scaled, low=0, high=1000) == pytest.approx(
        1000 * betting_lower(values, low=0, high=1), rel=1e-9, abs=1e-9
    )


@few
@given(unit_values)
def test_the_lower_bound_mirrors_the_upper_one(values):
    mirrored = 1.0 - np.array(values)
    assert betting_lower(values, low=0, high=1) == pytest.approx(1 - betting_upper(mirrored, low=0, high=1), abs=1e-12)


def test_the_declared_range_and_not_the_samples_extremes_sets_the_width():
    values = np.tile([0.1, 0.7, 0.0, 0.4, 0.3], 20)
    uppers = [betting_upper(values, low=0, high=high) for high in (1.0, 10.0, 100.0)]
    assert uppers == sorted(uppers)
    assert len(set(uppers)) == 3


@pytest.mark.parametrize("bound", [betting_upper, betting_lower])
@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, r"shape \(n,\) with n >= 1; got shape \(0,\)"),
        ([[0.1], [0.2]], {}, r"got shape \(2, 1\)"),
        (["a"], {}, "must be numbers"),
        ([0.1, math.nan], {}, "must be finite; got nan at index 1"),
        ([0.1, math.inf], {}, "must be finite"),
        ([0.1, 1.1], {}, "must lie in the declared range"),
        ([-0.1, 0.1], {}, "must lie in the declared range"),
        ([0.1], {"high": 0.0}, "must be finite with low < high"),
        ([0.1], {"high": math.inf}, "must be finite with low < high"),
        ([0.1], {"alpha": 0.0}, "alpha must lie strictly between 0 and 1"),
        ([0.1], {"alpha": 1.0}, "alpha must lie strictly between 0 and 1"),
    ],
)
def test_betting_bounds_refuse_what_has_no_valid_bound(bound, values, options, message):
    if "high" in options and bound is betting_lower:
        message = "must be finite with low < high"
    with pytest.raises(ConfigError, match=message):
        bound(values, **{"low": 0.0, "high": 1.0, **options})


# Betting bounds on a ratio


@few
@given(unit_values)
def test_a_ratio_with_equal_denominators_is_a_mean(values):
    lengths = np.full(len(values), 10.0)
    totals = 10.0 * np.array(values)
    upper = betting_ratio_upper(totals, lengths, max_ratio=1, max_denominator=10)
    lower = betting_ratio_lower(totals, lengths, max_ratio=1, max_denominator=10)
    assert upper == pytest.approx(betting_upper(values, low=0, high=1), abs=1e-9)
    assert lower == pytest.approx(betting_lower(values, low=0, high=1), abs=1e-9)


@few
@given(unit_pairs)
def test_ratio_bounds_bracket_the_ratio_of_sums_and_mirror_each_other(pairs):
    lengths, totals = np.array(pairs).T
    options = {"max_ratio": 1.0, "max_denominator": 20.0}
    ratio = totals.sum() / lengths.sum()
    lower, upper = betting_ratio_lower(totals, lengths, **options), betting_ratio_upper(totals, lengths, **options)
    assert 0.0 <= lower <= ratio + 1e-12
    assert ratio - 1e-12 <= upper <= 1.0
    assert lower == pytest.approx(1.0 - betting_ratio_upper(lengths - totals, lengths, **options), abs=1e-12)


def test_ratio_bounds_miss_at_most_alpha_often_by_enumeration():
    # Short episodes cost most: the mean of the episodes' rates is far from the rate, which the bounds must not follow.
    outcomes = np.array([(1.0, 1.0), (4.0, 0.0), (4.0, 2.0)])  # (steps, cost)
    n, alpha = 6, 0.1
    choices = np.array(list(itertools.product(range(3), repeat=n)))
    options = {"max_ratio": 1.0, "max_denominator": 4.0, "alpha": alpha}
    uppers = np.array([betting_ratio_upper(outcomes[c, 1], outcomes[c, 0], **options) for c in choices])
    lowers = np.array([betting_ratio_lower(outcomes[c, 1], outcomes[c, 0], **options) for c in choices])
    for weights in itertools.product([0.02, 0.1, 0.5, 1.0, 3.0], repeat=3):
        law = np.array(weights) / sum(weights)
        rate = (law @ outcomes[:, 1]) / (law @ outcomes[:, 0])
        chances = law[choices].prod(axis=1)
        assert chances[uppers < rate].sum() <= alpha
        assert chances[lowers > rate].sum() <= alpha


def test_ratio_bounds_close_in_on_the_ratio_of_expectations():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 101, 2000)
    totals = rng.binomial(lengths, 0.1)
    lower = betting_ratio_lower(totals, lengths, max_ratio=1, max_denominator=100)
    upper = betting_ratio_upper(totals, lengths, max_ratio=1, max_denominator=100)
    assert 0.09 < lower < 0.1 < upper < 0.11


@pytest.mark.parametrize(
    ("numerators", "denominators", "options", "message"),
    [
        ([1.0], [1.0, 2.0], {}, "same shape"),
        ([1.0], [0.0], {}, r"Denominators must lie in \(0, 10\]"),
        ([1.0], [11.0], {}, r"Denominators must lie in \(0, 10\]"),
        ([3.0], [2.0], {}, "Numerators must lie between 0 and 1 times their denominators"),
        ([-1.0], [2.0], {}, "Numerators must lie between"),
        ([1.0], [2.0], {"max_ratio": 0.0}, "max_ratio must be finite and positive"),
        ([1.0], [2.0], {"max_denominator": math.inf}, "max_denominator must be finite and positive"),
        ([1.0], [2.0], {"alpha": 2.0}, "alpha must lie strictly"),
    ],
)
def test_ratio_bounds_refuse_pairs_outside_what_is_declared(numerators, denominators, options, message):
    for bound in (betting_ratio_upper, betting_ratio_lower):
        with pytest.raises(ConfigError, match=message):
            bound(numerators, denominators, **{"max_ratio": 1.0, "max_denominator": 10.0, **options})


# Clopper-Pearson


def test_clopper_pearson_gives_the_published_interval_of_10_in_100():
    assert clopper_pearson(10, 100) == pytest.approx((0.0490047, 0.1762226), abs=1e-7)


def test_clopper_pearson_has_closed_forms_at_both_ends():
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1.0))
    assert clopper_pearson_upper(0, 100, alpha=0.05) == pytest.approx(1 - 0.05**0.01)
    assert clopper_pearson_lower(3, 3, alpha=0.05) == pytest.approx(0.05 ** (1 / 3))  # 0.37: three of three seeds
    assert clopper_pearson_lower(0, 3) == 0.0
    assert clopper_pearson_upper(3, 3) == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(1, 7), (5, 20), (299, 300)])
def test_clopper_pearson_bounds_put_exactly_alpha_in_the_tail(successes, trials):
    upper = clopper_pearson_upper(successes, trials, alpha=0.05)
    lower = clopper_pearson_lower(successes, trials, alpha=0.05)
    assert stats.binom.cdf(successes, trials, upper) == pytest.approx(0.05)
    assert stats.binom.sf(successes - 1, trials, lower) == pytest.approx(0.05)


@pytest.mark.parametrize("trials", [1, 5, 30])
def test_clopper_pearson_covers_every_probability_by_enumeration(trials):
    counts = np.arange(trials + 1)
    intervals = np.array([clopper_pearson(int(k), trials) for k in counts])
    for p in np.linspace(0.0, 1.0, 101):
        is_inside = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
        assert stats.binom.pmf(counts[is_inside], trials, p).sum() >= 0.95 - 1e-12


@pytest.mark.parametrize(
    ("successes", "trials", "message"),
    [
        (1, 0, "trials >= 1"),
        (-1, 3, "0 <= successes"),
        (4, 3, "got 4 of 3"),
        (1.5, 3, "successes must be a whole"),
        (True, 3, "successes must be a whole"),
    ],
)
def test_clopper_pearson_refuses_counts_that_do_not_fit(successes, trials, message):
    with pytest.raises(ConfigError, match=message):
        clopper_pearson(successes, trials)


def test_clopper_pearson_refuses_a_confidence_outside_zero_to_one():
    with pytest.raises(ConfigError, match="confidence must lie strictly"):
        clopper_pearson(1, 3, confidence=95)


# Student t and bootstraps


def test_the_t_interval_matches_a_hand_computation():
    # mean 2, sd 1, n 3; the 97.5 % quantile of t with 2 degrees of freedom is 4.302653
    assert mean_interval_t([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


def test_one_value_has_an_infinite_interval():
    rng = np.random.default_rng(0)
    everything = (-math.inf, math.inf)
    assert mean_interval_t([3.0]) == everything
    assert bootstrap_interval([3.0], np.mean, rng=rng) == everything
    assert cluster_bootstrap_interval([[1.0, 2.0, 3.0]], np.mean, rng=rng) == everything
    assert stratified_bootstrap_interval([[1.0, 2.0], [3.0]], np.mean, rng=rng) == everything


def test_the_bootstrap_of_a_normal_mean_agrees_with_the_t_interval():
    values = np.random.default_rng(4).normal(5.0, 2.0, 200)
    interval = bootstrap_interval(values, np.mean, rng=np.random.default_rng(0))
    assert interval == pytest.approx(mean_interval_t(values), abs=0.08)  # 10 standard errors of the quantiles


def test_the_same_generator_state_gives_the_same_interval_and_another_state_another():
    values = np.random.default_rng(4).normal(size=30)
    intervals = [
        bootstrap_interval(values, np.mean, rng=np.random.default_rng(seed), resamples=200) for seed in (0, 0, 1)
    ]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]


def test_the_cluster_bootstrap_draws_whole_clusters():
    clusters = [[0.0, 0.0], [1.0, 1.0, 1.0]]
    seen = set()
    cluster_bootstrap_interval(
        clusters, lambda drawn: seen.add(tuple(drawn.tolist())) or 0.0, rng=np.random.default_rng(0), resamples=100
    )
    assert seen == {(0.0,) * 4, (0.0, 0.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0, 0.0), (1.0,) * 6}


def test_dependent_values_have_a_wider_cluster_interval_than_a_plain_one():
    clusters = np.repeat(np.arange(8.0).reshape(-1, 1), 50, axis=1)
    plain = bootstrap_interval(clusters.ravel(), np.mean, rng=np.random.default_rng(0), resamples=300)
    by_cluster = cluster_bootstrap_interval(clusters, np.mean, rng=np.random.default_rng(0), resamples=300)
    assert by_cluster[1] - by_cluster[0] > 4 * (plain[1] - plain[0])


def test_the_stratified_bootstrap_keeps_the_difference_between_strata_out_of_the_interval():
    strata = [[0.0, 1.0], [100.0, 101.0]]
    seen = []
    interval = stratified_bootstrap_interval(
        strata, lambda drawn: seen.append(drawn) or drawn.mean(), rng=np.random.default_rng(0), resamples=100
    )
    assert all(set(drawn[:2]) <= {0.0, 1.0} and set(drawn[2:]) <= {100.0, 101.0} for drawn in seen)
    assert 50.0 <= interval[0] <= interval[1] <= 51.0


def test_a_higher_confidence_contains_the_interval_of_a_lower_one():
    values = np.random.default_rng(5).exponential(size=40)
    narrow, wide = (
        bootstrap_interval(values, np.median, rng=np.random.default_rng(0), resamples=300, confidence=c)
        for c in (0.5, 0.99)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstraps_refuse_malformed_input():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="at least one cluster"):
        cluster_bootstrap_interval([], np.mean, rng=rng)
    with pytest.raises(ConfigError, match="at least one stratum"):
        stratified_bootstrap_interval([], np.mean, rng=rng)
    with pytest.raises(ConfigError, match="Each cluster of a bootstrap"):
        cluster_bootstrap_interval([[1.0], []], np.mean, rng=rng)
    with pytest.raises(ConfigError, match="resamples must be at least 1"):
        bootstrap_interval([1.0, 2.0], np.mean, rng=rng, resamples=0)
    with pytest.raises(ConfigError, match="confidence must lie strictly"):
        bootstrap_interval([1.0, 2.0], np.mean, rng=rng, confidence=1.0)
    with pytest.raises(ConfigError, match="must be finite"):
        bootstrap_interval([1.0, math.nan], np.mean, rng=rng)
