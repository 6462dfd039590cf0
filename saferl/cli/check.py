"""``saferl check``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, say
from saferl.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from saferl.testing.reports import CheckReport, ShieldCheckReport


class Kind(StrEnum):
    """What can be checked."""

    ENV = "env"
    SOLVER = "solver"
    SHIELD = "shield"


@app.command(epilog="Example: saferl check env my_package.my_env:make --budget cost=25")
def check(
    kind: Annotated[Kind, typer.Argument(help="What to check: env, solver or shield.")],
    target: Annotated[
        str,
        typer.Argument(
            help="An env id, package.module:factory or module:EnvId; the name of a solver; the folder of a saved "
            "shield, package.module:factory of a shield or saferl.testing.ShieldCase, a shield's name with --env."
        ),
    ],
    budget: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: constraints to check with.")] = None,
    cost: Annotated[str | None, typer.Option(help="module:function, called with (obs, action, next_obs).")] = None,
    env: Annotated[str | None, typer.Option(help="For a shield: the env whose observations it is given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that an environment, a solver or a shield keeps the contract; list everything that is wrong."""
    from saferl.testing import check_env, check_solver

    if kind is Kind.SOLVER and (budget or cost):
        raise ConfigError("--budget and --cost are for environments; leave them out to check a solver.")
    if kind is Kind.SHIELD and (budget or cost) and env is None:
        raise ConfigError("--budget and --cost are for environments; name one with --env, or leave them out.")
    if kind is not Kind.SHIELD and env is not None:
        raise ConfigError("--env is for shields; leave it out to check an env or a solver.")
    result: CheckReport
    if kind is Kind.SHIELD:
        result = _check_shield(target, env, budgets=parse_budgets(budget), cost=cost)
    elif kind is Kind.ENV:
        result = check_env(target, budgets=parse_budgets(budget), cost=cost)
    else:
        result = check_solver(target)
    if as_json:
        print_json(result.to_dict())
    else:
        say(str(result))
    if not result.ok:
        raise typer.Exit(1)


def _check_shield(target: str, env_id: str | None, **make_kwargs: Any) -> ShieldCheckReport:
    """A folder, a factory without arguments, or, with an env, all that ``saferl eval --shield`` takes."""
    import saferl
    from saferl.deploy.sources import find_shield
    from saferl.registry import load_object
    from saferl.shields import SHIELDS, load_shield
    from saferl.testing import check_shield

    if env_id is not None:
        with contextlib.closing(saferl.make(env_id, **make_kwargs)) as env:
            return check_shield(find_shield(target, env), sample_obs=_observations(env))
    if Path(target).is_dir():
        return check_shield(load_shield(target))
    if ":" in target:
        return check_shield(load_object(target))
    unit = SHIELDS.get(target).name
    raise ConfigError(f"A shield's name alone is no shield: add --env ENV to {unit!r}, or give a folder.")


def _observations(env: Any) -> Callable[[np.random.Generator], Any]:
    """Draws observations of random episodes; they go on from one draw to the next."""
    running = False

    def sample(generator: np.random.Generator) -> Any:
        nonlocal running
        if not running:
            seed = int(generator.integers(2**31))
            env.action_space.seed(seed)
            obs, _ = env.reset(seed=seed)
            running = True
        else:
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            running = not (terminated or truncated)
        return obs

    return sample
