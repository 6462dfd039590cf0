import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl import Constraint, ConstraintSet
from saferl.errors import TrainingError
from saferl.solvers.dual import DualVariable, constraint_gaps, projected_gradient

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
