"""What every constrained on-policy solver shares: collection with costs, advantages, the dual's estimate.

A solver subclasses :class:`ConstrainedOnPolicyAlgorithm`, names its config, and writes one visible ``train`` step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from saferl.config import check_ranges, from_mapping
from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.core import make
from saferl.envs.vector import CostVectorEnv
from saferl.errors import EnvContractError
from saferl.policy.networks import (
    ConstrainedActorCriticCnnPolicy,
    ConstrainedActorCriticPolicy,
    ConstrainedMultiInputActorCriticPolicy,
)
from saferl.rollout.buffer import ConstrainedRolloutBuffer
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.rollout.estimator import CostEstimator
from saferl.solvers.budgets import KeepsBudgets
from saferl.solvers.dual import DualConfig, make_dual


@dataclass(frozen=True)
class OnPolicyConfig:
    """Options of collection, advantages and critics that every on-policy solver has."""

    learning_rate: float = 1e-3
    """Step size of Adam for actor and critics."""
    anneal_learning_rate: bool = False
    """Whether the step size falls linearly to zero over training, which settles the last iterate."""
    n_steps: int = 256
    """Steps per environment and rollout."""
    gamma: float = 0.99
    """Discount factor of rewards, in [0, 1]."""
    gae_lambda: float = 0.95
    """Trace factor of the reward advantages, in [0, 1]."""
    cost_gamma: float = 0.99
    """Discount factor of costs in critics and advantages, in [0, 1]; the dual's estimate follows each constraint."""
    cost_gae_lambda: float = 0.95
    """Trace factor of the cost advantages, in [0, 1]."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the reward critic's loss."""
    cost_vf_coef: float = 0.5
    """Weight of the cost critic's loss."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient, over all parameters."""
    dual_min_episodes: int = 8
    """Episodes that must have ended since the last dual update before the next one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self,
            positive=("learning_rate", "n_steps", "max_grad_norm", "dual_min_episodes"),
            non_negative=("ent_coef", "vf_coef", "cost_vf_coef"),
            unit=("gamma", "gae_lambda", "cost_gamma", "cost_gae_lambda"),
        )


CutEpisode = tuple[int, int, Any]
"""Step, environment and final observation of an episode that a time limit cut."""
_CHUNK = 4096
"""Samples that the critics are asked about at once, which bounds the memory that images take."""


class ConstrainedOnPolicyAlgorithm(KeepsBudgets, OnPolicyAlgorithm):
    """Stable-Baselines3's on-policy algorithm with vector costs.

    Adds a cost critic with a head per constraint, bootstrapping through truncation for reward and every cost (at a
    time limit the true final observation is valued, at a termination nothing is), and the estimate that a dual update
    consumes. Environments: ``saferl.make``, ``saferl.make_vec``, or a VecEnvWrapper around
    :class:`~saferl.rollout.CostVecEnv` (VecNormalize, VecFrameStack, ...).
    """

    config_class: ClassVar[type[OnPolicyConfig]] = OnPolicyConfig
    supported_kinds: ClassVar[tuple[str, ...]] = ("episode_sum", "discounted", "step_rate")
    trained_for: ClassVar[str] = "expected costs"
    """What training lowers or limits, for records and reports."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ConstrainedActorCriticPolicy,
        "CnnPolicy": ConstrainedActorCriticCnnPolicy,
        "MultiInputPolicy": ConstrainedMultiInputActorCriticPolicy,
    }
    policy: ConstrainedActorCriticPolicy
    rollout_buffer: ConstrainedRolloutBuffer  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[ConstrainedActorCriticPolicy],
        env: Any,
        *,
        config: OnPolicyConfig | None = None,
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
            policy_kwargs: Arguments of the policy.
            seed: Seed of torch, numpy, the environments and the minibatch order.
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
        rate = self.config.learning_rate
        super().__init__(
            policy,
            # Stable-Baselines3 would ask Gymnasium for an id.
            None if env is None else to_cost_vec_env(env),  # type: ignore[arg-type]
            learning_rate=LinearSchedule(rate, 0.0, 1.0) if self.config.anneal_learning_rate else rate,
            n_steps=self.config.n_steps,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            ent_coef=self.config.ent_coef,
            vf_coef=self.config.vf_coef,
            max_grad_norm=self.config.max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            stats_window_size=stats_window_size,
            verbose=verbose,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            _init_setup_model=False,
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
        return OnPolicyAlgorithm._wrap_env(to_cost_vec_env(env), verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = th.Generator(device="cpu")
        if self.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.seed)
        num_constraints = len(self.constraints)
        self.rollout_buffer = ConstrainedRolloutBuffer(
            self.n_steps, self.n_envs, self.observation_space, self.action_space, num_constraints
        )
        self.cost_estimator = self._new_cost_estimator(self.constraints)
        self.dual = make_dual(self.config, num_constraints) if isinstance(self.config, DualConfig) else None
        self.policy_kwargs = {**self.policy_kwargs, "num_constraints": num_constraints}
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        self.policy = self.policy.to(self.device)

    def _new_cost_estimator(self, constraints: ConstraintSet) -> CostEstimator:
        return CostEstimator(
            constraints,
            self.n_envs,
            min_episodes=self.config.dual_min_episodes,
            is_fixed_horizon=self.is_fixed_horizon,
            horizon=self.horizon,
        )

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: ConstrainedRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with one rollout; False if a callback asks to stop.

        While it collects, only the actor is asked. The policy does not change meanwhile, so the critics and the
        log-probabilities are computed afterwards, for all samples at once.
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        box = self.action_space if isinstance(self.action_space, spaces.Box) else None
        cut: list[CutEpisode] = []
        with th.no_grad():
            for step in range(n_rollout_steps):
                obs = self._last_obs
                actions = self.policy.sample(obs_as_tensor(obs, self.device)).cpu().numpy()  # type: ignore[arg-type]
                executed = np.clip(actions, box.low, box.high) if box is not None else actions
                new_obs, rewards, dones, infos = env.step(executed)
                self.num_timesteps += env.num_envs
                callback.update_locals(locals())
                if not callback.on_step():
                    return False
                self._update_info_buffer(infos, dones)
                costs = env.costs  # type: ignore[attr-defined]
                terminated = env.terminated  # type: ignore[attr-defined]
                truncated = dones & ~terminated
                self.cost_estimator.add(costs, dones)
                learned, ends = self.learning_rewards(rewards, costs), self.learning_terminations(terminated)
                rollout_buffer.add(obs, actions, learned, costs, ends, truncated)
                cut += [(step, int(row), infos[row]["terminal_observation"]) for row in np.flatnonzero(truncated)]
                self._last_obs = new_obs  # type: ignore[assignment]
            self._value(rollout_buffer, cut)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def learning_rewards(self, rewards: Any, costs: Any) -> Any:
        """The rewards (num_envs,) that are learned from; a solver may shape the environment's by the costs."""
        return rewards

    def learning_terminations(self, terminated: Any) -> Any:
        """Probabilities (num_envs,) that the step just taken ended the task; a solver may add soft terminations."""
        return terminated

    def _value(self, buffer: ConstrainedRolloutBuffer, cut: list[CutEpisode]) -> None:
        """Ask the critics about the rollout, and compute its advantages."""
        obs, actions = buffer.samples(self.device)
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        parts: list[list[Any]] = []
        for index in th.split(th.arange(len(actions), device=self.device), _CHUNK):
            some = {key: value[index] for key, value in obs.items()} if isinstance(obs, dict) else obs[index]
            log_probs, _, values, cost_values = self.policy.assess(some, actions[index])
            parts.append([x.cpu().numpy() for x in (log_probs, values, cost_values)])
        buffer.assess(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if cut:
            steps, rows, finals = zip(*cut, strict=True)
            buffer.bootstrap(np.array(steps), np.array(rows), *self._values(list(finals)))
        last = self.policy.predict_all_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        buffer.finish(
            last[0].cpu().numpy(),
            last[1].cpu().numpy(),
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            cost_gamma=self.config.cost_gamma,
            cost_gae_lambda=self.config.cost_gae_lambda,
        )

    def _values(self, observations: list[Any], critic: Any = None) -> tuple[Any, Any]:
        """Reward and cost values of final observations, as wrappers (VecNormalize, ...) left them."""
        if isinstance(self.observation_space, spaces.Dict):
            stacked: Any = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        else:
            stacked = np.stack(observations)
        values, cost_values = (critic or self.policy).predict_all_values(obs_as_tensor(stacked, self.device))
        return values.cpu().numpy(), cost_values.cpu().numpy()

    def transition_values(
        self, critic: ConstrainedActorCriticPolicy, buffer: ConstrainedRolloutBuffer, cut: list[CutEpisode]
    ) -> tuple[Any, Any, Any, Any]:
        """What the critics of another policy say of both ends of every transition in ``buffer``.

        Returns:
            V_r(s) (T, N), V_c(s) (T, N, K), and V_r(s'), V_c(s') of the true next states, also where episodes were cut.
        """
        obs, _ = buffer.samples(self.device)
        count = buffer.num_steps * buffer.num_envs
        parts: list[tuple[Any, Any]] = []
        for index in th.split(th.arange(count, device=self.device), _CHUNK):
            some = {key: value[index] for key, value in obs.items()} if isinstance(obs, dict) else obs[index]
            parts.append(critic.predict_all_values(some))
        parts.append(critic.predict_all_values(obs_as_tensor(self._last_obs, self.device)))  # type: ignore[arg-type]
        values, cost_values = (
            np.concatenate([part[i].cpu().numpy() for part in parts]).reshape(
                buffer.num_steps + 1, buffer.num_envs, *shape
            )
            for i, shape in ((0, ()), (1, (buffer.num_constraints,)))
        )
        next_values, next_cost_values = values[1:].copy(), cost_values[1:].copy()
        if cut:
            steps, rows, finals = zip(*cut, strict=True)
            where = np.array(steps), np.array(rows)
            next_values[where], next_cost_values[where] = self._values(list(finals), critic)
        return values[:-1], cost_values[:-1], next_values, next_cost_values

    def begin_update(self) -> None:
        """Prepare the policy for training, at this moment's learning rate."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log, with mean episode costs of the last 100 episodes beside Stable-Baselines3's own columns."""
        record_costs(self)
        super().dump_logs(iteration and self.num_timesteps // (self.n_steps * self.n_envs))

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs beyond Stable-Baselines3's own; a solver adds what only it has."""
        state = {"generator": self.generator.get_state().numpy(), "cost_estimator": self.cost_estimator.get_state()}
        return state if self.dual is None else {**state, "dual": self.dual.get_state()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_extra_state`."""
        self.generator.set_state(th.tensor(state["generator"]))
        self.cost_estimator.set_state(state["cost_estimator"])
        if self.dual is not None:
            self.dual.set_state(state["dual"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "cost_estimator", "generator"]


def to_cost_vec_env(env: Any) -> VecEnv:
    """Bring an id or env of ``saferl.make``, a ``saferl.make_vec``, or a VecEnv around one, to a VecEnv with costs.

    Raises:
        EnvContractError: an env or VecEnv without costs and constraints.
        UnknownNameError: an id that :func:`saferl.make` does not know.
    """
    if isinstance(env, str):
        env = make(env)
    if isinstance(env, gymnasium.Env):
        if not isinstance(env, CostContract):
            raise EnvContractError(
                f"A solver needs an env with costs and constraints; got {env}. Make it with "
                "saferl.make(..., budgets={'cost': 25.0}), with cost=function if it reports none."
            )
        contract = env
        env = CostVectorEnv([lambda: contract])
    if isinstance(env, CostVectorEnv):
        env = CostVecEnv(env)
    if not isinstance(env, VecEnv) or not hasattr(env, "costs") or not hasattr(env, "constraints"):
        raise EnvContractError(
            f"A solver needs a VecEnv that carries costs; got {type(env).__name__}. "
            "Build it as CostVecEnv(saferl.make_vec(...)), then wrap that."
        )
    return env


def record_costs(algorithm: Any) -> None:
    """Log ``rollout/ep_cost/<name>``: mean undiscounted episode costs of the last 100 finished episodes."""
    recent = algorithm.env.recent_costs
    if len(recent) > 0:
        for name, value in zip(algorithm.constraints.names, np.mean(recent, axis=0), strict=True):
            algorithm.logger.record(f"rollout/ep_cost/{name}", float(value))
