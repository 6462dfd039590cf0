"""``saferl check``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, say


class Kind(StrEnum):
    """What can be checked."""

    ENV = "env"


@app.command(epilog="Example: saferl check env my_package.my_env:make --budget cost=25")
def check(
    kind: Annotated[Kind, typer.Argument(help="What to check: env.")],
    target: Annotated[str, typer.Argument(help="An env id, package.module:factory, or module:EnvId.")],
    budget: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: constraints to check with.")] = None,
    cost: Annotated[str | None, typer.Option(help="module:function, called with (obs, action, next_obs).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that an environment keeps the contract; list everything that is wrong."""
    from saferl.testing import check_env

    result = check_env(target, budgets=parse_budgets(budget), cost=cost)
    if as_json:
        print_json(result.to_dict())
    else:
        say(str(result))
    if not result.ok:
        raise typer.Exit(1)
