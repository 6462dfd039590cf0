r"""FISOR: feasibility-guided safe offline reinforcement learning, for limits that hold in every state.

Zheng, Li, Yu, Yang, Li, Zhan, Liu (2024), "Safe offline reinforcement learning with feasibility-guided diffusion
model". ``h`` is the constraint margin of a transition's state, above 0 where the constraint is violated. Three supervised
problems, none of which asks a policy for actions:

1. Feasibility: how large will h become at best? ``L_p(u) = |p - 1(u < 0)| u^2``:

       V_h <- min E L_p(V_h(s) - max_i Qbar_h,i(s, a))           p = 0.9: a low expectile over the data's actions
       Q_h <- min E (y - Q_h,i(s, a))^2,   y = (1 - gamma) h + gamma max(h, V_h(s'))

2. Reward, as in implicit Q-learning: ``V_r <- min E L_p(min_i Qbar_r,i(s, a) - V_r(s))`` and
   ``Q_r,i <- r + gamma (1 - terminal) V_r(s')``.
3. A diffusion policy by weighted denoising, ``min E w(s, a) |noise - eps(noised a, s, t)|^2``, with ``A_r = min_i Qbar_r,i
   - V_r``, ``A_h = max_i Qbar_h,i - V_h`` and

       w = 1(Q_h <= 0) min(exp(reward_temperature A_r), max_weight)             where V_h <= 0
       w = min(exp(-cost_temperature A_h), max_infeasible_weight)               where V_h > 0

To act, N actions are drawn from the running average of the denoiser and the one with the smallest Q_h is taken (or the
best Q_r among the safe ones, ``selection="rewarding"``).

What it guarantees: with exact values and full support, the zero level set of V_h is the largest set from which h can be
kept at or below 0, as gamma goes to 1; at gamma < 1 a violation far ahead counts for less, so the set is too large near
its edge (``calibrate`` moves the edge). Learned values guarantee nothing; there is no budget to choose.

Differences from the paper:

- A time limit is not the end: values bootstrap through truncation, for the reward and for h (the authors' code cuts).
- At a terminal state the future is the margin of that state, ``y = (1 - gamma) h + gamma max(h, h(s'))``, where the data
  hold it (``next_h``); without it ``y = h``, as the authors have it. Elsewhere V_h(s') is not taken below a known
  ``h(s')``, which it cannot lie below at the fixed point.
- Of several constraints h is the largest margin; without margins h is -1 for a transition free of costs and
  ``cost_scale`` otherwise.
- Observations can be standardised, the constraint tightened by ``margin``, and the most rewarding safe candidate taken
  instead of the safest. The preset ``small`` does so and is not from the paper.
- The ranges of the returns that scale rewards are those of the data at hand.
- The two critics' updates are one update of a batched network; updates, targets and their order are the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.utils import polyak_update

from saferl.config import check_ranges
from saferl.data.dataset import Dataset, Floats
from saferl.errors import ConfigError, DataError
from saferl.policy.critic import QEnsemble
from saferl.policy.diffusion import denoising_errors
from saferl.policy.ensemble import Ensemble
from saferl.policy.feasible_diffusion import FeasibleDiffusion


@dataclass(frozen=True)
class FISORConfig:
    """Options of FISOR; the defaults are the published ones, ``SMALL`` the preset for acting within milliseconds."""

    margins: Literal["auto", "dataset", "costs"] = "auto"
    """Where h comes from: the data's signed margins, their costs, or margins if there are any."""
    cost_scale: float = 25.0
    """h of a transition that costs something, where h comes from costs; without cost it is -1."""
    gamma: float = 0.99
    """Discount factor of rewards and of the feasible Bellman operator, in [0, 1)."""
    expectile: float = 0.9
    """Expectile of the reward value, in (0, 1)."""
    feasibility_expectile: float = 0.9
    """Reverse expectile of the feasibility value, in (0, 1); towards 1 it becomes the minimum over the data's actions."""
    reward_temperature: float = 3.0
    """Sharpness of the policy's weights towards reward, in feasible states."""
    cost_temperature: float = 5.0
    """Sharpness of the policy's weights towards safety, in infeasible states."""
    max_weight: float = 100.0
    """Largest weight in feasible states."""
    max_infeasible_weight: float = 150.0
    """Largest weight in infeasible states."""
    reward_span: float = 0.0
    """Rewards are multiplied so that the data's returns span this many times their longest episode; 0: left as they are."""
    standardise: bool = False
    """Whether observations are brought to mean 0 and standard deviation 1."""
    learning_rate: float = 3e-4
    """Step size of Adam, for all networks."""
    actor_decay: int = 3_000_000
    """Updates of the denoiser over which its step size falls to 0 along a cosine."""
    critic_batch: int = 256
    """Transitions per update of the critics."""
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
    """The candidate with the smallest Q_h, as published; or the best Q_r among those with ``Q_h <= -margin``, if any."""
    margin: float = 0.0
    """Tightens the constraint for the policy: V_h and Q_h must lie this far below 0 to count as safe, in units of h."""
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
            non_negative=("reward_temperature", "cost_temperature", "reward_span", "margin"),
            unit=("gamma", "expectile", "feasibility_expectile", "tau", "actor_tau", "dropout"),
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


