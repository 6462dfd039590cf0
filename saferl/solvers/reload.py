r"""ReLOAD: optimistic descent-ascent with a policy network, so that the last iterate settles.

Both players step along twice their gradient minus the last one. The policy's gradient is its advantage under the mixed
reward r - sum_i lambda_i c_i, so it needs the advantage of the previous policy under the previous multipliers on
today's transitions (s, a, s'). One step with the critics V^- and multipliers lambda^- of the previous iteration gives
it without bias, whoever chose the action:

    delta   = r - lambda c   + gamma V_lambda(s') - V_lambda(s)           critics and multipliers of now
    delta^- = r - lambda^- c + gamma V^-_{lambda^-}(s') - V^-_{lambda^-}(s)
    A       = GAE_r - sum_i lambda_i GAE_ci + (delta - delta^-)

which is the plain advantage when nothing has changed. Policy step, with F the Fisher matrix and g the gradient of
E[rho A / std(A_r)], std(A_r) averaged over iterations:

    x = eta F^-1 g,    scaled back where the KL divergence would exceed target_kl

that is, ascent of E[rho A] - KL / eta to second order; on a softmax table, pi <- pi exp(eta A). Multipliers:

    lambda_i <- clip(lambda_i + lr (2 gap_i - gap_i of the last dual update), 0, max)

Paper: Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy (2023), "ReLOAD: Reinforcement learning with optimistic
ascent-descent for last-iterate convergence in constrained MDPs", arXiv 2302.01275.

What it guarantees: with exact gradients and small steps the last iterate converges (``saferl bench tabular`` shows it).
With sampled gradients it settles to a neighbourhood that shrinks with the steps; nothing is guaranteed for one iterate.

Differences from the paper: the base is an on-policy natural gradient instead of IMPALA; the optimistic term is a
difference of one-step errors on the same transitions, which is zero when nothing changes; steps can be annealed.
Advantages are divided by the deviation of the *reward* advantage, its mean over all iterations: that of the mixed one
goes to zero at the saddle point, and that of one batch where the policy is deterministic, and dividing by either would
make all steps the same size and bring the oscillation back. Adam on the actor would do the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.config import check_ranges
from saferl.rollout.buffer import ConstrainedRolloutBuffer, RolloutTensors
from saferl.rollout.optimism import Critics, mixed_residuals, optimistic_advantages
from saferl.solvers.clipped import log_policy
from saferl.solvers.dual import DualConfig, make_dual
from saferl.solvers.natural import (
    NaturalConfig,
    PolicyGeometry,
    conjugate_gradient,
    fit_critics,
    line_search,
    step_scale,
)
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, CutEpisode, OnPolicyConfig

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ReLOADConfig(NaturalConfig, DualConfig):
    """Options of ReLOAD; ``target_kl`` only caps the policy step."""

    dual: Literal["projected"] = "projected"
    """Plain projected steps; ``optimism`` says whether they are optimistic."""
    optimism: Literal["both", "primal", "dual", "none"] = "both"
    """Whose steps are optimistic: both players', the policy's, the multipliers', or nobody's. Only both settle."""
    policy_step: float = 0.2
    """Step size eta of the policy on advantages in deviations of the reward advantage, > 0."""
    anneal_steps: bool = True
    """Whether both players' steps fall to a tenth over training, which averages sampling noise out of late iterates."""
    target_kl: float = 0.05
    """Largest mean KL divergence of one update, > 0."""
    cg_damping: float = 0.01
    """Added to the diagonal of the Fisher matrix, > 0; it shortens steps along directions of little curvature."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        NaturalConfig.__post_init__(self)
        DualConfig.__post_init__(self)
        check_ranges(self, positive=("policy_step",))


class RunningMean:
    """The mean of all numbers so far."""

    def __init__(self) -> None:
        """Begin with none."""
        self.total, self.count = 0.0, 0

    def add(self, number: float) -> None:
        """Take one more."""
        self.total, self.count = self.total + number, self.count + 1

    @property
    def mean(self) -> float:
        """The mean; 0 without any."""
        return self.total / max(1, self.count)


class ReLOAD(ConstrainedOnPolicyAlgorithm):
    """ReLOAD on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import ReLOAD
        >>> model = ReLOAD("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OnPolicyConfig]] = ReLOADConfig
    config: ReLOADConfig

    def _setup_model(self) -> None:
        super()._setup_model()
        kind = "optimistic" if self.config.optimism in ("both", "dual") else "projected"
        self.dual = make_dual(replace(self.config, dual=kind), len(self.constraints))  # type: ignore[arg-type]
        self.previous_policy: Any = None
        """The policy network of the previous iteration, for its critics; None before the second."""
        self.previous_multipliers = self.multipliers.copy()
        self.advantage_scale = RunningMean()
        self._correction: FloatArray | None = None

    @property
    def step_scale(self) -> float:
        """Share of both players' full steps at this moment of training, in [0.1, 1]."""
        return step_scale(self, self.config)

    def _value(self, buffer: ConstrainedRolloutBuffer, cut: list[CutEpisode]) -> None:
        super()._value(buffer, cut)
        # The previous critics are asked here, where the final observations of cut episodes are at hand.
        self._correction = None
        if self.previous_policy is None or self.config.optimism not in ("both", "primal"):
            return
        signs = self.constraints.signs
        now = Critics(buffer.values, buffer.cost_values, buffer.next_values, buffer.next_cost_values)
        before = Critics(*self.transition_values(self.previous_policy, buffer, cut))
        delta, old_delta = (
            self._residuals(buffer, critics, multipliers * signs)
            for critics, multipliers in ((now, self.multipliers), (before, self.previous_multipliers))
        )
        self._correction = optimistic_advantages(np.zeros_like(delta), delta, old_delta)

    def _residuals(self, buffer: ConstrainedRolloutBuffer, critics: Critics, weights: FloatArray) -> FloatArray:
        return mixed_residuals(
            buffer.rewards,
            buffer.costs,
            critics,
            buffer.terminated,
            multipliers=weights,
            gamma=self.gamma,
            cost_gamma=self.config.cost_gamma,
        )

    def train(self) -> None:
        """One iteration on the rollout in the buffer: advantages, dual step, natural policy step, critics.

        The players move at the same time: the policy's step uses the multipliers of before the dual's.
        """
        self.begin_update()
        config, data = self.config, self.rollout_buffer.tensors(self.device)
        advantages = data.reward_advantages - data.cost_advantages @ self.signed_multipliers()
        if self._correction is not None:
            advantages = advantages + th.as_tensor(self._correction.ravel(), dtype=th.float32, device=self.device)
        self.advantage_scale.add(float(data.reward_advantages.std(unbiased=False)))
        advantages = (advantages - advantages.mean()) / (self.advantage_scale.mean + 1e-8)
        self.previous_policy, self.previous_multipliers = copy.deepcopy(self.policy), self.multipliers.copy()
        self.dual.learning_rate = config.multiplier_lr * self.step_scale  # type: ignore[union-attr]
        self.update_multipliers()
        self._natural_step(data, advantages)
        fit_critics(self, data, config)
        log_policy(self)

    def _natural_step(self, data: RolloutTensors, advantages: th.Tensor) -> None:
        config = self.config
        geometry = PolicyGeometry(self, data, config.cg_damping)
        gradient = geometry.gradient(advantages)
        direction = conjugate_gradient(geometry.fisher_product(), gradient, config.cg_iterations)
        longest = float(th.sqrt(2.0 * config.target_kl / (gradient @ direction).clamp(min=1e-12)))
        share = line_search(
            geometry,
            min(config.policy_step * self.step_scale, longest) * direction,
            lambda: float(geometry.kl()) <= config.target_kl,
            shrink=config.line_search_shrink,
            trials=config.line_search_trials,
        )
        with th.no_grad():
            self.logger.record("train/approx_kl", float(geometry.kl()))
        self.logger.record("train/step_share", share)

    def get_extra_state(self) -> dict[str, Any]:
        """With the previous multipliers and critics."""
        previous = None
        if self.previous_policy is not None:
            previous = {name: value.cpu().numpy() for name, value in self.previous_policy.state_dict().items()}
        return {
            **super().get_extra_state(),
            "previous_policy": previous,
            "previous_multipliers": self.previous_multipliers.copy(),
            "advantage_scale": [self.advantage_scale.total, self.advantage_scale.count],
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        super().set_extra_state(state)
        self.previous_multipliers = state["previous_multipliers"].copy()
        self.advantage_scale.total, self.advantage_scale.count = state["advantage_scale"]
        self.previous_policy = None
        if state["previous_policy"] is not None:
            self.previous_policy = copy.deepcopy(self.policy)
            self.previous_policy.load_state_dict(
                {name: th.as_tensor(value) for name, value in state["previous_policy"].items()}
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "previous_policy"]
