"""The baseline takes over before the set is left, and gives back with hysteresis."""

from dataclasses import dataclass

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, SimplexSwitch, load_shield, save_shield
from saferl.testing import ShieldPlant, check_shield

ONE = ActionSpec.box([-1.0], [1.0])
DT = 0.1


@dataclass(frozen=True)
class Brake:
    """The strongest deceleration of a mass on a line, until it stands still."""

    def __call__(self, state):
        return [-np.clip(float(state[1]) / DT, -1.0, 1.0)]


@dataclass(frozen=True)
class Room:
    """How far the furthest point of a full braking from here is from a wall at |x| = 1."""

    def __call__(self, state):
        x, v = float(state[0]), float(state[1])
        furthest = max(abs(x), abs(x + np.sign(v) * (v * v / 2.0 + abs(v) * DT)))
        return 1.0 - furthest


@dataclass(frozen=True)
class Mass:
    """One exact step of the mass on a line."""

    push: float = 0.0

    def __call__(self, state, action):
        x, v, u = float(state[0]), float(state[1]), float(action[0]) + self.push
        return np.array([x + v * DT + u * DT * DT / 2.0, v + u * DT])


def switch(**options):
    return SimplexSwitch(ONE, Brake(), Room(), **{"model": Mass(), **options})


def line(**options):
    """A point on a line with a wall at 1, where the barrier is the room left and standing still is the baseline."""
    shield = SimplexSwitch(ONE, lambda x: [0.0], lambda x: 1.0 - float(x[0]), **options)
    return lambda x, wish=0.5: shield.filter(np.array([x]), [wish])


def test_the_baseline_takes_over_where_one_step_would_leave_the_set():
    decide = line(model=lambda x, u: x + u)
    assert decide(0.4).kind == "pass"
    handed = decide(0.6)
    assert (handed.kind, handed.status, handed.action.tolist()) == ("replaced", "baseline", [0.0])
    assert handed.margin == pytest.approx(-0.1)
    assert decide(0.4).kind == "pass"


def test_between_the_thresholds_the_one_in_charge_stays():
    decide = line(enter=0.2, leave=0.5)
    assert [decide(x).kind for x in (0.7, 0.81, 0.7, 0.51, 0.49, 0.7)] == [
        "pass", "replaced", "replaced", "replaced", "pass", "pass",
    ]  # fmt: skip


def test_the_baseline_dwells():
    decide = line(enter=0.2, dwell=2)
    assert [decide(x).kind for x in (0.9, 0.0, 0.0, 0.0)] == ["replaced", "replaced", "replaced", "pass"]


def test_a_barrier_that_is_no_number_hands_over_and_never_back():
    shield = SimplexSwitch(ONE, lambda x: [0.0], lambda x: float("nan") if x[0] < 0 else 1.0, enter=0.1)
    assert shield.filter(np.array([-1.0]), [0.5]).kind == "replaced"
    assert shield.filter(np.array([-1.0]), [0.5]).kind == "replaced"
    assert shield.filter(np.array([1.0]), [0.5]).kind == "pass"


def test_after_a_fallback_the_baseline_is_in_charge():
    shield = SimplexSwitch(ONE, lambda x: [-0.5], lambda x: 1.0 - float(x[0]), enter=0.1, leave=0.8)
    decision = shield.filter(np.array([0.5]), [np.nan])
    assert (decision.kind, decision.action.tolist()) == ("fallback", [-0.5])
    assert shield.is_engaged
    assert shield.filter(np.array([0.5]), [0.1]).kind == "replaced"
    shield.reset()
    assert not shield.is_engaged
    assert shield.filter(np.array([0.5]), [0.1]).kind == "pass"


def test_a_decision_that_took_too_long_leaves_the_baseline_in_charge():
    shield = SimplexSwitch(ONE, lambda x: [-0.5], lambda x: 1.0 - float(x[0]), enter=0.1, time_budget_us=1e-3)
    assert shield.filter(np.array([0.5]), [0.1]).kind == "fallback"
    assert shield.is_engaged


def test_judging_does_not_hand_over():
    shield = SimplexSwitch(ONE, lambda x: [-0.5], lambda x: 1.0 - float(x[0]), enter=0.1, leave=0.8)
    assert shield.judge(np.array([0.95]), [0.1]).kind == "replaced"
    assert not shield.is_engaged


def test_the_set_of_the_barrier_is_certified():
    assert [switch().certifies(np.array([x, 0.0])) for x in (0.0, 0.999, 1.001, np.nan)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enter": -0.1}, "0 <= enter <= leave"),
        ({"enter": 0.2, "leave": 0.1}, "0 <= enter <= leave"),
        ({"leave": float("inf")}, "0 <= enter <= leave"),
        ({"enter": float("nan")}, "0 <= enter <= leave"),
        ({"dwell": -1}, "dwell >= 0"),
        ({"model": None}, "without a model, enter must be above 0"),
    ],
)
def test_thresholds_out_of_their_ranges_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        switch(**options)


def start(generator):
    return generator.uniform([-1.0, -1.5], [1.0, 1.5])


@pytest.mark.parametrize("options", [{}, {"leave": 0.3}, {"leave": 0.1, "dwell": 5}])
def test_the_unit_keeps_the_protocol_and_a_braking_mass_off_the_wall(options):
    plant = ShieldPlant(start=start, step=lambda s, u, _: Mass()(s, u), violation=lambda s: abs(float(s[0])) - 1.0)
    report = check_shield(switch(**options), plant=plant, steps=6_000)
    assert (report.ok, report.skipped, len(report.checks)) == (True, (), 14), str(report)


def test_adversaries_find_a_push_that_the_model_does_not_know():
    pushes = (-0.3, 0.3)
    plant = ShieldPlant(
        start=start,
        step=lambda s, u, push: Mass(push)(s, u),
        violation=lambda s: abs(float(s[0])) - 1.0,
        vertices=pushes,
    )
    broken = check_shield(switch(), plant=plant, steps=6_000)
    assert [problem.check for problem in broken.problems] == ["hard-guarantee"]


def test_parts_and_thresholds_survive_saving(tmp_path):
    shield = switch(enter=0.1, leave=0.2, dwell=3)
    again = load_shield(save_shield(shield, tmp_path / "simplex"))
    assert (again.baseline, again.barrier, again.model, again.read) == (Brake(), Room(), Mass(), None)
    assert (again.enter, again.leave, again.dwell) == (0.1, 0.2, 3)
    assert again.spec() == shield.spec()
    assert not again.is_engaged
