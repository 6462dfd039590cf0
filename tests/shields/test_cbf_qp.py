"""The CBF filter against exact answers: closed forms, CLARABEL, braking, and plants that adversaries push."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, ShieldContext, load_shield, save_shield
from saferl.shields.barriers import (
    BrakingBarrier,
    FunctionBarrier,
    FunctionDynamics,
    LinearDynamics,
    QuadraticBarrier,
    affine,
    distance,
    ellipsoid,
)
from saferl.shields.cbf_qp import CBFQPShield, Condition, SampledData
from saferl.testing import ShieldPlant, check_shield

UNIT = ActionSpec.box([-1.0], [1.0])
SQUARE = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
INTEGRATOR = LinearDynamics(np.zeros((2, 2)), np.eye(2))
DOUBLE = LinearDynamics(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]]))
DT = 0.1
DOUBLE_STEP = LinearDynamics(np.array([[1.0, DT], [0.0, 1.0]]), np.array([[DT * DT / 2.0], [DT]]))


def unicycle(x):
    """The model of a unicycle (x, y, heading) that is driven by speed and turn rate."""
    return np.zeros(3), np.array([[np.cos(x[2]), 0.0], [np.sin(x[2]), 0.0], [0.0, 1.0]])


def look_ahead(x):
    """Keeps the point 0.2 ahead of a unicycle right of -1."""
    return x[0] + 0.2 * np.cos(x[2]) + 1.0, np.array([1.0, 0.0, -0.2 * np.sin(x[2])])


def brake(x):
    """Full braking of a double integrator."""
    return [-np.sign(x[1])]


def first_two(obs):
    """The state inside a longer observation."""
    return obs[:2]


def pushing(generator, steps=20_000):
    """The persistent pushing of the oracles: U(-1, 1) + 0.8 sign, whose sign flips every 400 steps."""
    signs = np.where(np.arange(steps) // 400 % 2 == 0, 1.0, -1.0)
    return generator.uniform(-1.0, 1.0, steps) + 0.8 * signs


def drive(shield, steps):
    """Violating steps, infeasible decisions, interventions and largest |x| of a pushed double integrator."""
    x, counts = np.zeros(2), {"violations": 0, "infeasible": 0, "interventions": 0, "largest": 0.0}
    for push in pushing(np.random.default_rng(0), steps):
        decision = shield.filter(x, [push])
        x = DOUBLE_STEP.state @ x + DOUBLE_STEP.action @ decision.action
        counts["violations"] += abs(x[0]) > 1.0 + 1e-9
        counts["infeasible"] += decision.kind == "infeasible"
        counts["interventions"] += decision.intervened
        counts["largest"] = max(counts["largest"], abs(float(x[0])))
    return counts


def chained(gain):
    sides = [Condition(affine([sign, 0.0], 1.0), gains=(gain, gain)) for sign in (1.0, -1.0)]
    return CBFQPShield(UNIT, DOUBLE, sides)


def braking(reaction=DT):
    sides = [Condition(BrakingBarrier(0, 1, 1.0, 1.0, sign, reaction)) for sign in (1, -1)]
    return CBFQPShield(UNIT, DOUBLE_STEP, sides, time="discrete")


# -- exact answers ----------------------------------------------------------------------------------------------------


def test_one_condition_is_the_closed_form_of_the_literature():
    barrier = ellipsoid([0.0, 0.0], [1.0, 2.0])
    wide = ActionSpec.box([-9.0, -9.0], [9.0, 9.0])
    shield = CBFQPShield(wide, INTEGRATOR, [Condition(barrier, gains=[0.7])])
    x, u0 = np.array([0.6, 0.9]), np.array([1.5, 0.5])
    (h,), a = barrier.stages(x)
    b = -0.7 * h
    decision = shield.filter(x, u0)
    np.testing.assert_allclose(decision.action, u0 + a * (b - a @ u0) / (a @ a), atol=2e-9)
    assert (decision.kind, decision.margin) == ("projected", pytest.approx(h))
    assert shield.filter(x, [-1.0, 0.0]).action.tolist() == [-1.0, 0.0]


def test_the_chain_of_a_double_integrator_is_the_known_second_order_condition():
    shield = chained(0.8)
    x = np.array([0.7, 0.1])
    rows, bounds = shield.half_spaces(x)
    # h = 1 - x: -u - 2 a v + a^2 (1 - x) >= 0 and h = 1 + x: u + 2 a v + a^2 (1 + x) >= 0
    np.testing.assert_allclose(rows.ravel(), [1.0, -1.0], atol=1e-15)
    np.testing.assert_allclose(bounds, [-1.6 * 0.1 - 0.64 * 1.7, 1.6 * 0.1 - 0.64 * 0.3], atol=1e-14)
    assert shield.filter(x, [0.0]).margin == pytest.approx(-0.1 + 0.8 * 0.3)  # psi_1 of the nearer limit


@pytest.mark.parametrize(("gain", "is_clean"), [(1.0, True), (3.0, False), (8.0, False)])
def test_a_chain_of_gains_that_asks_for_more_than_the_brakes_give_says_that_it_is_infeasible(gain, is_clean):
    counts = drive(chained(gain), 4_000)
    assert (counts["violations"] == 0, counts["infeasible"] == 0) == (is_clean, is_clean)


@pytest.mark.slow
def test_twenty_thousand_pushed_steps_end_as_in_the_oracles():
    found = {gain: drive(chained(gain), 20_000) for gain in (1.0, 3.0, 8.0)}
    assert (found[1.0]["violations"], found[1.0]["infeasible"]) == (0, 0)
    for gain, violations, infeasible in ((3.0, 1302, 567), (8.0, 2320, 2159)):  # a prototype with other random numbers
        assert found[gain]["violations"] == pytest.approx(violations, rel=0.1)
        assert found[gain]["infeasible"] == pytest.approx(infeasible, rel=0.1)
    brake = drive(braking(), 20_000)
    assert (brake["violations"], brake["infeasible"]) == (0, 0)
    assert brake["largest"] > 0.999


@pytest.mark.parametrize(("gain", "is_valid"), [(0.7, True), (0.72, False)])
def test_the_grid_finds_that_a_chain_is_valid_up_to_the_gain_that_the_brakes_allow(gain, is_valid):
    # At psi_1 = 0 the limit x >= -1 asks for u >= gain^2 (1 + x), which is at most 1 for gain <= sqrt(1 / 2).
    shield = chained(gain)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1.6, 1.6, 161)), -1).reshape(-1, 2)
    found = shield.validate(grid)
    assert found.is_valid == is_valid
    assert found.infeasible <= found.certified <= found.points == len(grid)
    if not is_valid:
        again = shield.filter(np.array(found.worst_state), [0.0])
        assert (again.kind, again.slack) == ("infeasible", pytest.approx(found.worst_slack))


def test_the_braking_barrier_reaches_the_boundary_and_never_crosses_it():
    counts = drive(braking(), 4_000)
    assert counts["violations"] == 0
    assert counts["infeasible"] == 0
    assert counts["largest"] > 0.999
    assert counts["interventions"] > 2_000


def test_the_grid_finds_that_an_euler_model_brakes_only_with_a_step_of_reaction():
    # With x+ = x + v dt, v+ = v + u dt, full braking loses dt^2 / 2 of the barrier per step, and wins dt * reaction.
    euler = LinearDynamics(np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.0], [DT]]))
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-2, 2, 21)), -1).reshape(-1, 2)
    for reaction, is_valid in ((0.0, False), (DT, True)):
        shield = CBFQPShield(UNIT, euler, braking(reaction).conditions, time="discrete")
        assert shield.validate(grid).is_valid == is_valid
    assert braking(0.0).validate(grid).is_valid  # the exact model keeps the barrier


# -- discrete time, curved barriers -----------------------------------------------------------------------------------


def test_a_curved_barrier_in_discrete_time_gives_the_solution_of_the_quadratically_constrained_program():
    cp = pytest.importorskip("cvxpy")
    generator = np.random.default_rng(3)
    barrier = ellipsoid([0.1, -0.2], [1.0, 0.6])
    model = LinearDynamics(np.array([[1.0, 0.1], [-0.05, 0.98]]), np.array([[0.3, 0.1], [-0.05, 0.25]]))
    shield = CBFQPShield(SQUARE, model, [Condition(barrier, gains=[0.3])], time="discrete")
    projected = 0
    for _ in range(25):
        x = np.array([0.1, -0.2]) + generator.uniform(-0.4, 0.4, 2)
        u0 = generator.uniform(-1.5, 1.5, 2)
        decision = shield.filter(x, u0)
        u = cp.Variable(2)
        after = model.state @ x + model.action @ u
        (h,), _ = barrier.stages(x)
        reached = cp.quad_form(after, barrier.matrix) + barrier.linear @ after + barrier.offset
        cp.Problem(cp.Minimize(cp.sum_squares(u - u0)), [reached >= 0.7 * h, cp.abs(u) <= 1]).solve(
            solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        # Tangents end at a point that keeps the condition: equally near, though not the same to the last digits.
        assert np.sum((decision.action - u0) ** 2) == pytest.approx(np.sum((u.value - u0) ** 2), abs=1e-7)
        np.testing.assert_allclose(decision.action, u.value, atol=2e-4)
        achieved = barrier.stages(model.state @ x + model.action @ decision.action)[0][0]
        assert achieved >= 0.7 * h - 1e-12
        projected += decision.kind == "projected"
    assert projected >= 10


def test_an_obstacle_is_passed_in_discrete_time_under_disturbances_by_the_largest_push():
    space = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
    model = LinearDynamics(np.eye(2), 0.1 * np.eye(2))
    barrier = distance(2, [0, 1], 0.5, centre=[0.0, 0.0])
    shield = CBFQPShield(space, model, [Condition(barrier, gains=[0.5])], time="discrete", disturbance=0.01)
    assert shield.spec().guarantee == "hard"
    plant = ShieldPlant(
        start=lambda generator: generator.uniform(-1.5, 1.5, 2),
        step=lambda x, u, w: x + 0.1 * u + w,
        violation=lambda x: 0.5 - float(np.hypot(*x)),
        vertices=tuple(0.01 * np.array([a, b]) for a in (-1, 1) for b in (-1, 1)),
        tolerance=1e-9,
    )
    report = check_shield(shield, plant=plant)
    assert not report.problems, str(report)


def test_hard_filters_in_continuous_time_with_sampling_keep_a_disturbed_plant_safe():
    sampled = SampledData(0.05, np.array([-1.2, -1.2]), np.array([1.2, 1.2]))
    sides = [
        Condition(affine(normal, 1.0), gains=[2.0]) for normal in ([1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0])
    ]
    shield = CBFQPShield(SQUARE, INTEGRATOR, sides, disturbance=[0.2, 0.1], sampled=sampled)
    # One condition: d/dt (u - d + a (1 - x)) = -a xdot, at most 2 (1 + 0.2) along x.
    np.testing.assert_allclose(shield._margins, 0.05 * 2.0 * np.array([1.2, 1.2, 1.1, 1.1]))
    plant = ShieldPlant(
        start=lambda generator: generator.uniform(-1.0, 1.0, 2),
        step=lambda x, u, w: x + 0.05 * (u + w),
        violation=lambda x: float(np.abs(x).max()) - 1.0,
        vertices=tuple(np.array([a, b]) for a in (-0.2, 0.2) for b in (-0.1, 0.1)),
        tolerance=1e-9,
    )
    report = check_shield(shield, plant=plant)
    assert not report.problems, str(report)


def test_without_its_robust_term_the_same_filter_is_broken_by_the_disturbance():
    sides = [Condition(affine([sign, 0.0], 1.0), gains=[10.0]) for sign in (1.0, -1.0)]
    for disturbance, breaks in ((0.0, True), (0.2, False)):
        shield = CBFQPShield(SQUARE, INTEGRATOR, sides, disturbance=[disturbance, 0.0])
        x = np.array([0.9, 0.0])
        for _ in range(200):
            x = x + 0.01 * (shield.filter(x, [1.0, 0.0]).action + np.array([0.2, 0.0]))
        assert (x[0] > 1.0 + 1e-9) == breaks


# -- what cannot be kept ----------------------------------------------------------------------------------------------


def contradicting(**options):
    """x >= 0.5 matters more than x <= -0.5, at x = 0."""
    conditions = [
        Condition(affine([-1.0, 0.0], -0.5), gains=[1.0], priority=1),
        Condition(affine([1.0, 0.0], -0.5), gains=[1.0], priority=0),
    ]
    return CBFQPShield(SQUARE, INTEGRATOR, conditions, **options)


def test_contradicting_conditions_give_way_in_the_order_of_their_priorities():
    decision = contradicting().filter([0.0, 0.0], [-0.3, 0.2])
    assert decision.kind == "infeasible"
    np.testing.assert_allclose(decision.action, [0.5, 0.2], atol=1e-7)  # u >= 0.5 kept; u <= -0.5 missed by 1
    assert decision.slack == pytest.approx(1.0, abs=1e-6)
    assert "least violation" in decision.status
    assert not contradicting().certifies([0.0, 0.0])


def test_too_large_a_violation_becomes_the_fallback_with_its_reason():
    kept = contradicting(max_slack=1.1).filter([0.0, 0.0], [-0.3, 0.2])
    assert kept.kind == "infeasible"
    decision = contradicting(max_slack=0.5, fallback=[0.0, 0.25]).filter([0.0, 0.0], [-0.3, 0.2])
    assert (decision.kind, decision.action.tolist()) == ("fallback", [0.0, 0.25])
    assert decision.slack == pytest.approx(1.0, abs=1e-6)
    assert "above max_slack 0.5" in decision.status


def test_a_fallback_of_a_function_sees_the_state():
    shield = CBFQPShield(UNIT, DOUBLE, chained(1.0).conditions, fallback=brake)
    assert shield.filter([0.0, 0.4], [np.nan]).action.tolist() == [-1.0]
    assert shield.filter([0.0, np.nan], [0.1]).action.tolist() == [0.0]


def test_the_state_is_read_from_indices_a_function_or_the_privileged_context():
    conditions = chained(1.0).conditions
    x, proposal = np.array([0.9, 0.5]), [1.0]
    expected = chained(1.0).filter(x, proposal).action
    longer = np.array([7.0, *x])
    for shield, obs, context in (
        (CBFQPShield(UNIT, DOUBLE, conditions, state=[1, 2]), longer, None),
        (CBFQPShield(UNIT, DOUBLE, conditions, state=first_two), np.array([*x, 7.0]), None),
        (CBFQPShield(UNIT, DOUBLE, conditions, state_key="x"), None, ShieldContext(privileged={"x": x})),
    ):
        assert shield.filter(obs, proposal, context).action == expected
    blind = CBFQPShield(UNIT, DOUBLE, conditions, state_key="x").filter(None, proposal)
    assert (blind.kind, "no privileged entry 'x'" in blind.status) == ("fallback", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditions": []}, "at least one condition"),
        ({"time": "often"}, "'continuous' or 'discrete'"),
        ({"max_slack": -1.0}, "max_slack"),
        ({"disturbance": [0.1]}, "disturbance box"),
        ({"conditions": [Condition(affine([1.0, 0.0], 1.0))]}, "relative degree is higher"),
        ({"conditions": [Condition(affine([0.0, 1.0], 1.0), gains=[1.0, 1.0])]}, "relative degree 1"),
        ({"conditions": [Condition(affine([0.0, 1.0], 1.0), gains=[-1.0])]}, "gains must be positive"),
        ({"conditions": [Condition(affine([0.0, 1.0], 1.0), gains=[2.0])], "time": "discrete"}, r"in \(0, 1\]"),
        ({"conditions": [Condition(affine([1.0], 1.0))]}, "barrier is of 1 states"),
        ({"conditions": [Condition(BrakingBarrier(0, 1, 1.0, 1.0), gains=[1.0, 1.0])]}, "one gain"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    options = {"conditions": chained(1.0).conditions, **arguments}
    with pytest.raises(ConfigError, match=message):
        CBFQPShield(UNIT, DOUBLE, options.pop("conditions"), **options)


def test_a_disturbance_of_the_velocity_makes_the_whole_chain_smaller():
    sides = [Condition(affine([-1.0, 0.0], 1.0), gains=(2.0, 3.0))]
    shield = CBFQPShield(UNIT, DOUBLE, sides, disturbance=[0.1, 0.05])
    assert shield.filter([0.8, 0.0], [0.0]).margin == pytest.approx(min(0.2, 2.0 * 0.2 - 0.1))
    # psi_1 = -v + 2 (1 - x) - 0.1;  -u - 2 v - (2 * 0.1 + 0.05) + 3 psi_1 >= 0
    rows, bounds = shield.half_spaces([0.8, 0.05])
    assert (rows[0, 0], bounds[0]) == (-1.0, pytest.approx(2 * 0.05 + 0.25 - 3 * (-0.05 + 0.4 - 0.1)))


def test_a_disturbance_that_enters_a_curved_chain_early_is_refused():
    conditions = [Condition(ellipsoid([0.0, 0.0], [1.0, np.inf]), gains=[1.0, 1.0])]
    with pytest.raises(ConfigError, match="must enter where the action does"):
        CBFQPShield(UNIT, DOUBLE, conditions, disturbance=[0.1, 0.0])
    assert (
        CBFQPShield(UNIT, DOUBLE, conditions, disturbance=[0.0, 0.1]).spec().guarantee == "hard for the nominal model"
    )


# -- barriers ---------------------------------------------------------------------------------------------------------


@given(
    arrays(np.float64, 2, elements=st.floats(-3, 3)),
    arrays(np.float64, 2, elements=st.floats(0, 0.5)),
    st.integers(0, 4),
)
def test_the_worst_value_over_a_box_is_a_lower_bound_of_every_corner(x, box, which):
    barrier = [
        affine([0.5, -1.0], 0.3),
        ellipsoid([0.1, 0.2], [1.0, 0.5]),
        distance(2, [0, 1], 0.5, centre=[0.3, 0.1]),
        BrakingBarrier(0, 1, 1.0, 2.0, -1, 0.1),
        QuadraticBarrier(np.array([0.2, -0.1]), 0.4, np.array([[1.0, 0.3], [0.3, -0.7]])),
    ][which]
    corners = [x + box * np.array([a, b]) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    least = min(barrier.stages(corner)[0][-1] for corner in corners)
    assert barrier.worst(x, box)[0] <= least + 1e-12


@pytest.mark.parametrize(
    "barrier",
    [
        ellipsoid([0.1, 0.2], [1.0, 0.5]),
        BrakingBarrier(0, 1, 1.0, 2.0, 1, 0.1),
        distance(2, [0], 0.1, other=[1], inside=True),
    ],
)
def test_gradients_are_those_of_the_values(barrier):
    x, step = np.array([0.3, 0.7]), 1e-6
    for evaluate in (barrier.stages, lambda point: ((barrier.worst(point, BOX)[0],), barrier.worst(point, BOX)[1])):
        gradient = evaluate(x)[1]
        for j in range(2):
            shift = step * np.eye(2)[j]
            slope = (evaluate(x + shift)[0][-1] - evaluate(x - shift)[0][-1]) / (2 * step)
            assert gradient[j] == pytest.approx(slope, abs=1e-6)


BOX = np.array([0.05, 0.02])


def test_a_stack_of_barriers_gives_what_each_gives():
    generator = np.random.default_rng(0)
    conditions = [
        Condition(BrakingBarrier(0, 1, 1.0, 1.0), gains=[0.5]),
        Condition(ellipsoid([0.0, 0.0], [1.0, 1.0]), gains=[0.4]),
        Condition(distance(2, [0, 1], 0.1, centre=[0.4, 0.0]), gains=[0.3]),
    ]
    stack = CBFQPShield(UNIT, DOUBLE_STEP, conditions, time="discrete")._last
    ordered = [conditions[1], conditions[2], conditions[0]]
    for x in generator.normal(size=(20, 2)):
        values, gradients, least = stack.evaluate(x)
        assert least == values.min()
        worst, slopes = stack.worst(x, BOX)
        for row, condition in enumerate(ordered):
            stages, gradient = condition.barrier.stages(x)
            assert values[row] == pytest.approx(stages[-1])
            np.testing.assert_allclose(gradients[row], gradient, atol=1e-12)
            bound, slope = condition.barrier.worst(x, BOX)
            assert worst[row] == pytest.approx(bound)
            np.testing.assert_allclose(slopes[row], slope, atol=1e-12)


# -- protocol ---------------------------------------------------------------------------------------------------------


def shields():
    yield chained(1.0)
    yield braking()
    yield contradicting(max_slack=1.5, fallback=[0.0, 0.25])
    yield CBFQPShield(UNIT, DOUBLE, chained(1.0).conditions, fallback=brake, state=first_two, disturbance=[0.0, 0.1])
    yield CBFQPShield(
        SQUARE, FunctionDynamics(unicycle, 3, 2), [Condition(FunctionBarrier(look_ahead), gains=[1.5], margin=0.01)]
    )


@pytest.mark.parametrize("shield", list(shields()))
def test_every_shield_keeps_the_protocol_and_travels_as_data(shield, tmp_path):
    n = shield.dynamics.state_dim
    report = check_shield(shield, sample_obs=lambda generator: generator.uniform(-0.8, 0.8, n), steps=100)
    assert not report.problems, str(report)
    loaded = load_shield(save_shield(shield, tmp_path / "shield"))
    generator = np.random.default_rng(1)
    for _ in range(20):
        obs, action = generator.uniform(-1, 1, n), generator.uniform(-2, 2, shield.actions.dim)
        one, other = shield.filter(obs, action), loaded.filter(obs, action)
        assert (one.action.tolist(), one.kind, one.slack) == (other.action.tolist(), other.kind, other.slack)
        assert copy.deepcopy(shield).filter(obs, action).action.tolist() == one.action.tolist()


def test_a_unicycle_with_a_function_for_model_and_barrier_stays_right_of_its_wall():
    shield = CBFQPShield(
        SQUARE, FunctionDynamics(unicycle, 3, 2), [Condition(FunctionBarrier(look_ahead), gains=[1.0])]
    )
    x, generator = np.array([0.0, 0.0, 3.0]), np.random.default_rng(0)
    for _ in range(2_000):
        action = shield.filter(x, [1.0, 0.3 * generator.normal()]).action
        f, g = unicycle(x)
        x = x + 0.002 * (f + g @ action)
        assert look_ahead(x)[0] >= -1e-3
    assert look_ahead(x)[0] < 0.5
