"""A digital twin of the microgrid: it can be copied, set and stepped, and knows nothing of the future."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saferl.envs.microgrid.action import read_action
from saferl.envs.microgrid.params import TOLERANCE
from saferl.envs.microgrid.plant import Minute, Plant, dispatch


class MicrogridTwin:
    """Devices, dispatcher, and the demand and wind of the next minute.

    Example:
        >>> from saferl.envs.microgrid import MicrogridParams
        >>> from saferl.envs.microgrid.genset import RUNNING, Genset
        >>> plant = Plant(MicrogridParams(), [Genset(RUNNING, t_run=31), Genset()], soc=0.5)
        >>> twin = MicrogridTwin(plant, demand=300.0, wind=0.0)
        >>> twin.clone().step([0.0, 0.0])["deficit"] <= 0.0  # one genset, battery idle
        True
    """

    def __init__(self, plant: Plant, demand: float, wind: float) -> None:
        """A twin that owns ``plant``; ``demand`` and ``wind`` (kW) are what it expects where nobody says otherwise."""
        self.plant = plant
        self.demand, self.wind = demand, wind
        self.last: Minute | None = None

    def clone(self) -> MicrogridTwin:
        """An independent copy in the same state."""
        return MicrogridTwin(self.plant.clone(), self.demand, self.wind)

    def get_state(self) -> dict[str, Any]:
        """Plain types; what :meth:`set_state` takes."""
        return {"plant": self.plant.get_state(), "demand": self.demand, "wind": self.wind}

    def set_state(self, state: Any) -> None:
        """Go to a state of :meth:`get_state`."""
        self.plant.set_state(state["plant"])
        self.demand, self.wind = float(state["demand"]), float(state["wind"])

    def step(self, action: Sequence[float], exogenous: tuple[float, float] | None = None) -> dict[str, float]:
        """One minute; how far each limit was broken (positive: broken), see :func:`margins`.

        Args:
            action: As for the environment.
            exogenous: Demand and wind (kW); None: those that the twin expects.
        """
        demand, wind = exogenous if exogenous is not None else (self.demand, self.wind)
        plant = self.plant
        request = read_action(action, plant.gensets, plant.params)
        setpoints = dispatch(plant.params, plant.gensets, plant.soc, request, demand, wind)
        self.last = plant.step(setpoints, demand, wind)
        self.demand, self.wind = demand, wind
        return margins(plant, self.last)


def margins(plant: Plant, minute: Minute) -> dict[str, float]:
    """How far a minute broke each limit, positive where it did.

    Returns:
        ``deficit`` and ``excess`` (kW beyond a tolerance of 0.05, what the dump load takes not counted), ``soc_band``
        (charge outside the normal band) and ``overload`` (kW of the most loaded genset above its rating).
    """
    params, (low, high) = plant.params, plant.params.battery.normal_band
    highest = max(genset.power for genset in plant.gensets)
    return {
        "deficit": -minute.balance - TOLERANCE,
        "excess": minute.balance - params.dump_load - TOLERANCE,
        "soc_band": max(low - plant.soc, plant.soc - high) - 1e-9,
        "overload": highest - params.genset.rating - 1e-9,
    }
