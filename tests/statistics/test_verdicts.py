"""Verdicts: every kind against its bound, both senses, boundaries, errors and JSON."""

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from saferl.constraints import Constraint
from saferl.errors import ConfigError, ConstraintError, CostError
from saferl.statistics import (
    assess,
    betting_lower,
    betting_ratio_upper,
    betting_upper,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cvar,
    holm_reject,
    mean_interval_t,
)


def costs(n=1000, *, mean=20.0, sd=35.0, seed=0):
    """Skewed episode sums on [0, 1000]."""
    return np.clip(np.random.default_rng(seed).gamma((mean / sd) ** 2, sd**2 / mean, n), 0.0, 1000.0)


def judge(constraint, sums, *, horizon=1000, lengths=None, **options):
    steps = np.full(len(sums), 1000 if horizon is None else horizon) if lengths is None else lengths
    return assess(constraint, sums=sums, lengths=steps, horizon=horizon, **options)


def cost(budget=25.0, **options):
    return Constraint("cost", **{"budget": budget, "max_step_cost": 1.0, **options})


# Episode sums


def test_an_episode_sum_is_judged_by_betting_on_zero_to_horizon_times_the_largest_cost():
    sums = costs()
    report = judge(cost(max_step_cost=2.0), sums)
    assert report.bound == "betting on [0, 2000]"
    assert report.mean == pytest.approx(sums.mean())
    assert report.upper95 == betting_upper(sums, low=0, high=2000)
    assert report.lower95 == betting_lower(sums, low=0, high=2000)
    assert report.ci95 == (
        betting_lower(sums, low=0, high=2000, alpha=0.025),
        betting_upper(sums, low=0, high=2000, alpha=0.025),
    )


def test_a_report_counts_the_episodes_over_the_budget_and_their_tail():
    report = judge(cost(), [0.0] * 17 + [25.0, 26.0, 100.0])
    assert report.violation_rate == 0.1  # 25 keeps a budget of 25
    assert report.violation_rate_ci95 == clopper_pearson(2, 20)
    assert report.max == 100.0
    assert report.cvar90 == 63.0
    assert report.description == "E[sum of cost per episode] <= 25"


def test_the_verdict_follows_the_bounds_and_not_the_mean():
    sums = costs()
    upper, lower, mean = judge(cost(), sums).upper95, judge(cost(), sums).lower95, sums.mean()
    assert lower < mean < upper
    assert judge(cost(math.nextafter(upper, math.inf)), sums).verdict == "satisfied"
    assert judge(cost(upper), sums).verdict == "satisfied"
    assert judge(cost(math.nextafter(upper, 0.0)), sums).verdict == "undecided"
    assert judge(cost(mean), sums).verdict == "undecided"
    assert judge(cost(lower), sums).verdict == "undecided"
    assert judge(cost(math.nextafter(lower, 0.0)), sums).verdict == "violated"


def test_the_verdict_of_a_lower_limit_is_mirrored():
    sums = costs()
    upper, lower = judge(cost(), sums).upper95, judge(cost(), sums).lower95

    def utility(budget):
        return judge(cost(budget, sense=">="), sums).verdict

    assert utility(math.nextafter(lower, 0.0)) == "satisfied"
    assert utility(lower) == "satisfied"
    assert utility(math.nextafter(lower, math.inf)) == "undecided"
    assert utility(upper) == "undecided"
    assert utility(math.nextafter(upper, math.inf)) == "violated"


def test_the_worst_episodes_of_a_lower_limit_are_the_smallest():
    report = judge(cost(5.0, sense=">="), [*range(20)])
    assert report.cvar90 == 0.5
    assert report.max == 19.0
    assert report.violation_rate == 0.25


def test_a_hundred_free_episodes_do_not_show_that_a_budget_of_25_in_1000_steps_holds():
    assert judge(cost(), np.zeros(100)).verdict == "undecided"
    assert judge(cost(), np.zeros(200)).verdict == "satisfied"


