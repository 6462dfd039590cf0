"""Plans: who collects the data of a family of tasks, one TOML file each.

```toml
tasks = ["Safety*Circle1-v0"]         # names of environments; * stands for any text
noise = [0.0, 0.3]                    # what is added to actions, as a share of their range
[[agents]]                            # one chain of trainings, each from where the last one ended
name = "ramp"
solver = "ppo_lag"
budgets = [5.0, 20.0, 80.0]           # what each stage is trained at; leave out for solvers without budgets
steps = [400_000, 100_000, 100_000]   # of each stage
[agents.options]                      # of the solver and the run, on top of the task's recipe
```

A plan may name a ``scripted`` function in place of agents, or beside them: called with ``episodes`` and ``seed``, it
gives the flat arrays of :class:`saferl.data.Dataset`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from saferl.errors import ConfigError


@dataclass(frozen=True)
class Agent:
    """A chain of trainings; every stage starts from the policy of the one before and collects when it is done."""

    name: str
    """What its trajectories are labelled with."""
    solver: str
    """Name of an online solver."""
    steps: tuple[int, ...]
    """Environment steps of each stage."""
    budgets: tuple[float, ...] | None = None
    """Budget of every constraint in each stage; None for a solver that is not given any."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the solver and of the run, on top of the task's recipe."""

    def __post_init__(self) -> None:
        """Refuse a chain without stages or with stages that lack a budget."""
        if not self.steps or min(self.steps) < 1:
            raise ConfigError(f"Agent {self.name!r}: every stage needs at least one step; got steps {self.steps}.")
        if self.budgets is not None and len(self.budgets) != len(self.steps):
            raise ConfigError(
                f"Agent {self.name!r}: budgets and steps must name the same number of stages; got "
                f"{len(self.budgets)} and {len(self.steps)}."
            )


@dataclass(frozen=True)
class Plan:
    """Who collects."""

    name: str
    """Name of its file, without the ending."""
    tasks: tuple[str, ...]
    """Patterns of environment names."""
    agents: tuple[Agent, ...] = ()
    """Trained collectors."""
    noise: tuple[float, ...] = (0.0,)
    """Uniform noise on the actions of agents, as shares of half their range; each level collects as much."""
    random_share: float = 0.0
    """Share of the episodes that uniformly random actions collect, in [0, 1)."""
    scripted: str | None = None
    """``package.module:function`` that collects by rule."""

    def __post_init__(self) -> None:
        """Refuse a plan that collects nothing or adds nonsense."""
        if not self.agents and self.scripted is None:
            raise ConfigError(f"Plan {self.name!r} names neither agents nor a scripted function.")
        if not self.noise or min(self.noise) < 0.0 or max(self.noise) > 2.0:
            raise ConfigError(f"Plan {self.name!r}: noise must be shares in [0, 2]; got {self.noise}.")
        if not 0.0 <= self.random_share < 1.0:
            raise ConfigError(f"Plan {self.name!r}: random_share must be in [0, 1); got {self.random_share}.")
        names = [agent.name for agent in self.agents]
        if len(set(names)) < len(names):
            raise ConfigError(f"Plan {self.name!r}: agents must have different names; got {', '.join(names)}.")


def find_plan(env_id: str) -> Plan:
    """The plan whose patterns fit ``env_id``.

    Raises:
        ConfigError: none does.

    Example:
        >>> find_plan("SafetyPointGoal1-v0").agents[0].solver
        'ppo_lag'
    """
    for plan in all_plans():
        if any(fnmatchcase(env_id, task) for task in plan.tasks):
            return plan
    known = ", ".join(task for plan in all_plans() for task in plan.tasks)
    raise ConfigError(f"No plan says how to collect data of {env_id!r}; there are plans for {known}. Give --plan FILE.")


def parse_plan(text: str, name: str) -> Plan:
    """The plan that a TOML text describes.

    Raises:
        ConfigError: not TOML, or a key that is unknown or of the wrong type.
    """
    try:
        values = tomllib.loads(text)
        agents = tuple(
            Agent(
                **{
                    **agent,
                    "steps": tuple(agent["steps"]),
                    "budgets": tuple(map(float, agent["budgets"])) if "budgets" in agent else None,
                }
            )
            for agent in values.pop("agents", [])
        )
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return Plan(name=name, agents=agents, **values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"The plan {name!r} cannot be read: {error}. See docs/datasets.md for its keys.") from error


@cache
def all_plans() -> tuple[Plan, ...]:
    """The plans of this package, in the order of their names."""
    folder = files("saferl.collection").joinpath("recipes")
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(parse_plan(file.read_text(encoding="utf-8"), file.name.removesuffix(".toml")) for file in found)
