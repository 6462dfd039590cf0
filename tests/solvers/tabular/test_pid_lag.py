import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.envs.tabular.instances import paradox_a, paradox_b, two_constraints
from saferl.errors import ConfigError
from saferl.solvers.tabular import npg_pd, pid_lag
from saferl.solvers.tabular.metrics import oscillation, violations
from saferl.solvers.tabular.pid_lag import PIDController, PIDLagConfig

gaps = st.lists(st.floats(-1, 1), min_size=1, max_size=30)
gains = st.floats(0, 10)


@pytest.mark.parametrize("make", [paradox_a, two_constraints])
def test_the_integral_alone_is_plain_descent_ascent_step_by_step(make):
    plain = npg_pd.solve(make(), iterations=500)
    integral = pid_lag.solve(make(), iterations=500, proportional=0.0, derivative=0.0)
    np.testing.assert_array_equal(plain.trajectory.values, integral.trajectory.values)
    np.testing.assert_array_equal(plain.trajectory.multipliers, integral.trajectory.multipliers)


@given(gaps, gains, gains, gains, st.floats(0, 1), st.floats(0, 1), st.integers(1, 5))
def test_integral_and_multipliers_stay_between_zero_and_the_bound(values, ki, kp, kd, a_p, a_d, delay):
    config = PIDLagConfig(
        multiplier_step=ki + 0.01,
        proportional=kp,
        derivative=kd,
        proportional_smoothing=a_p,
        derivative_smoothing=a_d,
        derivative_delay=delay,
        multiplier_max=3.0,
    )
    controller = PIDController(config, 1)
    for gap in values:
        multipliers = controller.update(np.array([gap + 0.5]), np.array([gap]))
        assert 0.0 <= controller.integral[0] <= 3.0
        assert 0.0 <= multipliers[0] <= 3.0


def test_three_updates_by_hand():
    config = PIDLagConfig(
        multiplier_step=0.5,
        proportional=2.0,
        derivative=4.0,
        proportional_smoothing=0.5,
        derivative_smoothing=0.5,
        derivative_delay=2,
    )
    controller = PIDController(config, 1)
    # Limit 0.4. Smoothed gaps 0.1, 0.15, -0.125; smoothed costs 0.3, 0.45, 0.225; costs two updates ago 0, 0, 0.3.
    for cost, expected in ((0.6, 2 * 0.1 + 0.1 + 4 * 0.3), (0.6, 2 * 0.15 + 0.2 + 4 * 0.45), (0.0, 0.0)):
        multipliers = controller.update(np.array([cost]), np.array([cost - 0.4]))
        np.testing.assert_allclose(multipliers, [expected], atol=1e-12)
    np.testing.assert_allclose(controller.integral, [0.0], atol=1e-12)


def test_the_derivative_ignores_falling_costs():
    controller = PIDController(PIDLagConfig(proportional=2.0, derivative=5.0, multiplier_step=1e-9), 1)
    rise = controller.update(np.array([0.8]), np.array([0.5]))
    fall = controller.update(np.array([0.2]), np.array([0.5]))
    np.testing.assert_allclose([rise[0], fall[0]], [5.0, 1.0], atol=1e-8)


def test_normalising_by_the_difference_keeps_multipliers_in_the_unit_interval():
    solution = pid_lag.solve(paradox_a(), normalisation="difference", multiplier_step=3.0, proportional=9.0)
    assert solution.trajectory.multipliers.min() >= 0.0
    assert solution.trajectory.multipliers.max() <= 1.0


@pytest.mark.parametrize(("normalisation", "expected"), [("none", 1.0), ("sum", 1.0), ("difference", 0.5)])
def test_every_normalisation_has_the_same_saddle_point(normalisation, expected):
    """The gradient vanishes at lambda* = 1 without normalisation, which is lambda / (1 - lambda) for the difference."""
    gains = {"multiplier_step": 0.3, "proportional": 1.5} if normalisation == "difference" else {}
    solution = pid_lag.solve(paradox_a(), normalisation=normalisation, **gains)
    assert solution.value == pytest.approx(0.5, abs=1e-6)
    assert solution.multipliers == pytest.approx([expected], abs=1e-5)


def test_the_difference_of_two_constraints_is_refused():
    with pytest.raises(ConfigError, match=r"is for one constraint; .* has 2"):
        pid_lag.solve(two_constraints(), normalisation="difference")


@pytest.mark.parametrize("make", [paradox_a, paradox_b])
def test_the_proportional_term_damps_what_the_integral_alone_does_not(make):
    damped, plain = pid_lag.solve(make()), pid_lag.solve(make(), proportional=0.0)
    assert oscillation(damped) < 1e-9 < 0.2 < oscillation(plain)
    assert violations(damped)[-1] < 1e-9
