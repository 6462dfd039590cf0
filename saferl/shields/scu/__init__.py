"""Shielded controller units: a tree of units that each keep the limits of one device, and the microgrid they make.

A unit knows a device (its state as the sensors tell it, and a twin of it), turns a request into one that its device can
follow, and predicts what that gives. A parent predicts with its children and needs not know how they keep their limits.
"""

from saferl.shields.scu.devices import BatteryUnit, GensetUnit, WindUnit
from saferl.shields.scu.grid import MicrogridUnit
from saferl.shields.scu.group import GensetGroupUnit
from saferl.shields.scu.shield import MicrogridShield
from saferl.shields.scu.unit import ControllerUnit

__all__ = [
    "BatteryUnit",
    "ControllerUnit",
    "GensetGroupUnit",
    "GensetUnit",
    "MicrogridShield",
    "MicrogridUnit",
    "WindUnit",
]
