r"""PPO-Lagrangian: proximal policy optimisation on the Lagrangian of a constrained MDP.

maximise over pi, minimise over lambda >= 0:   L(pi, lambda) = J_r(pi) - sum_i lambda_i (J_ci(pi) - d_i)

Each iteration collects a rollout and then

1. dual:    lambda_i <- clip(lambda_i + lr (Jhat_ci - d_i), 0, max), once enough episodes have ended (the option
            ``dual`` chooses other updates, :mod:`saferl.solvers.dual`);
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
* The multiplier moves by a projected gradient step by default; dual="softplus" is the paper's.
* Any number of constraints, one multiplier and one critic head each.
* The dual's estimate matches the constraint's kind; time limits bootstrap for reward and every cost.
* The combined advantage is clipped in the surrogate (the original leaves the cost part unclipped).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saferl.solvers.clipped import ClippedConfig, clipped_update, lagrangian_advantages
from saferl.solvers.dual import DualConfig
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig


@dataclass(frozen=True)
class PPOLagConfig(ClippedConfig, DualConfig):
    """Options of PPO-Lagrangian."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        ClippedConfig.__post_init__(self)
        DualConfig.__post_init__(self)


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

    def train(self) -> None:
        """One iteration on the rollout in the buffer: dual step, then clipped policy and critic steps."""
        self.begin_update()
        self.update_multipliers()
        data = self.rollout_buffer.tensors(self.device)
        advantages = lagrangian_advantages(data.reward_advantages, data.cost_advantages, self.signed_multipliers())
        clipped_update(self, data, advantages, self.config)
