"""Rules for single steps, on a state whose three actions have the risks 0.1, 0.2 and 0.6."""

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, TabularStepShield, load_shield, save_shield
from saferl.testing import check_shield

RISKS = (0.1, 0.2, 0.6)
SPACE = ActionSpec.discrete(3)
UNSAFE = [False, False, True]


def chain(risks=RISKS):
    """State 0 decides between safety (1) and danger (2), once."""
    transitions = np.zeros((3, 3, 3))
    transitions[0] = [[0.0, 1.0 - risk, risk] for risk in risks]
    transitions[1, :, 1] = transitions[2, :, 2] = 1.0
    return transitions


def shield(delta, rule, risks=RISKS):
    return TabularStepShield(SPACE, chain(risks), UNSAFE, delta=delta, rule=rule)


@pytest.mark.parametrize(
    ("rule", "delta", "allowed"),
    [
        ("ratio", 0.0, [True, True, True]),
        ("ratio", 0.5, [True, True, False]),  # 0.5 * 0.2 <= 0.1
        ("ratio", 0.51, [True, False, False]),
        ("ratio", 1.0, [True, False, False]),
        ("complement", 0.0, [True, True, True]),
        ("complement", 0.8, [True, True, False]),  # 1 - risk >= 0.72
        ("complement", 0.9, [True, False, False]),  # 1 - risk >= 0.81
        ("threshold", 0.0, [True, False, False]),
        ("threshold", 0.2, [True, True, False]),
        ("threshold", 0.6, [True, True, True]),
    ],
)
def test_rules_allow_what_they_say(rule, delta, allowed):
    assert shield(delta, rule).allowed[0].tolist() == allowed


def test_a_blocked_action_is_replaced_by_the_safest_one():
    decisions = [shield(0.8, "complement").filter(0, action) for action in range(3)]
    assert [(d.kind, int(d.action)) for d in decisions] == [("pass", 0), ("pass", 1), ("replaced", 0)]
    assert decisions[1].margin == pytest.approx(0.8 - 0.72)
    assert decisions[2].margin == pytest.approx(0.4 - 0.72)


def test_the_ratio_degenerates_where_an_action_is_surely_safe_and_the_complement_does_not():
    risks = (0.0, 0.01, 0.6)
    assert shield(0.1, "ratio", risks).allowed[0].tolist() == [True, False, False]
    assert shield(0.9, "complement", risks).allowed[0].tolist() == [True, True, False]


def test_the_spec_says_the_largest_risk_of_a_step():
    assert shield(0.8, "complement").spec().probability == pytest.approx(0.2)
    assert shield(0.0, "ratio").spec().probability == pytest.approx(0.6)
    assert shield(0.8, "complement").spec().guarantee == "per-step probability"


def test_only_states_without_risk_are_certified():
    unit = shield(0.8, "complement")
    assert [unit.certifies(state) for state in (0, 1, 2, 3)] == [False, True, False, False]


def test_it_travels_as_data(tmp_path):
    unit = shield(0.5, "ratio")
    other = load_shield(save_shield(unit, tmp_path / "step"))
    assert (other.rule, other.delta) == ("ratio", 0.5)
    assert np.array_equal(other.allowed, unit.allowed)


def test_the_unit_keeps_the_protocol():
    report = check_shield(shield(0.8, "complement"), sample_obs=lambda g: int(g.integers(3)))
    assert report.ok, str(report)


@pytest.mark.parametrize(("delta", "rule"), [(-0.1, "ratio"), (1.1, "complement"), (0.5, "guess")])
def test_unknown_rules_and_deltas_are_refused(delta, rule):
    with pytest.raises(ConfigError, match="ratio, complement, threshold"):
        shield(delta, rule)
