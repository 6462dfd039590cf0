import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, TrainingError
from saferl.solvers.dual import (
    AdamDual,
    DualConfig,
    DualVariable,
    OptimisticDual,
    constraint_gaps,
    make_dual,
    projected_gradient,
)

finite = st.floats(-1e6, 1e6)


def test_the_step_is_lambda_plus_rate_times_gap():
    moved = projected_gradient(np.array([1.0, 2.0]), np.array([3.0, -0.5]), learning_rate=0.1)
    np.testing.assert_allclose(moved, [1.3, 1.95])


@given(st.lists(finite, min_size=1, max_size=4), st.floats(0, 10))
def test_multipliers_stay_between_zero_and_their_maximum(gaps, maximum):
    dual = DualVariable(len(gaps), learning_rate=0.5, maximum=maximum)
    values = dual.update(np.array(gaps))
    assert np.all((values >= 0) & (values <= maximum))


@pytest.mark.parametrize("gap", [np.nan, np.inf])
def test_a_gap_that_is_not_finite_is_an_error_and_changes_nothing(gap):
    dual = DualVariable(1, learning_rate=0.1, initial=2.0)
    with pytest.raises(TrainingError, match="finite"):
        dual.update(np.array([gap]))
    assert dual.values == pytest.approx([2.0])


def test_a_proportional_term_acts_at_once_and_leaves_no_trace():
    dual = DualVariable(1, learning_rate=0.1, proportional=2.0)
    assert dual.update(np.array([1.0])) == pytest.approx([2.1])
    assert dual.update(np.array([0.0])) == pytest.approx([0.1])
    assert dual.update(np.array([-1.0])) == pytest.approx([0.0])


def test_a_proportional_term_damps_the_swing_of_a_lagging_primal():
    """The primal follows its best response slowly, so plain ascent overshoots lambda* = 2 again and again."""

    def tail_swing(proportional):
        dual, x, seen = DualVariable(1, learning_rate=0.3, proportional=proportional), 0.0, []
        for _ in range(300):
            x += 0.1 * ((2.0 - dual.values[0] / 2.0) - x)
            dual.update(np.array([x - 1.0]))
            seen.append(dual.values[0])
        return np.ptp(seen[20:80]), seen[-1]

    plain, _ = tail_swing(0.0)
    damped, last = tail_swing(3.0)
    assert damped < 0.4 * plain
    assert last == pytest.approx(2.0, abs=1e-3)


def test_gaps_are_positive_where_a_constraint_is_violated():
    constraints = ConstraintSet([Constraint("cost", 10.0), Constraint("speed", 3.0, sense=">=")])
    np.testing.assert_allclose(constraint_gaps(np.array([12.0, 1.0]), constraints), [2.0, 2.0])


def test_descent_ascent_on_a_strongly_concave_problem_finds_the_known_multiplier():
    """max_x -(x - 2)^2 subject to x <= 1: x* = 1, lambda* = 2 (from -2 (x - 2) = lambda)."""
    dual = DualVariable(1, learning_rate=0.2)
    for _ in range(200):
        x = 2.0 - dual.values[0] / 2.0
        dual.update(np.array([x - 1.0]))
    assert dual.values[0] == pytest.approx(2.0, abs=1e-6)


def test_without_gains_the_controller_is_plain_ascent_step_by_step():
    rng = np.random.default_rng(0)
    dual, expected = DualVariable(2, learning_rate=0.3, smoothing=0.9, delay=3), np.zeros(2)
    for _ in range(50):
        gaps = rng.normal(size=2)
        expected = projected_gradient(expected, gaps, learning_rate=0.3)
        np.testing.assert_array_equal(dual.update(gaps), expected)


def test_the_derivative_counts_rises_of_the_smoothed_cost_over_the_delay_and_never_falls():
    dual = DualVariable(1, learning_rate=0.0, derivative=10.0, smoothing=0.5, delay=2)
    # Smoothed gaps: 1, 2, 3, 1.5; compared with the one two updates ago, or the oldest there is.
    assert [float(dual.update(np.array([gap]))[0]) for gap in (1.0, 3.0, 4.0, 0.0)] == pytest.approx([0, 10, 20, 0])


