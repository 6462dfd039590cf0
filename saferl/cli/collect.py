"""``saferl collect``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import print_json, progress_bar, say
from saferl.errors import ConfigError


@app.command(epilog="Example: saferl collect PointRobot-v0 --episodes 400 --out data/pr.hdf5")
def collect(
    env: Annotated[str, typer.Argument(help="Name of an environment; see 'saferl list envs'.")],
    out: Annotated[Path, typer.Option(help="New data file (HDF5 in DSRL's layout).")],
    episodes: Annotated[int, typer.Option(help="Episodes to keep.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; the data does not depend on it.")] = 1,
    plan: Annotated[
        Path | None, typer.Option(help="TOML file that says who collects. Default: the plan of the task's family.")
    ] = None,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep the agents' runs, in OUT.work.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Collect a data set for offline solvers; the same command goes on with one that was cut."""
    from saferl.collection import collect as run_collect
    from saferl.collection.plan import parse_plan

    chosen = None
    if plan is not None:
        try:
            chosen = parse_plan(plan.read_text(encoding="utf-8"), plan.stem)
        except OSError as error:
            raise ConfigError(f"The plan cannot be read: {plan} ({error.strerror}).") from error
    with progress_bar() as bar:
        task = bar.add_task(f"collect on {env}", total=None, note="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = run_collect(
            env, episodes=episodes, out=out, seed=seed, jobs=jobs, plan=chosen, keep_work=keep_work, report=report
        )
    summary = _summary(result)
    if as_json:
        print_json(summary)
        return
    say(f"Kept {summary['episodes']} of {summary['collected']} episodes ({summary['steps']:,} steps) in {out}")
    say(f"Next: {shlex.join(['saferl', 'data', 'card', str(out)])}")


def _summary(result: Any) -> dict[str, Any]:
    data = result.dataset
    sums = data.cost_returns()
    return {
        "path": str(result.path),
        "env": data.metadata.env_id,
        "episodes": data.num_episodes,
        "collected": result.collected,
        "steps": len(data),
        "return": [float(data.returns().min()), float(data.returns().max())],
        "costs": {name: [float(c.min()), float(c.max())] for name, c in zip(data.cost_names, sums.T, strict=True)},
        "seconds": round(result.seconds, 1),
    }
