"""What a backup policy can recover from is allowed, and nothing else; the boundary itself is reached."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from saferl.errors import ArtefactError, ConfigError
from saferl.shields import ActionSpec, BackupRolloutShield, ShieldContext, load_shield, save_shield
from saferl.shields.twins import AtRest, Brake, DoubleIntegratorTwin, brake_actions
from saferl.storage import write_header
from saferl.testing import ShieldPlant, check_shield


def brake(**options):
    options = {"terminal": AtRest(), "horizon": 50, **options}
    return BackupRolloutShield(brake_actions(), DoubleIntegratorTwin(), Brake(), **options)


@dataclass
class Tank:
    """A level that a valve fills, behind an actuator that moves by at most 0.2 a step; nobody controls the inflow."""

    level: float = 0.0
    valve: float = 0.0

    def clone(self):
        return replace(self)

    def set_state(self, state):
        self.level, self.valve = float(state[0]), float(state[1])

    def get_state(self):
        return np.array([self.level, self.valve])

    def step(self, action, exogenous=None):
        self.valve += float(np.clip(float(action[0]) - self.valve, -0.2, 0.2))
        self.level += 0.1 * (self.valve + (0.0 if exogenous is None else float(exogenous[0])))
        return {"overflow": self.level - 1.0}


def closing(state):
    return [-1.0]


def drains(state):
    """Shut further than the largest inflow, where the level can only fall."""
    return float(state[1]) <= -0.5


INFLOW = [[-0.5], [0.5]]


def tank(**options):
    options = {"terminal": drains, "horizon": 20, "exogenous": INFLOW, **options}
    return BackupRolloutShield(ActionSpec.box([-1], [1]), Tank(), closing, **options)


def ride(shield, steps, seed=0):
    """Push against the walls with a sign that flips every 400 steps: violations, fallbacks, largest |x|, decisions."""
    plant, generator = DoubleIntegratorTwin(), np.random.default_rng(seed)
    violations = failures = interventions = 0
    furthest = 0.0
    for step in range(steps):
        push = generator.uniform(-1.0, 1.0) + 0.8 * (1.0 if step // 400 % 2 == 0 else -1.0)
        decision = shield.filter(plant.get_state(), [push])
        failures += decision.kind in ("fallback", "infeasible")
        interventions += decision.intervened
        violations += plant.step(decision.action)["position"] > 1e-9
        furthest = max(furthest, abs(plant.position))
    return violations, failures, furthest, interventions


@pytest.mark.parametrize("steps", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_braking_never_leaves_the_line_and_reaches_its_end(steps):
    violations, failures, furthest, interventions = ride(brake(), steps)
    assert (violations, failures) == (0, 0)
    assert 0.999 < furthest <= 1.0 + 2e-9
    assert interventions > 0.5 * steps


def test_the_nearest_safe_push_is_found():
    """From x = 0.9, v = 0.4 the push -0.5 leads to 1.0 exactly, by hand: 3 full braking steps and a half one."""
    decision = brake().filter(np.array([0.9, 0.4]), [1.0])
    assert decision.kind == "projected"
    assert decision.action == pytest.approx([-0.5], abs=1e-5)
    assert decision.margin < 0.0
    coarse = brake(search="replace").filter(np.array([0.9, 0.4]), [1.0])
    assert (coarse.kind, coarse.action.tolist()) == ("replaced", [-1.0])


def test_a_turn_between_two_samples_counts():
    twin = DoubleIntegratorTwin(dt=1.0, x_max=1.0, position=0.9, velocity=0.5)
    assert twin.step(np.array([-1.0]))["position"] == pytest.approx(0.9 + 0.125 - 1.0)
    assert twin.get_state().tolist() == pytest.approx([0.9, -0.5])


def test_a_lost_state_is_reported_and_the_backup_acts():
    decision = brake().filter(np.array([0.9, 2.0]), [0.3])
    assert (decision.kind, decision.action.tolist()) == ("infeasible", [-1.0])
    assert decision.slack > 0.0
    assert "void" in decision.status
    assert not brake().certifies(np.array([0.9, 2.0]))
    assert brake().certifies(np.array([0.9, 0.4]))
    assert not brake().certifies(np.array([np.nan, 0.0]))


def test_a_horizon_too_short_to_stop_is_not_trusted():
    assert brake(horizon=5).filter(np.array([0.0, 0.9]), [0.0]).kind == "infeasible"
    assert brake(horizon=5, terminal=None).filter(np.array([0.0, 0.9]), [0.0]).kind == "pass"


def test_the_promise_depends_on_terminal_set_and_series():
    assert brake().spec().guarantee == "hard for the nominal model"
    assert brake(terminal=None).spec().guarantee == "empirical"
    assert tank().spec().guarantee == "hard"


def test_a_twin_in_the_context_is_used_instead_and_left_as_it_is():
    twin = DoubleIntegratorTwin(position=0.9, velocity=0.4)
    decision = brake().filter(np.zeros(2), [1.0], ShieldContext(twin=twin))
    assert decision.action == pytest.approx([-0.5], abs=1e-5)
    assert twin.get_state().tolist() == [0.9, 0.4]


def test_an_inflow_outside_of_the_declared_bounds_is_flagged():
    inside = ShieldContext(privileged={"exogenous": [0.4]})
    outside = ShieldContext(privileged={"exogenous": [0.7]})
    assert tank().filter(np.zeros(2), [0.0], inside).status == "ok"
    assert "outside" in tank().filter(np.zeros(2), [0.0], outside).status


@dataclass
class Cliff:
    """A number that an action of 0 to 3 adds to; 10 and more is over the edge."""

    place: float = 0.0

    def clone(self):
        return replace(self)

    def set_state(self, state):
        self.place = float(state[0])

    def get_state(self):
        return np.array([self.place])

    def step(self, action, exogenous=None):
        self.place += float(action)
        return {"edge": self.place - 9.0}


def stop(state):
    return 0


def always(state):
    return True


def test_discrete_actions_are_tried_in_order_of_preference():
    def of(order):
        return BackupRolloutShield(ActionSpec.discrete(4), Cliff(), stop, terminal=always, horizon=1, order=order)

    decisions = [of(order).filter(np.array([8.0]), 3) for order in ((), (2, 1), (1, 2), (2,))]
    assert [(d.kind, int(d.action)) for d in decisions] == [("replaced", a) for a in (0, 1, 1, 0)]
    assert of((2, 1)).filter(np.array([6.0]), 3).kind == "pass"
    assert check_shield(of((2, 1)), sample_obs=lambda g: g.uniform(0, 9, 1)).ok


def line_plant():
    def step(state, action, _):
        twin = DoubleIntegratorTwin(position=state[0], velocity=state[1])
        twin.step(action)
        return twin.get_state()

    return ShieldPlant(
        start=lambda g: g.uniform([-1.0, -1.0], [1.0, 1.0]), step=step, violation=lambda s: abs(float(s[0])) - 1.0
    )


def tank_plant(vertices):
    def step(state, action, inflow):
        twin = Tank(*state)
        twin.step(action, inflow)
        return twin.get_state()

    return ShieldPlant(
        start=lambda g: g.uniform([-1.0, -1.0], [1.0, 1.0]),
        step=step,
        violation=lambda s: float(s[0]) - 1.0,
        vertices=vertices,
    )


@pytest.mark.parametrize(("shield", "plant"), [(brake(), line_plant()), (tank(), tank_plant(INFLOW))])
def test_the_unit_keeps_the_protocol_and_the_plant_safe(shield, plant):
    report = check_shield(shield, plant=plant, steps=3_000)
    assert (report.ok, report.skipped) == (True, ()), str(report)


def test_adversaries_find_an_inflow_above_the_declared_one():
    report = check_shield(tank(), plant=tank_plant([[-0.5], [0.9]]), steps=3_000)
    assert [problem.check for problem in report.problems] == ["hard-guarantee"]


def test_it_travels_as_data(tmp_path):
    for name, shield in (("brake", brake()), ("replace", brake(search="replace"))):
        other = load_shield(save_shield(shield, tmp_path / name))
        for obs in np.random.default_rng(0).uniform(-1, 1, (50, 2)):
            assert other.filter(obs, [1.0]).action.tolist() == shield.filter(obs, [1.0]).action.tolist()


def test_a_backup_that_is_no_data_cannot_be_saved(tmp_path):
    shield = BackupRolloutShield(brake_actions(), DoubleIntegratorTwin(), lambda s: [0.0], horizon=3)
    with pytest.raises(ConfigError, match="function of a module or an instance of a dataclass"):
        save_shield(shield, tmp_path / "lambda")


def test_code_that_is_not_there_is_named(tmp_path):
    folder = save_shield(brake(), tmp_path / "brake")
    header = (folder / "shield.json").read_text(encoding="utf-8")
    write_header(folder / "shield.json", json.loads(header.replace("twins:Brake", "twins:Gone")))
    with pytest.raises(ArtefactError, match="twins:Gone"):
        load_shield(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "at least 1 step"),
        ({"search": "guess"}, "bisect, replace"),
        ({"resolution": 0.0}, "resolution"),
        ({"order": (1,)}, "order must hold actions of a discrete space"),
        ({"exogenous": [[np.nan]]}, "finite"),
        ({"exogenous": np.zeros((1, 3, 1))}, "horizon"),
    ],
)
def test_options_out_of_their_ranges_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        brake(**options)
