"""The table of tasks in the documentation, made from the catalogue and the environments themselves.

Write it anew with::

    python -m saferl.envs.table docs/tasks.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from saferl.envs.catalogue import CONTROL_SPECS, MICROGRID_SPECS, POINT_ROBOT_SPECS, SIMULATED_SPECS, TABULAR_SPECS
from saferl.envs.control_tasks import CONTROL_TASKS
from saferl.envs.core import make
from saferl.envs.spec import EnvSpec

_HEAD = """# Tasks

Made by `python -m saferl.envs.table docs/tasks.md`; do not edit.

## Simulated tasks

Every cost is 0 or 1 per step, and every budget is 25 per episode unless another one is given. Without `--budget` only
`cost` is constrained. Costs in **bold** come with a signed margin in `info["margins"]` (> 0 where the cost occurs).
Episodes of a task marked *fixed* never end before the horizon.

| Id | Observations | Actions | Costs | Horizon | Task |
|---|---|---|---|---|---|
"""
_CONTROL_HEAD = """
## Control tasks

Tasks of dm_control through Shimmy (`pip install 'saferl[control]'`), with a cost in [0, 1] per step that the reward
needs, observations flat, actions scaled to [-1, 1], 1,000 steps per episode, *fixed*. The budget is half-way between
the cost of a careless policy, trained by `ppo` on the return alone, and that of a careful one, trained on the negative
cost alone, each for the steps shown (training seed 1000, means of 32 episodes with sampled actions;
`saferl bench limits` repeats it). After so few steps no policy is optimal: the numbers define the budget, they are not
the limits of what can be reached, and the return of the careless policy, of at most 1,000, says how far it had come. A
better policy may cost less or more. The cost in **bold** comes with a signed margin in metres.

| Id | Observations | Actions | Cost | Careless | Its return | Careful | Budget | Training steps | Task |
|---|---|---|---|--:|--:|--:|--:|--:|---|
"""
_TABULAR_HEAD = """
## Tabular tasks

Finite CMDPs whose optimum is known exactly ([environments](environments.md#finite-cmdps)). Observation and action are
numbers. Rewards and costs are discounted, and the budgets, which hold without `--budget`, limit discounted sums; the
horizon leaves 0.1 % of one. Every episode is truncated there, none ends before. Where there is no discount, an episode
has a finite horizon and ends by itself, and the budget limits its sum.

| Id | States | Actions | Budgets | Discount | Horizon | Task |
|---|---|---|---|---|---|---|
"""
_MICROGRID_HEAD = """
## The microgrid

A [remote grid](environments.md#the-microgrid) of two gensets, a battery, a wind turbine and a demand, a step per
minute, a day per episode, *fixed*. Costs are 0 or 1 per minute (starts, breaches and wear are counted); the budgets
are per day. Without `--budget` only `deficit` and `excess` are constrained. Costs in **bold** come with a signed margin
in kW (`soc_band`: in the charge).

| Id | Observations | Actions | Budgets | Horizon | Task |
|---|---|---|---|---|---|
"""
_POINT_ROBOT_HEAD = """
## PointRobot

A [small task](environments.md#pointrobot) whose avoidable set is known: from which states some control never enters a
hazard. The cost is 1 for a step that ends inside one, its margin the depth in metres; an episode ends at the goal or
beyond the arena.

| Id | Observations | Actions | Budgets | Horizon | Task |
|---|---|---|---|---|---|
"""


def tasks_table() -> str:
    """The page, in Markdown."""
    parts = ((_HEAD, row_of, SIMULATED_SPECS), (_CONTROL_HEAD, control_row_of, CONTROL_SPECS))
    return "".join(
        head + "".join(f"{row(spec)}\n" for spec in specs)
        for head, row, specs in (
            *parts,
            (_TABULAR_HEAD, tabular_row_of, TABULAR_SPECS),
            (_MICROGRID_HEAD, budgets_row_of, MICROGRID_SPECS),
            (_POINT_ROBOT_HEAD, budgets_row_of, POINT_ROBOT_SPECS),
        )
    )


def budgets_row_of(spec: EnvSpec) -> str:
    """One row with the budgets of every cost; the environment is made and takes one step."""
    cells = row_of(spec).strip("| ").split(" | ")
    names = zip(cells[3].split(", "), spec.constraints, strict=True)
    cells[3] = ", ".join(f"{name} <= {constraint.budget:g}" for name, constraint in names)
    return f"| {' | '.join(cells)} |"


def control_row_of(spec: EnvSpec) -> str:
    """One row of the table of control tasks; the environment is made and takes one step."""
    found = CONTROL_TASKS[spec.id].budget
    cells = row_of(spec).strip("| ").split(" | ")
    budget = spec.constraints[0].budget
    numbers = f"{found.high:.1f} | {found.high_return:.1f} | {found.low:.1f} | {budget:g} | {found.steps:,}"
    return f"| {' | '.join(cells[:4])} | {numbers} | {spec.summary} |"


def tabular_row_of(spec: EnvSpec) -> str:
    """One row of the table of finite CMDPs; the environment is made."""
    env: Any = make(spec.id)
    constraint = spec.constraints[0]
    discount = "none" if constraint.kind == "episode_sum" else f"{constraint.gamma:g}"
    horizon = env.unwrapped.cmdp.horizon or spec.horizon
    budgets = ", ".join(f"`{constraint.name}` <= {constraint.budget:.4g}" for constraint in spec.constraints)
    return (
        f"| `{spec.id}` | {env.observation_space.n} | {env.action_space.n} | {budgets} | {discount} "
        f"| {horizon} | {spec.summary} |"
    )


def row_of(spec: EnvSpec) -> str:
    """One row of the table; the environment is made and takes one step."""
    env = make(spec.id)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape or (), dtype=env.action_space.dtype)
    margins = env.step(action)[-1].get("margins", {})
    names = ", ".join(f"**`{name}`**" if name in margins else f"`{name}`" for name in spec.constraints.names)
    horizon = f"{spec.horizon}, fixed" if spec.is_fixed_horizon else f"at most {spec.horizon}"
    row = (
        f"| `{spec.id}` | {_space(env.observation_space)} | {_space(env.action_space)} | {names} | {horizon} "
        f"| {spec.summary} |"
    )
    env.close()
    return row


def _space(space: spaces.Space[Any]) -> str:
    if not isinstance(space, spaces.Box):
        return f"`{space}`"
    size = " x ".join(map(str, space.shape))
    low, high = np.unique(space.low), np.unique(space.high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return size
    if len(low) == len(high) == 1:
        return f"{size} in [{low[0]:g}, {high[0]:g}]"
    bounds = ", ".join(f"[{a:g}, {b:g}]" for a, b in zip(space.low.ravel(), space.high.ravel(), strict=True))
    return f"{size} in {bounds}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(tasks_table(), encoding="utf-8")
