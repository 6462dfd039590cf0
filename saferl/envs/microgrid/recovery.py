"""Can the microgrid still be balanced, whatever demand and wind do inside their bounds?

Two tests, one per side. Each asks whether, after the next minute, a simple plan keeps the balance in the worst case:

- **deficit** (SCU, arXiv 2512.01046): the command under test, then ``start_next`` every minute, while the battery is
  drained as hard as a request can. *Nominal*: demand and wind stay as they will be in the next minute, gensets at most
  at their rating, the battery in its normal band. *Reserve*: demand rises and wind falls as fast as the bounds allow,
  gensets at overload, the battery in its reserve band.
- **excess**: the command under test, then ``stop_last`` every minute, while demand is the smallest, all wind is
  curtailed, running gensets are at minimum load and the battery takes only what nobody else does.

Why the first suffices: at equal commands the charge is never below the drained one, and no genset's average is above
the one that these tests assume (full power every minute), so a state that passes leads to one where ``start_next``
passes again. Differences from the publication: the averages, and a horizon that ends when every genset runs (at most
warm-up + cool-down + one minute per genset; the published 9 minutes are too few when two gensets cool down in a row).
The test does not see the day when the average-load rule binds on all gensets together (280 kW each) at a higher demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saferl.envs.microgrid import group
from saferl.envs.microgrid.battery import MINUTES, BatteryParams, largest_charge, largest_discharge, next_charge
from saferl.envs.microgrid.genset import RUNNING, WARM_UP, Genset, GensetParams
from saferl.envs.microgrid.params import MicrogridParams

SLACK = 1e-6
"""Rounding of the balance that is forgiven, kW."""


@dataclass(slots=True)
class _Mode:
    """One worst case of the deficit test."""

    soc: float
    """Charge of the drained battery."""
    floor: float
    """Lower end of the band."""
    budgets: list[float]
    """Per genset: what it may give in the next minute beyond its average limit, kW, if it always gave all it can."""
    largest: float
    """Largest power of a genset, kW."""


def horizon(params: MicrogridParams) -> int:
    """Minutes until every genset runs under ``start_next``, from any state."""
    return params.genset.warm_up + params.genset.cool_down + params.num_gensets


def can_avoid_deficit(
    params: MicrogridParams,
    gensets: Sequence[Genset],
    soc: float,
    command: int,
    known: tuple[float, float],
    *,
    conservativeness: float = 1.0,
) -> bool:
    """Whether ``command`` now and ``start_next`` from then on meets the demand in both modes.

    Args:
        params: The twin's parameters.
        gensets: State of the gensets; not changed.
        soc: Charge of the battery.
        command: -1 stop_last, 0 none, 1 start_next, for the next minute.
        known: Demand and wind of the next minute, kW.
        conservativeness: Factor on the rates of the bounds.
    """
    moved = [genset.copy() for genset in gensets]
    engine, battery, bounds = params.genset, params.battery, params.bounds
    demand, wind = known
    budgets = [_budget(genset, engine) for genset in moved]
    nominal = _Mode(soc, battery.normal_band[0], budgets, engine.rating)
    reserve = _Mode(soc, battery.reserve_band[0], list(budgets), engine.rating * engine.overload)
    rise, drop = conservativeness * bounds.demand_rise, conservativeness * bounds.wind_drop
    for minute in range(horizon(params)):
        group.advance(moved, command if minute == 0 else group.START, engine)
        worst = max(min(demand + (minute + 1) * rise, bounds.demand_max), demand)
        still = max(wind - (minute + 1) * drop, 0.0)
        if not _is_met(nominal, moved, (demand, wind), engine, battery):
            return False
        if not _is_met(reserve, moved, (worst, still), engine, battery):
            return False
        if minute and all(genset.status == RUNNING for genset in moved):
            return True
        if engine.ramp is not None:
            # The drained battery keeps gensets at minimum load, from which they must rise.
            for genset in moved:
                genset.power = engine.min_power if genset.status == RUNNING else engine.warm_up_power
    return True


def _budget(genset: Genset, engine: GensetParams) -> float:
    """What a genset may give in the next minute beyond its average limit, kW."""
    return max((engine.average_window - 1) * (engine.average_limit * engine.rating - genset.average), 0.0)


def _is_met(
    mode: _Mode, gensets: Sequence[Genset], known: tuple[float, float], engine: GensetParams, battery: BatteryParams
) -> bool:
    """Whether supply can meet demand in this minute; then drains the battery and spends the averages' budgets."""
    demand, wind = known
    fixed, running, weakest = 0.0, 0, mode.largest
    average, keep = engine.average_limit * engine.rating, 1.0 - 1.0 / engine.average_window
    for i, genset in enumerate(gensets):
        if genset.status == RUNNING:
            running += 1
            limit = min(mode.largest, average + mode.budgets[i])
            if engine.ramp is not None:
                limit = min(limit, genset.power + engine.ramp)
            weakest = min(weakest, max(limit, engine.min_power))
            mode.budgets[i] = max(mode.budgets[i] + average - mode.largest, 0.0) * keep
        elif genset.status == WARM_UP:
            fixed += engine.warm_up_power
    discharge = largest_discharge(mode.soc, mode.floor, battery)
    if discharge + fixed + running * weakest + wind < demand - SLACK:
        return False
    least = fixed + running * engine.min_power
    drained = min(discharge, demand - least - min(wind, max(demand - least, 0.0)))
    if drained > 0.0:
        mode.soc = next_charge(mode.soc, drained, battery)
    return True


def can_avoid_excess(params: MicrogridParams, gensets: Sequence[Genset], soc: float) -> bool:
    """Whether ``stop_last`` from now on wastes nothing, from a state after the minute under test.

    Args:
        params: The twin's parameters; what their dump load takes is not wasted.
        gensets: State of the gensets; not changed.
        soc: Charge of the battery.
    """
    engine, battery = params.genset, params.battery
    most = group.count_on(gensets) * max(engine.min_power, engine.warm_up_power)
    surplus = most - params.bounds.demand_min - params.dump_load
    # Room for the surplus of the longest plan, in the fewest volts, spares its simulation.
    minutes = _longest_stop(params)
    charge = surplus * 1000.0 * battery.efficiency / battery.voltage * minutes / (MINUTES * battery.capacity)
    if soc + charge <= battery.reserve_band[1] and surplus <= largest_charge(soc + charge, 1.0, battery):
        return True
    return charge_of_stopping(params, gensets, soc) is not None


def _longest_stop(params: MicrogridParams) -> int:
    return params.num_gensets * (params.genset.warm_up + params.genset.min_run + 1)


def charge_of_stopping(params: MicrogridParams, gensets: Sequence[Genset], soc: float) -> float | None:
    """Charge at the end of the plan of :func:`can_avoid_excess`; None if the battery cannot take what is left over."""
    engine, battery = params.genset, params.battery
    taken = params.bounds.demand_min + params.dump_load
    moved = [genset.copy() for genset in gensets]
    top = battery.reserve_band[1]
    for _ in range(_longest_stop(params)):
        group.advance(moved, group.STOP, engine)
        least, is_warming = 0.0, False
        for genset in moved:
            if genset.status == RUNNING:
                least += engine.min_power
            elif genset.status == WARM_UP:
                least += engine.warm_up_power
                is_warming = True
        if least > taken:
            if least - taken > largest_charge(soc, top, battery) + SLACK:
                return None
            soc = next_charge(soc, taken - least, battery)
        elif not is_warming:
            return soc
    return soc
