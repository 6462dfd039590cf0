"""Budgets that bind, from the costs of policies that ignore them."""

from __future__ import annotations

from saferl.envs.tabular.cmdp import Array, TabularCMDP
from saferl.envs.tabular.planning import best_response


def half_way(cmdp: TabularCMDP) -> TabularCMDP:
    """``cmdp`` under the mean costs of two policies: the one with the largest return, and the one with the least costs.

    An episode-wise mixture of the two keeps these budgets, so there is always a feasible policy. The first policy
    exceeds every budget whose cost the second one pays less of. With several costs the second minimises their sum.
    """
    greedy = best_response(cmdp, cmdp.rewards).policy
    careful = best_response(cmdp, -cmdp.costs.sum(axis=-1)).policy
    return _mean_costs(cmdp, greedy, careful)


def between_prices(
    cmdp: TabularCMDP, low: float = 0.5, high: float = 2.0, *, initial: Array | None = None
) -> TabularCMDP:
    """``cmdp`` under the mean cost of the policies that are optimal if a unit of cost is charged ``low``, or ``high``.

    An optimal multiplier then lies between the two prices, because the dual function is convex. For CMDPs with one
    cost; ``initial`` is a deterministic policy from which planning begins.
    """
    cost = cmdp.costs[..., 0]
    cheap = best_response(cmdp, cmdp.rewards - low * cost, initial=initial).policy
    dear = best_response(cmdp, cmdp.rewards - high * cost, initial=cheap).policy
    return _mean_costs(cmdp, cheap, dear)


def _mean_costs(cmdp: TabularCMDP, one: Array, other: Array) -> TabularCMDP:
    limits = 0.5 * (cmdp.evaluate(one).costs + cmdp.evaluate(other).costs)
    return cmdp.with_budgets(limits / cmdp.scale)
