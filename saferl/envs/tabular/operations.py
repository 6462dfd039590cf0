"""Two classics of operations research under constraints: a queue and an inventory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from saferl.envs.tabular.binding import between_prices
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.errors import ConfigError


def queueing(
    capacity: int = 8,
    arrival: float = 0.6,
    services: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    gamma: float = 0.95,
) -> TabularCMDP:
    """Admission and service control of one queue under two budgets: ``effort`` and ``rejections``.

    In every step a customer arrives with probability ``arrival``, and one leaves with the chosen probability of
    ``services``. With b = ``arrival`` if arrivals are admitted and else 0, a queue of 0 < x < ``capacity`` shrinks by
    one with probability a (1 - b) and grows by one with (1 - a) b; an empty one grows with (1 - a) b; a full one
    shrinks with a. The model is that of Altman (1999), "Constrained Markov decision processes", chapter 5.

    The reward 1 - x / ``capacity`` stands for the cost of holding customers. Effort grows evenly from 0 to 1 with the
    service; a rejection is an arrival that is not admitted or finds the queue full, counted by its probability. The
    budgets are what it costs to admit everybody and to serve at random, which a cleverer policy does with shorter
    queues. Action ``2 * service + admit``; start empty.

    Raises:
        ConfigError: an empty queue, fewer than two services, or a probability outside (0, 1).
    """
    rates = np.array(services, dtype=np.float64)
    if capacity < 1 or len(rates) < 2 or not (0.0 < arrival < 1.0) or rates.min() <= 0.0 or rates.max() >= 1.0:
        raise ConfigError(
            "A queue needs capacity >= 1, at least two services, and probabilities between 0 and 1; got "
            f"capacity={capacity}, arrival={arrival!r}, services={list(services)}."
        )
    length = np.arange(capacity + 1)[:, None, None]
    departure, admission = rates[:, None], np.array([0.0, arrival])
    shrinks = np.where(length == capacity, departure, np.where(length > 0, departure * (1.0 - admission), 0.0))
    grows = np.where(length == capacity, 0.0, (1.0 - departure) * admission)
    to = np.arange(capacity + 1)
    moves = (
        shrinks[..., None] * (to == length[..., None] - 1)
        + grows[..., None] * (to == length[..., None] + 1)
        + (1.0 - shrinks - grows)[..., None] * (to == length[..., None])
    )
    shape = (capacity + 1, 2 * len(rates))
    rewards = np.broadcast_to(1.0 - length / capacity, shrinks.shape).reshape(shape)
    effort = np.broadcast_to(np.linspace(0.0, 1.0, len(rates))[:, None], shrinks.shape)
    rejections = np.where((length == capacity) | (admission == 0.0), arrival, 0.0)
    costs = np.stack([effort, np.broadcast_to(rejections, shrinks.shape)], axis=-1).reshape(*shape, 2)
    start = np.eye(capacity + 1)[0]
    dynamics = moves.reshape(*shape, capacity + 1)
    cmdp = TabularCMDP(dynamics, rewards, costs, gamma, start, [0.0, 0.0], names=("effort", "rejections"))
    at_random = np.tile(np.repeat([[0.0, 1.0 / len(rates)]], len(rates), axis=0).ravel(), (capacity + 1, 1))
    return cmdp.with_budgets(cmdp.evaluate(at_random).costs / cmdp.scale)


def inventory(
    capacity: int = 12,
    max_order: int = 6,
    demand: float = 3.0,
    *,
    purchase: float = 0.6,
    holding: float = 0.05,
    gamma: float = 0.95,
) -> TabularCMDP:
    """Lost-sales inventory under a budget for stock-outs that binds.

    In every step an order of 0 to ``max_order`` units arrives at once (what does not fit is not bought), then the
    demand D, Poisson with mean ``demand``, takes what there is, and the rest is lost. With y units after the order the
    expected profit is E min(y, D) - ``purchase`` (y - stock) - ``holding`` y, at a price of 1 per unit; the reward is
    that per unit of mean demand. The cost ``stock_out`` is the probability that the demand exceeds y; its price at the
    optimum lies between 0.5 and 2. The model is that of Puterman (1994), "Markov decision processes", section 3.2, with
    a service level as the constraint. State: units in stock; start empty.

    Raises:
        ConfigError: no capacity, no order or no demand.
    """
    if capacity < 1 or max_order < 1 or demand <= 0.0:
        raise ConfigError(
            "An inventory needs capacity >= 1, max_order >= 1 and a positive mean demand; got "
            f"capacity={capacity}, max_order={max_order}, demand={demand!r}."
        )
    stock = np.arange(capacity + 1)
    filled = np.minimum(stock[:, None] + np.arange(max_order + 1), capacity)
    law = stats.poisson(demand)
    asked = np.arange(capacity)
    sold_out = law.sf(filled - 1)
    # Next stock n > 0 after a demand of exactly filled - n; 0 after any demand of at least filled.
    moves = np.where(stock[1:] <= filled[..., None], law.pmf(filled[..., None] - stock[1:]), 0.0)
    dynamics = np.concatenate([sold_out[..., None], moves], axis=-1)
    # E min(y, D) = sum of P(D > k) over k < y.
    sales = np.where(asked < filled[..., None], law.sf(asked), 0.0).sum(axis=-1)
    profit = sales - purchase * (filled - stock[:, None]) - holding * filled
    start = np.eye(capacity + 1)[0]
    costs = law.sf(filled)[..., None]
    return between_prices(TabularCMDP(dynamics, profit / demand, costs, gamma, start, [0.0], names=("stock_out",)))
