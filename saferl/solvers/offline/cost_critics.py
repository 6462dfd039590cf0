"""What solvers with critics of costs share: options, budgets as thresholds, multipliers, batches, steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.config import check_ranges
from saferl.data.dataset import Dataset, Floats
from saferl.data.samplers import Transitions
from saferl.errors import ConfigError, ConstraintError
from saferl.policy.vae import ConditionalVae, vae_loss
from saferl.solvers.dual import Dual, DualVariable
from saferl.solvers.offline.base import TrainingData

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CriticConfig:
    """Options of solvers with critics and an auto-encoder; the defaults are those of OSRL."""

    gamma: float = 0.99
    """Discount factor of reward and costs, in [0, 1)."""
    horizon: int = 0
    """Steps T of an episode, by which budgets become thresholds; 0: the longest of the data."""
    reward_scale: float = 0.1
    """Rewards are multiplied by this."""
    kl_weight: float = 0.5
    """Weight beta of the KL in the auto-encoder's loss."""
    learning_rate: float = 1e-3
    """Step size of Adam, where there is no other."""
    batch_size: int = 512
    """Transitions per update."""
    tau: float = 0.005
    """Share of the networks that the running averages take over at every update, in (0, 1]."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of critics and policy."""
    vae_width: int = 400
    """Hidden width of the auto-encoder."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=("reward_scale", "learning_rate", "batch_size", "tau", "vae_width"),
            non_negative=("horizon", "kl_weight"),
            unit=("gamma", "tau"),
        )
        if self.gamma == 1.0:
            name = type(self).__name__
            raise ConfigError(f"{name}.gamma must be below 1, or sums have no bound; got 1. Try 0.99.")


@dataclass(frozen=True)
class LagrangianCriticConfig(CriticConfig):
    """The same with multipliers that a PID controller moves, and ensembles of twin critics."""

    twin_share: float = 0.75
    """Weight of the pessimistic twin in the targets, in [0, 1]."""
    members: int = 2
    """Networks per twin."""
    kp: float = 0.1
    """Multiplier per unit of excess discounted cost."""
    ki: float = 0.003
    """Multiplier added per unit of excess discounted cost and update."""
    kd: float = 0.001
    """Multiplier per unit by which the excess rose since the last update."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(self, positive=("members",), non_negative=("kp", "ki", "kd"), unit=("twin_share",))

    def multipliers(self, count: int) -> Multipliers:
        """Multipliers of ``count`` constraints, from 0."""
        return Multipliers(DualVariable(count, learning_rate=self.ki, proportional=self.kp, derivative=self.kd))


SMALL_CRITICS: dict[str, Any] = {
    "batch_size": 256,
    "tau": 0.01,
    "net_arch": (64, 64),
    "vae_width": 64,
    "standardise": True,
}
"""What the presets ``small`` of these solvers have in common."""


@overload
def discounted_threshold(budget: float, gamma: float, horizon: int) -> float: ...


@overload
def discounted_threshold(budget: FloatArray, gamma: float, horizon: int) -> FloatArray: ...


def discounted_threshold(budget: float | FloatArray, gamma: float, horizon: int) -> float | FloatArray:
    """The discounted sum over ``horizon`` steps of a cost that sums up to ``budget`` and comes evenly.

    ``budget (1 - gamma^T) / ((1 - gamma) T)`` (OSRL); what a critic of discounted costs is compared with.

    Example:
        >>> round(discounted_threshold(10.0, 0.99, 200), 3)
        4.33
    """
    return budget * (1.0 - gamma**horizon) / ((1.0 - gamma) * horizon)


class Limits(NamedTuple):
    """The constraints that a budget limits."""

    names: tuple[str, ...]
    """(K,)."""
    columns: npt.NDArray[np.int64]
    """Their columns among the data's costs, (K,)."""
    thresholds: FloatArray
    """What discounted cost sums must not exceed, (K,)."""


