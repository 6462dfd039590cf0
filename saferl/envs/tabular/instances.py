"""Instances with a known or computable optimum, and the table of those that benchmarks run by name.

Utilities with a lower limit are written as costs with a budget: a utility u in [0, 1] whose value must reach b is the
cost 1 - u with the budget 1 / (1 - gamma) - b, with the same multiplier.
"""

from __future__ import annotations

from functools import partial

from saferl.envs.tabular.catch import catch
from saferl.envs.tabular.grids import frozen_lake, gridworld
from saferl.envs.tabular.operations import inventory, queueing
from saferl.envs.tabular.paradox import paradox_a, paradox_b
from saferl.envs.tabular.random_cmdps import (
    coptidice_random,
    ding_random,
    finite_horizon_random,
    garnet,
    one_shot_instance,
    random_binding,
    two_constraints,
)
from saferl.registry import Registry

__all__ = [
    "INSTANCES",
    "catch",
    "coptidice_random",
    "ding_random",
    "finite_horizon_random",
    "frozen_lake",
    "garnet",
    "gridworld",
    "inventory",
    "one_shot_instance",
    "paradox_a",
    "paradox_b",
    "queueing",
    "random_binding",
    "two_constraints",
]

INSTANCES = Registry("tabular instance", "saferl.tabular_instances")
"""By name, a function without arguments that makes a small :class:`~saferl.envs.tabular.TabularCMDP`."""

for _name, _make, _summary in (
    ("paradox_a", paradox_a, "reward and constraint are one signal; only a stochastic policy is optimal"),
    ("paradox_b", paradox_b, "reward and cost are the same indicator of a state; many optima"),
    ("catch", catch, "a falling ball to catch; the paddle pays for being in the left half of the board"),
    ("ding_20x10", ding_random, "dense random CMDP, 20 states and 10 actions, nearly slack"),
    ("ding_10x5", partial(ding_random, 10, 5, 0.9, 6.0), "dense random CMDP, 10 states and 5 actions, nearly slack"),
    ("random_binding_10", partial(random_binding, 10), "dense random CMDP under a tight budget, seed 10"),
    ("random_binding_11", partial(random_binding, 11), "dense random CMDP under a tight budget, seed 11"),
    ("one_shot", one_shot_instance, "sparse random CMDP where only rewarded actions cost"),
    ("two_constraints", two_constraints, "random CMDP with two budgets"),
    ("coptidice", coptidice_random, "random CMDP with one distant goal"),
    ("finite_horizon", finite_horizon_random, "ten steps, dynamics of every step drawn anew, reward against utility"),
    ("gridworld", gridworld, "8 x 8 grid with hazards, slips and a goal"),
    ("frozen_lake", frozen_lake, "Gymnasium's slippery 4 x 4 lake with a budget for falls"),
    ("queueing", queueing, "admission and service control of a queue, budgets for effort and rejections"),
    ("inventory", inventory, "lost-sales inventory with a budget for stock-outs"),
    ("garnet", garnet, "random CMDP with few successors per action"),
):
    INSTANCES.register(_name, _make, summary=_summary)
