"""A finite CMDP as a Gymnasium environment with costs."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded

from saferl.envs.state import State, generator_state, new_generator
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.instances import INSTANCES
from saferl.envs.tabular.sampling import StateSampler
from saferl.errors import ConfigError, EnvContractError

_REMAINDER = 1e-3
"""The default time limit cuts off this share of a discounted sum."""


def default_time_limit(cmdp: TabularCMDP) -> int:
    """Steps of an episode: the horizon, or for a discount as many as leave 0.1 % of a constant discounted sum."""
    if cmdp.horizon is not None:
        return cmdp.horizon
    return max(1, math.ceil(math.log(_REMAINDER) / math.log(cmdp.gamma))) if cmdp.gamma else 1


def observation_space_of(cmdp: TabularCMDP) -> spaces.Discrete:
    """One observation per state, or per step and state (``step * S + state``) for a finite horizon."""
    return spaces.Discrete((cmdp.horizon or 1) * cmdp.num_states)


class TabularEnv(gymnasium.Env[Any, Any]):
    """A :class:`~saferl.envs.tabular.TabularCMDP` that is sampled; actions and observations are numbers.

    With a discount the observation is the state, the process goes on for ever, and a time limit *truncates* an episode.
    With a finite horizon H the observation is ``step * S + state``, and an episode *terminates* after H steps, since
    time is part of what is observed; the last observation repeats the one before it. Every step reports the costs of
    the CMDP by name in ``info["costs"]`` and their sum in ``info["cost"]``.

    Example:
        >>> import saferl
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> env = saferl.make(lambda: TabularEnv(paradox_a()))
        >>> env.reset(seed=0)[0], env.step(0)
        (0, (0, 1.0, False, False, {'costs': {'cost': 1.0}, 'cost': 1.0}))
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type
    is_fixed_horizon = True
    """No episode ends early."""

    def __init__(self, cmdp: TabularCMDP, *, max_episode_steps: int | None = None) -> None:
        """Prepare to sample ``cmdp``.

        Args:
            cmdp: What is sampled.
            max_episode_steps: Steps after which an episode is truncated. Default: none for a finite horizon; for a
                discount the first number of steps that leaves at most 0.1 % of a constant discounted sum.

        Raises:
            ConstraintError: a budget is negative.
            ConfigError: a time limit below 1.
        """
        self.time_limit = checked_time_limit(cmdp, max_episode_steps)
        self.cmdp, self.constraints = cmdp, cmdp.constraints
        self.observation_space, self.action_space = observation_space_of(cmdp), spaces.Discrete(cmdp.num_actions)
        # Where Gymnasium, and saferl.make, look for the time limit of an env without a wrapper.
        self.spec = EnvSpec("TabularCMDP-v0", max_episode_steps=self.time_limit)
        self._sampler = StateSampler(cmdp)
        self._state, self._step = 0, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Draw the first state; ``seed`` begins a new generator."""
        super().reset(seed=seed)
        self._state, self._step = int(self._sampler.first(self.np_random.random())), 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take ``action``.

        Raises:
            ResetNeeded: there was no reset yet.
            EnvContractError: no such action.
        """
        if self._step < 0:
            raise ResetNeeded(f"{self.cmdp!r}: call reset before step.")
        if not self.action_space.contains(action):
            raise EnvContractError(
                f"{self.cmdp!r}: an action must be a whole number from 0 to {self.cmdp.num_actions - 1}; "
                f"got {action!r}."
            )
        cmdp, horizon = self.cmdp, self.cmdp.horizon
        if horizon is not None and self._step >= horizon:
            raise ResetNeeded(f"{cmdp!r}: the episode has ended; call reset before the next step.")
        here = (self._state, action) if horizon is None else (self._step, self._state, action)
        reward, costs = float(cmdp.rewards[here]), cmdp.costs[here]
        following = int(self._sampler.next(self._step, self._state, action, self.np_random.random()))
        self._step += 1
        terminated = self._step == horizon
        if not terminated:
            self._state = following
        truncated = self.time_limit is not None and self._step >= self.time_limit and not terminated
        info = {"costs": dict(zip(cmdp.names, costs.tolist(), strict=True)), "cost": float(costs.sum())}
        return self._observation(), reward, terminated, truncated, info

    def get_state(self) -> State:
        """Everything that decides how the env goes on."""
        state: State = {"state": self._state, "step": self._step}
        if self._np_random is not None:
            state["generator"] = generator_state(self._np_random)
            state["generator_seed"] = self._np_random_seed
        return state

    def set_state(self, state: State) -> None:
        """Go on from a state of :meth:`get_state`."""
        self._state, self._step = int(state["state"]), int(state["step"])
        if "generator" in state:
            self._np_random, self._np_random_seed = new_generator(state["generator"]), state["generator_seed"]

    def _observation(self) -> int:
        if self.cmdp.horizon is None:
            return self._state
        return int(min(self._step, self.cmdp.horizon - 1) * self.cmdp.num_states + self._state)


def checked_time_limit(cmdp: TabularCMDP, max_episode_steps: int | None) -> int | None:
    """Steps after which an episode is truncated; None for a finite horizon without another limit.

    Raises:
        ConfigError: below 1.
    """
    if max_episode_steps is None:
        return None if cmdp.horizon is not None else default_time_limit(cmdp)
    if max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps must be at least 1; got {max_episode_steps}.")
    return max_episode_steps


def make_tabular(instance: str, *, max_episode_steps: int | None = None) -> TabularEnv:
    """The env of a name in :data:`~saferl.envs.tabular.instances.INSTANCES`.

    Raises:
        UnknownNameError: no such instance.
    """
    return TabularEnv(INSTANCES.load(instance)(), max_episode_steps=max_episode_steps)