def expectile_loss(errors: th.Tensor, expectile: float) -> th.Tensor:
    """Mean of ``|expectile - 1(u < 0)| u^2``.

    With u = target - value and an expectile above 0.5 the value follows the high targets, with u = value - target the
    low ones (the reverse expectile of FISOR, equation 9).
    """
    weight = th.where(errors < 0.0, 1.0 - expectile, expectile)
    return (weight * errors.square()).mean()


def feasible_targets(h: th.Tensor, next_values: th.Tensor, gamma: float) -> th.Tensor:
    """Feasible Bellman operator ``(1 - gamma) h + gamma max(h, V_h(s'))``, a contraction by gamma (FISOR, eq. 5)."""
    return (1.0 - gamma) * h + gamma * th.maximum(h, next_values)


def next_feasibility(values: th.Tensor, h: th.Tensor, next_h: th.Tensor | None, terminals: th.Tensor) -> th.Tensor:
    """V_h(s') as the operator takes it: the state's own margin at a terminal state, and never below it elsewhere.

    Args:
        values: V_h of the next states, (B,).
        h: Margins of the states before, (B,), which stand for an unknown margin of a terminal state.
        next_h: Margins of the next states, (B,), or None where the data have none.
        terminals: True where the next state is terminal, (B,); a time limit is not.
    """
    if next_h is None:
        return th.where(terminals, h, values)
    return th.where(terminals, next_h, th.maximum(next_h, values))


def feasible_weights(
    values: th.Tensor,
    action_values: th.Tensor,
    reward_advantages: th.Tensor,
    *,
    reward_temperature: float,
    cost_temperature: float,
    max_weight: float,
    max_infeasible_weight: float,
) -> th.Tensor:
    """Weights of transitions in the denoising loss, (B,) (FISOR, equation 15).

    Args:
        values: V_h(s), (B,).
        action_values: Q_h(s, a), (B,).
        reward_advantages: A_r(s, a), (B,).
        reward_temperature: Sharpness towards reward in feasible states.
        cost_temperature: Sharpness towards safety in infeasible states.
        max_weight: Largest weight in feasible states.
        max_infeasible_weight: Largest weight in infeasible states.
    """
    rewarding = th.exp(reward_temperature * reward_advantages).clamp(max=max_weight)
    safest = th.exp(-cost_temperature * (action_values - values)).clamp(max=max_infeasible_weight)
    return th.where(values <= 0.0, th.where(action_values <= 0.0, rewarding, 0.0), safest)


