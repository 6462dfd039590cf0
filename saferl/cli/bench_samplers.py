"""``saferl bench samplers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows


@bench_app.command(epilog="Example: saferl bench samplers --json samplers.json")
def samplers(
    data: Annotated[Path | None, typer.Argument(help="Data file. Default: 200,000 made-up steps.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Samples of a batch (repeatable). Default: 64, 2048.")] = None,
    length: Annotated[int, typer.Option(help="Steps of a window.")] = 10,
    repeats: Annotated[int, typer.Option(help="Readings of each; medians are reported.")] = 5,
    peer: Annotated[str | None, typer.Option(help="Python that has OSRL, to measure its loaders too.")] = None,
    json: Json = None,
) -> None:
    """Milliseconds per batch of transitions and windows, gathered at once and sample by sample."""
    from saferl.bench import bench_samplers

    check_output(json)
    batches = tuple(batch) if batch else (64, 2048)
    result = bench_samplers(data, batches=batches, length=length, repeats=repeats, peer=peer, report=report_line)
    names = list(result["rows"][0]["ms"])
    others = [name for name in names if not name.startswith("saferl")]
    print_rows(
        ("ms per batch", "batch", *names, *(f"{name} takes" for name in others)),
        [
            (
                row["kind"],
                str(row["batch"]),
                *(f"{row['ms'][name]['median']:.3f}" for name in names),
                *(f"{row['times_as_fast']['saferl'][name]:.1f} times" for name in others),
            )
            for row in result["rows"]
        ],
        title=f"{result['data']['steps']:,} steps; windows of {length}",
    )
    write_result(json, result)
