"""``saferl bench offline``, ``offline-inference`` and ``offline-training``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows


@bench_app.command(
    epilog="Example: saferl bench offline data/pg1.hdf5 --solver cdt --solver fisor:small:50000 --json offline.json"
)
def offline(
    data: Annotated[Path, typer.Argument(help="Data file with one cost, of a known environment.")],
    solver: Annotated[list[str], typer.Option(help="SOLVER[:PRESET[:STEPS]] (repeatable).")],
    budget: Annotated[list[float], typer.Option(help="Budget of the episode's cost sum (repeatable).")],
    steps: Annotated[int, typer.Option(help="Gradient steps, the peer's too.")] = 5000,
    batch: Annotated[int, typer.Option(help="Batch of solvers that have one, the peer's too.")] = 64,
    seeds: Annotated[str, typer.Option(help="Training seeds, 0-4 or 0,5,10.")] = "0,1,2",
    episodes: Annotated[int, typer.Option(help="Episodes of every evaluation.")] = 100,
    peer: Annotated[str | None, typer.Option(help="Python that has OSRL; without, there is no comparison.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; what it holds is not done again.")] = Path("runs"),
    json: Json = None,
) -> None:
    """Train offline solvers and OSRL's on one data file; one verdict per budget, scores by the data's extrema."""
    from saferl.bench import bench_offline
    from saferl.bench.offline import Entry
    from saferl.training.config_file import parse_seeds

    check_output(json)
    result = bench_offline(
        data,
        [Entry.parse(text, steps=steps, batch=batch) for text in solver],
        budgets=budget,
        seeds=parse_seeds(seeds),
        runs=runs,
        peer=peer,
        steps=steps,
        batch=batch,
        episodes=episodes,
        report=report_line,
    )
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench offline-inference --json inference.json")
def offline_inference(
    observation: Annotated[int, typer.Option(help="Width of an observation.")] = 60,
    action: Annotated[int, typer.Option(help="Width of an action.")] = 2,
    repeats: Annotated[int, typer.Option(help="Readings of each; medians are reported.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    json: Json = None,
) -> None:
    """Milliseconds per action of FISOR's presets, for one environment and for 64 at once."""
    from saferl.bench import bench_offline_inference

    check_output(json)
    result = bench_offline_inference(
        observation=observation, action=action, repeats=repeats, threads=threads, report=report_line
    )
    print_rows(
        ("preset", "parameters", "batch", "ms per action", "of it processor", "to reach"),
        [
            (
                row["preset"],
                f"{row['parameters']:,}",
                str(row["batch"]),
                f"{row['ms_per_action']['median']:.3f}",
                f"{row['processor_ms_per_action']:.3f}",
                f"{row['limit_ms']:g} ({'yes' if row['is_reached'] else 'no'})",
            )
            for row in result["rows"]
        ],
        title=f"{threads} threads, random weights",
    )
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench offline-training --peer peer/bin/python --json training.json")
def offline_training(
    observation: Annotated[int, typer.Option(help="Width of an observation.")] = 60,
    action: Annotated[int, typer.Option(help="Width of an action.")] = 2,
    batch: Annotated[list[int], typer.Option(help="Windows per training step (repeatable).")] = [64, 2048],  # noqa: B006
    repeats: Annotated[int, typer.Option(help="Readings of each; medians are reported.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch, the peer's too.")] = 2,
    peer: Annotated[str | None, typer.Option(help="Python that has OSRL; without, there is no comparison.")] = None,
    json: Json = None,
) -> None:
    """Seconds per training step of CDT and per thousand actions, ours and OSRL's in turn."""
    from saferl.bench import bench_offline_training

    check_output(json)
    result = bench_offline_training(
        observation=observation,
        action=action,
        batches=batch,
        repeats=repeats,
        threads=threads,
        peer=peer,
        report=report_line,
    )
    write_result(json, result)
