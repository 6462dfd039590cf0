"""The projection against CLARABEL, and the properties that every projection has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saferl.shields.qp import nearest_one_row, project

LOW, HIGH = -np.ones(2), np.ones(2)


def random_problems(count, rows=3):
    """Problems of the oracle: A normal, b in U(-1, 0.3), proposals around the box."""
    generator = np.random.default_rng(10)
    for _ in range(count):
        yield generator.normal(size=(rows, 2)), generator.uniform(-1.0, 0.3, rows), generator.uniform(-1.5, 1.5, 2)


def against_clarabel(count):
    """Largest difference of the solutions and of the least violations, and the number of infeasible problems."""
    import cvxpy as cp

    a, b, u0 = cp.Parameter((3, 2)), cp.Parameter(3), cp.Parameter(2)
    u, t = cp.Variable(2), cp.Variable(nonneg=True)
    exact = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    program = cp.Problem(cp.Minimize(cp.sum_squares(u - u0)), [a @ u >= b, cp.abs(u) <= 1])
    least = cp.Problem(cp.Minimize(t), [a @ u + t >= b, cp.abs(u) <= 1])
    worst, worst_slack, infeasible = 0.0, 0.0, 0
    for rows, bounds, start in random_problems(count):
        a.value, b.value, u0.value = rows, bounds, start
        program.solve(solver="CLARABEL", **exact)
        found = project(start, rows, bounds, LOW, HIGH)
        is_feasible = found.status in ("pass", "solved")
        assert is_feasible == (program.status in ("optimal", "optimal_inaccurate")), (rows, bounds, start)
        if is_feasible:
            worst = max(worst, float(np.abs(found.action - u.value).max()))
            continue
        infeasible += 1
        lengths = np.linalg.norm(rows, axis=1)
        a.value, b.value = rows / lengths[:, None], bounds / lengths
        least.solve(solver="CLARABEL", **exact)
        missing = float(((bounds - rows @ found.action) / lengths).max())
        worst_slack = max(worst_slack, abs(missing - least.value))
    return worst, worst_slack, infeasible


def test_solutions_and_infeasible_problems_are_those_of_clarabel():
    worst, worst_slack, infeasible = against_clarabel(300)
    assert worst < 1e-6
    assert worst_slack < 1e-6
    assert infeasible > 5


@pytest.mark.slow
def test_ten_thousand_solutions_and_infeasible_problems_are_those_of_clarabel():
    worst, worst_slack, infeasible = against_clarabel(10_000)
    assert worst < 1e-6
    assert worst_slack < 1e-6
    assert infeasible > 300


def test_projections_are_idempotent_inside_the_box_and_satisfy_their_rows_without_any_tolerance():
    for rows, bounds, start in random_problems(500, rows=4):
        found = project(start, rows, bounds, LOW, HIGH)
        assert (found.action >= LOW).all()
        assert (found.action <= HIGH).all()
        if found.status in ("pass", "solved"):
            assert (rows @ found.action >= bounds).all()
            assert found.shortfall == 0.0
            again = project(found.action, rows, bounds, LOW, HIGH)
            assert (again.status, again.action.tolist()) == ("pass", found.action.tolist())
        else:
            assert found.shortfall == (bounds - rows @ found.action).max() > 0.0


def test_projections_do_not_move_two_points_apart():
    generator = np.random.default_rng(2)
    for rows, bounds, start in random_problems(500, rows=4):
        other = start + 0.3 * generator.normal(size=2)
        one, two = (project(point, rows, bounds, LOW, HIGH) for point in (start, other))
        if one.status in ("pass", "solved"):
            assert np.linalg.norm(one.action - two.action) <= np.linalg.norm(start - other) + 1e-8


def test_a_proposal_that_satisfies_everything_is_given_back_as_it_came():
    start = np.array([0.123456789, -0.5])
    assert project(start, np.array([[1.0, 0.0]]), np.array([0.1]), LOW, HIGH).action.tolist() == start.tolist()


@settings(max_examples=200)
@given(
    arrays(np.float64, 3, elements=st.floats(-3, 3)),
    arrays(np.float64, 3, elements=st.floats(-1, 1).map(lambda x: 0.0 if abs(x) < 1e-3 else x)),
    st.floats(-2, 2),
)
def test_the_closed_form_of_one_row_is_the_solution_of_the_program(start, row, bound):
    low, high = np.array([-1.0, -0.5, 0.2]), np.array([1.0, 2.0, 0.2])
    reach = float(np.where(row > 0, high, low) @ row)
    found = nearest_one_row(start, row, bound, low, high)
    if bound > reach + 1e-9:
        assert found is None
    elif bound < reach - 1e-9:
        assert row @ found >= bound - 1e-9
        # Optimal: the change is a multiple of the row, but for the components at their bounds.
        free = (found > low + 1e-12) & (found < high - 1e-12) & (row != 0.0)
        step = (found - start)[free] / row[free]
        assert np.ptp(step) < 1e-6 if free.any() else True
        assert (step >= -1e-9).all()


def test_distances_are_measured_in_the_units_of_each_component():
    rows, bounds = np.array([[1.0, 1.0]]), np.array([1.0])
    found = project(np.zeros(2), rows, bounds, -9 * np.ones(2), 9 * np.ones(2), scale=np.array([1.0, 3.0]))
    np.testing.assert_allclose(found.action, [0.1, 0.9], atol=1e-8)


def test_a_row_that_no_action_moves_is_ignored_where_it_holds_and_infeasible_where_not():
    rows = np.array([[0.0, 0.0], [1.0, 0.0]])
    held = project(np.zeros(2), rows, np.array([-0.1, 0.5]), LOW, HIGH)
    assert (held.status, held.action[0]) == ("solved", pytest.approx(0.5))
    missed = project(np.zeros(2), rows, np.array([0.1, 0.5]), LOW, HIGH)
    assert (missed.status, missed.shortfall) == ("relaxed", pytest.approx(0.1))
    assert missed.action[0] == pytest.approx(0.5)


def test_rows_of_very_different_size_do_not_disturb_each_other():
    rows, bounds = np.array([[1e6, 0.0], [0.0, 1e-6]]), np.array([5e5, 3e-7])
    found = project(np.zeros(2), rows, bounds, LOW, HIGH)
    np.testing.assert_allclose(found.action, [0.5, 0.3], atol=1e-8)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e200])
def test_a_proposal_far_outside_ends_at_the_vertex_that_it_points_to(far):
    rows, bounds = np.array([[-1.0, -1.0], [1.0, -1.0]]), np.array([-1.0, -0.5])
    found = project(np.array([far, -far]), rows, bounds, LOW, HIGH)
    np.testing.assert_allclose(found.action, [1.0, -1.0], atol=1e-8)
    found = project(np.array([far, far]), rows, bounds, LOW, HIGH)
    np.testing.assert_allclose(found.action, [0.5, 0.5], atol=1e-6)


def test_priorities_decide_which_of_two_rows_is_missed():
    rows, bounds = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([0.5, 0.5, 0.2])
    for priorities, expected in (([0, 1, 1], 0.5), ([1, 0, 1], -0.5), ([0, 0, 1], 0.0)):
        found = project(np.zeros(2), rows, bounds, LOW, HIGH, priorities=np.array(priorities))
        assert found.status == "relaxed"
        # The last row is kept too: it contradicts nothing, and comes after what it cannot help.
        assert found.action[0] == pytest.approx(expected, abs=1e-7)
