r"""PPO-Lagrangian: proximal policy optimisation on the Lagrangian of a constrained MDP.

maximise over pi, minimise over lambda >= 0:   L(pi, lambda) = J_r(pi) - sum_i lambda_i (J_ci(pi) - d_i)

Each iteration collects a rollout and then

1. dual:    I_i <- clip(I_i + lr (Jhat_ci - d_i), 0, max), lambda_i = clip(I_i + kp (Jhat_ci - d_i), 0, max), with
            kp = 0 by default, once enough episodes have ended;
2. policy:  A = A_r - sum_i lambda_i A_ci, standardised once, in PPO's clipped surrogate
            E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)], rho = pi(a|s) / pi_old(a|s);
3. critics: squared errors of V_r and of one V_ci per constraint to their lambda-returns.

Papers: Ray, Achiam, Amodei (2019), "Benchmarking safe exploration in deep reinforcement learning"; Schulman et al.
(2017), "Proximal policy optimization algorithms", arXiv 1707.06347.

What it guarantees: nothing for the last iterate. With exact gradients and averaging over iterates descent-ascent
approaches the saddle point; a single iterate may oscillate around the budget. Train below the limit that must hold, and
let an evaluation say whether it does.

Differences from the paper:
* Raw advantages are combined first and standardised once, so lambda keeps the units of reward per cost (with
  VecNormalize: of normalised reward per cost). The division by 1 + lambda then cancels and is left out.
* The multiplier moves by a projected gradient step, not by Adam on a softplus, with an optional proportional term.
* Any number of constraints, one multiplier and one critic head each.
* The dual's estimate matches the constraint's kind; time limits bootstrap for reward and every cost.
* The combined advantage is clipped in the surrogate (the original leaves the cost part unclipped).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from torch.nn import functional

from saferl.config import check_ranges
from saferl.errors import TrainingError
from saferl.solvers.dual import DualVariable, constraint_gaps
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig


@dataclass(frozen=True)
class PPOLagConfig(OnPolicyConfig):
    """Options of PPO-Lagrangian."""

    batch_size: int = 512
    """Samples per minibatch."""
    n_epochs: int = 5
    """Passes over each rollout."""
    clip_range: float = 0.2
    """Clipping radius of the probability ratio, > 0."""
    target_kl: float | None = None
    """The passes over a rollout end when a minibatch's approximate KL exceeds 1.5 times this; None: never."""
    multiplier_init: float = 0.0
    """First value of every multiplier, >= 0."""
    multiplier_lr: float = 2e-3
    """Multiplier step per unit of excess cost (in the constraint's own units) and dual update."""
    multiplier_kp: float = 0.0
    """Multiplier added at once per unit of excess cost; about ten times multiplier_lr damps swings. 0: plain ascent."""
    multiplier_max: float = 100.0
    """Upper bound of every multiplier."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(
            self,
            positive=("batch_size", "n_epochs", "clip_range", "target_kl"),
            non_negative=("multiplier_init", "multiplier_lr", "multiplier_kp", "multiplier_max"),
        )


def lagrangian_advantages(
    reward_advantages: th.Tensor, cost_advantages: th.Tensor, multipliers: th.Tensor
) -> th.Tensor:
    """A_r - sum_i lambda_i A_ci, standardised over the batch: (B,), (B, K), (K,) -> (B,)."""
    mixed = reward_advantages - cost_advantages @ multipliers
    return (mixed - mixed.mean()) / (mixed.std(unbiased=False) + 1e-8)


def clipped_surrogate(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """PPO's objective E[min(rho A, clip(rho) A)] (to be maximised), a scalar."""
    return th.min(ratio * advantages, th.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range) * advantages).mean()


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """E[(rho - 1) - log rho], a non-negative low-variance estimate of KL(old || new)."""
    return ((log_ratio.exp() - 1.0) - log_ratio).mean()


class PPOLag(ConstrainedOnPolicyAlgorithm):
    """PPO-Lagrangian on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import PPOLag
        >>> model = PPOLag("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, batch_size=16, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OnPolicyConfig]] = PPOLagConfig
    config: PPOLagConfig

    def _setup_model(self) -> None:
        super()._setup_model()
        self.dual = DualVariable(
            len(self.constraints),
            learning_rate=self.config.multiplier_lr,
            proportional=self.config.multiplier_kp,
            initial=self.config.multiplier_init,
            maximum=self.config.multiplier_max,
        )

    @property
    def multipliers(self) -> Any:
        """Current multipliers, float64 (num_constraints,)."""
        return self.dual.values

    def get_extra_state(self) -> dict[str, Any]:
        """With the multipliers."""
        return {**super().get_extra_state(), "dual": self.dual.get_state()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        super().set_extra_state(state)
        self.dual.set_state(state["dual"])

    def train(self) -> None:
        """One iteration on the rollout in the buffer: dual step, then clipped policy and critic steps."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._update_dual()
        config = self.config
        data = self.rollout_buffer.tensors(self.device)
        signed = th.as_tensor(self.multipliers * self.constraints.signs, dtype=th.float32, device=self.device)
        advantages = lagrangian_advantages(data.reward_advantages, data.cost_advantages, signed)
        actions = data.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else data.actions

        statistics: dict[str, list[float]] = {"policy_loss": [], "value_loss": [], "cost_value_loss": [], "entropy": []}
        clip_fractions: list[float] = []
        kl = 0.0
        for _ in range(config.n_epochs):
            order = th.randperm(len(data), generator=self.generator).to(self.device)
            for index in th.split(order, config.batch_size):
                log_probs, entropy, values, cost_values = self.policy.assess(data.obs_at(index), actions[index])
                log_ratio = log_probs - data.log_probs[index]
                ratio = log_ratio.exp()
                kl = float(approximate_kl(log_ratio.detach()))
                if config.target_kl is not None and kl > 1.5 * config.target_kl:
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
                self.policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
                if not th.isfinite(norm):
                    raise TrainingError(
                        f"PPOLag: the gradient is not finite at step {self.num_timesteps}. Lower learning_rate, "
                        "or check the env's observations and rewards with saferl.testing.check_env."
                    )
                self.policy.optimizer.step()
                for key, value in zip(
                    statistics, (policy_loss, value_loss, cost_value_loss, mean_entropy), strict=True
                ):
                    statistics[key].append(value.item())
                clip_fractions.append(((ratio - 1.0).abs() > config.clip_range).float().mean().item())
            else:
                self._n_updates += 1
                continue
            break
        self._log_update(statistics, clip_fractions, kl)

    def _update_dual(self) -> None:
        estimate = self.cost_estimator.estimate()
        if estimate is not None:
            self.dual.update(constraint_gaps(estimate, self.constraints))
            for name, value in zip(self.constraints.names, estimate, strict=True):
                self.logger.record(f"dual/estimate/{name}", float(value))
        for name, value in zip(self.constraints.names, self.multipliers, strict=True):
            self.logger.record(f"multiplier/{name}", float(value))

    def _log_update(self, statistics: dict[str, list[float]], clip_fractions: list[float], kl: float) -> None:
        for key, values in statistics.items():
            if values:
                self.logger.record(f"train/{key}", float(np.mean(values)))
        self.logger.record("train/clip_fraction", float(np.mean(clip_fractions)) if clip_fractions else 0.0)
        self.logger.record("train/approx_kl", kl)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", float(self.policy.log_std.detach().exp().mean()))
