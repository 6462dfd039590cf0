"""``saferl report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import say
from saferl.errors import RunFolderError


@app.command(epilog="Example: saferl report runs/a runs/b --out report.html")
def report(
    evaluations: Annotated[list[Path], typer.Argument(help="Evaluation folders, or run folders (their newest one).")],
    out: Annotated[Path, typer.Option(help="The HTML file to write; an older one is replaced.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:
    """Put evaluations side by side in one HTML file that works offline."""
    from saferl.report import build_report

    path = build_report([newest_evaluation(folder) for folder in evaluations], out, title=title)
    say(f"Report written to {path}")


def newest_evaluation(folder: Path) -> Path:
    """The folder itself if it is an evaluation, else the newest evaluation of the run.

    Raises:
        RunFolderError: neither.
    """
    if not (folder / "run.json").is_file():
        return folder
    found = sorted((folder / "evaluations").glob("*/summary.json"))
    if not found:
        raise RunFolderError(f"The run {folder} has no evaluation yet. Make one with: saferl eval {folder}")
    return found[-1].parent
