"""The frame of every shield: what it does with bad input, and how it reads action spaces."""

import time

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, Bounds, Ruling, Shield, ShieldContext, ShieldData, ShieldSpec
from saferl.shields.base import is_finite

BOX = ActionSpec.box([-1.0, 0.0], [1.0, 4.0])
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


class Scripted(Shield):
    """Decides what the test says; falls back to (0.25, 1)."""

    unit = "scripted"

    def __init__(self, answer, *, action_space=BOX, **kwargs):
        super().__init__(action_space, **kwargs)
        self.answer, self.remembered = answer, []

    def spec(self):
        return ShieldSpec(self.unit, (), "empirical")

    def _decide(self, obs, proposed, context):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(proposed) if callable(self.answer) else self.answer

    def _fallback(self, obs, context):
        return [0.25, 1.0]

    def _remember(self, obs, decision, context):
        self.remembered.append(decision.kind)

    def _to_data(self):
        return ShieldData({})

    @classmethod
    def _from_data(cls, data, action_space):
        return cls(None, action_space=action_space)


def unchanged(proposed):
    return Ruling(proposed)


@pytest.mark.parametrize(
    "action", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], None, "left", [], [0.0], np.zeros(3), {"a": 1}, object()]
)
def test_a_proposal_that_is_no_action_is_a_recorded_fallback(action):
    shield = Scripted(unchanged)
    decision = shield.filter(np.zeros(2), action)
    assert (decision.kind, decision.status) == ("fallback", "the proposed action is not finite")
    assert decision.action.tolist() == [0.25, 1.0]
    assert decision.distance == np.inf
    assert shield.remembered == ["fallback"]


@pytest.mark.parametrize("action", [-1, 3, 0.5, np.nan, None, "left", 2.0**60])
def test_a_discrete_action_that_does_not_exist_is_a_recorded_fallback(action):
    shield = Scripted(unchanged, action_space=ActionSpec.discrete(3))
    shield._fallback = lambda obs, context: 2
    decision = shield.filter(np.zeros(2), action)
    assert (decision.kind, int(decision.action), decision.distance) == ("fallback", 2, 1.0)
    assert decision.status == "the proposed action does not exist"


@pytest.mark.parametrize(
    "obs",
    [np.array([0.0, np.nan]), np.array([np.inf]), {"a": np.zeros(1), "b": np.array([np.nan])}, (1.0, float("nan"))],
)
def test_an_observation_that_is_not_finite_is_a_recorded_fallback(obs):
    decision = Scripted(unchanged).filter(obs, [0.0, 0.0])
    assert (decision.kind, decision.status) == ("fallback", "the observation is not finite")


@pytest.mark.parametrize("obs", [None, 3, np.array([True]), {"a": np.zeros(2), "b": {"c": 1}}, ()])
def test_an_observation_without_numbers_that_are_not_finite_is_one(obs):
    assert is_finite(obs)


def test_an_error_inside_is_a_fallback_that_names_it():
    decision = Scripted(ZeroDivisionError("no model")).filter(np.zeros(2), [0.0, 0.0])
    assert (decision.kind, decision.status) == ("fallback", "ZeroDivisionError: no model")


@pytest.mark.parametrize("answer", [[np.nan, 0.0], [np.inf, 0.0], [0.0], None])
def test_a_unit_that_gives_no_action_is_replaced_by_its_fallback(answer):
    decision = Scripted(Ruling(answer, status="solver failed")).filter(np.zeros(2), [0.0, 0.0])
    assert (decision.kind, decision.action.tolist()) == ("fallback", [0.25, 1.0])
    assert decision.status == "scripted gave no action (solver failed)"


def test_an_error_in_the_memory_keeps_the_decision_and_is_recorded():
    shield = Scripted(unchanged)
    shield.remembered = None
    decision = shield.filter(np.zeros(2), [0.5, 0.5])
    assert (decision.kind, decision.action.tolist()) == ("pass", [0.5, 0.5])
    assert decision.status.startswith("ok; memory: AttributeError")


