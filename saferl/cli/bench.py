"""``saferl bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import print_json, stderr

bench_app = typer.Typer(no_args_is_help=True, help="Measure, with results as JSON.")
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def _group() -> None:
    pass


@bench_app.command(
    epilog="Example: saferl bench train ppo_lag SafetyHalfCheetahVelocity-v1 --peer 'python peer.py' --out speed.json"
)
def train(
    solver: Annotated[str, typer.Argument(help="Name of a solver.")],
    env: Annotated[str, typer.Argument(help="Environment.")],
    steps: Annotated[int, typer.Option(help="Steps of each of our runs.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of solver or run.")] = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints 'STEPS_PER_SECOND x'.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write as well.")] = None,
) -> None:
    """Training throughput, ours and a peer's, measured in turn."""
    from dataclasses import asdict

    from saferl.bench import bench_training
    from saferl.solvers import SOLVERS
    from saferl.storage import write_json
    from saferl.training.settings import split_assignments

    config, settings = split_assignments(list(set_ or []), SOLVERS.load(solver).config_class)
    result = bench_training(
        solver,
        env,
        steps=steps,
        repeats=repeats,
        options=asdict(config),
        settings=settings,
        peer=peer,
        report=lambda line: stderr.print(line, highlight=False),
    )
    if out is not None:
        write_json(out, result)
    print_json(result)
