"""Policies to compare with: random, constant, greedy, lazy, and an operator's rules.

All have Stable-Baselines3's ``predict`` and read the microgrid's observation. "Lazy" (no genset, discharge) behind a
shield is the shield alone.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.microgrid import group
from saferl.envs.microgrid.action import write_status
from saferl.envs.microgrid.genset import RUNNING, WARM_UP
from saferl.envs.microgrid.observation import Layout, Sensors, decode
from saferl.envs.microgrid.params import MicrogridParams
from saferl.errors import UnknownNameError

Memory = npt.NDArray[np.float64]


class MicrogridPolicy(abc.ABC):
    """A rule per observation with some numbers of memory."""

    memory_size = 0
    """Numbers that are remembered; they begin at 0."""

    def __init__(self, params: MicrogridParams | None = None) -> None:
        """A policy for a microgrid with ``params``; None: the published numbers."""
        self.params = params if params is not None else MicrogridParams()
        self.layout = Layout(self.params)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[npt.NDArray[np.float32], tuple[Memory, ...] | None]:
        """Actions of one observation or a batch, and the memory for the next call."""
        rows = np.atleast_2d(np.asarray(observation, dtype=np.float64))
        memory = state[0].copy() if state is not None else np.zeros((len(rows), self.memory_size))
        if episode_start is not None:
            memory[np.asarray(episode_start, dtype=bool)] = 0.0
        actions = np.array(
            [self.act(decode(self.layout, row), own) for row, own in zip(rows, memory, strict=True)], dtype=np.float32
        )
        return actions if np.ndim(observation) > 1 else actions[0], (memory,) if self.memory_size else None

    @abc.abstractmethod
    def act(self, sensors: Sensors, memory: Memory) -> tuple[float, float]:
        """The action; ``memory``, shape (memory_size,), may be written."""

    def request(self, sensors: Sensors, command: int, power: float) -> tuple[float, float]:
        """The action that asks for a command and a battery power (kW)."""
        return write_status(command, sensors.gensets, self.params), power / self.params.battery.power


class RandomOperator(MicrogridPolicy):
    """Uniform actions."""

    def __init__(self, params: MicrogridParams | None = None, *, seed: int = 0) -> None:
        """Actions of a generator begun with ``seed``."""
        super().__init__(params)
        self._generator = np.random.default_rng(seed)

    def sample(self, observation: Any, generators: list[np.random.Generator]) -> npt.NDArray[np.float32]:
        """One action per row, from its own generator."""
        return np.array([g.uniform(-1.0, 1.0, 2) for g, _ in zip(generators, observation, strict=True)], np.float32)

    def act(self, sensors: Sensors, memory: Memory) -> tuple[float, float]:
        """A uniform action."""
        first, second = self._generator.uniform(-1.0, 1.0, 2).tolist()
        return first, second


class ConstantOperator(MicrogridPolicy):
    """The same command and the same battery power every minute."""

    def __init__(self, command: int, share: float, params: MicrogridParams | None = None) -> None:
        """``command`` is -1 (stop_last), 0 or 1 (start_next), ``share`` of the battery's power in [-1, 1]."""
        super().__init__(params)
        self.command, self.share = command, share

    def act(self, sensors: Sensors, memory: Memory) -> tuple[float, float]:
        """Always the same."""
        return self.request(sensors, self.command, self.share * self.params.battery.power)


class RealisticOperator(MicrogridPolicy):
    """The rules of an operator.

    Start one more genset when one gives more than 90 % of what is available for five minutes, or all of it; stop the
    last when the load is covered by 70 % of what the remaining ones have for five minutes; never stop the last one.
    The battery takes what wind and minimum loads leave over until it is at 90 %, then serves as much as it can until
    it is at 10 %.
    """

    memory_size = 3  # minutes of high load, minutes of low load, 1 while discharging
    PATIENCE = 5
    """Minutes."""
    MARGIN = 1e-3
    """The ends of the normal band are reached within this."""

    def act(self, sensors: Sensors, memory: Memory) -> tuple[float, float]:
        """The rules."""
        command, power = self._command(sensors, memory), self._battery(sensors, memory)
        return self.request(sensors, command, power)

    def _command(self, sensors: Sensors, memory: Memory) -> int:
        engine = self.params.genset
        running = [genset for genset in sensors.gensets if genset.status == RUNNING]
        if any(genset.status == WARM_UP for genset in sensors.gensets):
            memory[:2] = 0.0
            return group.NONE
        if not running:
            return group.START
        available = [genset.available(engine, is_reserve=False) for genset in running]
        loads = [genset.power / most for genset, most in zip(running, available, strict=True)]
        memory[0] = memory[0] + 1.0 if max(loads) > 0.9 else 0.0
        rest = (len(running) - 1) * min(available)
        load = sum(genset.power for genset in running)
        memory[1] = memory[1] + 1.0 if rest > 0.0 and load < 0.7 * rest else 0.0
        if max(loads) >= 1.0 - 1e-9 or memory[0] >= self.PATIENCE:
            return group.START
        return group.STOP if memory[1] >= self.PATIENCE else group.NONE

    def _battery(self, sensors: Sensors, memory: Memory) -> float:
        low, high = self.params.battery.normal_band
        if sensors.soc >= high - self.MARGIN:
            memory[2] = 1.0
        elif sensors.soc <= low + self.MARGIN:
            memory[2] = 0.0
        if memory[2]:
            return self.params.battery.power
        least, _ = group.power_range(sensors.gensets, self.params.genset, is_reserve=False)
        return min(sensors.demand - sensors.wind - least, 0.0)


BASELINES = ("random", "lazy", "idle", "charge", "greedy", "realistic")
"""Names of :func:`baseline`."""


def baseline(name: str, params: MicrogridParams | None = None, *, seed: int = 0) -> MicrogridPolicy:
    """A policy by its name.

    ``lazy``: stop, discharge; ``idle``: keep the gensets, battery idle; ``charge``: start, charge; ``greedy``: stop,
    charge.

    Raises:
        UnknownNameError: another name.

    Example:
        >>> baseline("lazy").share
        1.0
    """
    constants = {"lazy": (-1, 1.0), "idle": (0, 0.0), "charge": (1, -1.0), "greedy": (-1, -1.0)}
    if name in constants:
        return ConstantOperator(*constants[name], params)
    if name == "random":
        return RandomOperator(params, seed=seed)
    if name == "realistic":
        return RealisticOperator(params)
    raise UnknownNameError("baseline of the microgrid", name, BASELINES)
