"""Probe CMDPs: environments so small that their constrained optimum is known exactly.

A solver that cannot find these optima is wrong, whatever it scores on a benchmark. Each probe says its optimum in
``optimum`` and derives it in its docstring. They are used through their factories::

    model = PPOLag("MlpPolicy", saferl.make_vec("saferl.testing.probes:bandit_probe", 8))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet

FloatArray = npt.NDArray[np.float64]
Table = tuple[tuple[float, ...], ...]
"""One number per state (row) and action (column)."""


@dataclass(frozen=True)
class Optimum:
    """The saddle point of a CMDP's Lagrangian J_r - sum_i lambda_i (J_ci - d_i). Exact, not estimated."""

    return_: float
    """J_r*: the largest expected return per episode that the budgets allow."""
    costs: tuple[float, ...]
    """J_ci of the optimal policy, in the order of the constraints."""
    multipliers: tuple[float, ...]
    """lambda_i*: return gained per unit of budget, in the order of the constraints."""
    action_probabilities: Table
    """pi*(a|s) of the one stationary policy that attains ``return_``."""


class CycleProbe(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Visits its states in turn, 0, 1, ..., 0, ...; the action decides reward and cost only.

    The observation is the state, one-hot in float32. There is no randomness, so seeds change nothing. Since the action
    does not move the state, the advantage of (s, a) is r(s, a) - sum_b pi(b|s) r(s, b), whatever the discount: the
    optimum of the undiscounted budget is also the fixed point of a solver that discounts.
    """

    rewards: ClassVar[Table]
    costs: ClassVar[Table]
    terminates_each_step: ClassVar[bool]
    constraints: ClassVar[ConstraintSet]
    optimum: ClassVar[Optimum]

    def __init__(self) -> None:
        """Set up the spaces."""
        num_states, num_actions = np.shape(self.rewards)
        self.observations = np.eye(num_states, dtype=np.float32)
        """Observation of every state, (num_states, num_states)."""
        self.observation_space = spaces.Box(0.0, 1.0, (num_states,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Go back to state 0."""
        super().reset(seed=seed, options=options)
        self._state = 0
        return self.observations[0].copy(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Collect reward and cost of the action and go on to the next state."""
        reward, cost = self.rewards[self._state][int(action)], self.costs[self._state][int(action)]
        self._state = (self._state + 1) % len(self.rewards)
        info = {"cost": cost, "costs": {"cost": cost}}
        return self.observations[self._state].copy(), reward, self.terminates_each_step, False, info

    def get_state(self) -> dict[str, Any]:
        """The state; there is no randomness."""
        return {"state": self._state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._state = state["state"]

    def exact_values(self, action_probabilities: npt.ArrayLike, gamma: float) -> tuple[FloatArray, FloatArray]:
        """Values that correct critics learn for a stationary policy.

        They solve V = u + gamma P V, where P moves to the next state, or nowhere if every step terminates. A time limit
        is not part of them: an episode that is cut there would have gone on.

        Args:
            action_probabilities: pi(a|s), (num_states, num_actions).
            gamma: Discount factor in [0, 1).

        Returns:
            V_r (num_states,) and V_c (num_states, 1).
        """
        policy = np.asarray(action_probabilities, dtype=np.float64)
        signals = np.stack([(policy * self.rewards).sum(axis=1), (policy * self.costs).sum(axis=1)], axis=1)
        num_states = len(signals)
        moves = np.zeros((num_states, num_states))
        if not self.terminates_each_step:
            moves = np.roll(np.eye(num_states), 1, axis=1)
        values = np.linalg.solve(np.eye(num_states) - gamma * moves, signals)
        return values[:, 0], values[:, 1:]


class BanditProbe(CycleProbe):
    """One state, one step, two actions: does the solver find a stochastic optimum and its multiplier?

    Action 0 gives (reward, cost) = (0, 0), action 1 gives (1, 1); the expected cost per episode may be 0.3. With
    p = pi(1) both return and cost are p, so

        L(p, lambda) = p - lambda (p - 0.3) = p (1 - lambda) + 0.3 lambda.

    For lambda < 1 the policy wants p = 1, for lambda > 1 it wants p = 0; only at lambda* = 1 it is indifferent, and
    p* = 0.3 then spends the budget exactly: J_r* = J_c* = 0.3. Every deterministic policy is infeasible or earns 0.

    Example:
        >>> import saferl
        >>> env = saferl.make("saferl.testing.probes:bandit_probe")
        >>> _ = env.reset()
        >>> env.step(1)[1:4], env.last_costs
        ((1.0, True, False), array([1.]))
    """

    rewards: ClassVar[Table] = ((0.0, 1.0),)
    costs: ClassVar[Table] = ((0.0, 1.0),)
    terminates_each_step: ClassVar[bool] = True
    constraints: ClassVar[ConstraintSet] = ConstraintSet([Constraint("cost", 0.3, max_step_cost=1.0)])
    optimum: ClassVar[Optimum] = Optimum(
        return_=0.3, costs=(0.3,), multipliers=(1.0,), action_probabilities=((0.7, 0.3),)
    )


class LoopProbe(CycleProbe):
    """Two states in turn, cut by a time limit of 10 steps: is truncation told apart from termination?

    Action 0 gives (reward, cost) = (0.5, 0) in both states; action 1 gives (1, 1) in state 0 and (0.6, 1) in state 1.
    The expected cost per episode may be 2. An episode visits each state 5 times, so with p_s = pi(1|s)

        J_r = 5 + 2.5 p_0 + 0.5 p_1,        J_c = 5 p_0 + 5 p_1.

    One unit of cost buys 0.5 return in state 0 and 0.1 in state 1, so the whole budget is spent in state 0:
    p_0* = 2/5, p_1* = 0, J_r* = 6, and one more unit of budget would be worth lambda* = 0.5.

    The limit only cuts the loop, so the values are those of the endless one: for rewards r_0, r_1 per state
    V_r(0) = (r_0 + gamma r_1) / (1 - gamma^2), and the same for costs. At gamma = 0.9 the optimal policy has
    V_r = (6.05, 5.95) and V_c = (2.11, 1.89). A critic that takes the limit for a termination finds less than half.

    Example:
        >>> import saferl
        >>> env = saferl.make("saferl.testing.probes:loop_probe")
        >>> _ = env.reset()
        >>> [env.step(0)[2:4] for _ in range(10)][-2:]
        [(False, False), (False, True)]
    """

    rewards: ClassVar[Table] = ((0.5, 1.0), (0.5, 0.6))
    costs: ClassVar[Table] = ((0.0, 1.0), (0.0, 1.0))
    terminates_each_step: ClassVar[bool] = False
    constraints: ClassVar[ConstraintSet] = ConstraintSet([Constraint("cost", 2.0, max_step_cost=1.0)])
    optimum: ClassVar[Optimum] = Optimum(
        return_=6.0, costs=(2.0,), multipliers=(0.5,), action_probabilities=((0.6, 0.4), (1.0, 0.0))
    )
    is_fixed_horizon: ClassVar[bool] = True
    time_limit: ClassVar[int] = 10
    """Steps per episode, applied by :func:`loop_probe`."""


def bandit_probe() -> BanditProbe:
    """A :class:`BanditProbe`."""
    return BanditProbe()


def loop_probe() -> gymnasium.Env[npt.NDArray[np.float32], np.int64]:
    """A :class:`LoopProbe` under its time limit."""
    return TimeLimit(LoopProbe(), LoopProbe.time_limit)
