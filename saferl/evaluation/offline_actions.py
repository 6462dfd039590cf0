"""What a policy would do along the episodes of a data set, and how likely it is to do what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, DataError
from saferl.policy.offline import OfflinePolicy
from saferl.policy.offline_actor import OfflineActor, num_features, to_unit
from saferl.policy.offline_artefact import OfflineArtefact

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_ROWS = 2048
"""Observations that are acted on at once."""


@dataclass(frozen=True)
class Conduct:
    """A policy's actions along a data set, scaled to [-1, 1] as are those of the data."""

    taken: Floats
    """What was done, (N, A)."""
    current: Floats
    """D draws of the policy in every state, (N, D, A)."""
    ends: Floats
    """D draws in the state after each episode's last step, (E, D, A)."""
    log_ratios: Array | None
    """Log of the policy's over the behaviour's density of what was done, (N,); None where one of them is unknown."""
    refusal: str | None
    """Why there are none."""
    notes: tuple[str, ...] = ()
    """What makes the actions differ from those of the policy in the environment."""


def conduct_of(policy: Any, dataset: Dataset, *, draws: int, deterministic: bool, seed: int) -> Conduct:
    """The actions of ``policy`` along ``dataset``.

    Args:
        policy: An artefact of ``saferl.load``, an offline solver's ``actor()``, or anything with ``predict`` and a
            bounded Box of actions.
        dataset: In env units; each next observation is taken to be the following row's.
        draws: Draws D of a stochastic policy per state; a deterministic one has 1.
        deterministic: Whether the policy takes its mean or mode.
        seed: Of the draws.

    Raises:
        ConfigError: a policy without a bounded Box of actions, or for other widths.
    """
    space = getattr(policy, "action_space", None)
    if not isinstance(space, spaces.Box) or not space.is_bounded("both"):
        raise ConfigError(
            f"Offline evaluation of a policy needs actions in a bounded Box; got {space}. On finite CMDPs give the "
            "table of its probabilities, (S, A)."
        )
    actor = policy.policy if isinstance(policy, OfflineArtefact) else policy
    learned: OfflinePolicy | None = actor.policy if isinstance(actor, OfflineActor) else None
    seen = getattr(policy, "observation_space", None)
    if learned is None and isinstance(seen, spaces.Dict):
        raise ConfigError(f"Data hold observations as arrays, which this policy does not take: it sees {seen}.")
    _check_widths(seen, space, dataset)
    taken = to_unit(dataset.actions, space)
    with th.random.fork_rng(devices=[]), th.no_grad():
        th.manual_seed(seed)
        if learned is not None and learned.is_stateful:
            current, ends = _replayed(actor, learned, dataset, draws=draws, deterministic=deterministic)
        else:
            current, ends = _independent(policy, learned, space, dataset, draws=draws, deterministic=deterministic)
    ratios, refusal = _log_ratios(learned, dataset, taken, space, deterministic=deterministic)
    notes: tuple[str, ...] = ()
    if learned is not None and learned.is_stateful:
        notes = (
            "The policy remembers its episode. Its actions along the data are those that follow the behaviour's "
            "rewards and costs, not its own.",
        )
    return Conduct(taken, current, ends, ratios, refusal, notes)


def _check_widths(seen: spaces.Space[Any] | None, space: spaces.Box, dataset: Dataset) -> None:
    """Raise if the data's rows have other widths than what the policy sees and does."""
    needed = (num_features(seen) if seen is not None else dataset.observations[0].size, space.low.size)
    got = (dataset.observations[0].size, dataset.actions.shape[1])
    if needed != got:
        raise ConfigError(
            f"The policy is for {needed[0]} features and {needed[1]} actions; the data have {got[0]} and {got[1]}. "
            "Give the data of its environment."
        )


