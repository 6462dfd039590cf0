"""A planar agent among hazards that moves exactly as its fitted model says, for the tests of shields that brake."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Plant:
    """State of the agent; positions and velocities are complex, headings are those of the throttle."""

    model: object
    hazards: np.ndarray
    size: float = 0.2
    walls: tuple = ()
    position: complex = 0j
    velocity: complex = 0j
    heading: float = 0.0
    turn_rate: float = 0.0

    def privileged(self):
        """What the environments call privileged state."""
        return {
            "position": np.array([self.position.real, self.position.imag]),
            "velocity": np.array([self.velocity.real, self.velocity.imag]),
            "heading": self.heading - self.model.forward,
            "turn_rate": self.turn_rate,
            "hazards": np.column_stack([self.hazards.real, self.hazards.imag]),
            "hazard_size": self.size,
            "walls": np.array(self.walls, dtype=np.float64).reshape(-1, 3),
        }

    def step(self, action):
        """One control step."""
        u, r = self.model.inputs(self.model.effects(np.asarray(action)))
        state = self.model.step(self.position, self.velocity, self.heading, self.turn_rate, u, r)
        self.position, self.velocity, self.heading, self.turn_rate = complex(state[0]), complex(state[1]), *state[2:]

    @property
    def gap(self):
        """Distance to the nearest hazard or wall in m, negative inside."""
        gaps = [*(np.abs(self.hazards - self.position) - self.size)]
        gaps += [c - (a * self.position.real + b * self.position.imag) for a, b, c in self.walls]
        return float(min(gaps))


def towards(plant, target):
    """The action of a driver who heads for ``target`` at full throttle and sees nothing else."""
    turn = float(np.angle((target - plant.position) * np.exp(-1j * plant.heading)))
    u, r = (1.0 if abs(turn) < 1.0 else 0.0), float(np.clip(3.0 * turn * np.sign(plant.model.delta), -1.0, 1.0))
    effect = np.linalg.solve(np.array(plant.model.mixing), np.array([u, r]))
    return np.clip(effect * np.array(plant.model.saturation), -1.0, 1.0)
