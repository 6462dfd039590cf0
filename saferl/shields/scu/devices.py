"""The leaves of the tree: a genset, the battery, the wind turbine."""

from __future__ import annotations

from dataclasses import dataclass

from saferl.envs.microgrid import wind
from saferl.envs.microgrid.battery import BatteryParams, limits, next_charge
from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset, GensetParams


@dataclass(frozen=True)
class GensetRequest:
    """What a genset is asked for."""

    command: int = 0
    """1 start, 0 none, -1 stop."""
    power: float = 0.0
    """Power if it runs, kW."""
    is_reserve: bool = False
    """Whether overload is allowed."""


class GensetUnit:
    """Keeps warm-up, cool-down, minimum run time, minimum load, rating or overload, and the average load.

    Example:
        >>> unit = GensetUnit(GensetParams())
        >>> unit.update_from_sensors(Genset(RUNNING, t_run=12))
        >>> unit.safe_action(GensetRequest(command=-1, power=20.0))  # too early to stop, too little to run
        GensetRequest(command=0, power=120.0, is_reserve=False)
    """

    def __init__(self, params: GensetParams) -> None:
        """A unit for a genset that is off."""
        self.params = params
        self.state = Genset()

    def update_from_sensors(self, sensors: Genset) -> None:
        """Take the state of the genset."""
        self.state = sensors.copy()

    def safe_action(self, request: GensetRequest) -> GensetRequest:
        """The command if it is accepted now, and a power that the genset has in the next minute."""
        status = self.state.status
        accepts_start = status == OFF or (status == COOL_DOWN and self.state.is_controllable(self.params))
        accepts_stop = status == RUNNING and self.state.is_controllable(self.params)
        is_accepted = accepts_start if request.command > 0 else accepts_stop
        command = request.command if is_accepted else 0
        low, high = self.power_range(command, is_reserve=request.is_reserve)
        return GensetRequest(command, min(max(request.power, low), high), request.is_reserve)

    def power_range(self, command: int, *, is_reserve: bool) -> tuple[float, float]:
        """Smallest and largest power of the next minute under an accepted command, kW."""
        moved = self.state.copy()
        moved.advance(command, self.params)
        if moved.status == RUNNING:
            return self.params.min_power, moved.available(self.params, is_reserve=is_reserve)
        fixed = self.params.warm_up_power if moved.status == WARM_UP else 0.0
        return fixed, fixed

    def predict_step(self, request: GensetRequest) -> Genset:
        """The genset after the next minute."""
        safe = self.safe_action(request)
        moved = self.state.copy()
        moved.advance(safe.command, self.params)
        moved.produce(safe.power, self.params)
        return moved


@dataclass(frozen=True)
class BatteryRequest:
    """What the battery is asked for."""

    power: float = 0.0
    """kW, positive: discharging."""
    is_reserve: bool = False
    """Whether the reserve band may be used."""


class BatteryUnit:
    """Keeps power, current, and the normal or the reserve band of the charge.

    Example:
        >>> unit = BatteryUnit(BatteryParams())
        >>> unit.update_from_sensors(0.10)
        >>> unit.safe_action(BatteryRequest(500.0)).power
        0.0
    """

    def __init__(self, params: BatteryParams) -> None:
        """A unit for a half full battery."""
        self.params = params
        self.soc = 0.5

    def update_from_sensors(self, sensors: float) -> None:
        """Take the charge."""
        self.soc = sensors

    def safe_action(self, request: BatteryRequest) -> BatteryRequest:
        """The power within the limits of the next minute."""
        band = self.params.reserve_band if request.is_reserve else self.params.normal_band
        charge, discharge = limits(self.soc, band, self.params)
        return BatteryRequest(min(max(request.power, charge), discharge), request.is_reserve)

    def predict_step(self, request: BatteryRequest) -> tuple[float, float]:
        """Power (kW) of the next minute and charge after it."""
        power = self.safe_action(request).power
        return power, next_charge(self.soc, power, self.params)


class WindUnit:
    """Keeps the setpoint of the turbine between 0 and its rated power."""

    def __init__(self, rated: float) -> None:
        """A unit for a turbine in still air; ``rated`` in kW."""
        self.rated, self.available = rated, 0.0

    def update_from_sensors(self, sensors: float) -> None:
        """Take the power that the next minute's wind has, kW."""
        self.available = sensors

    def safe_action(self, request: float) -> float:
        """The setpoint, kW."""
        return min(max(request, 0.0), self.rated)

    def predict_step(self, request: float) -> float:
        """Power of the next minute, kW."""
        return wind.produce(self.safe_action(request), self.available)
