"""Invariant sets against closed forms, linear programs and disturbances at the vertices."""

import numpy as np
import pytest
from scipy.optimize import linprog

from saferl.errors import ConfigError
from saferl.shields.sets import (
    disturbance_vertices,
    invariant_ellipsoid,
    limit_tightening,
    lqr_gain,
    mrpi_box,
    prediction_matrices,
    spectral_radius,
    terminal_set,
    tightenings,
)
from tests.shields.linear_models import cart_pole, double_integrator


def closed_loop(model, weight=1.0):
    a, b = np.array(model.a, dtype=float), np.array(model.b, dtype=float)
    gain = lqr_gain(a, b, np.eye(len(a)), weight * np.eye(b.shape[1]))
    return a + b @ gain, gain, np.array(model.w_max)


def test_a_scalar_system_has_its_geometric_series():
    """x+ = a x + w: t_i = w (1 - a^i) / (1 - a)."""
    a = np.array([[-0.5]])
    assert tightenings(a, np.eye(1), np.array([0.3]), 3).ravel() == pytest.approx([0.0, 0.3, 0.45, 0.525])
    assert mrpi_box(a, np.array([0.3])) == pytest.approx([0.6])


def test_tightenings_grow_to_their_limit():
    closed, gain, w_max = closed_loop(cart_pole())
    rows = np.vstack([np.eye(4), gain])
    tubes = tightenings(closed, rows, w_max, 600)
    assert np.all(np.diff(tubes, axis=0) >= 0.0)
    assert tubes[-1] == pytest.approx(limit_tightening(closed, rows, w_max), abs=1e-9)


def test_lqr_gains_solve_the_riccati_equation():
    """Scalar: p = 1 + p - p^2 / (1 + p), so p is the golden ratio and K = -p / (1 + p)."""
    golden = (1.0 + np.sqrt(5.0)) / 2.0
    assert lqr_gain(np.eye(1), np.eye(1), np.eye(1), np.eye(1)) == pytest.approx(-golden / (1.0 + golden))
    with pytest.raises(ConfigError, match="stabilisable"):
        lqr_gain(2.0 * np.eye(1), np.zeros((1, 1)), np.eye(1), np.eye(1))


def test_plans_are_what_steps_make_of_them():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(3, 3)), generator.normal(size=(3, 2))
    free, forced = prediction_matrices(a, b, 4)
    state = start = generator.normal(size=3)
    inputs = generator.normal(size=(4, 2))
    for step in range(5):
        assert free[step] @ start + forced[step] @ inputs.ravel() == pytest.approx(state)
        if step < 4:
            state = a @ state + b @ inputs[step]


def test_vertices_leave_out_what_does_not_move():
    assert disturbance_vertices(np.array([1.0, 0.0])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert len(disturbance_vertices(np.ones(4))) == 16


def test_an_unstable_loop_has_no_tube():
    with pytest.raises(ConfigError, match=r"spectral radius of 1\.1000"):
        mrpi_box(np.array([[1.1]]), np.array([0.1]))


@pytest.mark.parametrize("model", [double_integrator(), cart_pole()])
def test_the_terminal_set_keeps_its_three_conditions(model):
    """Inside the tightened limits and actions, and invariant under what a plan of N steps has to absorb; by LPs."""
    steps = 20
    closed, gain, w_max = closed_loop(model)
    rows = np.vstack([model.rows, gain, -gain])
    limits = np.concatenate([model.limits, np.full(2, 10.0)])
    g_rows, g_limits = terminal_set(closed, rows, limits, w_max, steps)

    def support(direction):
        result = linprog(-direction, A_ub=g_rows, b_ub=g_limits, bounds=(None, None))
        assert result.status == 0
        return -result.fun

    tube = tightenings(closed, rows, w_max, steps)[steps]
    for row, limit, t in zip(rows, limits, tube, strict=True):
        assert support(row) <= limit - t + 1e-9
    carried = np.abs(g_rows @ np.linalg.matrix_power(closed, steps)) @ w_max
    for row, limit, push in zip(g_rows, g_limits, carried, strict=True):
        assert support(row @ closed) + push <= limit + 1e-8


def test_the_terminal_set_has_no_row_to_spare():
    closed, gain, w_max = closed_loop(double_integrator())
    rows, limits = np.vstack([np.eye(2), -np.eye(2), gain, -gain]), np.array([1.0, 2.0, 1.0, 2.0, 1.0, 1.0])
    g_rows, g_limits = terminal_set(closed, rows, limits, w_max, 20)
    for index in range(len(g_rows)):
        rest = np.arange(len(g_rows)) != index
        result = linprog(-g_rows[index], A_ub=g_rows[rest], b_ub=g_limits[rest], bounds=(None, None))
        assert result.status == 3 or -result.fun > g_limits[index] + 1e-9


def test_an_empty_or_unbounded_terminal_set_is_refused():
    closed, _, w_max = closed_loop(double_integrator())
    with pytest.raises(ConfigError, match="limits above the tube; row 0"):
        terminal_set(closed, np.eye(2), np.array([1e-3, 1.0]), w_max, 20)
    with pytest.raises(ConfigError, match="must be bounded"):
        terminal_set(np.diag([0.5, 0.9]), np.array([[1.0, 1.0]]), np.array([1.0]), np.full(2, 1e-3), 5, most=30)


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_nothing_leaves_the_ellipsoid_and_it_holds_the_smallest_box(weight):
    closed, _, w_max = closed_loop(cart_pole(), weight)
    ellipsoid = invariant_ellipsoid(closed, w_max)
    box = mrpi_box(closed, w_max)
    assert spectral_radius(closed) ** 2 < ellipsoid.tau < 1.0
    assert np.all(ellipsoid.box >= box)
    vertices, generator = disturbance_vertices(w_max), np.random.default_rng(0)
    start = generator.normal(size=(1_000, 4))
    outside = start / np.sqrt(ellipsoid.level(start))[:, None]
    inside = np.zeros((1_000, 4))
    for _ in range(200):
        push = vertices[generator.integers(len(vertices), size=1_000)]
        outside, inside = outside @ closed.T + push, inside @ closed.T + push
        assert float(ellipsoid.level(outside).max()) <= 1.0 + 1e-6
        assert np.all(np.abs(inside) <= box + 1e-9)
