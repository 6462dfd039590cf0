"""Which methods' last iterates converge: the reference runs, in normalised units."""

import itertools

import numpy as np
import pytest

from saferl.envs.tabular.instances import (
    ding_random,
    one_shot_instance,
    paradox_a,
    paradox_b,
    random_binding,
    two_constraints,
)
from saferl.solvers.tabular import TABULAR_SOLVERS, npg_pd, omwu_pd, opg_pd, pmd_pd, reload
from saferl.solvers.tabular.metrics import oscillation, settling_iterate, summarise, violations
from saferl.solvers.tabular.policies import softmax


def ding_10x5():
    return ding_random(10, 5, 0.9, 6.0)


def steps(policy, multiplier):
    return {"policy_step": float(policy), "multiplier_step": float(multiplier)}


@pytest.mark.parametrize(
    ("make", "optimism", "expected"),
    [
        (paradox_a, "none", 0.84),
        (paradox_a, "primal", 0.72),
        (paradox_a, "dual", 0.65),
        (paradox_b, "none", 0.34),
        (paradox_b, "primal", 0.28),
        (paradox_b, "dual", 0.28),
    ],
)
def test_without_optimism_of_both_players_the_last_iterate_swings(make, optimism, expected):
    solution = reload.solve(make(), iterations=5000, optimism=optimism)
    assert oscillation(solution) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("make", [paradox_a, paradox_b])
@pytest.mark.parametrize("form", ["one_step", "exact"])
def test_optimism_of_both_players_reaches_the_optimum_exactly(make, form):
    summary = summarise(reload.solve(make(), form=form), 0.5)
    assert abs(summary.gap) < 1e-12
    assert summary.violation < 1e-12
    assert summary.oscillation < 1e-12


def test_plain_descent_ascent_is_reload_without_optimism():
    plain, reduced = npg_pd.solve(two_constraints()), reload.solve(two_constraints(), optimism="none")
    np.testing.assert_array_equal(plain.policy, reduced.policy)
    np.testing.assert_array_equal(plain.trajectory.multipliers, reduced.trajectory.multipliers)


def test_plain_descent_ascent_violates_late_on_paradox_a_while_its_average_is_nearly_right():
    summary = summarise(npg_pd.solve(paradox_a(), iterations=5000), 0.5)
    assert summary.worst_late_violation == pytest.approx(0.433, abs=0.001)
    assert summary.settled_at is None
    assert abs(summary.average_gap) < 0.1
    assert summary.average_violation < 1e-3


def test_both_forms_of_reload_agree_on_a_random_cmdp():
    cmdp = ding_random()
    one_step, exact = reload.solve(cmdp), reload.solve(cmdp, form="exact")
    assert one_step.value == pytest.approx(exact.value, abs=1e-4)
    np.testing.assert_allclose(one_step.costs, exact.costs, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "make", "options", "settles_at"),
    [
        ("reload", paradox_b, steps(5, 1), 98),
        ("reload", paradox_b, steps(2, 2), 110),
        ("opg_pd", paradox_b, steps(1, 1), 238),
        ("pmd_pd", paradox_b, steps(5, 1), 105),
        ("pmd_pd", paradox_a, steps(5, 1), 21),
        ("reload", ding_random, steps(5, 5), 80),
        ("reload", ding_random, steps(10, 10), 41),
        ("opg_pd", ding_random, steps(5, 5), 36),
        ("pmd_pd", ding_random, steps(5, 1), 552),
        ("reload", ding_10x5, steps(10, 10), 42),
        ("reload", ding_10x5, steps(5, 5), 123),
    ],
)
def test_settles_when_the_reference_runs_did(name, make, options, settles_at, optimal_value):
    cmdp = make()
    solution = TABULAR_SOLVERS.load(name)(cmdp, iterations=1500, **options)
    assert settling_iterate(solution, optimal_value(cmdp)) == pytest.approx(settles_at, abs=2)


@pytest.mark.parametrize("make", [ding_random, ding_10x5])
def test_plain_descent_ascent_never_settles_on_random_cmdps(make, optimal_value):
    cmdp = make()
    summary = summarise(npg_pd.solve(cmdp), optimal_value(cmdp))
    assert summary.settled_at is None
    assert 3e-3 < summary.oscillation < 7e-3


@pytest.mark.parametrize("size", [2.0, 5.0])
def test_steps_that_are_too_large_swing_again(size):
    assert oscillation(reload.solve(paradox_a(), **steps(size, size))) > 0.1


def test_steps_that_are_too_small_have_not_settled_yet():
    assert summarise(reload.solve(paradox_a(), **steps(0.1, 0.1)), 0.5).settled_at is None


def test_under_binding_budgets_reload_converges_and_plain_descent_ascent_does_not(optimal_value):
    failures = 0
    for seed in range(10, 15):
        cmdp = random_binding(seed)
        optimum = optimal_value(cmdp)
        good = summarise(reload.solve(cmdp, iterations=2000, **steps(5, 5)), optimum)
        assert abs(good.gap) < 1e-4
        assert good.violation < 1e-4
        plain = summarise(npg_pd.solve(cmdp, iterations=2000, **steps(5, 5)), optimum)
        failures += abs(plain.gap) >= 1e-4 or plain.violation >= 1e-4
    assert failures == 5


