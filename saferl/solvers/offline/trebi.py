r"""TREBI: plans by trajectory diffusion, steered at every step into what is left of the budget.

A window x holds H steps of actions and scaled observations. From noised windows ``x_t = sqrt(abar_t) x + sqrt(1 -
abar_t) noise`` whose first observation is clean, two networks are trained, with the discounted sums ``R`` and ``C`` of
the rewards and of every cost from the window's first step to the episode's end:

    denoiser   min E |D(x_t, t) - x|^2            the first action weighs ``action_weight`` times as much
    values     min E |(V_r, V_c)(x_t, t) - (R, C)|^2

At run time, with ``b = (b_0 - sum_{k<t} gamma^k c_k) / gamma^t``, what is left of the budget in units of the present
state, N plans are denoised from noise with the present observation pinned. Before each of T steps, ``guide_steps``
times,

    x <- x + guide_scale sigma_t^2 (grad V_r - cost_weight sum_i p_i grad V_c,i)
    p_i = exp(clip((V_c,i - b_i) / b_i, 0, 1)) where V_c,i > b_i, else 0

Of the plans with ``V_c <= b`` the one with the largest V_r gives its first action; where there is none, the one with
the smallest V_c. Lin, Tang, Wu, Yu, Mao, Xie, Wang, Wang (2023), "Safe offline reinforcement learning with real-time
budget constraints"; the networks are Diffuser's (Janner, Du, Tenenbaum, Levine 2022).

What it guarantees: nothing for learned networks. The paper bounds the error of the estimated return and cost of an
episode; V_c here predicts what the data's behaviour costs after the window's end, not what this policy will.

Speed: one action takes T (2 guide_steps + 1) passes of N plans through networks, tens to hundreds of times as long as
that of a plain network; the solver's page has figures.

Differences from the paper:

- Denoiser and values are trained side by side, one step each per update, on the same noised windows; reward and costs
  share one network with an output each, which guides by its running average.
- Gradients are taken in units of the spread of the returns and of each cost, so that ``guide_scale`` does not depend on
  the units of rewards.
- Several costs: one value and one pressure each; the fallback is the plan whose largest excess, in units of the spread
  of each cost, is smallest. A cost without a budget limits nothing.
- What is behind an episode's end is zero and does not count in the denoiser's loss; termination has no penalty.
- The values can see how much of the episode is left (``has_clock``, preset ``small``): sums to a time limit depend on
  it, and a window does not show it.
- The preset ``small`` has short plans, few steps and few plans, for a CPU.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from scipy.signal import lfilter
from stable_baselines3.common.utils import polyak_update

from saferl.config import check_ranges
from saferl.data.dataset import Dataset, Floats
from saferl.data.samplers import WindowSampler
from saferl.errors import ConfigError
from saferl.policy.diffusion import add_noise
from saferl.policy.trajectory_diffusion import TrajectoryDiffusion
from saferl.solvers.offline.base import OfflineSolver, TrainingData
from saferl.solvers.offline.cost_critics import descend, longest_episode


@dataclass(frozen=True)
class TREBIConfig:
    """Options of TREBI; the defaults are the published ones."""

    plan_length: int = 32
    """Steps H of a plan; must halve evenly at every level of the network but the last."""
    denoising_steps: int = 20
    """Steps T from noise to plan."""
    plans: int = 64
    """Plans N that are drawn per action, of which one is taken."""
    guide_steps: int = 2
    """Steps along the gradient before every step of denoising, >= 0."""
    guide_scale: float = 0.1
    """Length of these steps, in variances of the noise per unit of spread; 0: no guidance."""
    unguided_steps: int = 2
    """The last steps of denoising, which are not guided."""
    cost_weight: float = 5.0
    """Weight of the costs' gradients beside the reward's, where a budget is exceeded."""
    gamma: float = 1.0
    """Discount factor of the sums to go, in (0, 1]; 1: budgets are sums of an episode's costs, as they are given."""
    horizon: int = 0
    """Steps of an episode, for discounted budgets and the clock; 0: the longest of the data."""
    has_clock: bool = False
    """Whether the values see the share of the episode that is left."""
    channels: int = 32
    """Channels of the networks' first level."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """What channels are multiplied by on every level."""
    action_weight: float = 10.0
    """Weight of the first action in the denoiser's loss."""
    learning_rate: float = 2e-4
    """Step size of Adam, for both networks."""
    batch_size: int = 64
    """Windows per update."""
    tau: float = 0.005
    """Share of the trained networks that the acting ones take over at every update, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=(
                *("plan_length", "denoising_steps", "plans", "channels", "action_weight", "learning_rate"),
                *("batch_size", "gamma", "tau"),
            ),
            non_negative=("guide_steps", "guide_scale", "unguided_steps", "cost_weight", "horizon"),
            unit=("gamma", "tau"),
        )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"TREBIConfig.multipliers must be whole numbers >= 1; got {self.multipliers}.")
        step = 2 ** (len(self.multipliers) - 1)
        if self.plan_length % step:
            raise ConfigError(
                f"TREBIConfig.plan_length must be a multiple of {step}, as there are {len(self.multipliers)} levels; "
                f"got {self.plan_length}. Change it, or multipliers."
            )


SMALL: dict[str, Any] = {
    "plan_length": 8,
    "denoising_steps": 8,
    "plans": 16,
    "guide_steps": 1,
    "guide_scale": 1.0,
    "unguided_steps": 1,
    "has_clock": True,
    "channels": 16,
    "multipliers": (1, 2),
    "learning_rate": 1e-3,
    "tau": 0.01,
}
"""Options of the preset ``small``, where they differ from the published ones."""


def discounted_to_go(dataset: Dataset, gamma: float) -> Floats:
    """Discounted sums of the reward and of every cost from each step to its episode's end, (N, 1 + C)."""
    signals = np.hstack([dataset.rewards[:, None], dataset.costs]).astype(np.float64)
    sums = [
        lfilter([1.0], [1.0, -gamma], signals[start:end][::-1], axis=0)[::-1]
        for start, end in zip(dataset.episode_starts, dataset.episode_ends, strict=True)
    ]
    return np.asarray(np.concatenate(sums), dtype=np.float32)


