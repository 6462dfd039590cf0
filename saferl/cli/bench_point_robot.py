"""``saferl bench point-robot-truth`` and ``saferl bench point-robot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


@bench_app.command(epilog="Example: saferl bench point-robot runs/f --cache truth --figure f.svg --json f.json")
def point_robot(
    runs: Annotated[list[Path], typer.Argument(help="Runs of fisor on PointRobot-v0.")],
    cache: Annotated[Path, typer.Option(help="Folder where the solved grid is kept.")] = Path("truth"),
    figure: Annotated[Path | None, typer.Option(help="Picture of the first run's slices (.svg or .png).")] = None,
    episodes: Annotated[int, typer.Option(help="Episodes from feasible starts, and from the published one.")] = 300,
    calibration: Annotated[int, typer.Option(help="Held-out episodes that choose epsilon.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of starts and noise.")] = 0,
    json: Json = None,
) -> None:
    """What FISOR learned on PointRobot: its feasible set against the truth, its policy, and its values as a shield."""
    from saferl.bench import bench_point_robot

    check_output(json)
    result = bench_point_robot(
        runs=runs,
        cache=cache,
        figure=figure,
        episodes=episodes,
        calibration=calibration,
        seed=seed,
        report=report_line,
    )
    print_rows(
        ("run", "epsilon", "false-safe, worst slice", "coverage, worst slice", "violations", "goal", "published start"),
        [
            (
                row["run"],
                f"{row['epsilon']:.3f}",
                f"{max(part['calibrated']['false_safe'] for part in row['slices']):.2%}",
                f"{min(part['calibrated']['coverage'] for part in row['slices']):.1%}",
                *_outcome(row["episodes"]["feasible"]),
                f"{row['episodes']['published']['violations']} violations",
            )
            for row in result["rows"]
        ],
        title=f"FISOR on PointRobot, {episodes} episodes",
    )
    print_rows(
        ("run", "a reckless driver", "violations", "goal"),
        [(row["run"], name, *_outcome(part)) for row in result["rows"] for name, part in row["shield"].items()],
        title="The same values as a shield",
    )
    write_result(json, result)


def _outcome(part: dict[str, Any]) -> tuple[str, str]:
    return f"{part['violations']} of {part['episodes']}", f"{part['goal']:.1%}"
