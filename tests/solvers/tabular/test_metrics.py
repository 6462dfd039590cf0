import json

import numpy as np
import pytest

from saferl.envs.tabular.instances import paradox_a, two_constraints
from saferl.errors import ConfigError
from saferl.solvers.tabular import TabularSolution, Trajectory
from saferl.solvers.tabular.metrics import (
    average_gaps,
    average_violations,
    crossings,
    gaps,
    oscillation,
    settling_iterate,
    summarise,
    violations,
)


def solution_of(values, costs, make=paradox_a):
    """Iterates with the given mean rewards and costs; the limit of Paradox A is 0.5."""
    cmdp = make()
    costs = np.asarray(costs, dtype=float).reshape(len(values), -1)
    trajectory = Trajectory(np.asarray(values, dtype=float), costs, np.zeros_like(costs))
    return TabularSolution("by_hand", cmdp, cmdp.uniform_policy(), np.zeros(costs.shape[1]), trajectory)


def test_numbers_of_four_iterates_by_hand():
    solution = solution_of([0.2, 0.9, 0.6, 0.4], [0.4, 0.9, 0.5, 0.4])
    np.testing.assert_allclose(gaps(solution, 0.5), [0.3, -0.4, -0.1, 0.1], atol=1e-15)
    np.testing.assert_allclose(violations(solution), [0.0, 0.4, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(average_gaps(solution, 0.5), [0.3, -0.05, 0.5 - 1.7 / 3, -0.025])
    np.testing.assert_allclose(average_violations(solution), [0.0, 0.15, 0.1, 0.05], atol=1e-15)
    assert oscillation(solution) == pytest.approx(0.7)
    assert oscillation(solution, window=2) == pytest.approx(0.2)
    assert crossings(solution) == 2  # up, and down through the limit
    assert crossings(solution, window=2) == 0


def test_the_worst_of_several_constraints_counts():
    cmdp = two_constraints()
    solution = solution_of(
        [0.0, 0.0], [cmdp.limits + np.array([0.1, 0.3]), cmdp.limits - np.array([0.2, 0.1])], two_constraints
    )
    np.testing.assert_allclose(violations(solution), [0.3, 0.0], atol=1e-15)
    assert crossings(solution) == 2


@pytest.mark.parametrize(
    ("values", "costs", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0),
        ([0.9, 0.5, 0.9, 0.5], [0.5] * 4, 3),
        ([0.5, 0.5, 0.5], [0.5, 0.7, 0.5], 2),
        ([0.5, 0.5, 0.9], [0.5] * 3, None),
        ([0.5, 0.499], [0.5] * 2, None),
        ([0.5, 0.4991], [0.5] * 2, 0),
    ],
)
def test_an_iterate_has_settled_if_all_later_ones_stay(values, costs, expected):
    assert settling_iterate(solution_of(values, costs), 0.5) == expected


def test_touching_the_limit_is_no_crossing():
    assert crossings(solution_of([0.0] * 5, [0.6, 0.5, 0.5 + 1e-12, 0.6, 0.4])) == 1


def test_the_optimum_may_be_a_number_or_an_exact_solution():
    class Exact:
        value = 0.5

    solution = solution_of([0.2, 0.4], [0.5, 0.6])
    assert summarise(solution, Exact()) == summarise(solution, 0.5)


def test_a_summary_is_plain_numbers():
    summary = summarise(solution_of([0.2, 0.4], [0.5, 0.6]), 0.5, window=1)
    assert json.loads(json.dumps(summary.to_dict())) == {
        "solver": "by_hand",
        "iterates": 2,
        "value": 0.4,
        "gap": pytest.approx(0.1),
        "violation": pytest.approx(0.1),
        "oscillation": 0.0,
        "worst_late_violation": pytest.approx(0.1),
        "late_crossings": 0,
        "settled_at": None,
        "average_gap": pytest.approx(0.2),
        "average_violation": pytest.approx(0.05),
    }


def test_an_empty_window_is_refused():
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        summarise(solution_of([0.2], [0.5]), 0.5, window=0)