def test_two_constraints_are_met_at_their_multipliers(optimal_value, optimal_multipliers):
    cmdp = two_constraints()
    solution = reload.solve(cmdp, iterations=4000, **steps(5, 5))
    assert solution.value == pytest.approx(optimal_value(cmdp), abs=1e-4)
    np.testing.assert_allclose(solution.multipliers, optimal_multipliers(cmdp), atol=1e-3)
    assert violations(solution)[-1] < 1e-4
    assert oscillation(npg_pd.solve(cmdp)) > 4e-3


@pytest.mark.parametrize("name", ["opg_pd", "omwu_pd", "pmd_pd", "pid_lag"])
def test_other_damped_methods_are_exact_on_paradox_a(name):
    solution = TABULAR_SOLVERS.load(name)(paradox_a())
    assert solution.value == pytest.approx(0.5, abs=1e-10)
    assert solution.multipliers == pytest.approx([1.0], abs=1e-6)
    np.testing.assert_allclose(solution.policy, [[10 / 11, 1 / 11], [1.0, 0.0]], atol=1e-6)


def test_optimistic_weights_are_twice_the_gradient_minus_the_last_one():
    cmdp = two_constraints()
    solution = omwu_pd.solve(cmdp, iterations=50)
    logits, multipliers, previous = np.zeros(cmdp.policy_shape), np.zeros(2), (0.0, 0.0)
    for _ in range(50):
        evaluation = cmdp.evaluate(softmax(logits))
        current = evaluation.mixed_q(multipliers), evaluation.costs - cmdp.limits
        logits = logits + 2 * current[0] - previous[0]
        multipliers, previous = multipliers + 2 * current[1] - previous[1], current
    assert solution.trajectory.multipliers[1:].min() > 0.0
    np.testing.assert_allclose(solution.policy, softmax(logits), atol=1e-10)
    np.testing.assert_allclose(solution.multipliers, multipliers, atol=1e-10)


def test_optimistic_projected_steps_follow_their_equations():
    cmdp = paradox_a()
    solution = opg_pd.solve(cmdp, iterations=2, policy_step=0.1, multiplier_step=0.2)
    uniform = cmdp.uniform_policy()
    start = cmdp.evaluate(uniform)
    # Steps this small leave no simplex, so the projection only removes the mean.
    centred = 0.1 * (start.reward_q - start.reward_q.mean(axis=-1, keepdims=True))
    first = cmdp.evaluate(uniform + 2 * centred)
    first_multiplier = np.maximum(2 * 0.2 * (start.costs - 0.5), 0.0)
    np.testing.assert_allclose(solution.trajectory.values[1], first.value, atol=1e-14)
    np.testing.assert_allclose(solution.trajectory.multipliers[1], first_multiplier, atol=1e-14)
    step = 0.1 * first.mixed_q(first_multiplier)
    second = uniform + centred + 2 * (step - step.mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(solution.policy, second, atol=1e-14)


def test_a_budget_that_does_not_bind_has_no_price_under_the_predicted_multiplier():
    cmdp = paradox_a().with_budgets([20.0])
    solution = pmd_pd.solve(cmdp)
    assert solution.multipliers == pytest.approx([0.0], abs=1e-12)
    assert solution.value == pytest.approx(1.0, abs=1e-6)


def test_predicted_multipliers_follow_from_the_gaps_of_their_iterates():
    cmdp = one_shot_instance()
    start = cmdp.evaluate(cmdp.uniform_policy()).costs / cmdp.scale
    cmdp = cmdp.with_budgets(start + 0.5)
    solution = pmd_pd.solve(cmdp, iterations=30, policy_step=1.0, multiplier_step=3.0)
    gaps = solution.trajectory.costs[:, 0] - cmdp.limits[0]
    assert gaps[0] < 0.0 < gaps.max()
    multiplier, predicted = max(0.0, -3.0 * gaps[0]), []
    for gap, following in itertools.pairwise([*gaps, gaps[-1]]):
        predicted.append(multiplier + 3.0 * gap)
        multiplier = max(-3.0 * following, multiplier + 3.0 * following)
    np.testing.assert_allclose(solution.trajectory.multipliers[:, 0], predicted, atol=1e-12)


def test_many_inner_steps_solve_the_regularised_problem():
    from saferl.envs.tabular.planning import soft_best_response

    cmdp = two_constraints()
    config = pmd_pd.PMDPDConfig(policy_step=2.0, inner_steps=200)
    anchor = np.random.default_rng(0).normal(size=cmdp.policy_shape)
    multipliers = np.array([0.5, 0.2])
    logits = pmd_pd.mirror_step(cmdp, anchor, cmdp.evaluate(softmax(anchor)), multipliers, config)
    exact = soft_best_response(cmdp, cmdp.rewards - cmdp.costs @ multipliers, softmax(anchor), 1.0 / 2.0)
    np.testing.assert_allclose(softmax(logits), exact.policy, atol=1e-8)


def test_exact_inner_problems_converge_too(optimal_value):
    cmdp = random_binding(10)
    solution = pmd_pd.solve(cmdp, inner_steps=5, iterations=2000)
    assert solution.value == pytest.approx(optimal_value(cmdp), abs=1e-3)
    assert violations(solution)[-1] < 1e-3
