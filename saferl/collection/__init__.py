"""Data collection: agents at budgets that ramp, rules and noise, thinned to an even spread, in one file."""

from saferl.collection.collect import Collection, collect
from saferl.collection.grid import thin
from saferl.collection.plan import Agent, Plan, find_plan

__all__ = ["Agent", "Collection", "Plan", "collect", "find_plan", "thin"]
