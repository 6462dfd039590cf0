"""The root of the tree: balance, recoverability of both sides, and which of them goes first."""

from __future__ import annotations

from dataclasses import dataclass

from saferl.envs.microgrid import group
from saferl.envs.microgrid.battery import largest_charge
from saferl.envs.microgrid.genset import Genset
from saferl.envs.microgrid.observation import Sensors
from saferl.envs.microgrid.params import TOLERANCE, MicrogridParams
from saferl.envs.microgrid.recovery import can_avoid_deficit, can_avoid_excess, charge_of_stopping
from saferl.shields.scu.devices import BatteryRequest, BatteryUnit, WindUnit
from saferl.shields.scu.group import GensetGroupUnit, GroupRequest

ROOM = 1e-3
"""Charge that is kept free beyond what the excess test needs: how full the battery is changes how much it takes."""


@dataclass(frozen=True)
class GridRequest:
    """What the agent asks the microgrid for."""

    command: int
    """1 start_next, 0 none, -1 stop_last."""
    battery: float
    """kW, positive: discharging."""


@dataclass(frozen=True)
class GridPrediction:
    """What the microgrid will be after the next minute."""

    gensets: list[Genset]
    """Their states."""
    soc: float
    """Charge of the battery."""
    battery: float
    """Power of the battery, kW."""
    balance: float
    """Supply minus demand, kW."""


class MicrogridUnit:
    """Keeps supply equal to demand now, and able to stay so in the worst case of the bounds.

    Deficit goes first: ``stop_last`` becomes ``none`` and that ``start_next`` until demand can be met whatever happens
    (``start_next`` needs no test, it is the plan). Then excess: charging is limited, and a start is refused where no
    deficit needs it, until the gensets could be stopped without more power than somebody takes.
    """

    def __init__(self, params: MicrogridParams, *, conservativeness: float = 1.0, has_excess_test: bool = True) -> None:
        """A unit and its children."""
        self.params, self.conservativeness, self.has_excess_test = params, conservativeness, has_excess_test
        self.gensets = GensetGroupUnit(params.genset, params.num_gensets)
        self.battery = BatteryUnit(params.battery)
        self.wind = WindUnit(params.wind_rated)
        self.demand = 0.0
        self.reason = "ok"

    def update_from_sensors(self, sensors: Sensors) -> None:
        """Take the states of all devices, and demand and wind of the next minute."""
        self.gensets.update_from_sensors(sensors.gensets)
        self.battery.update_from_sensors(sensors.soc)
        self.wind.update_from_sensors(sensors.wind)
        self.demand = sensors.demand

    def is_recoverable(self, command: int) -> bool:
        """Whether demand can be met from now on if ``command`` is taken now."""
        known = (self.demand, self.wind.available)
        return can_avoid_deficit(
            self.params, self.gensets.states, self.battery.soc, command, known, conservativeness=self.conservativeness
        )

    def safe_action(self, request: GridRequest) -> GridRequest:
        """The request, changed where demand could not be met, or power be wasted, later on."""
        self.reason = "ok"
        command = request.command
        while command < group.START and not self.is_recoverable(command):
            command += 1
            self.reason = "demand could not be met later"
        if not self.has_excess_test or self._wastes_nothing(command, request.battery):
            return GridRequest(command, request.battery)
        self.reason = "power would be wasted later"
        for least in range(command, group.STOP - 1, -1):
            if least < command and not self.is_recoverable(least):
                break
            battery = self._limited_charge(least, request.battery)
            if battery is not None:
                return GridRequest(least, battery)
        self.reason = "power may have to be wasted"
        return GridRequest(command, max(request.battery, 0.0))

    def predict_step(self, request: GridRequest) -> GridPrediction:
        """The next minute: the dispatcher's five steps, each with predictions of the children."""
        gensets, demand = self.gensets, self.demand
        idle = gensets.predict_step(GroupRequest(request.command))
        battery = self.battery.safe_action(BatteryRequest(request.battery)).power
        displaced = battery if battery <= 0.0 or not self.params.has_wind_priority else 0.0
        wind = self.wind.predict_step(demand - idle.low - displaced)
        power = min(max(demand - battery - wind, idle.low), idle.high)
        is_reserve = battery + power + wind != demand
        battery, soc = self.battery.predict_step(
            BatteryRequest(demand - power - wind if is_reserve else battery, is_reserve)
        )
        asked = GroupRequest(request.command, demand - battery - wind, is_reserve=True)
        last = gensets.predict_step(asked)
        return GridPrediction(last.gensets, soc, battery, battery + last.power + wind - demand)

    def _wastes_nothing(self, command: int, battery: float) -> bool:
        """Whether all that can be stopped can be stopped without waste, from the state that a request leads to."""
        after = self._after(command, battery)
        return after is not None and can_avoid_excess(self.params, after.gensets, after.soc)

    def _after(self, command: int, battery: float) -> GridPrediction | None:
        """The next minute, if it wastes nothing itself."""
        after = self.predict_step(GridRequest(command, battery))
        return after if after.balance <= self.params.dump_load + TOLERANCE else None

    def _limited_charge(self, command: int, battery: float) -> float | None:
        """As much of the charging as can be had without waste later on; None if there is waste without any."""
        idle = self._after(command, max(battery, 0.0))
        end = charge_of_stopping(self.params, idle.gensets, idle.soc) if idle is not None else None
        if battery >= 0.0 or end is None:
            return None if end is None else battery
        room = self.params.battery.reserve_band[1] - end - ROOM
        limited = max(battery, -largest_charge(self.battery.soc, self.battery.soc + room, self.params.battery))
        return limited if self._wastes_nothing(command, limited) else 0.0
