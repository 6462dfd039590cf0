"""Which of two kinds a training is: online, in an environment, or offline, from a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saferl.data.dsrl import is_data_file
from saferl.errors import ConfigError
from saferl.solvers import SOLVERS


def is_offline(solver: str) -> bool:
    """Whether the solver of that name learns from data alone.

    Raises:
        UnknownNameError: no such solver.
    """
    return getattr(SOLVERS.load(solver), "sampling", None) == "offline"


def names_data(target: Any) -> bool:
    """Whether ``target`` is the name of a data file rather than an environment."""
    return isinstance(target, str | Path) and (is_data_file(target) or Path(target).is_file())


def refuse_online_arguments(solver: str, target: Any, **given: Any) -> None:
    """Raise if ``solver`` does not learn from ``target``, or if an argument is given that only online runs take.

    Args:
        solver: Name of a solver.
        target: An environment or a data file.
        **given: Arguments of online runs.

    Raises:
        ConfigError: naming what does not fit.
    """
    if not is_offline(solver):
        raise ConfigError(
            f"{solver} learns in an environment, not from data; got the data {target}. Name an environment, or an "
            "offline solver (saferl list solvers)."
        )
    if not names_data(target):
        raise ConfigError(
            f"{solver} learns from data, not in an environment; got {str(target)!r}, which is no file. Collect data "
            f"first (saferl collect ENV --out DATA.hdf5), then saferl train {solver} DATA.hdf5."
        )
    names = [name for name, value in given.items() if value not in (None, {}, [])]
    if names:
        raise ConfigError(
            f"{solver} learns from data: {', '.join(names)} belong to training in an environment. Leave them out."
        )
