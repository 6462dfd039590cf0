"""Natural-gradient steps: Fisher-vector products, conjugate gradient, and a line search inside a trust region."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.distributions import kl_divergence
from torch.nn import functional

from saferl.config import check_ranges
from saferl.rollout.buffer import RolloutTensors, TensorObs
from saferl.solvers.clipped import descend, discrete_as_index
from saferl.solvers.on_policy import OnPolicyConfig

Product = Callable[[th.Tensor], th.Tensor]


@dataclass(frozen=True)
class NaturalConfig(OnPolicyConfig):
    """Options of solvers whose policy step is a natural gradient; ``learning_rate`` is the critics'."""

    n_steps: int = 512
    """Steps per environment and rollout."""
    target_kl: float = 0.01
    """Trust region delta: the largest mean KL divergence of one update, > 0."""
    anneal_steps: bool = False
    """Whether policy steps fall to a tenth over training, the trust region to a hundredth: the last iterate settles."""
    cg_iterations: int = 15
    """Iterations of conjugate gradient, >= 1."""
    cg_damping: float = 0.1
    """Added to the diagonal of the Fisher matrix, > 0."""
    line_search_shrink: float = 0.8
    """Factor between trials of the line search, in (0, 1)."""
    line_search_trials: int = 15
    """Trials of the line search, >= 1; if none is accepted the policy stays."""
    n_epochs: int = 10
    """Passes of the critics over each rollout."""
    batch_size: int = 256
    """Samples per minibatch of the critics."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_ranges(
            self,
            positive=(
                *("target_kl", "cg_iterations", "cg_damping", "line_search_trials", "line_search_shrink"),
                *("n_epochs", "batch_size"),
            ),
            unit=("line_search_shrink",),
        )


def step_scale(model: Any, config: NaturalConfig) -> float:
    """Share of the full steps at this moment of training, in [0.1, 1]."""
    # The last rollout may end after the number of steps that was asked for.
    return 0.1 + 0.9 * max(0.0, model._current_progress_remaining) if config.anneal_steps else 1.0


def conjugate_gradient(product: Product, right: th.Tensor, iterations: int, tolerance: float = 1e-10) -> th.Tensor:
    """An approximate solution x of A x = ``right``, (n,), for a positive definite A given by ``product``.

    Hestenes and Stiefel (1952); it ends early when the squared residual falls below ``tolerance``.
    """
    solution = th.zeros_like(right)
    residual = right.clone()
    direction = residual.clone()
    size = residual @ residual
    for _ in range(iterations):
        if size < tolerance:
            break
        image = product(direction)
        step = size / (direction @ image)
        solution += step * direction
        residual -= step * image
        new_size = residual @ residual
        direction = residual + new_size / size * direction
        size = new_size
    return solution


class PolicyGeometry:
    """The policy around its parameters at the start of an update: gradients, Fisher products, trial steps.

    Only the actor's parameters take part: those that the action distribution depends on.
    """

    def __init__(self, model: Any, data: RolloutTensors, damping: float) -> None:
        """Look at the policy of ``model`` on the states of ``data``."""
        self._policy, self._data, self._damping = model.policy, data, damping
        self._actions = discrete_as_index(data.actions, model.action_space)
        log_probs = self._log_probs()
        named = [p for p in self._policy.parameters() if p.requires_grad]
        gradients = th.autograd.grad(log_probs.sum(), named, allow_unused=True)
        self.parameters = [p for p, g in zip(named, gradients, strict=True) if g is not None]
        self.start = th.nn.utils.parameters_to_vector(self.parameters).detach().clone()
        with th.no_grad():
            # A copy: a policy has one distribution object, which the next call fills anew.
            self._old = copy.copy(self._policy.get_distribution(data.obs))
            self._old_log_probs = self._log_probs()

    def _log_probs(self) -> th.Tensor:
        log_probs: th.Tensor = self._policy.get_distribution(self._data.obs).log_prob(self._actions)
        return log_probs

    def surrogate(self, advantages: th.Tensor) -> th.Tensor:
        """E[pi(a|s) / pi_old(a|s) A] at the current parameters, for (B,) a number, for (B, K) one per column."""
        ratio = (self._log_probs() - self._old_log_probs).exp()
        return ratio @ advantages / len(ratio)

    def gradient(self, advantages: th.Tensor) -> th.Tensor:
        """Ascent direction of the surrogate of advantages (B,), (n,)."""
        return self._flat(th.autograd.grad(self.surrogate(advantages), self.parameters))

    def kl(self) -> th.Tensor:
        """Mean KL(old || current) over the states."""
        divergence = kl_divergence(self._old, self._policy.get_distribution(self._data.obs))
        if divergence.ndim > 1:  # independent parts of an action add up
            divergence = divergence.sum(dim=-1)
        return divergence.mean()

    def fisher_product(self) -> Product:
        """(H + damping I) x for the Hessian H of the KL divergence at the start."""
        slope = self._flat(th.autograd.grad(self.kl(), self.parameters, create_graph=True))

        def product(vector: th.Tensor) -> th.Tensor:
            curvature = th.autograd.grad(slope @ vector, self.parameters, retain_graph=True)
            return self._flat(curvature) + self._damping * vector

        return product

    def move(self, step: th.Tensor) -> None:
        """Put the parameters at the start plus ``step`` (n,)."""
        with th.no_grad():
            th.nn.utils.vector_to_parameters(self.start + step, self.parameters)

    @staticmethod
    def _flat(gradients: Any) -> th.Tensor:
        return th.cat([g.reshape(-1) for g in gradients])


def line_search(
    geometry: PolicyGeometry, step: th.Tensor, is_accepted: Callable[[], bool], *, shrink: float, trials: int
) -> float:
    """Shrink ``step`` until ``is_accepted`` at the trial parameters; the share taken, 0 if the policy stays."""
    share = 1.0
    for _ in range(trials):
        geometry.move(share * step)
        with th.no_grad():
            if is_accepted():
                return share
        share *= shrink
    geometry.move(th.zeros_like(step))
    return 0.0


def fit_critics(model: Any, data: RolloutTensors, config: NaturalConfig) -> None:
    """Minibatch passes of the squared errors of all critics to their returns."""
    losses: list[th.Tensor] = []
    for _ in range(config.n_epochs):
        order = th.randperm(len(data), generator=model.generator).to(model.device)
        for index in th.split(order, config.batch_size):
            values, cost_values = model.policy.predict_all_values(_at(data.obs, index))
            value_loss = functional.mse_loss(values, data.reward_returns[index])
            cost_value_loss = functional.mse_loss(cost_values, data.cost_returns[index])
            descend(model, config.vf_coef * value_loss + config.cost_vf_coef * cost_value_loss, config.max_grad_norm)
            losses.append(th.stack([value_loss.detach(), cost_value_loss.detach()]))
        model._n_updates += 1
    means = th.stack(losses).mean(dim=0).tolist()
    for name, value in zip(("value_loss", "cost_value_loss"), means, strict=True):
        model.logger.record(f"train/{name}", value)


def _at(obs: TensorObs, index: th.Tensor) -> TensorObs:
    return {key: value[index] for key, value in obs.items()} if isinstance(obs, dict) else obs[index]
