"""``saferl bench microgrid``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.bench import Json, bench_app, check_output, report_line, write_result
from saferl.cli.console import print_rows
from saferl.errors import UsageError


@bench_app.command(epilog="Example: saferl bench microgrid --days 30 --run ppo=runs/microgrid --json microgrid.json")
def microgrid(
    days: Annotated[int, typer.Option(help="Days per series.")] = 30,
    series: Annotated[
        list[str] | None, typer.Option(help="synthetic, adversarial (repeatable). Default: both.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="FOLDER or NAME=FOLDER: a trained run to show as well (repeatable).")
    ] = None,
    soc: Annotated[float, typer.Option(help="Charge of the battery at the start of a day.")] = 0.2,
    first_seed: Annotated[int, typer.Option(help="Seed of the first day; one per day follows.")] = 50_000,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    json: Json = None,
) -> None:
    """Fuel, deficits and wear of baselines and trained policies on the same days, and how much of the gap they close.

    The gap is the one between the rules of an operator and a linear program that knows the day.
    """
    from saferl.bench import bench_microgrid

    check_output(json)
    result = bench_microgrid(
        days=days,
        series=tuple(series or ("synthetic", "adversarial")),
        runs=_runs(run or []),
        soc=soc,
        first_seed=first_seed,
        jobs=jobs,
        report=report_line,
    )
    for name, table in result["series"].items():
        print_rows(_COLUMNS, _rows(table), title=f"{name}: means of {days} days, per day")
    write_result(json, result)


_COLUMNS = (
    "", "deficit (min)", "unmet (kWh)", "excess (min)", "fuel (l)", "fuel, charge priced (l)", "starts", "wear",
    "overrides", "gap closed",
)  # fmt: skip


def _rows(table: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, row in table["policies"].items():
        mean, gap = row["mean"], row["gap_closed"]
        low, high = gap["ci95"]
        fuel = (mean["fuel"], mean["adjusted_fuel"])
        rows.append(
            [
                name,
                *(f"{mean[key]:.1f}" for key in ("deficit", "unmet", "excess")),
                *(f"{value:.0f}" for value in fuel),
                *(f"{mean[key]:.1f}" for key in ("starts", "wear", "overrides")),
                f"{gap['share']:.0%} [{low:.0%}, {high:.0%}]" if row["is_comparable"] else "(deficits)",
            ]
        )
    rows.append(["perfect foresight", *[""] * 4, f"{table['foresight']['mean']:.0f}", *[""] * 3, "100%"])
    return rows


def _runs(values: list[str]) -> dict[str, Path]:
    """The runs that ``FOLDER`` or ``NAME=FOLDER`` name; without a name they are called like their folder."""
    found: dict[str, Path] = {}
    for value in values:
        name, sign, folder = value.partition("=")
        path = Path(folder if sign else value)
        name = name if sign else path.resolve().name
        if not name or name in found or (sign and not folder):
            raise UsageError(f"--run must be FOLDER or NAME=FOLDER, each name once; got {value!r}.")
        found[name] = path
    return found
