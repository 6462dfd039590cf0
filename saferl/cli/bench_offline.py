"""``saferl bench offline-inference``."""

from __future__ import annotations

from typing import Annotated

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows


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
