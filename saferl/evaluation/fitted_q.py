r"""Fitted-Q evaluation with exact linear solves, on indicators of finite CMDPs or on the layers of a network.

For features phi(s, a) and the policy's mean features in the next state, ``phi'(s') = E_{a ~ pi} phi(s', a)`` (0 at
terminal states), every iteration of fitted-Q evaluation is a ridge regression whose solution is known:

    w_k = (Phi^T Phi + lambda I)^-1 Phi^T (y + gamma Phi' w_{k-1}),     w_0 = 0

``phi^T w_k`` is the value of the next k steps; w_H that of an episode of H steps. Without a horizon the fixed point is
solved for, ``(Phi^T (Phi - gamma Phi') + lambda I) w = Phi^T y`` (Le, Voloshin, Yue 2019; Bradtke, Barto 1996). A time
limit of the data is no end: the state after it has a value.

Indicators of state and action make this the value in the maximum-likelihood model of the data, with 0 where the data
show nothing. For other spaces the features are the inputs and hidden layers of a network trained by temporal
differences.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from scipy import sparse
from stable_baselines3.common.utils import polyak_update
from torch import nn

from saferl.data.dataset import Dataset
from saferl.errors import DataError
from saferl.evaluation.offline_actions import Conduct

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Progress = Callable[[int], None]

_BATCH = 512
_RATE = 1e-3
_TAU = 0.01
_STACKED = 20_000_000
"""Numbers that the sums of all episodes may take up before they are summed anew for every resample."""


@dataclass(frozen=True)
class Regression:
    """Features of what was done and of what the policy does; rows of terminal ends are 0."""

    taken: Any
    """Of the data's states and actions, (N, d), dense or sparse."""
    current: Any
    """Means over the policy's actions in the data's states, (N, d)."""
    following: Any
    """The same in the next states, (N, d), 0 where the task ended."""
    signals: Array
    """Reward, then every cost, (N, 1 + C)."""
    starts: Indices
    """First row of each episode, (E,)."""
    ends: Indices
    """One past the last row, (E,)."""
    ridge: float
    """Regularisation, relative to the mean squared feature."""

    @property
    def lengths(self) -> Indices:
        """Steps of each episode, (E,)."""
        lengths: Indices = self.ends - self.starts
        return lengths


@dataclass(frozen=True)
class Solution:
    """Weights of the values: one set without a horizon, else one per number of steps left."""

    weights: Array
    """(1, d, G), or (H + 1, d, G) from 0 steps left on."""

    def values(self, features: Any, steps_left: Indices | None = None) -> Array:
        """Values (n, G) of features (n, d), with so many steps left, (n,); None: the horizon, or no end at all."""
        if len(self.weights) == 1 or steps_left is None:
            return np.asarray(features @ self.weights[-1])
        result = np.zeros((features.shape[0], self.weights.shape[2]))
        order = np.argsort(steps_left, kind="stable")
        bounds = np.flatnonzero(np.diff(steps_left[order], prepend=-1, append=-1))
        for first, last in itertools.pairwise(bounds):
            rows = order[first:last]
            result[rows] = features[rows] @ self.weights[steps_left[rows[0]]]
        return result


class Moments:
    """Sums over the data that the solves need, from which episodes can be left out or taken several times."""

    def __init__(self, regression: Regression) -> None:
        """Sum up every episode on its own, where that fits into memory."""
        self.regression = regression
        size = regression.taken.shape[1]
        self._stacks: list[Array] | None = None
        if len(regression.starts) * size * size <= _STACKED:
            spans = [slice(start, end) for start, end in zip(regression.starts, regression.ends, strict=True)]
            left = _dense(regression.taken)
            right = (left, _dense(regression.following), regression.signals)
            self._stacks = [np.stack([left[span].T @ part[span] for span in spans]) for part in right]

    def weighted(self, counts: Array) -> tuple[Array, Array, Array]:
        """Gram matrix (d, d), that with the next features (d, d), and with the signals (d, G).

        Args:
            counts: How often each episode is in the data, (E,).
        """
        regression = self.regression
        if self._stacks is not None:
            sums = [np.tensordot(counts, stack, axes=1) for stack in self._stacks]
        else:
            weighted = _scaled(regression.taken, np.repeat(counts, regression.lengths))
            right = (regression.taken, regression.following, regression.signals)
            sums = [_dense(weighted.T @ part) for part in right]
        gram, cross, target = (np.asarray(part, dtype=np.float64) for part in sums)
        return gram, cross, target


