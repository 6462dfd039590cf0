"""Scores by DSRL's constants and by the data's own extrema."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.data.scores import (
    DSRL,
    DSRL_BUDGETS,
    Reference,
    mean_normalised_cost,
    normalised_cost,
    normalised_return,
    reference_of,
)
from saferl.errors import ConfigError, UnknownNameError
from tests.data.data_sets import random_data


def test_all_38_tasks_have_a_range_and_a_cost():
    assert len(DSRL) == 38
    for reference in DSRL.values():
        assert reference.return_min < reference.return_max
        assert reference.cost_max > 0
        assert reference.horizon in (100, 200, 300, 500, 1000)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("OfflineCarGoal1Gymnasium-v0", "CarGoal1"),
        ("OfflineAntVelocityGymnasium-v1", "AntVelocity"),
        ("OfflineBallRun-v0", "BallRun"),
        ("OfflineMetadrive-easysparse-v0", "easysparse"),
        ("SafetyHalfCheetahVelocityGymnasium-v1-250-2495.hdf5", "HalfCheetahVelocity"),
        ("SafetyPointCircle1-v0", "PointCircle1"),
        ("PointPush2", "PointPush2"),
    ],
)
def test_a_task_is_found_by_all_its_names(name, key):
    assert reference_of(name) is DSRL[key]


def test_an_unknown_task_is_refused_with_the_way_out():
    with pytest.raises(UnknownNameError, match="extrema of your own data"):
        reference_of("PointRobot-v0")


def test_scores_by_own_extrema_go_from_0_to_1():
    data = random_data((3, 4, 5, 6))
    reference = Reference.of(data)
    scores = normalised_return(data.returns(), reference)
    assert (scores.min(), scores.max()) == (0.0, 1.0)
    assert (reference.horizon, reference.cost_max) == (6, data.cost_returns()[:, 0].max())


@given(st.integers(0, 800).map(lambda n: n / 8), st.integers(0, 800).map(lambda n: n / 8))
def test_a_cost_score_is_at_most_1_if_and_only_if_the_budget_is_kept(cost, budget):
    assert (normalised_cost(cost, budget) <= 1.0) == (cost <= budget)


def test_a_constant_cost_scores_as_in_the_papers_tables():
    assert mean_normalised_cost(1.0, DSRL_BUDGETS["metadrive"]) == pytest.approx(0.058333, abs=1e-6)
    assert mean_normalised_cost(1.0, DSRL_BUDGETS["safety_gymnasium"]) == pytest.approx(0.029167, abs=1e-6)


def test_scores_without_a_range_or_with_a_negative_budget_are_refused():
    with pytest.raises(ConfigError, match="got 2 to 2"):
        normalised_return([1.0], Reference(2.0, 2.0))
    with pytest.raises(ConfigError, match="at least 0; got -1"):
        normalised_cost(np.ones(2), -1.0)