def limits_of(data: TrainingData, gamma: float, horizon: int = 0) -> Limits:
    """The limited constraints; costs without a budget play no part.

    Args:
        data: With budgets.
        gamma: Discount factor of the critics.
        horizon: Steps of an episode; 0: the longest of the data.

    Raises:
        ConstraintError: no cost is limited.
    """
    budgets = np.full(data.num_constraints, np.inf) if data.budgets is None else data.budgets
    columns = np.flatnonzero(np.isfinite(budgets))
    if not len(columns):
        raise ConstraintError(
            f"Training needs a budget for at least one of the costs {', '.join(data.cost_names)}; got none. Give "
            f"budgets={{{data.cost_names[0]!r}: 10.0}} (--budget {data.cost_names[0]}=10)."
        )
    steps = horizon or longest_episode(data.dataset)
    names = tuple(data.cost_names[column] for column in columns)
    return Limits(names, columns, discounted_threshold(budgets[columns], gamma, steps))


def longest_episode(dataset: Dataset) -> int:
    """Steps of the longest episode."""
    return int((dataset.episode_ends - dataset.episode_starts).max())


class Multipliers:
    """A dual update with the state of a solver's part, and its values as a tensor."""

    def __init__(self, dual: Dual) -> None:
        """Wrap ``dual``."""
        self.dual = dual

    @property
    def values(self) -> th.Tensor:
        """Current values, (K,) float32."""
        return th.as_tensor(self.dual.values, dtype=th.float32)

    def update(self, gaps: th.Tensor) -> th.Tensor:
        """Take one step along ``gaps`` (K,), positive where a limit is broken; the new values."""
        self.dual.update(gaps.detach().numpy().astype(np.float64))
        return self.values

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return self.dual.get_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.dual.set_state(state)


class Batch(NamedTuple):
    """B transitions as tensors."""

    observations: th.Tensor
    """Raw, (B, F)."""
    next_observations: th.Tensor
    """Raw, (B, F)."""
    actions: th.Tensor
    """In (-1, 1), (B, A)."""
    signals: th.Tensor
    """Scaled reward, then the limited costs, (1 + K, B)."""
    terminals: th.Tensor
    """1 where the task ended, (B,); a time limit is 0."""


def as_batch(sample: Transitions, columns: npt.NDArray[np.int64], *, scale: float, offset: float = 0.0) -> Batch:
    """A drawn batch as tensors.

    Args:
        sample: The transitions.
        columns: Of the costs that are limited, (K,).
        scale: Rewards are multiplied by this.
        offset: Subtracted from rewards before that.
    """
    rewards: Floats = (sample.rewards - np.float32(offset)) * np.float32(scale)
    signals = np.vstack([rewards[None], sample.costs[:, columns].T])
    return Batch(
        th.from_numpy(sample.observations),
        th.from_numpy(sample.next_observations),
        th.from_numpy(sample.actions),
        th.from_numpy(signals),
        th.from_numpy(sample.terminals),
    )


def bellman_targets(signals: th.Tensor, next_values: th.Tensor, terminals: th.Tensor, gamma: float) -> th.Tensor:
    """``y = signal + gamma (1 - terminal) next value``, for the reward and every cost alike.

    Args:
        signals: (1 + K, B).
        next_values: (1 + K, B).
        terminals: 1 where the task ended, (B,).
        gamma: Discount factor.
    """
    return signals + gamma * (1.0 - terminals) * next_values


def critic_loss(values: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """Mean squared errors, summed over all networks.

    Args:
        values: Of :meth:`TwinCritics.every` with one action per state, (1 + K, 2, members, B, 1).
        targets: (1 + K, B).
    """
    return (values[..., 0] - targets[:, None, None]).square().mean(dim=-1).sum()


def descend(optimizer: th.optim.Optimizer, loss: th.Tensor) -> float:
    """One step of ``optimizer`` along the gradient of ``loss`` in its own parameters alone; the loss before it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
    return float(loss.detach())


def descend_vae(
    optimizer: th.optim.Optimizer,
    vae: ConditionalVae,
    features: th.Tensor,
    actions: th.Tensor,
    generator: th.Generator,
    kl_weight: float,
) -> float:
    """One step of the auto-encoder on observations (B, F) and actions (B, A); its loss."""
    noise = th.randn((len(features), vae.latent), generator=generator)
    return descend(optimizer, vae_loss(vae, features, actions, noise, kl_weight))


def per_constraint(prefix: str, names: tuple[str, ...], values: th.Tensor) -> dict[str, float]:
    """Values (K,) as log entries ``prefix/name``."""
    return {f"{prefix}/{name}": float(value) for name, value in zip(names, values.detach(), strict=True)}
