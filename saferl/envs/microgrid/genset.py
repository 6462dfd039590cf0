"""A diesel genset: state machine, power limits, fuel.

Statuses and what a minute in them gives::

    off       0 kW          "start" -> warm-up
    warm-up   100 kW        for 3 minutes, then running
    running   setpoint      between minimum load and what is available; "stop" -> cool-down after 30 minutes
    cool-down 0 kW          for 6 minutes, then off (or warm-up, with "start")

Powers in kW, fuel in litres per hour, one step is a minute. Specification: SCU, arXiv 2512.01046. Difference: a genset
runs 30 full minutes before it may stop; the published code accepts the stop one minute before.
"""

from __future__ import annotations

from dataclasses import dataclass

from saferl.errors import ConfigError

OFF, WARM_UP, RUNNING, COOL_DOWN = 0, 1, 2, 3


@dataclass(frozen=True)
class GensetParams:
    """What a genset can do."""

    rating: float = 400.0
    """Prime power, kW."""
    overload: float = 1.1
    """Largest power in need, as a factor of the rating."""
    min_load: float = 0.3
    """Smallest power while running, as a factor of the rating."""
    warm_up: int = 3
    """Minutes."""
    warm_up_power: float = 100.0
    """Power while warming up, kW."""
    cool_down: int = 6
    """Minutes."""
    min_run: int = 30
    """Minutes of running before a stop is accepted."""
    average_limit: float = 0.7
    """Largest running average of the power, as a factor of the rating."""
    average_window: int = 2880
    """Minutes of that average."""
    fuel_slope: float = 0.25
    """Litres per kWh."""
    fuel_idle: float = 10.0
    """Litres per hour while the engine turns."""
    ramp: float | None = None
    """Largest rise of the power per minute while running, kW; None: no limit."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if not (self.rating > 0.0 and self.overload >= 1.0 and 0.0 < self.min_load <= self.average_limit <= 1.0):
            raise ConfigError(
                "A genset must have a positive rating, overload >= 1 and 0 < min_load <= average_limit <= 1; "
                f"got {self}."
            )
        if min(self.warm_up, self.cool_down, self.min_run, self.average_window) < 1:
            raise ConfigError(f"Times of a genset must be at least one minute; got {self}.")
        if self.ramp is not None and not self.ramp > 0.0:
            raise ConfigError(f"The ramp of a genset must be positive kW per minute, or None; got {self.ramp}.")

    @property
    def min_power(self) -> float:
        """Smallest power while running, kW."""
        return self.min_load * self.rating


class Genset:
    """The state of one genset."""

    __slots__ = ("average", "power", "status", "t_cool", "t_run", "t_warm")

    def __init__(
        self,
        status: int = OFF,
        t_warm: int = 0,
        t_cool: int = 0,
        t_run: int = 0,
        average: float = 230.0,
        power: float = 0.0,
    ) -> None:
        """A genset; timers in minutes, ``average`` and ``power`` (of the last minute) in kW."""
        self.status, self.t_warm, self.t_cool, self.t_run = status, t_warm, t_cool, t_run
        self.average, self.power = average, power

    def copy(self) -> Genset:
        """An independent copy."""
        return Genset(self.status, self.t_warm, self.t_cool, self.t_run, self.average, self.power)

    @property
    def is_on(self) -> bool:
        """Warming up or running."""
        return self.status in (WARM_UP, RUNNING)

    def to_list(self) -> list[float]:
        """The arguments of the constructor."""
        return [self.status, self.t_warm, self.t_cool, self.t_run, self.average, self.power]

    @classmethod
    def from_list(cls, values: list[float]) -> Genset:
        """The inverse of :meth:`to_list`."""
        return cls(*(int(value) for value in values[:4]), *(float(value) for value in values[4:]))

    def is_controllable(self, params: GensetParams) -> bool:
        """Whether a stop (running) or a restart (cool-down) is accepted in the next minute."""
        if self.status == RUNNING:
            return self.t_run >= params.min_run
        return self.status == COOL_DOWN and self.t_cool >= params.cool_down - 1

    def advance(self, command: int, params: GensetParams) -> None:
        """Go on by one minute; ``command`` is 1 (start), 0 or -1 (stop), and ignored where it is not accepted."""
        status = self.status
        if status == RUNNING:
            if command < 0 and self.t_run >= params.min_run:
                self.status, self.t_run, self.t_cool = COOL_DOWN, 0, 0
            elif self.t_run <= params.min_run:
                self.t_run += 1
        elif status == WARM_UP:
            self.t_warm += 1
            if self.t_warm >= params.warm_up:
                self.status, self.t_warm, self.t_run = RUNNING, 0, 1
        elif status == COOL_DOWN:
            self.t_cool += 1
            if self.t_cool >= params.cool_down:
                self.status, self.t_cool, self.t_warm = (WARM_UP if command > 0 else OFF), 0, 0
        elif command > 0:
            self.status, self.t_warm = WARM_UP, 0

    def available(self, params: GensetParams, *, is_reserve: bool) -> float:
        """Largest power that a running genset may give this minute, kW: rating or overload, average, ramp."""
        limit = params.rating * params.overload if is_reserve else params.rating
        window = params.average_window
        cap = window * params.average_limit * params.rating - (window - 1) * self.average
        limit = min(limit, cap)
        if params.ramp is not None:
            limit = min(limit, self.power + params.ramp)
        return max(limit, params.min_power)

    def produce(self, power: float, params: GensetParams) -> float:
        """Give ``power`` (kW) for this minute, keep the books, and return what was given: it depends on the status."""
        given = power if self.status == RUNNING else params.warm_up_power if self.status == WARM_UP else 0.0
        self.power = given
        if self.status in (WARM_UP, RUNNING):
            window = params.average_window
            self.average = ((window - 1) * self.average + max(given, params.min_power)) / window
        return given

    def fuel_rate(self, params: GensetParams) -> float:
        """Litres per hour in the last minute."""
        return 0.0 if self.status == OFF else params.fuel_slope * self.power + params.fuel_idle
