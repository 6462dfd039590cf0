"""Units in order: the last word, what is remembered, and what is left of the guarantees."""

from dataclasses import dataclass

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import (
    ActionSpec,
    Bounds,
    CompositeShield,
    ConstraintMonitor,
    RateLimit,
    Ruling,
    Shield,
    ShieldData,
    ShieldSpec,
    SimplexSwitch,
    load_shield,
    save_shield,
)
from saferl.shields.monitor import Signal
from saferl.shields.temporal import Always, AtMost
from saferl.testing import ShieldPlant, check_shield

BOX = ActionSpec.box([-1.0], [1.0])


class Claims(Shield):
    """Passes everything and promises what the test says."""

    unit = "claims"

    def __init__(self, guarantee, needs=(), probability=None):
        super().__init__(BOX)
        self.words = ShieldSpec(self.unit, needs, guarantee, ("Box",), (f"{guarantee} assumed",), probability)

    def spec(self):
        return self.words

    def _decide(self, obs, proposed, context):
        return Ruling(proposed)

    def _to_data(self):
        return ShieldData({})

    @classmethod
    def _from_data(cls, data, action_space):
        return cls("empirical")


@dataclass(frozen=True)
class Stand:
    def __call__(self, state):
        return [0.0]


@dataclass(frozen=True)
class RoomLeft:
    def __call__(self, state):
        return 1.0 - abs(float(state[0]))


@dataclass(frozen=True)
class Drift:
    def __call__(self, state, action):
        return np.array([float(state[0]) + 0.5 * float(action[0])])


def watch(limit=0.5):
    return ConstraintMonitor(BOX, {"push": Signal("action[0]")}, {"soft": Always(AtMost("push", limit))}, lookahead=0)


def test_a_later_unit_sees_what_the_earlier_ones_made_and_has_the_last_word():
    shield = CompositeShield([Bounds(BOX, high=0.6), RateLimit(BOX, rise=0.25, initial=[0.0])])
    decision = shield.filter(None, [0.9])
    assert (decision.action.tolist(), decision.unit, decision.kind) == ([0.25], "rate_limit", "projected")
    assert decision.distance == pytest.approx(0.65)
    assert decision.proposed.tolist() == [0.9]


def test_the_unit_is_the_one_whose_change_was_the_last():
    shield = CompositeShield({"soft": Bounds(BOX, high=0.6), "hard": Bounds(BOX, high=0.8)})
    assert shield.filter(None, [0.9]).unit == "soft"
    assert shield.filter(None, [0.5]).unit == "composite"
    assert shield.filter(None, [0.5]).kind == "pass"


def test_changes_that_cancel_out_are_a_pass():
    shield = CompositeShield({"up": Bounds(BOX, low=0.6), "down": Bounds(BOX, high=0.5)})
    assert shield.filter(None, [0.5]).kind == "pass"


def test_every_unit_remembers_what_was_executed_in_the_end():
    shield = CompositeShield([RateLimit(BOX, rise=0.25, initial=[0.0]), Bounds(BOX, high=0.1)])
    assert shield.filter(None, [1.0]).action.tolist() == [0.1]
    assert shield.get_memory()["rate_limit"]["last"].tolist() == [0.1]


def test_the_words_of_a_watcher_are_carried_and_the_smallest_margin_is_reported():
    shield = CompositeShield([Bounds(BOX, high=0.9), watch()])
    decision = shield.filter(None, [0.75])
    assert (decision.kind, decision.status) == ("pass", "monitor: violated: soft")
    assert decision.margin == -0.25
    assert CompositeShield([Bounds(BOX, high=0.75), watch(0.9)]).filter(None, [0.5]).margin == 0.25


def test_the_name_of_a_nested_unit_is_a_path():
    inner = CompositeShield({"limit": Bounds(BOX, high=0.5)})
    decision = CompositeShield({"inner": inner, "rate": RateLimit(BOX, rise=2.0)}).filter(None, [0.9])
    assert (decision.unit, decision.action.tolist()) == ("inner/limit", [0.5])


