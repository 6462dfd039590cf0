r"""Rules over time as data, and their robustness over all continuations of a prefix (pure numpy).

Robustness, the signed distance to breaking a rule (at least 0: kept; Fainekos and Pappas 2009):

    AtMost(x, c)        (c - x_t) / scale                AtLeast(x, c)       (x_t - c) / scale
    Not(f)              -f_t                             Both, Either        minimum, maximum of the parts
    Always(f, a, b)     min_{a <= d <= b} f_{t+d}        Eventually(f, a, b) max_{a <= d <= b} f_{t+d}
    Until(f, g, a, b)   max_{a <= d <= b} min(g_{t+d}, min_{e < d} f_{t+e})

A prefix ends now. What a sample may be later is an interval: within the range of its signal, and within j times its
largest change after j steps. Every formula is monotone in every sample after its negations are pushed to the samples,
so taking the best or the worst end of each interval bounds the robustness of all continuations (the interval of
Deshmukh et al. 2017): [lower, upper]. A rule is *violated* if upper < 0, *satisfied* if lower >= 0, otherwise *open*.

Windows count steps. One without an end is allowed for the outermost operator only, so that the memory of a rule is
bounded: what can no longer change is folded into two numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

Array = npt.NDArray[np.float64]
Verdict = Literal["satisfied", "violated", "open"]
INF = float("inf")


@dataclass(frozen=True)
class Range:
    """What is known of a signal that has not been read yet."""

    low: float | None = None
    """It is never below; None: unknown."""
    high: float | None = None
    """It is never above; None: unknown."""
    max_change: float | None = None
    """It changes by at most this per step; None: unknown."""

    def __post_init__(self) -> None:
        """Refuse an empty range and a negative change."""
        low, high = self.limits
        if not low <= high or (self.max_change is not None and not self.max_change >= 0.0):
            raise ConfigError(
                f"A signal needs low <= high and a change of at least 0; got {low}, {high}, {self.max_change}."
            )

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value, infinite where unknown."""
        return -INF if self.low is None else self.low, INF if self.high is None else self.high

    def ahead(self, now: float, steps: int) -> tuple[Array, Array]:
        """Lowest and highest value after 1 .. ``steps`` steps, (steps,) each; ``now`` may be NaN (unknown)."""
        low, high = self.limits
        if self.max_change is None or np.isnan(now):
            return np.full(steps, low), np.full(steps, high)
        reach = self.max_change * np.arange(1, steps + 1, dtype=np.float64)
        if self.low is None and self.high is None:
            return np.asarray(now - reach), np.asarray(now + reach)
        return np.clip(now - reach, low, high), np.clip(now + reach, low, high)


@dataclass(frozen=True)
class Trace:
    """Intervals of samples from some step on; a known sample has two equal ends."""

    low: Mapping[str, Array]
    """Lower end by signal."""
    high: Mapping[str, Array]
    """Upper end by signal."""
    is_best: npt.NDArray[np.bool_]
    """Whether a sample is taken at the end that is best for the formula, else at the worst."""

    def flipped(self) -> Trace:
        """The same for a negated formula."""
        return Trace(self.low, self.high, ~self.is_best)


@dataclass(frozen=True)
class AtMost:
    """``signal <= bound``."""

    signal: str
    """Name of the signal."""
    bound: float
    """Its limit."""
    scale: float = 1.0
    """Unit of the robustness, above 0."""

    def __post_init__(self) -> None:
        """Refuse a scale that is none."""
        _check_atom(self.bound, self.scale)

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace``."""
        return (self.bound - np.where(trace.is_best, trace.low[self.signal], trace.high[self.signal])) / self.scale


@dataclass(frozen=True)
class AtLeast:
    """``signal >= bound``."""

    signal: str
    """Name of the signal."""
    bound: float
    """Its limit."""
    scale: float = 1.0
    """Unit of the robustness, above 0."""

    def __post_init__(self) -> None:
        """Refuse a scale that is none."""
        _check_atom(self.bound, self.scale)

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace``."""
        return (np.where(trace.is_best, trace.high[self.signal], trace.low[self.signal]) - self.bound) / self.scale


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Formula
    """What must not hold."""

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace``."""
        return -self.part.values(trace.flipped())


@dataclass(frozen=True)
class Both:
    """Both parts."""

    first: Formula
    """One part."""
    second: Formula
    """The other."""

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace`` for which it is known."""
        return np.minimum(*_alike(self.first.values(trace), self.second.values(trace)))


