"""``saferl bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import print_rows, say, stderr
from saferl.errors import RunFolderError

bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure; results as a table, and with --json as a file.",
    epilog="Example: saferl bench env SafetyPointGoal1-v0 --json speed.json",
)
app.add_typer(bench_app, name="bench")

Json = Annotated[Path | None, typer.Option("--json", help="JSON file to write as well; an older one is replaced.")]
Solver = Annotated[str, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")]
Env = Annotated[str, typer.Argument(help="Environment; see 'saferl list envs'.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of solver or run.")]


@bench_app.callback()
def _group() -> None:
    pass


@bench_app.command(epilog="Example: saferl bench env SafetyPointGoal1-v0 --json speed.json")
def env(
    env: Env,
    num_envs: Annotated[int, typer.Option(help="Environments in the batch.")] = 64,
    steps: Annotated[int | None, typer.Option(help="Steps of each reading. Default: one episode.")] = None,
    repeats: Annotated[int, typer.Option(help="Readings of each; medians are reported.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads of the batch. Default: the cores.")] = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints a line 'ENV_STEPS_PER_SECOND x'.")] = None,
    json: Json = None,
) -> None:
    """Steps per second of the batched backend, its bare physics, the single environment and a peer, in turn."""
    from saferl.bench import bench_env

    _check_output(json)
    result = bench_env(
        env, num_envs=num_envs, steps=steps, repeats=repeats, num_threads=threads, peer=peer, report=_report
    )
    figures, ratios = result["steps_per_second"], result["ratios"]
    print_rows(
        ("", "steps/s (median)", "lowest", "highest", "batched is"),
        [
            (name, *(f"{row[key]:,.0f}" for key in ("median", "min", "max")), _times(ratios.get(f"batched_to_{name}")))
            for name, row in figures.items()
        ],
        title=f"{env}, {result['num_envs']} environments, {result['threads']} threads",
    )
    say(f"A reset takes {result['reset_ms']:.2f} ms; an environment takes {result['memory_mb_per_env']} MB.")
    _write(json, result)


@bench_app.command(
    epilog="Example: saferl bench train ppo_lag SafetyHalfCheetahVelocity-v1 --peer 'python peer.py' --json speed.json"
)
def train(
    solver: Solver,
    env: Env,
    steps: Annotated[int, typer.Option(help="Steps of each of our runs.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    set_: Set = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints a line 'STEPS_PER_SECOND x'.")] = None,
    json: Json = None,
) -> None:
    """Training throughput, ours and a peer's, measured in turn."""
    from saferl.bench import bench_training

    options, settings = _options(solver, set_)
    _check_output(json)
    result = bench_training(
        solver, env, steps=steps, repeats=repeats, options=options, settings=settings, peer=peer, report=_report
    )
    figures = result["results"]
    ratio = figures.get("ratio_of_medians")
    print_rows(
        ("", "steps/s (median)", "lowest", "highest", "saferl is"),
        [
            (name, *(f"{row[key]:,.0f}" for key in ("median", "min", "max")), _times(ratio if name == "peer" else None))
            for name, row in figures.items()
            if name != "ratio_of_medians"
        ],
        title=f"{solver} on {env}, {steps:,} steps, updates included",
    )
    _write(json, result)


@bench_app.command(epilog="Example: saferl bench resume ppo_lag SafetyHalfCheetahVelocity-v1 --kills 20")
def resume(
    solver: Solver,
    env: Env,
    steps: Annotated[int, typer.Option(help="Steps of every run.")] = 8192,
    kills: Annotated[int, typer.Option(help="Runs to kill and to resume.")] = 20,
    kill_seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    set_: Set = None,
    json: Json = None,
) -> None:
    """Kill trainings (SIGKILL) at random moments and while they write checkpoints; are the resumed weights the same?"""
    from saferl.bench import bench_resume

    options, settings = _options(solver, set_)
    _check_output(json)
    result = bench_resume(
        solver, env, steps=steps, kills=kills, kill_seed=kill_seed, options=options, settings=settings, report=_report
    )
    say(
        f"{result['same_weights']} of {kills} ended with the same weights; "
        f"{result['killed_while_writing']} were killed while a checkpoint was written."
    )
    _write(json, result)
    if result["same_weights"] != kills:
        raise typer.Exit(1)


def _options(solver: str, assignments: list[str] | None) -> tuple[dict[str, Any], Any]:
    from dataclasses import asdict

    from saferl.solvers import SOLVERS
    from saferl.training.settings import split_assignments

    config, settings = split_assignments(list(assignments or []), SOLVERS.load(solver).config_class)
    return asdict(config), settings


def _report(line: str) -> None:
    stderr.print(line, highlight=False)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} times"


def _write(path: Path | None, result: dict[str, Any]) -> None:
    from saferl.storage import write_json

    if path is not None:
        write_json(path, result)


def _check_output(path: Path | None) -> None:
    """Raise before the work, rather than after it, if its result could not be written."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = "it is a folder" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "permission denied"
    except OSError as error:
        reason = f"its folder cannot be made: {error}"
    if reason:
        raise RunFolderError(f"--json must name a JSON file that can be written; got {path}: {reason}. Choose another.")
