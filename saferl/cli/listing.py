"""``saferl list``."""

from __future__ import annotations

import ast
import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from saferl.cli.app import app
from saferl.cli.console import print_json, print_table, say
from saferl.errors import ConfigError


class What(StrEnum):
    """What can be listed."""

    ENVS = "envs"
    SOLVERS = "solvers"
    SHIELDS = "shields"
    OPTIONS = "options"


@app.command("list", epilog="Example: saferl list envs;  saferl list options ppo_lag")
def list_names(
    what: Annotated[What, typer.Argument(help="envs, solvers, shields, or the options of a solver.")],
    name: Annotated[str | None, typer.Argument(help="The solver, for 'options'.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what can be trained, on what, and with which options."""
    if name is not None and what is not What.OPTIONS:
        raise ConfigError(f"'saferl list {what}' takes no further name; got {name!r}.")
    rows = (
        {What.ENVS: _envs, What.SOLVERS: _solvers, What.SHIELDS: _shields}[what]()
        if what is not What.OPTIONS
        else (_options(name))
    )
    if as_json:
        print_json(rows)
    elif not rows:
        say(f"No {what} registered. Packages add theirs through the entry-point group saferl.{what}.")
    elif what is What.OPTIONS:
        _print_table([{**row, "type": _typed(row["type"]), "default": _default(row["default"])} for row in rows])
        say(f"Choose with: saferl train {name} ENV --set OPTION=VALUE (as often as needed)")
    else:
        _print_table(rows)


def _envs() -> list[dict[str, Any]]:
    from saferl.envs.registry import ENVS
    from saferl.envs.spec import EnvSpec

    rows: list[dict[str, Any]] = []
    for name in ENVS:
        entry = ENVS.get(name)
        spec = entry.target
        if isinstance(spec, EnvSpec):
            costs = {c.name: c.budget for c in spec.constraints}
            rows.append({"id": name, "costs": costs, "horizon": spec.horizon, "about": spec.summary})
        else:
            rows.append({"id": name, "costs": None, "horizon": None, "about": entry.summary})
    return rows


def _solvers() -> list[dict[str, Any]]:
    from saferl.solvers import SOLVERS

    return [{"name": name, "about": SOLVERS.get(name).summary} for name in SOLVERS]


def _shields() -> list[dict[str, Any]]:
    from saferl.shields import SHIELDS

    return [{"name": name, "about": SHIELDS.get(name).summary} for name in SHIELDS]


def _options(name: str | None) -> list[dict[str, Any]]:
    from saferl.config import describe
    from saferl.solvers import SOLVERS

    if name is None:
        raise ConfigError(f"Name a solver: saferl list options NAME, with NAME in {', '.join(SOLVERS)}.")
    solver = SOLVERS.load(name)
    from saferl.training.settings import RunSettings

    return [
        {"of": of, "option": o.name, "type": o.type, "default": o.default, "about": o.help}
        for of, config in ((name, solver.config_class), ("run", RunSettings))
        for o in describe(config)
    ]


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    print_table(table)


def _default(value: Any) -> str:
    """A default as ``--set`` reads it: JSON, or bare text."""
    return value if isinstance(value, str) else json.dumps(value)


def _typed(annotation: str) -> str:
    """A type annotation in the words of ``--set``."""
    if annotation.startswith("Literal["):
        return ", ".join(ast.literal_eval(annotation.removeprefix("Literal")))
    return annotation.replace("tuple[int, ...]", "list of int").replace("None", "null")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} <= {v:g}" for k, v in value.items())
    return "-" if value is None else str(value).replace("``", "'")
