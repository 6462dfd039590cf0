r"""FISOR: feasibility-guided safe offline reinforcement learning, for limits that hold in every state.

Zheng, Li, Yu, Yang, Li, Zhan, Liu (2024), "Safe offline reinforcement learning with feasibility-guided diffusion
model". ``h`` is the constraint margin of a transition's state, above 0 where the constraint is violated. Three
supervised problems, none of which asks a policy for actions:

1. Feasibility: how large will h become at best? ``L_p(u) = |p - 1(u < 0)| u^2``:

       V_h <- min E L_p(V_h(s) - max_i Qbar_h,i(s, a))           p = 0.9: a low expectile over the data's actions
       Q_h <- min E (y - Q_h,i(s, a))^2,   y = (1 - gamma) h + gamma max(h, V_h(s'))

2. Reward, as in implicit Q-learning: ``V_r <- min E L_p(min_i Qbar_r,i(s, a) - V_r(s))`` and
   ``Q_r,i <- r + gamma (1 - terminal) V_r(s')``.
3. A diffusion policy by weighted denoising, ``min E w(s, a) |noise - eps(noised a, s, t)|^2``, with
   ``A_r = min_i Qbar_r,i - V_r``, ``A_h = max_i Qbar_h,i - V_h`` and

       w = 1(Q_h <= 0) min(exp(reward_temperature A_r), max_weight)             where V_h <= 0
       w = min(exp(-cost_temperature A_h), max_infeasible_weight)               where V_h > 0

To act, N actions are drawn from the running average of the denoiser and the one with the smallest Q_h is taken (or the
best Q_r among the safe ones, ``selection="rewarding"``).

What it guarantees: with exact values and full support, the zero level set of V_h is the largest set from which h can be
kept at or below 0, as gamma goes to 1; at gamma < 1 a violation far ahead counts for less, so the set is too large near
its edge (``calibrate`` moves the edge). Learned values guarantee nothing; there is no budget to choose.

Differences from the paper:

- A time limit is not the end: values bootstrap through truncation, for the reward and for h (the authors' code cuts).
- At a terminal state the future is the margin of that state, ``y = (1 - gamma) h + gamma max(h, h(s'))``, where the
  data hold it (``next_h``); without it ``y = h``, as the authors have it. Elsewhere V_h(s') is not taken below a
  known ``h(s')``, which it cannot lie below at the fixed point.
- Of several constraints h is the largest margin; without margins h is -1 for a transition free of costs and
  ``cost_scale`` otherwise.
- Not from the paper, and used by the preset ``small`` alone: ``standardise``, ``margin_limit``, ``feasibility_gamma``,
  ``contrast`` (weights relative to other actions in the same state), ``margin`` (tightens the constraint), the most
  rewarding safe candidate instead of the safest, critics that learn alone at first and ever more slowly.
- A step back in sampling clips the clean action that the noise implies, not the noised one.
- The ranges of the returns that scale rewards are those of the data at hand.
- The updates of V_r and V_h are one of a batched network, and so are those of Q_r and Q_h; order and targets are the
  same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.config import check_ranges
from saferl.data.dataset import Dataset
from saferl.policy.feasible_diffusion import FeasibleDiffusion
from saferl.policy.offline_actor import flat_observations
from saferl.solvers.offline.base import OfflineSolver, TrainingData, observation_scale
from saferl.solvers.offline.feasibility import margins_of, reward_factor
from saferl.solvers.offline.fisor_networks import Batch, FISORNetworks


@dataclass(frozen=True)
class FISORConfig:
    """Options of FISOR; the defaults are the published ones, ``SMALL`` the preset for acting within milliseconds."""

    margins: Literal["auto", "dataset", "costs"] = "auto"
    """Where h comes from: the data's signed margins, their costs, or margins if there are any."""
    cost_scale: float = 25.0
    """h of a transition that costs something, where h comes from costs; without cost it is -1."""
    margin_limit: float = 0.0
    """Size to which margins are clipped, since how safe a state far from the border is does not matter; 0: none."""
    gamma: float = 0.99
    """Discount factor of rewards, in [0, 1)."""
    feasibility_gamma: float = 0.99
    """Discount factor of the feasible Bellman operator, in [0, 1)."""
    expectile: float = 0.9
    """Expectile of the reward value, in (0, 1)."""
    feasibility_expectile: float = 0.9
    """Reverse expectile of the feasibility value, in (0, 1); towards 1 it becomes the minimum over the actions."""
    reward_temperature: float = 3.0
    """Sharpness of the policy's weights towards reward, in feasible states."""
    cost_temperature: float = 5.0
    """Sharpness of the policy's weights towards safety, in infeasible states."""
    max_weight: float = 100.0
    """Largest weight in feasible states."""
    max_infeasible_weight: float = 150.0
    """Largest weight in infeasible states."""
    contrast: int = 0
    """Actions of other transitions that a weight is normalised with, state by state; 0: weights as published."""
    reward_span: float = 0.0
    """Rewards are multiplied so that returns span this many times the longest episode; 0: left as they are."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""
    learning_rate: float = 3e-4
    """Step size of Adam, for all networks."""
    actor_decay: int = 3_000_000
    """Updates of the denoiser over which its step size falls to 0 along a cosine."""
    actor_start: int = 0
    """Updates of the critics before the first of the denoiser."""
    critic_decay: int = 0
    """Updates of the critics over which their step size falls to 0 along a cosine; 0: it stays."""
    critic_batch: int = 256
    """Transitions per update of the critics: the first of the step's."""
    actor_batch: int = 1024
    """Transitions per update of the denoiser."""
    actor_updates: int = 2
    """Updates of the denoiser per step."""
    tau: float = 0.005
    """Share of the critics that the bootstrapping ones take over at every step, in (0, 1]."""
    actor_tau: float = 0.001
    """Share of the denoiser that the acting one takes over at every update, in (0, 1]."""
    critic_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of critics and values."""
    denoising_steps: int = 5
    """Steps T from noise to action."""
    candidates: int = 16
    """Actions N that are drawn per state, of which one is taken."""
    selection: Literal["safest", "rewarding"] = "safest"
    """The candidate with the smallest Q_h, as published; or the best Q_r of those with ``Q_h <= -margin``, if any."""
    margin: float = 0.0
    """Tightens the policy's constraint: V_h and Q_h must lie this far below 0 to count as safe, in units of h."""
    width: int = 256
    """Width of the denoiser."""
    blocks: int = 3
    """Residual blocks of the denoiser."""
    expansion: int = 4
    """How many times wider a block is inside."""
    time_features: int = 64
    """Fourier features of the step."""
    time_width: int = 128
    """Width of the network behind them."""
    dropout: float = 0.1
    """Share of a block's inputs that is dropped in training, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=(
                *("cost_scale", "max_weight", "max_infeasible_weight", "learning_rate", "actor_decay", "critic_batch"),
                *("actor_batch", "actor_updates", "tau", "actor_tau", "denoising_steps", "candidates", "width"),
                *("blocks", "expansion", "time_features", "time_width", "expectile", "feasibility_expectile"),
            ),
            non_negative=(
                *("reward_temperature", "cost_temperature", "reward_span", "margin", "margin_limit", "contrast"),
                *("actor_start", "critic_decay"),
            ),
            unit=("gamma", "feasibility_gamma", "expectile", "feasibility_expectile", "tau", "actor_tau", "dropout"),
        )


SMALL: dict[str, Any] = {
    "standardise": True,
    "learning_rate": 1e-3,
    "actor_decay": 25_000,
    "reward_span": 1.0,
    "critic_batch": 256,
    "actor_batch": 256,
    "actor_updates": 1,
    "tau": 0.01,
    "actor_tau": 0.005,
    "critic_arch": (80, 80),
    "candidates": 8,
    "selection": "rewarding",
    "width": 40,
    "blocks": 2,
    "time_features": 16,
    "time_width": 16,
    "dropout": 0.0,
}
"""Options of the preset ``small``, where they differ from the published ones."""

PRESETS: dict[str, dict[str, Any]] = {"published": {}, "small": SMALL}
"""Options by the name of the preset."""


class FISOR(OfflineSolver):
    """Feasibility-guided safe offline reinforcement learning.

    Example:
        >>> solver = FISOR(preset="small")
        >>> policy = solver.fit(saferl.data.load_dataset("data/pr.hdf5"), steps=20_000).policy  # doctest: +SKIP
        >>> solver.feasible(observations, epsilon=0.05)                                         # doctest: +SKIP
    """

    name = "fisor"
    config_class = FISORConfig
    supported_kinds = ("statewise",)
    presets = PRESETS
    default_steps = 1_000_000

    config: FISORConfig

    def build(self, data: TrainingData, seed: int) -> None:
        """Make the networks and their optimisers, and what batches are drawn from.

        Raises:
            DataError: margins were asked for and the data have none.
        """
        config = self.config
        self.networks = FISORNetworks(data.num_features, data.action_width, config)
        policy = self.networks.policy
        policy.shift, policy.scale = observation_scale(data.dataset, standardise=config.standardise)
        self.source = _Source(data.dataset, config)
        self.random = np.random.default_rng(seed)
        self.keep(random=self.random, **self.networks.parts())

    def update(self) -> dict[str, float]:
        """The denoiser's updates, then one of V_r, V_h, Q_r and Q_h; their losses and what the weights look like."""
        config, networks = self.config, self.networks
        drawn = max(config.actor_updates * config.actor_batch, config.critic_batch)
        batch = self.source.batch(self.random.integers(self.source.size, size=drawn), networks.policy)
        metrics: dict[str, float] = {}
        done = (self.num_updates - config.actor_start) * config.actor_updates
        for index in range(config.actor_updates if done >= 0 else 0):
            part = batch.rows(index * config.actor_batch, config.actor_batch)
            metrics = networks.update_actor(part, self.generator, done + index)
        return metrics | networks.update_critics(batch.rows(0, config.critic_batch), self.num_updates)

    def publish(self) -> FeasibleDiffusion:
        """The running average of the denoiser, with the critics and V_h of now."""
        return self.networks.publish()

    def feasibility_value(self, observations: Any) -> npt.NDArray[np.float32]:
        """V_h of a batch of raw observations, (B,): above 0 a violation is expected whatever is done."""
        data = self._started()
        flat = flat_observations(data.spaces.observation, observations)
        values: npt.NDArray[np.float32] = self.policy_of_now().feasibility(th.from_numpy(flat)).numpy()
        return values

    def feasible(self, observations: Any, epsilon: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether ``V_h <= -epsilon`` at each of a batch of raw observations, (B,)."""
        return np.asarray(self.feasibility_value(observations) <= -epsilon)

    def policy_of_now(self) -> FeasibleDiffusion:
        """The policy that acts, without another copy of it while nothing was learned since."""
        policy = self.actor().policy
        assert isinstance(policy, FeasibleDiffusion)
        return policy


class _Source:
    """The columns that batches are made from."""

    def __init__(self, dataset: Dataset, config: FISORConfig) -> None:
        self.dataset, self.size = dataset, len(dataset)
        limit = config.margin_limit or np.inf
        h, next_h = margins_of(dataset, config.margins, config.cost_scale)
        self.h, self.next_h = h.clip(-limit, limit), None if next_h is None else next_h.clip(-limit, limit)
        self.rewards = dataset.rewards * np.float32(reward_factor(dataset, config.reward_span))

    def batch(self, rows: npt.NDArray[np.int64], policy: FeasibleDiffusion) -> Batch:
        """The transitions ``rows``, with the observations scaled as ``policy`` scales them."""
        data = self.dataset
        return Batch(
            features=policy.features(th.from_numpy(data.observations[rows])),
            actions=th.from_numpy(data.actions[rows]),
            rewards=th.from_numpy(self.rewards[rows]),
            h=th.from_numpy(self.h[rows]),
            next_h=None if self.next_h is None else th.from_numpy(self.next_h[rows]),
            next_features=policy.features(th.from_numpy(data.next_observations[rows])),
            terminals=th.from_numpy(data.terminals[rows]),
        )