def test_judging_remembers_nothing_and_filtering_does():
    shield = Scripted(unchanged)
    assert shield.judge(np.zeros(2), [0.5, 0.5]).kind == "pass"
    assert shield.remembered == []
    shield.filter(np.zeros(2), [0.5, 0.5])
    assert shield.remembered == ["pass"]


def test_a_fallback_that_fails_is_the_middle_of_the_space():
    shield = Scripted(ZeroDivisionError())
    shield._fallback = None
    assert shield.filter(np.zeros(2), [0.0, 0.0]).action.tolist() == [0.0, 2.0]


def test_a_decision_that_takes_too_long_is_replaced_by_the_fallback():
    def slow(proposed):
        time.sleep(0.002)
        return Ruling(proposed)

    decision = Scripted(slow, time_budget_us=500.0).filter(np.zeros(2), [0.0, 0.0])
    assert decision.kind == "fallback"
    assert decision.status.startswith("took ")
    assert decision.status.endswith(" us of 500")
    assert decision.elapsed_us >= 2_000.0
    assert Scripted(slow).filter(np.zeros(2), [0.0, 0.0]).kind == "pass"


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_time_budget_that_is_none_is_refused(budget):
    with pytest.raises(ConfigError, match="time budget must be positive"):
        Scripted(unchanged, time_budget_us=budget)


@pytest.mark.parametrize(
    ("ruling", "kind"),
    [
        (Ruling([0.5, 0.5], "replaced"), "pass"),
        (Ruling([0.5, 0.5 + 1e-10], "projected"), "pass"),
        (Ruling([0.5, 0.6], "pass"), "projected"),
        (Ruling([0.5, 0.6], "replaced"), "replaced"),
        (Ruling([0.5, 0.5], "infeasible"), "infeasible"),
        (Ruling([0.5, 0.5], "fallback"), "fallback"),
    ],
)
def test_a_pass_is_what_changes_nothing(ruling, kind):
    decision = Scripted(ruling).filter(np.zeros(2), [0.5, 0.5])
    assert decision.kind == kind
    assert decision.intervened == (kind != "pass")


def test_the_distance_is_in_half_ranges_and_the_action_is_clipped():
    decision = Scripted(Ruling([0.5, 9.0])).filter(np.zeros(2), [0.5, 1.0])
    assert decision.action.tolist() == [0.5, 4.0]
    assert decision.distance == 1.5


def test_a_proposal_outside_the_box_is_changed_even_if_the_unit_passes_it():
    decision = Scripted(unchanged).filter(np.zeros(2), [3.0, 1.0])
    assert (decision.kind, decision.distance, decision.action.tolist()) == ("projected", 2.0, [1.0, 1.0])


@given(arrays(np.float64, 2, elements=ANY_FLOAT), arrays(np.float64, 2, elements=ANY_FLOAT))
def test_whatever_is_proposed_and_decided_the_action_is_in_the_space(proposed, answer):
    decision = Scripted(Ruling(answer)).filter(np.zeros(2), proposed)
    assert BOX.contains(decision.action)
    assert np.all(np.isfinite(decision.action))


@pytest.mark.parametrize("wish", [1.7e308, -1.7e308, 1e160])
def test_a_proposal_whose_arithmetic_overflows_is_clipped_without_a_warning(wish):
    decision = Bounds(ActionSpec.box([-0.1, -0.1], [0.1, 0.1])).filter(None, [wish, wish])
    assert (decision.kind, decision.action.tolist()) == ("projected", [np.sign(wish) * 0.1] * 2)


