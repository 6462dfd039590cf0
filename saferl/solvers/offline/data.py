"""Data as offline solvers train on them: flat observations, actions in [-1, 1], the spaces that these came from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from saferl.data.dataset import Dataset
from saferl.envs.adapters import CostContract
from saferl.envs.core import find_spec, make
from saferl.errors import ConfigError, DataError
from saferl.policy.offline import FloatArray
from saferl.policy.offline_actor import bounded_box, budget_array, num_features, to_unit

EDGE = 1.0 - 1e-5
"""Largest scaled action in training: a squashed Gaussian has no density at 1."""


@dataclass(frozen=True)
class Spaces:
    """The spaces of the environment that data are from."""

    observation: spaces.Space[Any]
    """Of raw observations."""
    action: spaces.Box
    """Of actions."""
    source: str
    """``environment``, or ``data`` where the environment is not known here."""


@dataclass(frozen=True)
class TrainingData:
    """A data set made ready, with the spaces and the budgets of the training."""

    dataset: Dataset
    """Observations (N, F), actions (N, A) in (-1, 1); the rest as it was."""
    spaces: Spaces
    """What observations and actions were before."""
    budgets: FloatArray | None
    """Limits of the episodes' cost sums, (C,), infinite where there is none; None: none was given."""

    @property
    def num_features(self) -> int:
        """Width F of an observation."""
        return int(self.dataset.observations.shape[1])

    @property
    def action_width(self) -> int:
        """Width A of an action."""
        return int(self.dataset.actions.shape[1])

    @property
    def num_constraints(self) -> int:
        """Number C of constraints."""
        return int(self.dataset.costs.shape[1])

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the constraints, (C,)."""
        return self.dataset.cost_names

    @property
    def named_budgets(self) -> dict[str, float] | None:
        """The budgets that limit something, by name; None without any."""
        limits = [] if self.budgets is None else self.budgets.tolist()
        named = {name: limit for name, limit in zip(self.cost_names, limits, strict=False) if np.isfinite(limit)}
        return named or None

    def with_dataset(self, dataset: Dataset) -> TrainingData:
        """The same with another choice of its episodes."""
        return replace(self, dataset=dataset)


def known_env(dataset: Dataset) -> str | None:
    """The environment that the metadata name, if it is registered with saferl or Gymnasium; None else.

    Metadata come with a file, so that an import path in them is not followed: it could run any code.
    """
    env_id = dataset.metadata.env_id
    if env_id is None or ":" in env_id:
        return None
    return env_id if find_spec(env_id) is not None or env_id in gymnasium.registry else None


def make_env(dataset: Dataset, budgets: Mapping[str, float] | None = None) -> CostContract:
    """The environment that the data are from, at ``budgets``, else at those of the metadata.

    Raises:
        ConfigError: it is not known here.
    """
    env_id, metadata = known_env(dataset), dataset.metadata
    if env_id is None:
        raise ConfigError(f"The data's environment must be registered here; got {metadata.env_id!r}.")
    return make(env_id, budgets=dict(budgets or metadata.budgets) or None, **dict(metadata.env_kwargs))


def find_spaces(dataset: Dataset) -> Spaces:
    """The spaces of the environment that the metadata name, if this saferl knows it; else those of the data.

    Spaces of the data are a flat, unbounded Box of observations and the Box [-1, 1] of actions, which is what DSRL's
    files hold.

    Raises:
        DataError: the widths of the data are not those of the environment.
        ConfigError: spaces that no offline solver takes.
    """
    env_id = known_env(dataset)
    if env_id is None:
        width, actions = dataset.observations[0].size, dataset.actions.shape[1]
        return Spaces(spaces.Box(-np.inf, np.inf, (width,)), spaces.Box(-1.0, 1.0, (actions,)), "data")
    with closing(make_env(dataset)) as env:
        found = Spaces(env.observation_space, bounded_box(env.action_space), "environment")
    for what, wanted, got in (
        ("observations", num_features(found.observation), int(dataset.observations[0].size)),
        ("actions", int(spaces.flatdim(found.action)), int(dataset.actions.shape[1])),
    ):
        if wanted != got:
            raise DataError(
                f"The data say that they are from {env_id}, whose {what} have {wanted} numbers; theirs have {got}. "
                "Correct env_id and env_kwargs of the metadata, or collect again."
            )
    return found


def prepare(
    dataset: Dataset, *, budgets: Mapping[str, float] | None = None, known_spaces: Spaces | None = None
) -> TrainingData:
    """``dataset`` as solvers train on it.

    Args:
        dataset: In env units.
        budgets: Limits of the episodes' cost sums by name; what is not named is not limited.
        known_spaces: Of the environment; found by :func:`find_spaces` if None.

    Raises:
        DataError: actions outside the Box by more than rounding, or widths that do not fit.
        UnknownNameError: a budget for a cost that the data do not have.
    """
    found = known_spaces or find_spaces(dataset)
    actions = to_unit(dataset.actions, found.action)
    beyond = np.abs(actions).max(axis=1)
    if beyond.max() > 1.0 + 1e-3:
        row = int(np.argmax(beyond))
        raise DataError(
            f"The data's actions must lie in {found.action} ({found.source}); row {row} is {dataset.actions[row]}. "
            "Name their environment in the metadata, or scale them to [-1, 1]."
        )
    if found.source == "data" and dataset.observations.dtype.kind != "f":
        raise ConfigError(f"Observations must be floats; got {dataset.observations.dtype}.")
    count = len(dataset)
    flat = replace(
        dataset,
        observations=dataset.observations.reshape(count, -1),
        next_observations=dataset.next_observations.reshape(count, -1),
        actions=np.clip(actions, -EDGE, EDGE),
    )
    return TrainingData(flat, found, budget_array(budgets, dataset.cost_names))
