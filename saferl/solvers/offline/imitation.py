"""What BC and BC-Safe have in common: one network that imitates the actions of the episodes that a solver chooses."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th

from saferl.config import check_ranges
from saferl.data.dataset import Dataset
from saferl.data.samplers import TransitionSampler
from saferl.policy.behaviour import DeterministicMlp, GaussianMlp, imitation_loss
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale


@dataclass(frozen=True)
class ImitationConfig:
    """Options of the imitation; the defaults are those of OSRL."""

    loss: Literal["mse", "likelihood"] = "mse"
    """Squared error of one action, or the likelihood of a squashed Gaussian."""
    learning_rate: float = 1e-3
    """Step size of Adam, > 0."""
    batch_size: int = 512
    """Transitions per update, >= 1."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, positive=("learning_rate", "batch_size"))


SMALL: dict[str, Any] = {"net_arch": (64, 64), "batch_size": 256, "standardise": True}
"""Options of the preset ``small``, where they differ from the published ones."""


class Imitation(OfflineSolver):
    """Regression of actions on observations, over the data that :meth:`choose` leaves."""

    config_class = ImitationConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only

    config: ImitationConfig

    @abc.abstractmethod
    def choose(self, data: TrainingData) -> Dataset:
        """What is imitated.

        Raises:
            DataError: nothing is left.
        """

    def build(self, data: TrainingData, seed: int) -> None:
        """Choose episodes; make the network, its optimiser and the sampler."""
        config, chosen = self.config, self.choose(data)
        kind = DeterministicMlp if config.loss == "mse" else GaussianMlp
        self.network: DeterministicMlp | GaussianMlp = kind(
            data.num_features, data.action_width, net_arch=config.net_arch
        )
        self.network.shift, self.network.scale = observation_scale(chosen, standardise=config.standardise)
        self.optimizer = th.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.sampler = TransitionSampler(chosen, config.batch_size, np.random.default_rng(seed))
        self.keep(network=self.network, optimizer=self.optimizer, sampler=self.sampler)

    def update(self) -> dict[str, float]:
        """One step of Adam on a batch; ``loss/policy``."""
        batch = self.sampler.sample()
        loss = imitation_loss(self.network, th.from_numpy(batch.observations), th.from_numpy(batch.actions))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"loss/policy": float(loss.detach())}

    def publish(self) -> DeterministicMlp | GaussianMlp:
        """The network."""
        return self.network
