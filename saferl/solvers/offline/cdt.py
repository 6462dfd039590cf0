r"""CDT: the constrained decision transformer, one training for all budgets.

A sequence model learns what the data did when a return R and costs C were still to go, from windows of K steps
``(R_t, C_t, s_t, a_t)`` (sums to the episode's end, undiscounted):

    min  -E[ mean_j log N(a_tj; mu_tj, std_tj) + lambda mean_j H(std_tj) ] + w_c BCE(c_t) + w_s |s_{t+1} - s'_{t+1}|^2
    min over log lambda:  lambda (H - H_target)

with means over the A entries of an action, the steps of windows and the batch; mu and std are read off the state's
token, the predictions of the step's costs and of the next state off the action's. Episodes are drawn with chances that
fall with their costs, and a share of them is added with targets above the data's Pareto frontier, whose answer is the
best episode within the budget (:mod:`saferl.data.relabel`). At run time the targets come from the budgets and the
data's frontier (:mod:`saferl.policy.decision_policy`). Liu, Guo, Yao, Cen, Yu, Zhang, Zhao (2023), "Constrained
decision transformer for offline safe reinforcement learning".

What it guarantees: nothing. It imitates what was seen near a target; whether the episode then meets the target is up to
the data and the network, and budgets below the data's cheapest episode are not met at all.

Differences from the paper and its code (OSRL):

- Several costs, one token each; signed and fractional costs: the predicted costs are those of a step in ranges of the
  data's, which for costs of 0 and 1 is the same cross-entropy.
- Targets are scaled to the data's largest ones, augmentation and chances are relative to their ranges, where OSRL has
  constants (0.1, 50, 70, and a degree, a largest return and a decrease per task); no outliers are filtered. The
  frontier is the exact one, not a polynomial through it.
- The target entropy is per entry of an action, as the entropy is; OSRL compares the mean over entries with minus their
  number. The temperature is part of the state; log std is clamped.
- Asked returns are a fixed share of the way from the frontier to the largest one of training (``ask``), where OSRL has
  three pairs of targets per task; costs to go stop at the least that the data had to go.
- ``attention="banded"`` is a variant of ours: each layer attends to the last ``(K - 1) // L + 1`` steps, so that keys
  and values can be kept exactly while acting.
- A batch passes in chunks that fit a CPU's cache; the gradient is that of the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional

from saferl.config import check_ranges
from saferl.data.dataset import Dataset
from saferl.data.relabel import Frontier, Relabelling, TargetSampler, TargetWindows, relabel, thrifty_weights
from saferl.errors import ConfigError
from saferl.policy.decision_policy import DecisionPolicy
from saferl.policy.decision_transformer import Attention, Outputs
from saferl.policy.offline import FloatArray
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale


@dataclass(frozen=True)
class CDTConfig:
    """Options of CDT; the defaults are the published ones, where those do not depend on the task."""

    context: int = 10
    """Steps K of a window."""
    width: int = 128
    """Of a token."""
    layers: int = 3
    """Blocks L of attention."""
    heads: int = 8
    """Of attention, a divisor of width."""
    expansion: int = 4
    """How many times wider a block is inside."""
    attention: Attention = "window"
    """``window``: all of the window; ``banded``: the last steps of each layer, with cached keys while acting."""
    attention_dropout: float = 0.1
    """Share of attention weights that are dropped, in [0, 1)."""
    residual_dropout: float = 0.1
    """Share of the blocks' outputs that are dropped, in [0, 1)."""
    embedding_dropout: float = 0.1
    """Share of the tokens' entries that are dropped, in [0, 1)."""
    learning_rate: float = 1e-4
    """Step size of AdamW."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    warmup: int = 500
    """Updates over which the step size rises linearly."""
    max_grad_norm: float = 0.25
    """Largest norm of the gradient."""
    batch_size: int = 2048
    """Windows per update."""
    chunk: int = 128
    """Windows that pass through the network together; the gradient does not depend on it."""
    temperature: float = 0.1
    """First weight lambda of the entropy."""
    temperature_rate: float = 1e-4
    """Step size of Adam on log lambda."""
    target_entropy: float = -1.0
    """Entropy per entry of an action that lambda is steered to, in nats of actions in [-1, 1]."""
    cost_weight: float = 0.02
    """Weight of the predicted costs."""
    state_weight: float = 0.0
    """Weight of the predicted next state; with 0 there is no such prediction."""
    target_span: float = 50.0
    """Largest return to go and largest costs to go of the data, as the network reads them."""
    augment: float = 0.2
    """Episodes that are added with targets above the frontier, as a share of the data's."""
    headroom: float = 0.2
    """How far above the data's largest return such targets lie, in ranges of returns."""
    slack: float = 0.2
    """How much less than the best an added episode may return, in ranges of returns."""
    spread: float = 0.02
    """Distance on the frontier at which the chance to be added is half, in ranges."""
    tilt: float = 0.9
    """How much rarer the most expensive episodes are drawn than the cheapest, in [0, 1]."""
    ask: float = 0.5
    """Return to ask for at run time, between the frontier (0) and the largest target of training (1)."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=(
                *("context", "width", "layers", "heads", "expansion", "learning_rate", "warmup", "max_grad_norm"),
                *("batch_size", "chunk", "temperature", "temperature_rate", "target_span", "headroom", "spread"),
            ),
            non_negative=("weight_decay", "cost_weight", "state_weight", "augment", "slack"),
            unit=("attention_dropout", "residual_dropout", "embedding_dropout", "tilt", "ask"),
        )
        for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
            if getattr(self, name) > 0.99:
                raise ConfigError(f"CDTConfig.{name} must leave something; got {getattr(self, name):g}.")
        if self.width % self.heads:
            raise ConfigError(
                f"CDTConfig.width must be a multiple of heads; got {self.width} and {self.heads}. Change either."
            )


SMALL: dict[str, Any] = {
    "width": 64,
    "heads": 4,
    "learning_rate": 1e-3,
    "warmup": 100,
    "batch_size": 64,
    "chunk": 64,
    "standardise": True,
}
"""Options of the preset ``small``, where they differ from the published ones."""


@dataclass(frozen=True)
class Batch:
    """B windows of K steps as the network reads them."""

    features: th.Tensor
    """(B, K, F)."""
    actions: th.Tensor
    """(B, K, A)."""
    returns: th.Tensor
    """To go, scaled, (B, K)."""
    costs_to_go: th.Tensor
    """Scaled, (B, K, C)."""
    steps: th.Tensor
    """(B, K)."""
    mask: th.Tensor
    """1 where there is a step, else 0, (B, K)."""
    costs: th.Tensor
    """Of the steps, in [0, 1], (B, K, C)."""

    def part(self, first: int, count: int) -> Batch:
        """``count`` windows from ``first`` on."""
        return Batch(*(getattr(self, name)[first : first + count] for name in self.__dataclass_fields__))


def likelihood_and_entropy(
    means: th.Tensor, log_stds: th.Tensor, actions: th.Tensor, mask: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """Sums over the steps in ``mask`` of the log density and of the entropy, each a mean over an action's entries.

    Args:
        means: Of Gaussians, (B, K, A).
        log_stds: (B, K, A).
        actions: (B, K, A).
        mask: 1 where there is a step, (B, K).
    """
    errors = (actions - means) * (-log_stds).exp()
    densities = -0.5 * errors.square() - log_stds - 0.5 * math.log(2.0 * math.pi)
    entropies = log_stds + 0.5 * (1.0 + math.log(2.0 * math.pi))
    return (densities.mean(dim=-1) * mask).sum(), (entropies.mean(dim=-1) * mask).sum()


def cost_error(logits: th.Tensor, costs: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """Sum over the steps in ``mask`` of the cross-entropy of costs in [0, 1] (B, K, C), a mean over the constraints."""
    errors = functional.binary_cross_entropy_with_logits(logits, costs, reduction="none")
    return (errors.mean(dim=-1) * mask).sum()


def state_error(predicted: th.Tensor, features: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """Sum over the steps of the squared error of the next state (B, K, F), a mean over F, where the window shows it."""
    errors = (predicted[:, :-1] - features[:, 1:]).square().mean(dim=-1)
    return (errors * mask[:, 1:]).sum()


def temperature_loss(log_temperature: th.Tensor, entropy: float, target: float) -> th.Tensor:
    """What steers lambda: ``lambda (H - H_target)``, whose gradient lowers lambda where the entropy is too large."""
    return log_temperature.exp() * (entropy - target)


def target_scales(sampler: TargetSampler, span: float) -> tuple[float, FloatArray]:
    """Factors that bring the data's largest return to go and costs to go (C,) to ``span``; 1 where all are 0."""
    returns = np.abs(sampler.windows.returns_to_go).max()
    costs = np.abs(sampler.windows.costs_to_go).max(axis=0)
    return float(span / (returns or span)), span / np.where(costs > 0.0, costs, span)


