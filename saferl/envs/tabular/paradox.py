"""Two states in which no deterministic policy is nearly optimal: plain descent-ascent circles for ever."""

from __future__ import annotations

import numpy as np

from saferl.envs.tabular.cmdp import TabularCMDP

_MOVES = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
"""Action 0 stays in state 0, action 1 leaves it; action 0 stays in state 1, action 1 leaves it."""


def paradox_a() -> TabularCMDP:
    """Reward and constraint are the same signal, so that only a stochastic policy is optimal.

    Two states and two actions: action 0 stays, action 1 moves to the other state. Staying in state 0 earns 1; leaving
    it, and staying in state 1, is what a utility pays for. As a cost, 1 minus the utility, its mean per step may be
    0.5. Start in state 0, gamma 0.9.

    The mixed reward is (1 - lambda) times one indicator, so the best response flips between two deterministic policies
    at lambda* = 1. v* = 0.5 per step (5 discounted), with pi*(stay | 0) = 10/11 and pi*(stay | 1) = 1.
    """
    reward = np.array([[1.0, 0.0], [0.0, 0.0]])
    utility = np.array([[0.0, 1.0], [1.0, 0.0]])
    return TabularCMDP(_MOVES, reward, (1.0 - utility)[..., None], 0.9, [1.0, 0.0], [5.0])


def paradox_b() -> TabularCMDP:
    """The dynamics of :func:`paradox_a`; being in state 0 earns 1 and costs 1, and half of the time may be spent there.

    Start anywhere, gamma 0.9. v* = 0.5 per step and lambda* = 1 again, and many policies are optimal.
    """
    in_first = np.array([[1.0, 1.0], [0.0, 0.0]])
    return TabularCMDP(_MOVES, in_first, in_first[..., None], 0.9, [0.5, 0.5], [5.0])
