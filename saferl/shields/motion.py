"""Motion models of the planar agents (Point, Car): linear in the speeds, fitted, with their measured errors.

With l and s the speed along the agent's heading and across it, w the turn rate, and u, r in [-1, 1] what the actuators
do after their saturation, one control step of dt seconds is

    w'     = alpha w + beta r
    theta' = theta + gamma w + delta r
    l, s   = the velocity in axes of theta'
    l'     = a l + b u,   s' = g s            (in axes of theta')
    p'     = p + dt (v + v') / 2

Both agents have motors that saturate far inside their control range: the Point's throttle at 0.05 and its turn at 0.95,
each wheel of the Car at 0.02 (``forcerange`` of the package's MuJoCo models), so that u is nearly a switch. The Point
drifts (g = a, the drag of its joints), the Car grips (g small). The coefficients are least-squares fits of seeded
random driving, the error bounds are those of other seeds: ``python -m saferl.bench.motion`` writes both to
``motion.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.errors import UnknownNameError

Array = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
"""Points and velocities of the plane: x + i y."""

DATA = Path(__file__).with_name("motion.json")
"""Where the fitted models are."""


@dataclass(frozen=True)
class MotionModel:
    """One agent; see the module for the equations."""

    agent: str
    """Name of Safety-Gymnasium."""
    dt: float
    """Control step in s."""
    forward: float
    """Direction in which the throttle drives, in rad from the agent's x axis."""
    saturation: tuple[float, float]
    """Size of each action from which on more does nothing."""
    mixing: tuple[tuple[float, float], tuple[float, float]]
    """Rows: u and r from the two saturated actions."""
    a: float
    """Share of the speed ahead that is left after a step."""
    b: float
    """Speed in m/s that full throttle adds in a step."""
    g: float
    """Share of the sideways speed that is left after a step."""
    alpha: float
    """Share of the turn rate that is left after a step."""
    beta: float
    """Turn rate in rad/s that a full turn adds in a step."""
    gamma: float
    """Turn in rad of a step per rad/s before it."""
    delta: float
    """Turn in rad of a step by a full turn."""
    errors: Mapping[str, float]
    """Measured on held-out driving: ``position_1`` and ``velocity_1`` after one step (m, m/s; 99.9 % quantile),
    ``position_10`` and ``position_25`` after so many steps without correction (m, 99 % quantile)."""

    def effects(self, actions: Array) -> Array:
        """The saturated actions in [-1, 1], (..., 2)."""
        return np.clip(actions / self.saturation, -1.0, 1.0)

    def inputs(self, effects: Array) -> tuple[Array, Array]:
        """Throttle u and turn r of saturated actions (..., 2)."""
        (ua, ub), (ra, rb) = self.mixing
        first, second = effects[..., 0], effects[..., 1]
        return ua * first + ub * second, ra * first + rb * second

    def step(
        self, position: Any, velocity: Any, heading: Any, turn_rate: Any, u: Any, r: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The state after one control step; every argument may be an array of one shape.

        Args:
            position: In m, complex.
            velocity: In m/s, complex.
            heading: Of the throttle, in rad.
            turn_rate: In rad/s.
            u: Throttle in [-1, 1].
            r: Turn in [-1, 1].
        """
        heading = heading + self.gamma * turn_rate + self.delta * r
        ahead = np.exp(1j * heading)
        moved = velocity * np.conj(ahead)
        after = (self.a * moved.real + self.b * u + 1j * self.g * moved.imag) * ahead
        return (
            position + self.dt / 2.0 * (velocity + after),
            after,
            heading,
            self.alpha * turn_rate + self.beta * r,
        )

    def repeat(self, steps: int) -> MotionModel:
        """The model of ``steps`` control steps with one input; exact but for turning while they last."""
        rates = (1.0 - self.alpha ** np.arange(steps + 1)) / (1.0 - self.alpha)
        return replace(
            self,
            dt=self.dt * steps,
            a=self.a**steps,
            b=self.b * (1.0 - self.a**steps) / (1.0 - self.a),
            g=self.g**steps,
            alpha=self.alpha**steps,
            beta=self.beta * float(rates[-1]),
            gamma=self.gamma * float(rates[-1]),
            delta=steps * self.delta + self.gamma * self.beta * float(rates[:-1].sum()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        data = asdict(self)
        return {**data, "saturation": list(self.saturation), "mixing": [list(row) for row in self.mixing]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MotionModel:
        """Read what :meth:`to_dict` wrote."""
        first, second = data["mixing"]
        left, right = data["saturation"]
        return cls(**{**data, "saturation": (left, right), "mixing": (tuple(first), tuple(second))})


def motion_model(agent: str) -> MotionModel:
    """The fitted model of ``agent``.

    Raises:
        UnknownNameError: none was fitted.
    """
    models = _models()
    if agent not in models:
        raise UnknownNameError("motion model of an agent", agent, models)
    return models[agent]


@cache
def _models() -> dict[str, MotionModel]:
    data = json.loads(DATA.read_text(encoding="utf-8"))
    return {name: MotionModel.from_dict(model) for name, model in data["models"].items()}
