r"""ReLOAD off-policy: optimistic descent-ascent on maximum a posteriori policy optimisation (MPO).

Iteration k collects steps with the policy pi_k into a replay buffer, and then updates ``target_period`` times with pi_k
fixed as the target policy. Critics of the reward and of every cost learn the values of pi_k from replayed transitions,

    Q_r(s, a)  <- r   + gamma   (1 - terminated) E_{a' ~ pi_k} Qbar_r(s', a')     the smallest of the reward critics
    Q_ci(s, a) <- c_i + gamma_c (1 - terminated) E_{a' ~ pi_k} Qbar_ci(s', a')    one critic each

with Qbar a running average of Q. Both players then step along twice their gradient minus the last one:

    Qt(s, a) = 2 Q^k_{lambda_k}(s, a) - Q^{k-1}_{lambda_{k-1}}(s, a),     Q_lambda = Q_r - sum_i s_i lambda_i Q_ci
    q(a|s)   = pi_k(a|s) exp(Qt(s, a) / T) / normaliser                   over all actions, or over sampled ones
    pi_{k+1} = argmax E_{s ~ buffer} E_{a ~ q} log pi(a|s)                inside KL trust regions around pi_k
    lambda_i <- clip(lambda_i + lr (2 gap_i - gap_i of the last dual update), 0, max)

where Q^{k-1} are the critics and lambda_{k-1} the multipliers as they were when iteration k - 1 ended, both kept and
not evaluated anew, and s_i is -1 for a lower limit. With an exact fit this is mirror descent with step 1 / T,
pi_{k+1} = pi_k exp(Qt / T), the tabular form of the algorithm. T minimises the dual of the KL bound ``epsilon`` but is
never below ``min_temperature``; :mod:`saferl.solvers.mpo` has the equations of both steps.

Paper: Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy (2023), "ReLOAD: Reinforcement learning with optimistic
ascent-descent for last-iterate convergence in constrained MDPs", arXiv 2302.01275. Base: Abdolmaleki et al. (2018),
arXiv 1806.06920 and arXiv 1812.02256.

What it guarantees: with exact values and small steps the last iterate converges (``saferl bench tabular`` shows it).
With sampled ones it settles to a neighbourhood that shrinks with the steps; nothing is guaranteed for one iterate.
Critics that lag behind the policy act as a delay, which optimism does not cure: ``target_period`` and ``tau`` must let
them follow.

Differences from the paper: critics are plain ones instead of distributional, with one-step targets. Those that
bootstrap follow at every update, so that Q^k evaluates pi_k, and the lagged ones of the optimistic term are kept apart
from them. The policy that collects is fixed within an iteration. Q is divided by the deviation over actions of the
*reward* critic, its mean over all updates, and the temperature has a floor in that unit: without one the temperature's
dual makes every step the same size, also at the saddle point, where mixed values are all alike, and the oscillation
comes back. Steps of both players are annealed. The deviation of Gaussian actions does not depend on the observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces

from saferl.config import check_ranges
from saferl.policy.states import load_module_state, load_optimizer_state, module_state, optimizer_state
from saferl.rollout.buffer import TensorObs
from saferl.rollout.replay import ReplayTensors
from saferl.solvers.clipped import log_policy
from saferl.solvers.dual import DualConfig, make_dual
from saferl.solvers.mpo import (
    Candidates,
    StepSizes,
    action_model,
    deviation_over_actions,
    expectation_weights,
    mixed_with_uniform,
    optimistic_values,
    temperature_dual,
)
from saferl.solvers.off_policy import ConstrainedOffPolicyAlgorithm, OffPolicyConfig, descend, frozen_copy


@dataclass(frozen=True)
class ReLOADOffPolicyConfig(OffPolicyConfig, DualConfig):
    """Options of off-policy ReLOAD."""

    dual: Literal["projected"] = "projected"
    """Plain projected steps; ``optimism`` says whether they are optimistic."""
    optimism: Literal["both", "primal", "dual", "none"] = "both"
    """Whose steps are optimistic: both players', the policy's, the multipliers', or nobody's. Only both settle."""
    anneal_steps: bool = True
    """Whether both players' steps fall to a tenth over training, which averages sampling noise out of late iterates."""
    min_temperature: float = 2.0
    """Lowest temperature in deviations of the reward critic over actions, > 0: 1 / the policy's largest step."""
    epsilon: float = 0.1
    """Largest mean KL divergence of the weighted actions from the target policy, which the temperature's dual keeps."""
    epsilon_mean: float = 0.05
    """Largest KL divergence of one iteration in the mean of Gaussian actions, summed over their dimensions."""
    epsilon_std: float = 1e-4
    """Largest KL divergence of one iteration in their deviation."""
    epsilon_probs: float = 0.05
    """Largest KL divergence of one iteration in the probabilities of discrete actions."""
    uniform_share: float = 0.01
    """Share of the uniform distribution in the prior of discrete actions that are all weighed, in [0, 1): what is worth
    nothing at today's multipliers stays within reach of tomorrow's."""
    step_sizes_lr: float = 1e-2
    """Step size of Adam for the logarithms of temperature and KL penalties."""
    num_samples: int = 10
    """Actions drawn per state where they cannot all be weighed (Box, MultiDiscrete)."""
    num_next_samples: int = 2
    """Actions drawn per next state for the critics' targets, likewise."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        OffPolicyConfig.__post_init__(self)
        DualConfig.__post_init__(self)
        check_ranges(
            self,
            positive=(
                *("min_temperature", "epsilon", "epsilon_mean", "epsilon_std", "epsilon_probs", "step_sizes_lr"),
                *("num_samples", "num_next_samples"),
            ),
            unit=("uniform_share",),
        )


class ReLOADOffPolicy(ConstrainedOffPolicyAlgorithm):
    """ReLOAD on Stable-Baselines3's off-policy base, for Box, Discrete and MultiDiscrete actions.

    Example:
        >>> import saferl
        >>> from saferl.solvers import ReLOADOffPolicy
        >>> env = saferl.make("SafetyHalfCheetahVelocity-v1")
        >>> model = ReLOADOffPolicy("MlpPolicy", env, n_steps=16, target_period=2, learning_starts=0, seed=0)
        >>> model.learn(32).multipliers
        array([0.])
    """

    config_class: ClassVar[type[OffPolicyConfig]] = ReLOADOffPolicyConfig
    config: ReLOADOffPolicyConfig

    def _setup_model(self) -> None:
        super()._setup_model()
        config = self.config
        kind = "optimistic" if config.optimism in ("both", "dual") else "projected"
        self.dual = make_dual(replace(config, dual=kind), len(self.constraints))  # type: ignore[arg-type]
        self.policy_target = frozen_copy(self.policy)
        """pi_k: the policy that has collected, from which the next one is made."""
        self.critic_previous = frozen_copy(self.critic)
        """The critics at the end of the previous iteration."""
        self.previous_multipliers: th.Tensor | None = None
        """Signed multipliers of the previous iteration, (K,); None before the second."""
        is_box = isinstance(self.action_space, spaces.Box)
        regions = (
            {"mean": config.epsilon_mean, "std": config.epsilon_std} if is_box else {"probs": config.epsilon_probs}
        )
        self.step_sizes = StepSizes(regions, temperature=config.min_temperature).to(self.device)
        self.step_sizes_optimizer = th.optim.Adam(self.step_sizes.parameters(), lr=config.step_sizes_lr)
        self.value_scale: list[float] = [0.0, 0]
        """Sum and number of the reward critic's deviations over actions, of all updates so far."""

    @property
    def value_unit(self) -> float:
        """What values are divided by before the expectation step."""
        return self.value_scale[0] / max(1, self.value_scale[1]) + 1e-8

    @property
    def step_scale(self) -> float:
        """Share of both players' full steps at this moment of training, in [0.1, 1]."""
        # The last rollout may end after the number of steps that was asked for.
        return 0.1 + 0.9 * max(0.0, self._current_progress_remaining) if self.config.anneal_steps else 1.0

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """One iteration: critics and policy move ``gradient_steps`` times, then the multipliers.

        The players move at the same time: the policy's steps use the multipliers of before the dual's.
        """
        self.begin_update()
        self.policy_target.load_state_dict(self.policy.state_dict())
        sums: th.Tensor = th.zeros(0)
        for _ in range(gradient_steps):
            data = self.sample_batch()
            losses = self._evaluate(data)
            report = th.cat([self._improve(data), losses])
            sums = report if len(sums) == 0 else sums + report
            self._n_updates += 1
        self._record(sums / gradient_steps)
        self.critic_previous.load_state_dict(self.critic.state_dict())
        self.previous_multipliers = self.signed_multipliers()
        self.dual.learning_rate = self.config.multiplier_lr * self.step_scale  # type: ignore[union-attr]
        self.update_multipliers()

    def _evaluate(self, data: ReplayTensors) -> th.Tensor:
        """One step of the critics towards the values of pi_k."""
        with th.no_grad():
            target = action_model(self.policy_target.get_distribution(data.next_obs))
            chosen = target.candidates(self.config.num_next_samples, self.generator)
        return self.fit_critics(data, chosen.actions, None if chosen.log_prior is None else chosen.log_prior.exp())

    def _improve(self, data: ReplayTensors) -> th.Tensor:
        """One expectation and one maximisation step at the batch's states; what is logged of them."""
        with th.no_grad():
            target = action_model(self.policy_target.get_distribution(data.obs))
            chosen = target.candidates(self.config.num_samples, self.generator)
            rewards, costs = self.critic.lowest(data.obs, chosen.actions)
            self.value_scale[0] += float(deviation_over_actions(rewards))
            self.value_scale[1] += 1
            values = self._optimistic_values(data.obs, chosen, rewards, costs) / self.value_unit
            least = self.config.min_temperature / self.step_scale
            self.step_sizes.clamp(least_temperature=least)
            prior = chosen.log_prior
            prior = None if prior is None else mixed_with_uniform(prior, self.config.uniform_share)
            weights = expectation_weights(values, self.step_sizes.temperature, prior)
        policy = action_model(self.policy.get_distribution(data.obs))
        divergences = policy.divergences(target)
        penalty, penalty_dual = self.step_sizes.penalty(divergences)
        policy_loss = -(weights * policy.log_likelihood(target, chosen.actions)).sum(dim=1).mean()
        descend(self, policy_loss + penalty, self.policy.optimizer, self.policy.parameters())
        dual = temperature_dual(values, self.step_sizes.temperature, self.config.epsilon, prior)
        descend(self, dual + penalty_dual, self.step_sizes_optimizer, self.step_sizes.parameters())
        divergence = th.stack(list(divergences.values())).sum()
        return th.stack([policy_loss, divergence, self.step_sizes.temperature]).detach()

    def _optimistic_values(self, obs: TensorObs, chosen: Candidates, rewards: th.Tensor, costs: th.Tensor) -> th.Tensor:
        """Qt, (B, N), where today's critics say ``rewards`` and ``costs``."""
        now = mixed_values(rewards, costs, self.signed_multipliers())
        if self.previous_multipliers is None or self.config.optimism not in ("both", "primal"):
            return now
        rewards, costs = self.critic_previous.lowest(obs, chosen.actions)
        return optimistic_values(now, mixed_values(rewards, costs, self.previous_multipliers))

    def _record(self, means: th.Tensor) -> None:
        policy_loss, kl, temperature, *losses = means.tolist()
        rewards = self.config.num_reward_critics
        for name, value in (
            ("policy_loss", policy_loss),
            ("approx_kl", kl),
            ("temperature", temperature),
            ("value_loss", sum(losses[:rewards]) / rewards),
            ("cost_value_loss", sum(losses[rewards:]) / max(1, len(losses) - rewards)),
        ):
            self.logger.record(f"train/{name}", value)
        log_policy(self)

    def get_extra_state(self) -> dict[str, Any]:
        """With the previous multipliers and critics, and the step sizes."""
        previous = self.previous_multipliers
        return {
            **super().get_extra_state(),
            "critic_previous": module_state(self.critic_previous),
            "previous_multipliers": None if previous is None else previous.cpu().numpy(),
            "step_sizes": module_state(self.step_sizes),
            "step_sizes_optimizer": optimizer_state(self.step_sizes_optimizer),
            "value_scale": list(self.value_scale),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        super().set_extra_state(state)
        load_module_state(self.critic_previous, state["critic_previous"])
        previous = state["previous_multipliers"]
        self.previous_multipliers = None if previous is None else th.tensor(previous, device=self.device)
        load_module_state(self.step_sizes, state["step_sizes"])
        load_optimizer_state(self.step_sizes_optimizer, state["step_sizes_optimizer"])
        self.value_scale = list(state["value_scale"])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "policy_target", "critic_previous", "step_sizes", "step_sizes_optimizer"], variables


def mixed_values(rewards: th.Tensor, costs: th.Tensor, signed_multipliers: th.Tensor) -> th.Tensor:
    """Q_r - sum_i s_i lambda_i Q_ci, (B, N), of reward values (B, N) and cost values (K, B, N)."""
    return rewards - th.einsum("k,kbn->bn", signed_multipliers, costs)
