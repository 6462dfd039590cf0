"""Counts breaches of the gensets' times from what is seen from outside, apart from their state machine."""

from __future__ import annotations

from collections.abc import Sequence

from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset, GensetParams


class TimesMonitor:
    """How long every genset has been in its status, and whether it left it too early.

    A breach is a load before the warm-up is over, a stop before the minimum run time, or a start or end of the
    cool-down before its time.
    """

    def __init__(self, gensets: Sequence[Genset], params: GensetParams) -> None:
        """Begin with gensets whose timers say how long they have been in their statuses."""
        self.params = params
        self.statuses = [genset.status for genset in gensets]
        self.minutes = [_minutes(genset) for genset in gensets]

    def update(self, gensets: Sequence[Genset]) -> int:
        """Breaches of the minute that has just passed."""
        breaches = 0
        for i, genset in enumerate(gensets):
            before, now = self.statuses[i], genset.status
            if now == before:
                self.minutes[i] += 1
                continue
            breaches += not self._may_leave(before, now, self.minutes[i])
            self.statuses[i], self.minutes[i] = now, 1
        return breaches

    def _may_leave(self, before: int, now: int, minutes: int) -> bool:
        params = self.params
        if before == WARM_UP:
            return now == RUNNING and minutes >= params.warm_up
        if before == RUNNING:
            return now == COOL_DOWN and minutes >= params.min_run
        if before == COOL_DOWN:
            return now in (OFF, WARM_UP) and minutes >= params.cool_down
        return now == WARM_UP

    def get_state(self) -> dict[str, list[int]]:
        """Plain types."""
        return {"statuses": list(self.statuses), "minutes": list(self.minutes)}

    def set_state(self, state: dict[str, list[int]]) -> None:
        """Go to a state of :meth:`get_state`."""
        self.statuses = [int(status) for status in state["statuses"]]
        self.minutes = [int(minutes) for minutes in state["minutes"]]


def _minutes(genset: Genset) -> int:
    """Minutes that a genset has spent in its status, as its timers tell."""
    return {WARM_UP: genset.t_warm + 1, RUNNING: genset.t_run, COOL_DOWN: genset.t_cool + 1}.get(genset.status, 1)
