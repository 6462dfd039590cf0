"""CaT for Stable-Baselines3's PPO and A2C: a VecEnv with float ends, and the callback that goes with it.

::

    env = CaTVecEnv(VecNormalize(CostVecEnv(saferl.make_vec("SafetyHopperVelocity-v1", 8))), classes={"cost": "hard"})
    PPO("MlpPolicy", env).learn(1_000_000, callback=CaTCallback())

PPO and A2C read ``dones`` as numbers, so 1 - (1 - delta)(1 - end) reaches their returns as it is. It must be the
outermost wrapper, outside VecNormalize, which needs booleans. Other algorithms are refused: off-policy ones take every
soft termination for the end of an episode, recurrent ones forget part of their memory at it.

One difference to the solver ``cat``: at a time limit these algorithms add the value of the final observation to the
reward themselves, so that there it is not multiplied by 1 - delta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper

from saferl.config import from_mapping
from saferl.errors import ConfigError
from saferl.solvers.on_policy import ConstrainedOnPolicyAlgorithm, to_cost_vec_env
from saferl.solvers.soft_terminations import SoftTerminationConfig, SoftTerminations, reward_scaling


class CaTVecEnv(VecEnvWrapper):
    """A VecEnv whose violations are soft terminations: ``dones`` are floats, rewards are multiplied by 1 - delta.

    Example:
        >>> import saferl
        >>> from stable_baselines3 import PPO
        >>> env = CaTVecEnv(saferl.make_vec("SafetySwimmerVelocity-v1", 2), negative_rewards="positive_part_only")
        >>> PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(16, callback=CaTCallback()).num_timesteps
        16
    """

    def __init__(
        self,
        venv: Any,
        *,
        config: SoftTerminationConfig | None = None,
        is_training: bool = True,
        **options: Any,
    ) -> None:
        """Wrap ``venv``.

        Args:
            venv: An env of :func:`saferl.make` or :func:`saferl.make_vec`, or a VecEnv around one.
            config: All options; the defaults if None.
            is_training: False passes rewards and ends as they are, for an ``EvalCallback``, which asks for an
                environment that is wrapped like the one that trains.
            **options: Single options of ``config`` by name.

        Raises:
            EnvContractError: ``venv`` has no costs and constraints.
            UnknownNameError: an unknown option, or an option that names a constraint that there is not.
            ConstraintError: a lower limit.
        """
        inner = to_cost_vec_env(venv)
        super().__init__(inner)
        base: Mapping[str, Any] = asdict(config) if config is not None else {}
        self.config = from_mapping(SoftTerminationConfig, {**base, **options})
        self.soft = SoftTerminations(self.config, inner.constraints)  # type: ignore[attr-defined]
        self.is_training = is_training
        self.is_driven = False
        """Whether a :class:`CaTCallback` has seen the algorithm that trains here."""
        self.progress = 0.0
        """Share of the training that is done, in [0, 1]; the callback sets it."""

    def reset(self) -> Any:
        """Reset all environments."""
        return self.venv.reset()

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Step, and turn violations into soft terminations.

        Raises:
            ConfigError: no callback has seen which algorithm trains here.
            TrainingError: a negative reward, if the options do not say what to do.
        """
        obs, rewards, dones, infos = self.venv.step_wait()
        if not self.is_training:
            return obs, rewards, dones, infos
        if not self.is_driven:
            raise ConfigError(
                "A CaTVecEnv must know which algorithm trains on it: most cannot use its float dones. Pass "
                "callback=CaTCallback() to learn(), or give is_training=False where it only evaluates."
            )
        inner: Any = self.venv
        self.soft.step(inner.costs, inner.margins, progress=self.progress)
        scale, limit = reward_scaling(inner)
        learned = self.soft.rewards(rewards, scale=scale, limit=limit)
        if self.config.timeout == "terminal":
            for row in np.flatnonzero(inner.truncated):
                infos[row]["TimeLimit.truncated"] = False
        # A copy: the algorithms add the value of a cut episode's last state to it in place.
        return obs, np.array(learned, dtype=np.float32), self.soft.ends(dones), infos


class CaTCallback(BaseCallback):
    """Checks that the model can learn from its :class:`CaTVecEnv`, moves the curriculum, and logs.

    Logged columns: ``cat/violation_rate/NAME``, ``cat/c_max/NAME``, ``cat/p_max/NAME``, ``cat/mean_delta``,
    ``cat/negative_reward_share``.
    """

    cat: CaTVecEnv
    """The environment whose curriculum it moves."""

    def _init_callback(self) -> None:
        self.cat = cat_env_of(self.model)
        self.cat.is_driven = True

    def _on_rollout_start(self) -> None:
        self.cat.progress = min(1.0, self.model.num_timesteps / self.model._total_timesteps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        for key, value in self.cat.soft.take_log().items():
            self.logger.record(key, value)


def cat_env_of(model: Any) -> CaTVecEnv:
    """The :class:`CaTVecEnv` that ``model`` trains on, checked to be one that it can learn from.

    Raises:
        ConfigError: the algorithm cannot use float dones, another wrapper is outside, or there is no CaTVecEnv.
    """
    if not isinstance(model, PPO | A2C):
        raise ConfigError(
            f"CaTVecEnv is for Stable-Baselines3's PPO and A2C, whose returns take dones as numbers; got "
            f"{type(model).__name__}, {_why_not(model)}. Take PPO, or the solver 'cat' (saferl.solvers.CaT)."
        )
    env, outer = model.get_env(), []
    while isinstance(env, VecEnvWrapper) and not isinstance(env, CaTVecEnv):
        outer.append(env)
        env = env.venv
    if not isinstance(env, CaTVecEnv):
        raise ConfigError(f"CaTCallback needs a model on a CaTVecEnv; got one on {type(model.get_env()).__name__}.")
    # Stable-Baselines3 puts VecTransposeImage outside by itself; it changes observations alone.
    wrong: list[VecEnv] = [layer for layer in outer if not isinstance(layer, VecTransposeImage)]
    if wrong:
        name = type(wrong[0]).__name__
        raise ConfigError(
            f"CaTVecEnv must be the outermost wrapper, because its dones are floats; got {name} around it. "
            f"Build it as CaTVecEnv({name}(...))."
        )
    if not env.is_training:
        raise ConfigError("The CaTVecEnv of a model that learns must have is_training=True; got False.")
    return env


def _why_not(model: Any) -> str:
    if isinstance(model, OffPolicyAlgorithm):
        return "which is off-policy: it would count every soft termination as the end of an episode"
    if isinstance(model, ConstrainedOnPolicyAlgorithm):
        return "which is a solver of saferl and reads costs and ends from the environment itself"
    if hasattr(getattr(model, "policy", None), "lstm_actor"):
        return "which is recurrent: it would forget part of its memory at every soft termination"
    return "which is not known to"
