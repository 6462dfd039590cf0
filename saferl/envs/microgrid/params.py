"""The parameters of the whole microgrid, as data, and how much a device may differ from its twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from saferl.envs.microgrid.battery import BatteryParams
from saferl.envs.microgrid.genset import GensetParams
from saferl.envs.microgrid.series import WIND_RATED, ExogenousBounds
from saferl.errors import ConfigError, UnknownNameError

TOLERANCE = 0.05
"""An imbalance up to this, kW, is none."""

MISMATCH = {"none": 0.0, "low": 0.05, "medium": 0.10, "high": 0.20}
"""Largest relative difference of a device's parameters from its twin's, by level."""


@dataclass(frozen=True)
class MicrogridParams:
    """What the twin knows of the microgrid."""

    genset: GensetParams = field(default_factory=GensetParams)
    """Of every genset."""
    num_gensets: int = 2
    """How many there are."""
    battery: BatteryParams = field(default_factory=BatteryParams)
    """The battery."""
    bounds: ExogenousBounds = field(default_factory=ExogenousBounds)
    """What is assumed of demand and wind."""
    wind_rated: float = WIND_RATED
    """Rated power of the wind turbine, kW."""
    has_wind_priority: bool = True
    """Whether wind displaces the battery's discharge."""
    dump_load: float = 0.0
    """Excess power that a dump load can take, kW; 0: there is none."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if self.num_gensets < 1 or self.dump_load < 0.0 or not 0.0 < self.wind_rated <= WIND_RATED:
            raise ConfigError(
                f"A microgrid needs a genset, a dump load of at least 0 kW and a wind turbine of 0 to {WIND_RATED:g} "
                f"kW; got {self}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        data = asdict(self)
        battery = data["battery"]
        return {**data, "battery": {k: list(v) if isinstance(v, tuple) else v for k, v in battery.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MicrogridParams:
        """Read what :meth:`to_dict` wrote."""
        parts = {
            "genset": GensetParams(**data["genset"]),
            "battery": BatteryParams(**data["battery"]),
            "bounds": ExogenousBounds(**data["bounds"]),
        }
        return cls(**{**data, **parts})


def device_params(params: MicrogridParams, level: str, generator: np.random.Generator) -> MicrogridParams:
    """A device that differs from ``params``: rating, battery power, capacity and efficiency drawn around them.

    Args:
        params: The twin's.
        level: How much, of :data:`MISMATCH`.
        generator: Source of the draws, uniform in the level's range; an efficiency stays below 0.99.

    Raises:
        UnknownNameError: no such level.
    """
    if level not in MISMATCH:
        raise UnknownNameError("level of mismatch", level, MISMATCH)
    if level == "none":
        return params
    rating, power, capacity, efficiency = 1.0 + MISMATCH[level] * generator.uniform(-1.0, 1.0, 4)
    battery, genset = params.battery, params.genset
    return replace(
        params,
        genset=replace(genset, rating=genset.rating * float(rating)),
        battery=replace(
            battery,
            power=battery.power * float(power),
            capacity=battery.capacity * float(capacity),
            efficiency=min(battery.efficiency * float(efficiency), 0.99),
        ),
    )
