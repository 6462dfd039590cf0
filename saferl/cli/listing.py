"""``saferl list``."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from saferl.cli.app import app
from saferl.cli.console import print_json, print_table, say
from saferl.errors import ConfigError

_FACTS = ("family", "sampling", "actions", "kinds", "guarantee", "paper")
"""What is listed of a solver beside its name and a line about it."""
_SHIELD_FACTS = ("needs", "guarantee", "actions", "speed")
"""The same of a shield."""


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
        say(f"Choose with: saferl train {name} {_source_of(name)} --set OPTION=VALUE (as often as needed)")
    elif what is What.SOLVERS:
        _print_blocks(rows, _facts_of)
    elif what is What.SHIELDS:
        _print_blocks(rows, _shield_facts_of)
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
    from saferl.solvers.catalogue import CATALOGUE

    rows: list[dict[str, Any]] = []
    for name in SOLVERS:
        # Of a plug-in's solver nothing more is known without loading it.
        known = CATALOGUE[name].to_dict() if name in CATALOGUE else dict.fromkeys(_FACTS)
        rows.append({"name": name, "about": SOLVERS.get(name).summary, **{key: known[key] for key in _FACTS}})
    return rows


def _shields() -> list[dict[str, Any]]:
    from saferl.shields import SHIELDS
    from saferl.shields.catalogue import CATALOGUE

    rows: list[dict[str, Any]] = []
    for name in SHIELDS:
        known = CATALOGUE[name].to_dict() if name in CATALOGUE else dict.fromkeys(_SHIELD_FACTS)
        rows.append({"name": name, "about": SHIELDS.get(name).summary, **{key: known[key] for key in _SHIELD_FACTS}})
    return rows


def _options(name: str | None) -> list[dict[str, Any]]:
    from saferl.config import describe
    from saferl.solvers import SOLVERS

    if name is None:
        raise ConfigError(f"Name a solver: saferl list options NAME, with NAME in {', '.join(SOLVERS)}.")
    solver = SOLVERS.load(name)
    from saferl.training.settings import OfflineSettings, RunSettings

    settings = OfflineSettings if getattr(solver, "sampling", None) == "offline" else RunSettings
    return [
        {"of": of, "option": o.name, "type": o.type, "default": o.default, "about": o.help}
        for of, config in ((name, solver.config_class), ("run", settings))
        for o in describe(config)
    ]


def _source_of(name: str | None) -> str:
    """What the solver of that name learns from, in the words of ``saferl train``."""
    from saferl.solvers import SOLVERS

    return "DATA.hdf5" if name and getattr(SOLVERS.load(name), "sampling", None) == "offline" else "ENV"


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    print_table(table)


def _print_blocks(rows: list[dict[str, Any]], facts_of: Callable[[dict[str, Any]], dict[str, str]]) -> None:
    """One block of lines per row: as columns, so many texts would be a word wide."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for index, row in enumerate(rows):
        if index:
            table.add_row()
        table.add_row(f"[bold]{escape(row['name'])}[/]", escape(row["about"]))
        for label, text in facts_of(row).items():
            table.add_row(f"  {label}", escape(text))
    print_table(table)


def _facts_of(row: dict[str, Any]) -> dict[str, str]:
    """Label and text of every line below a solver's name; none of a solver that nothing is known of."""
    from saferl.solvers.catalogue import Paper

    if row["family"] is None:
        return {}
    return {
        "family": f"{row['family']}, {row['sampling']}",
        "actions": ", ".join(row["actions"]),
        "kinds": ", ".join(row["kinds"]),
        "guarantee": row["guarantee"],
        "paper": str(Paper(**row["paper"])),
    }


def _shield_facts_of(row: dict[str, Any]) -> dict[str, str]:
    """Label and text of every line below a shield's name; none of a shield that nothing is known of."""
    if row["guarantee"] is None:
        return {}
    return {
        "needs": ", ".join(row["needs"]) or "nothing",
        "guarantee": row["guarantee"],
        "actions": ", ".join(row["actions"]),
        "speed": row["speed"],
    }


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
