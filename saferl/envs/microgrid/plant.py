"""The devices together, and the dispatcher that turns a request into their setpoints.

A request is a command for the gensets and a power of the battery. Genset power and wind curtailment follow (SCU, arXiv
2512.01046)::

    1. b: the request within the normal band; g_min: least power of the gensets after the command
    2. wind = demand - b - g_min, or demand - g_min if b discharges and wind has priority
    3. gensets = demand - b - wind, without overload
    4. battery = demand - gensets - wind, within the reserve band
    5. gensets = demand - battery - wind, with overload

so ``balance = battery + gensets + wind - demand`` is 0 unless the devices cannot do more (deficit) or less (excess).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saferl.envs.microgrid import group, wind
from saferl.envs.microgrid.battery import Wear, limits, next_charge
from saferl.envs.microgrid.genset import Genset
from saferl.envs.microgrid.params import MicrogridParams


@dataclass(slots=True)
class Setpoints:
    """What the dispatcher asks of the devices for one minute, kW."""

    command: int
    """-1 stop_last, 0 none, 1 start_next."""
    gensets: float
    """Power of the group."""
    battery: float
    """Positive: discharging."""
    wind: float
    """Upper limit."""


@dataclass(slots=True)
class Minute:
    """What one minute did."""

    gensets: float
    """Power of the group, kW."""
    battery: float
    """Power of the battery, kW."""
    wind: float
    """Power of the turbine, kW."""
    balance: float
    """Supply minus demand, kW, before the dump load."""
    fuel_rate: float
    """Litres per hour."""
    wear: float
    """Of the battery."""
    overloaded: int
    """Gensets above their rating."""
    started: int
    """Gensets that were started."""


class Plant:
    """The state of all devices; both the true ones and their twin are one of these."""

    def __init__(self, params: MicrogridParams, gensets: Sequence[Genset], soc: float) -> None:
        """Devices with ``params`` in a state."""
        self.params = params
        self.gensets = list(gensets)
        self.soc = soc
        self.wear = Wear(soc)

    def step(self, setpoints: Setpoints, demand: float, available_wind: float) -> Minute:
        """One minute with what the dispatcher asks, as far as the devices can."""
        params = self.params
        before = group.count_on(self.gensets)
        group.advance(self.gensets, setpoints.command, params.genset)
        started = max(group.count_on(self.gensets) - before, 0)
        power = group.produce(self.gensets, setpoints.gensets, params.genset, is_reserve=True)
        charge, discharge = limits(self.soc, params.battery.reserve_band, params.battery)
        battery = min(max(setpoints.battery, charge), discharge)
        old, self.soc = self.soc, next_charge(self.soc, battery, params.battery)
        turbine = wind.produce(setpoints.wind, available_wind)
        rating = params.genset.rating + 1e-9
        return Minute(
            power,
            battery,
            turbine,
            battery + power + turbine - demand,
            sum(genset.fuel_rate(params.genset) for genset in self.gensets),
            self.wear.update(old, self.soc, params.battery),
            sum(genset.power > rating for genset in self.gensets),
            started,
        )

    def clone(self) -> Plant:
        """An independent copy in the same state."""
        other = Plant(self.params, [genset.copy() for genset in self.gensets], self.soc)
        other.wear = Wear.from_dict(self.wear.to_dict())
        return other

    def get_state(self) -> dict[str, Any]:
        """Plain types; :meth:`set_state` is the inverse."""
        gensets = [genset.to_list() for genset in self.gensets]
        return {"gensets": gensets, "soc": self.soc, "wear": self.wear.to_dict()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a state of :meth:`get_state`."""
        self.gensets = [Genset.from_list(values) for values in state["gensets"]]
        self.soc = float(state["soc"])
        self.wear = Wear.from_dict(state["wear"]) if "wear" in state else Wear(self.soc)


def dispatch(
    params: MicrogridParams,
    gensets: Sequence[Genset],
    soc: float,
    request: tuple[int, float],
    demand: float,
    available_wind: float,
) -> Setpoints:
    """Setpoints for the next minute, from what is known of it.

    Args:
        params: The twin's parameters.
        gensets: As they are before the minute; they are not changed.
        soc: Charge of the battery before the minute.
        request: Command for the gensets (-1, 0, 1) and power of the battery (kW).
        demand: Of the next minute, kW.
        available_wind: Of the next minute, kW.
    """
    command, power = request
    moved = [genset.copy() for genset in gensets]
    group.advance(moved, command, params.genset)
    low, high = group.power_range(moved, params.genset, is_reserve=False)
    charge, discharge = limits(soc, params.battery.normal_band, params.battery)
    battery = min(max(power, charge), discharge)
    setpoint = demand - low - (battery if battery <= 0.0 or not params.has_wind_priority else 0.0)
    setpoint = min(max(setpoint, 0.0), params.wind_rated)
    turbine = min(available_wind, setpoint)
    generation = min(max(demand - battery - turbine, low), high)
    if battery + generation + turbine != demand:
        charge, discharge = limits(soc, params.battery.reserve_band, params.battery)
        battery = min(max(demand - generation - turbine, charge), discharge)
    _, high = group.power_range(moved, params.genset, is_reserve=True)
    generation = min(max(demand - battery - turbine, low), high)
    return Setpoints(command, generation, battery, setpoint)
