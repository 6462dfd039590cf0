"""RCPO in its reward-shaping form: one lagging critic of the penalised reward, and a multiplier slower than both.

The penalised reward rhat = r - sum_i lambda_i c_i has one critic, which knows neither the costs nor a change of lambda
until it has caught up. Three timescales, fastest first, with normalised values:

    Qhat <- Qhat + alpha (T Qhat - Qhat)
    T Qhat(s, a) = rhat(s, a) + gamma sum_s' P(s'|s, a) sum_b pi(b|s') Qhat(s', b)
    pi(a|s)  proportional to  pi(a|s) exp(eta Qhat(s, a))
    lambda_i <- clip(lambda_i + eta_lambda (Jbar_ci(pi) - dbar_i), 0, lambda_max),     eta_lambda << eta << alpha

Paper: Tessler, Mankowitz, Mannor (2019), "Reward constrained policy optimization", arXiv 1805.11074. With step sizes
that fall at separate rates it is proved to converge to a locally optimal policy that keeps the constraints.

With constant steps, as here, the policy follows the multiplier closely. Where the optimum is stochastic, it then jumps
between the best responses on both sides of lambda*, and the last iterate is one of them; it is the average that is
right. This is what the solver is here to show.

Differences from the paper: expected instead of sampled updates, constant steps, a natural gradient step instead of the
vanilla one, and the multiplier sees the exact expected cost. What several libraries call RCPO, with a critic per cost
and PPO's advantages, is another method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import TabularCMDP
from saferl.errors import ConfigError
from saferl.solvers.tabular.policies import TabularConfig, centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RCPOConfig(TabularConfig):
    """Options of RCPO."""

    critic_step: float = 1.0
    """Step size alpha of the critic, in (0, 1]; 1 replaces the critic by its one-step target."""
    policy_step: float = 0.3
    """Step size eta of the policy on the normalised critic, > 0, at most ``critic_step``."""
    multiplier_step: float = 0.03
    """Step size eta_lambda of the multipliers on normalised gaps, > 0, at most ``policy_step``."""

    def __post_init__(self) -> None:
        """Check the ranges and the order of the timescales."""
        super().__post_init__()
        check_ranges(self, positive=("critic_step",), unit=("critic_step",))
        if not self.multiplier_step <= self.policy_step <= self.critic_step:
            raise ConfigError(
                "RCPOConfig must have multiplier_step <= policy_step <= critic_step, slowest first; got "
                f"{self.multiplier_step:g}, {self.policy_step:g}, {self.critic_step:g}. Take npg_pd for other steps."
            )


def critic_target(cmdp: TabularCMDP, critic: Array, policy: Array, multipliers: Array) -> Array:
    """T Qhat, normalised, (..., A): one expected step of the penalised reward, then the critic."""
    signal = cmdp.scale * (cmdp.rewards - cmdp.costs @ multipliers)
    return np.asarray(signal + cmdp.discount * cmdp.expected_next((policy * critic).sum(axis=-1)))


def solve(cmdp: TabularCMDP, config: RCPOConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy, a critic of 0 and multipliers 0.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> solution = solve(paradox_a())
        >>> bool(np.ptp(solution.trajectory.values[-200:]) > 0.5)
        True
    """
    config = options(RCPOConfig, config, given)
    recorder = Recorder("rcpo", cmdp)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    critic = np.zeros(cmdp.policy_shape)
    for _ in range(config.iterations):
        policy = softmax(logits)
        evaluation = cmdp.evaluate(policy)
        recorder.add(evaluation, multipliers)
        critic = critic + config.critic_step * (critic_target(cmdp, critic, policy, multipliers) - critic)
        logits = centred(logits + config.policy_step * critic)
        gaps = evaluation.costs - cmdp.limits
        multipliers = np.clip(multipliers + config.multiplier_step * gaps, 0.0, config.multiplier_max)
    return recorder.solution(softmax(logits), multipliers)
