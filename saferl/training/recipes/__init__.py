"""Recipes: options that suit a family of tasks, one TOML file each, which ``saferl train`` starts from.

```toml
tasks = ["Safety*Velocity-v1"]     # names of environments; * stands for any text
[options]                          # for every solver that has them, and for the run
[ppo_lag]                          # for one solver, on top
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from saferl.solvers import SOLVERS
from saferl.training.settings import RunSettings


@dataclass(frozen=True)
class Recipe:
    """What a family of tasks is trained with where nobody says otherwise."""

    name: str
    """Name of the file, without its ending."""
    tasks: tuple[str, ...]
    """Patterns of environment names."""
    options: Mapping[str, Any]
    """Options of solvers and runs by name."""
    by_solver: Mapping[str, Mapping[str, Any]]
    """Options of single solvers, on top."""

    def options_for(self, solver: str) -> dict[str, Any]:
        """The options that ``solver``, or a run, has."""
        config_class = SOLVERS.load(solver).config_class
        known = {field.name for kind in (config_class, RunSettings) for field in fields(kind)}
        merged = {**self.options, **self.by_solver.get(solver, {})}
        return {name: value for name, value in merged.items() if name in known}


def find_recipe(env_id: str) -> Recipe | None:
    """The first recipe whose patterns fit ``env_id``; None for an environment that no recipe knows.

    Example:
        >>> find_recipe("SafetyPointGoal1-v0").options_for("ppo_lag")["num_envs"]
        16
    """
    return next((recipe for recipe in all_recipes() if any(fnmatchcase(env_id, task) for task in recipe.tasks)), None)


@cache
def all_recipes() -> tuple[Recipe, ...]:
    """Every recipe, in the order of their names."""
    recipes = []
    for file in sorted(files(__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            values = tomllib.loads(file.read_text(encoding="utf-8"))
            tasks, options = tuple(values.pop("tasks")), values.pop("options")
            recipes.append(Recipe(file.name.removesuffix(".toml"), tasks, options, values))
    return tuple(recipes)