def solve(moments: Moments, counts: Array, gamma: float, horizon: int | None) -> Solution:
    """Values of the policy from episodes that count ``counts`` times, (E,).

    Args:
        moments: Sums of the data's features.
        counts: How often each episode is in the data, (E,).
        gamma: Discount factor.
        horizon: Steps of an episode; None: without end, gamma < 1.

    Raises:
        DataError: a value that no policy can have: the fit extrapolates without bound.
    """
    gram, cross, target = moments.weighted(counts)
    size = len(gram)
    gram = gram + (moments.regression.ridge * max(float(np.trace(gram)) / size, 1e-12)) * np.eye(size)
    grown = "Fitted-Q evaluation grew without bound: the data show too little of what the policy does."
    if horizon is None:
        try:
            weights = np.linalg.solve(gram - gamma * cross, target)
        except np.linalg.LinAlgError as error:
            raise DataError(grown) from error
        return Solution(np.asarray(weights[None], dtype=np.float64))
    both = np.linalg.solve(gram, np.hstack([gamma * cross, target]))
    step, reward = both[:, :size], both[:, size:]
    every = np.zeros((horizon + 1, size, target.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, horizon + 1):
            every[k] = reward + step @ every[k - 1]
    if not np.isfinite(every[-1]).all():
        raise DataError(grown)
    return Solution(every)


def start_values(regression: Regression, solution: Solution, counts: Array) -> Array:
    """Mean value of the first states of episodes that count ``counts`` times, (G,)."""
    first = solution.values(regression.current[regression.starts])
    mean: Array = counts @ first / counts.sum()
    return mean


def tabular_regression(table: Array, dataset: Dataset) -> Regression:
    """Indicators of state and action.

    Args:
        table: Probabilities of the policy, (S, A).
        dataset: Observations and actions are single whole numbers, (N, 1): the state and the action.

    Raises:
        DataError: numbers that are no state or action of the table.
    """
    num_states, num_actions = table.shape
    states, actions = (
        whole_numbers(dataset.observations, num_states, "observations"),
        whole_numbers(dataset.actions, num_actions, "actions"),
    )
    after = whole_numbers(dataset.next_observations, num_states, "next_observations")
    columns = num_states * num_actions
    taken = sparse.csr_array(
        (np.ones(len(states)), (np.arange(len(states)), states * num_actions + actions)), shape=(len(states), columns)
    )

    def expected(rows: Indices, weights: Array) -> Any:
        data = (table[rows] * weights[:, None]).ravel()
        places = (rows[:, None] * num_actions + np.arange(num_actions)).ravel()
        index = np.repeat(np.arange(len(rows)), num_actions)
        return sparse.csr_array((data, (index, places)), shape=(len(rows), columns))

    return Regression(
        taken,
        expected(states, np.ones(len(states))),
        expected(after, 1.0 - dataset.terminals.astype(np.float64)),
        _signals(dataset),
        dataset.episode_starts,
        dataset.episode_ends,
        ridge=1e-9,
    )


def whole_numbers(values: npt.NDArray[Any], count: int, key: str) -> Indices:
    """``values`` (N,) or (N, 1) as numbers from 0 to ``count - 1``.

    Raises:
        DataError: other shapes or numbers.
    """
    flat = values.reshape(len(values), -1)
    numbers = flat[:, 0].astype(np.int64)
    if flat.shape[1] != 1 or not np.array_equal(numbers, flat[:, 0]) or numbers.min() < 0 or numbers.max() >= count:
        raise DataError(
            f"A table is evaluated on data whose {key} are single whole numbers from 0 to {count - 1}; got shape "
            f"{values.shape}, smallest {flat.min():g}, largest {flat.max():g}."
        )
    return numbers


def network_regression(
    dataset: Dataset,
    conduct: Conduct,
    *,
    steps: int,
    width: int,
    gamma: float,
    ridge: float,
    seed: int,
    progress: Progress | None = None,
) -> Regression:
    """Inputs and hidden layers of a network of states and actions, trained for ``steps`` updates.

    Args:
        dataset: The data.
        conduct: What the policy does along them.
        steps: Updates by temporal differences; 0 leaves random features.
        width: Of its two hidden layers.
        gamma: Discount factor of the training.
        ridge: Regularisation of the solves behind it.
        seed: Of first weights and batches.
        progress: Called with the number of updates done since the last call.
    """
    inputs = _Inputs(dataset, conduct)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        trunk = _Trunk(inputs.width, width, 1 + dataset.costs.shape[1])
        _train(trunk, inputs, steps=steps, gamma=gamma, rng=np.random.default_rng(seed), progress=progress)
    taken = _features(trunk, inputs.states[: len(dataset)], inputs.taken[:, None])
    every = _features(trunk, inputs.states, inputs.actions)
    current = every[: len(dataset)]
    following = every[inputs.after] * (1.0 - dataset.terminals)[:, None]
    return Regression(
        taken, current, following, _signals(dataset), dataset.episode_starts, dataset.episode_ends, ridge=ridge
    )


class _Inputs:
    """States in units of their deviation, with those after the episodes behind the others; the policy's actions."""

    def __init__(self, dataset: Dataset, conduct: Conduct) -> None:
        count, ends = len(dataset), dataset.episode_ends
        last = dataset.next_observations[ends - 1]
        states = np.concatenate([dataset.observations, last]).reshape(count + len(ends), -1).astype(np.float64)
        scaled = (states - states.mean(axis=0)) / np.maximum(states.std(axis=0), 1e-3)
        self.states = th.as_tensor(scaled, dtype=th.float32)
        self.taken = th.from_numpy(conduct.taken)
        self.actions = th.from_numpy(np.concatenate([conduct.current, conduct.ends]))
        self.after = np.arange(1, count + 1)
        self.after[ends - 1] = count + np.arange(len(ends))
        signals = _signals(dataset)
        spread = np.maximum(signals.std(axis=0), 1e-6)
        self.signals = th.as_tensor(signals / spread, dtype=th.float32)
        self.going_on = th.as_tensor(1.0 - dataset.terminals, dtype=th.float32)
        self.width = self.states.shape[1] + self.taken.shape[1]


class _Trunk(nn.Module):
    """Features of states and actions, and linear values of them."""

    def __init__(self, inputs: int, width: int, signals: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(inputs + 2 * width, signals)

    def forward(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        inputs = th.cat([states, actions], dim=-1)
        first = self.first(inputs)
        return th.cat([inputs, first, self.second(first)], dim=-1)


def _train(
    trunk: _Trunk,
    inputs: _Inputs,
    *,
    steps: int,
    gamma: float,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Temporal differences with a running average of the network in the targets."""
    slow = copy.deepcopy(trunk).requires_grad_(False)
    optimizer = th.optim.Adam(trunk.parameters(), lr=_RATE)
    draws = inputs.actions.shape[1]
    for _ in range(steps):
        rows = rng.integers(len(inputs.taken), size=_BATCH)
        after = th.from_numpy(inputs.after[rows])
        actions = inputs.actions[after, th.from_numpy(rng.integers(draws, size=_BATCH))]
        with th.no_grad():
            following = slow.head(slow(inputs.states[after], actions)) * inputs.going_on[rows, None]
            targets = inputs.signals[rows] + gamma * following
        errors = trunk.head(trunk(inputs.states[rows], inputs.taken[rows])) - targets
        optimizer.zero_grad(set_to_none=True)
        errors.square().mean().backward()
        optimizer.step()
        polyak_update(trunk.parameters(), slow.parameters(), _TAU)
        if progress is not None:
            progress(1)


def _features(trunk: _Trunk, states: th.Tensor, actions: th.Tensor) -> Array:
    """Mean features over the actions (n, D, A) of states (n, F), and a 1, (n, d + 1)."""
    parts = []
    with th.no_grad():
        for first in range(0, len(states), 4096):
            part = actions[first : first + 4096]
            beside = states[first : first + 4096].unsqueeze(1).expand(-1, part.shape[1], -1)
            parts.append(trunk(beside, part).mean(dim=1))
    found = th.cat(parts).numpy().astype(np.float64)
    return np.hstack([found, np.ones((len(found), 1))])


def _signals(dataset: Dataset) -> Array:
    return np.hstack([dataset.rewards[:, None], dataset.costs]).astype(np.float64)


def _scaled(features: Any, weights: Array) -> Any:
    if sparse.issparse(features):
        return sparse.diags_array(weights) @ features
    return features * weights[:, None]


def _dense(matrix: Any) -> Array:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, dtype=np.float64)
