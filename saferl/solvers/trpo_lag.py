r"""TRPO-Lagrangian: a natural-gradient step inside a trust region, on the Lagrangian.

    A = A_r - sum_i lambda_i A_ci,  g = gradient of E[rho A],  x = sqrt(2 delta / g.H^-1 g) H^-1 g

with H the Fisher matrix, H^-1 g by conjugate gradient, and a backtracking line search that accepts a step when the mean
KL divergence is at most delta and the surrogate has improved. The multipliers move as in PPO-Lagrangian.

Papers: Ray, Achiam, Amodei (2019), "Benchmarking safe exploration in deep reinforcement learning"; Schulman et al.
(2015), "Trust region policy optimization", arXiv 1502.05477.

What it guarantees: every accepted update stays within the trust region on the batch. Nothing for the budget at a single
iterate: multiplier and policy may swing around it.

Differences from the paper: raw advantages are combined and standardised once; multipliers move by projected gradient by
default; the entropy bonus is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch as th

from saferl.solvers.clipped import lagrangian_advantages, log_policy
from saferl.solvers.dual import DualConfig
from saferl.solvers.natural import (
    NaturalConfig,
    PolicyGeometry,
    conjugate_gradient,
    fit_critics,
    line_search,
    step_scale,
)
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig


@dataclass(frozen=True)
class TRPOLagConfig(NaturalConfig, DualConfig):
    """Options of TRPO-Lagrangian."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        NaturalConfig.__post_init__(self)
        DualConfig.__post_init__(self)


class TRPOLag(ConstrainedOnPolicyAlgorithm):
    """TRPO-Lagrangian on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import TRPOLag
        >>> model = TRPOLag("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OnPolicyConfig]] = TRPOLagConfig
    config: TRPOLagConfig

    def train(self) -> None:
        """One iteration on the rollout in the buffer: dual step, trust-region step, critics."""
        self.begin_update()
        self.update_multipliers()
        config, data = self.config, self.rollout_buffer.tensors(self.device)
        advantages = lagrangian_advantages(data.reward_advantages, data.cost_advantages, self.signed_multipliers())
        geometry = PolicyGeometry(self, data, config.cg_damping)
        gradient = geometry.gradient(advantages)
        direction = conjugate_gradient(geometry.fisher_product(), gradient, config.cg_iterations)
        trust_region = config.target_kl * step_scale(self, config) ** 2
        length = th.sqrt(2.0 * trust_region / (gradient @ direction).clamp(min=1e-12))
        before = float(geometry.surrogate(advantages).detach())

        def is_accepted() -> bool:
            is_close = float(geometry.kl()) <= trust_region
            return is_close and float(geometry.surrogate(advantages)) > before

        share = line_search(
            geometry,
            length * direction,
            is_accepted,
            shrink=config.line_search_shrink,
            trials=config.line_search_trials,
        )
        with th.no_grad():
            self.logger.record("train/approx_kl", float(geometry.kl()))
        self.logger.record("train/step_share", share)
        fit_critics(self, data, config)
        log_policy(self)
