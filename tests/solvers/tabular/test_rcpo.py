import numpy as np
import pytest

from saferl.envs.tabular.instances import ding_random, paradox_a, two_constraints
from saferl.errors import ConfigError
from saferl.solvers.tabular import rcpo
from saferl.solvers.tabular.metrics import oscillation, summarise


def test_the_critic_of_a_fixed_policy_becomes_the_exact_q_of_the_penalised_reward():
    cmdp = two_constraints()
    policy, multipliers = cmdp.uniform_policy(), np.array([0.4, 0.7])
    critic = np.zeros(cmdp.policy_shape)
    for _ in range(400):
        critic = rcpo.critic_target(cmdp, critic, policy, multipliers)
    np.testing.assert_allclose(critic, cmdp.evaluate(policy).mixed_q(multipliers), atol=1e-12)


def test_the_first_update_uses_a_critic_of_one_step():
    """From a critic of 0 the first target is the penalised reward, and lambda is still 0."""
    cmdp = paradox_a()
    solution = rcpo.solve(cmdp, iterations=1, policy_step=1.0, multiplier_step=0.5)
    logits = 0.1 * cmdp.rewards
    np.testing.assert_allclose(solution.policy, np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
    excess = cmdp.evaluate(cmdp.uniform_policy()).costs - 0.5
    np.testing.assert_allclose(solution.multipliers, np.maximum(0.5 * excess, 0.0))


def test_the_last_iterate_jumps_between_best_responses_while_the_average_is_right():
    summary = summarise(rcpo.solve(paradox_a()), 0.5)
    assert summary.oscillation > 0.5
    assert summary.worst_late_violation > 0.4
    assert abs(summary.average_gap) < 0.05
    assert summary.average_violation < 0.05


def test_a_slower_multiplier_swings_less_where_the_optimum_is_nearly_deterministic():
    cmdp = ding_random()
    slow, fast = (rcpo.solve(cmdp, policy_step=1.0, multiplier_step=step) for step in (0.01, 1.0))
    assert oscillation(slow) < oscillation(fast)


@pytest.mark.parametrize("bad", [{"multiplier_step": 0.5}, {"critic_step": 0.1}])
def test_timescales_in_another_order_are_refused(bad):
    with pytest.raises(ConfigError, match="slowest first"):
        rcpo.solve(paradox_a(), **bad)


def test_a_critic_cannot_step_beyond_its_target():
    with pytest.raises(ConfigError, match=r"critic_step must be in \[0, 1\]"):
        rcpo.solve(paradox_a(), critic_step=1.5)
