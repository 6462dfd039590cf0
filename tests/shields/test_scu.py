"""The microgrid's shield: nobody is ever in the dark, whoever asks for what, and whatever demand and wind do."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saferl
from saferl.envs.microgrid import MicrogridParams, Series, group
from saferl.envs.microgrid.action import read_action, write_status
from saferl.envs.microgrid.baselines import ConstantOperator, baseline
from saferl.envs.microgrid.battery import next_charge
from saferl.envs.microgrid.env import Microgrid
from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset, GensetParams
from saferl.envs.microgrid.observation import Sensors, encode, scaled_forecasts
from saferl.envs.microgrid.plant import Minute, Plant, Setpoints, dispatch
from saferl.envs.microgrid.recovery import (
    can_avoid_deficit,
    can_avoid_excess,
    charge_of_stopping,
    horizon,
)
from saferl.envs.microgrid.start import random_start
from saferl.envs.microgrid.twin import MicrogridTwin
from saferl.errors import ConfigError
from saferl.shields import SHIELDS, ActionSpec, MicrogridShield, load_shield, save_shield
from saferl.shields.scu import BatteryUnit, GensetGroupUnit, GensetUnit, MicrogridUnit
from saferl.shields.scu.devices import BatteryRequest, GensetRequest
from saferl.shields.scu.grid import GridRequest
from saferl.shields.scu.group import GroupRequest
from saferl.testing import ShieldPlant, check_shield

BOX = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
PARAMS = MicrogridParams()


class Contrary(ConstantOperator):
    """Drains the battery with all gensets off for an hour, then fills it with all on."""

    def __init__(self):
        super().__init__(-1, 1.0)
        self.minute = 0

    def act(self, sensors, memory):
        self.minute += 1
        sign = 1 if self.minute // 60 % 2 else -1
        return self.request(sensors, sign, -sign * 600.0)


POLICIES = {
    "random": lambda: baseline("random", seed=1),
    "lazy": lambda: baseline("lazy"),
    "greedy": lambda: baseline("greedy"),
    "charge": lambda: baseline("charge"),
    "start and discharge": lambda: ConstantOperator(1, 1.0),
    "realistic": lambda: baseline("realistic"),
    "contrary": Contrary,
}


def day(env, policy, shield, seed, **options):
    """Sums of costs over a day, and overrides."""
    obs, _ = env.reset(seed=seed, options=options or None)
    state, sums = None, {"overrides": 0}
    is_over = False
    while not is_over:
        action, state = policy.predict(obs, state)
        if shield is not None:
            decision = shield.filter(obs, action)
            action = decision.action
            sums["overrides"] += decision.intervened
            assert decision.kind not in ("fallback", "infeasible")
        obs, _, _, is_over, info = env.step(action)
        for key, value in info["costs"].items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


@pytest.mark.parametrize("series", ["synthetic", "adversarial"])
@pytest.mark.parametrize("name", POLICIES)
def test_no_minute_has_a_deficit_an_excess_or_a_breach(name, series):
    env = Microgrid(series=series, start="evaluation", soc=0.5)
    sums = day(env, POLICIES[name](), MicrogridShield.for_env(env), seed=11)
    assert (sums["deficit"], sums["excess"], sums["breaches"]) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("series", ["synthetic", "adversarial"])
@pytest.mark.parametrize("name", POLICIES)
def test_no_minute_of_thirty_days_has_a_deficit_an_excess_or_a_breach(name, series):
    """From random starts; the certified ones are all (see the next test)."""
    env = Microgrid(series=series)
    shield = MicrogridShield.for_env(env)
    for seed in range(30):
        sums = day(env, POLICIES[name](), shield, seed=100 + seed)
        assert (sums["deficit"], sums["excess"], sums["breaches"]) == (0, 0, 0), seed


def test_every_start_is_certified():
    env = Microgrid()
    shield = MicrogridShield.for_env(env)
    assert all(shield.certifies(env.reset(seed=seed)[0]) for seed in range(30))
    assert not shield.certifies(np.zeros(3))


def test_without_the_shield_a_lazy_day_is_dark_and_no_engine_time_is_broken():
    env = Microgrid(start="evaluation", soc=0.5)
    series = Series(np.full(1471, 300.0), np.zeros(1471))
    sums = day(env, baseline("lazy"), None, 0, series=series)
    assert sums["deficit"] > 1000
    assert sums["breaches"] == 0
    shielded = day(env, baseline("lazy"), MicrogridShield.for_env(env), 0, series=series)
    assert shielded["deficit"] == 0
    assert shielded["overrides"] > 1000


def test_only_the_excess_test_keeps_the_excess_away():
    env = Microgrid(series="adversarial", start="evaluation", soc=0.8)
    published = MicrogridShield(env.action_space, has_excess_test=False)
    ours = MicrogridShield.for_env(env)
    excess = {s: day(env, baseline("charge"), s, seed=3)["excess"] for s in (published, ours)}
    assert excess[published] > 0
    assert excess[ours] == 0


def test_beyond_the_bounds_only_the_flag_is_promised():
    env = Microgrid(start="evaluation", soc=0.2)
    series = Series(np.full(1471, 200.0), np.zeros(1471))
    series.demand[600:] = 1400.0
    _, info = env.reset(seed=0, options={"series": series})
    assert info["bounds_violated"]
    sums = day(env, baseline("lazy"), MicrogridShield.for_env(env), 0, series=series)
    assert sums["breaches"] == 0
    assert sums["deficit"] > 0


# -- the tests behind the decisions -----------------------------------------------------------------------------------


def wild_state(generator):
    """Gensets in any consistent statuses, an average near or below its limit, any charge."""
    gensets, _ = random_start(PARAMS, generator)
    for genset in gensets:
        genset.average = float(generator.choice([280.0, generator.uniform(150.0, 280.0)]))
        if generator.random() < 0.5:
            genset.status = int(generator.choice([RUNNING, COOL_DOWN, OFF, WARM_UP]))
            genset.t_run = int(generator.integers(1, 32)) if genset.status == RUNNING else 0
            genset.t_cool = int(generator.integers(6)) if genset.status == COOL_DOWN else 0
            genset.t_warm = int(generator.integers(3)) if genset.status == WARM_UP else 0
    if not gensets[0].is_on and gensets[1].is_on:
        gensets.reverse()
    return gensets, float(generator.uniform(0.05, 0.95))


def corner(generator, demand, wind):
    """A demand and a wind as extreme as the bounds allow after these."""
    demand = float(generator.choice([min(demand + 80.0, 570.0), 150.0, demand]))
    return demand, float(generator.choice([max(wind - 72.0, 0.0), 400.0, wind]))


def test_a_state_that_is_recoverable_leads_to_one_whatever_happens():
    """The inductive step, from wild states: any battery request, corners of the bounds, then start_next passes again.

    It is stated for days on which the gensets' common average does not bind: their averages are below 275 kW.
    """
    generator, tried = np.random.default_rng(0), 0
    while tried < 3000:
        gensets, soc = wild_state(generator)
        for genset in gensets:
            genset.average = min(genset.average, 275.0)
        demand, wind = (
            float(generator.uniform(150.0, 570.0)),
            float(generator.choice([0.0, 400.0 * generator.random()])),
        )
        command = int(generator.integers(-1, 2))
        if not can_avoid_deficit(PARAMS, gensets, soc, command, (demand, wind)):
            continue
        tried += 1
        plant = Plant(PARAMS, gensets, soc)
        power = float(generator.choice([600.0, -600.0, generator.uniform(-600.0, 600.0)]))
        minute = plant.step(dispatch(PARAMS, gensets, soc, (command, power), demand, wind), demand, wind)
        assert minute.balance >= -1e-5
        after = corner(generator, demand, wind)
        nominal_and_reserve = can_avoid_deficit(PARAMS, plant.gensets, plant.soc, group.START, after)
        assert nominal_and_reserve or _survives(plant, after, generator), (tried, plant.get_state(), after)


def _survives(plant, known, generator):
    """Whether start_next meets the demand with the reserve; the nominal mode may fail where demand has risen."""
    twin = MicrogridTwin(plant.clone(), *known)
    demand, wind = known
    for _ in range(horizon(PARAMS) + 60):
        action = (write_status(group.START, twin.plant.gensets, PARAMS), 1.0)
        if twin.step(action, (demand, wind))["deficit"] > 0.0:
            return False
        demand, wind = min(demand + 80.0, 570.0), max(wind - 72.0, 0.0)
    return True


def test_a_start_is_taken_before_it_is_too_late():
    """Nothing runs and nothing blows: what the battery must hold is about what a warm-up takes."""
    gensets = [Genset(OFF), Genset(OFF)]
    assert can_avoid_deficit(PARAMS, gensets, 0.5, group.NONE, (300.0, 0.0))
    assert not can_avoid_deficit(PARAMS, gensets, 0.11, group.NONE, (300.0, 0.0))
    running = [Genset(RUNNING, t_run=31, average=230.0), Genset(OFF)]
    assert can_avoid_deficit(PARAMS, running, 0.11, group.NONE, (300.0, 0.0))
    assert not can_avoid_deficit(PARAMS, running, 0.10, group.NONE, (401.0, 0.0))


def test_a_ramp_is_part_of_the_test():
    params = MicrogridParams(genset=GensetParams(ramp=5.0))
    running = [Genset(RUNNING, t_run=31, average=230.0, power=120.0), Genset(OFF)]
    assert can_avoid_deficit(PARAMS, running, 0.12, group.NONE, (350.0, 0.0))
    assert not can_avoid_deficit(params, running, 0.12, group.NONE, (350.0, 0.0))


def test_stopping_fills_the_battery_with_what_two_minimum_loads_leave_over():
    """Two gensets that have just started to run give 90 kW too much for 30 minutes, the last of 150 kW taken."""
    gensets = [Genset(RUNNING, t_run=31), Genset(RUNNING, t_run=1)]
    expected = 0.5
    for _ in range(29):
        expected = next_charge(expected, -90.0, PARAMS.battery)
    assert charge_of_stopping(PARAMS, gensets, 0.5) == pytest.approx(expected)
    assert can_avoid_excess(PARAMS, gensets, 0.88)
    assert not can_avoid_excess(PARAMS, gensets, 0.90)
    assert can_avoid_excess(MicrogridParams(dump_load=100.0), gensets, 0.95)


@given(st.integers(0, 10_000))
@settings(max_examples=200)
def test_the_quick_pass_of_the_excess_test_never_contradicts_its_simulation(seed):
    gensets, soc = wild_state(np.random.default_rng(seed))
    assert can_avoid_excess(PARAMS, gensets, soc) == (charge_of_stopping(PARAMS, gensets, soc) is not None)


def test_charging_is_limited_before_the_battery_is_too_full_to_stop():
    gensets = [Genset(RUNNING, t_run=31), Genset(RUNNING, t_run=5)]
    unit = MicrogridUnit(PARAMS)
    unit.update_from_sensors(Sensors(gensets, 0.89, 300.0, 0.0))
    safe = unit.safe_action(GridRequest(group.NONE, -600.0))
    assert safe.command == group.NONE
    assert -600.0 < safe.battery <= 0.0
    after = unit.predict_step(safe)
    assert can_avoid_excess(PARAMS, after.gensets, after.soc)
    assert 0.95 - charge_of_stopping(PARAMS, after.gensets, after.soc) < 3e-3  # not more than needed


def test_a_start_that_would_waste_power_is_refused_and_one_that_demand_needs_is_not():
    unit = MicrogridUnit(PARAMS)
    running = [Genset(RUNNING, t_run=31), Genset(OFF)]
    unit.update_from_sensors(Sensors(running, 0.93, 200.0, 0.0))
    assert unit.safe_action(GridRequest(group.START, 0.0)).command == group.NONE
    unit.update_from_sensors(Sensors(running, 0.10, 401.0, 0.0))
    assert unit.safe_action(GridRequest(group.STOP, 0.0)).command == group.START


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_the_tree_predicts_what_the_plant_does():
    """Dispatcher and devices on one side, five steps of predictions of children on the other."""
    generator, unit = np.random.default_rng(1), MicrogridUnit(PARAMS)
    for _ in range(500):
        gensets, soc = wild_state(generator)
        demand, wind = float(generator.uniform(150.0, 570.0)), float(generator.uniform(0.0, 400.0))
        command, power = int(generator.integers(-1, 2)), float(generator.uniform(-600.0, 600.0))
        unit.update_from_sensors(Sensors(gensets, soc, demand, wind))
        predicted = unit.predict_step(GridRequest(command, power))
        plant = Plant(PARAMS, [genset.copy() for genset in gensets], soc)
        minute = plant.step(dispatch(PARAMS, gensets, soc, (command, power), demand, wind), demand, wind)
        assert predicted.soc == pytest.approx(plant.soc, abs=1e-12)
        assert predicted.balance == pytest.approx(minute.balance, abs=1e-9)
        assert [g.to_list() for g in predicted.gensets] == [g.to_list() for g in plant.gensets]
        assert [g.to_list() for g in unit.gensets.states] == [g.to_list() for g in gensets]  # nothing has moved


def test_units_let_pass_what_their_device_can_do_and_nothing_else():
    genset = GensetUnit(PARAMS.genset)
    genset.update_from_sensors(Genset(RUNNING, t_run=31, average=200.0))
    assert genset.safe_action(GensetRequest(0, 250.0)) == GensetRequest(0, 250.0)
    assert genset.safe_action(GensetRequest(0, 500.0)).power == 400.0
    assert genset.safe_action(GensetRequest(0, 500.0, is_reserve=True)).power == pytest.approx(440.0)
    assert genset.predict_step(GensetRequest(-1, 250.0)).status == COOL_DOWN
    battery = BatteryUnit(PARAMS.battery)
    battery.update_from_sensors(0.1)
    assert battery.safe_action(BatteryRequest(100.0)).power == 0.0
    assert battery.safe_action(BatteryRequest(100.0, is_reserve=True)).power == 100.0
    together = GensetGroupUnit(PARAMS.genset, 2)
    together.update_from_sensors([Genset(RUNNING, t_run=10), Genset(OFF)])
    assert together.safe_action(GroupRequest(group.STOP, 50.0)) == GroupRequest(group.NONE, 120.0)


@given(st.integers(0, 10_000), st.integers(-1, 1))
def test_an_action_can_ask_for_every_command_that_somebody_could_follow(seed, command):
    gensets, _ = wild_state(np.random.default_rng(seed))
    on = group.count_on(gensets)
    asked, power = read_action((write_status(command, gensets, PARAMS), 0.25), gensets, PARAMS)
    assert power == 150.0
    assert asked == (command if 0 <= on + command <= 2 else group.NONE)


# -- the protocol -----------------------------------------------------------------------------------------------------


def observe(twin):
    """The observation of a twin's state, as the environment would give it."""
    layout = MicrogridShield(BOX).layout
    minute = twin.last if twin.last is not None else Minute(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    forecasts = scaled_forecasts(np.full(30, twin.demand), np.full(30, twin.wind), 400.0)
    last = (minute, Setpoints(0, 0.0, 0.0, 0.0), (0, 0.0), twin.demand, twin.wind)
    return encode(layout, twin.plant, last, 0, forecasts)


def start(generator):
    gensets, soc = wild_state(generator)
    for genset in gensets:
        genset.average = min(genset.average, 275.0)
    return MicrogridTwin(Plant(PARAMS, gensets, soc), float(generator.uniform(150.0, 570.0)), 0.0)


def move(twin, action, push):
    """One minute; ``push`` then moves demand and wind to a corner of what the bounds allow."""
    after = twin.clone()
    after.step(action)
    up, wind = push
    after.demand = min(twin.demand + 80.0, 570.0) if up else 150.0
    after.wind = 400.0 if wind else max(twin.wind - 72.0, 0.0)
    return after


def violation(twin):
    if twin.last is None:
        return -1.0
    return max(-twin.last.balance, twin.last.balance) - 0.05


def test_it_keeps_the_protocol_against_the_corners_of_demand_and_wind():
    plant = ShieldPlant(
        start=start,
        step=move,
        violation=violation,
        vertices=[(up, wind) for up in (False, True) for wind in (False, True)],
        observe=observe,
    )
    report = check_shield(
        MicrogridShield(BOX), sample_obs=lambda generator: observe(start(generator)), plant=plant, steps=4_000
    )
    assert report.ok, str(report)
    assert not report.skipped


def test_nonsense_starts_every_genset_and_rests_the_battery():
    env = Microgrid(start="evaluation")
    obs, _ = env.reset(seed=0)
    shield = MicrogridShield.for_env(env)
    for seen, asked in ((obs, [np.nan, 0.0]), (np.full_like(obs, np.nan), [0.0, 0.0]), (obs[:3], [0.0, 0.0])):
        decision = shield.filter(seen, asked)
        assert (decision.kind, decision.action.tolist()) == ("fallback", [1.0, 0.0])


def test_a_device_that_differs_is_promised_nothing_but_runs():
    env = Microgrid(mismatch="low", start="evaluation", soc=0.5)
    sums = day(env, baseline("lazy"), MicrogridShield.for_env(env), seed=0)
    assert sums["breaches"] == 0


def test_it_is_built_from_its_environment_and_from_its_folder(tmp_path):
    env = saferl.make("Microgrid-v0", dump_load=40.0, ramp=80.0)
    shield = SHIELDS.load("scu_microgrid").for_env(env)
    assert shield.params.dump_load == 40.0
    shield.root.conservativeness = 1.5
    again = load_shield(save_shield(shield, tmp_path / "shield"))
    assert again.params == shield.params
    assert (again.root.conservativeness, again.root.has_excess_test) == (1.5, True)
    obs, _ = env.reset(seed=0)
    first, second = shield.filter(obs, [-1.0, 1.0]), again.filter(obs, [-1.0, 1.0])
    assert dataclasses.replace(first, elapsed_us=0.0).to_dict() == dataclasses.replace(second, elapsed_us=0.0).to_dict()


def test_what_it_cannot_filter_is_refused():
    with pytest.raises(ConfigError, match="MicrogridParams"):
        MicrogridShield.for_env(saferl.make("SafetyHopperVelocity-v1"))
    with pytest.raises(ConfigError, match="two actions"):
        MicrogridShield(ActionSpec.box([-2.0, -1.0], [1.0, 1.0]))
    with pytest.raises(ConfigError, match="conservativeness"):
        MicrogridShield(BOX, conservativeness=-1.0)
    assert MicrogridShield(BOX).spec().guarantee == "hard"
    assert MicrogridShield(BOX, conservativeness=0.5).spec().guarantee == "empirical"
