import numpy as np
import pytest

from saferl import Constraint, ConstraintSet
from saferl.errors import ConstraintError
from saferl.rollout import CostEstimator

YES, NO = np.array([True]), np.array([False])


def one(kind="episode_sum", **fields):
    return ConstraintSet([Constraint("cost", 1.0, kind=kind, **fields)])


def feed(estimator, episodes):
    """Play episodes, each a list of costs, in one environment."""
    for costs in episodes:
        for step, cost in enumerate(costs):
            estimator.add(np.array([[float(cost)]]), YES if step == len(costs) - 1 else NO)


def make(constraints, *, min_episodes=1, horizon=None, fixed=False, num_envs=1):
    return CostEstimator(constraints, num_envs, min_episodes=min_episodes, is_fixed_horizon=fixed, horizon=horizon)


def test_nothing_is_estimated_before_enough_episodes_ended():
    estimator = make(one(), min_episodes=2)
    feed(estimator, [[1, 1]])
    assert estimator.estimate() is None
    feed(estimator, [[3]])
    assert estimator.estimate() == pytest.approx([2.5])


def test_an_estimate_starts_a_fresh_window():
    estimator = make(one())
    feed(estimator, [[5]])
    estimator.estimate()
    assert estimator.estimate() is None
    feed(estimator, [[1]])
    assert estimator.estimate() == pytest.approx([1.0])


def test_variable_lengths_use_costs_over_ends_so_that_open_episodes_count():
    """Two environments: one ends short free episodes, the other is in a long costly one that has not ended."""
    estimator = make(one(), num_envs=2)
    for _ in range(10):
        estimator.add(np.array([[0.0], [1.0]]), np.array([True, False]))
    assert estimator.estimate() == pytest.approx([1.0])  # 10 costs over 10 ends; whole episodes alone would say 0


def test_a_fixed_horizon_uses_whole_episodes_alone():
    estimator = make(one(), fixed=True, horizon=2)
    feed(estimator, [[1, 2]])
    estimator.add(np.array([[100.0]]), NO)
    assert estimator.estimate() == pytest.approx([3.0])


def test_an_episode_cut_short_of_a_fixed_horizon_does_not_count():
    estimator = make(one(), fixed=True, horizon=2)
    feed(estimator, [[9]])
    assert estimator.estimate() is None
    feed(estimator, [[1, 1]])
    assert estimator.estimate() == pytest.approx([2.0])


@pytest.mark.parametrize("fixed", [True, False])
def test_a_discounted_budget_uses_the_discounted_estimate(fixed):
    estimator = make(one("discounted", gamma=0.5), fixed=fixed, horizon=3 if fixed else None)
    feed(estimator, [[1, 1, 1], [0, 0, 4]])
    assert estimator.estimate() == pytest.approx([(1.75 + 1.0) / 2])


def test_a_step_rate_divides_by_steps():
    estimator = make(one("step_rate"), min_episodes=2)
    feed(estimator, [[1, 0, 0], [1]])
    assert estimator.estimate() == pytest.approx([0.5])


def test_kinds_are_estimated_side_by_side():
    constraints = ConstraintSet(
        [
            Constraint("a", 1.0),
            Constraint("b", 1.0, kind="discounted", gamma=0.5),
            Constraint("c", 1.0, kind="step_rate"),
        ]
    )
    estimator = make(constraints)
    estimator.add(np.array([[1.0, 1.0, 1.0]]), NO)
    estimator.add(np.array([[1.0, 1.0, 1.0]]), YES)
    assert estimator.estimate() == pytest.approx([2.0, 1.5, 1.0])


@pytest.mark.parametrize("kind", ["statewise", "probability", "cvar"])
def test_kinds_without_an_expectation_are_refused(kind):
    with pytest.raises(ConstraintError, match=kind):
        make(one(kind))
