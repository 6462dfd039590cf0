"""The maths of CaT by hand-computed values: probabilities, running maxima, curriculum, rewards and ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.config import from_mapping
from saferl.errors import ConfigError, ConstraintError, TrainingError, UnknownNameError
from saferl.rollout import CostVecEnv
from saferl.solvers.soft_terminations import (
    FLOOR,
    RunningMaxima,
    SoftTerminationConfig,
    SoftTerminations,
    curriculum,
    reward_scaling,
    violation_probabilities,
)

NAMES = ("torque", "contact", "posture")


def soft(names=NAMES, kind="statewise", budget=0.0, **options):
    constraints = ConstraintSet([Constraint(name, budget, kind=kind) for name in names])
    return SoftTerminations(from_mapping(SoftTerminationConfig, options), constraints)


def one_step(terminations, *margins, progress=0.0):
    """delta of one step; ``margins`` are rows of environments."""
    rows = np.array(margins, dtype=float)
    return terminations.step(np.maximum(rows, 0.0), rows, progress=progress)


def test_a_violation_has_its_share_of_the_maximum_and_no_violation_has_none():
    margins = np.array([[-1.0, 0.0], [0.5, 0.2], [4.0, 9.0]])
    found = violation_probabilities(margins, np.array([2.0, 0.4]), np.array([0.25, 1.0]))
    np.testing.assert_array_equal(found, [[0.0, 0.0], [0.0625, 0.5], [0.25, 1.0]])


def test_min_p_is_the_probability_of_the_smallest_violation():
    margins = np.array([[0.0], [1e-300], [1.0], [2.0]])
    found = violation_probabilities(margins, np.array([2.0]), np.array([0.5]), min_p=0.1)
    np.testing.assert_allclose(found[:, 0], [0.0, 0.1, 0.3, 0.5], rtol=1e-15)


def test_delta_is_the_largest_probability_of_all_constraints():
    options = {"classes": {"torque": "hard", "posture": 0.1}, "c_max": dict.fromkeys(NAMES, 1.0)}
    delta = one_step(soft(**options), [0.3, -1, 5], [0, 0.5, 5], [0, 5, 5], [-1, -1, -1])
    np.testing.assert_allclose(delta, [0.3, 0.1, 0.1, 0.0], rtol=1e-15)  # soft p is 0.05 at the start
    delta = one_step(soft(**options), [0, 0.6, 0.5], progress=1.0)
    np.testing.assert_allclose(delta, [0.15], rtol=1e-15)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.floats(0, 1))
def test_delta_is_a_probability_and_positive_exactly_where_something_is_violated(margins, progress):
    (delta,) = one_step(soft(), margins, progress=progress)
    assert 0.0 <= delta <= 0.25
    assert (delta > 0.0) == (max(margins) > 0.0)


def test_the_curriculum_is_linear_in_the_expected_lifetime():
    assert curriculum(0.0, 0.05, 0.25) == pytest.approx(1 / 20)
    assert curriculum(0.5, 0.05, 0.25) == pytest.approx(1 / 12)
    assert curriculum(1.0, 0.05, 0.25) == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("share", "progress", "p_max"),
    [(0.5, 0.0, 0.05), (0.5, 0.25, 1 / 12), (0.5, 0.5, 0.25), (0.5, 0.9, 0.25), (1.0, 0.5, 1 / 12), (0.0, 0.0, 0.25)],
)
def test_the_curriculum_reaches_its_end_at_its_share_of_the_training(share, progress, p_max):
    terminations = soft(curriculum_share=share, c_max=dict.fromkeys(NAMES, 1.0))
    assert one_step(terminations, [1, 1, 1], progress=progress) == pytest.approx(p_max)
    assert terminations.take_log()["cat/p_max/torque"] == pytest.approx(p_max)


def test_hard_and_style_constraints_have_no_curriculum():
    terminations = soft(classes={"torque": "hard", "posture": 0.1})
    for progress in (0.0, 1.0):
        one_step(terminations, [0, 0, 0], progress=progress)
        log = terminations.take_log()
        assert (log["cat/p_max/torque"], log["cat/p_max/posture"]) == (1.0, 0.1)


def maxima(window=1, tau=0.95, fixed=(np.nan,)):
    return RunningMaxima(np.array(fixed), tau=tau, window=window)


def test_the_first_maximum_is_the_batchs_and_later_ones_follow_it():
    running = maxima()
    running.update(np.array([[2.0], [1.0]]))
    assert running.values == [2.0]
    running.update(np.array([[4.0], [-1.0]]))
    np.testing.assert_allclose(running.values, [0.95 * 2.0 + 0.05 * 4.0], rtol=1e-15)
    running.update(np.array([[-3.0], [-1.0]]))  # the raw maximum, on its floor
    np.testing.assert_allclose(running.values, [0.95 * 2.1 + 0.05 * FLOOR], rtol=1e-15)


def test_a_batch_that_never_violates_starts_at_the_floor():
    running = maxima()
    running.update(np.array([[-2.0]]))
    assert running.values == [FLOOR]


def test_once_nobody_violates_every_violation_becomes_full():
    running = maxima()
    running.update(np.array([[1.0]]))
    for _ in range(400):
        running.update(np.array([[-1.0]]))
    assert running.values[0] == pytest.approx(FLOOR, rel=1e-2)
    assert violation_probabilities(np.array([[1e-5]]), running.values, np.array([0.25]))[0, 0] == 0.25


def test_a_window_holds_a_maximum_for_its_steps():
    running = maxima(window=3, tau=0.0)
    seen = []
    for largest in (1.0, 5.0, 2.0, 1.0, 1.0, -1.0, -1.0, -1.0):
        running.update(np.array([[largest], [-9.0]]))
        seen.append(float(running.values[0]))
    assert seen == [1.0, 5.0, 5.0, 5.0, 2.0, 1.0, 1.0, FLOOR]


def test_given_maxima_never_move():
    running = maxima(fixed=(np.nan, 0.5))
    running.update(np.array([[3.0, 7.0]]))
    assert running.values.tolist() == [3.0, 0.5]


def test_maxima_freeze_at_their_share_of_the_training():
    terminations = soft(("torque",), c_max_freeze=0.5, c_max_window=1)
    one_step(terminations, [2.0], progress=0.4)
    one_step(terminations, [8.0], progress=0.5)
    assert terminations.maxima.values == [2.0]
    always = soft(("torque",), c_max_window=1)
    one_step(always, [2.0], progress=0.4)
    one_step(always, [8.0], progress=1.0)
    np.testing.assert_allclose(always.maxima.values, [2.3], rtol=1e-15)


def test_maxima_go_on_from_their_state():
    one, other = maxima(window=4), maxima(window=4)
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(20, 3, 1))
    for step in steps[:9]:
        one.update(step)
    other.set_state(one.get_state())
    for step in steps[9:]:
        one.update(step)
        other.update(step)
    assert one.values == other.values != steps[9:].max()


def test_rewards_are_scaled_and_ends_are_soft():
    terminations = soft(classes={"torque": "hard"}, c_max={"torque": 1.0})
    one_step(terminations, [0.25, 0, 0], [1, 0, 0], [0, 0, 0])
    np.testing.assert_array_equal(terminations.rewards(np.array([4.0, 4.0, 4.0])), [3.0, 0.0, 4.0])
    np.testing.assert_array_equal(terminations.ends(np.array([False, False, True])), [0.25, 1.0, 1.0])
    np.testing.assert_array_equal(terminations.ends(np.array([0.5, 0.0, 0.0])), [0.625, 1.0, 0.0])


HALF = {"classes": {"torque": "hard"}, "c_max": {"torque": 2.0}}


def test_a_negative_reward_is_refused_and_the_ways_out_are_named():
    terminations = soft(**HALF)
    one_step(terminations, [1, 0, 0], [0, 0, 0])
    with pytest.raises(TrainingError, match=r"at least 0.*got -0\.3\. Choose .*'positive_part_only'.*reward_offset"):
        terminations.rewards(np.array([1.0, -3.0]), scale=10.0)  # named in the environment's own unit
    terminations.rewards(np.array([0.0, 1.0]))


def test_the_positive_part_alone_is_scaled():
    terminations = soft(negative_rewards="positive_part_only", **HALF)
    one_step(terminations, [1, 0, 0], [1, 0, 0], [0, 0, 0])
    np.testing.assert_array_equal(terminations.rewards(np.array([2.0, -2.0, -2.0])), [1.0, -2.0, -2.0])
    assert terminations.take_log()["cat/negative_reward_share"] == pytest.approx(2 / 3)


def test_a_shift_is_in_the_environments_unit_and_what_stays_negative_is_not_scaled():
    terminations = soft(negative_rewards="shift", reward_offset=2.0, **HALF)
    one_step(terminations, [1, 0, 0], [1, 0, 0])
    np.testing.assert_array_equal(terminations.rewards(np.array([1.0, -3.0])), [1.5, -1.0])
    np.testing.assert_array_equal(terminations.rewards(np.array([1.0, -3.0]), scale=10.0), [10.5, 8.5])
    clipped = terminations.rewards(np.array([1.0, -3.0]), scale=10.0, limit=10.0)
    np.testing.assert_array_equal(clipped, [5.0, 5.0])


def test_a_positive_limit_on_every_step_is_the_margin():
    terminations = soft(("load",), budget=3.0, c_max={"load": 2.0}, p_start=1.0, p_final=1.0)
    delta = terminations.step(np.array([[2.0], [4.0], [9.0]]), np.array([[2.0], [-7.0], [9.0]]), progress=0.0)
    np.testing.assert_array_equal(delta, [0.0, 0.5, 1.0])
    as_given = soft(("load",), kind="episode_sum", budget=3.0, c_max={"load": 2.0}, p_start=1.0, p_final=1.0)
    delta = as_given.step(np.array([[2.0], [4.0], [9.0]]), np.array([[2.0], [-7.0], [0.5]]), progress=0.0)
    np.testing.assert_array_equal(delta, [1.0, 0.0, 0.25])


def test_the_log_has_means_since_the_last_one():
    terminations = soft(p_start=0.2, p_final=0.2, c_max=dict.fromkeys(NAMES, 1.0))
    one_step(terminations, [1, -1, 0], [-1, -1, 0.5])
    one_step(terminations, [0, -1, 0], [0, -1, 1])
    log = terminations.take_log()
    rates = [log[f"cat/violation_rate/{name}"] for name in NAMES]
    assert rates == [0.25, 0.0, 0.5]
    assert log["cat/mean_delta"] == pytest.approx((0.2 + 0.1 + 0.0 + 0.2) / 4)
    assert log["cat/c_max/torque"] == 1.0
    assert terminations.take_log()["cat/violation_rate/torque"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_start": 0.0}, "p_start must be greater than 0"),
        ({"p_final": 1.5}, r"p_final must be in \[0, 1\]"),
        ({"min_p": 0.1}, "min_p must be at most p_start and p_final; got 0.1 against 0.05"),
        ({"c_max_tau": 1.0}, "c_max_tau must be less than 1"),
        ({"c_max_window": 0}, "c_max_window must be greater than 0"),
        ({"classes": {"torque": "harsh"}}, r"classes\['torque'\] must be 'soft', 'hard' or a number .* got 'harsh'"),
        ({"classes": {"torque": 0}}, r"a number in \(0, 1\]; got 0"),
        ({"classes": {"torque": True}}, "got True"),
        ({"classes": {"torque": ["hard"]}}, r"got \['hard'\]"),
        ({"c_max": {"torque": 0.0}}, "finite number of at least 1e-06; got 0.0"),
        ({"c_max": {"torque": float("inf")}}, "got inf"),
        ({"reward_offset": 1.0}, "got 1 with 'refuse'"),
        ({"negative_rewards": "shift"}, "got 0 with 'shift'"),
        ({"negative_rewards": "clip"}, "negative_rewards must be one of 'refuse', 'shift', 'positive_part_only'"),
        ({"timeout": "reset"}, "timeout must be one of"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        soft(**options)


@pytest.mark.parametrize("option", [{"classes": {"torqe": "hard"}}, {"c_max": {"torqe": 1.0}}])
def test_an_option_for_a_constraint_that_there_is_not_is_answered_with_the_nearest(option):
    with pytest.raises(UnknownNameError, match="Did you mean 'torque'"):
        soft(**option)


def test_a_lower_limit_is_refused():
    constraints = ConstraintSet([Constraint("work", 8.0, sense=">=")])
    with pytest.raises(ConstraintError, match=r"'work' is a lower limit .* Give a cost that is > 0 where too little"):
        SoftTerminations(SoftTerminationConfig(), constraints)


def test_the_scale_of_rewards_is_that_of_the_normaliser():
    env = CostVecEnv(saferl.make_vec("SafetySwimmerVelocity-v1", 3))
    assert reward_scaling(env) == reward_scaling(VecNormalize(env, norm_reward=False)) == (1.0, np.inf)
    outer = VecNormalize(env, clip_reward=4.0)
    outer.seed(0)
    outer.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        rewards = outer.step(rng.uniform(-1, 1, size=(3, 2)).astype(np.float32))[1]
        scale, limit = reward_scaling(outer)
        assert limit == 4.0
        np.testing.assert_allclose(rewards, np.clip(scale * outer.get_original_reward(), -4.0, 4.0), rtol=1e-6)
    env.close()
