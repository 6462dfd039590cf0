"""``saferl bench point-robot-truth``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows, say


@bench_app.command(epilog="Example: saferl bench point-robot-truth --cache truth --figure slices.svg --json truth.json")
def point_robot_truth(
    cache: Annotated[Path, typer.Option(help="Folder where solved grids are kept.")] = Path("truth"),
    figure: Annotated[Path | None, typer.Option(help="Picture of the four slices (.svg or .png) to draw.")] = None,
    states: Annotated[int, typer.Option(help="States from which the greedy policy starts.")] = 4000,
    json: Json = None,
) -> None:
    """The avoidable set of PointRobot at two resolutions (about two minutes), on the slices that FISOR shows."""
    from saferl.bench import bench_point_robot_truth

    check_output(json)
    result = bench_point_robot_truth(cache=cache, figure=figure, states=states, report=report_line)
    print_rows(
        ("slice", "avoidable", "coarse agrees", "published mask agrees", "its false-safe rate", "its coverage"),
        [
            (
                f"{row['speed']:g} m/s, {row['heading']:g} degrees",
                f"{row['avoidable']['fine']:.2%}",
                f"{row['coarse_to_fine']['agreement']:.3%}",
                *(f"{row['published_to_fine'][key]:.3%}" for key in ("agreement", "false_safe", "coverage")),
            )
            for row in result["slices"]
        ],
        title="The fine grid, and who agrees with it",
    )
    for name, row in result["rollouts"].items():
        say(
            f"{name}: the greedy policy keeps {row['kept']:.2%} of {row['states']} avoidable states free of violations."
        )
    write_result(json, result)
