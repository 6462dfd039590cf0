"""Probe CMDPs whose actions choose the way: a corridor with a hazard, and a task that only a time limit cuts."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.testing.probes import FloatArray, Optimum, Table

END = -1
"""In a table of moves: the episode terminates."""


class RouteProbe(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """A deterministic finite CMDP given by its tables; the observation is the state, one-hot in float32."""

    rewards: ClassVar[Table]
    costs: ClassVar[Table]
    moves: ClassVar[tuple[tuple[int, ...], ...]]
    """Next state of every state (row) and action (column), or :data:`END`."""
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
        """Collect reward and cost of the action and move."""
        row, column = self._state, int(action)
        cost, following = self.costs[row][column], self.moves[row][column]
        has_ended = following == END
        self._state = row if has_ended else following
        info = {"cost": cost, "costs": {"cost": cost}}
        return self.observations[self._state].copy(), self.rewards[row][column], has_ended, False, info

    def get_state(self) -> dict[str, Any]:
        """The state; there is no randomness."""
        return {"state": self._state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._state = state["state"]

    def exact_values(self, action_probabilities: npt.ArrayLike, gamma: float) -> tuple[FloatArray, FloatArray]:
        """Values that correct critics learn for a stationary policy: V = u + gamma P V, time limits left out.

        Args:
            action_probabilities: pi(a|s), (num_states, num_actions).
            gamma: Discount factor; below 1 unless every way ends.

        Returns:
            V_r (num_states,) and V_c (num_states, 1).
        """
        policy = np.asarray(action_probabilities, dtype=np.float64)
        signals = np.stack([(policy * self.rewards).sum(axis=1), (policy * self.costs).sum(axis=1)], axis=1)
        transition = np.zeros((len(signals), len(signals)))
        for row, column in np.ndindex(policy.shape):
            if self.moves[row][column] != END:
                transition[row, self.moves[row][column]] += policy[row, column]
        values = np.linalg.solve(np.eye(len(signals)) - gamma * transition, signals)
        return values[:, 0], values[:, 1:]


class CorridorProbe(RouteProbe):
    """A short way through a hazard and a long safe one: does a solver mix routes as the budget allows?

    At the fork (state 0) action 1 enters the hazard (state 1, at cost 1) and from there the goal; action 0 takes the
    detour of states 2 and 3. Elsewhere both actions walk on. Every step costs 1 of reward and the goal gives 4, so
    the short way returns 2 at cost 1, the long one 1 at cost 0. With p = pi(1|0)

        J_r = 1 + p,        J_c = p,        L(p, lambda) = 1 + p (1 - lambda) + lambda d.

    With a budget d = 0.25 the optimum is p* = 0.25: J_r* = 1.25, J_c* = 0.25, lambda* = 1. A solver that keeps to one
    route is infeasible or loses 0.25. The figures are undiscounted: solvers are run with gamma = 1.

    Example:
        >>> import saferl
        >>> env = saferl.make("saferl.testing.route_probes:corridor_probe")
        >>> _ = env.reset()
        >>> [env.step(1)[1:3] for _ in range(2)], env.last_costs
        ([(-1.0, False), (3.0, True)], array([0.]))
    """

    rewards: ClassVar[Table] = ((-1.0, -1.0), (3.0, 3.0), (-1.0, -1.0), (3.0, 3.0))
    costs: ClassVar[Table] = ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    moves: ClassVar[tuple[tuple[int, ...], ...]] = ((2, 1), (END, END), (3, 3), (END, END))
    constraints: ClassVar[ConstraintSet] = ConstraintSet([Constraint("cost", 0.25, max_step_cost=1.0)])
    optimum: ClassVar[Optimum] = Optimum(
        return_=1.25,
        costs=(0.25,),
        multipliers=(1.0,),
        action_probabilities=((0.75, 0.25), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)),
    )


class TimeLimitProbe(RouteProbe):
    """One state that a time limit of 5 steps cuts: a solver that takes the limit for an end makes the wrong choice.

    Action 0 stays (reward 1, cost 0.1), action 1 ends the episode (reward 2.8, cost 0). Staying for ever is worth
    V_r = 1 / (1 - gamma) = 10 at gamma = 0.9 (V_c = 1), so a correct critic stays. One that takes the limit for a
    termination averages (1 - 0.9^k) / 0.1 over the k = 1..5 steps left and finds 2.63 < 2.8: it would quit. Staying is
    also right per episode: it returns 5, and with q = pi(1) the return (1 + 1.8 q)(1 - (1 - q)^5) / q falls in q.
    The budget of 1 per episode does not bind (staying costs 0.5), so lambda* = 0.

    Example:
        >>> import saferl
        >>> env = saferl.make("saferl.testing.route_probes:time_limit_probe")
        >>> _ = env.reset()
        >>> [env.step(0)[2:4] for _ in range(5)][-2:]
        [(False, False), (False, True)]
    """

    rewards: ClassVar[Table] = ((1.0, 2.8),)
    costs: ClassVar[Table] = ((0.1, 0.0),)
    moves: ClassVar[tuple[tuple[int, ...], ...]] = ((0, END),)
    constraints: ClassVar[ConstraintSet] = ConstraintSet([Constraint("cost", 1.0, max_step_cost=0.1)])
    optimum: ClassVar[Optimum] = Optimum(
        return_=5.0, costs=(0.5,), multipliers=(0.0,), action_probabilities=((1.0, 0.0),)
    )
    time_limit: ClassVar[int] = 5
    """Steps per episode, applied by :func:`time_limit_probe`."""


def corridor_probe() -> CorridorProbe:
    """A :class:`CorridorProbe`."""
    return CorridorProbe()


def time_limit_probe() -> gymnasium.Env[npt.NDArray[np.float32], np.int64]:
    """A :class:`TimeLimitProbe` under its time limit."""
    return TimeLimit(TimeLimitProbe(), TimeLimitProbe.time_limit)
