r"""BC-Safe: behaviour cloning on the episodes that kept the budgets.

    keep the episodes with sum_t c_i,t <= budget_i for every constraint i, then clone them as BC does:
    mse          min E |pi(s) - a|^2
    likelihood   min -E log pi(a | s)

The baseline of OSRL (Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao 2023, "Datasets and benchmarks for offline
safe reinforcement learning").

What it guarantees: every episode that it learns from kept every budget. Of the policy nothing: its errors lead it to
states that the chosen episodes do not show, and few episodes may be left at a small budget. Data without a single
such episode are refused.

Differences from the paper: several constraints at once; each budget is its own, where OSRL has one; the scaled actions
end at 1 - 1e-5; observations can be standardised (preset ``small``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th

from saferl.config import check_ranges
from saferl.data.dataset import Dataset
from saferl.data.samplers import TransitionSampler
from saferl.errors import DataError
from saferl.policy.behaviour import DeterministicMlp, GaussianMlp, imitation_loss
from saferl.policy.offline import FloatArray
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale


@dataclass(frozen=True)
class BCSafeConfig:
    """Options of BC-Safe; the defaults are those of OSRL."""

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


class BCSafe(OfflineSolver):
    """Behaviour cloning of the episodes within the budgets.

    Example:
        >>> solver = BCSafe(preset="small")
        >>> result = solver.fit(data, steps=2000, budgets={"cost": 10.0})  # doctest: +SKIP
    """

    name = "bc_safe"
    config_class = BCSafeConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    needs_budgets = True

    config: BCSafeConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Choose episodes, make the network, its optimiser and the sampler.

        Raises:
            DataError: no episode keeps the budgets.
        """
        config = self.config
        assert data.budgets is not None
        chosen = episodes_within(data.dataset, data.budgets)
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


def episodes_within(dataset: Dataset, budgets: FloatArray) -> Dataset:
    """The episodes whose cost sums lie at or below the budgets (C,), every one of them.

    Raises:
        DataError: there is none; the message names the lowest cost sums.
    """
    sums = dataset.cost_returns()
    keeps = (sums <= budgets).all(axis=1)
    if keeps.any():
        return dataset.select(keeps)
    limited = [index for index, budget in enumerate(budgets) if np.isfinite(budget)]
    lowest = ", ".join(f"{dataset.cost_names[i]} {sums[:, i].min():g} (budget {budgets[i]:g})" for i in limited)
    together = " at once" if (sums <= budgets).any(axis=0).all() else ""
    raise DataError(
        f"No episode of {dataset.num_episodes} keeps the budgets{together}; the lowest cost sums are {lowest}. Give "
        "higher budgets, or data of safer episodes."
    )