class Temperature(nn.Module):
    """Weight of the entropy."""

    def __init__(self, value: float) -> None:
        """Begin with ``value``."""
        super().__init__()
        self.log = nn.Parameter(th.tensor(math.log(value)))


class CDT(OfflineSolver):
    """Constrained decision transformer.

    Example:
        >>> solver = CDT(preset="small")
        >>> solver.fit(data, steps=20_000)                       # doctest: +SKIP
        >>> actor = solver.actor().with_budgets({"cost": 10.0})  # doctest: +SKIP
    """

    name = "cdt"
    config_class = CDTConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only

    config: CDTConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Relabel; make the network, its optimisers and the sampler."""
        config, dataset = self.config, data.dataset
        relabelling, weights, ceiling = added_episodes(dataset, config, np.random.default_rng([seed, 1]))
        self.sampler = TargetSampler(
            dataset,
            config.context,
            config.batch_size,
            np.random.default_rng(seed),
            relabelling=relabelling,
            weights=weights,
        )
        front = Frontier.of(dataset)
        keys = ("context", "width", "layers", "heads", "expansion", "attention", "ask")
        dropouts = ("attention_dropout", "residual_dropout", "embedding_dropout")
        policy = DecisionPolicy(
            data.num_features,
            data.action_width,
            num_costs=data.num_constraints,
            horizon=int((dataset.episode_ends - dataset.episode_starts).max()),
            predicts_states=config.state_weight > 0.0,
            frontier_size=len(front.returns),
            **{key: getattr(config, key) for key in (*keys, *dropouts)},
        )
        policy.shift, policy.scale = observation_scale(dataset, standardise=config.standardise)
        return_scale, cost_scale = target_scales(self.sampler, config.target_span)
        policy.return_scale = th.tensor(return_scale, dtype=th.float32)
        policy.cost_scale = th.as_tensor(cost_scale, dtype=th.float32)
        policy.front_returns, policy.front_costs = th.from_numpy(front.returns), th.from_numpy(front.costs)
        policy.ceiling = th.tensor(ceiling, dtype=th.float64)
        to_go = self.sampler.windows.costs_to_go.astype(np.float64)
        policy.cost_range = th.from_numpy(np.stack([to_go.min(axis=0), to_go.max(axis=0)]))
        self.step_costs = th.from_numpy(np.stack([dataset.costs.min(axis=0), dataset.costs.max(axis=0)]))
        """Least and largest cost of a step, (2, C)."""
        self.network = policy
        self.optimizer = th.optim.AdamW(
            policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.temperature = Temperature(config.temperature)
        self.temperature_optimizer = th.optim.Adam(self.temperature.parameters(), lr=config.temperature_rate)
        self.keep(
            network=self.network,
            optimizer=self.optimizer,
            temperature=self.temperature,
            temperature_optimizer=self.temperature_optimizer,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of AdamW on a batch, one of Adam on log lambda; the losses, entropy and lambda."""
        return self.train_on(self.prepare_batch(self.sampler.sample()))

    def prepare_batch(self, drawn: TargetWindows) -> Batch:
        """Windows as the network reads them."""
        policy = self.network
        low, high = self.step_costs
        return Batch(
            policy.features(th.from_numpy(drawn.observations)),
            th.from_numpy(drawn.actions),
            th.from_numpy(drawn.returns_to_go) * policy.return_scale,
            th.from_numpy(drawn.costs_to_go) * policy.cost_scale,
            th.from_numpy(drawn.time_steps),
            th.from_numpy(drawn.mask).float(),
            ((th.from_numpy(drawn.costs) - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0),
        )

    def train_on(self, batch: Batch) -> dict[str, float]:
        """One update on a given batch."""
        config = self.config
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min((self.num_updates + 1) / config.warmup, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        temperature = float(self.temperature.log.detach().exp())
        sums = th.zeros(4)
        for first in range(0, len(batch.mask), config.chunk):
            part = batch.part(first, config.chunk)
            out = self.network.network(part.features, part.actions, part.returns, part.costs_to_go, part.steps)
            loss, parts = self._loss(out, part, temperature, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += parts
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm, foreach=True)
        self.optimizer.step()
        likelihood, entropy, costs, states = sums.tolist()
        self.temperature_optimizer.zero_grad(set_to_none=True)
        temperature_loss(self.temperature.log, entropy, config.target_entropy).backward()  # type: ignore[no-untyped-call]
        self.temperature_optimizer.step()
        logged = {"loss/policy": -likelihood, "loss/costs": costs, "entropy": entropy, "temperature": temperature}
        return {**logged, "loss/states": states} if config.state_weight > 0.0 else logged

    def publish(self) -> DecisionPolicy:
        """The network with its targets."""
        return self.network

    def _loss(self, out: Outputs, part: Batch, temperature: float, batch: Batch) -> tuple[th.Tensor, th.Tensor]:
        """What a part adds to the batch's loss, and to its means: log density, entropy, errors of costs and states."""
        config, steps, following = self.config, batch.mask.sum(), batch.mask[:, 1:].sum().clamp(min=1.0)
        likelihood, entropy = likelihood_and_entropy(out.means, out.log_stds, part.actions, part.mask)
        costs = cost_error(out.costs, part.costs, part.mask)
        states = th.zeros(()) if out.next_features is None else state_error(out.next_features, part.features, part.mask)
        sums = th.stack([likelihood / steps, entropy / steps, costs / steps, states / following])
        weights = th.tensor([-1.0, -temperature, config.cost_weight, config.state_weight])
        return sums @ weights, sums.detach()


def added_episodes(
    dataset: Dataset, config: CDTConfig, generator: np.random.Generator
) -> tuple[Relabelling, FloatArray, float]:
    """The data's episodes and those above the frontier, their chances, and the largest return that these ask for."""
    returns, costs = dataset.returns(), dataset.cost_returns()
    labels = relabel(
        returns,
        costs,
        generator,
        share=config.augment,
        headroom=config.headroom,
        slack=config.slack,
        spread=config.spread,
    )
    ceiling = returns.max() + (config.headroom * np.ptp(returns) if len(labels.episodes) > len(returns) else 0.0)
    return labels, thrifty_weights(costs[labels.episodes] + labels.cost_shifts, config.tilt), float(ceiling)
