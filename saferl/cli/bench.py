"""``saferl bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import print_json, stderr
from saferl.errors import RunFolderError

bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure, with results as JSON.",
    epilog="Example: saferl bench train ppo_lag SafetyHalfCheetahVelocity-v1 --steps 20000 --repeats 1",
)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def _group() -> None:
    pass


@bench_app.command(
    epilog="Example: saferl bench train ppo_lag SafetyHalfCheetahVelocity-v1 --peer 'python peer.py' --out speed.json"
)
def train(
    solver: Annotated[str, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")],
    env: Annotated[str, typer.Argument(help="Environment; see 'saferl list envs'.")],
    steps: Annotated[int, typer.Option(help="Steps of each of our runs.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of solver or run.")] = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints a line 'STEPS_PER_SECOND x'.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write as well; an older one is replaced.")] = None,
) -> None:
    """Training throughput, ours and a peer's, measured in turn."""
    from dataclasses import asdict

    from saferl.bench import bench_training
    from saferl.solvers import SOLVERS
    from saferl.storage import write_json
    from saferl.training.settings import split_assignments

    config, settings = split_assignments(list(set_ or []), SOLVERS.load(solver).config_class)
    if out is not None:
        _check_output(out)
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


@bench_app.command(epilog="Example: saferl bench resume ppo_lag SafetyHalfCheetahVelocity-v1 --kills 20")
def resume(
    solver: Annotated[str, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")],
    env: Annotated[str, typer.Argument(help="Environment; see 'saferl list envs'.")],
    steps: Annotated[int, typer.Option(help="Steps of every run.")] = 8192,
    kills: Annotated[int, typer.Option(help="Runs to kill and to resume.")] = 20,
    kill_seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of solver or run.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write as well; an older one is replaced.")] = None,
) -> None:
    """Kill trainings (SIGKILL) at random moments and while they write checkpoints; are the resumed weights the same?"""
    from dataclasses import asdict

    from saferl.bench import bench_resume
    from saferl.solvers import SOLVERS
    from saferl.storage import write_json
    from saferl.training.settings import split_assignments

    config, settings = split_assignments(list(set_ or []), SOLVERS.load(solver).config_class)
    if out is not None:
        _check_output(out)
    result = bench_resume(
        solver,
        env,
        steps=steps,
        kills=kills,
        kill_seed=kill_seed,
        options=asdict(config),
        settings=settings,
        report=lambda line: stderr.print(line, highlight=False),
    )
    if out is not None:
        write_json(out, result)
    print_json(result)
    if result["same_weights"] != kills:
        raise typer.Exit(1)


def _check_output(path: Path) -> None:
    """Raise before the work, rather than after it, if its result could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = "it is a folder" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "permission denied"
    except OSError as error:
        reason = f"its folder cannot be made: {error}"
    if reason:
        raise RunFolderError(f"--out must be a JSON file that can be written; got {path}: {reason}. Choose another.")
