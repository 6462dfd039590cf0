r"""Any Stable-Baselines3 algorithm, constrained: the penalty is part of the reward that the algorithm sees.

    rhat = (r - sum_i s_i lambda_i c_i) / (1 + sum_i lambda_i)             s_i = -1 for a lower limit, else 1
    lambda_i <- clip(lambda_i + lr s_i (Jhat_ci - d_i), 0, max)            once enough episodes have ended

Two lines turn a run of Stable-Baselines3 or sb3-contrib into a constrained one::

    env = LagrangianVecEnv(saferl.make_vec("SafetyHopperVelocity-v1", 4))
    PPO("MlpPolicy", env).learn(100_000, callback=LagrangianCallback())

Paper: Tessler, Mankowitz, Mannor (2019), "Reward constrained policy optimization", ICLR. The division, which
:class:`LagrangianVecEnv` explains, is that of Stooke, Achiam and Abbeel (2020), arXiv 2007.03964, for advantages.

Order of wrappers: VecNormalize goes outside. Then multipliers are in units of the environment's reward per unit of
cost, and one price means the same throughout a run. Inside, it would divide the reward, but no cost, by a scale that
moves; and off-policy algorithms, which store what goes *into* VecNormalize, would store rewards without any penalty.

What it guarantees: what RCPO does, a feasible fixed point if critic, policy and multiplier move at time scales apart,
and nothing for a single iterate. One critic values reward and costs together and lags every move of the multiplier; the
solvers of saferl have a critic for each.

Differences from the paper: the policy is any algorithm's; the dual's estimate comes from whole episodes; the division.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.her import HerReplayBuffer

from saferl.config import check_ranges, from_mapping
from saferl.errors import ConfigError, EnvContractError, RunFolderError
from saferl.rollout.estimator import CostEstimator
from saferl.solvers.budgets import KeepsBudgets
from saferl.solvers.dual import Dual, DualConfig, constraint_gaps, make_dual
from saferl.solvers.on_policy import to_cost_vec_env
from saferl.storage import read_json, write_text

FloatArray = npt.NDArray[np.float64]
Rewards = npt.NDArray[np.float32]
SCHEMA = 1
"""Version of the file of :meth:`LagrangianVecEnv.save_multipliers`."""
_EPISODES_ALONE = 100
"""Episodes that may end without a callback before it is called to mind."""


@dataclass(frozen=True)
class LagrangianConfig(DualConfig):
    """Options of :class:`LagrangianVecEnv`."""

    dual_min_episodes: int = 8
    """Episodes that must have ended since the last dual update before the next one."""
    rescale: bool = True
    """Whether the penalised reward is divided by 1 + the sum of the multipliers."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        super().__post_init__()
        check_ranges(self, positive=("dual_min_episodes",))


def penalised_rewards(rewards: Any, costs: FloatArray, weights: FloatArray, scale: float = 1.0) -> Rewards:
    """(r - sum_i w_i c_i) / scale in float32, of the shape of ``rewards``.

    Args:
        rewards: r, any shape.
        costs: c, that shape and a last axis of constraints.
        weights: w_i = s_i lambda_i, (num_constraints,).
        scale: What it is divided by.
    """
    penalised: Rewards = ((rewards - costs @ weights) / scale).astype(np.float32)
    return penalised


