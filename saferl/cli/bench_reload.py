"""``saferl bench reload`` and ``saferl bench limits``: tasks on which Lagrangian methods oscillate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows


@bench_app.command(
    epilog="Example: saferl bench reload --json reload.json --table reload.md --figure reload.svg --jobs 2"
)
def reload(
    task: Annotated[
        list[str] | None,
        typer.Option(help="Environment (repeatable). Default: ParadoxA, ParadoxB, RandomBinding10 and CatchCost."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="ppo_lag, pid_lag, reload, 'reload without optimism' (repeatable). Default: all."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Environment steps of every reported training.")] = 200_000,
    tuning_steps: Annotated[
        int | None, typer.Option(help="Environment steps of every training of the choice. Default: --steps.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Reported training seeds, 0-4 or 0,5,10.")] = "0,5,10",
    tuning_seed: Annotated[int, typer.Option(help="Training seed on which settings are chosen.")] = 1000,
    episodes: Annotated[int, typer.Option(help="Fresh episodes of every late iterate, on sampled tasks.")] = 8,
    jobs: Annotated[int, typer.Option(help="Processes, one training each.")] = 1,
    cells: Annotated[
        Path | None,
        typer.Option(help="File of finished trainings, for a call that was cut to go on. Default: beside --json."),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Markdown file of the table to write as well.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Picture (.svg, .png) of the cost of every iterate.")] = None,
    json: Json = None,
) -> None:
    """Do late iterates settle? Four variants, each tuned among six settings, on tasks where plain ones oscillate.

    On finite CMDPs every iterate is evaluated exactly. On control tasks (DMWalkerHeight-v0, DMReacherVelocity-v0,
    DMQuadrupedTorque-v0, SafetyHalfCheetahVelocity-v1) the late iterates are evaluated by fresh episodes, and the
    variance of sampling is subtracted from theirs. Late are the last tenth.
    """
    from saferl.bench import bench_reload
    from saferl.bench.reload import FINITE_TASKS, VARIANTS
    from saferl.bench.reload.table import columns_of, markdown, rows_of
    from saferl.storage import write_text
    from saferl.training.config_file import parse_seeds

    check_output(json)
    check_output(table, "--table", "a Markdown file")
    if cells is None and json is not None:
        cells = json.with_suffix(".cells.jsonl")
    result = bench_reload(
        tuple(task or FINITE_TASKS),
        tuple(variant or VARIANTS),
        steps=steps,
        tuning_steps=tuning_steps,
        seeds=parse_seeds(seeds),
        tuning_seed=tuning_seed,
        episodes=episodes,
        jobs=jobs,
        cells=cells,
        figure=figure,
        report=report_line,
    )
    for kind, unit in (("exact", "step"), ("sampled", "episode")):
        rows = rows_of(result["tasks"], kind)
        if rows:
            print_rows(columns_of(kind), rows, title=f"Means over seeds {seeds} after {steps:,} steps, per {unit}")
    if table is not None:
        write_text(table, markdown(result))
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench limits DMWalkerHeight-v0 --steps 500000 --json limits.json")
def limits(
    task: Annotated[list[str], typer.Argument(help="Environments with one constraint; see 'saferl list envs'.")],
    steps: Annotated[int, typer.Option(help="Training steps of each of the two policies.")] = 500_000,
    seed: Annotated[int, typer.Option(help="Training seed.")] = 1000,
    episodes: Annotated[int, typer.Option(help="Fresh episodes of each policy.")] = 32,
    json: Json = None,
) -> None:
    """A limit that binds: half-way between the costs of a careless policy and of one that knows nothing but costs."""
    from saferl.bench import bench_limits

    check_output(json)
    result = bench_limits(task, steps=steps, seed=seed, episodes=episodes, report=report_line)
    print_rows(
        ("task", "careless cost", "careful cost", "limit", "careless return", "careful return"),
        [(name, *_numbers(row)) for name, row in result["tasks"].items()],
        title=f"PPO, {steps:,} steps, seed {seed}; means of {episodes} episodes",
    )
    write_result(json, result)


def _numbers(row: dict[str, Any]) -> list[str]:
    careless, careful = row["careless"], row["careful"]
    return [
        f"{value:.1f}"
        for value in (careless["cost"], careful["cost"], row["limit"], careless["return"], careful["return"])
    ]
