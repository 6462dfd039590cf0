"""Limits on the action hold for every plant, in every decision."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, Bounds, RateLimit, load_shield, save_shield
from saferl.testing import ShieldPlant, check_shield

BOX = ActionSpec.box([-1.0, 0.0], [1.0, 4.0])
WISHES = st.lists(
    arrays(np.float64, 2, elements=st.floats(allow_nan=True, allow_infinity=True)), min_size=1, max_size=8
)


def test_bounds_clip_every_component_and_say_how_far_inside_the_proposal_was():
    shield = Bounds(BOX, low=[-0.5, 1.0], high=[0.5, 3.0])
    inside = shield.filter(None, [0.25, 2.0])
    assert (inside.kind, inside.margin) == ("pass", 0.25)
    outside = shield.filter(None, [0.8, -3.0])
    assert (outside.kind, outside.action.tolist()) == ("projected", [0.5, 1.0])
    assert outside.distance == pytest.approx(np.hypot(0.3, 2.0))
    assert outside.margin == pytest.approx(-outside.distance)


def test_bounds_fall_back_to_the_middle_as_far_as_the_limits_allow():
    assert Bounds(BOX, low=[0.5, -np.inf]).filter(None, [np.nan, 0.0]).action.tolist() == [0.5, 2.0]


@given(arrays(np.float64, 2, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_no_proposal_gets_past_the_bounds(wish):
    shield = Bounds(BOX, low=[-0.5, 1.0], high=[0.5, 3.0])
    action = shield.filter(None, wish).action
    assert np.all(action >= shield.low)
    assert np.all(action <= shield.high)


@pytest.mark.parametrize("limits", [{"low": 2.0}, {"low": 0.5, "high": 0.4}, {"low": [0.0] * 3}, {"high": np.nan}])
def test_limits_that_leave_nothing_or_do_not_fit_are_refused(limits):
    with pytest.raises(ConfigError, match="bounds"):
        Bounds(BOX, **limits)


def test_bounds_of_an_env_are_those_of_its_space():
    class Env:
        action_space = spaces.Box(-2.0, 3.0, (2,))

    shield = Bounds.for_env(Env())
    assert (shield.low.tolist(), shield.high.tolist()) == ([-2.0, -2.0], [3.0, 3.0])
    Env.action_space = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ConfigError, match="needs an env with a bounded Box"):
        Bounds.for_env(Env())
    Env.action_space = spaces.Discrete(2)
    with pytest.raises(ConfigError, match="needs an env with a bounded Box"):
        Bounds.for_env(Env())


def test_the_rate_limit_follows_a_wish_step_by_step():
    shield = RateLimit(BOX, rise=[0.5, 1.0], fall=[0.25, 4.0], initial=[0.0, 2.0])
    actions = [shield.filter(None, wish).action.tolist() for wish in ([1.0, 4.0], [1.0, 4.0], [-1.0, 0.0])]
    assert actions == [[0.5, 3.0], [1.0, 4.0], [0.75, 0.0]]


def test_the_first_action_is_free_unless_something_was_executed_before():
    free = RateLimit(BOX, rise=0.1)
    assert free.filter(None, [1.0, 4.0]).kind == "pass"
    assert free.filter(None, [1.0, 3.0]).action.tolist() == [1.0, 3.9]
    free.reset()
    assert free.filter(None, [-1.0, 0.0]).kind == "pass"


def test_the_rate_limit_falls_back_to_what_it_executed_last():
    shield = RateLimit(BOX, rise=0.1, initial=[0.5, 1.0])
    assert shield.filter(None, [np.nan, 1.0]).action.tolist() == [0.5, 1.0]
    assert shield.filter(np.array([np.nan]), [1.0, 1.0]).action.tolist() == [0.5, 1.0]
    assert RateLimit(BOX, rise=0.1).filter(None, [np.nan, 1.0]).action.tolist() == [0.0, 2.0]


@given(WISHES)
def test_no_two_actions_differ_by_more_than_the_rate(wishes):
    shield = RateLimit(BOX, rise=[0.2, 1.0], fall=[0.1, 0.5], initial=[0.0, 2.0])
    last = shield.initial
    for wish in wishes:
        action = shield.filter(None, wish).action
        assert np.all(action - last <= shield.rise + 1e-12)
        assert np.all(last - action <= shield.fall + 1e-12)
        last = action


@pytest.mark.parametrize(
    "options", [{"rise": -0.1}, {"rise": np.nan}, {"rise": [0.1] * 3}, {"rise": 1.0, "initial": [2.0, 0.0]}]
)
def test_rates_that_are_none_are_refused(options):
    with pytest.raises(ConfigError, match="rate_limit"):
        RateLimit(BOX, **options)


def test_memory_is_a_copy():
    shield = RateLimit(BOX, rise=0.1, initial=[0.0, 2.0])
    memory = shield.get_memory()
    memory["last"][:] = 9.0
    assert shield.get_memory()["last"].tolist() == [0.0, 2.0]


def rates(state, action, disturbance):
    """A plant whose state is the last two actions."""
    return np.array([state[1], float(action[0])])


@pytest.mark.parametrize(
    "shield",
    [
        Bounds(BOX, low=[-0.5, 1.0], high=[0.5, 3.0]),
        RateLimit(BOX, rise=0.2, fall=0.1),
        RateLimit(BOX, rise=0.2, initial=[0.0, 2.0]),
    ],
    ids=["bounds", "rate", "rate from somewhere"],
)
def test_the_units_keep_the_protocol(shield):
    assert str(check_shield(shield)).startswith(f"{shield.unit} keeps saferl's contract: 13 checks, 0 problems, 0 war")


def test_adversaries_do_not_break_the_rate():
    space = ActionSpec.box([-1.0], [1.0])
    plant = ShieldPlant(
        start=lambda generator: np.zeros(2), step=rates, violation=lambda s: abs(s[1] - s[0]) - 0.2, tolerance=1e-9
    )
    good = check_shield(RateLimit(space, rise=0.2, initial=[0.0]), plant=plant)
    assert good.ok, str(good)
    assert "hard-guarantee" in good.checks
    broken = check_shield(RateLimit(space, rise=0.2, fall=0.3, initial=[0.0]), plant=plant)
    assert [problem.check for problem in broken.problems] == ["hard-guarantee"]


def test_both_survive_saving(tmp_path):
    bounds = load_shield(save_shield(Bounds(BOX, high=0.5), tmp_path / "bounds"))
    assert (bounds.low.tolist(), bounds.high.tolist()) == ([-1.0, 0.0], [0.5, 0.5])
    rate = load_shield(save_shield(RateLimit(BOX, rise=0.2, fall=[0.1, 0.3], initial=[0.0, 2.0]), tmp_path / "rate"))
    assert (rate.rise.tolist(), rate.fall.tolist(), rate.initial.tolist()) == ([0.2, 0.2], [0.1, 0.3], [0.0, 2.0])
    assert load_shield(save_shield(RateLimit(BOX, rise=0.2), tmp_path / "free")).initial is None
