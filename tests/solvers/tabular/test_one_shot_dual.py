import numpy as np
import pytest

from saferl.envs.tabular.instances import finite_horizon_random, one_shot_instance, paradox_a, two_constraints
from saferl.errors import ConfigError, TrainingError
from saferl.solvers.tabular import one_shot_dual
from saferl.solvers.tabular.one_shot_dual import dual_function

REFERENCE = {0.5: (1.2527, 4.8719), 0.1: (0.6457, 6.0025), 0.02: (0.5620, 6.2490)}


def test_the_reference_policy_costs_what_it_should():
    cmdp = one_shot_instance()
    assert cmdp.evaluate(cmdp.uniform_policy()).costs[0] / cmdp.scale == pytest.approx(2.111, abs=5e-4)


@pytest.mark.parametrize("temperature", REFERENCE)
def test_reference_numbers_of_the_random_cmdp(temperature):
    multiplier, value = REFERENCE[temperature]
    solution = one_shot_dual.solve(one_shot_instance(), temperature=temperature)
    assert solution.multipliers[0] == pytest.approx(multiplier, abs=5e-5)
    assert solution.return_ == pytest.approx(value, abs=5e-5)
    assert solution.total_costs[0] == pytest.approx(1.2, abs=1e-9)


@pytest.mark.parametrize(("temperature", "slope"), [(0.5, -0.564785), (0.1, 0.057473), (0.02, 0.169830)])
def test_the_slope_of_the_dual_is_the_slack_of_its_policy(temperature, slope):
    cmdp = one_shot_instance()
    reference = cmdp.uniform_policy()
    point, above, below = (
        dual_function(cmdp, np.array([multiplier]), reference, temperature) for multiplier in (0.7, 0.7001, 0.6999)
    )
    assert point.gradient[0] / cmdp.scale == pytest.approx(slope, abs=5e-7)
    assert (above.value - below.value) / 2e-4 == pytest.approx(point.gradient[0], abs=1e-6)


def test_returns_rise_to_the_optimum_as_the_temperature_falls(optimal_value, optimal_multipliers):
    cmdp = one_shot_instance()
    solutions = [one_shot_dual.solve(cmdp, temperature=t) for t in (0.5, 0.1, 0.02, 0.005, 1e-4)]
    values = [solution.value for solution in solutions]
    assert values == sorted(values)
    assert values[-1] <= optimal_value(cmdp) + 1e-12
    assert values[-1] / cmdp.scale == pytest.approx(6.2521, abs=5e-5)
    assert solutions[-1].multipliers == pytest.approx(optimal_multipliers(cmdp), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.005])
def test_several_budgets_are_met_exactly(temperature):
    cmdp = two_constraints()
    solution = one_shot_dual.solve(cmdp, temperature=temperature)
    assert solution.multipliers.min() > 0.1
    np.testing.assert_allclose(solution.costs, cmdp.limits, atol=1e-8)


def test_the_dual_value_is_what_the_regularised_policy_achieves():
    """Strong duality: D(lambda*) is the return minus the divergence from the reference."""
    cmdp = two_constraints()
    solution = one_shot_dual.solve(cmdp, temperature=0.1)
    divergence = (cmdp.occupancy(solution.policy) * np.log(solution.policy * cmdp.num_actions)).sum()
    assert solution.value - 0.1 * divergence == pytest.approx(solution.details["dual_value"], abs=1e-9)


def test_a_finite_horizon_is_solved_with_policies_per_step(optimal_value):
    cmdp = finite_horizon_random()
    solution = one_shot_dual.solve(cmdp)
    assert solution.policy.shape == (10, 30, 3)
    np.testing.assert_allclose(solution.costs, cmdp.limits, atol=1e-9)
    assert solution.value == pytest.approx(optimal_value(cmdp), abs=1e-6)


def test_slack_budgets_cost_nothing():
    assert one_shot_dual.solve(paradox_a().with_budgets([20.0])).multipliers[0] == 0.0
    slack = two_constraints().with_budgets([20.0, 20.0])
    np.testing.assert_array_equal(one_shot_dual.solve(slack).multipliers, 0.0)


def test_a_reference_other_than_uniform_changes_the_optimum_and_stays_supported():
    reference = np.array([[0.5, 0.5], [0.3, 0.7]])
    solution = one_shot_dual.solve(paradox_a(), reference=reference, temperature=0.5)
    assert solution.costs == pytest.approx([0.5], abs=1e-9)
    assert np.abs(solution.policy - one_shot_dual.solve(paradox_a(), temperature=0.5).policy).max() > 0.05
    zero = one_shot_dual.solve(paradox_a(), reference=np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert zero.policy[1, 1] == 0.0


@pytest.mark.parametrize(("make", "budgets"), [(paradox_a, [-1.0]), (two_constraints, [0.5, 9.0])])
def test_budgets_out_of_reach_are_named(make, budgets):
    with pytest.raises(TrainingError, match=r"the cost '(cost|first)' exceeds its limit .* Raise the budget"):
        one_shot_dual.solve(make().with_budgets(budgets))


def test_a_search_cut_short_is_an_error():
    with pytest.raises(TrainingError, match="within 5 evaluations"):
        one_shot_dual.solve(one_shot_instance(), max_evaluations=5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [(np.ones((3, 2)), r"shape \(2, 2\); got shape \(3, 2\)"), (np.ones((2, 2)), "sums from 2 to 2")],
)
def test_a_reference_that_is_no_policy_is_refused(reference, message):
    with pytest.raises(ConfigError, match=message):
        one_shot_dual.solve(paradox_a(), reference=reference)
