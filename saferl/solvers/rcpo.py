r"""RCPO: the penalty is part of the reward, and one critic values the sum.

    rhat = r - sum_i lambda_i c_i,      lambda_i <- clip(lambda_i + lr (Jhat_ci - d_i), 0, max)

Three time scales, the critic fastest and the multiplier slowest. The policy is PPO on rhat. Rewards keep the multiplier
they were collected under.

Paper: Tessler, Mankowitz, Mannor (2019), "Reward constrained policy optimization", ICLR.

What it guarantees: with the three time scales apart, almost sure convergence to a feasible fixed point in the tabular
limit; nothing for a single iterate. A critic of the penalised reward lags every move of the multiplier, which is why
the multiplier must be slow.

Differences from the paper: the base is PPO instead of an actor-critic without a trust region; the dual's estimate comes
from whole episodes. (OmniSafe's algorithm of this name has separate critics and a natural gradient; this is the
paper's.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from saferl.solvers.clipped import ClippedConfig, clipped_update, standardised
from saferl.solvers.dual import DualConfig
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig


@dataclass(frozen=True)
class RCPOConfig(ClippedConfig, DualConfig):
    """Options of RCPO."""

    multiplier_lr: float = 1e-3
    """Multiplier step per unit of excess cost and dual update; slower than the critic."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        ClippedConfig.__post_init__(self)
        DualConfig.__post_init__(self)


class RCPO(ConstrainedOnPolicyAlgorithm):
    """RCPO on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import RCPO
        >>> model = RCPO("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, batch_size=16, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OnPolicyConfig]] = RCPOConfig
    config: RCPOConfig

    def learning_rewards(self, rewards: Any, costs: Any) -> Any:
        """The penalised rewards rhat, (num_envs,)."""
        return rewards - costs @ (self.multipliers * self.constraints.signs)

    def train(self) -> None:
        """One iteration on the rollout in the buffer: dual step, then clipped steps on the penalised reward."""
        self.begin_update()
        self.update_multipliers()
        data = self.rollout_buffer.tensors(self.device)
        clipped_update(self, data, standardised(data.reward_advantages), self.config)
