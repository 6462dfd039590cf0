"""``saferl check``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, say
from saferl.errors import ConfigError

if TYPE_CHECKING:
    from saferl.testing.reports import CheckReport


class Kind(StrEnum):
    """What can be checked."""

    ENV = "env"
    SOLVER = "solver"


@app.command(epilog="Example: saferl check env my_package.my_env:make --budget cost=25")
def check(
    kind: Annotated[Kind, typer.Argument(help="What to check: env or solver.")],
    target: Annotated[
        str, typer.Argument(help="An env id, package.module:factory or module:EnvId; the name of a solver.")
    ],
    budget: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: constraints to check with.")] = None,
    cost: Annotated[str | None, typer.Option(help="module:function, called with (obs, action, next_obs).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that an environment or a solver keeps the contract; list everything that is wrong."""
    from saferl.testing import check_env, check_solver

    if kind is Kind.SOLVER and (budget or cost):
        raise ConfigError("--budget and --cost are for environments; leave them out to check a solver.")
    is_env = kind is Kind.ENV
    result: CheckReport = (
        check_env(target, budgets=parse_budgets(budget), cost=cost) if is_env else check_solver(target)
    )
    if as_json:
        print_json(result.to_dict())
    else:
        say(str(result))
    if not result.ok:
        raise typer.Exit(1)