def margins_of(dataset: Dataset, source: str, cost_scale: float) -> tuple[Floats, Floats | None]:
    """Largest margin h (N,) of every transition and of its next state, None where the data do not say.

    Args:
        dataset: The data.
        source: ``dataset``, ``costs`` or ``auto``, as in :class:`FISORConfig`.
        cost_scale: h of a transition that costs something, where h comes from costs.

    Raises:
        DataError: margins were asked for and there are none.
    """
    if source == "dataset" and dataset.h is None:
        raise DataError(
            "FISOR.margins is 'dataset', but the data have no h. Use margins='costs', or data with margins."
        )
    if source != "costs" and dataset.h is not None:
        return dataset.h.max(axis=1), None if dataset.next_h is None else dataset.next_h.max(axis=1)
    is_costly = (dataset.costs > 0.0).any(axis=1)
    return np.where(is_costly, cost_scale, -1.0).astype(np.float32), None


def reward_factor(dataset: Dataset, span: float) -> float:
    """What rewards are multiplied by, so that returns span ``span`` times the longest episode; 1 where span is 0."""
    returns = dataset.returns()
    width = float(returns.max() - returns.min())
    longest = int((dataset.episode_ends - dataset.episode_starts).max())
    return span * longest / width if span > 0.0 and width > 0.0 else 1.0


def calibrate_epsilon(values: npt.ArrayLike, violated: npt.ArrayLike, level: float = 0.02) -> float:
    """The smallest margin epsilon >= 0 at which ``V_h <= -epsilon`` passes at most a share ``level`` of bad starts.

    Split conformal: with the n bad starts in order of V_h, the ``floor(level (n + 1))``-th smallest may still pass;
    a further bad start, exchangeable with them, passes with probability at most ``level``.

    Args:
        values: V_h of the starts of held-out rollouts, (E,).
        violated: Whether each rollout violated the constraint, (E,).
        level: Share of bad starts that may pass, in (0, 1).

    Raises:
        ConfigError: too few rollouts violated to say anything at this level.
    """
    bad = np.sort(np.asarray(values, dtype=np.float64)[np.asarray(violated, dtype=bool)])
    allowed = math.floor(level * (len(bad) + 1) + 1e-9)
    if allowed < 1:
        raise ConfigError(
            f"Calibrating epsilon at level {level:g} needs at least {math.ceil(1 / level - 1e-9) - 1} held-out rollouts "
            f"that violate; got {len(bad)}. Give more rollouts from unsafe starts, or a higher level."
        )
    return max(0.0, -float(bad[allowed - 1]))


class Batch(NamedTuple):
    """A batch as the losses take it; features are scaled observations, actions lie in [-1, 1]."""

    features: th.Tensor
    """(B, F)."""
    actions: th.Tensor
    """(B, A)."""
    rewards: th.Tensor
    """Scaled, (B,)."""
    h: th.Tensor
    """Margin before the action, or of the transition where it is made from costs, (B,)."""
    next_h: th.Tensor | None
    """Margin of the next state, (B,), if the data have it."""
    next_features: th.Tensor
    """(B, F)."""
    terminals: th.Tensor
    """True where no future follows, (B,)."""


