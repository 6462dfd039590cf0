r"""Violations as soft terminations: what CaT learns from instead of rewards and ends (arXiv 2403.18765).

With the signed margins m_i of a step (> 0: constraint i is violated), their running maxima c_i^max and the largest
termination probabilities p_i^max,

    p_i   = min_p + clip(m_i / c_i^max, 0, 1) (p_i^max - min_p)   where m_i > 0, else 0
    delta = max_i p_i
    reward <- (1 - delta) reward,      end <- 1 - (1 - delta) (1 - end)

so that a critic's fixed point is V(s) = E[(1 - delta) (r + gamma V(s'))]. The environment goes on: nothing is reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from saferl.config import check_ranges
from saferl.constraints import ConstraintSet
from saferl.errors import ConfigError, ConstraintError, TrainingError, UnknownNameError

Array = npt.NDArray[np.float64]
FLOOR = 1e-6
"""The least that a maximum can be, in the margin's unit."""


@dataclass(frozen=True)
class SoftTerminationConfig:
    """Options of soft terminations."""

    classes: dict[str, str | float] = field(default_factory=dict)
    """Class of a constraint by name: ``"soft"`` (the curriculum; the default), ``"hard"`` (p_max = 1 from the start),
    or a number in (0, 1], a style constraint with that p_max throughout."""
    p_start: float = 0.05
    """p_max of soft constraints at the start of the curriculum, in (0, 1]."""
    p_final: float = 0.25
    """p_max of soft constraints at its end, in (0, 1]."""
    curriculum_share: float = 0.5
    """Share of the training after which p_final is reached, in [0, 1]; the lifetime 1 / p_max moves linearly."""
    min_p: float = 0.0
    """Termination probability of the smallest violation, in [0, 1], at most p_start and p_final."""
    c_max: dict[str, float] = field(default_factory=dict)
    """Violations that count as full, by name, in the margin's unit: fixed values instead of running maxima."""
    c_max_tau: float = 0.95
    """Share of the old value in the running maxima, per step of all environments, in [0, 1)."""
    c_max_window: int = 256
    """Steps of all environments whose largest margin counts as the batch's; 1 is the paper's, with its 4,096
    environments."""
    c_max_freeze: float = 1.0
    """Share of the training after which the running maxima stay as they are, in [0, 1]; 1: never."""
    negative_rewards: Literal["refuse", "shift", "positive_part_only"] = "refuse"
    """What becomes of a negative reward, for which a violation would pay: ``refuse`` ends the training; ``shift`` adds
    reward_offset to every reward; ``positive_part_only`` scales rewards >= 0 by 1 - delta and leaves the others as they
    are."""
    reward_offset: float = 0.0
    """What ``shift`` adds to every reward, in the environment's own unit; what is still negative is not scaled."""
    timeout: Literal["bootstrap", "terminal"] = "bootstrap"
    """What follows a time limit: the value of the true final observation, or nothing, as in the paper's code."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        check_ranges(
            self,
            positive=("p_start", "p_final", "c_max_window"),
            non_negative=("reward_offset",),
            unit=("p_start", "p_final", "curriculum_share", "min_p", "c_max_tau", "c_max_freeze"),
        )
        name = type(self).__name__
        if self.c_max_tau == 1.0:
            raise ConfigError(f"{name}.c_max_tau must be less than 1; got 1. Fix the maxima with c_max instead.")
        if self.min_p > min(self.p_start, self.p_final):
            raise ConfigError(
                f"{name}.min_p must be at most p_start and p_final; got {self.min_p:g} against {self.p_start:g} and "
                f"{self.p_final:g}."
            )
        for constraint, value in self.classes.items():
            if value not in ("soft", "hard") and not (_is_number(value) and 0.0 < value <= 1.0):  # type: ignore[operator]
                raise ConfigError(
                    f"{name}.classes[{constraint!r}] must be 'soft', 'hard' or a number in (0, 1]; got {value!r}."
                )
        for constraint, value in self.c_max.items():
            if not (_is_number(value) and FLOOR <= value < np.inf):
                raise ConfigError(
                    f"{name}.c_max[{constraint!r}] must be a finite number of at least {FLOOR:g}; got {value!r}."
                )
        if (self.negative_rewards == "shift") != (self.reward_offset > 0.0):
            raise ConfigError(
                f"{name}: reward_offset must be greater than 0 with negative_rewards='shift' and 0 without; got "
                f"{self.reward_offset:g} with {self.negative_rewards!r}."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def violation_probabilities(margins: Array, c_max: Array, p_max: Array, min_p: float = 0.0) -> Array:
    """Termination probability of every constraint, same shape as ``margins`` (..., K); 0 where it is not violated.

    Args:
        margins: Signed margins, > 0 where violated, (..., K).
        c_max: Margins that count as full violations, > 0, (K,).
        p_max: Probabilities of full violations, (K,).
        min_p: Probability of the smallest violation.
    """
    probabilities: Array = min_p + np.clip(margins / c_max, 0.0, 1.0) * (p_max - min_p)
    probabilities[margins <= 0.0] = 0.0
    return probabilities


def curriculum(progress: float, start: float, final: float) -> float:
    """p_max at ``progress`` in [0, 1]: the expected lifetime 1 / p_max moves linearly from 1 / start to 1 / final."""
    return 1.0 / (1.0 / start + progress * (1.0 / final - 1.0 / start))


class RunningMaxima:
    """The running maximum c_max of every constraint's margin, ``values`` (K,).

    It follows the largest raw margin of the last ``window`` steps of all environments, also where that is negative (the
    floor then), by c_max <- tau c_max + (1 - tau) max. Once nobody violates it falls towards the floor, and the next
    violation, however small, has the full probability.
    """

    def __init__(self, fixed: Array, *, tau: float, window: int) -> None:
        """Start without a maximum; ``fixed`` (K,) are maxima that never move, NaN for those that run."""
        self._fixed, self._tau = fixed, tau
        self._recent = np.full((window, len(fixed)), -np.inf)
        self._steps = 0
        self.values: Array = np.where(np.isnan(fixed), FLOOR, fixed)

    def update(self, margins: Array) -> None:
        """Take one step of all environments, (num_envs, K)."""
        self._recent[self._steps % len(self._recent)] = margins.max(axis=0)
        largest = np.maximum(self._recent.max(axis=0), FLOOR)
        moved = largest if self._steps == 0 else self._tau * self.values + (1.0 - self._tau) * largest
        self.values = np.where(np.isnan(self._fixed), moved, self._fixed)
        self._steps += 1

    def get_state(self) -> dict[str, Any]:
        """Everything that later values depend on."""
        return {"recent": self._recent.copy(), "steps": self._steps, "values": self.values.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._recent[:], self._steps, self.values = state["recent"], int(state["steps"]), state["values"].copy()


class SoftTerminations:
    """Steps of constrained environments as CaT learns from them; one object per training.

    Example:
        >>> from saferl.constraints import Constraint
        >>> config = SoftTerminationConfig(classes={"torque": "hard"}, c_max={"torque": 2.0})
        >>> soft = SoftTerminations(config, ConstraintSet([Constraint("torque", 0.0, kind="statewise")]))
        >>> soft.step(np.zeros((3, 1)), np.array([[-1.0], [0.5], [9.0]]), progress=0.0)
        array([0.  , 0.25, 1.  ])
        >>> soft.rewards(np.ones(3)), soft.ends(np.array([False, False, False]))
        (array([1.  , 0.75, 0.  ]), array([0.  , 0.25, 1.  ]))
    """

    def __init__(self, config: SoftTerminationConfig, constraints: ConstraintSet) -> None:
        """Start with running maxima that know nothing.

        Raises:
            UnknownNameError: ``classes`` or ``c_max`` names a constraint that there is not.
            ConstraintError: a lower limit.
        """
        for name in (*config.classes, *config.c_max):
            if name not in constraints.names:
                raise UnknownNameError("constraint in classes or c_max", name, constraints.names)
        for constraint in constraints:
            if constraint.sense == ">=":
                raise ConstraintError(
                    f"CaT needs a violation that shows in a step; {constraint.name!r} is a lower limit "
                    f"({constraint.describe()}), which no single step breaks. Give a cost that is > 0 where too little "
                    "is there."
                )
        self.config, self._names = config, constraints.names
        self._own_p_max = np.array([_fixed_p_max(config.classes.get(name, "soft")) for name in self._names])
        # A limit on the cost of every step is itself a margin; one of 0 is broken where the environment says so.
        self._limits = np.array([c.budget if c.kind == "statewise" and c.budget > 0 else np.nan for c in constraints])
        self._has_limits = not np.isnan(self._limits).all()
        fixed = np.array([float(config.c_max.get(name, np.nan)) for name in self._names])
        self.maxima = RunningMaxima(fixed, tau=config.c_max_tau, window=config.c_max_window)
        self.delta: Array = np.zeros(0)
        """Termination probabilities of the step just taken, (num_envs,)."""
        self._p_max = np.zeros(0)
        self._clear_log()

    def step(self, costs: Array, margins: Array, *, progress: float) -> Array:
        """Termination probabilities delta of one step of all environments, (num_envs,).

        Args:
            costs: (num_envs, K).
            margins: (num_envs, K), of :attr:`saferl.rollout.CostVecEnv.margins`.
            progress: Share of the training that is done, in [0, 1].
        """
        config = self.config
        if self._has_limits:
            margins = np.where(np.isnan(self._limits), margins, costs - self._limits)
        if progress < config.c_max_freeze or config.c_max_freeze == 1.0:
            self.maxima.update(margins)
        reached = min(progress / config.curriculum_share, 1.0) if config.curriculum_share else 1.0
        soft = curriculum(reached, config.p_start, config.p_final)
        self._p_max = np.where(np.isnan(self._own_p_max), soft, self._own_p_max)
        probabilities = violation_probabilities(margins, self.maxima.values, self._p_max, config.min_p)
        self.delta = probabilities.max(axis=1, initial=0.0)
        self._steps += len(margins)
        self._violations += (margins > 0.0).sum(axis=0)
        self._delta_sum += float(self.delta.sum())
        return self.delta

    def rewards(self, rewards: Any, *, scale: float = 1.0, limit: float = np.inf) -> Any:
        """What is learned from instead of ``rewards`` (num_envs,), after :meth:`step`.

        Args:
            rewards: Of the step, possibly scaled.
            scale: What the environment's own rewards were multiplied by.
            limit: The largest size to which they were clipped then.

        Raises:
            TrainingError: a reward is negative and the options do not say what to do.
        """
        if self.config.reward_offset:
            rewards = np.clip(rewards + self.config.reward_offset * scale, -limit, limit)
        is_negative = rewards < 0.0
        scaled = rewards * (1.0 - self.delta)
        if not is_negative.any():
            return scaled
        if self.config.negative_rewards == "refuse":
            raise TrainingError(
                "CaT: every reward must be at least 0, because a violation takes away the rewards that follow, which "
                f"pays where they are negative; got {float(rewards.min()) / scale:g}. Choose negative_rewards="
                "'positive_part_only', or 'shift' with a reward_offset that lifts the lowest reward to 0, or change "
                "the reward."
            )
        self._negatives += int(is_negative.sum())
        return np.where(is_negative, rewards, scaled)

    def ends(self, ended: Any) -> Array:
        """1 - (1 - delta)(1 - ended) of the step, (num_envs,), after :meth:`step`; ``ended`` is in [0, 1]."""
        ends: Array = 1.0 - (1.0 - self.delta) * (1.0 - ended)
        return ends

    def take_log(self) -> dict[str, float]:
        """Means over the steps since the last call, and the current maxima, under the names of the log."""
        steps = max(1, self._steps)
        log = {"cat/mean_delta": self._delta_sum / steps, "cat/negative_reward_share": self._negatives / steps}
        for index, name in enumerate(self._names):
            log[f"cat/violation_rate/{name}"] = float(self._violations[index]) / steps
            log[f"cat/c_max/{name}"] = float(self.maxima.values[index])
            log[f"cat/p_max/{name}"] = float(self._p_max[index])
        self._clear_log()
        return log

    def _clear_log(self) -> None:
        self._steps = self._negatives = 0
        self._violations = np.zeros(len(self._names), dtype=np.int64)
        self._delta_sum = 0.0

    def get_state(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"maxima": self.maxima.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.maxima.set_state(state["maxima"])


def _fixed_p_max(chosen: str | float) -> float:
    """p_max that does not move, NaN for a soft constraint."""
    if isinstance(chosen, str):
        return 1.0 if chosen == "hard" else np.nan
    return float(chosen)


def reward_scaling(env: VecEnv) -> tuple[float, float]:
    """What rewards of the step just taken were multiplied by, and to which size clipped: VecNormalize never centres."""
    layer = unwrap_vec_normalize(env)
    if layer is None or not layer.norm_reward:
        return 1.0, np.inf
    return float(1.0 / np.sqrt(layer.ret_rms.var + layer.epsilon)), float(layer.clip_reward)
