"""Catch with a cost: a ball falls over a board, and the paddle pays for being in the left half of it."""

from __future__ import annotations

import numpy as np

from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.planning import best_response
from saferl.errors import ConfigError


def catch(rows: int = 10, columns: int = 5) -> TabularCMDP:
    """A ball falls one row per step from a random column of the top row; the paddle in the last row may catch it.

    An episode has ``rows - 1`` steps. The paddle starts in the column ``columns // 2``; action 0 moves it left by one
    column, 1 keeps it, 2 moves it right, as far as the board goes. The last step earns 1 if the paddle ends it under
    the ball, else -1. The game is Catch of bsuite (Osband et al. 2020, arXiv 1908.03568) on its board of 10 x 5. A step
    after which the paddle stands in the left half, a column below ``columns // 2``, costs 1.

    The budget is half of what it costs to catch every ball, and to be in the left half no longer than that needs. On
    the board of 10 x 5 catching all costs (1 + 2) / 5 = 0.6 per episode, so the budget is 0.3: enough for every ball in
    column 1 (0.2) and for a quarter of those in column 0. v* is 0.7 per episode, and a unit of cost is worth 1.

    State ``ball * columns + paddle``; the step of the finite horizon is the row of the ball.

    Raises:
        ConfigError: a board with fewer than 3 columns, or with so few rows that a ball cannot be reached.
    """
    if columns < 3 or rows <= (columns + 1) // 2:
        raise ConfigError(
            "The board of Catch must have at least 3 columns, and more than half as many rows, so that every ball can "
            f"be reached; got {rows} rows and {columns} columns."
        )
    middle, horizon = columns // 2, rows - 1
    ball, paddle, action = np.meshgrid(np.arange(columns), np.arange(columns), np.arange(3), indexing="ij")
    moved = np.clip(paddle + action - 1, 0, columns - 1).reshape(-1, 3)
    ball = ball.reshape(-1, 3)
    moves = np.eye(columns * columns)[ball * columns + moved]
    rewards = np.zeros((horizon, columns * columns, 3))
    rewards[-1] = np.where(moved == ball, 1.0, -1.0)
    costs = np.broadcast_to((moved < middle).astype(np.float64)[..., None], (horizon, columns * columns, 3, 1))
    first = np.zeros((columns, columns))
    first[:, middle] = 1.0 / columns
    cmdp = TabularCMDP(moves, rewards, costs, None, first.ravel(), [0.0], horizon=horizon)
    # A ball is worth 2 and costs at most half the columns: below 4 / columns per unit of cost all are caught, and of
    # the policies that do so the cheapest is the best response.
    thrifty = best_response(cmdp, cmdp.rewards - cmdp.costs[..., 0] / columns).policy
    return cmdp.with_budgets(0.5 * cmdp.evaluate(thrifty).costs / cmdp.scale)