class FISORNetworks:
    """What is learned: the acting policy (running averages), and the networks that gradients move."""

    def __init__(self, num_features: int, action_width: int, config: FISORConfig) -> None:
        """Build all networks and their optimisers."""
        keys = ("width", "blocks", "expansion", "time_features", "time_width", "dropout")
        denoiser = {"steps": config.denoising_steps, **{key: getattr(config, key) for key in keys}}
        arch = config.critic_arch
        self.config = config
        self.policy = FeasibleDiffusion(
            num_features,
            action_width,
            denoiser=denoiser,
            critic_arch=arch,
            candidates=config.candidates,
            is_rewarding=config.selection == "rewarding",
            margin=config.margin,
        )
        self.denoiser = copy.deepcopy(self.policy.denoiser)
        self.values = Ensemble(2, num_features, arch)
        """V_r and V_h."""
        self.critics = QEnsemble(4, num_features, action_width, arch)
        """The twins of Q_h, then those of Q_r."""
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.alpha_bar = th.as_tensor(self.policy.schedule.alpha_bar, dtype=th.float32)
        self.actor_count = 0
        rate = config.learning_rate
        self.value_optimizer = th.optim.Adam(self.values.parameters(), lr=rate, fused=True)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=rate, fused=True)
        self.actor_optimizer = th.optim.Adam(self.denoiser.parameters(), lr=rate, fused=True)

    def update_critics(self, data: Batch) -> dict[str, float]:
        """Move V_r and V_h, then Q_r and Q_h, then the running averages; the losses."""
        config, actions = self.config, data.actions.unsqueeze(1)
        with th.no_grad():
            targets = self.targets(data.features, actions).squeeze(-1)
        reward_values, values = self.values(data.features)
        reward_value_loss = expectile_loss(targets[2:].amin(dim=0) - reward_values, config.expectile)
        value_loss = expectile_loss(values - targets[:2].amax(dim=0), config.feasibility_expectile)
        _step(self.value_optimizer, reward_value_loss + value_loss)
        with th.no_grad():
            next_reward_values, next_values = self.values(data.next_features)
            reward_targets = data.rewards + config.gamma * (~data.terminals).float() * next_reward_values
            next_values = next_feasibility(next_values, data.h, data.next_h, data.terminals)
            h_targets = feasible_targets(data.h, next_values, config.gamma)
        predicted = self.critics(data.features, actions).squeeze(-1)
        reward_loss = (reward_targets - predicted[2:]).square().mean()
        loss = (h_targets - predicted[:2]).square().mean()
        _step(self.critic_optimizer, reward_loss + loss)
        polyak_update(self.critics.parameters(), self.targets.parameters(), config.tau)
        losses = {"reward_value": reward_value_loss, "value": value_loss, "reward_critic": reward_loss, "critic": loss}
        return {f"loss/{name}": float(value.detach()) for name, value in losses.items()}

    def update_actor(self, data: Batch, generator: th.Generator) -> dict[str, float]:
        """Move the denoiser and its running average; the loss and what the weights look like."""
        config = self.config
        with th.no_grad():
            targets = self.targets(data.features, data.actions.unsqueeze(1)).squeeze(-1)
            reward_values, values = self.values(data.features)
            weights = feasible_weights(
                values + config.margin,
                targets[:2].amax(dim=0) + config.margin,
                targets[2:].amin(dim=0) - reward_values,
                reward_temperature=config.reward_temperature,
                cost_temperature=config.cost_temperature,
                max_weight=config.max_weight,
                max_infeasible_weight=config.max_infeasible_weight,
            )
        step = th.randint(config.denoising_steps, (len(weights),), generator=generator)
        noise = th.randn(data.actions.shape, generator=generator)
        errors = denoising_errors(self.denoiser, data.features, data.actions, step, noise, self.alpha_bar)
        loss = (weights * errors).mean()
        rate = config.learning_rate * cosine(self.actor_count, config.actor_decay)
        for group in self.actor_optimizer.param_groups:
            group["lr"] = rate
        _step(self.actor_optimizer, loss)
        self.actor_count += 1
        polyak_update(self.denoiser.parameters(), self.policy.denoiser.parameters(), config.actor_tau)
        return {
            "loss/actor": float(loss.detach()),
            "weights/mean": float(weights.mean()),
            "weights/zero": float((weights == 0.0).float().mean()),
            "values/feasible": float((values <= 0.0).float().mean()),
        }

    def publish(self) -> FeasibleDiffusion:
        """The acting policy with the critics and values of now."""
        policy = self.policy
        with th.no_grad():
            for own, learned in zip(policy.critics.parameters(), self.targets.parameters(), strict=True):
                own.copy_(learned[: len(own)])
            for own, learned in zip(policy.value.parameters(), self.values.parameters(), strict=True):
                own.copy_(learned[1:])
        policy.refresh()
        return policy.eval()


def cosine(count: int, decay: int) -> float:
    """Factor of the step size after ``count`` updates: from 1 to 0 at ``decay`` along half a cosine, 0 afterwards."""
    return 0.5 * (1.0 + math.cos(math.pi * min(count / decay, 1.0)))


def _step(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
