"""PPO's clipped policy step with critics for the reward and every cost, shared by all solvers that take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch.nn import functional

from saferl.config import check_ranges
from saferl.errors import TrainingError
from saferl.rollout.buffer import RolloutTensors
from saferl.solvers.on_policy import OnPolicyConfig


@dataclass(frozen=True)
class ClippedConfig(OnPolicyConfig):
    """Options of the clipped update."""

    batch_size: int = 512
    """Samples per minibatch."""
    n_epochs: int = 5
    """Passes over each rollout."""
    clip_range: float = 0.2
    """Clipping radius of the probability ratio, > 0."""
    target_kl: float | None = None
    """The passes over a rollout end when a minibatch's approximate KL exceeds 1.5 times this; None: never."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(self, positive=("batch_size", "n_epochs", "clip_range", "target_kl"))


def standardised(advantages: th.Tensor) -> th.Tensor:
    """Advantages with mean 0 and deviation 1 over the batch, (B,)."""
    return (advantages - advantages.mean()) / (advantages.std(unbiased=False) + 1e-8)


def lagrangian_advantages(
    reward_advantages: th.Tensor, cost_advantages: th.Tensor, multipliers: th.Tensor
) -> th.Tensor:
    """A_r - sum_i lambda_i A_ci, standardised over the batch: (B,), (B, K), (K,) -> (B,)."""
    return standardised(reward_advantages - cost_advantages @ multipliers)


def clipped_surrogate(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """PPO's objective E[min(rho A, clip(rho) A)] (to be maximised), a scalar."""
    return th.min(ratio * advantages, th.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range) * advantages).mean()


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """E[(rho - 1) - log rho], a non-negative low-variance estimate of KL(old || new)."""
    return ((log_ratio.exp() - 1.0) - log_ratio).mean()


def discrete_as_index(actions: th.Tensor, space: spaces.Space[Any]) -> th.Tensor:
    """Stored actions as a distribution takes them: those of a Discrete space as whole numbers (B,)."""
    return actions.long().flatten() if isinstance(space, spaces.Discrete) else actions


def clipped_update(model: Any, data: RolloutTensors, advantages: th.Tensor, config: ClippedConfig) -> None:
    """Passes of minibatches over a rollout: clipped policy step, squared errors of all critics, one Adam.

    Args:
        model: The solver: its ``policy``, ``generator`` (minibatch order), ``logger`` and action space are used.
        data: The rollout, B samples.
        advantages: What the policy ascends, (B,).
        config: Options.

    Raises:
        TrainingError: a gradient is not finite.
    """
    actions = discrete_as_index(data.actions, model.action_space)
    names = ("policy_loss", "value_loss", "cost_value_loss", "entropy")
    losses: list[th.Tensor] = []
    clip_fractions: list[th.Tensor] = []
    kl = th.zeros(())
    for index in _minibatches(model, len(data), config):
        log_probs, entropy, values, cost_values = model.policy.assess(data.obs_at(index), actions[index])
        log_ratio = log_probs - data.log_probs[index]
        ratio = log_ratio.exp()
        kl = approximate_kl(log_ratio.detach())
        if config.target_kl is not None and float(kl) > 1.5 * config.target_kl:
            break
        policy_loss = -clipped_surrogate(ratio, advantages[index], config.clip_range)
        value_loss = functional.mse_loss(values, data.reward_returns[index])
        cost_value_loss = functional.mse_loss(cost_values, data.cost_returns[index])
        mean_entropy = entropy.mean()
        loss = (
            policy_loss
            + config.vf_coef * value_loss
            + config.cost_vf_coef * cost_value_loss
            - config.ent_coef * mean_entropy
        )
        descend(model, loss, config.max_grad_norm)
        with th.no_grad():
            losses.append(th.stack([policy_loss, value_loss, cost_value_loss, mean_entropy]))
            clip_fractions.append(((ratio - 1.0).abs() > config.clip_range).float().mean())
    if losses:
        for name, value in zip(names, th.stack(losses).mean(dim=0).tolist(), strict=True):
            model.logger.record(f"train/{name}", value)
    fraction = float(th.stack(clip_fractions).mean()) if clip_fractions else 0.0
    model.logger.record("train/clip_fraction", fraction)
    model.logger.record("train/approx_kl", float(kl))
    log_policy(model)


def _minibatches(model: Any, size: int, config: ClippedConfig) -> Any:
    for _ in range(config.n_epochs):
        order = th.randperm(size, generator=model.generator).to(model.device)
        yield from th.split(order, config.batch_size)
        model._n_updates += 1


def descend(model: Any, loss: th.Tensor, max_grad_norm: float) -> None:
    """One step of the policy's optimiser along the clipped gradient of ``loss``.

    Raises:
        TrainingError: the gradient is not finite.
    """
    model.policy.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = th.nn.utils.clip_grad_norm_(model.policy.parameters(), max_grad_norm)
    if not th.isfinite(norm):
        raise TrainingError(
            f"{type(model).__name__}: the gradient is not finite at step {model.num_timesteps}. Lower learning_rate, "
            "or check the env's observations and rewards with saferl.testing.check_env."
        )
    model.policy.optimizer.step()


def log_policy(model: Any) -> None:
    """Log the number of passes and, of a Gaussian policy, its deviation."""
    model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    if hasattr(model.policy, "log_std"):
        model.logger.record("train/std", float(np.exp(model.policy.log_std.detach().cpu().numpy()).mean()))
