"""The battery: charge from power through an open-circuit voltage and a resistance, limits in a band, wear.

Discharging is positive, on the grid's side, kW. In a minute (n = 60 per hour)::

    p' = p eta if charging, else p / eta                                       power at the cells, W
    k  = R + slope / (Q n);   I = (V - sqrt(V^2 - 4 k p')) / (2 k)             current, A
    soc' = soc - I / (Q n),   V = slope soc + base                             charge as a fraction

Wear is counted by rainflow: a stack of turning points of the charge (rounded to 0.01, with a hysteresis of 0.01), from
which closed cycles are removed by the four-point rule, and ``alpha exp(beta depth)`` per half cycle, as it grows.
Specification: SCU, arXiv 2512.01046. Outside a band the battery may only move back towards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from saferl.errors import ConfigError

MINUTES = 60.0
"""Steps per hour."""


@dataclass(frozen=True)
class BatteryParams:
    """What the battery can do."""

    power: float = 600.0
    """Largest power, kW."""
    capacity: float = 672.0
    """Ampere hours."""
    current: float = 672.0
    """Largest current, A."""
    efficiency: float = 0.95
    """Of the converter, in each direction."""
    resistance: float = 0.039375
    """Ohm."""
    voltage: float = 929.16
    """Open-circuit voltage when empty, V."""
    voltage_slope: float = 39.6
    """What it gains until full, V."""
    normal_band: tuple[float, float] = (0.10, 0.90)
    """Charge that requests stay in."""
    reserve_band: tuple[float, float] = (0.05, 0.95)
    """Charge that balancing may use."""
    wear_alpha: float = 5.0
    """Cost of a half cycle: ``alpha (exp(beta depth) - 1)``."""
    wear_beta: float = 1.0
    """See ``wear_alpha``."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        object.__setattr__(self, "normal_band", tuple(self.normal_band))
        object.__setattr__(self, "reserve_band", tuple(self.reserve_band))
        (low, high), (lowest, highest) = self.normal_band, self.reserve_band
        if not 0.0 <= lowest <= low < high <= highest <= 1.0:
            raise ConfigError(f"Bands must be 0 <= reserve <= normal <= reserve <= 1; got {self}.")
        if not (0.0 < self.efficiency <= 1.0 and min(self.power, self.capacity, self.current, self.resistance) > 0.0):
            raise ConfigError(f"A battery must have positive numbers and an efficiency of at most 1; got {self}.")

    @property
    def k(self) -> float:
        """Resistance as seen over one step, Ohm."""
        return self.resistance + self.voltage_slope / (self.capacity * MINUTES)


def limits(soc: float, band: tuple[float, float], params: BatteryParams) -> tuple[float, float]:
    """Largest charging (negative) and discharging power that keeps the charge in ``band`` for a minute, kW."""
    return -largest_charge(soc, band[1], params), largest_discharge(soc, band[0], params)


def largest_discharge(soc: float, low: float, params: BatteryParams) -> float:
    """Power that brings the charge down to ``low`` in a minute, or the largest, kW; 0 below ``low``."""
    current = min((soc - low) * params.capacity * MINUTES, params.current)
    if current <= 0.0:
        return 0.0
    voltage = params.voltage_slope * soc + params.voltage
    return min((voltage * current - params.k * current**2) * params.efficiency / 1000.0, params.power)


def largest_charge(soc: float, high: float, params: BatteryParams) -> float:
    """Power that brings the charge up to ``high`` in a minute, or the largest, kW, positive; 0 above ``high``."""
    current = min((high - soc) * params.capacity * MINUTES, params.current)
    if current <= 0.0:
        return 0.0
    voltage = params.voltage_slope * soc + params.voltage
    return min((voltage * current + params.k * current**2) / params.efficiency / 1000.0, params.power)


def next_charge(soc: float, power: float, params: BatteryParams) -> float:
    """The charge after a minute at ``power`` (kW, positive: discharging)."""
    cells = 1000.0 * (power * params.efficiency if power < 0.0 else power / params.efficiency)
    voltage, k = params.voltage_slope * soc + params.voltage, params.k
    current = (voltage - math.sqrt(max(voltage**2 - 4.0 * k * cells, 0.0))) / (2.0 * k)
    return min(max(soc - current / (params.capacity * MINUTES), 0.0), 1.0)


def stored_energy(soc: float, params: BatteryParams) -> float:
    """Energy in the cells without losses, kWh: the integral of the voltage over the charge."""
    return params.capacity * (params.voltage * soc + 0.5 * params.voltage_slope * soc**2) / 1000.0


class Wear:
    """Turning points of the charge, and what each minute wears."""

    HYSTERESIS = 0.01
    LONGEST = 30

    def __init__(self, soc: float) -> None:
        """Begin at a charge."""
        self.points = [round(soc, 2)]
        self.extreme, self.direction = soc, 0

    def update(self, old: float, new: float, params: BatteryParams) -> float:
        """Wear of the minute in which the charge went from ``old`` to ``new``."""
        if old == new:
            return 0.0
        self._follow(new)
        alpha, beta, turn = params.wear_alpha, params.wear_beta, self.points[-1]
        cost = alpha * (math.exp(beta * abs(new - turn)) - math.exp(beta * abs(old - turn)))
        if cost < 0.0:
            # Towards the turning point: as much as a cycle of the hysteresis wears per charge moved.
            step = self.HYSTERESIS
            cost = abs(new - old) * alpha * (math.exp(beta * step) - 1.0) / step
        return cost

    def _follow(self, soc: float) -> None:
        if self.direction == 0:
            if abs(soc - self.points[-1]) >= self.HYSTERESIS:
                self.extreme, self.direction = soc, (1 if soc > self.points[-1] else -1)
            return
        moved = (soc - self.extreme) * self.direction
        if moved >= 0.0:
            self.extreme = soc
        elif moved <= -self.HYSTERESIS:
            self.points.append(round(self.extreme, 2))
            del self.points[: -self.LONGEST]
            self.extreme, self.direction = soc, -self.direction
        points = self.points
        while len(points) >= 3:
            inner = abs(points[-1] - points[-2])
            if inner > abs(points[-2] - points[-3]) or inner > abs(self.extreme - points[-1]):
                return
            del points[-2:]

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {"points": list(self.points), "extreme": self.extreme, "direction": self.direction}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Wear:
        """The inverse of :meth:`to_dict`."""
        wear = cls(float(data["extreme"]))
        wear.points = [float(point) for point in data["points"]]
        wear.direction = int(data["direction"])
        return wear
