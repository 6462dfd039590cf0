"""``--config FILE.toml``: a training described in a file, which options of the command line override."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saferl.config import from_mapping
from saferl.errors import ConfigError

_TABLES = ("budgets", "train_budgets", "env_kwargs", "options")


@dataclass(frozen=True)
class TrainConfig:
    """The keys of a config file; all are optional."""

    solver: str | None = None
    """Name of a solver."""
    env: str | None = None
    """Environment: an id, ``package.module:factory`` or ``module:EnvId``."""
    steps: int | None = None
    """Environment steps, over all environments."""
    seed: int | None = None
    """Seed of the run."""
    seeds: str | None = None
    """Several seeds, one run each: ``"0-4"`` or ``"0,5,10"``; instead of ``seed``."""
    device: str | None = None
    """torch device."""
    cost: str | None = None
    """``module:function`` that gives costs for an environment without."""
    init_from: str | None = None
    """Artefact or run folder to start from."""
    shield: str | None = None
    """Shield in training: a name, a folder or ``package.module:factory``."""
    out: str | None = None
    """Run folder."""
    budgets: dict[str, Any] = field(default_factory=dict)
    """``[budgets]``: what must hold, by cost."""
    train_budgets: dict[str, Any] = field(default_factory=dict)
    """``[train_budgets]``: budgets to train at."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """``[env_kwargs]``: arguments of the environment."""
    options: dict[str, Any] = field(default_factory=dict)
    """``[options]``: options of solver and run, as for ``--set``."""


def read_config(path: Path) -> TrainConfig:
    """The content of a config file.

    Raises:
        ConfigError: no such file, not TOML, or a value of the wrong type.
        UnknownNameError: an unknown key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The config file cannot be read: {path} ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config file must be TOML; {path} is not: {error}.") from error
    for name in _TABLES:
        if name in values and not isinstance(values[name], dict):
            raise ConfigError(
                f"{path}: {name} must be a table; got {values[name]!r}. Write [{name}] and KEY = VALUE below."
            )
    for name in ("budgets", "train_budgets"):
        for key, value in values.get(name, {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{path}: the budget of {key!r} in [{name}] must be a number; got {value!r}.")
    config = from_mapping(TrainConfig, values)
    if config.seed is not None and config.seeds is not None:
        raise ConfigError(f"{path}: give seed or seeds, not both.")
    return config


def parse_seeds(text: str) -> list[int]:
    """Seeds of ``"0-4"``, ``"0,5,10"`` or a mixture, in order.

    Raises:
        ConfigError: another text, a range that runs backwards, or a seed given twice.

    Example:
        >>> parse_seeds("0-2,10")
        [0, 1, 2, 10]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"Seeds must look like 0-4 or 0,5,10; got {text!r}.")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"Every seed must be given once; got {text!r}.")
    return seeds
