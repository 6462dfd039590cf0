"""Summaries against hand-computed values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from saferl.errors import ConfigError
from saferl.statistics import cvar, iqm

values_lists = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)
few = settings(max_examples=100, deadline=None, derandomize=True)


def test_the_iqm_cuts_a_quarter_from_each_end():
    assert iqm([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]) == 3.5


def test_the_iqm_cuts_whole_values_only():
    assert iqm([0.0, 1.0, 5.0]) == 2.0  # floor(3 / 4) = 0: the plain mean
    assert iqm([0.0, 1.0, 2.0, 3.0, 100.0]) == 2.0  # floor(5 / 4) = 1


@few
@given(values_lists)
def test_the_iqm_is_scipys_trimmed_mean(values):
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-9)


def test_cvar_is_the_mean_of_the_worst_tenth():
    assert cvar(np.arange(1.0, 21.0)) == pytest.approx(19.5)


def test_cvar_weighs_the_value_at_the_boundary_with_its_fraction():
    # 15 values: the worst tenth holds 1.5 of them, (15 + 0.5 * 14) / 1.5
    assert cvar(np.arange(1.0, 16.0)) == pytest.approx(22.0 / 1.5)


def test_cvar_of_few_values_is_the_maximum():
    assert cvar([3.0, 9.0, 1.0]) == 9.0


def test_cvar_at_level_zero_is_the_mean():
    assert cvar([1.0, 2.0, 6.0], level=0.0) == pytest.approx(3.0)


@few
@given(values_lists, st.floats(0.0, 0.99))
def test_cvar_minimises_the_objective_of_rockafellar_and_uryasev(values, level):
    # min over t of t + E[(X - t)_+] / (1 - level); the minimum is at one of the values.
    array = np.array(values)
    objective = [t + np.maximum(array - t, 0.0).mean() / (1.0 - level) for t in array]
    assert cvar(values, level) == pytest.approx(min(objective), rel=1e-6, abs=1e-6)


@few
@given(values_lists)
def test_cvar_lies_between_mean_and_maximum(values):
    assert np.mean(values) - 1e-9 <= cvar(values) <= max(values) + 1e-9


@few
@given(values_lists, st.randoms(use_true_random=False))
def test_summaries_do_not_depend_on_the_order(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert iqm(shuffled) == iqm(values)
    assert cvar(shuffled) == cvar(values)


@pytest.mark.parametrize("summary", [iqm, cvar])
def test_summaries_refuse_empty_and_non_finite_values(summary):
    with pytest.raises(ConfigError, match="n >= 1"):
        summary([])
    with pytest.raises(ConfigError, match="must be finite"):
        summary([1.0, math.nan])


@pytest.mark.parametrize("level", [1.0, -0.1, math.nan])
def test_cvar_refuses_a_level_outside_zero_to_one(level):
    with pytest.raises(ConfigError, match=r"level must lie in \[0, 1\)"):
        cvar([1.0], level)