def test_the_integral_never_becomes_negative():
    dual = DualVariable(1, learning_rate=1.0, proportional=0.5)
    dual.update(np.array([-10.0]))
    assert dual.integral == pytest.approx([0.0])
    assert dual.update(np.array([1.0])) == pytest.approx([1.5])


def test_an_optimistic_step_looks_twice_at_the_gap_and_back_once():
    dual = OptimisticDual(1, learning_rate=0.1)
    assert [float(dual.update(np.array([gap]))[0]) for gap in (1.0, 2.0, 0.0)] == pytest.approx([0.1, 0.4, 0.2])


def test_optimism_settles_a_bilinear_game_that_plain_ascent_leaves():
    """max over x, min over lambda >= 0 of (1 - lambda) x + lambda / 2 from x = 0: x* = 1/2, lambda* = 1."""

    def end(dual, is_optimistic):
        x, last = 0.0, 1.0 - dual.values[0]
        for _ in range(2000):
            slope = 1.0 - dual.values[0]
            dual.update(np.array([x - 0.5]))
            x += 0.1 * (2.0 * slope - last if is_optimistic else slope)
            last = slope
        return abs(x - 0.5) + abs(dual.values[0] - 1.0)

    assert end(OptimisticDual(1, learning_rate=0.1), True) < 1e-3
    assert end(DualVariable(1, learning_rate=0.1), False) > 0.5


def test_adam_moves_by_its_step_size_whatever_the_unit_of_the_cost():
    for scale in (1e-3, 1.0, 1e4):
        dual = AdamDual(1, learning_rate=0.1, is_softplus=False)
        assert dual.update(np.array([scale])) == pytest.approx([0.1], rel=1e-3)
        assert dual.update(np.array([scale])) == pytest.approx([0.2], rel=1e-3)


def test_adam_agrees_with_that_of_torch():
    import torch as th

    gaps = np.random.default_rng(1).normal(size=30)
    for is_softplus in (False, True):
        dual = AdamDual(1, learning_rate=0.05, is_softplus=is_softplus, initial=2.0)
        start = np.log(np.expm1(2.0)) if is_softplus else 2.0
        z = th.tensor([start], dtype=th.float64, requires_grad=True)
        optimiser = th.optim.Adam([z], lr=0.05)
        for gap in gaps:
            optimiser.zero_grad()
            multiplier = th.nn.functional.softplus(z) if is_softplus else z
            (-multiplier * gap).sum().backward()
            optimiser.step()
            dual.update(np.array([gap]))
        expected = th.nn.functional.softplus(z) if is_softplus else z
        assert dual.values[0] == pytest.approx(float(expected.detach()), abs=1e-9)


VARIANTS = [
    DualConfig(),
    DualConfig(multiplier_kp=0.1, multiplier_kd=0.2, multiplier_smoothing=0.5, multiplier_delay=3),
    DualConfig(dual="adam"),
    DualConfig(dual="softplus", multiplier_init=1.0),
    DualConfig(dual="optimistic"),
]


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: f"{config.dual}-{config.multiplier_kd}")
def test_every_variant_goes_on_exactly_from_its_state_and_stays_in_range(config):
    rng = np.random.default_rng(0)
    dual = make_dual(config, 2)
    for _ in range(7):
        dual.update(rng.normal(size=2) * 50)
    other = make_dual(config, 2)
    other.set_state(dual.get_state())
    for _ in range(20):
        gaps = rng.normal(size=2) * 50
        np.testing.assert_array_equal(other.update(gaps), dual.update(gaps))
        assert np.all((dual.values >= 0) & (dual.values <= config.multiplier_max))
    with pytest.raises(TrainingError, match="finite"):
        dual.update(np.array([np.nan, 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dual": "adam", "multiplier_kp": 0.1}, "multiplier_kp is a gain .* belongs to dual='projected'"),
        ({"dual": "optimistic", "multiplier_kd": 0.1}, "multiplier_kd is a gain"),
        ({"dual": "softplus"}, "needs multiplier_init > 0"),
        ({"multiplier_smoothing": 1.0}, "must be below 1"),
        ({"multiplier_lr": -1.0}, "multiplier_lr must be at least 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DualConfig(**options)