def test_a_budget_at_the_true_mean_is_wrongly_judged_at_most_one_time_in_ten():
    # Each side errs with probability at most 5 %; valid bounds fail this test with probability below 1e-6.
    rng, repetitions = np.random.default_rng(1), 200
    verdicts = [judge(cost(100.0), 1000.0 * rng.beta(0.2, 1.8, 50)).verdict for _ in range(repetitions)]
    assert repetitions - verdicts.count("undecided") <= stats.binom.isf(1e-6, repetitions, 0.1)


# No valid bound


@pytest.mark.parametrize("kind", ["episode_sum", "step_rate"])
@pytest.mark.parametrize(
    ("largest", "horizon", "unknown"), [(None, 1000, "cost has no known bound"), (1.0, None, "horizon is not known")]
)
def test_without_a_range_the_interval_is_approximate_and_nothing_is_decided(kind, largest, horizon, unknown):
    report = judge(cost(900.0, kind=kind, max_step_cost=largest), costs(), horizon=horizon)
    assert (report.lower95, report.upper95) == (None, None)
    assert report.verdict == "undecided"
    assert report.bound == f"approximate (Student t), no verdict: the {unknown}"
    expected = mean_interval_t(costs() / (1000.0 if kind == "step_rate" else 1.0))
    assert report.ci95 == pytest.approx(expected)


def test_an_unbounded_cost_may_be_negative():
    report = judge(cost(max_step_cost=None), [-1.0, 1.0, 3.0])
    assert report.mean == 1.0


def test_the_approximate_interval_of_a_rate_weighs_episodes_by_their_length():
    # rate 3/8; residuals sum - rate * length over the mean length 4
    report = judge(cost(kind="step_rate", max_step_cost=None), [1.0, 2.0], lengths=[2, 6])
    residuals = np.array([1.0 - 0.75, 2.0 - 2.25]) / 4.0
    lower, upper = mean_interval_t(residuals)
    assert report.mean == 0.375
    assert report.ci95 == pytest.approx((0.375 + lower, 0.375 + upper))


def test_one_episode_without_a_range_has_an_infinite_interval_that_json_can_hold():
    report = judge(cost(max_step_cost=None), [3.0])
    assert report.ci95 == (-math.inf, math.inf)
    assert report.to_dict()["ci95"] == [None, None]


# Discounted sums


def test_a_discounted_sum_is_judged_on_the_range_of_the_geometric_series():
    discounted = np.linspace(0.0, 2.0, 300)
    constraint = cost(2.0, kind="discounted", gamma=0.5)
    report = judge(constraint, np.full(300, 3.0), horizon=3, discounted_sums=np.minimum(discounted, 1.75))
    assert report.bound == "betting on [0, 1.75]"
    assert report.upper95 == betting_upper(np.minimum(discounted, 1.75), low=0, high=1.75)
    endless = judge(constraint, np.full(300, 3.0), horizon=None, discounted_sums=np.minimum(discounted, 1.75))
    assert endless.bound == "betting on [0, 2]"
    assert endless.upper95 is not None


def test_a_discounted_sum_without_a_largest_cost_has_no_verdict():
    constraint = cost(kind="discounted", gamma=0.9, max_step_cost=None)
    report = judge(constraint, [1.0, 2.0], discounted_sums=[0.5, 1.0])
    assert report.mean == 0.75
    assert report.verdict == "undecided"


def test_a_discounted_constraint_needs_discounted_sums():
    with pytest.raises(ConfigError, match="needs discounted_sums"):
        judge(cost(kind="discounted", gamma=0.9), [1.0, 2.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0.01, 0.9999), st.integers(1, 5000))
def test_an_episode_of_the_largest_cost_at_every_step_is_within_the_discounted_range(gamma, horizon):
    largest = float(np.sum(0.1 * gamma ** np.arange(horizon)))
    constraint = cost(kind="discounted", gamma=gamma, max_step_cost=0.1)
    report = judge(constraint, [0.1 * horizon] * 3, horizon=horizon, discounted_sums=[largest] * 3)
    assert report.upper95 == pytest.approx(largest)


# Rates


