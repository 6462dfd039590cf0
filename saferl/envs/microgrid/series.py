"""Demand and wind of a day, minute by minute: a synthetic one, an adversarial one, and the bounds that both keep.

The synthetic series replaces measured data, which may not be shipped. Every value is known one minute ahead.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]
DAY = 1440
"""Minutes."""
MEAN_DEMAND = 300.0
WIND_RATED = 400.0
LARGEST_DEMAND = 1480.0
"""All gensets at overload and the battery at full power, kW: no series may ask for more."""


@dataclass(frozen=True)
class ExogenousBounds:
    """What is assumed of demand and wind; a shield's guarantee holds inside.

    Example:
        >>> ExogenousBounds().are_kept(Series(np.full(3, 200.0), np.array([100.0, 20.0, 0.0])))
        False
    """

    demand_min: float = 150.0
    """Smallest demand, kW."""
    demand_max: float = 570.0
    """Largest demand, kW."""
    demand_rise: float = 80.0
    """Largest rise of the demand per minute, kW. It may fall at any rate."""
    wind_drop: float = 72.0
    """Largest fall of the available wind power per minute, kW. It may rise at any rate."""

    def __post_init__(self) -> None:
        """Refuse bounds that nothing can keep."""
        if not 0.0 <= self.demand_min <= self.demand_max or self.demand_rise < 0.0 or self.wind_drop < 0.0:
            raise ConfigError(f"Bounds must be 0 <= demand_min <= demand_max with rates of at least 0; got {self}.")

    def are_kept(self, series: Series) -> bool:
        """Whether every minute of a series lies inside, within 1e-9 kW."""
        demand, wind, tolerance = series.demand, series.wind, 1e-9
        return bool(
            demand.min() >= self.demand_min - tolerance
            and demand.max() <= self.demand_max + tolerance
            and wind.min() >= -tolerance
            and np.all(np.diff(demand) <= self.demand_rise + tolerance)
            and np.all(np.diff(wind) >= -self.wind_drop - tolerance)
        )

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Series:
    """Demand and available wind power, kW, one value per minute.

    The first minute is the one before the episode, the last ones serve as forecasts only.
    """

    demand: Array
    """Shape (minutes,), in [0, 1480] kW."""
    wind: Array
    """Shape (minutes,), in [0, rated power] kW."""

    def __post_init__(self) -> None:
        """Refuse shapes and values that no microgrid has."""
        if self.demand.ndim != 1 or self.demand.shape != self.wind.shape or len(self.demand) < 2:
            raise ConfigError(
                "Demand and wind must be arrays of one shape (minutes,) with at least two; "
                f"got {self.demand.shape} and {self.wind.shape}."
            )
        for name, values, largest in (("Demand", self.demand, LARGEST_DEMAND), ("Wind", self.wind, WIND_RATED)):
            if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= largest):
                raise ConfigError(f"{name} must be finite and in [0, {largest:g}] kW; got values outside.")


def synthetic(minutes: int, start: int, bounds: ExogenousBounds, generator: np.random.Generator) -> Series:
    """A day as it might be: two harmonics and autocorrelated noise for the demand, a mean-reverting wind.

    ``demand = 300 (1 + 0.22 sin 2 pi (t / 1440 - 0.33) + 0.10 sin 4 pi (t / 1440 - 0.1)) + AR(1)`` with coefficient
    0.97 and innovations of 4 kW; ``wind = 400 clip(OU)`` with mean 0.5, time constant 360 minutes and steps of 0.02,
    from its stationary law.

    Args:
        minutes: Length.
        start: Minute of the day of the first value.
        bounds: What is kept: values are clipped, rises and falls limited.
        generator: Source of the noise.
    """
    day = (start + np.arange(minutes)) / DAY
    shape = 1.0 + 0.22 * np.sin(2 * math.pi * (day - 0.33)) + 0.10 * np.sin(4 * math.pi * (day - 0.1))
    noise = _autoregression(0.97, 4.0, minutes, generator)
    demand = np.clip(MEAN_DEMAND * shape + noise, bounds.demand_min, bounds.demand_max)
    breeze = 0.5 + _autoregression(1.0 - 1.0 / 360.0, 0.02, minutes, generator)
    wind = WIND_RATED * np.clip(breeze, 0.0, 1.0)
    return Series(_limit_rise(demand, bounds.demand_rise), -_limit_rise(-wind, bounds.wind_drop))


def adversarial(minutes: int, start: int, bounds: ExogenousBounds, generator: np.random.Generator) -> Series:
    """A day that uses its bounds: targets drawn anew about every 25 minutes, reached as fast as the bounds allow.

    Demand targets are uniform in the bounds, wind targets 0 or uniform up to the rated power with equal probability.
    ``start`` has no effect.
    """
    demand, wind = np.empty(minutes), np.empty(minutes)
    now_demand = goal_demand = float(generator.uniform(bounds.demand_min, bounds.demand_max))
    now_wind = goal_wind = float(generator.uniform(0.0, WIND_RATED))
    for t in range(minutes):
        if generator.random() < 1.0 / 25.0:
            goal_demand = float(generator.uniform(bounds.demand_min, bounds.demand_max))
            goal_wind = float(generator.choice([0.0, generator.uniform(0.0, WIND_RATED)]))
        now_demand = min(goal_demand, now_demand + bounds.demand_rise)
        now_wind = max(goal_wind, now_wind - bounds.wind_drop)
        demand[t], wind[t] = now_demand, now_wind
    return Series(demand, wind)


SERIES = {"synthetic": synthetic, "adversarial": adversarial}
"""Makers of a series by name."""


def make_series(name: str, minutes: int, start: int, bounds: ExogenousBounds, generator: np.random.Generator) -> Series:
    """The series of that name; see :data:`SERIES`."""
    maker: Any = SERIES[name]
    series: Series = maker(minutes, start, bounds, generator)
    return series


def _autoregression(coefficient: float, step: float, length: int, generator: np.random.Generator) -> Array:
    """An AR(1) process from its stationary law."""
    innovations = (step * generator.standard_normal(length)).tolist()
    value = innovations[0] / math.sqrt(1.0 - coefficient**2)
    values = [value]
    for innovation in innovations[1:]:
        value = coefficient * value + innovation
        values.append(value)
    return np.array(values)


def _limit_rise(values: Array, rise: float) -> Array:
    """The largest series below ``values`` that rises by at most ``rise`` per step."""
    if np.all(np.diff(values) <= rise):
        return values
    limited = values.copy()
    for t in range(1, len(values)):
        limited[t] = min(limited[t], limited[t - 1] + rise)
    return limited