def _independent(
    policy: Any, learned: OfflinePolicy | None, space: Any, dataset: Dataset, *, draws: int, deterministic: bool
) -> tuple[Floats, Floats]:
    """Actions of a policy without a memory, (N, D, A) and (E, D, A)."""
    last = dataset.next_observations[dataset.episode_ends - 1]
    states = np.concatenate([dataset.observations, last])

    def act() -> Floats:
        parts = []
        for first in range(0, len(states), _ROWS):
            part = states[first : first + _ROWS]
            if learned is not None:
                flat = th.from_numpy(np.ascontiguousarray(part.reshape(len(part), -1)))
                state = learned.begin(len(part), None)
                parts.append(learned.act(flat, state, None, deterministic).numpy())
            else:
                acted = np.asarray(policy.predict(part, deterministic=deterministic)[0], dtype=np.float32)
                parts.append(to_unit(acted.reshape(len(part), -1), space))
        joined: Floats = np.concatenate(parts)
        return joined

    every = [act()]
    if not deterministic and draws > 1:
        every.append(act())
        if np.array_equal(every[0], every[1]):
            every = every[:1]
        else:
            every += [act() for _ in range(draws - 2)]
    stacked = np.stack(every, axis=1)
    return stacked[: len(dataset)], stacked[len(dataset) :]


def _replayed(
    actor: OfflineActor, learned: OfflinePolicy, dataset: Dataset, *, draws: int, deterministic: bool
) -> tuple[Floats, Floats]:
    """Actions of a policy with a memory that is told what the behaviour earned and spent."""
    starts, ends = dataset.episode_starts, dataset.episode_ends
    lengths = ends - starts
    lanes, count = len(starts), 1 if deterministic else draws
    columns = [dataset.cost_names.index(name) for name in actor.cost_names if name in dataset.cost_names]
    if len(columns) != len(actor.cost_names):
        raise DataError(f"The policy knows the costs {actor.cost_names}; the data have {dataset.cost_names}.")
    current = np.zeros((len(dataset), count, dataset.actions.shape[1]), dtype=np.float32)
    final = np.zeros((lanes, count, dataset.actions.shape[1]), dtype=np.float32)
    for draw in range(count):
        state = actor.begin(lanes)
        for step in range(int(lengths.max()) + 1):
            rows = starts + np.minimum(step, lengths - 1)
            is_over = step >= lengths
            observations = np.where(
                is_over.reshape(-1, *(1,) * (dataset.observations.ndim - 1)),
                dataset.next_observations[rows],
                dataset.observations[rows],
            )
            flat = th.from_numpy(np.ascontiguousarray(observations.reshape(lanes, -1)))
            acted = learned.act(flat, state, None, deterministic).numpy()
            running, just_over = ~is_over, step == lengths
            current[rows[running], draw] = acted[running]
            final[just_over, draw] = acted[just_over]
            costs = np.where(running[:, None], dataset.costs[rows][:, columns], 0.0)
            learned.observe(state, np.where(running, dataset.rewards[rows], 0.0), costs, is_over)
    return current, final


def _log_ratios(
    learned: OfflinePolicy | None, dataset: Dataset, taken: Floats, space: Any, *, deterministic: bool
) -> tuple[Array | None, str | None]:
    """Log density ratios (N,), or why there are none."""
    if deterministic:
        return None, "deterministic actions have no density"
    if learned is None or not learned.has_density:
        kind = type(learned).__name__ if learned is not None else "this policy"
        return None, f"{kind} has no density of its actions that could be computed"
    if dataset.log_probs is None:
        return None, "the data have no log_probs, the behaviour's densities"
    flat = th.from_numpy(np.ascontiguousarray(dataset.observations.reshape(len(dataset), -1)))
    inside = th.from_numpy(np.clip(taken, -1.0 + 1e-5, 1.0 - 1e-5))
    with th.no_grad():
        ours = learned.log_prob(flat, inside).numpy().astype(np.float64)
    # The data's densities are per unit of the environment's actions, the policy's per unit of [-1, 1].
    widths = (space.high.astype(np.float64) - space.low.astype(np.float64)).ravel()
    return ours + float(np.log(2.0 / widths).sum()) - dataset.log_probs.astype(np.float64), None
