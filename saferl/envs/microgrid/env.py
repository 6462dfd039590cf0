"""``Microgrid``: run gensets and battery of a remote grid for a day with as little fuel as possible, never in the dark.

A step is a minute, an episode 1,440 of them. The agent sets how many gensets shall be on and what the battery does
(:mod:`~saferl.envs.microgrid.action`); a dispatcher derives the rest (:mod:`~saferl.envs.microgrid.plant`).
``reward = - fuel rate / 240 l/h - wear - penalty`` with a penalty for imbalance of ``100 (0.1 + deficit / 1480)`` or
``60 (0.1 + excess / 1480)``, kW. Specification: SCU, arXiv 2512.01046.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from saferl.envs.microgrid import group
from saferl.envs.microgrid.action import read_action
from saferl.envs.microgrid.monitor import TimesMonitor
from saferl.envs.microgrid.observation import FORECAST, Layout, encode, scaled_forecasts
from saferl.envs.microgrid.params import TOLERANCE, MicrogridParams, device_params
from saferl.envs.microgrid.plant import Minute, Plant, Setpoints, dispatch
from saferl.envs.microgrid.series import DAY, LARGEST_DEMAND, SERIES, Series, make_series
from saferl.envs.microgrid.start import EVALUATION_START, check_options, evaluation_start, safe_start
from saferl.envs.microgrid.twin import MicrogridTwin, margins
from saferl.envs.state import State, generator_state, new_generator
from saferl.errors import ConfigError, EnvContractError, UnknownNameError

STARTS = ("random", "evaluation")
OPTIONS = ("series", "soc", "minute_of_day")


class Microgrid(gymnasium.Env[Any, Any]):
    """The microgrid of 1.2 to 1.6 of the specification, with its constraints as costs by name.

    ``info["costs"]`` has, per minute: ``deficit`` and ``excess`` (1 if supply misses or exceeds demand by more than
    0.05 kW), ``soc_band`` (1 if the charge leaves the normal band), ``overload`` (1 if a genset is above its rating),
    ``breaches`` (of warm-up, cool-down and minimum run time), ``starts`` (of gensets), ``wear`` (of the battery) and
    ``dumped`` (1 if the dump load takes power). ``info["margins"]`` has those of the first four. The rest of ``info``:
    ``fuel`` (litres), ``soc``, ``balance`` (kW), ``unmet`` (kWh), ``command`` and ``bounds_violated``, which says that
    demand or wind of the episode leave the bounds that shields assume.

    Example:
        >>> env = Microgrid(start="evaluation")
        >>> obs, info = env.reset(seed=0)
        >>> obs.shape, info["bounds_violated"]
        ((100,), False)
        >>> env.step(np.array([0.0, 0.0]))[-1]["costs"]["deficit"]
        0.0
    """

    is_fixed_horizon = True
    """No episode ends early."""

    def __init__(
        self,
        *,
        params: MicrogridParams | None = None,
        series: str = "synthetic",
        start: str = "random",
        soc: float | None = None,
        mismatch: str = "none",
        dump_load: float | None = None,
        ramp: float | None = None,
        has_balance_penalty: bool = True,
        render_mode: str | None = None,
        max_episode_steps: int | None = DAY,
    ) -> None:
        """Describe the grid and its days.

        Args:
            params: What the twin, dispatcher and shields know of the devices; None: the published numbers.
            series: ``"synthetic"`` or ``"adversarial"`` days.
            start: ``"random"`` (random minute of the day, charge and first genset) or ``"evaluation"`` (07:00, charge
                ``soc``, the first genset has been running).
            soc: Charge at the start of every episode; None: random, or 0.2 for ``"evaluation"``.
            mismatch: How much the devices differ from the twin, drawn at every reset: ``"none"``, ``"low"`` (5 %),
                ``"medium"`` (10 %) or ``"high"`` (20 %).
            dump_load: Excess power that may be dumped, kW; None: as in ``params``.
            ramp: Largest rise of a genset's power per minute, kW; None: as in ``params``.
            has_balance_penalty: Whether the reward has a penalty for deficit and excess.
            render_mode: Must be None.
            max_episode_steps: Length of an episode, at most a day.

        Raises:
            ConfigError: a value outside its range.
            UnknownNameError: an unknown series, start or level of mismatch.
        """
        if render_mode is not None:
            raise ConfigError(f"The microgrid has no pictures: render_mode must be None; got {render_mode!r}.")
        if series not in SERIES:
            raise UnknownNameError("series of the microgrid", series, SERIES)
        if start not in STARTS:
            raise UnknownNameError("start of the microgrid", start, STARTS)
        if max_episode_steps is None or not 1 <= max_episode_steps <= DAY:
            raise ConfigError(f"max_episode_steps of the microgrid must be in 1 to {DAY}; got {max_episode_steps}.")
        if soc is not None and not 0.0 <= soc <= 1.0:
            raise ConfigError(f"A charge must be in [0, 1]; got {soc}.")
        params = params if params is not None else MicrogridParams()
        if dump_load is not None:
            params = replace(params, dump_load=dump_load)
        if ramp is not None:
            params = replace(params, genset=replace(params.genset, ramp=ramp))
        device_params(params, mismatch, np.random.default_rng(0))  # refuses an unknown level
        self.params, self.series_name, self.start, self.start_soc = params, series, start, soc
        self.mismatch, self.has_balance_penalty, self.time_limit = mismatch, has_balance_penalty, max_episode_steps
        self.render_mode = None
        self.layout = Layout(params)
        self.observation_space = spaces.Box(-1.0, 1.0, (self.layout.size,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._steps = -1

    # -- Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw a day and a start; ``seed`` begins a new generator.

        Args:
            seed: Of day, start and mismatch.
            options: ``series`` (a :class:`Series`, the minute before the episode first, 30 more at its end), ``soc``
                and ``minute_of_day`` in the place of drawn ones.

        Raises:
            ConfigError: an unknown option, or a series that is too short.
        """
        super().reset(seed=seed)
        generator, given = self.np_random, check_options(options, OPTIONS)
        drawn = EVALUATION_START if self.start == "evaluation" else int(generator.integers(DAY))
        self._minute_of_day = int(given.get("minute_of_day", drawn)) % DAY
        series = given.get("series")
        if series is None:
            series = make_series(self.series_name, self._length, self._minute_of_day - 1, self.params.bounds, generator)
        device = device_params(self.params, self.mismatch, generator)
        self._use_series(series)
        known = (self._demand[1], self._wind[1])
        gensets, soc = (
            evaluation_start(self.params, 0.2)
            if self.start == "evaluation"
            else safe_start(self.params, known, generator)
        )
        soc = given.get("soc", soc if self.start_soc is None else self.start_soc)
        self.plant = Plant(device, gensets, float(soc))
        self._monitor = TimesMonitor(gensets, device.genset)
        self._steps = 0
        power = sum(genset.power for genset in gensets)
        first = Minute(power, 0.0, 0.0, 0.0, sum(g.fuel_rate(device.genset) for g in gensets), 0.0, 0, 0)
        setpoints = Setpoints(group.NONE, power, 0.0, 0.0)
        self._last = (first, setpoints, (group.NONE, 0.0), self._demand[0], self._wind[0])
        return self._observe(), {"soc": self.plant.soc, "bounds_violated": self._bounds_violated}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One minute.

        Raises:
            ResetNeeded: there was no reset yet.
            EnvContractError: an action that is not two finite numbers.
        """
        if self._steps < 0:
            raise ResetNeeded("Microgrid: call reset before step.")
        if np.shape(action) != (2,) or not (math.isfinite(action[0]) and math.isfinite(action[1])):
            raise EnvContractError(
                f"An action of the microgrid must be two finite numbers; got {action!r}. Put a shield before it."
            )
        self._steps += 1
        demand, wind = self._demand[self._steps], self._wind[self._steps]
        plant, known = self.plant, (demand, wind)
        request = read_action(action, plant.gensets, self.params)
        setpoints = dispatch(self.params, plant.gensets, plant.soc, request, *known)
        minute = plant.step(setpoints, *known)
        self._last = (minute, setpoints, request, demand, wind)
        is_over = self._steps >= self.time_limit
        return self._observe(), self._reward(minute), False, is_over, self._info(minute, request[0])

    def _reward(self, minute: Minute) -> float:
        engine = self.params.genset
        most = engine.fuel_slope * engine.rating * engine.overload + engine.fuel_idle
        reward = -minute.fuel_rate / (most * self.params.num_gensets) - minute.wear
        excess = minute.balance - self.params.dump_load
        if self.has_balance_penalty and minute.balance < -TOLERANCE:
            reward -= 100.0 * (0.1 - minute.balance / LARGEST_DEMAND)
        elif self.has_balance_penalty and excess > TOLERANCE:
            reward -= 60.0 * (0.1 + excess / LARGEST_DEMAND)
        return reward

    def _info(self, minute: Minute, command: int) -> dict[str, Any]:
        limits = margins(self.plant, minute)
        costs = {name: float(value > 0.0) for name, value in limits.items()}
        costs["breaches"] = float(self._monitor.update(self.plant.gensets))
        costs["starts"] = float(minute.started)
        costs["wear"] = minute.wear
        costs["dumped"] = float(self.params.dump_load > 0.0 and minute.balance > TOLERANCE)
        return {
            "costs": costs,
            "cost": sum(costs.values()),
            "margins": limits,
            "fuel": minute.fuel_rate / 60.0,
            "soc": self.plant.soc,
            "balance": minute.balance,
            "unmet": max(-minute.balance, 0.0) / 60.0,
            "command": command,
            "bounds_violated": self._bounds_violated,
        }

    # -- twin and state -------------------------------------------------------------------------------------------

    def twin(self) -> MicrogridTwin:
        """A twin with the twin's parameters, in the state of the device, that knows the next minute.

        Raises:
            ResetNeeded: there was no reset yet.
        """
        if self._steps < 0:
            raise ResetNeeded("Microgrid: call reset before twin.")
        plant = self.plant.clone()
        plant.params = self.params
        return MicrogridTwin(plant, self._demand[self._steps + 1], self._wind[self._steps + 1])

    @property
    def day(self) -> Series:
        """Demand and wind of the episode, the minute before it first."""
        return self._series

    def get_state(self) -> State:
        """Everything that decides how the env goes on."""
        state: State = {"steps": self._steps}
        if self._np_random is not None:
            state |= {"generator": generator_state(self.np_random), "generator_seed": self._np_random_seed}
        if self._steps < 0:
            return state
        minute, setpoints, asked, demand, wind = self._last
        return {
            **state,
            "plant": self.plant.get_state(),
            "device": self.plant.params.to_dict(),
            "monitor": self._monitor.get_state(),
            "minute_of_day": self._minute_of_day,
            "series": {"demand": self._series.demand.copy(), "wind": self._series.wind.copy()},
            "last": {
                "minute": [getattr(minute, name) for name in Minute.__slots__],
                "setpoints": [getattr(setpoints, name) for name in Setpoints.__slots__],
                "asked": list(asked),
                "known": [demand, wind],
            },
        }

    def set_state(self, state: State) -> None:
        """Go on from a state of :meth:`get_state`."""
        self._steps = int(state["steps"])
        if "generator" in state:
            self._np_random, self._np_random_seed = new_generator(state["generator"]), state["generator_seed"]
        if self._steps < 0:
            return
        self._use_series(Series(np.array(state["series"]["demand"]), np.array(state["series"]["wind"])))
        self.plant = Plant(MicrogridParams.from_dict(state["device"]), [], 0.0)
        self.plant.set_state(state["plant"])
        self._monitor = TimesMonitor(self.plant.gensets, self.plant.params.genset)
        self._monitor.set_state(state["monitor"])
        self._minute_of_day = int(state["minute_of_day"])
        last = state["last"]
        command, power = last["asked"]
        minute, setpoints = Minute(*last["minute"]), Setpoints(*last["setpoints"])
        demand, wind = last["known"]
        self._last = (minute, setpoints, (int(command), float(power)), float(demand), float(wind))

    # -- inside ---------------------------------------------------------------------------------------------------

    @property
    def _length(self) -> int:
        return self.time_limit + 1 + FORECAST

    def _use_series(self, series: Series) -> None:
        if len(series.demand) < self._length:
            raise ConfigError(
                f"A series must have at least {self._length} minutes: one before the episode, {self.time_limit} of it "
                f"and {FORECAST} of forecast after it; got {len(series.demand)}."
            )
        self._series = series
        self._demand, self._wind = series.demand.tolist(), series.wind.tolist()
        self._forecasts = scaled_forecasts(series.demand, series.wind, self.params.wind_rated)
        self._bounds_violated = not self.params.bounds.are_kept(series)

    def _observe(self) -> Any:
        first = self._steps + 1
        shown = (self._forecasts[0][first:], self._forecasts[1][first:])
        return encode(self.layout, self.plant, self._last, (self._minute_of_day + self._steps) % DAY, shown)


def make_microgrid(**kwargs: Any) -> Microgrid:
    """A :class:`Microgrid`, for the catalogue."""
    return Microgrid(**kwargs)