@dataclass(frozen=True)
class Either:
    """At least one part."""

    first: Formula
    """One part."""
    second: Formula
    """The other."""

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace`` for which it is known."""
        return np.maximum(*_alike(self.first.values(trace), self.second.values(trace)))


@dataclass(frozen=True)
class Always:
    """At every step of the window."""

    part: Formula
    """What must hold."""
    start: int = 0
    """First step of the window, counted from where the formula is read."""
    end: int | None = None
    """Last step of it; None (for the outermost operator only): for ever."""

    def __post_init__(self) -> None:
        """Refuse a window that is none."""
        _check_window(self.start, self.end)

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace`` for which it is known."""
        return -_window_max(-self.part.values(trace), self.start, _end(self.end))


@dataclass(frozen=True)
class Eventually:
    """At some step of the window."""

    part: Formula
    """What must hold."""
    start: int = 0
    """First step of the window, counted from where the formula is read."""
    end: int | None = None
    """Last step of it; None (for the outermost operator only): there is no deadline."""

    def __post_init__(self) -> None:
        """Refuse a window that is none."""
        _check_window(self.start, self.end)

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace`` for which it is known."""
        return _window_max(self.part.values(trace), self.start, _end(self.end))


@dataclass(frozen=True)
class Until:
    """``goal`` at some step of the window, and ``hold`` at every step before it."""

    hold: Formula
    """What must hold until then."""
    goal: Formula
    """What must come."""
    start: int = 0
    """First step of the window, counted from where the formula is read."""
    end: int | None = None
    """Last step of it; None (for the outermost operator only): there is no deadline."""

    def __post_init__(self) -> None:
        """Refuse a window that is none."""
        _check_window(self.start, self.end)

    def values(self, trace: Trace) -> Array:
        """Robustness at every step of ``trace`` for which it is known."""
        end = _end(self.end)
        hold, goal = _alike(self.hold.values(trace), self.goal.values(trace))
        size = len(goal) - end
        kept, best = np.full(size, INF), np.full(size, -INF)
        for delay in range(end + 1):
            if delay >= self.start:
                best = np.maximum(best, np.minimum(goal[delay : delay + size], kept))
            kept = np.minimum(kept, hold[delay : delay + size])
        return best


Formula = AtMost | AtLeast | Not | Both | Either | Always | Eventually | Until


def horizon_of(formula: Formula) -> int:
    """How many later samples the robustness at one step depends on.

    Raises:
        ConfigError: a window without an end inside.
    """
    match formula:
        case AtMost() | AtLeast():
            return 0
        case Not(part):
            return horizon_of(part)
        case Both(first, second) | Either(first, second):
            return max(horizon_of(first), horizon_of(second))
        case Always(part, _, end) | Eventually(part, _, end):
            return _end(end) + horizon_of(part)
        case Until(hold, goal, _, end):
            return _end(end) + max(horizon_of(hold), horizon_of(goal))


def signals_of(formula: Formula) -> frozenset[str]:
    """Names of the signals that a formula reads.

    Raises:
        ConfigError: something that is no formula.
    """
    if not isinstance(formula, Formula):
        raise ConfigError(f"A rule must be made of the classes of {__name__}; got {formula!r}.")
    if isinstance(formula, AtMost | AtLeast):
        return frozenset({formula.signal})
    parts = (value for value in vars(formula).values() if not isinstance(value, int | None))
    return frozenset().union(*(signals_of(part) for part in parts))


@dataclass(frozen=True)
class RuleState:
    """What is known of a rule after a prefix."""

    lower: float
    """Robustness of the worst continuation."""
    upper: float
    """Robustness of the best continuation."""
    ahead: float
    """The same if everything goes as badly as it can for the steps looked ahead, and as well as it can after them."""

    @property
    def verdict(self) -> Verdict:
        """The verdict over the prefix: decided, or open."""
        return "violated" if self.upper < 0.0 else "satisfied" if self.lower >= 0.0 else "open"


@dataclass
class Progress:
    """The memory of a rule: samples that still matter, and the rest folded into two pairs of numbers."""

    first: int = 0
    """Step of the first kept sample."""
    samples: list[tuple[float, ...]] = field(default_factory=list)
    """Kept samples, one value per signal; NaN: not known."""
    done: tuple[float, float] = (-INF, -INF)
    """Lowest and highest max over settled steps of min(goal, hold before)."""
    kept: tuple[float, float] = (INF, INF)
    """Lowest and highest min over settled steps of hold."""

    def to_data(self) -> dict[str, Any]:
        """Plain data; :meth:`from_data` is the inverse."""
        return {"first": self.first, "samples": list(self.samples), "done": self.done, "kept": self.kept}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Progress:
        """Read what :meth:`to_data` gave."""
        samples = [tuple(sample) for sample in data["samples"]]
        return cls(data["first"], samples, tuple(data["done"]), tuple(data["kept"]))


class RuleMonitor:
    """Follows one rule, read at the first step of an episode, in time and memory that its windows bound.

    The outermost operator is brought to the form

        max_{a <= t <= b} min(goal_t, min_{s < t} hold_s)

    (``Always`` as the negation of it), and steps whose goal and hold no longer depend on later samples are settled.
    """

    def __init__(self, formula: Formula, signals: Mapping[str, Range], *, lookahead: int = 0) -> None:
        """Take the rule apart.

        Args:
            formula: The rule.
            signals: Every signal by name, in the order of a sample.
            lookahead: Steps for :attr:`RuleState.ahead`.

        Raises:
            ConfigError: a signal that is not there, or a window without an end inside.
        """
        if missing := signals_of(formula) - set(signals):
            raise ConfigError(f"A rule reads {sorted(missing)}; the signals are {', '.join(signals) or 'none'}.")
        self.formula, self.signals, self.lookahead = formula, dict(signals), int(lookahead)
        self._used = signals_of(formula)
        self.is_negated = isinstance(formula, Always)
        self.hold: Formula | None = None
        self.goal, self.start, self.end = formula, 0, 0
        self.is_endless = False
        if isinstance(formula, Always | Eventually | Until):
            self.goal = formula.goal if isinstance(formula, Until) else formula.part
            self.hold = formula.hold if isinstance(formula, Until) else None
            self.start, self.is_endless = formula.start, formula.end is None
            self.end = formula.start if formula.end is None else formula.end
        if self.is_negated:
            self.goal = Not(self.goal)
        parts = [self.goal] if self.hold is None else [self.goal, self.hold]
        self.horizon = max(horizon_of(part) for part in parts)
        limits = {name: signal.limits for name, signal in self.signals.items()}
        ones = np.ones(horizon_of(self.goal) + 1)
        rest = Trace(
            {name: low * ones for name, (low, _) in limits.items()},
            {name: high * ones for name, (_, high) in limits.items()},
            ones.astype(bool),
        )
        self._best_goal = float(self.goal.values(rest)[0])
        self.progress = Progress()

    def reset(self) -> None:
        """Forget the prefix."""
        self.progress = Progress()

    def state(self, sample: tuple[float, ...] | None = None) -> RuleState:
        """What is known after the prefix, with ``sample`` as its next one if given."""
        return RuleState(self._value(sample, False, False, 0), *self.outlook(sample))

    def outlook(self, sample: tuple[float, ...] | None = None) -> tuple[float, float]:
        """:attr:`RuleState.upper` and :attr:`RuleState.ahead` of :meth:`state` alone, in less time."""
        upper = self._value(sample, True, True, 0)
        return upper, self._value(sample, False, True, self.lookahead) if self.lookahead else upper

    def add(self, sample: tuple[float, ...]) -> None:
        """Extend the prefix by one sample, and settle what it decides."""
        progress = self.progress
        progress.samples.append(tuple(float(value) for value in sample))
        if len(progress.samples) <= self.horizon:
            return
        if self.is_endless or progress.first <= self.end:
            lows, highs = self._intervals(progress.samples, 0)
            is_known = not np.isnan(progress.samples).any()
            ends = []
            for is_best in (True,) if is_known else (False, True):
                trace = Trace(lows, highs, np.full(len(progress.samples), is_best))
                hold = INF if self.hold is None else float(self.hold.values(trace)[0])
                ends.append((float(self.goal.values(trace)[0]), hold))
            self._settle(ends[0], ends[-1])
        del progress.samples[0]
        progress.first += 1

    def _settle(self, *ends: tuple[float, float]) -> None:
        """Fold goal and hold of the first kept step, at their lower and upper ends, into the two pairs."""
        progress = self.progress
        if progress.first >= self.start:
            low, high = (min(goal, before) for (goal, _), before in zip(ends, progress.kept, strict=True))
            progress.done = max(progress.done[0], low), max(progress.done[1], high)
        progress.kept = min(progress.kept[0], ends[0][1]), min(progress.kept[1], ends[1][1])

    def _value(self, sample: tuple[float, ...] | None, near: bool, far: bool, steps: int) -> float:
        """Robustness at best (else worst) ends: the next ``steps`` samples by ``near``, the others by ``far``."""
        if self.is_negated:
            near, far = not near, not far
        progress = self.progress
        samples = progress.samples if sample is None else [*progress.samples, sample]
        done, kept = progress.done[far], progress.kept[far]
        now = progress.first + len(samples) - 1
        last = max(now + steps + 1, self.start) if self.is_endless else self.end
        if last >= progress.first:
            size = last - progress.first + 1
            lows, highs = self._intervals(samples, max(size + self.horizon - len(samples), 0))
            flags = np.full(max(size + self.horizon, len(samples)), far)
            flags[len(samples) : len(samples) + steps] = near
            trace = Trace(lows, highs, flags)
            values = self.goal.values(trace)[:size]
            if self.hold is not None:
                before = np.full(size + 1, kept)
                before[1:] = np.minimum(kept, np.minimum.accumulate(self.hold.values(trace)[:size]))
                values, kept = np.minimum(values, before[:-1]), float(before[-1])
            counted = values[max(self.start - progress.first, 0) :]
            if len(counted):
                done = max(done, float(counted.max()))
            if self.is_endless and far:
                done = max(done, min(self._best_goal, kept))
        return -done if self.is_negated else done

    def _intervals(self, samples: list[tuple[float, ...]], future: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Lower and upper ends of known samples and of ``future`` ones, for the signals of the rule."""
        lows, highs = {}, {}
        for column, (name, signal) in enumerate(self.signals.items()):
            if name not in self._used:
                continue
            known = np.array([sample[column] for sample in samples], dtype=np.float64)
            below = above = known
            if (unknown := np.isnan(known)).any():
                low, high = signal.limits
                below, above = np.where(unknown, low, known), np.where(unknown, high, known)
            if future:
                later_below, later_above = signal.ahead(known[-1] if len(known) else np.nan, future)
                below, above = np.concatenate([below, later_below]), np.concatenate([above, later_above])
            lows[name], highs[name] = below, above
        return lows, highs


def _window_max(values: Array, start: int, end: int) -> Array:
    """max(values[t + start .. t + end]) for every t that has all of them, by doubling: log2(width) passes."""
    width, window, size = end - start + 1, values[start:], 1
    while 2 * size <= width:
        window = np.maximum(window[:-size], window[size:])
        size *= 2
    count = max(len(values) - end, 0)
    rest = width - size
    return np.maximum(window[:count], window[rest : rest + count])


def _alike(first: Array, second: Array) -> tuple[Array, Array]:
    size = min(len(first), len(second))
    return first[:size], second[:size]


def _end(end: int | None) -> int:
    if end is None:
        raise ConfigError("A window without an end is allowed for the outermost operator of a rule only; give the end.")
    return end


def _check_atom(bound: float, scale: float) -> None:
    if not (np.isfinite(bound) and 0.0 < scale < INF):
        raise ConfigError(f"A comparison needs a finite bound and a scale above 0; got {bound} and {scale}.")


def _check_window(start: int, end: int | None) -> None:
    if start < 0 or (end is not None and end < start):
        raise ConfigError(f"A window needs 0 <= start <= end; got {start} and {end}.")