def test_a_batch_is_a_loop_and_a_unit_with_memory_refuses_it():
    shield = Scripted(lambda proposed: Ruling(proposed / 2.0))
    obs, actions = np.zeros((3, 2)), np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 2.0]])
    assert [d.action.tolist() for d in shield.filter_batch(obs, actions)] == (actions / 2.0).tolist()
    with pytest.raises(ValueError, match="argument"):
        shield.filter_batch(obs, actions, [ShieldContext()])
    shield.get_memory = lambda: {}
    with pytest.raises(ConfigError, match="one copy\\(\\) per environment"):
        shield.filter_batch(obs, actions)
    assert len(shield.filter_batch(obs[:1], actions[:1])) == 1


def test_a_decision_is_plain_json():
    data = Scripted(unchanged).filter(np.zeros(2), [np.nan, 0.0]).to_dict()
    assert data["proposed"] == ["nan", 0.0]
    assert (data["distance"], data["margin"], data["action"]) == ("inf", "nan", [0.25, 1.0])


def test_spaces_are_read_by_their_attributes():
    assert ActionSpec.of(spaces.Discrete(3)).n == 3
    box = ActionSpec.of(spaces.Box(-2.0, 2.0, (2, 2)))
    assert (box.dim, box.is_box, box.half_range.tolist()) == (4, True, [2.0] * 4)
    assert ActionSpec.of(BOX) is BOX


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), 7])
def test_other_spaces_are_refused(space):
    with pytest.raises(ConfigError, match="a Box, or of a Discrete that starts at 0"):
        ActionSpec.of(space)


@pytest.mark.parametrize(("low", "high"), [([1.0], [0.0]), ([0.0], [1.0, 2.0]), ([np.nan], [1.0])])
def test_bounds_that_are_none_are_refused(low, high):
    with pytest.raises(ConfigError, match="low <= high of one shape"):
        ActionSpec.box(low, high)


def test_no_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        ActionSpec.discrete(0)


def test_a_unit_refuses_a_space_that_it_does_not_filter():
    with pytest.raises(ConfigError, match="bounds filters actions of a Box space"):
        Bounds(spaces.Discrete(2))


def test_a_discrete_action_is_an_array_without_axes():
    shield = Scripted(unchanged, action_space=ActionSpec.discrete(3))
    for action in (1, np.int64(1), np.array([1]), 1.0):
        executed = shield.filter(None, action).action
        assert isinstance(executed, np.ndarray)
        assert (executed.shape, executed.dtype, int(executed)) == ((), np.int64, 1)


def test_the_middle_is_zero_or_the_nearest_bound_where_a_side_is_open():
    open_box = ActionSpec.box([-np.inf, 2.0, -np.inf], [np.inf, np.inf, -3.0])
    assert open_box.middle.tolist() == [0.0, 2.0, -3.0]
    assert open_box.half_range.tolist() == [1.0, 1.0, 1.0]
    assert open_box.clip([np.nan, np.nan, np.nan]).tolist() == [0.0, 2.0, -3.0]


BOUND = st.floats(-1e6, 1e6) | st.sampled_from([-np.inf, np.inf])


@given(st.lists(st.tuples(BOUND, BOUND), min_size=1, max_size=4))
def test_a_box_survives_json(pairs):
    box = ActionSpec.box([min(p) for p in pairs], [max(p) for p in pairs])
    again = ActionSpec.from_dict(box.to_dict())
    assert again.low.tolist() == box.low.tolist()
    assert again.high.tolist() == box.high.tolist()


@given(st.integers(1, 10**6))
def test_discrete_actions_survive_json(n):
    assert ActionSpec.from_dict(ActionSpec.discrete(n).to_dict()) == ActionSpec.discrete(n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("telepathy",), "hard"), "A need of a shield must be one of"),
        (((), "certain"), "A guarantee must be one of"),
        ((("critic",), "hard"), "must not claim a hard guarantee"),
        ((("cost model",), "hard for the nominal model"), "must not claim a hard guarantee"),
    ],
)
def test_words_outside_the_protocol_and_hard_promises_of_critics_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ShieldSpec("x", *arguments)