def test_a_fallback_is_that_of_the_first_unit_filtered_by_the_others():
    shield = CompositeShield([Bounds(BOX, low=0.5), RateLimit(BOX, rise=0.25, initial=[0.0])])
    assert shield.filter(np.zeros(1), [np.nan]).action.tolist() == [0.25]
    # Without an observation the last unit alone can say.
    assert shield.filter(np.array([np.nan]), [0.0]).action.tolist() == [0.25]
    assert shield.get_memory()["rate_limit"]["last"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("children", "guarantee", "probability"),
    [
        ([Claims("empirical"), Claims("hard")], "hard", None),
        ([Claims("hard"), Claims("empirical")], "empirical", None),
        ([Claims("hard"), Claims("hard for the nominal model")], "hard for the nominal model", None),
        ([Claims("empirical"), Claims("episode probability", probability=0.9)], "empirical", None),
        ([Claims("hard"), Claims("episode probability", probability=0.9)], "episode probability", 0.9),
        ([Claims("expectation"), Claims("episode probability", probability=0.9)], "expectation", None),
        ([Claims("hard"), watch()], "hard", None),
        ([watch(), Claims("expectation")], "expectation", None),
        ([watch()], "empirical", None),
    ],
)
def test_the_guarantee_is_the_last_ones_if_hard_and_otherwise_the_weakest(children, guarantee, probability):
    spec = CompositeShield({f"unit {n}": child for n, child in enumerate(children)}).spec()
    assert (spec.guarantee, spec.probability) == (guarantee, probability)


def test_the_assumptions_say_whose_guarantee_holds_and_needs_are_added_up():
    twin = Claims("hard", ("twin",))
    spec = CompositeShield({"learned": Claims("empirical", ("critic", "bounds")), "safe": twin}).spec()
    assert spec.needs == ("twin", "bounds")
    assert spec.assumptions[0].startswith("What safe guarantees holds")
    assert "safe: hard assumed" in spec.assumptions
    assert "learned: it needs a critic, on which the guarantee does not rest." in spec.assumptions
    assert CompositeShield({"safe": twin, "learned": Claims("empirical", ("critic",))}).spec().needs == (
        "critic", "twin",
    )  # fmt: skip
    assert CompositeShield({"one": twin}).spec().assumptions == ("one: hard assumed",)


def test_certified_is_what_every_unit_that_acts_certifies():
    simplex = SimplexSwitch(BOX, Stand(), RoomLeft(), model=Drift())
    shield = CompositeShield([simplex, Bounds(BOX), watch()])
    assert [shield.certifies(np.array([x])) for x in (0.5, 1.5)] == [True, False]
    assert not CompositeShield([Claims("hard"), Bounds(BOX)]).certifies(np.zeros(1))


@pytest.mark.parametrize(
    ("children", "message"),
    [
        ([], "at least one unit"),
        ({}, "at least one unit"),
        ([Bounds(BOX), Bounds(BOX)], "Give a mapping"),
        ({"a/b": Bounds(BOX)}, "without '/'"),
        ([Bounds(BOX), RateLimit(ActionSpec.box([-1.0], [2.0]), rise=0.1)], "\\['rate_limit'\\] have another"),
    ],
)
def test_units_that_do_not_fit_are_refused(children, message):
    with pytest.raises(ConfigError, match=message):
        CompositeShield(children)


def test_a_composite_without_memory_filters_batches():
    shield = CompositeShield({"a": Bounds(BOX, high=0.5), "b": Bounds(BOX, low=0.0)})
    assert shield.get_memory() is None
    actions = [d.action.tolist() for d in shield.filter_batch(np.zeros((3, 1)), np.array([[-1.0], [0.2], [1.0]]))]
    assert actions == [[0.0], [0.2], [0.5]]


def whole():
    simplex = SimplexSwitch(BOX, Stand(), RoomLeft(), model=Drift(), leave=0.25, dwell=1)
    return CompositeShield({"limits": Bounds(BOX, -0.8, 0.8), "switch": simplex, "watch": watch(0.7)})


def test_the_unit_keeps_the_protocol_and_the_plant_of_its_last_unit_safe():
    plant = ShieldPlant(
        start=lambda generator: generator.uniform(-1.2, 1.2, 1),
        step=lambda state, action, _: Drift()(state, action),
        violation=lambda state: abs(float(state[0])) - 1.0,
    )
    report = check_shield(whole(), plant=plant)
    assert (report.ok, report.warnings, report.skipped, len(report.checks)) == (True, (), (), 14), str(report)


def test_units_survive_saving_in_their_order(tmp_path):
    again = load_shield(save_shield(CompositeShield({"b": whole(), "a": RateLimit(BOX, 0.3)}), tmp_path / "whole"))
    assert list(again.children) == ["b", "a"]
    assert list(again.children["b"].children) == ["limits", "switch", "watch"]
    assert again.children["b"].children["switch"].leave == 0.25
    assert again.children["a"].rise.tolist() == [0.3]