class LagrangianVecEnv(VecEnvWrapper):
    """A VecEnv whose rewards are penalised by what its costs currently cost.

    Rewards are divided by 1 + the sum of the multipliers, so they are a weighted mean of reward and negative costs:
    critics and step sizes that suit the task without constraints keep suiting it however large a multiplier becomes.
    ``rescale=False`` leaves the division out, which at a fixed multiplier has the same optimal policy; a fixed entropy
    bonus weighs more with the division. What is logged stays the environment's own: ``infos[i]["episode"]["r"]`` is the
    return without penalty. :class:`LagrangianCallback` moves the multipliers.

    Example:
        >>> import saferl
        >>> env = LagrangianVecEnv(saferl.make_vec("saferl.testing.probes:bandit_probe", 2), multiplier_init=3.0)
        >>> _ = env.reset()
        >>> env.step(np.array([0, 1]))[1]  # reward = cost = action
        array([ 0. , -0.5], dtype=float32)
    """

    def __init__(
        self,
        venv: Any,
        *,
        config: DualConfig | None = None,
        budgets: Mapping[str, float] | None = None,
        is_training: bool = True,
        **options: Any,
    ) -> None:
        """Wrap ``venv``.

        Args:
            venv: An env of :func:`saferl.make` or :func:`saferl.make_vec`, or a VecEnv around one.
            config: All options of :class:`LagrangianConfig`; its defaults if None.
            budgets: Budgets to train at where they differ from the env's (to leave a margin, say).
            is_training: False passes rewards as they are, for an ``EvalCallback``, which asks for an environment
                that is wrapped like the one that trains.
            **options: Single options of ``config`` by name.

        Raises:
            EnvContractError: ``venv`` has no costs and constraints.
            ConfigError: VecNormalize or a LagrangianVecEnv is inside.
            ConstraintError: a constraint of a kind that the dual update does not support, or a budget in other units.
            UnknownNameError: an unknown option, or a budget for a constraint that the env does not have.
        """
        inner = to_cost_vec_env(venv)
        _check_inside(inner)
        super().__init__(inner)
        self.config = from_mapping(LagrangianConfig, {**(asdict(config) if config is not None else {}), **options})
        self.targets = inner.constraints.with_budgets(dict(budgets or {}))  # type: ignore[attr-defined]
        """The constraints at the budgets that are trained for."""
        self.targets.require_units(inner.horizon, by="LagrangianVecEnv")  # type: ignore[attr-defined]
        self.is_training = is_training
        self.estimator = CostEstimator(
            self.targets,
            self.num_envs,
            min_episodes=self.config.dual_min_episodes,
            is_fixed_horizon=bool(inner.is_fixed_horizon),  # type: ignore[attr-defined]
            horizon=inner.horizon,  # type: ignore[attr-defined]
        )
        self.dual: Dual = make_dual(self.config, len(self.targets))
        self.true_rewards: Rewards = np.zeros(self.num_envs, dtype=np.float32)
        """The environment's own rewards of the last step, (num_envs,)."""
        self.learned_rewards = self.true_rewards
        """The rewards that the last step gave, (num_envs,)."""
        self.is_driven = False
        """Whether a :class:`LagrangianCallback` has ever been in charge."""
        self._episodes_alone = 0
        self._dones: npt.NDArray[np.bool_] | None = None

    @property
    def multipliers(self) -> FloatArray:
        """Current multipliers, (num_constraints,), in units of reward per cost."""
        return self.dual.values

    def penalise(self, rewards: Any, costs: FloatArray) -> Rewards:
        """``rewards`` (any shape) less what ``costs`` (a last axis more) cost at the current multipliers."""
        scale = 1.0 + float(self.multipliers.sum()) if self.config.rescale else 1.0
        return penalised_rewards(rewards, costs, self.multipliers * self.targets.signs, scale)

    def reset(self) -> Any:
        """Reset all environments; their open episodes are left out of the estimates."""
        self.estimator.drop_open_episodes()
        self._dones = None
        return self.venv.reset()

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Step, and penalise the rewards."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.true_rewards = rewards.copy()
        if not self.is_training:
            return obs, rewards, dones, infos
        self._dones = dones
        if not self.is_driven:
            self._call_to_mind(int(dones.sum()))
        self.learned_rewards = self.penalise(rewards, self.venv.costs)  # type: ignore[attr-defined]
        # A copy: on-policy algorithms add the value of a cut episode's last state to it in place.
        return obs, self.learned_rewards.copy(), dones, infos

    def observe(self) -> None:
        """Count the last step's costs towards the next dual update; a second call for one step does nothing."""
        if self._dones is not None:
            self.estimator.add(self.venv.costs, self._dones)  # type: ignore[attr-defined]
            self._dones = None

    def update_multipliers(self) -> FloatArray | None:
        """Take the dual's step if enough episodes have ended; the estimate it was taken with, (num_constraints,)."""
        estimate = self.estimator.estimate()
        if estimate is not None:
            self.dual.update(constraint_gaps(estimate, self.targets))
        return estimate

    def save_multipliers(self, path: str | Path) -> None:
        """Write multipliers and everything their later updates depend on as JSON, beside the model's own file.

        Episodes that count towards the next update are not part of it; it waits for new ones.
        """
        data = {"schema": SCHEMA, "config": asdict(self.config), "constraints": self.targets.to_list()}
        text = json.dumps({**data, "dual": self.dual.get_state()}, indent=2, allow_nan=False, default=np.ndarray.tolist)
        write_text(Path(path), text + "\n")

    def load_multipliers(self, path: str | Path) -> None:
        """Go on from :meth:`save_multipliers`, with this environment's own options and budgets.

        Raises:
            RunFolderError: the file is missing, damaged or of a newer version.
            ConfigError: it is about other constraints, or another ``dual``.
        """
        data = read_json(Path(path), what="The file of the multipliers")
        try:
            schema, names = data["schema"], [constraint["name"] for constraint in data["constraints"]]
            kind, state = data["config"]["dual"], {key: _arrays(value) for key, value in data["dual"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, error) from error
        if schema != SCHEMA:
            raise RunFolderError(
                f"The file of the multipliers must have schema {SCHEMA}; got {schema!r} in {path}. Use the saferl that "
                "wrote it."
            )
        if (tuple(names), kind) != (self.targets.names, self.config.dual):
            raise ConfigError(
                f"The multipliers of {path} are for the constraints {', '.join(names)} and dual={kind!r}; this "
                f"environment has {', '.join(self.targets.names)} and dual={self.config.dual!r}. Give it the same."
            )
        dual = make_dual(self.config, len(names))
        try:
            dual.set_state(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, error) from error
        if dual.values.shape != (len(names),) or not np.all(np.isfinite(dual.values)):
            raise _damaged(path, f"multipliers {dual.values}")
        self.dual = dual

    def _call_to_mind(self, ended: int) -> None:
        before, self._episodes_alone = self._episodes_alone, self._episodes_alone + ended
        if before < _EPISODES_ALONE <= self._episodes_alone:
            warnings.warn(
                f"{_EPISODES_ALONE} episodes have ended in a LagrangianVecEnv whose multipliers nothing moves: what is "
                "trained here is not constrained. Pass callback=LagrangianCallback() to learn(), or build the "
                "environment with is_training=False where it only evaluates.",
                stacklevel=4,
            )


class LagrangianCallback(BaseCallback):
    """Moves the multipliers of the model's :class:`LagrangianVecEnv`, and logs them.

    Costs are counted at every step, and the dual moves at the end of a rollout once ``dual_min_episodes`` episodes have
    ended, so the rewards of one rollout have one price. Steps before an off-policy algorithm's ``learning_starts`` are
    random and not counted, nor is the first estimate after them, since it begins in the middle of episodes.

    Logged columns: ``multiplier/NAME`` (as used in the rollout), ``dual/estimate/NAME``, ``rollout/ep_cost/NAME``.

    Example:
        >>> import saferl
        >>> from stable_baselines3 import A2C
        >>> env = LagrangianVecEnv(saferl.make_vec("saferl.testing.probes:bandit_probe", 4), multiplier_lr=0.1)
        >>> model = A2C("MlpPolicy", env, seed=0, device="cpu").learn(40, callback=LagrangianCallback())
        >>> bool(env.multipliers[0] > 0)
        True
    """

    lagrangian: LagrangianVecEnv
    """The environment whose multipliers it moves."""
    _began_midway = False

    def _init_callback(self) -> None:
        self.lagrangian = lagrangian_of(self.training_env)
        if not isinstance(self.model, OnPolicyAlgorithm | OffPolicyAlgorithm):
            raise ConfigError(
                f"LagrangianCallback is for algorithms that learn from the reward of every step; "
                f"{type(self.model).__name__} learns from returns, which hold no penalty. Take another algorithm."
            )
        if isinstance(self.model, KeepsBudgets):
            raise ConfigError(
                f"LagrangianCallback is for algorithms without costs; {type(self.model).__name__} has multipliers of "
                "its own, if it needs any. Train it on the environment without LagrangianVecEnv and callback."
            )
        if not self.lagrangian.is_training:
            raise ConfigError(
                "The LagrangianVecEnv of a model that learns must have is_training=True; got False. "
                "Only environments that evaluate have it False."
            )
        buffer = getattr(self.model, "replay_buffer", None)
        if isinstance(buffer, HerReplayBuffer):
            raise ConfigError(
                "HerReplayBuffer computes rewards anew, without costs, so half of what is learned from would not be "
                "penalised. Use another replay buffer."
            )
        if isinstance(buffer, LagrangianReplayBuffer):
            buffer.connect(self.lagrangian)
        self.lagrangian.is_driven = True

    def _on_step(self) -> bool:
        if self.num_timesteps - self.lagrangian.num_envs < getattr(self.model, "learning_starts", 0):
            self._began_midway = True
        else:
            self.lagrangian.observe()
        return True

    def _on_rollout_end(self) -> None:
        env = self.lagrangian
        if self._began_midway:
            self._began_midway = env.estimator.estimate() is None
        self._record("multiplier", env.multipliers)
        estimate = env.update_multipliers()
        if estimate is not None:
            self._record("dual/estimate", estimate)
        recent = env.venv.recent_costs  # type: ignore[attr-defined]
        if len(recent) > 0:
            self._record("rollout/ep_cost", np.mean(recent, axis=0))

    def _record(self, section: str, values: FloatArray) -> None:
        for name, value in zip(self.lagrangian.targets.names, values, strict=True):
            self.logger.record(f"{section}/{name}", float(value))


class LagrangianReplayBuffer(ReplayBuffer):
    """A replay buffer whose rewards are always penalised at the current multipliers.

    A stock buffer keeps the price that a reward was collected under, and the critic learns from a mixture of old and
    new prices. This one also stores true rewards and costs, and computes the rewards anew when multipliers have moved.
    It is used as ``SAC("MlpPolicy", env, replay_buffer_class=LagrangianReplayBuffer)``; :class:`LagrangianCallback`
    connects it. Between :class:`LagrangianVecEnv` and the algorithm no wrapper but VecNormalize may change the rewards.
    """

    true_rewards: Rewards
    """The environment's own rewards, (buffer_size, num_envs)."""
    costs: FloatArray
    """Their costs, (buffer_size, num_envs, num_constraints)."""
    _env: LagrangianVecEnv | None = None
    _priced_at: FloatArray | None = None

    def connect(self, env: LagrangianVecEnv) -> None:
        """Take multipliers, true rewards and costs from ``env`` from now on."""
        shape = (self.buffer_size, self.n_envs, len(env.targets))
        if not hasattr(self, "costs"):
            self.true_rewards, self.costs = np.zeros(shape[:2], dtype=np.float32), np.zeros(shape)
        if self.costs.shape != shape:
            raise ConfigError(
                f"The replay buffer holds {self.costs.shape[2]} costs of {self.costs.shape[1]} environments per step; "
                f"the model's has {shape[2]} and {shape[1]}. Take the buffer of a run on the same environment."
            )
        self._env = env

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Store a transition of every environment.

        Raises:
            ConfigError: the buffer is not connected.
            EnvContractError: ``reward`` is not what the LagrangianVecEnv gave.
        """
        if self._env is None:
            raise ConfigError(
                "LagrangianReplayBuffer must be connected to the model's LagrangianVecEnv before it is filled. "
                "Pass callback=LagrangianCallback() to learn()."
            )
        if not np.array_equal(reward, self._env.learned_rewards):
            raise EnvContractError(
                f"LagrangianReplayBuffer stores the rewards of LagrangianVecEnv, {self._env.learned_rewards}; got "
                f"{reward}. Put the wrapper that changes them inside LagrangianVecEnv."
            )
        self.true_rewards[self.pos] = self._env.true_rewards
        self.costs[self.pos] = self._env.costs
        if not self._is_priced(self._env):
            self._priced_at = None
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw transitions with rewards at the current multipliers."""
        if self._env is not None and not self._is_priced(self._env):
            end = self.size()
            self.rewards[:end] = self._env.penalise(self.true_rewards[:end], self.costs[:end])
            self._priced_at = self._env.multipliers.copy()
        return super().sample(batch_size, env)

    def _is_priced(self, env: LagrangianVecEnv) -> bool:
        return self._priced_at is not None and np.array_equal(self._priced_at, env.multipliers)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the environment out of the file of ``save_replay_buffer``."""
        return {**self.__dict__, "_env": None, "_priced_at": None}


class LagrangianDictReplayBuffer(LagrangianReplayBuffer, DictReplayBuffer):
    """:class:`LagrangianReplayBuffer` for Dict observations."""


def lagrangian_of(env: VecEnv) -> LagrangianVecEnv:
    """The LagrangianVecEnv around or inside ``env``.

    Raises:
        ConfigError: there is none, or VecMonitor is around it.
    """
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, LagrangianVecEnv):
            return layer
        if isinstance(layer, VecMonitor):
            raise ConfigError(
                "VecMonitor around LagrangianVecEnv would log penalised returns. Leave it out: episodes are monitored "
                "already."
            )
        layer = layer.venv
    raise ConfigError(
        f"LagrangianCallback needs a model whose environment contains a LagrangianVecEnv; got {type(env).__name__} "
        "without one. Build it as LagrangianVecEnv(saferl.make_vec(...)), other wrappers around that."
    )


def _check_inside(venv: VecEnv) -> None:
    """Raise if a wrapper that belongs outside is inside."""
    layer = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            raise ConfigError(
                "VecNormalize must be outside LagrangianVecEnv, so that multipliers are prices in units of the "
                "environment's reward; got it inside. Build VecNormalize(LagrangianVecEnv(saferl.make_vec(...)))."
            )
        if isinstance(layer, LagrangianVecEnv):
            raise ConfigError(
                "An environment must have one LagrangianVecEnv, which has a multiplier for every constraint; got one "
                "around another. Leave one out."
            )
        layer = layer.venv


def _arrays(value: Any) -> Any:
    """Lists of numbers as arrays, in a state that was read from JSON."""
    if not isinstance(value, list):
        return value
    return [_arrays(part) for part in value] if value and isinstance(value[0], list) else np.array(value, np.float64)


def _damaged(path: str | Path, reason: object) -> RunFolderError:
    return RunFolderError(f"The file of the multipliers is damaged: {path} ({reason}). Save it again.")
