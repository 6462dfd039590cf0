"""The gensets as a group: in which order they start and stop, and how they share a load.

``start``: if a genset cools down, only the first of those may restart, and only when it is ready; otherwise the first
one that is off starts. ``stop``: ignored while one warms up; otherwise the last running one stops, when it may. So a
later genset never runs without the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset, GensetParams

STOP, NONE, START = -1, 0, 1
COMMANDS = {STOP: "stop_last", NONE: "none", START: "start_next"}


def count_on(gensets: Sequence[Genset]) -> int:
    """Gensets that warm up or run."""
    return sum(genset.status in (WARM_UP, RUNNING) for genset in gensets)


def advance(gensets: Sequence[Genset], command: int, params: GensetParams) -> bool:
    """Go on by one minute; whether the command reached a genset that accepted it."""
    index = _target(gensets, command, params)
    for i, genset in enumerate(gensets):
        genset.advance(command if i == index else NONE, params)
    return index >= 0


def _target(gensets: Sequence[Genset], command: int, params: GensetParams) -> int:
    """The genset that the command is for; -1 if it is ignored."""
    if command == NONE:
        return -1
    if command == START:
        for i, genset in enumerate(gensets):
            if genset.status == COOL_DOWN:
                return i if genset.t_cool >= params.cool_down - 1 else -1
        for i, genset in enumerate(gensets):
            if genset.status == OFF:
                return i
        return -1
    last = -1
    for i, genset in enumerate(gensets):
        if genset.status == WARM_UP:
            return -1
        if genset.status == RUNNING:
            last = i
    return last if last >= 0 and gensets[last].t_run >= params.min_run else -1


def power_range(gensets: Sequence[Genset], params: GensetParams, *, is_reserve: bool) -> tuple[float, float]:
    """Smallest and largest power of the group in this minute, kW, in the statuses that it has now.

    Running gensets work at the same fraction of their rating, so the weakest limits all.
    """
    fixed, running, weakest = 0.0, 0, float("inf")
    for genset in gensets:
        if genset.status == RUNNING:
            running += 1
            weakest = min(weakest, genset.available(params, is_reserve=is_reserve))
        elif genset.status == WARM_UP:
            fixed += params.warm_up_power
    if not running:
        return fixed, fixed
    return fixed + running * params.min_power, fixed + running * weakest


def produce(gensets: Sequence[Genset], setpoint: float, params: GensetParams, *, is_reserve: bool) -> float:
    """Give the power nearest to ``setpoint`` (kW) that the group can; what was given, kW."""
    low, high = power_range(gensets, params, is_reserve=is_reserve)
    power = min(max(setpoint, low), high)
    running = sum(genset.status == RUNNING for genset in gensets)
    fixed = sum(params.warm_up_power for genset in gensets if genset.status == WARM_UP)
    share = (power - fixed) / running if running else 0.0
    return sum(genset.produce(share, params) for genset in gensets)
