"""What every constrained off-policy solver shares: replay with costs, critics of every cost, the dual's estimate.

A solver subclasses :class:`ConstrainedOffPolicyAlgorithm`, names its config, and writes one visible ``train`` step,
which calls :meth:`~ConstrainedOffPolicyAlgorithm.fit_critics` and moves the policy and the multipliers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.utils import obs_as_tensor, polyak_update
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from saferl.config import check_ranges, from_mapping
from saferl.constraints import ConstraintSet
from saferl.errors import TrainingError
from saferl.policy.actor import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from saferl.policy.critic import ConstrainedCritic
from saferl.policy.states import load_module_state, load_optimizer_state, module_state, optimizer_state
from saferl.rollout.estimator import CostEstimator
from saferl.rollout.replay import ConstrainedReplayBuffer, ReplayTensors
from saferl.solvers.budgets import KeepsBudgets
from saferl.solvers.dual import DualConfig, make_dual
from saferl.solvers.on_policy import record_costs, to_cost_vec_env


@dataclass(frozen=True)
class OffPolicyConfig:
    """Options of collection, replay and critics that every off-policy solver has."""

    n_steps: int = 32
    """Steps per environment and iteration, all with the same policy."""
    target_period: int = 64
    """Updates per iteration; when they are done, target policy, lagged critics and multipliers move."""
    batch_size: int = 256
    """Transitions per update."""
    buffer_size: int = 300_000
    """Transitions that are kept, over all environments."""
    learning_starts: int = 1_000
    """Steps before the first update."""
    learning_rate: float = 1e-3
    """Step size of Adam for the policy."""
    critic_learning_rate: float = 1e-3
    """Step size of Adam for the critics."""
    gamma: float = 0.99
    """Discount factor of rewards, in [0, 1]."""
    cost_gamma: float = 0.99
    """Discount factor of costs in the critics, in [0, 1]; the dual's estimate follows each constraint."""
    tau: float = 0.01
    """Share of the critics that the bootstrapping ones take over at every update, in [0, 1]."""
    num_reward_critics: int = 2
    """Reward critics, of which the smallest value counts; costs have one critic each and no such bias."""
    max_grad_norm: float = 10.0
    """Largest norm of a gradient, over all parameters."""
    dual_min_episodes: int = 8
    """Episodes that must have ended since the last dual update before the next one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=(
                *("n_steps", "target_period", "batch_size", "buffer_size", "learning_rate", "critic_learning_rate"),
                *("tau", "num_reward_critics", "max_grad_norm", "dual_min_episodes"),
            ),
            non_negative=("learning_starts",),
            unit=("gamma", "cost_gamma", "tau"),
        )


def td_targets(
    signals: th.Tensor, next_values: th.Tensor, terminated: th.Tensor, weights: th.Tensor | None, discount: float
) -> th.Tensor:
    """One-step targets u + discount (1 - terminated) E_a' Q(s', a'), of the shape of ``signals``.

    Args:
        signals: Rewards or costs u, (..., B).
        next_values: Q(s', a') of the true next states, (..., B, N).
        terminated: 1 where the next state has no value, (B,); a time limit leaves it 0.
        weights: Probabilities of the N actions, (B, N); None if they were drawn from the policy.
        discount: Discount factor.
    """
    expected = next_values.mean(dim=-1) if weights is None else (weights * next_values).sum(dim=-1)
    return signals + discount * (1.0 - terminated) * expected


class ConstrainedOffPolicyAlgorithm(KeepsBudgets, OffPolicyAlgorithm):
    """Stable-Baselines3's off-policy algorithm with vector costs.

    An iteration collects ``n_steps`` steps per environment with one policy and then updates ``target_period`` times.
    Time limits bootstrap from the true final observation, for the reward and for every cost; terminations do not.
    Observations and rewards are stored raw and normalised by today's statistics when they are drawn. Environments:
    ``saferl.make``, ``saferl.make_vec``, or a VecEnvWrapper around :class:`~saferl.rollout.CostVecEnv`.
    """

    config_class: ClassVar[type[OffPolicyConfig]] = OffPolicyConfig
    supported_kinds: ClassVar[tuple[str, ...]] = ("episode_sum", "discounted", "step_rate")
    trained_for: ClassVar[str] = "expected costs"
    """What training lowers or limits, for records and reports."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorPolicy,
        "CnnPolicy": ActorCnnPolicy,
        "MultiInputPolicy": MultiInputActorPolicy,
    }
    policy: ActorPolicy
    replay_buffer: ConstrainedReplayBuffer  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: Any,
        *,
        config: OffPolicyConfig | None = None,
        budgets: Mapping[str, float] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: th.device | str = "auto",
        tensorboard_log: str | None = None,
        stats_window_size: int = 100,
        verbose: int = 0,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        """Set up training.

        Args:
            policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a policy class.
            env: An id for ``saferl.make``, an env, a vector env or a VecEnv with costs.
            config: All options; the class's defaults if None.
            budgets: Budgets to train at where they differ from the env's (to leave a margin, say).
            policy_kwargs: Arguments of the policy; its ``net_arch`` is also that of the critics.
            seed: Seed of torch, numpy, the environments and the draws from the replay buffer.
            device: torch device.
            tensorboard_log: Folder for TensorBoard, or None.
            stats_window_size: Episodes that logged means run over.
            verbose: Stable-Baselines3's verbosity.
            _init_setup_model: Whether to build the networks now.
            **options: Single options of ``config`` by name.

        Raises:
            UnknownNameError: an unknown option, or a budget for a constraint that the env does not have.
            ConstraintError: a constraint of a kind that this solver does not support, or a budget in other units.
        """
        base = asdict(config) if config is not None else {}
        self.config = from_mapping(self.config_class, {**base, **options})
        self.budgets = dict(budgets or {})
        super().__init__(
            policy,
            None if env is None else to_cost_vec_env(env),  # type: ignore[arg-type]
            learning_rate=self.config.learning_rate,
            buffer_size=self.config.buffer_size,
            learning_starts=self.config.learning_starts,
            batch_size=self.config.batch_size,
            tau=self.config.tau,
            gamma=self.config.gamma,
            train_freq=self.config.n_steps,
            gradient_steps=self.config.target_period,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete),
        )
        if self.env is not None:
            constraints: ConstraintSet = self.env.constraints  # type: ignore[attr-defined]
            self.constraints = constraints.with_budgets(self.budgets)
            self.constraints.require_kinds(self.supported_kinds, by=type(self).__name__)
            self.is_fixed_horizon = bool(self.env.is_fixed_horizon)  # type: ignore[attr-defined]
            self.horizon = self.env.horizon  # type: ignore[attr-defined]
            self.constraints.require_units(self.horizon, by=type(self).__name__)
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return OffPolicyAlgorithm._wrap_env(to_cost_vec_env(env), verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._convert_train_freq()
        self.set_random_seed(self.seed)
        self.generator = th.Generator(device="cpu")
        if self.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.seed)
        num_constraints = len(self.constraints)
        self.replay_buffer = ConstrainedReplayBuffer(
            self.buffer_size, self.n_envs, self.observation_space, self.action_space, num_constraints
        )
        self.cost_estimator = CostEstimator(
            self.constraints,
            self.n_envs,
            min_episodes=self.config.dual_min_episodes,
            is_fixed_horizon=self.is_fixed_horizon,
            horizon=self.horizon,
        )
        self.dual = make_dual(self.config, num_constraints) if isinstance(self.config, DualConfig) else None
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        self.critic = ConstrainedCritic(
            self.observation_space,
            self.action_space,
            num_constraints=num_constraints,
            num_reward_critics=self.config.num_reward_critics,
            net_arch=self.policy.net_arch["pi"],  # type: ignore[call-overload]
            features_extractor_class=self.policy.features_extractor_class,
            normalize_images=self.policy.normalize_images,
        ).to(self.device)
        self.critic_target = frozen_copy(self.critic)
        """The critics that bootstrap, a running average of ``critic``."""
        self.critic_optimizer = th.optim.Adam(self.critic.parameters(), lr=self.config.critic_learning_rate)

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VecEnv,
        callback: BaseCallback,
        *,
        replay_buffer: ConstrainedReplayBuffer,
        log_interval: int | None = None,
        **_: Any,
    ) -> RolloutReturn:
        """Add one iteration's steps to the buffer; ``log_interval`` counts iterations."""
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        box = self.action_space if isinstance(self.action_space, spaces.Box) else None
        layer = self._vec_normalize_env
        for _step in range(self.config.n_steps):
            obs = self._last_obs if layer is None else layer.get_original_obs()
            with th.no_grad():
                actions = self.policy.sample(obs_as_tensor(self._last_obs, self.device)).cpu().numpy()  # type: ignore[arg-type]
            executed = np.clip(actions, box.low, box.high) if box is not None else actions
            new_obs, rewards, dones, infos = env.step(executed)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(0, 0, continue_training=False)
            self._update_info_buffer(infos, dones)
            costs, terminated = env.costs, env.terminated  # type: ignore[attr-defined]
            self.cost_estimator.add(costs, dones)
            raw_rewards = rewards if layer is None else layer.get_original_reward()
            # Behind a shield something else may have been executed than was proposed.
            stored = getattr(env, "stored_actions", executed)
            replay_buffer.add(obs, self._true_next_obs(new_obs, dones, infos), stored, raw_rewards, costs, terminated)
            self._last_obs = new_obs  # type: ignore[assignment]
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.update_locals(locals())
        callback.on_rollout_end()
        iteration = self.num_timesteps // (self.config.n_steps * env.num_envs)
        if log_interval is not None and iteration % log_interval == 0:
            self.dump_logs()
        return RolloutReturn(self.config.n_steps * env.num_envs, 0, continue_training=True)

    def _true_next_obs(self, new_obs: Any, dones: Any, infos: list[dict[str, Any]]) -> Any:
        """Raw next observations: the last one of an episode where one ended."""
        layer = self._vec_normalize_env
        raw = copy.deepcopy(new_obs) if layer is None else layer.get_original_obs()
        for row in np.flatnonzero(dones):
            final = infos[row]["terminal_observation"]
            final = final if layer is None else layer.unnormalize_obs(final)
            if isinstance(raw, dict):
                for key, value in raw.items():
                    value[row] = final[key]
            else:
                raw[row] = final
        return raw

    def sample_batch(self) -> ReplayTensors:
        """``batch_size`` transitions, normalised as of today."""
        return self.replay_buffer.sample(
            self.batch_size, self.generator, normaliser=self._vec_normalize_env, device=self.device
        )

    def begin_update(self) -> None:
        """Prepare the policy for training."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)

    def fit_critics(self, data: ReplayTensors, next_actions: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        """One step of the critics towards the value of the policy whose actions are given; their losses, (R + K,).

        Args:
            data: Transitions.
            next_actions: Actions at the next observations, (B or 1, N, action_dim).
            weights: Their probabilities, (B, N), or None if they were drawn from the policy.
        """
        with th.no_grad():
            next_rewards, next_costs = self.critic_target.lowest(data.next_obs, next_actions)
            targets = td_targets(data.rewards, next_rewards, data.terminated, weights, self.gamma)
            cost_targets = td_targets(data.costs.T, next_costs, data.terminated, weights, self.config.cost_gamma)
        rewards, costs = self.critic(data.obs, data.actions.unsqueeze(1))
        errors = th.cat([rewards.squeeze(2) - targets, costs.squeeze(2) - cost_targets])
        losses = (errors**2).mean(dim=1)
        descend(self, 0.5 * losses.sum(), self.critic_optimizer, self.critic.parameters())
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        return losses.detach()

    def dump_logs(self) -> None:
        """Write one row of the log."""
        record_costs(self)
        if self.ep_info_buffer:
            for column, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                self.logger.record(f"rollout/{column}", float(np.mean([info[key] for info in self.ep_info_buffer])))
        elapsed = max(1e-9, (time.time_ns() - self.start_time) / 1e9)
        steps = self.num_timesteps - self._num_timesteps_at_start
        iterations = self.num_timesteps // (self.config.n_steps * self.n_envs)
        self.logger.record("time/iterations", iterations, exclude="tensorboard")
        self.logger.record("time/fps", int(steps / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs beyond Stable-Baselines3's own; a solver adds what only it has."""
        return {
            "generator": self.generator.get_state().numpy(),
            "cost_estimator": self.cost_estimator.get_state(),
            "replay_buffer": self.replay_buffer.get_state(),
            "critic": module_state(self.critic),
            "critic_target": module_state(self.critic_target),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "dual": self.dual.get_state() if self.dual is not None else None,
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        self.generator.set_state(th.tensor(state["generator"]))
        self.cost_estimator.set_state(state["cost_estimator"])
        self.replay_buffer.set_state(state["replay_buffer"])
        load_module_state(self.critic, state["critic"])
        load_module_state(self.critic_target, state["critic_target"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        if self.dual is not None:
            self.dual.set_state(state["dual"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "cost_estimator", "generator"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "critic", "critic_target", "critic_optimizer"], []


def frozen_copy(module: Any) -> Any:
    """A copy of ``module`` without gradients."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


def descend(model: Any, loss: th.Tensor, optimizer: th.optim.Optimizer, parameters: Any) -> None:
    """One step of ``optimizer`` along the clipped gradient of ``loss``.

    Raises:
        TrainingError: the gradient is not finite.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = th.nn.utils.clip_grad_norm_(parameters, model.config.max_grad_norm)
    if not th.isfinite(norm):
        raise TrainingError(
            f"{type(model).__name__}: the gradient is not finite at step {model.num_timesteps}. Lower learning_rate "
            "and critic_learning_rate, or check the env's observations and rewards with saferl.testing.check_env."
        )
    optimizer.step()
