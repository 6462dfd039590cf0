"""Targets for policies that are told what remains: the data's Pareto frontier, and episodes relabelled above it.

A policy that is asked for a return and given budgets meets, when it acts, pairs that no episode of the data shows. Liu
et al. (2023), "Constrained decision transformer for offline safe reinforcement learning", section 4.2, add such pairs:
for budgets ``k`` and a return ``r`` above what the data reach within ``k``, the episode to imitate is the best one
within ``k``, its targets shifted by constants. Everything here is relative to the ranges of the data, so it does not
depend on the units of rewards or costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset, Indices
from saferl.data.samplers import WindowSampler

FloatArray = npt.NDArray[np.float64]


def pareto_front(returns: FloatArray, costs: FloatArray) -> Indices:
    """Episodes that no other one beats, by rising return.

    An episode is beaten by one with at least its return and at most each of its costs, and better in one of them.

    Args:
        returns: Per episode, (E,).
        costs: Per episode, (E, C).
    """
    # By return, then by cost: whoever could beat an episode comes before it, and of equals each stays.
    order = np.lexsort((*costs.T[::-1], -returns))
    front: list[int] = []
    kept = np.empty((len(returns), costs.shape[1] + 1))
    for episode in order:
        point = np.array([-returns[episode], *costs[episode]])
        above = kept[: len(front)]
        if not ((above <= point).all(axis=1) & (above < point).any(axis=1)).any():
            kept[len(front)] = point
            front.append(int(episode))
    return np.array(front[::-1], dtype=np.int64)


@dataclass(frozen=True)
class Frontier:
    """The data's Pareto frontier: the best return reached within any budgets.

    Example:
        >>> frontier = Frontier(np.array([1.0, 3.0]), np.array([[2.0], [5.0]]))
        >>> frontier.pick([2.0]), frontier.pick([9.0]), frontier.pick([0.0])
        (0, 1, 0)
    """

    returns: FloatArray
    """Rising, (P,)."""
    costs: FloatArray
    """(P, C)."""

    @classmethod
    def of(cls, dataset: Dataset) -> Frontier:
        """The frontier of a data set's episodes."""
        returns, costs = dataset.returns(), dataset.cost_returns()
        front = pareto_front(returns, costs)
        return cls(returns[front], costs[front])

    def pick(self, budgets: npt.ArrayLike) -> int:
        """The point with the largest return whose costs are all within ``budgets`` (C,), infinite where there is none.

        Where no point is within them, the one that exceeds them least, in ranges of the costs; of equals the best.
        """
        excess = np.maximum(self.costs - np.asarray(budgets, dtype=np.float64), 0.0) / _ranges(self.costs)
        total = excess.sum(axis=1)
        return int(np.flatnonzero(total == total.min())[-1])


@dataclass(frozen=True)
class Relabelling:
    """A + E episodes to draw from: those of the data as they are, then A of them with shifted targets."""

    episodes: Indices
    """Which episode of the data each one is, (E + A,)."""
    return_shifts: FloatArray
    """What is added to every return to go, (E + A,); 0 for the first E."""
    cost_shifts: FloatArray
    """What is added to every cost to go, (E + A, C), never negative."""

    @classmethod
    def none(cls, num_episodes: int, num_costs: int) -> Relabelling:
        """The episodes as they are."""
        return cls(np.arange(num_episodes), np.zeros(num_episodes), np.zeros((num_episodes, num_costs)))


def relabel(
    returns: FloatArray,
    costs: FloatArray,
    generator: np.random.Generator,
    *,
    share: float,
    headroom: float,
    slack: float,
    spread: float,
) -> Relabelling:
    """Episodes for budgets and returns that the data do not reach (CDT, section 4.2).

    Budgets ``k`` lie evenly between the smallest and the largest cost, those of several constraints in a Latin
    hypercube; returns ``r`` uniformly between the frontier at ``k`` and ``headroom`` above the largest return. The
    episode for ``(r, k)`` is the best one within ``k``; for one constraint that is the nearest of the frontier within
    ``k``. Where it has served already, another one is drawn that costs no more and returns at most ``slack`` less, with
    a chance proportional to 1 / (distance + ``spread``).

    Args:
        returns: Per episode, (E,).
        costs: Per episode, (E, C).
        generator: What is drawn with.
        share: Added episodes per episode, A = int(share E).
        headroom: In ranges of the returns, > 0.
        slack: In ranges of the returns, >= 0.
        spread: Distance at which the chance is half of that of the episode itself, in ranges, > 0.
    """
    count, (num_episodes, num_costs) = int(share * len(returns)), costs.shape
    plain = Relabelling.none(num_episodes, num_costs)
    if count == 0:
        return plain
    low, span = costs.min(axis=0), _ranges(costs)
    budgets = _budgets(costs, count, generator)
    return_range = float(_ranges(returns[:, None])[0])
    points = np.column_stack([returns / return_range, (costs - low) / span])
    chosen = np.empty(count, dtype=np.int64)
    best = np.empty(count)
    used: set[int] = set()
    for index, budget in enumerate(budgets):
        within = np.flatnonzero((costs <= budget).all(axis=1))
        episode = int(within[np.lexsort((points[within, 1:].sum(axis=1), -returns[within]))[0]])
        best[index] = returns[episode]
        if episode in used:
            similar = (costs <= costs[episode]).all(axis=1) & (returns >= returns[episode] - slack * return_range)
            candidates = np.flatnonzero(similar)
            chances = 1.0 / (np.linalg.norm(points[candidates] - points[episode], axis=1) + spread)
            episode = int(generator.choice(candidates, p=chances / chances.sum()))
        used.add(episode)
        chosen[index] = episode
    targets = generator.uniform(best, returns.max() + headroom * return_range)
    return Relabelling(
        np.concatenate([plain.episodes, chosen]),
        np.concatenate([plain.return_shifts, targets - returns[chosen]]),
        np.concatenate([plain.cost_shifts, budgets - costs[chosen]]),
    )


