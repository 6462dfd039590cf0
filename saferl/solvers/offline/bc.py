r"""BC: behaviour cloning, the policy that does what the data do.

Two losses over the data's pairs of observation and action (scaled to [-1, 1]):

    mse          min E |pi(s) - a|^2              one action per observation, pi = tanh of a network
    likelihood   min -E log pi(a | s)             tanh of a Gaussian, mean and deviations from a network

The first is BC-All, the baseline of OSRL (Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao 2023, "Datasets and
benchmarks for offline safe reinforcement learning").

What it guarantees: nothing about costs. With enough data and a network that can express it, the squared loss tends to
the data's mean action per observation, the likelihood to their distribution if that is a squashed Gaussian; small
errors add up over an episode (Ross, Bagnell 2010).

Differences from the paper: the scaled actions end at 1 - 1e-5; observations can be standardised (preset ``small``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th

from saferl.config import check_ranges
from saferl.constraints import KINDS
from saferl.data.samplers import TransitionSampler
from saferl.policy.behaviour import DeterministicMlp, GaussianMlp, imitation_loss
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale


@dataclass(frozen=True)
class BCConfig:
    """Options of BC; the defaults are those of OSRL."""

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


class BC(OfflineSolver):
    """Behaviour cloning.

    Example:
        >>> solver = BC(preset="small")
        >>> policy = solver.fit(saferl.data.load_dataset("data/pr.hdf5"), steps=2000).policy  # doctest: +SKIP
    """

    name = "bc"
    config_class = BCConfig
    supported_kinds = KINDS
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only

    config: BCConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make the network, its optimiser and the sampler."""
        config = self.config
        kind = DeterministicMlp if config.loss == "mse" else GaussianMlp
        self.network: DeterministicMlp | GaussianMlp = kind(
            data.num_features, data.action_width, net_arch=config.net_arch
        )
        self.network.shift, self.network.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.optimizer = th.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.sampler = TransitionSampler(data.dataset, config.batch_size, np.random.default_rng(seed))
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
