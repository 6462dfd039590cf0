"""RPG-PD and UOpt-RPGPD: descent-ascent on a regularised Lagrangian."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.envs.tabular.instances import ding_random, finite_horizon_random, paradox_a, random_binding
from saferl.errors import ConfigError
from saferl.solvers.tabular import rpg_pd, uopt_rpgpd
from saferl.solvers.tabular.metrics import gaps, oscillation, summarise, violations


def test_settles_beside_the_optimum_of_paradox_a_by_its_bias():
    summary = summarise(rpg_pd.solve(paradox_a(), policy_step=0.1, multiplier_step=0.1, regularisation=0.08), 0.5)
    assert summary.gap == pytest.approx(-0.079, abs=5e-3)
    assert summary.violation == pytest.approx(0.079, abs=5e-3)
    assert summary.oscillation < 1e-3


def test_a_fixed_point_exceeds_the_budget_by_the_weight_times_the_multiplier():
    cmdp = random_binding(10)
    solution = rpg_pd.solve(cmdp, policy_step=1.0, multiplier_step=1.0, regularisation=0.05, iterations=4000)
    np.testing.assert_allclose(solution.costs - cmdp.limits, 0.05 * solution.multipliers, atol=1e-9)


def test_less_regularisation_is_less_biased_but_does_not_settle_on_paradox_a():
    assert oscillation(rpg_pd.solve(paradox_a(), regularisation=0.01, iterations=3000)) > 0.1


@pytest.mark.parametrize(("weight", "bias", "band"), [(0.08, 3e-2, 5e-3), (0.01, 1e-3, 1e-3)])
def test_the_bias_on_a_random_cmdp_shrinks_with_the_weight(weight, bias, band, optimal_value):
    cmdp = ding_random()
    solution = rpg_pd.solve(cmdp, regularisation=weight)
    assert gaps(solution, optimal_value(cmdp))[-1] == pytest.approx(bias, abs=band)


def test_one_step_of_rpg_pd_by_its_equation():
    """Q of the reward r - lambda c - tau log pi, where a uniform policy earns tau log 2 in every step."""
    cmdp = paradox_a()
    solution = rpg_pd.solve(cmdp, iterations=2, policy_step=1.0, multiplier_step=1.0, regularisation=0.5)
    first = cmdp.evaluate(cmdp.uniform_policy())
    logits = first.reward_q  # the entropy of a uniform policy is the same for all actions
    policy = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    multipliers = np.maximum(first.costs - 0.5, 0.0)
    entropy = -np.log(policy)
    second = cmdp.evaluate(policy)
    scaled = 0.1 * 0.5 * entropy
    moves = cmdp.transitions[0].reshape(2, 2, 2)
    chain = np.einsum("sa,sat->st", policy, moves)
    values = np.linalg.solve(np.eye(2) - 0.9 * chain, (policy * scaled).sum(axis=-1))
    logits = logits + second.mixed_q(multipliers) + scaled + 0.9 * moves @ values
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(solution.policy, expected, atol=1e-12)
    np.testing.assert_allclose(solution.multipliers, 0.5 * multipliers + second.costs - 0.5, atol=1e-12)


@given(st.lists(st.floats(1e-12, 1.0), min_size=2, max_size=6), st.floats(0.0, 0.99))
def test_raising_probabilities_is_the_nearest_distribution_above_the_floor(weights, floor):
    """Its optimality conditions: one common factor for what stays, the floor for what would fall below it."""
    policy = np.array(weights) / np.sum(weights)
    minimum = floor / len(weights)
    result = rpg_pd.raised(policy[None], minimum)[0]
    assert result.sum() == pytest.approx(1.0, abs=1e-12)
    assert result.min() >= minimum - 1e-15
    free = result > minimum * (1 + 1e-9)
    if free.any():
        factor = result[free] / policy[free]
        assert np.ptp(factor) <= 1e-9 * factor.max()
        assert np.all(policy[~free] * factor.max() <= minimum * (1 + 1e-9) + 1e-15)


def test_a_floor_keeps_every_action_alive():
    solution = rpg_pd.solve(paradox_a(), floor=0.2, regularisation=0.0, iterations=500)
    assert solution.policy.min() >= 0.1 - 1e-12


@pytest.mark.parametrize("bad", [{"floor": 1.0}, {"regularisation": 2.0, "multiplier_step": 0.6}])
def test_options_that_leave_no_step_are_refused(bad):
    with pytest.raises(ConfigError, match="below 1 and multiplier_step"):
        rpg_pd.solve(paradox_a(), **bad)


def sums_of_the_paper(cmdp, iterations):
    """UOpt-RPGPD as the paper writes it, in sums over the horizon, with loops."""
    horizon, num_states, num_actions = cmdp.policy_shape
    policy, multiplier = np.full(cmdp.policy_shape, 1.0 / num_actions), 0.0
    for k in range(iterations):
        eta, tau = (k + 3.0) ** -0.53, (k + 3.0) ** -0.4
        q, cost_q = np.zeros((2, horizon, num_states, num_actions))
        value, cost_value = np.zeros((2, num_states))
        for h in reversed(range(horizon)):
            moves = cmdp.transitions[h].reshape(num_states, num_actions, num_states)
            q[h] = cmdp.rewards[h] + moves @ value
            cost_q[h] = cmdp.costs[h, ..., 0] + moves @ cost_value
            value = (policy[h] * (q[h] - tau * np.log(policy[h]))).sum(axis=-1)
            cost_value = (policy[h] * cost_q[h]).sum(axis=-1)
        weights = policy ** (1.0 - eta * tau) * np.exp(eta * (q - multiplier * cost_q))
        policy = weights / weights.sum(axis=-1, keepdims=True)
        excess = cmdp.rho @ cost_value - cmdp.budgets[0]
        multiplier = max(multiplier + eta * (excess - tau * multiplier), 0.0)
    return policy, multiplier


def test_fading_regularisation_equals_the_sums_of_the_paper():
    cmdp = finite_horizon_random(num_states=5, horizon=4)
    solution = uopt_rpgpd.solve(cmdp, iterations=20)
    policy, multiplier = sums_of_the_paper(cmdp, 20)
    np.testing.assert_allclose(solution.policy, policy, atol=1e-12)
    np.testing.assert_allclose(solution.multipliers, [multiplier], atol=1e-12)


def test_fading_regularisation_approaches_the_optimum_of_a_finite_horizon(optimal_value):
    cmdp = finite_horizon_random()
    solution = uopt_rpgpd.solve(cmdp, iterations=2000)
    gap, violation = np.abs(gaps(solution, optimal_value(cmdp))), violations(solution)
    assert gap[-1] < 5e-3
    assert violation[-200:].max() < 1e-2
    assert violation[-200:].max() < 0.5 * violation[200:400].max()


def test_fading_regularisation_has_less_bias_the_longer_it_runs():
    cmdp = random_binding(10)
    solution = uopt_rpgpd.solve(cmdp, iterations=3000)
    error = violations(solution)
    assert error[3000] < 0.7 * error[500] < 0.7 * 1e-2
    assert oscillation(solution) < 1e-3


def test_fading_regularisation_damps_paradox_a_too_slowly():
    """Documented: the only damping fades before the swing does."""
    assert oscillation(uopt_rpgpd.solve(paradox_a())) > 0.5
