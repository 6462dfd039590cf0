"""The wind turbine: what the wind gives, or less where it is curtailed."""

from __future__ import annotations


def produce(setpoint: float, available: float) -> float:
    """Power of a minute, kW: ``min(available, max(0, setpoint))``."""
    return min(available, max(0.0, setpoint))