def window_errors(
    predicted: th.Tensor, windows: th.Tensor, mask: th.Tensor, action_width: int, weight: float
) -> th.Tensor:
    """Mean weighted squared error of clean windows; the pinned observation and what is behind the end do not count.

    Args:
        predicted: (B, H, A + F).
        windows: (B, H, A + F).
        mask: 1 where there is a step, (B, H).
        action_width: A.
        weight: Of the first action.
    """
    weights = mask.unsqueeze(2).expand_as(windows).clone()
    weights[:, 0, :action_width] *= weight
    weights[:, 0, action_width:] = 0.0
    return (weights * (predicted - windows).square()).mean()


class TREBI(OfflineSolver):
    """Trajectory diffusion with real-time budget inference.

    Example:
        >>> solver = TREBI(preset="small")
        >>> solver.fit(data, steps=20_000)                       # doctest: +SKIP
        >>> actor = solver.actor().with_budgets({"cost": 10.0})  # doctest: +SKIP
    """

    name = "trebi"
    config_class = TREBIConfig
    presets = {"published": {}, "small": SMALL}  # noqa: RUF012 - read only
    default_steps = 1_000_000

    config: TREBIConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make the networks, their running averages, optimisers and the sampler."""
        config, dataset = self.config, data.dataset
        keys = (
            *("plan_length", "denoising_steps", "plans", "guide_steps", "guide_scale", "unguided_steps"),
            *("cost_weight", "gamma", "has_clock", "channels", "multipliers"),
        )
        self.network = TrajectoryDiffusion(
            data.num_features,
            data.action_width,
            num_costs=data.num_constraints,
            horizon=config.horizon or longest_episode(dataset),
            **{key: getattr(config, key) for key in keys},
        )
        low, high = dataset.observations.min(axis=0), dataset.observations.max(axis=0)
        self.network.shift = th.as_tensor(0.5 * (low + high))
        self.network.scale = th.as_tensor(np.maximum(0.5 * (high - low), 1e-3))
        sums = discounted_to_go(dataset, config.gamma)
        self.network.value_shift = th.as_tensor(sums.mean(axis=0))
        self.network.value_scale = th.as_tensor(np.maximum(sums.std(axis=0), 1e-3))
        self.sums, self.starts = th.as_tensor(sums), dataset.episode_starts
        self.denoiser, self.values = copy.deepcopy(self.network.denoiser), copy.deepcopy(self.network.values)
        self.network.requires_grad_(False)
        self.denoiser_optimizer = th.optim.Adam(self.denoiser.parameters(), lr=config.learning_rate)
        self.value_optimizer = th.optim.Adam(self.values.parameters(), lr=config.learning_rate)
        self.sampler = WindowSampler(dataset, config.plan_length, config.batch_size, np.random.default_rng(seed))
        self.alpha_bar = th.as_tensor(self.network.schedule.alpha_bar, dtype=th.float32)
        self.keep(
            network=self.network,
            denoiser=self.denoiser,
            values=self.values,
            denoiser_optimizer=self.denoiser_optimizer,
            value_optimizer=self.value_optimizer,
            sampler=self.sampler,
        )

    def update(self) -> dict[str, float]:
        """One step of the denoiser and one of the values on the same noised windows; their losses."""
        config, network = self.config, self.network
        drawn = self.sampler.sample()
        first = th.from_numpy(drawn.time_steps[:, 0])
        mask = th.from_numpy(drawn.mask).float()
        features = network.features(th.from_numpy(drawn.observations)) * mask.unsqueeze(2)
        windows = th.cat([th.from_numpy(drawn.actions), features], dim=2)
        level = th.randint(config.denoising_steps, (len(windows),), generator=self.generator)
        noise = th.randn(windows.shape, generator=self.generator)
        noised = network.pin(add_noise(windows, noise, self.alpha_bar[level].view(-1, 1, 1)), features[:, 0])
        errors = window_errors(self.denoiser(noised, level), windows, mask, network.action_width, config.action_weight)
        losses = {"loss/denoiser": descend(self.denoiser_optimizer, errors)}
        rows = th.from_numpy(self.starts[drawn.episodes]) + first
        targets = (self.sums[rows] - network.value_shift) / network.value_scale
        predicted = self.values(noised, level, network.clock(first))
        losses["loss/values"] = descend(self.value_optimizer, (predicted - targets).square().mean())
        polyak_update(self.denoiser.parameters(), network.denoiser.parameters(), config.tau)
        polyak_update(self.values.parameters(), network.values.parameters(), config.tau)
        return losses

    def publish(self) -> TrajectoryDiffusion:
        """The running averages."""
        return self.network
