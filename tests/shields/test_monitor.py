"""The monitor warns before a rule breaks, says when it broke, and changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, ConstraintMonitor, ShieldContext, load_shield, save_shield
from saferl.shields.monitor import Signal
from saferl.shields.temporal import Always, AtLeast, AtMost, Either, Eventually, Until
from saferl.testing import check_shield

BOX = ActionSpec.box([-1.0], [1.0])
SPEED = {"speed": Signal("obs[0]", max_change=0.2)}
SLOW = {"slow": Always(AtMost("speed", 1.0))}


@dataclass(frozen=True)
class Power:
    """Speed times push."""

    factor: float = 1.0

    def __call__(self, obs, action, context):
        return self.factor * float(obs[0]) * float(action[0])


def statuses(monitor, speeds):
    return [monitor.filter(np.array([speed]), [0.0]).status for speed in speeds]


def test_it_warns_before_a_rule_can_break_and_says_when_it_broke():
    speeds = (0.5, 0.7, 0.8, 0.9, 1.1, 0.5)
    monitor = ConstraintMonitor(BOX, SPEED, SLOW, lookahead=1)
    assert statuses(monitor, speeds) == ["ok", "ok", "ok", "warning: slow", "violated: slow", "violated: slow"]
    monitor = ConstraintMonitor(BOX, SPEED, SLOW, lookahead=2)
    assert statuses(monitor, speeds) == ["ok", "warning: slow", "warning: slow", "warning: slow"] + 2 * [
        "violated: slow"
    ]
    monitor = ConstraintMonitor(BOX, SPEED, SLOW, lookahead=0)
    assert statuses(monitor, speeds) == ["ok"] * 4 + ["violated: slow"] * 2
    monitor = ConstraintMonitor(BOX, SPEED, SLOW, lookahead=0, warn_below=0.25)
    assert statuses(monitor, speeds)[2] == "warning: slow"


def test_the_margin_is_the_robustness_of_the_episode_so_far():
    monitor = ConstraintMonitor(BOX, SPEED, SLOW)
    margins = [monitor.filter(np.array([speed]), [0.0]).margin for speed in (0.5, 0.75, 0.25, 1.5)]
    assert margins == [0.5, 0.25, 0.25, -0.5]
    assert monitor.states()["slow"].verdict == "violated"
    monitor.reset()
    assert monitor.states()["slow"].verdict == "open"
    assert statuses(monitor, [0.5]) == ["ok"]


def test_nothing_finite_is_changed_even_where_every_rule_is_broken():
    monitor = ConstraintMonitor(BOX, SPEED, SLOW)
    for push in (-1.0, 0.3, 1.0):
        decision = monitor.filter(np.array([5.0]), [push])
        assert (decision.kind, decision.action.tolist()) == ("pass", [push])


def test_the_executed_action_is_remembered_and_the_proposed_one_judged():
    monitor = ConstraintMonitor(BOX, {"push": Signal("action[0]")}, {"soft": Always(AtMost("push", 0.5))}, lookahead=0)
    assert monitor.judge(np.zeros(1), [0.9]).status == "violated: soft"
    assert monitor.filter(np.zeros(1), [0.1]).status == "ok"


def test_signals_are_read_from_everything_that_a_shield_is_told():
    context = ShieldContext(step=7, spent={"cost": 3.0})
    obs = {"wheels": np.array([[1.0, 2.0], [3.0, 4.0]]), "mode": 2}
    sources = {"obs.wheels[2]": 3.0, "obs.mode": 2.0, "action[0]": 0.5, "spent.cost": 3.0, "step": 7.0}
    assert {s: Signal(s).read(obs, np.array([0.5]), context) for s in sources} == sources
    assert Signal("action").read(obs, np.array(3), context) == 3.0
    assert Signal("obs").read(4, np.array(3), context) == 4.0
    assert Signal(Power()).read(np.array([0.5]), np.array([0.5]), context) == 0.25


def test_a_signal_that_cannot_be_read_is_named_and_changes_nothing():
    monitor = ConstraintMonitor(BOX, {"x": Signal("obs[3]", low=-1.0, high=1.0)}, {"r": Always(AtMost("x", 0.0))})
    decision = monitor.filter(np.zeros(1), [0.5])
    assert (decision.kind, decision.status) == ("pass", "warning: r")
    calm = ConstraintMonitor(BOX, {"x": Signal("obs[3]")}, {"r": Eventually(AtMost("x", 0.0))})
    assert calm.filter(np.zeros(1), [0.5]).status == "unknown: x"


def test_a_deadline_is_warned_about_before_it_passes():
    rules = {"charged": Eventually(AtLeast("charge", 0.8), 0, 4)}
    monitor = ConstraintMonitor(BOX, {"charge": Signal("obs[0]")}, rules, lookahead=2)
    assert statuses(monitor, [0.1] * 6) == ["ok", "ok"] + ["warning: charged"] * 2 + ["violated: charged"] * 2


def test_after_a_bad_observation_the_rules_go_on():
    monitor = ConstraintMonitor(BOX, {"x": Signal("obs[0]")}, {"r": Always(AtMost("x", 1.0))}, lookahead=0)
    assert monitor.filter(np.array([np.nan]), [0.0]).kind == "fallback"
    assert statuses(monitor, [0.0, 2.0]) == ["ok", "violated: r"]


@pytest.mark.parametrize("source", ["obs[-1]", "observation[0]", "obs[a]", "reward", "obs[0]x", ""])
def test_sources_that_cannot_be_read_are_refused(source):
    with pytest.raises(ConfigError, match="must look like obs\\[3\\]"):
        Signal(source)


@pytest.mark.parametrize(
    ("signals", "rules", "options", "message"),
    [
        (SPEED, {}, {}, "at least one rule"),
        (SPEED, SLOW, {"lookahead": -1}, "lookahead >= 0"),
        (SPEED, SLOW, {"warn_below": np.nan}, "finite warn_below"),
        ({}, SLOW, {}, "reads \\['speed'\\]; the signals are none"),
        (SPEED, {"r": Always(Always(AtMost("speed", 1.0)))}, {}, "outermost operator"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(signals, rules, options, message):
    with pytest.raises(ConfigError, match=message):
        ConstraintMonitor(BOX, signals, rules, **options)


def full():
    signals = {"speed": Signal("obs[0]", -5.0, 5.0, 0.2), "push": Signal("action[0]"), "power": Signal(Power(2.0))}
    rules = {
        "slow": Always(Either(AtMost("speed", 1.0), Eventually(AtMost("speed", 0.8, 2.0), 0, 5))),
        "start": Until(AtMost("power", 3.0), AtLeast("push", 0.9), 0, 20),
    }
    return ConstraintMonitor(BOX, signals, rules, lookahead=3, warn_below=0.1)


def test_the_unit_keeps_the_protocol():
    report = check_shield(full(), sample_obs=lambda generator: generator.normal(size=1))
    assert str(report).startswith("monitor keeps saferl's contract: 13 checks, 0 problems, 0 warnings."), str(report)


def test_signals_and_rules_survive_saving(tmp_path):
    monitor = full()
    again = load_shield(save_shield(monitor, tmp_path / "monitor"))
    assert (again.signals, again.rules) == (monitor.signals, monitor.rules)
    assert (again.lookahead, again.warn_below) == (3, 0.1)


def test_a_discrete_action_is_watched_too():
    space = ActionSpec.discrete(3)
    monitor = ConstraintMonitor(space, {"a": Signal("action")}, {"r": Always(AtMost("a", 1.0))}, lookahead=0)
    assert [monitor.filter(0, action).status for action in (0, 1, 2)] == ["ok", "ok", "violated: r"]
