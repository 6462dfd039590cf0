"""Unconstrained PPO: the baseline that shows what a constraint changes.

The algorithm is Stable-Baselines3's (Schulman et al. 2017, arXiv 1707.06347), unchanged. This file gives it saferl's
options and writes the costs that it ignores into the log, so that runs compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from saferl.config import check_ranges, from_mapping
from saferl.constraints import KINDS
from saferl.solvers.on_policy import record_costs, to_cost_vec_env


@dataclass(frozen=True)
class UnconstrainedPPOConfig:
    """Options of Stable-Baselines3's PPO."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    anneal_learning_rate: bool = False
    """Whether the step size falls linearly to zero over training."""
    n_steps: int = 256
    """Steps per environment and rollout."""
    batch_size: int = 512
    """Samples per minibatch."""
    n_epochs: int = 5
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount factor of rewards, in [0, 1]."""
    gae_lambda: float = 0.95
    """Trace factor of the advantages, in [0, 1]."""
    clip_range: float = 0.2
    """Clipping radius of the probability ratio, > 0."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient."""
    target_kl: float | None = None
    """The passes end when a minibatch's approximate KL exceeds 1.5 times this; None: never."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=("learning_rate", "n_steps", "batch_size", "n_epochs", "clip_range", "max_grad_norm", "target_kl"),
            non_negative=("ent_coef", "vf_coef"),
            unit=("gamma", "gae_lambda"),
        )


class UnconstrainedPPO(PPO):
    """Stable-Baselines3's PPO on environments with costs, which it ignores."""

    config_class: ClassVar[type[UnconstrainedPPOConfig]] = UnconstrainedPPOConfig
    supported_kinds: ClassVar[tuple[str, ...]] = KINDS
    trained_for: ClassVar[str] = "return alone"

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        config: UnconstrainedPPOConfig | None = None,
        budgets: Mapping[str, float] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: th.device | str = "auto",
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        """Set up training; ``budgets`` is accepted for the log's sake and changes nothing."""
        base = asdict(config) if config is not None else {}
        self.config = from_mapping(self.config_class, {**base, **options})
        stock = asdict(self.config)
        if stock.pop("anneal_learning_rate"):
            stock["learning_rate"] = LinearSchedule(stock["learning_rate"], 0.0, 1.0)
        super().__init__(
            policy,
            # Stable-Baselines3 would ask Gymnasium for an id.
            None if env is None else to_cost_vec_env(env),  # type: ignore[arg-type]
            **stock,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            _init_setup_model=_init_setup_model,
        )
        if self.env is not None:
            self.constraints = self.env.constraints.with_budgets(dict(budgets or {}))  # type: ignore[attr-defined]

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return PPO._wrap_env(to_cost_vec_env(env), verbose, monitor_wrapper)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log, with mean episode costs of the last 100 episodes."""
        record_costs(self)
        super().dump_logs(iteration and self.num_timesteps // (self.n_steps * self.n_envs))
