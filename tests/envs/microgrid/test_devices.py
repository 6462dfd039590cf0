"""The devices do what their specification says, minute by minute."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.envs.microgrid import ExogenousBounds, MicrogridParams, Series, adversarial, group, synthetic
from saferl.envs.microgrid.battery import (
    BatteryParams,
    Wear,
    largest_charge,
    largest_discharge,
    next_charge,
    stored_energy,
)
from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset, GensetParams
from saferl.envs.microgrid.monitor import TimesMonitor
from saferl.envs.microgrid.params import device_params
from saferl.envs.microgrid.plant import Plant, dispatch
from saferl.errors import ConfigError, UnknownNameError

ENGINE, BATTERY = GensetParams(), BatteryParams()


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_genset_warms_up_3_minutes_runs_30_and_cools_down_6():
    genset, seen = Genset(), []
    for command in [1, *[-1] * 60]:
        genset.advance(command, ENGINE)
        seen.append(genset.status)
    expected = [WARM_UP] * 3 + [RUNNING] * 30 + [COOL_DOWN] * 6 + [OFF] * 22
    assert seen == expected


def test_a_cooled_down_genset_restarts_at_once_when_asked():
    genset = Genset(COOL_DOWN)
    for _ in range(6):
        genset.advance(1, ENGINE)
    assert genset.status == WARM_UP


@pytest.mark.parametrize(
    ("status", "asked", "given", "fuel"),
    [(OFF, 300, 0, 0), (WARM_UP, 300, 100, 35), (RUNNING, 300, 300, 85), (COOL_DOWN, 300, 0, 10)],
)
def test_power_and_fuel_follow_from_the_status(status, asked, given, fuel):
    genset = Genset(status)
    assert genset.produce(asked, ENGINE) == given
    assert genset.fuel_rate(ENGINE) == fuel


def test_a_genset_may_give_its_rating_and_in_reserve_ten_percent_more():
    genset = Genset(RUNNING, average=200.0)
    assert genset.available(ENGINE, is_reserve=False) == 400.0
    assert genset.available(ENGINE, is_reserve=True) == pytest.approx(440.0)


@given(st.floats(270.0, 280.0))
def test_giving_all_that_the_average_leaves_brings_the_average_to_its_limit_and_never_above(average):
    genset = Genset(RUNNING, average=average)
    most = genset.available(ENGINE, is_reserve=True)
    genset.produce(most, ENGINE)
    assert genset.average <= 280.0 + 1e-9
    assert most == pytest.approx(440.0) or genset.average == pytest.approx(280.0)


def test_a_ramp_limits_the_rise_of_a_genset():
    engine = GensetParams(ramp=50.0)
    assert Genset(RUNNING, power=130.0).available(engine, is_reserve=False) == 180.0
    assert Genset(RUNNING, power=20.0).available(engine, is_reserve=False) == engine.min_power


def states(*statuses):
    return [Genset(status, t_run=31 if status == RUNNING else 0) for status in statuses]


@pytest.mark.parametrize(
    ("before", "command", "after"),
    [
        ((OFF, OFF), 1, (WARM_UP, OFF)),
        ((RUNNING, OFF), 1, (RUNNING, WARM_UP)),
        ((RUNNING, RUNNING), -1, (RUNNING, COOL_DOWN)),
        ((RUNNING, OFF), -1, (COOL_DOWN, OFF)),
        ((RUNNING, WARM_UP), -1, (RUNNING, WARM_UP)),
        ((RUNNING, COOL_DOWN), 1, (RUNNING, COOL_DOWN)),
        ((OFF, OFF), -1, (OFF, OFF)),
        ((RUNNING, RUNNING), 1, (RUNNING, RUNNING)),
    ],
)
def test_gensets_start_in_order_and_stop_in_reverse(before, command, after):
    gensets = states(*before)
    group.advance(gensets, command, ENGINE)
    assert tuple(genset.status for genset in gensets) == after


def test_only_the_first_genset_that_cools_down_may_restart_and_only_when_ready():
    gensets = [Genset(COOL_DOWN, t_cool=5), Genset(COOL_DOWN, t_cool=5)]
    assert group.advance(gensets, group.START, ENGINE)
    assert [genset.status for genset in gensets] == [WARM_UP, OFF]
    gensets = [Genset(COOL_DOWN, t_cool=2), Genset(OFF)]
    assert not group.advance(gensets, group.START, ENGINE)
    assert [genset.status for genset in gensets] == [COOL_DOWN, OFF]


def test_running_gensets_share_the_load_equally_and_the_weakest_limits_all():
    gensets = [Genset(RUNNING, average=280.0), Genset(RUNNING, average=200.0)]
    assert group.power_range(gensets, ENGINE, is_reserve=False) == (240.0, pytest.approx(560.0))
    assert group.produce(gensets, 500.0, ENGINE, is_reserve=False) == 500.0
    assert [genset.power for genset in gensets] == [250.0, 250.0]


@given(st.floats(0.0, 1.0), st.floats(-600.0, 600.0))
def test_the_current_of_the_battery_solves_its_equation(soc, power):
    after = next_charge(soc, power, BATTERY)
    current = (soc - after) * BATTERY.capacity * 60.0
    cells = 1000.0 * (power * 0.95 if power < 0 else power / 0.95)
    voltage = 39.6 * soc + 929.16
    if 0.0 < after < 1.0:
        assert voltage * current - BATTERY.k * current**2 == pytest.approx(cells, abs=1e-3)


@given(st.floats(0.05, 0.95))
def test_the_limits_of_the_battery_end_at_the_band(soc):
    down, up = largest_discharge(soc, 0.05, BATTERY), largest_charge(soc, 0.95, BATTERY)
    assert next_charge(soc, down, BATTERY) >= 0.05 - 1e-9
    assert next_charge(soc, -up, BATTERY) <= 0.95 + 1e-9
    # What ends a minute elsewhere is the power, or the current: a sixtieth of the charge.
    assert down == 600.0 or next_charge(soc, down, BATTERY) == pytest.approx(max(0.05, soc - 1 / 60), abs=1e-9)
    assert up == 600.0 or next_charge(soc, -up, BATTERY) == pytest.approx(min(0.95, soc + 1 / 60), abs=1e-9)


@given(st.floats(0.05, 0.95), st.floats(-500.0, 500.0))
def test_the_battery_gives_no_more_energy_than_it_holds(soc, power):
    """The bound that the linear program of perfect foresight rests on."""
    after = next_charge(soc, power, BATTERY)
    gained = stored_energy(after, BATTERY) - stored_energy(soc, BATTERY)
    inflow = (-power * 0.95 if power < 0 else -power / 0.95) / 60.0
    assert gained <= inflow + 1e-9


def test_outside_a_band_the_battery_only_moves_back():
    assert largest_discharge(0.04, 0.05, BATTERY) == 0.0
    assert largest_charge(0.04, 0.95, BATTERY) > 0.0


def test_one_deep_half_cycle_wears_alpha_exp_beta_depth():
    wear, total = Wear(0.2), 0.0
    path = np.linspace(0.2, 0.8, 61).tolist()
    for old, new in pairwise(path):
        total += wear.update(old, new, BATTERY)
    assert total == pytest.approx(5.0 * math.expm1(0.6))


def test_a_small_cycle_inside_a_large_one_is_removed_and_the_large_one_goes_on():
    path = np.concatenate([np.arange(0.2, 0.5, 0.01), np.arange(0.5, 0.4, -0.01), np.arange(0.4, 0.8, 0.01)]).tolist()
    wear, costs = Wear(0.2), []
    for old, new in pairwise(path):
        costs.append(wear.update(old, new, BATTERY))
    assert wear.points == [0.2]
    # The last steps wear as those of a cycle from 0.2, not from 0.4.
    assert costs[-1] == pytest.approx(5.0 * (math.exp(path[-1] - 0.2) - math.exp(path[-2] - 0.2)))


@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=60))
def test_wear_is_never_negative_and_survives_its_data(path):
    wear = Wear(path[0])
    for old, new in pairwise(path):
        copy = Wear.from_dict(wear.to_dict())
        cost = wear.update(old, new, BATTERY)
        assert cost >= 0.0
        assert copy.update(old, new, BATTERY) == cost


@given(
    st.sampled_from([OFF, WARM_UP, RUNNING, COOL_DOWN]),
    st.floats(0.05, 0.95),
    st.sampled_from([-1, 0, 1]),
    st.floats(-600.0, 600.0),
    st.floats(150.0, 570.0),
    st.floats(0.0, 400.0),
)
def test_the_dispatcher_balances_whatever_the_devices_can_balance(status, soc, command, power, demand, wind):
    params = MicrogridParams()
    plant = Plant(params, [Genset(status, t_run=31 if status == RUNNING else 0), Genset(OFF)], soc)
    moved = [genset.copy() for genset in plant.gensets]
    group.advance(moved, command, params.genset)
    least, most = group.power_range(moved, params.genset, is_reserve=True)
    supply = most + wind + largest_discharge(soc, 0.05, BATTERY)
    sink = demand + largest_charge(soc, 0.95, BATTERY)
    setpoints = dispatch(params, plant.gensets, soc, (command, power), demand, wind)
    balance = plant.step(setpoints, demand, wind).balance
    assert balance == pytest.approx(min(supply - demand, 0.0) + max(least - sink, 0.0), abs=1e-6)


def test_wind_is_used_before_the_battery_is_discharged():
    params = MicrogridParams()
    setpoints = dispatch(params, states(RUNNING, OFF), 0.5, (0, 600.0), 300.0, 400.0)
    assert (setpoints.wind, setpoints.battery, setpoints.gensets) == (180.0, 0.0, 120.0)


@pytest.mark.parametrize("make", [synthetic, adversarial])
def test_series_keep_the_bounds(make):
    for seed in range(20):
        series = make(1471, 419, ExogenousBounds(), rng(seed))
        assert ExogenousBounds().are_kept(series)


def test_adversarial_days_use_the_bounds_exactly():
    series = adversarial(1471, 0, ExogenousBounds(), rng())
    assert np.diff(series.demand).max() == pytest.approx(80.0)
    assert np.diff(series.wind).min() == pytest.approx(-72.0)


@pytest.mark.parametrize(
    ("demand", "wind"), [([300, 390], [0, 0]), ([571, 571], [0, 0]), ([140, 140], [0, 0]), ([300, 300], [100, 20])]
)
def test_a_break_of_any_bound_is_seen(demand, wind):
    assert not ExogenousBounds().are_kept(Series(np.array(demand, float), np.array(wind, float)))


@pytest.mark.parametrize("bad", [np.array([np.nan, 1.0]), np.array([-1.0, 1.0]), np.array([1.0, 2000.0])])
def test_a_series_that_no_microgrid_has_is_refused(bad):
    with pytest.raises(ConfigError, match="Demand must be finite"):
        Series(bad, np.zeros(2))


def test_the_monitor_sees_every_early_change():
    monitor = TimesMonitor([Genset(RUNNING, t_run=20)], ENGINE)
    assert monitor.update([Genset(COOL_DOWN)]) == 1  # 20 minutes of running
    assert monitor.update([Genset(OFF)]) == 1  # one minute of cooling down
    assert monitor.update([Genset(RUNNING)]) == 1  # no warm-up
    monitor = TimesMonitor([Genset(RUNNING, t_run=30)], ENGINE)
    assert monitor.update([Genset(COOL_DOWN)]) == 0


def test_parameters_survive_their_data_and_devices_differ_by_their_level():
    params = MicrogridParams(dump_load=50.0, genset=GensetParams(ramp=30.0))
    assert MicrogridParams.from_dict(params.to_dict()) == params
    assert device_params(params, "none", rng()) is params
    device = device_params(params, "high", rng())
    assert 0.8 <= device.genset.rating / params.genset.rating <= 1.2
    assert device.battery.efficiency <= 0.99
    assert device != params
    with pytest.raises(UnknownNameError, match="mismatch"):
        device_params(params, "huge", rng())
