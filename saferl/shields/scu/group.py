"""The gensets together: order of starts and stops, equal load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saferl.envs.microgrid import group
from saferl.envs.microgrid.genset import Genset, GensetParams
from saferl.shields.scu.devices import GensetUnit


@dataclass(frozen=True)
class GroupRequest:
    """What the group is asked for."""

    command: int
    """1 start_next, 0 none, -1 stop_last."""
    power: float = 0.0
    """Of the group, kW."""
    is_reserve: bool = False
    """Whether overload is allowed."""


@dataclass(frozen=True)
class GroupPrediction:
    """What the group will be after the next minute."""

    gensets: list[Genset]
    """Their states."""
    power: float
    """What they give, kW."""
    low: float
    """The least that they can give, kW."""
    high: float
    """The most, kW."""


class GensetGroupUnit:
    """Passes a command to the genset whose turn it is, and shares the power equally among those that run."""

    def __init__(self, params: GensetParams, num_gensets: int) -> None:
        """A unit for gensets of one kind."""
        self.params = params
        self.children = [GensetUnit(params) for _ in range(num_gensets)]

    @property
    def states(self) -> list[Genset]:
        """States of the gensets; not to be changed."""
        return [child.state for child in self.children]

    def update_from_sensors(self, sensors: Sequence[Genset]) -> None:
        """Take the states of the gensets."""
        for child, genset in zip(self.children, sensors, strict=True):
            child.update_from_sensors(genset)

    def safe_action(self, request: GroupRequest) -> GroupRequest:
        """The command, or ``none`` if no genset would follow it, and a power that the group has."""
        moved = [genset.copy() for genset in self.states]
        is_accepted = group.advance(moved, request.command, self.params)
        low, high = group.power_range(moved, self.params, is_reserve=request.is_reserve)
        command = request.command if is_accepted else group.NONE
        return GroupRequest(command, min(max(request.power, low), high), request.is_reserve)

    def predict_step(self, request: GroupRequest) -> GroupPrediction:
        """The gensets after the next minute."""
        moved = [genset.copy() for genset in self.states]
        group.advance(moved, request.command, self.params)
        low, high = group.power_range(moved, self.params, is_reserve=request.is_reserve)
        power = group.produce(moved, request.power, self.params, is_reserve=request.is_reserve)
        return GroupPrediction(moved, power, low, high)
