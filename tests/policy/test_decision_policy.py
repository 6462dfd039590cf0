"""What a decision transformer asks for, and how its targets go on."""

import numpy as np
import pytest
import torch as th

from saferl.policy.decision_policy import DecisionPolicy

FRONT_RETURNS = np.array([1.0, 3.0, 6.0])
FRONT_COSTS = np.array([[2.0], [5.0], [30.0]])


def policy(ask=0.5):
    th.manual_seed(0)
    made = DecisionPolicy(
        3, 2, num_costs=1, context=4, horizon=20, width=8, layers=1, heads=2, expansion=2, attention="window",
        predicts_states=False, frontier_size=3, ask=ask,
    ).eval()  # fmt: skip
    made.front_returns.copy_(th.from_numpy(FRONT_RETURNS))
    made.front_costs.copy_(th.from_numpy(FRONT_COSTS))
    made.ceiling.fill_(10.0)
    made.cost_range.copy_(th.tensor([[0.0], [30.0]]))
    made.return_scale.fill_(0.5)
    made.cost_scale.fill_(0.1)
    return made


@pytest.mark.parametrize(
    ("budget", "asked", "allowed"),
    [
        (5.0, 3.0 + 0.5 * 7.0, 5.0),
        (4.9, 1.0 + 0.5 * 9.0, 4.9),
        (100.0, 6.0 + 0.5 * 4.0, 30.0),
        (1.0, 1.0, 1.0),
        (np.inf, 6.0 + 0.5 * 4.0, 30.0),
    ],
)
def test_targets_come_from_the_frontier_at_the_budget(budget, asked, allowed):
    found, costs = policy().targets(np.array([budget]))
    assert (found, costs.tolist()) == (asked, [allowed])


def test_without_budgets_the_best_episode_sets_the_targets():
    found, costs = policy(ask=0.0).targets(None)
    assert (found, costs.tolist()) == (6.0, [30.0])


def test_what_was_earned_and_spent_is_no_longer_to_go_and_restarts_with_the_episode():
    made = policy()
    state = made.begin(3, np.array([5.0]))
    observations = th.ones(3, 3)
    made.act(observations, state, None, True)
    made.observe(state, np.array([1.0, 2.0, 0.0]), np.array([[1.0], [0.0], [9.0]]), np.zeros(3, dtype=bool))
    assert state.returns.tolist() == [5.5, 4.5, 6.5]
    assert state.costs[:, 0].tolist() == [4.0, 5.0, -4.0]
    fresh = made.begin(3, np.array([5.0]))
    made.restart(state, np.array([2]))
    assert state.returns.tolist() == [5.5, 4.5, 6.5]
    assert state.costs[:, 0].tolist() == [4.0, 5.0, 5.0]
    later = made.act(observations, state, None, True)
    np.testing.assert_allclose(later[2], made.act(observations, fresh, None, True)[2], atol=1e-6)
    assert not np.allclose(later[0], later[2])


def test_an_overspent_budget_is_shown_as_spent():
    made = policy()
    states = [made.begin(1, np.array([5.0])) for _ in range(2)]
    states[0].costs[:], states[1].costs[:] = 0.0, -50.0
    actions = [made.act(th.ones(1, 3), state, None, True) for state in states]
    np.testing.assert_array_equal(*actions)


def test_draws_of_a_lane_come_from_its_own_generator():
    made, observations = policy(), th.ones(2, 3)
    drawn = [
        made.act(observations, made.begin(2, None), [np.random.default_rng(a), np.random.default_rng(7)], False)
        for a in (1, 2)
    ]
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])
    assert not np.array_equal(drawn[0][0], drawn[1][0])
