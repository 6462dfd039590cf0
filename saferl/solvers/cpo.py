r"""CPO: each update maximises the reward surrogate inside a trust region and the linearised budgets.

    x* = argmax g.x   subject to   c_i + b_i.x <= 0,   x' H x / 2 <= delta                (saferl.solvers.trust_region)

with g and b_i the gradients of E[rho A_r] and E[rho A_ci], and c_i how far the budget is broken, per step like A_ci:

    (1 - gamma_i) (Jhat_ci - d_i)      for a discounted budget,
    (Jhat_ci - d_i) / episode length   for a budget per episode,      Jhat_ci - d_i   for a rate per step.

If no step in the trust region meets the linearised budgets, the update lowers the costs alone. A backtracking line
search then accepts a step when the KL divergence is at most delta, the reward surrogate has not become worse (while all
budgets are met: the way back may cost reward), and no cost surrogate has risen by more than max(-c_i, 0).

Paper: Achiam, Held, Tamar, Abbeel (2017), "Constrained policy optimization", arXiv 1705.10528.

What it guarantees: with exact advantages, a bound on the worst violation of an update (proposition 2 of the paper).
With estimates, none. It has no multiplier that could overshoot, and no integral that would remove a bias of the
estimates: the costs settle where the estimates say the budget is, not exactly at it.

Differences from the paper: several constraints, through their joint dual; the units of c_i are made those of b_i for
every kind of budget; a constraint without gradient is left out of the problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.solvers.clipped import log_policy, standardised
from saferl.solvers.dual import constraint_gaps
from saferl.solvers.natural import (
    NaturalConfig,
    PolicyGeometry,
    conjugate_gradient,
    fit_critics,
    line_search,
    step_scale,
)
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, OnPolicyConfig
from saferl.solvers.trust_region import TrustRegionStep, trust_region_step

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CPOConfig(NaturalConfig):
    """Options of CPO."""


class CPO(ConstrainedOnPolicyAlgorithm):
    """CPO on Stable-Baselines3.

    Example:
        >>> import saferl
        >>> from saferl.solvers import CPO
        >>> model = CPO("MlpPolicy", saferl.make("SafetyHalfCheetahVelocity-v1"), n_steps=16, seed=0)
        >>> model.learn(32).num_timesteps
        32
    """

    config_class: ClassVar[type[OnPolicyConfig]] = CPOConfig
    config: CPOConfig

    def _setup_model(self) -> None:
        super()._setup_model()
        # Until the first episodes have ended nothing is known of the costs, and no budget counts as broken.
        self.gaps: FloatArray = np.full(len(self.constraints), -np.inf)

    def get_extra_state(self) -> dict[str, Any]:
        """With the last gaps."""
        return {**super().get_extra_state(), "gaps": self.gaps.copy()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        super().set_extra_state(state)
        self.gaps = state["gaps"].copy()

    def train(self) -> None:
        """One iteration on the rollout in the buffer: gaps, constrained trust-region step, critics."""
        self.begin_update()
        estimate = self.update_multipliers()
        if estimate is not None:
            gaps = constraint_gaps(estimate, self.constraints)
            self.gaps = gaps * per_step_factors(self.constraints, self.cost_estimator.mean_length)
        config, data = self.config, self.rollout_buffer.tensors(self.device)
        signs = th.as_tensor(self.constraints.signs, dtype=th.float32, device=self.device)
        rewards = standardised(data.reward_advantages)
        # Centred, not divided: the gaps are in their units.
        costs = (data.cost_advantages - data.cost_advantages.mean(dim=0)) * signs
        geometry = PolicyGeometry(self, data, config.cg_damping)
        trust_region = config.target_kl * step_scale(self, config) ** 2
        plan, step = self._plan(geometry, rewards, costs, trust_region)
        is_violated = bool((self.gaps > 0.0).any())
        before = geometry.surrogate(rewards).detach(), geometry.surrogate(costs).detach()
        room = th.as_tensor(np.maximum(-self.gaps, 0.0), dtype=th.float32, device=self.device)

        def is_accepted() -> bool:
            gain = geometry.surrogate(rewards) - before[0]
            rise = geometry.surrogate(costs) - before[1]
            is_good_enough = is_violated or float(gain) >= 0.0
            return is_good_enough and float(geometry.kl()) <= trust_region and bool((rise <= room).all())

        share = line_search(
            geometry, step, is_accepted, shrink=config.line_search_shrink, trials=config.line_search_trials
        )
        with th.no_grad():
            self.logger.record("train/approx_kl", float(geometry.kl()))
        self.logger.record("train/step_share", share)
        self.logger.record("train/is_recovery", float(plan.case == "recovery"))
        fit_critics(self, data, config)
        log_policy(self)

    def _plan(
        self, geometry: PolicyGeometry, rewards: th.Tensor, costs: th.Tensor, trust_region: float
    ) -> tuple[TrustRegionStep, th.Tensor]:
        product = geometry.fisher_product()
        gradients = [geometry.gradient(rewards), *(geometry.gradient(column) for column in costs.T)]
        solved = [conjugate_gradient(product, gradient, self.config.cg_iterations) for gradient in gradients]
        right, left = th.stack(gradients), th.stack(solved)
        products = (right @ left.T).double().cpu().numpy()
        products = (products + products.T) / 2.0  # conjugate gradient is not exact
        known = np.isfinite(self.gaps)
        weights = np.zeros(len(self.gaps))
        inner = trust_region_step(
            float(products[0, 0]),
            products[0, 1:][known],
            products[1:, 1:][np.ix_(known, known)],
            self.gaps[known],
            trust_region,
        )
        weights[known] = inner.cost_weights
        mixed = th.as_tensor([inner.reward_weight, *weights], dtype=th.float32, device=self.device)
        return inner, mixed @ left


def per_step_factors(constraints: Any, mean_length: float) -> FloatArray:
    """What turns gaps of each constraint's kind into gaps per step, (K,); ``mean_length`` in steps per episode."""
    factors = {"step_rate": 1.0, "episode_sum": 1.0 / mean_length}
    return np.array([1.0 - c.gamma if c.kind == "discounted" else factors[c.kind] for c in constraints])