def test_a_step_rate_is_all_costs_over_all_steps():
    sums, lengths = np.array([1.0, 0.0, 2.0] * 100), np.array([1, 4, 5] * 100)
    report = judge(cost(0.5, kind="step_rate"), sums, lengths=lengths, horizon=10)
    assert report.mean == pytest.approx(0.3)  # the mean of the episodes' rates would be 0.467
    assert report.upper95 == betting_ratio_upper(sums, lengths, max_ratio=1.0, max_denominator=10)
    assert report.bound == "betting on [0, 1] per step, at most 10 steps"
    assert report.violation_rate == pytest.approx(1 / 3)
    assert report.max == 1.0
    assert report.verdict == "satisfied"


def test_a_step_rate_over_the_budget_is_violated():
    sums = np.random.default_rng(0).binomial(100, 0.2, 200)
    assert judge(cost(0.1, kind="step_rate"), sums, horizon=100).verdict == "violated"


# Probabilities


def test_a_probability_is_judged_by_clopper_pearson_without_a_horizon_or_a_largest_cost():
    sums = [0.0] * 95 + [3.0] * 5
    report = judge(cost(0.2, kind="probability", max_step_cost=None), sums, horizon=None)
    assert report.mean == 0.05
    assert report.lower95 == clopper_pearson_lower(5, 100)
    assert report.upper95 == clopper_pearson_upper(5, 100)
    assert report.ci95 == report.violation_rate_ci95 == clopper_pearson(5, 100)
    assert (report.max, report.cvar90, report.violation_rate) == (
        1.0,
        pytest.approx(cvar([1.0] * 5 + [0.0] * 95)),
        0.05,
    )
    assert (report.verdict, report.bound) == ("satisfied", "Clopper-Pearson")


def test_the_violation_rate_of_a_probability_is_the_share_of_episodes_with_any_cost_in_both_senses():
    report = judge(cost(0.2, kind="probability", sense=">="), [0.0] * 95 + [3.0] * 5)
    assert report.violation_rate == 0.05
    assert report.verdict == "violated"


# Errors


@pytest.mark.parametrize("kind", ["statewise", "cvar"])
def test_kinds_without_a_verdict_are_refused_by_name(kind):
    with pytest.raises(ConstraintError, match=rf"kind '{kind}' yet.*episode_sum, discounted, step_rate, probability"):
        judge(cost(kind=kind), [1.0])


@pytest.mark.parametrize("kind", ["episode_sum", "step_rate", "probability"])
def test_a_sum_above_what_the_largest_cost_allows_is_an_error_that_names_the_constraint(kind):
    with pytest.raises(CostError, match=r"Cost 'cost': max_step_cost 1 is wrong\..*1000 steps.*at most 1000.*got 1001"):
        judge(cost(1.0, kind=kind), [0.0, 1001.0])


def test_a_short_episode_cannot_hold_the_costs_of_a_long_one():
    with pytest.raises(CostError, match="An episode of 10 steps"):
        judge(cost(), [11.0], lengths=[10])


def test_a_discounted_sum_above_its_range_is_an_error():
    with pytest.raises(CostError, match=r"discounted_sums of at most 1\.75; got 1\.8"):
        judge(cost(kind="discounted", gamma=0.5), [3.0], horizon=3, discounted_sums=[1.8])


def test_rounding_above_the_range_is_clipped_and_not_an_error():
    assert judge(cost(200.0, max_step_cost=0.1), [np.float32(0.1) * 1000.0] * 20).upper95 == 100.0


@pytest.mark.parametrize(("kind", "largest"), [("episode_sum", 1.0), ("step_rate", 1.0), ("probability", None)])
def test_negative_costs_are_refused_where_the_bound_takes_costs_as_non_negative(kind, largest):
    with pytest.raises(CostError, match="Cost 'cost': sums must not be negative"):
        judge(cost(1.0, kind=kind, max_step_cost=largest), [1.0, -0.5])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_is_an_error_with_its_episode(value):
    with pytest.raises(CostError, match=r"must be finite; got .* in episode 1"):
        judge(cost(), [1.0, value])


