"""``saferl train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, progress_bar, say


@app.command(epilog="Example: saferl train ppo_lag SafetyPointGoal1-v0 --steps 200000 --budget cost=25 --out runs/goal")
def train(
    solver: Annotated[str, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")],
    env: Annotated[str, typer.Argument(help="An env id, package.module:factory, or module:EnvId.")],
    steps: Annotated[int, typer.Option(help="Environment steps, over all environments.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the run.")] = 0,
    num_envs: Annotated[int | None, typer.Option(help="Environments stepped together.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: what must hold (repeatable). Default: the env's own.")
    ] = None,
    train_budget: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: train at another budget than must hold, to leave a margin.")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="module:function, called with (obs, action, next_obs): costs for an env without.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: an option; see 'saferl list options SOLVER'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder. Default: runs/SOLVER-ENV-SEED.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a policy under cost budgets and write a run folder."""
    from dataclasses import asdict

    from saferl.solvers import SOLVERS
    from saferl.training import train as run_training
    from saferl.training.settings import split_assignments

    assignments = list(set_ or []) + ([f"num_envs={num_envs}"] if num_envs is not None else [])
    config, settings = split_assignments(assignments, SOLVERS.load(solver).config_class)
    folder = out or _free_name(Path("runs") / f"{solver}-{env.replace(':', '.').replace('/', '.')}-{seed}")
    with progress_bar() as bar:
        task = bar.add_task(f"{solver} on {env}", total=steps, note="")

        def report(done: int, latest: dict[str, float]) -> None:
            note = "  ".join(f"{key} {value:.1f}" for key, value in latest.items())
            bar.update(task, completed=min(done, steps), note=note)

        result = run_training(
            solver,
            env,
            steps=steps,
            out=folder,
            seed=seed,
            budgets=parse_budgets(budget),
            train_budgets=parse_budgets(train_budget, "--train-budget"),
            cost=cost,
            options=asdict(config),
            settings=settings,
            progress=report,
        )
    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
                "steps_per_second": round(result.steps_per_second, 1),
            }
        )
    else:
        say(f"Trained {result.steps:,} steps at {result.steps_per_second:,.0f} steps/s into {result.folder}")
        say(f"Next: {shlex.join(['saferl', 'eval', str(result.folder)])}")


def _free_name(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
