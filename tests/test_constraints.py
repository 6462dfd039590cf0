"""A constraint is well formed or an error, and keeps its order and values through every copy."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferl.constraints import KINDS, Constraint, ConstraintSet
from saferl.errors import ConstraintError, UnknownNameError

finite = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0.0, exclude_min=True, allow_nan=False, allow_infinity=False)


@st.composite
def constraints(draw):
    kind = draw(st.sampled_from(KINDS))
    return Constraint(
        name=draw(st.text(min_size=1)),
        budget=draw(st.floats(0.0, 1.0) if kind == "probability" else finite),
        kind=kind,
        gamma=draw(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)) if kind == "discounted" else 1.0,
        sense=draw(st.sampled_from(["<=", ">="])),
        max_step_cost=draw(st.none() | positive),
    )


sets = st.lists(constraints(), max_size=5, unique_by=lambda c: c.name).map(ConstraintSet)


def three():
    return ConstraintSet([Constraint("vases", 3.0), Constraint("hazards", 25.0), Constraint("gremlins", 1.0)])


@settings(deadline=None)
@given(constraints())
def test_a_constraint_survives_json_exactly(constraint):
    assert Constraint.from_dict(json.loads(json.dumps(constraint.to_dict(), allow_nan=False))) == constraint


@settings(deadline=None)
@given(sets)
def test_a_set_survives_json_and_pickle_in_order(chosen):
    assert ConstraintSet.from_list(json.loads(json.dumps(chosen.to_list(), allow_nan=False))) == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen


@settings(deadline=None)
@given(constraints(), finite)
def test_the_sign_turns_every_violation_positive(constraint, value):
    is_violated = value > constraint.budget if constraint.sense == "<=" else value < constraint.budget
    assert (constraint.sign * (value - constraint.budget) > 0) == is_violated


@pytest.mark.parametrize("budget", [-1, -1e-300, -math.inf, math.inf, math.nan, np.float64("nan"), np.float32("-inf")])
def test_a_budget_that_is_negative_or_not_finite_is_an_error(budget):
    with pytest.raises(ConstraintError, match=r"Constraint 'speed': the budget must be finite and at least 0; got"):
        Constraint("speed", budget)


@pytest.mark.parametrize(
    "budget", ["25", "", b"1", None, True, False, np.True_, [25.0], np.array(25.0), {"cost": 1}, 1j, np.complex128(1)]
)
def test_a_budget_that_is_not_a_number_is_an_error(budget):
    with pytest.raises(ConstraintError, match=r"Constraint 'speed': the budget must be a number; got"):
        Constraint("speed", budget)


def test_a_budget_too_large_for_a_float_is_an_error():
    with pytest.raises(ConstraintError, match="too large"):
        Constraint("speed", 10**400)


@pytest.mark.parametrize("budget", [0, 25, 1e300, np.int64(3), np.float32(0.5), np.uint8(7)])
def test_any_real_number_is_a_budget_and_is_kept_as_a_float(budget):
    constraint = Constraint("speed", budget)
    assert type(constraint.budget) is float
    assert constraint.budget == budget


def test_a_budget_of_zero_is_allowed_and_negative_zero_is_zero():
    assert Constraint("speed", 0.0) == Constraint("speed", -0.0)


@pytest.mark.parametrize("name", ["", None, 3, ["cost"]])
def test_a_name_that_is_not_text_is_an_error(name):
    with pytest.raises(ConstraintError, match="name must be a non-empty string"):
        Constraint(name, 1.0)


def test_an_unknown_kind_is_answered_with_the_nearest_one():
    with pytest.raises(
        UnknownNameError, match=r"kind of constraint 'speed': 'episode_sun'. Did you mean 'episode_sum'"
    ):
        Constraint("speed", 1.0, kind="episode_sun")


def test_the_kinds_are_these():
    assert KINDS == ("episode_sum", "discounted", "step_rate", "statewise", "probability", "cvar")


@pytest.mark.parametrize("sense", ["<", "=<", "==", None, ""])
def test_an_unknown_sense_is_an_error(sense):
    with pytest.raises(ConstraintError, match="sense must be '<=' or '>='"):
        Constraint("speed", 1.0, sense=sense)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_a_discounted_constraint_needs_a_discount_between_0_and_1(gamma):
    with pytest.raises(ConstraintError, match="0 < gamma < 1"):
        Constraint("speed", 1.0, kind="discounted", gamma=gamma)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "discounted"])
@pytest.mark.parametrize("gamma", [0.99, math.nan])
def test_a_discount_with_any_other_kind_is_an_error(kind, gamma):
    with pytest.raises(ConstraintError, match="Leave gamma out or choose kind='discounted'"):
        Constraint("speed", 1.0, kind=kind, gamma=gamma)


@pytest.mark.parametrize("kind", ["discounted", "episode_sum"])
@pytest.mark.parametrize("gamma", ["0.9", None, True])
def test_a_discount_that_is_not_a_number_is_an_error(kind, gamma):
    with pytest.raises(ConstraintError, match="gamma must be a number"):
        Constraint("speed", 1.0, kind=kind, gamma=gamma)


def test_a_probability_above_1_is_an_error_and_1_is_not():
    assert Constraint("crash", 1.0, kind="probability").budget == 1.0
    with pytest.raises(ConstraintError, match=r"must lie in \[0, 1\]; got 1.5"):
        Constraint("crash", 1.5, kind="probability")


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, "1", True])
def test_a_bound_on_the_step_cost_must_be_a_positive_finite_number(bound):
    with pytest.raises(ConstraintError, match="max_step_cost must be"):
        Constraint("speed", 1.0, max_step_cost=bound)


def test_a_constraint_cannot_be_changed():
    with pytest.raises(AttributeError):
        Constraint("speed", 1.0).budget = 2.0


@pytest.mark.parametrize(
    ("kind", "gamma", "text"),
    [
        ("episode_sum", 1.0, "E[sum of speed per episode] >= 0.5"),
        ("discounted", 0.9, "E[discounted sum of speed, gamma 0.9] >= 0.5"),
        ("step_rate", 1.0, "E[speed per step] >= 0.5"),
        ("statewise", 1.0, "speed of every step >= 0.5"),
        ("probability", 1.0, "P(an episode has any speed) >= 0.5"),
        ("cvar", 1.0, "CVaR[sum of speed per episode] >= 0.5"),
    ],
)
def test_a_constraint_describes_itself(kind, gamma, text):
    assert Constraint("speed", 0.5, kind=kind, gamma=gamma, sense=">=").describe() == text


def test_reading_an_unknown_field_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"constraint field 'bugdet'\. Did you mean 'budget'"):
        Constraint.from_dict({"name": "speed", "bugdet": 1.0})


@pytest.mark.parametrize("data", [{}, {"name": "speed"}, {"budget": 1.0}])
def test_reading_a_constraint_without_name_or_budget_is_an_error(data):
    with pytest.raises(ConstraintError, match="at least name and budget"):
        Constraint.from_dict(data)


def test_reading_a_malformed_budget_is_an_error():
    with pytest.raises(ConstraintError, match="must be a number; got '25'"):
        Constraint.from_dict({"name": "speed", "budget": "25"})


def test_a_set_keeps_the_order_it_was_given():
    chosen = three()
    assert chosen.names == ("vases", "hazards", "gremlins")
    assert [constraint.name for constraint in chosen] == list(chosen.names)
    np.testing.assert_array_equal(chosen.budgets, [3.0, 25.0, 1.0])
    assert chosen != ConstraintSet(reversed(chosen))


def test_a_set_is_read_by_position_name_and_slice():
    chosen = three()
    assert chosen[1] is chosen["hazards"]
    assert chosen[-1].name == "gremlins"
    assert chosen[1:] == ConstraintSet([chosen[1], chosen[2]])
    assert len(chosen) == 3


def test_an_unknown_name_in_a_set_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'hazards'"):
        three()["hazard"]


def test_signs_follow_the_senses():
    chosen = ConstraintSet([Constraint("cost", 1.0), Constraint("profit", 1.0, sense=">=")])
    np.testing.assert_array_equal(chosen.signs, [1.0, -1.0])


def test_an_empty_set_has_empty_arrays():
    assert ConstraintSet().names == ()
    assert ConstraintSet().budgets.shape == ConstraintSet().signs.shape == (0,)


def test_two_constraints_of_one_name_are_an_error():
    with pytest.raises(ConstraintError, match="names must differ"):
        ConstraintSet([Constraint("cost", 1.0), Constraint("cost", 2.0)])


def test_a_set_holds_constraints_only():
    with pytest.raises(ConstraintError, match="holds Constraint objects; got"):
        ConstraintSet([{"name": "cost", "budget": 1.0}])


def test_equal_sets_hash_equally_and_differ_by_any_field():
    assert hash(three()) == hash(three())
    assert three() != three().with_budgets({"vases": 4.0})
    assert three() != list(three())


def test_new_budgets_replace_only_those_named_and_keep_everything_else():
    before = ConstraintSet([Constraint("a", 1.0, max_step_cost=2.0), Constraint("b", 1.0, kind="cvar")])
    after = before.with_budgets({"b": 7})
    assert after == ConstraintSet([Constraint("a", 1.0, max_step_cost=2.0), Constraint("b", 7.0, kind="cvar")])
    np.testing.assert_array_equal(before.budgets, [1.0, 1.0])


def test_a_budget_for_an_unknown_cost_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"'hazard'\. Did you mean 'hazards'"):
        three().with_budgets({"hazard": 1.0})


@pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf, "1", True])
def test_a_malformed_new_budget_is_an_error(budget):
    with pytest.raises(ConstraintError, match="Constraint 'vases': the budget must be"):
        three().with_budgets({"vases": budget})


def test_a_kind_that_is_not_supported_is_an_error_that_names_kind_cost_and_who_refuses():
    chosen = ConstraintSet([Constraint("a", 1.0), Constraint("b", 1.0, kind="cvar")])
    chosen.require_kinds(["cvar", "episode_sum"], by="CPO")
    with pytest.raises(ConstraintError, match=r"CPO supports .* episode_sum; got 'cvar' for 'b'"):
        chosen.require_kinds(["episode_sum"], by="CPO")


def test_an_empty_set_needs_no_kind():
    empty = ConstraintSet()
    empty.require_kinds([], by="CPO")
    assert len(empty) == 0


UNITS = {
    "a sum per episode as a rate": (
        Constraint("c", 25.0, "step_rate", max_step_cost=1.0),
        r"'c' must be at most 1, the most that E\[c per step\] can be \(1 per step\); got 25, which limits nothing\. "
        r"A sum per episode is kind='episode_sum', which is 0\.025 per step of 1000; a rate is between 0 and 1\.",
    ),
    "a sum per episode as a limit on every step": (
        Constraint("c", 25.0, "statewise", max_step_cost=2.0),
        r"at most 2, the most that c of every step can be \(2 per step\).* a limit on every step is between 0 and 2\.",
    ),
    "a sum per episode as a discounted one": (
        Constraint("c", 25.0, "discounted", 0.9, max_step_cost=1.0),
        r"at most 10, the most that E\[discounted sum of c, gamma 0\.9\] can be \(1 per step / \(1 - 0\.9\)\); got 25"
        r".* A sum per episode is kind='episode_sum'; p per step is p / \(1 - gamma\) discounted\.",
    ),
    "a utility beyond what an episode can earn": (
        Constraint("c", 1500.0, sense=">=", max_step_cost=1.0),
        r"at most 1000, the most that E\[sum of c per episode\] can be \(1 per step x 1000 steps\); got 1500, which no",
    ),
    "a utility that no policy reaches": (
        Constraint("c", 25.0, "step_rate", sense=">=", max_step_cost=1.0),
        r"got 25, which no policy can reach",
    ),
}


@pytest.mark.parametrize(("constraint", "message"), UNITS.values(), ids=UNITS)
def test_a_budget_in_other_units_than_its_kind_is_an_error_that_says_how_to_write_it(constraint, message):
    with pytest.raises(ConstraintError, match="^PPOLag: the budget of .*" + message):
        ConstraintSet([constraint]).require_units(1000, by="PPOLag")


@settings(deadline=None)
@given(constraints(), st.integers(1, 10_000), st.floats(0.0, 1.0))
def test_a_budget_within_what_can_occur_has_the_right_units(constraint, horizon, share):
    most = constraint.largest(horizon)
    if most is not None and math.isfinite(most):
        replace(constraint, budget=share * most).require_units(horizon, by="PPOLag")
        if constraint.sense == ">=" and constraint.kind != "probability" and 1e-300 < most < 1e300:
            with pytest.raises(ConstraintError, match="which no policy can reach"):
                replace(constraint, budget=1.01 * most).require_units(horizon, by="PPOLag")


@pytest.mark.parametrize("kind", ["episode_sum", "cvar"])
def test_a_limit_per_episode_that_cannot_bind_is_a_baseline_and_accepted(kind):
    limit = Constraint("c", 1500.0, kind, max_step_cost=1.0)
    limit.require_units(1000, by="PPOLag")
    with pytest.raises(ConstraintError, match="which no policy can reach"):
        replace(limit, sense=">=").require_units(1000, by="PPOLag")


def test_where_no_bound_is_known_any_budget_has_the_right_units():
    Constraint("c", 1e6).require_units(1000, by="PPOLag")
    Constraint("c", 1e6, max_step_cost=1.0).require_units(None, by="PPOLag")
    assert Constraint("c", 0.5, "probability").largest() == 1.0