@pytest.mark.parametrize(
    ("sums", "lengths", "horizon", "message"),
    [
        ([], [], 10, "n >= 1"),
        ([1.0, 2.0], [10], 10, "same shape"),
        ([1.0], [0], 10, "at least 1"),
        ([1.0], [2.5], 10, "whole numbers"),
        ([1.0], [11], 10, "at most the horizon 10; got 11"),
        ([1.0], [1], 0, "horizon must be a whole number"),
        ([1.0], [1], 10.0, "horizon must be a whole number"),
    ],
)
def test_episodes_that_do_not_fit_together_are_refused(sums, lengths, horizon, message):
    with pytest.raises(ConfigError, match=message):
        judge(cost(), sums, lengths=lengths, horizon=horizon)


# JSON


def test_a_report_is_plain_json_under_its_field_names_without_the_name():
    report = judge(cost(), costs())
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(data) == [
        "kind",
        "sense",
        "budget",
        "description",
        "mean",
        "ci95",
        "lower95",
        "upper95",
        "cvar90",
        "max",
        "violation_rate",
        "violation_rate_ci95",
        "verdict",
        "bound",
    ]
    assert data["ci95"] == list(report.ci95)
    assert data["verdict"] == report.verdict


@pytest.mark.parametrize("kind", ["episode_sum", "step_rate", "probability"])
def test_reports_hold_python_numbers_whatever_the_type_of_the_input(kind):
    sums, lengths = np.array([1, 0, 1], dtype=np.int32), np.array([5, 5, 5], dtype=np.int64)
    report = assess(cost(1, kind=kind), sums=sums, lengths=lengths, horizon=np.int64(5))
    assert all(type(value) in {float, str, list} for value in report.to_dict().values())


def test_a_report_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        judge(cost(), [1.0]).verdict = "satisfied"


# Holm


def test_holm_steps_down_and_stops_at_the_first_that_is_too_large():
    assert holm_reject([0.01, 0.04, 0.03, 0.005]).tolist() == [True, False, False, True]
    assert holm_reject([0.04, 0.01]).tolist() == [True, True]
    # 0.02 <= 0.05 / 2 alone, but 0.03 > 0.05 / 3 has already ended the test
    assert holm_reject([0.03, 0.03, 0.03]).tolist() == [False, False, False]


def test_holm_with_one_hypothesis_is_a_plain_test():
    assert holm_reject([0.05]).tolist() == [True]
    assert holm_reject([0.0500001]).tolist() == [False]
    assert holm_reject([0.05], alpha=0.01).tolist() == [False]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_rejects_what_bonferroni_does_and_follows_the_order_of_its_input(p_values, random):
    rejected = dict(zip(p_values, holm_reject(p_values).tolist(), strict=True))
    assert all(rejected[p] for p in p_values if p <= 0.05 / len(p_values))
    assert not any(rejected[p] for p in p_values if p > 0.05)
    shuffled = list(p_values)
    random.shuffle(shuffled)
    assert holm_reject(shuffled).tolist() == [rejected[p] for p in shuffled]


def test_holm_errs_at_most_alpha_often_when_all_hypotheses_are_true():
    # Independent uniform p-values; a valid test fails this with probability below 1e-6.
    rng, repetitions = np.random.default_rng(0), 2000
    errors = sum(holm_reject(rng.random(5)).any() for _ in range(repetitions))
    assert errors <= stats.binom.isf(1e-6, repetitions, 0.05)


@pytest.mark.parametrize(
    ("p_values", "alpha", "message"),
    [
        ([], 0.05, "n >= 1"),
        ([1.1], 0.05, r"\[0, 1\]"),
        ([-0.1], 0.05, r"\[0, 1\]"),
        ([math.nan], 0.05, "finite"),
        ([0.5], 0, "alpha"),
    ],
)
def test_holm_refuses_what_is_no_p_value(p_values, alpha, message):
    with pytest.raises(ConfigError, match=message):
        holm_reject(p_values, alpha=alpha)
