"""The Typer application, and how errors leave it: one message, exit code 2 for bad usage, 1 for a failed run."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from saferl import __version__
from saferl.cli.console import print_error
from saferl.errors import SaferlError, missing_extra

app = typer.Typer(
    name="saferl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Safe, constrained reinforcement learning: train under cost budgets, evaluate with statistics, report.",
    epilog="Start with: saferl quickstart --out runs/quick",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"saferl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that saferl raises on purpose become one message and an exit code."""
    # A console script does not see the current folder, where users keep their own environments.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    _load_commands()
    try:
        app(args=arguments, standalone_mode=True)
    except SaferlError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = missing_extra(error, "This command")
        if missing is None:
            raise
        print_error(str(missing))
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        print_error("Interrupted.")
        sys.exit(130)


def _load_commands() -> Any:
    """Import the modules that register commands (each loads what it needs only when it runs)."""
    from saferl.cli import (
        bench,
        bench_microgrid,
        bench_offline,
        bench_point_robot,
        bench_reload,
        bench_samplers,
        check,
        collect,
        data,
        estimate,
        evaluate,
        listing,
        quickstart,
        report,
        train,
    )

    benchmarks = (bench, bench_microgrid, bench_offline, bench_point_robot, bench_reload, bench_samplers)
    modules = (check, collect, data, evaluate)
    return *benchmarks, *modules, estimate, listing, quickstart, report, train
