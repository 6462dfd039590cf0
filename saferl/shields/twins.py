"""Small digital twins with the backup policies and terminal sets that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saferl.errors import ConfigError
from saferl.shields.protocol import Action, ActionSpec


@dataclass
class DoubleIntegratorTwin:
    """A mass on a line that is pushed, and must stay within ``x_max`` of the origin.

    With the acceleration u held for one step (exact, not Euler):

        x' = x + v dt + u dt^2 / 2,        v' = v + u dt

    ``step`` reports ``position``: the largest |x| *during* the step minus ``x_max``, so a turn between two samples
    counts too.

    Example:
        >>> twin = DoubleIntegratorTwin(dt=1.0, x_max=2.0, velocity=1.0)
        >>> twin.step(np.array([-1.0])), twin.get_state().tolist()
        ({'position': -1.5}, [0.5, 0.0])
    """

    dt: float = 0.1
    """Length of a step in seconds."""
    x_max: float = 1.0
    """Limit of |x| in metres."""
    position: float = 0.0
    """x in metres."""
    velocity: float = 0.0
    """v in metres per second."""

    def __post_init__(self) -> None:
        """Refuse lengths that are none."""
        if not (self.dt > 0.0 and self.x_max > 0.0):
            raise ConfigError(f"A double integrator needs dt > 0 and x_max > 0; got {self.dt} and {self.x_max}.")

    def clone(self) -> DoubleIntegratorTwin:
        """An independent copy."""
        return replace(self)

    def set_state(self, state: Any) -> None:
        """Go to (x, v)."""
        self.position, self.velocity = float(state[0]), float(state[1])

    def get_state(self) -> Any:
        """(x, v)."""
        return np.array([self.position, self.velocity])

    def step(self, action: Action, exogenous: Any = None) -> dict[str, float]:
        """One step of acceleration ``action``, plus ``exogenous`` if there is any."""
        push = float(action[0]) + (0.0 if exogenous is None else float(np.ravel(exogenous)[0]))
        x, v, dt = self.position, self.velocity, self.dt
        self.position, self.velocity = x + v * dt + push * dt * dt / 2.0, v + push * dt
        furthest = max(abs(x), abs(self.position))
        if v * self.velocity < 0.0:
            furthest = max(furthest, abs(x - v * v / (2.0 * push)))
        return {"position": furthest - self.x_max}


@dataclass(frozen=True)
class Brake:
    """The backup policy of :class:`DoubleIntegratorTwin`: the strongest deceleration until it stands still.

        u = -clip(v / dt, -u_max, u_max)

    Example:
        >>> Brake(dt=0.1, u_max=1.0)(np.array([0.0, 0.05]))
        array([-0.5])
    """

    dt: float = 0.1
    """Length of a step in seconds."""
    u_max: float = 1.0
    """Largest deceleration in metres per second squared."""

    def __call__(self, state: Any) -> Action:
        """The deceleration in the state (x, v)."""
        return np.array([-min(max(float(state[1]) / self.dt, -self.u_max), self.u_max)])


@dataclass(frozen=True)
class AtRest:
    """The terminal set of :class:`Brake`: standing still, where braking keeps it for ever."""

    tolerance: float = 1e-12
    """Largest |v| that counts as standing still."""

    def __call__(self, state: Any) -> bool:
        """Whether the state (x, v) stands still."""
        return abs(float(state[1])) <= self.tolerance


def brake_actions(u_max: float = 1.0) -> ActionSpec:
    """The actions of a double integrator whose acceleration is limited to ``u_max``."""
    return ActionSpec.box([-u_max], [u_max])
