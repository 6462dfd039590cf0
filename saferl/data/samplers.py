"""Batches for offline solvers: transitions, and windows of episodes, gathered by array operations.

The authors of CDT and of OSRL draw one window after the other in Python; one gather of a whole batch is the same and
tens of times faster (``saferl bench samplers``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Bools, Dataset, Floats, Indices
from saferl.errors import ConfigError, DataError


class _Sampler:
    """Draws with one generator, whose state can be kept."""

    def __init__(self, batch_size: int, generator: np.random.Generator) -> None:
        if batch_size < 1:
            raise ConfigError(f"A batch needs at least one sample; got batch_size={batch_size}.")
        self.batch_size, self.generator = batch_size, generator

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, as plain JSON types."""
        return dict(self.generator.bit_generator.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.generator.bit_generator.state = dict(state)


@dataclass(frozen=True)
class Transitions:
    """B transitions; see :class:`Dataset` for each."""

    observations: Floats
    next_observations: Floats
    actions: Floats
    rewards: Floats
    costs: Floats
    terminals: Floats
    """1 where the task ended, (B,) float32; a time limit is 0."""
    h: Floats | None
    next_h: Floats | None


class TransitionSampler(_Sampler):
    """Uniform transitions, with replacement.

    Example:
        >>> sampler = TransitionSampler(data, 256, np.random.default_rng(0))  # doctest: +SKIP
        >>> sampler.sample().rewards.shape  # doctest: +SKIP
        (256,)
    """

    def __init__(self, dataset: Dataset, batch_size: int, generator: np.random.Generator) -> None:
        """Keep the data.

        Raises:
            ConfigError: a batch without samples.
        """
        super().__init__(batch_size, generator)
        self.dataset = dataset
        self._terminals = dataset.terminals.astype(np.float32)

    def sample(self) -> Transitions:
        """The next batch."""
        return self.take(self.generator.integers(len(self.dataset), size=self.batch_size))

    def take(self, rows: Indices) -> Transitions:
        """The transitions of the given rows."""
        data = self.dataset
        return Transitions(
            np.take(data.observations, rows, axis=0),
            np.take(data.next_observations, rows, axis=0),
            np.take(data.actions, rows, axis=0),
            data.rewards[rows],
            np.take(data.costs, rows, axis=0),
            self._terminals[rows],
            None if data.h is None else np.take(data.h, rows, axis=0),
            None if data.next_h is None else np.take(data.next_h, rows, axis=0),
        )


@dataclass(frozen=True)
class Windows:
    """B windows of K steps, filled from the left; what is behind an episode's end is 0 and masked."""

    observations: Floats
    """(B, K, ...)."""
    actions: Floats
    """(B, K, A)."""
    rewards: Floats
    """(B, K)."""
    costs: Floats
    """(B, K, C)."""
    returns_to_go: Floats
    """(B, K): sum of rewards from the step on."""
    costs_to_go: Floats
    """(B, K, C)."""
    time_steps: Indices
    """(B, K): step within the episode."""
    mask: Bools
    """(B, K): True where there is a step."""
    episodes: Indices
    """(B,): episode of each window."""


class WindowSampler(_Sampler):
    """Windows of ``length`` steps: an episode by its weight, then a first step uniformly within it.

    Example:
        >>> sampler = WindowSampler(data, 10, 64, np.random.default_rng(0))  # doctest: +SKIP
        >>> sampler.sample().actions.shape[:2]  # doctest: +SKIP
        (64, 10)
    """

    def __init__(
        self,
        dataset: Dataset,
        length: int,
        batch_size: int,
        generator: np.random.Generator,
        *,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Prepare the gathers.

        Args:
            dataset: What is drawn from.
            length: Steps K of a window, at least 1.
            batch_size: Windows B of a batch.
            generator: What is drawn with.
            weights: Of episodes, (E,), >= 0; their lengths if None, so that every step is as likely.

        Raises:
            ConfigError: an empty batch or window.
            DataError: weights of another shape, negative, or all 0.
        """
        super().__init__(batch_size, generator)
        if length < 1:
            raise ConfigError(f"A window needs at least one step; got length={length}.")
        self.dataset, self.length = dataset, length
        self._starts, self._ends = dataset.episode_starts, dataset.episode_ends
        self._lengths = lengths = self._ends - self._starts
        chances = lengths.astype(np.float64) if weights is None else np.asarray(weights, dtype=np.float64)
        if chances.shape != lengths.shape or not np.isfinite(chances).all() or chances.min() < 0 or chances.sum() <= 0:
            raise DataError(f"Weights of episodes must be {len(lengths)} numbers >= 0, not all 0; got {chances!r}.")
        self._cumulative = np.cumsum(chances / chances.sum())
        self.returns_to_go = to_go(dataset.rewards[:, None], self._starts)[:, 0]
        self.costs_to_go = to_go(dataset.costs, self._starts)
        # One gather for all that is a number or a few per step: four small ones take longer than the one.
        columns = (dataset.rewards[:, None], self.returns_to_go[:, None], dataset.costs, self.costs_to_go)
        self._numbers = np.concatenate(columns, axis=1)
        self._steps = np.arange(length)

    def sample(self) -> Windows:
        """The next batch."""
        uniform = self.generator.random((2, self.batch_size))
        episodes = np.minimum(np.searchsorted(self._cumulative, uniform[0], side="right"), len(self._starts) - 1)
        lengths = self._lengths[episodes]
        firsts = np.minimum((uniform[1] * lengths).astype(np.int64), lengths - 1)
        return self.take(episodes, firsts)

    def take(self, episodes: Indices, firsts: Indices) -> Windows:
        """The windows of given episodes from given steps within them on, (B,) each."""
        data, width = self.dataset, self.dataset.costs.shape[1]
        rows = (self._starts[episodes] + firsts)[:, None] + self._steps
        mask = rows < self._ends[episodes][:, None]
        behind = None if mask.all() else ~mask
        if behind is not None:
            rows[behind] = 0

        def gather(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            taken = np.take(array, rows, axis=0)
            if behind is not None:
                taken[behind] = 0
            return taken

        numbers, time_steps = gather(self._numbers), firsts[:, None] + self._steps
        if behind is not None:
            time_steps[behind] = 0
        return Windows(
            gather(data.observations),
            gather(data.actions),
            numbers[..., 0],
            numbers[..., 2 : 2 + width],
            numbers[..., 1],
            numbers[..., 2 + width :],
            time_steps,
            mask,
            episodes,
        )


def to_go(values: Floats, starts: Indices) -> Floats:
    """Sums from each step to its episode's end, (N, C).

    Args:
        values: Per step, (N, C).
        starts: First row of each episode, (E,).
    """
    after = np.cumsum(values[::-1].astype(np.float64), axis=0)[::-1]
    ends = np.append(starts[1:], len(values))
    beyond = np.vstack([after, np.zeros((1, values.shape[1]))])[ends]
    return np.asarray(after - np.repeat(beyond, ends - starts, axis=0), dtype=np.float32)
