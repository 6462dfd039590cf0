"""The observation: one vector in [-1, 1], and back to what the sensors said.

With n gensets, 17 + 11 n + 61 float64 numbers (100 for two); a quantity x >= 0 is shown as ``2 x / scale - 1``, a
signed one as ``x / scale``::

    0                group power (880 kW)             1                group fuel (240 l/h)
    2 + 11 i ...     genset i: running, warming up, cooling down, overloaded (-1 or 1), t_warm, t_cool, t_run,
                     power, available, average (440 kW each), fuel (120 l/h)
    then B = 2 + 11 n
    B + 0 .. 2       battery: charge (1), power (signed, 600 kW), wear of the last minute
    B + 3, 4         wind: available, produced (400 kW)
    B + 5, 6         demand (1480 kW), balance (signed, 1480 kW)
    B + 7, 8         what was asked for: command (-1, 0, 1), battery power (signed, 600 kW)
    B + 9 .. 12      what was done: command, group setpoint (880), battery (signed, 600), wind setpoint (400)
    B + 13, 14       sine and cosine of the time of day
    B + 15           last turning point of the charge
    B + 16 ...       demand of the next 30 minutes (1480 kW), then wind of the next 30 minutes (400 kW)

Differences from the publication: the status that was done is shown (its encoder repeats the one that was asked for),
the time of day is added, and forecasts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset
from saferl.envs.microgrid.params import MicrogridParams
from saferl.envs.microgrid.plant import Minute, Plant, Setpoints
from saferl.envs.microgrid.series import DAY, LARGEST_DEMAND
from saferl.errors import ConfigError

FORECAST = 30
"""Minutes."""
_PER_GENSET, _TAIL = 11, 16


@dataclass(frozen=True)
class Layout:
    """Where things are, and their scales, for some parameters."""

    params: MicrogridParams
    """The twin's."""

    @property
    def base(self) -> int:
        """Index of the battery's charge."""
        return 2 + _PER_GENSET * self.params.num_gensets

    @property
    def forecast(self) -> int:
        """Index of the demand forecast."""
        return self.base + _TAIL

    @property
    def size(self) -> int:
        """Length of the observation."""
        return self.forecast + 2 * FORECAST


@dataclass(slots=True)
class Sensors:
    """What an observation says of the devices and of the next minute."""

    gensets: list[Genset]
    """Their states."""
    soc: float
    """Charge of the battery."""
    demand: float
    """Of the next minute, kW."""
    wind: float
    """Available in the next minute, kW."""


def scaled_forecasts(demand: npt.NDArray[np.float64], wind: npt.NDArray[np.float64], rated: float) -> Any:
    """Both series as observations show them."""
    return 2.0 * demand / LARGEST_DEMAND - 1.0, 2.0 * wind / rated - 1.0


def encode(
    layout: Layout,
    plant: Plant,
    last: tuple[Minute, Setpoints, tuple[int, float], float, float],
    minute_of_day: int,
    forecasts: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """The observation.

    Args:
        layout: Where things go.
        plant: The devices.
        last: What the last minute did, its setpoints, what was asked for (command, kW), its demand and wind.
        minute_of_day: Of the next minute.
        forecasts: Scaled demand and wind from the next minute on, at least 30 each.
    """
    params = layout.params
    engine, battery = params.genset, params.battery
    largest = engine.rating * engine.overload
    most_fuel = engine.fuel_slope * largest + engine.fuel_idle
    minute, setpoints, asked, demand, wind = last
    group_scale = largest * params.num_gensets
    values = [2.0 * minute.gensets / group_scale - 1.0, 2.0 * minute.fuel_rate / (most_fuel * params.num_gensets) - 1.0]
    for genset in plant.gensets:
        status = genset.status
        values += [
            1.0 if status == RUNNING else -1.0,
            1.0 if status == WARM_UP else -1.0,
            1.0 if status == COOL_DOWN else -1.0,
            1.0 if genset.power > engine.rating + 1e-9 else -1.0,
            2.0 * genset.t_warm / engine.warm_up - 1.0,
            2.0 * genset.t_cool / engine.cool_down - 1.0,
            2.0 * genset.t_run / (engine.min_run + 1) - 1.0,
            2.0 * genset.power / largest - 1.0,
            2.0 * genset.available(engine, is_reserve=True) / largest - 1.0,
            2.0 * genset.average / largest - 1.0,
            2.0 * genset.fuel_rate(engine) / most_fuel - 1.0,
        ]
    angle = 2.0 * math.pi * minute_of_day / DAY
    most_wear = battery.wear_alpha * math.expm1(battery.wear_beta)
    values += [
        2.0 * plant.soc - 1.0,
        minute.battery / battery.power,
        2.0 * minute.wear / most_wear - 1.0,
        2.0 * wind / params.wind_rated - 1.0,
        2.0 * minute.wind / params.wind_rated - 1.0,
        2.0 * demand / LARGEST_DEMAND - 1.0,
        minute.balance / LARGEST_DEMAND,
        float(asked[0]),
        asked[1] / battery.power,
        float(setpoints.command),
        2.0 * setpoints.gensets / group_scale - 1.0,
        setpoints.battery / battery.power,
        2.0 * setpoints.wind / params.wind_rated - 1.0,
        math.sin(angle),
        math.cos(angle),
        2.0 * plant.wear.points[-1] - 1.0,
    ]
    obs = np.empty(layout.size)
    obs[: layout.forecast] = values
    obs[layout.forecast : layout.forecast + FORECAST] = forecasts[0][:FORECAST]
    obs[layout.forecast + FORECAST :] = forecasts[1][:FORECAST]
    # A device that is stronger than its twin leaves the scales.
    return np.clip(obs, -1.0, 1.0, out=obs)


def decode(layout: Layout, obs: Sequence[float] | npt.NDArray[Any]) -> Sensors:
    """What an observation says.

    Raises:
        ConfigError: another length.
    """
    values = np.asarray(obs, dtype=np.float64).ravel()
    if len(values) != layout.size:
        raise ConfigError(f"An observation of this microgrid has {layout.size} numbers; got {len(values)}.")
    head = values[: layout.forecast].tolist()
    engine = layout.params.genset
    largest = engine.rating * engine.overload
    gensets = []
    for i in range(layout.params.num_gensets):
        is_running, is_warming, is_cooling, _, t_warm, t_cool, t_run, power, _, average, _ = head[
            2 + _PER_GENSET * i : 2 + _PER_GENSET * (i + 1)
        ]
        status = RUNNING if is_running > 0 else WARM_UP if is_warming > 0 else COOL_DOWN if is_cooling > 0 else OFF
        gensets.append(
            Genset(
                status,
                round((t_warm + 1.0) * engine.warm_up / 2.0),
                round((t_cool + 1.0) * engine.cool_down / 2.0),
                round((t_run + 1.0) * (engine.min_run + 1) / 2.0),
                (average + 1.0) * largest / 2.0,
                (power + 1.0) * largest / 2.0,
            )
        )
    return Sensors(
        gensets,
        (head[layout.base] + 1.0) / 2.0,
        float(values[layout.forecast] + 1.0) * LARGEST_DEMAND / 2.0,
        float(values[layout.forecast + FORECAST] + 1.0) * layout.params.wind_rated / 2.0,
    )
