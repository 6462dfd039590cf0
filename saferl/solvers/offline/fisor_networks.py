"""What FISOR learns: values, critics, the denoiser, their running averages, and one update of each."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th
from stable_baselines3.common.utils import polyak_update

from saferl.policy.critic import QEnsemble
from saferl.policy.diffusion import denoising_errors
from saferl.policy.ensemble import Ensemble
from saferl.policy.feasible_diffusion import FeasibleDiffusion
from saferl.solvers.offline.feasibility import (
    contrasted_weights,
    expectile_loss,
    feasible_targets,
    feasible_weights,
    next_feasibility,
)

if TYPE_CHECKING:
    from saferl.solvers.offline.fisor import FISORConfig


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

    def rows(self, first: int, count: int) -> Batch:
        """The transitions from ``first`` on, ``count`` of them."""
        cut = slice(first, first + count)
        return Batch(
            self.features[cut],
            self.actions[cut],
            self.rewards[cut],
            self.h[cut],
            None if self.next_h is None else self.next_h[cut],
            self.next_features[cut],
            self.terminals[cut],
        )


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
        rate = config.learning_rate
        self.value_optimizer = th.optim.Adam(self.values.parameters(), lr=rate, fused=True)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=rate, fused=True)
        self.actor_optimizer = th.optim.Adam(self.denoiser.parameters(), lr=rate, fused=True)

    def update_critics(self, data: Batch, count: int) -> dict[str, float]:
        """Move V_r and V_h, then Q_r and Q_h, then the running averages; the losses.

        Args:
            data: A batch.
            count: Updates of the critics before this one.
        """
        config, actions = self.config, data.actions.unsqueeze(1)
        if config.critic_decay:
            rate = config.learning_rate * cosine(count, config.critic_decay)
            _set_rate(self.value_optimizer, rate)
            _set_rate(self.critic_optimizer, rate)
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
            h_targets = feasible_targets(data.h, next_values, config.feasibility_gamma)
        predicted = self.critics(data.features, actions).squeeze(-1)
        reward_loss = (reward_targets - predicted[2:]).square().mean()
        loss = (h_targets - predicted[:2]).square().mean()
        _step(self.critic_optimizer, reward_loss + loss)
        polyak_update(self.critics.parameters(), self.targets.parameters(), config.tau)
        losses = {"reward_value": reward_value_loss, "value": value_loss, "reward_critic": reward_loss, "critic": loss}
        return {f"loss/{name}": float(value.detach()) for name, value in losses.items()}

    def weights(self, data: Batch) -> tuple[th.Tensor, th.Tensor]:
        """Weights of the transitions in the denoiser's loss, and V_h of their states, (B,) each."""
        config = self.config
        actions = th.stack([data.actions.roll(shift, 0) for shift in range(config.contrast + 1)], dim=1)
        with th.no_grad():
            targets = self.targets(data.features, actions)
            reward_values, values = self.values(data.features)
        tightened, action_values = values + config.margin, targets[:2].amax(dim=0) + config.margin
        action_rewards = targets[2:].amin(dim=0)
        temperatures = {name: getattr(config, name) for name in ("reward_temperature", "cost_temperature")}
        if config.contrast:
            return contrasted_weights(tightened, action_values, action_rewards, **temperatures), values
        weights = feasible_weights(
            tightened,
            action_values[:, 0],
            action_rewards[:, 0] - reward_values,
            max_weight=config.max_weight,
            max_infeasible_weight=config.max_infeasible_weight,
            **temperatures,
        )
        return weights, values

    def update_actor(self, data: Batch, generator: th.Generator, count: int) -> dict[str, float]:
        """Move the denoiser and its running average; the loss and what the weights look like.

        Args:
            data: A batch.
            generator: Of steps and noise.
            count: Updates of the denoiser before this one.
        """
        config = self.config
        weights, values = self.weights(data)
        step = th.randint(config.denoising_steps, (len(weights),), generator=generator)
        noise = th.randn(data.actions.shape, generator=generator)
        errors = denoising_errors(self.denoiser, data.features, data.actions, step, noise, self.alpha_bar)
        loss = (weights * errors).mean()
        _set_rate(self.actor_optimizer, config.learning_rate * cosine(count, config.actor_decay))
        _step(self.actor_optimizer, loss)
        polyak_update(self.denoiser.parameters(), self.policy.denoiser.parameters(), config.actor_tau)
        return {
            "loss/actor": float(loss.detach()),
            "weights/mean": float(weights.mean()),
            "weights/zero": float((weights == 0.0).float().mean()),
            "values/feasible": float((values <= 0.0).float().mean()),
        }

    def parts(self) -> dict[str, Any]:
        """All networks and optimisers by name, for checkpoints."""
        names = ("policy", "denoiser", "values", "critics", "targets")
        return {name: getattr(self, name) for name in names} | {
            f"{name}_optimizer": getattr(self, f"{name}_optimizer") for name in ("value", "critic", "actor")
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


def _set_rate(optimizer: th.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
