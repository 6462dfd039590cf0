"""Robustness of rules against the definition, and intervals over prefixes against every continuation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferl.errors import ConfigError
from saferl.shields.temporal import (
    Always,
    AtLeast,
    AtMost,
    Both,
    Either,
    Eventually,
    Not,
    Progress,
    Range,
    RuleMonitor,
    RuleState,
    Until,
    horizon_of,
    signals_of,
)

X = {"x": Range(low=-2.0, high=2.0, max_change=0.5)}
LOW, HIGH = AtMost("x", 1.0), AtLeast("x", 0.5)


def by_definition(formula, x, t):
    """Robustness at step t of a whole trace, straight from the table; windows without an end last to the end of x."""
    last = len(x) - 1
    match formula:
        case AtMost(_, bound, scale):
            return (bound - x[t]) / scale
        case AtLeast(_, bound, scale):
            return (x[t] - bound) / scale
        case Not(part):
            return -by_definition(part, x, t)
        case Both(a, b):
            return min(by_definition(a, x, t), by_definition(b, x, t))
        case Either(a, b):
            return max(by_definition(a, x, t), by_definition(b, x, t))
        case Always(part, start, end):
            return min(by_definition(part, x, s) for s in range(t + start, (last if end is None else t + end) + 1))
        case Eventually(part, start, end):
            return max(by_definition(part, x, s) for s in range(t + start, (last if end is None else t + end) + 1))
        case Until(hold, goal, start, end):
            return max(
                min([by_definition(goal, x, s), *(by_definition(hold, x, r) for r in range(t, s))])
                for s in range(t + start, (last if end is None else t + end) + 1)
            )


def follow(formula, x, **options):
    monitor = RuleMonitor(formula, X, **options)
    states = []
    for value in x:
        states.append(monitor.state((value,)))
        monitor.add((value,))
    return states


ATOMS = st.builds(AtMost, st.just("x"), st.sampled_from([-1.0, 0.0, 1.0]), st.sampled_from([1.0, 2.0])) | st.builds(
    AtLeast, st.just("x"), st.sampled_from([-1.0, 0.0, 1.0])
)


def windows(kind, *parts):
    return st.tuples(st.integers(0, 2), st.integers(0, 2)).flatmap(
        lambda w: st.builds(kind, *parts, st.just(w[0]), st.just(w[0] + w[1]))
    )


def grow(parts):
    return (
        st.builds(Not, parts)
        | st.builds(Both, parts, parts)
        | st.builds(Either, parts, parts)
        | windows(Always, parts)
        | windows(Eventually, parts)
        | windows(Until, parts, parts)
    )


BOUNDED = st.recursive(ATOMS, grow, max_leaves=4)
ENDLESS = (
    st.builds(Always, BOUNDED, st.integers(0, 2))
    | st.builds(Eventually, BOUNDED, st.integers(0, 2))
    | st.builds(Until, BOUNDED, BOUNDED, st.integers(0, 2))
)


def walk(generator, start, steps):
    x = [start]
    for _ in range(steps):
        x.append(float(np.clip(x[-1] + generator.uniform(-0.5, 0.5), -2.0, 2.0)))
    return x


@given(BOUNDED, st.integers(0, 2**20))
@settings(max_examples=150, deadline=None)
def test_a_rule_with_an_end_has_the_robustness_of_the_definition(formula, seed):
    x = walk(np.random.default_rng(seed), 0.0, horizon_of(formula) + 3)
    expected = by_definition(formula, x, 0)
    for state in follow(formula, x)[horizon_of(formula) :]:
        assert state.lower == state.upper == state.ahead == expected


@given(BOUNDED | ENDLESS, st.integers(0, 2**20), st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_the_interval_of_a_prefix_holds_every_continuation(formula, seed, length, lookahead):
    generator = np.random.default_rng(seed)
    past = walk(generator, 0.0, length - 1)
    state = follow(formula, past, lookahead=lookahead)[-1]
    assert state.lower <= state.ahead <= state.upper
    # Longer than every window: up to 2 + 4 levels of 4 steps.
    ends = [walk(generator, past[-1], 24)[1:] for _ in range(4)]
    for sign in (-0.5, 0.5):
        ends.append([float(np.clip(past[-1] + sign * (j + 1), -2.0, 2.0)) for j in range(24)])
    for end in ends:
        x = past + end
        low, high = by_definition_endless(formula, x) if is_endless(formula) else (by_definition(formula, x, 0),) * 2
        assert low <= state.upper + 1e-12
        assert high >= state.lower - 1e-12


def is_endless(formula):
    return getattr(formula, "end", 0) is None


def by_definition_endless(formula, x):
    """Between what the robustness of an endless rule lies if a trace goes on: it only sinks, or only rises."""
    parts = [formula.hold, formula.goal] if isinstance(formula, Until) else [formula.part]
    last = len(x) - 1 - max(horizon_of(part) for part in parts)
    finite = type(formula)(*parts, formula.start, last)
    value = by_definition(finite, x, 0)
    return (-math.inf, value) if isinstance(formula, Always) else (value, math.inf)


def test_the_interval_of_always_is_what_the_definition_says_by_hand():
    (state,) = follow(Always(LOW, 0, 2), [0.25])
    # Now 0.75; at worst x rises to 0.75 and 1.25; at best it falls.
    assert state == RuleState(lower=-0.25, upper=0.75, ahead=0.75)
    assert follow(Always(LOW, 0, 2), [0.25], lookahead=1)[0].ahead == 0.25
    assert follow(Always(LOW, 0, 2), [0.25], lookahead=2)[0].ahead == -0.25


def test_a_deadline_comes_closer():
    # x can rise by 0.5 per step and must reach 0.5 within 3 steps; it sinks instead.
    states = follow(Eventually(HIGH, 0, 3), [0.0, -0.5, -1.0, -1.0])
    assert [state.upper for state in states] == [1.0, 0.0, -0.5, -0.5]
    assert [state.verdict for state in states] == ["open", "open", "violated", "violated"]


def test_a_lookahead_warns_before_the_deadline():
    # Without a range or a rate, only the deadline itself is known.
    monitor = RuleMonitor(Eventually(HIGH, 0, 3), {"x": Range()}, lookahead=2)
    ahead = []
    for value in (0.0, 0.0, 0.0, 0.0):
        ahead.append(monitor.state((value,)).ahead)
        monitor.add((value,))
    assert ahead == [math.inf, -0.5, -0.5, -0.5]


def test_what_was_broken_once_stays_broken_and_what_was_reached_stays_reached():
    assert [s.verdict for s in follow(Always(LOW), [0.0, 1.5, 0.0])] == ["open", "violated", "violated"]
    assert [s.verdict for s in follow(Eventually(HIGH), [0.0, 0.5, 0.0])] == ["open", "satisfied", "satisfied"]


def test_until_needs_the_goal_and_what_holds_before_it():
    rule = Until(LOW, AtLeast("x", 1.2), 0, None)
    assert [s.verdict for s in follow(rule, [0.0, 0.5, 1.0, 1.3])] == ["open", "open", "open", "satisfied"]
    assert [s.verdict for s in follow(rule, [0.0, 0.5, 1.1, 1.3])] == ["open", "open", "violated", "violated"]


def test_a_response_is_asked_for_again_and_again():
    """Whenever x is above 1 it must be back within two steps."""
    rule = Always(Either(LOW, Eventually(AtMost("x", 0.8), 0, 2)))
    assert [s.verdict for s in follow(rule, [1.1, 1.0, 0.7, 1.2, 1.2, 0.8, 0.0])] == ["open"] * 7
    late = follow(rule, [0.0, 1.1, 1.1, 1.3, 0.8, 0.0])
    assert [s.verdict for s in late] == ["open"] * 3 + ["violated"] * 3
    assert late[3].upper == pytest.approx(-0.1)


def test_a_range_can_decide_a_rule_for_ever():
    assert follow(Always(AtMost("x", 3.0)), [0.0])[0].verdict == "satisfied"
    assert follow(Eventually(AtLeast("x", 3.0)), [0.0])[0].verdict == "violated"


def test_a_step_that_is_not_known_counts_as_any_value():
    monitor = RuleMonitor(Always(LOW, 0, 1), X)
    monitor.add((math.nan,))
    monitor.add((0.0,))
    assert monitor.state() == RuleState(lower=-1.0, upper=1.0, ahead=1.0)


def test_the_memory_of_an_endless_rule_is_bounded_and_survives_as_data():
    rule = Always(Either(LOW, Eventually(AtMost("x", 0.8), 0, 5)))
    monitor, other = RuleMonitor(rule, X), RuleMonitor(rule, X)
    x = walk(np.random.default_rng(3), 0.0, 500)
    for value in x[:400]:
        monitor.add((value,))
        assert len(monitor.progress.samples) <= 5
    other.progress = Progress.from_data(monitor.progress.to_data())
    for value in x[400:]:
        assert other.state((value,)) == monitor.state((value,))
        monitor.add((value,))
        other.add((value,))


@given(ENDLESS, st.integers(0, 2**20))
@settings(max_examples=50, deadline=None)
def test_a_verdict_once_given_never_changes(formula, seed):
    verdicts = [s.verdict for s in follow(formula, walk(np.random.default_rng(seed), 0.0, 30))]
    decided = next((v for v in verdicts if v != "open"), "open")
    first = verdicts.index(decided)
    assert all(verdict == decided for verdict in verdicts[first:])


@given(BOUNDED | ENDLESS, st.integers(0, 2**20))
@settings(max_examples=100, deadline=None)
def test_the_interval_only_shrinks(formula, seed):
    states = follow(formula, walk(np.random.default_rng(seed), 0.0, 15))
    for before, after in itertools.pairwise(states):
        assert after.lower >= before.lower - 1e-12
        assert after.upper <= before.upper + 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtMost("x", math.inf), "finite bound"),
        (lambda: AtLeast("x", 0.0, scale=0.0), "scale above 0"),
        (lambda: Always(LOW, -1), "0 <= start <= end"),
        (lambda: Eventually(LOW, 3, 2), "0 <= start <= end"),
        (lambda: Range(low=1.0, high=0.0), "low <= high"),
        (lambda: Range(max_change=-1.0), "at least 0"),
        (lambda: RuleMonitor(Always(Eventually(LOW)), X), "outermost operator of a rule only"),
        (lambda: RuleMonitor(AtMost("y", 1.0), X), "reads \\['y'\\]; the signals are x"),
        (lambda: RuleMonitor("x <= 1", X), "must be made of the classes"),
    ],
)
def test_rules_that_are_none_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_signals_are_found_in_every_part():
    rule = Until(Not(AtMost("a", 1.0)), Both(AtLeast("b", 1.0), Either(LOW, AtMost("c", 2.0))), 1, 5)
    assert signals_of(rule) == {"a", "b", "c", "x"}
    assert horizon_of(rule) == 5
