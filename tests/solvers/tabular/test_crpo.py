import numpy as np
import pytest

from saferl.envs.tabular.instances import paradox_a, random_binding, two_constraints
from saferl.errors import TrainingError
from saferl.solvers.tabular import crpo
from saferl.solvers.tabular.crpo import averaged_over_reward_steps


def test_iterates_of_reward_steps_keep_every_budget_within_the_tolerance():
    cmdp = two_constraints()
    solution = crpo.solve(cmdp, tolerance=2e-3)
    excess = (solution.trajectory.costs - cmdp.limits).max(axis=-1)
    marked = solution.details["is_reward_step"]
    assert len(marked) == len(solution.trajectory)
    np.testing.assert_array_equal(marked[:-1], excess[:-1] <= 2e-3)
    assert not marked[-1]
    _, costs = averaged_over_reward_steps(solution)
    assert np.all(costs <= cmdp.limits + 2e-3)


def test_steps_climb_the_reward_or_descend_the_most_violated_cost():
    for budgets, gradient in (([20.0, 20.0], "reward"), ([4.0, 2.0], "second")):
        cmdp = two_constraints().with_budgets(budgets)
        start = cmdp.evaluate(cmdp.uniform_policy())
        logits = 0.7 * (start.reward_q if gradient == "reward" else -start.cost_q[..., 1])
        solution = crpo.solve(cmdp, iterations=1, policy_step=0.7)
        np.testing.assert_allclose(solution.policy, np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
        assert solution.details["is_reward_step"][0] == (gradient == "reward")


def test_the_average_over_reward_steps_approaches_the_optimum_with_the_iterations(optimal_value):
    cmdp = random_binding(10)
    short, long = (averaged_over_reward_steps(crpo.solve(cmdp, iterations=n))[0] for n in (500, 4000))
    assert abs(optimal_value(cmdp) - long) < 0.02 < abs(optimal_value(cmdp) - short)


def test_the_last_iterate_chatters_about_the_limit():
    costs = crpo.solve(paradox_a()).trajectory.costs[-200:, 0]
    assert np.count_nonzero(np.diff(np.sign(costs - 0.5))) > 100


def test_without_a_reward_step_there_is_no_policy_of_the_paper():
    solution = crpo.solve(two_constraints().with_budgets([0.1, 0.1]), iterations=50)
    assert not solution.multipliers.any()
    with pytest.raises(TrainingError, match="none was taken"):
        averaged_over_reward_steps(solution)