def thrifty_weights(costs: FloatArray, tilt: float) -> FloatArray:
    """Chances of episodes that fall linearly with their costs, (E,), in [1 - tilt, 1].

    The cheapest weigh 1 whatever they cost, so there is always something to draw (constants in cost units, as in the
    authors' code, leave nothing of data that cost more).

    Args:
        costs: Per episode, (E, C); of several constraints the mean of the relative costs counts.
        tilt: How much less the most expensive weigh, in [0, 1].
    """
    relative = ((costs - costs.min(axis=0)) / _ranges(costs)).mean(axis=1)
    return np.asarray(1.0 - tilt * (relative - relative.min()) / max(float(np.ptp(relative)), 1e-12))


@dataclass(frozen=True)
class TargetWindows:
    """B windows of K steps, filled from the left; what is behind an episode's end is 0 and masked."""

    observations: npt.NDArray[np.float32]
    """(B, K, ...)."""
    actions: npt.NDArray[np.float32]
    """(B, K, A)."""
    costs: npt.NDArray[np.float32]
    """Of the steps, (B, K, C)."""
    returns_to_go: npt.NDArray[np.float32]
    """Relabelled, (B, K)."""
    costs_to_go: npt.NDArray[np.float32]
    """Relabelled, (B, K, C)."""
    time_steps: Indices
    """(B, K): step within the episode."""
    mask: npt.NDArray[np.bool_]
    """(B, K): True where there is a step."""


class TargetSampler:
    """Windows of relabelled episodes: an episode by its weight, then a first step uniformly within it."""

    def __init__(
        self,
        dataset: Dataset,
        length: int,
        batch_size: int,
        generator: np.random.Generator,
        *,
        relabelling: Relabelling,
        weights: FloatArray,
    ) -> None:
        """Prepare the gathers.

        Args:
            dataset: What is drawn from.
            length: Steps K of a window.
            batch_size: Windows B of a batch.
            generator: What is drawn with.
            relabelling: The episodes to draw from.
            weights: Of those, (E + A,), >= 0 and not all 0.
        """
        self.windows = WindowSampler(dataset, length, batch_size, generator)
        self.generator, self.relabelling = generator, relabelling
        self._lengths = (dataset.episode_ends - dataset.episode_starts)[relabelling.episodes]
        self._cumulative = np.cumsum(weights / weights.sum())

    def sample(self) -> TargetWindows:
        """The next batch."""
        uniform = self.generator.random((2, self.windows.batch_size))
        drawn = np.minimum(np.searchsorted(self._cumulative, uniform[0], side="right"), len(self._lengths) - 1)
        lengths = self._lengths[drawn]
        return self.take(drawn, np.minimum((uniform[1] * lengths).astype(np.int64), lengths - 1))

    def take(self, drawn: Indices, firsts: Indices) -> TargetWindows:
        """The windows of given relabelled episodes from given steps within them on, (B,) each."""
        labels = self.relabelling
        taken = self.windows.take(labels.episodes[drawn], firsts)
        mask = taken.mask
        return_shifts = labels.return_shifts[drawn].astype(np.float32)[:, None] * mask
        cost_shifts = labels.cost_shifts[drawn].astype(np.float32)[:, None] * mask[..., None]
        return TargetWindows(
            taken.observations,
            taken.actions,
            taken.costs,
            taken.returns_to_go + return_shifts,
            taken.costs_to_go + cost_shifts,
            taken.time_steps,
            mask,
        )

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, as plain JSON types."""
        return self.windows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.windows.load_state_dict(state)


def _ranges(values: FloatArray) -> FloatArray:
    """Largest minus smallest by column, 1 where they are equal."""
    spans = np.ptp(values, axis=0)
    return np.where(spans > 0.0, spans, 1.0)


def _budgets(costs: FloatArray, count: int, generator: np.random.Generator) -> FloatArray:
    """``count`` budgets between the smallest and the largest costs, each of which at least one episode keeps."""
    budgets = np.linspace(costs.min(axis=0), costs.max(axis=0), count)
    for column in range(1, budgets.shape[1]):
        budgets[:, column] = generator.permutation(budgets[:, column])
    span = _ranges(costs)
    for index, budget in enumerate(budgets):
        excess = (np.maximum(costs - budget, 0.0) / span).sum(axis=1)
        budgets[index] = np.maximum(budget, costs[excess.argmin()])
    return budgets
