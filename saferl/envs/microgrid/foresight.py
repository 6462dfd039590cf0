"""How little fuel a day needs for one who knows it: a linear program, and the price of the charge that is left.

Per minute: power of the gensets, how many are on (in [0, n], not whole), wind, charging, discharging and energy in the
battery; supply equals demand. Every simplification is in favour of the program, so that no controller beats it:
gensets start and stop at will and in parts and may use their overload all day, averages and minimum run times do not
bind, the battery has its converter's losses only and may use its reserve band.

Days end with different charges, so fuel is compared as ``fuel + 150 l (charge at the start - charge at the end)``;
150 l is what a full battery holds at the fuel of a well-loaded genset. The charge of an energy is bounded by tangents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from saferl.envs.microgrid.battery import stored_energy
from saferl.envs.microgrid.params import MicrogridParams
from saferl.envs.microgrid.series import Array, Series
from saferl.errors import ConfigError

CHARGE_PRICE = 150.0
"""Litres of fuel per full battery."""


def adjusted_fuel(fuel: float, first_charge: float, last_charge: float) -> float:
    """Fuel with the change of the charge priced, litres."""
    return fuel + CHARGE_PRICE * (first_charge - last_charge)


@dataclass(frozen=True)
class Foresight:
    """The optimum of a day."""

    adjusted_fuel: float
    """Lower bound of :func:`adjusted_fuel`, litres."""
    fuel: float
    """Of the optimum, litres."""
    last_charge: float
    """Of the optimum."""
    gensets: Array
    """Power of the gensets, kW, shape (minutes,)."""
    energy: Array
    """In the battery after each minute, kWh, shape (minutes,)."""


def perfect_foresight(series: Series, soc: float, params: MicrogridParams | None = None) -> Foresight:
    """The optimum of a day that is known.

    Args:
        series: Demand and wind of exactly the day's minutes.
        soc: Charge at the start.
        params: The microgrid's; None: the published numbers.

    Raises:
        ConfigError: nobody can meet this demand.

    Example:
        >>> day = Series(np.full(60, 400.0), np.zeros(60))
        >>> round(perfect_foresight(day, 0.1).adjusted_fuel, 1)  # 400 kWh, less 5 % of charge, at 0.25 + 10 / 440 l
        108.5
    """
    params = params if params is not None else MicrogridParams()
    engine, battery, minutes = params.genset, params.battery, len(series.demand)
    start = stored_energy(soc, battery)
    rates = np.repeat([engine.fuel_slope, engine.fuel_idle, 0.0, 0.0, 0.0, 0.0], minutes) / 60.0
    low, high = (stored_energy(end, battery) for end in battery.reserve_band)
    bounds = [
        *[(0.0, None)] * minutes,
        *[(0.0, params.num_gensets)] * minutes,
        *((0.0, available) for available in series.wind.tolist()),
        *[(0.0, battery.power)] * (2 * minutes),
        *[(min(low, start), max(high, start))] * minutes,
        (None, None),
    ]
    equal, below = _rows(minutes, params)
    tangents, offsets = _tangents(minutes, params)
    solution = linprog(
        np.append(rates, -CHARGE_PRICE),
        A_ub=sparse.vstack([below, tangents]).tocsr(),
        b_ub=np.concatenate([np.zeros(2 * minutes), offsets]),
        A_eq=equal,
        b_eq=np.concatenate([series.demand, [start], np.zeros(minutes - 1)]),
        bounds=bounds,
        method="highs",
    )
    if solution.status != 0:
        raise ConfigError(
            f"A day's demand must be one that gensets, wind and battery can meet; this one has no plan "
            f"({solution.message})."
        )
    x, last = solution.x, float(solution.x[-1])
    fuel = float(rates @ x[:-1])
    return Foresight(adjusted_fuel(fuel, soc, last), fuel, last, x[:minutes], x[5 * minutes : 6 * minutes])


def _rows(minutes: int, params: MicrogridParams) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Balance and stored energy (= right side), loads of the gensets (<= 0), by minute.

    Columns: power, count, wind, charge, discharge, energy after the minute; the last one is the final charge.
    """
    engine, efficiency = params.genset, params.battery.efficiency
    one, none, final = (
        sparse.identity(minutes, format="csr"),
        sparse.csr_matrix((minutes, minutes)),
        sparse.csr_matrix((minutes, 1)),
    )
    carry = one - sparse.eye(minutes, k=-1, format="csr")
    balance = sparse.hstack([one, none, one, -one, one, none, final])
    charging, discharging = efficiency / 60.0 * one, one / (60.0 * efficiency)
    stored = sparse.hstack([none, none, none, -charging, discharging, carry, final])
    largest = engine.rating * engine.overload
    most = sparse.hstack([one, -largest * one, none, none, none, none, final])
    least = sparse.hstack([-one, engine.min_power * one, none, none, none, none, final])
    return sparse.vstack([balance, stored]).tocsr(), sparse.vstack([most, least]).tocsr()


def _tangents(minutes: int, params: MicrogridParams) -> tuple[sparse.csr_matrix, Array]:
    """Rows that keep the final charge below its tangents as a (concave) function of the final energy."""
    battery = params.battery
    points = np.linspace(battery.reserve_band[0], battery.reserve_band[1], 19)
    slopes = 1000.0 / (battery.capacity * (battery.voltage + battery.voltage_slope * points))
    rows = sparse.lil_matrix((len(points), 6 * minutes + 1))
    rows[:, 6 * minutes - 1] = -slopes[:, None]
    rows[:, 6 * minutes] = 1.0
    energies = np.array([stored_energy(point, battery) for point in points])
    return rows.tocsr(), points - slopes * energies
