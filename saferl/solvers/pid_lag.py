r"""PID-Lagrangian: PPO on the Lagrangian, with multipliers set by a PID controller of the constraint gaps.

With e = Jhat_c - d, estimated from whole episodes after a rollout, per constraint,

    I      <- clip(I + ki e, 0, max)
    p      <- a p + (1 - a) e
    lambda =  clip(I + kp p + kd max(0, p - p of ``delay`` updates ago), 0, max)

and the policy ascends A_r - lambda A_c by PPO's clipped surrogate. The integral alone is the plain Lagrangian, which
lags the cost by a quarter of a swing; the proportional term reacts at once, the derivative before the budget is
reached.

Paper: Stooke, Achiam, Abbeel (2020), "Responsive safety in reinforcement learning by PID Lagrangian methods", arXiv
2007.03964.

What it guarantees: nothing for a single iterate. Swings around the budget are damped, not removed.

Differences from the paper:
* The base is PPO with feed-forward networks; raw advantages are combined and standardised once, in which the paper's
  division by 1 + lambda cancels.
* The combined advantage is clipped; the paper clips the cost part pessimistically.
* One smoothing serves the proportional and the derivative term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from saferl.solvers.clipped import ClippedConfig, clipped_update, lagrangian_advantages
from saferl.solvers.dual import DualConfig
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig


@dataclass(frozen=True)
class PIDLagConfig(ClippedConfig, DualConfig):
    """Options of PID-Lagrangian; ``multiplier_lr`` is the integral gain ki."""

    dual: Literal["projected"] = "projected"
    """The PID controller."""
    multiplier_kp: float = 0.02
    """Proportional gain: multiplier per unit of smoothed excess cost."""
    multiplier_kd: float = 0.02
    """Derivative gain: multiplier per unit by which the smoothed cost has risen over ``multiplier_delay`` updates."""
    multiplier_smoothing: float = 0.5
    """Share of the old value in the running mean that kp and kd act on, in [0, 1)."""
    multiplier_delay: int = 4
    """Dual updates over which kd compares costs, >= 1."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        ClippedConfig.__post_init__(self)
        DualConfig.__post_init__(self)


class PIDLag(ConstrainedOnPolicyAlgorithm):
    """PID-Lagrangian on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import PIDLag
        >>> model = PIDLag("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, batch_size=16, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OnPolicyConfig]] = PIDLagConfig
    config: PIDLagConfig

    def train(self) -> None:
        """One iteration on the rollout in the buffer: PID step, then clipped policy and critic steps."""
        self.begin_update()
        self.update_multipliers()
        data = self.rollout_buffer.tensors(self.device)
        advantages = lagrangian_advantages(data.reward_advantages, data.cost_advantages, self.signed_multipliers())
        clipped_update(self, data, advantages, self.config)
