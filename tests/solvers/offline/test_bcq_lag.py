"""BCQ-Lag's targets by hand, exact resume, and the budget kept on data whose best action is known."""

import numpy as np
import pytest
import torch as th
from cost_data import BEST, BUDGET, QUICKER, assert_repeats_and_resumes, known_data, mean_action

from saferl.errors import ConfigError, ConstraintError
from saferl.solvers.offline.bcq_lag import BCQLag, next_values


def test_targets_take_each_maximum_or_the_action_that_would_be_taken():
    values = th.tensor([[[1.0, 3.0], [5.0, 4.0]], [[9.0, 7.0], [6.0, 8.0]]])
    np.testing.assert_array_equal(next_values(values, None), [[3.0, 5.0], [9.0, 8.0]])
    np.testing.assert_array_equal(next_values(values, th.tensor([1, 0])), [[3.0, 5.0], [7.0, 6.0]])


@pytest.mark.parametrize("selection", ["drawn", "best"])
def test_training_repeats_and_resumes_exactly(selection):
    assert_repeats_and_resumes(BCQLag, selection=selection)


def test_the_budget_decides_how_far_the_action_goes():
    tight, loose = (BCQLag(preset="small", ki=0.1, **QUICKER) for _ in range(2))
    tight.fit(known_data(), steps=150, budgets={"cost": BUDGET})
    loose.fit(known_data(), steps=150, budgets={"cost": 19.0})
    assert mean_action(tight) == pytest.approx(BEST, abs=0.25)
    assert mean_action(loose) > mean_action(tight) + 0.3


def test_budgets_are_needed_and_options_checked():
    with pytest.raises(ConstraintError, match="bcq_lag trains for budgets; got none"):
        BCQLag(preset="small").fit(known_data(), steps=1)
    with pytest.raises(ConfigError, match="candidates must be at least 2; got 1"):
        BCQLag(candidates=1)
