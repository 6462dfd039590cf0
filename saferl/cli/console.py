"""Output of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from saferl.constraints import VIOLATION_RATE
from saferl.errors import ConfigError

stdout = Console()
stderr = Console(stderr=True)

VERDICT_STYLES = {"satisfied": "green", "violated": "red", "undecided": "yellow"}


def print_error(message: str) -> None:
    """One error on stderr."""
    stderr.print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_warning(message: str) -> None:
    """One line on stderr that is not an error."""
    stderr.print(f"[yellow]Note:[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    stdout.file.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    stdout.file.flush()


def say(message: str) -> None:
    """One line on stdout, whatever it holds and however long it is: paths stay whole, to be copied."""
    stdout.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with count, elapsed time and time left, on stderr; an error that comes before any progress hides it."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=stderr,
    )
    with bar:
        try:
            yield bar
        except BaseException:
            bar.live.transient = not any(task.completed for task in bar.tasks)
            raise


def print_table(table: Table) -> None:
    """A table on stdout; files and pipes have no width that cells would have to be broken for."""
    if not stdout.is_terminal:
        stdout.width = max(stdout.width, 160)
    stdout.print(table)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    """A table of texts; all columns but the first are numbers."""
    table = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    print_table(table)


def print_summaries(summaries: Sequence[dict[str, Any]]) -> None:
    """The verdict table of some evaluations."""
    table = Table(title=None)
    for column in ("policy", "return (95 % CI)", "constraint", "mean cost (95 % CI)", "budget", "verdict"):
        table.add_column(column, overflow="fold")
    for summary in summaries:
        result = summary["return"]
        for index, (name, entry) in enumerate(summary["constraints"].items()):
            style = VERDICT_STYLES[entry["verdict"]]
            table.add_row(
                escape(_label(summary)) if index == 0 else "",
                f"{result['mean']:.1f} {_interval(result['ci95'], 1)}" if index == 0 else "",
                escape(name),
                f"{entry['mean']:.2f} {_interval(entry['ci95'], 2)}",
                f"{entry['sense']} {entry['budget']:g}",
                f"[{style}]{entry['verdict']}[/]",
            )
    print_table(table)
    for summary in summaries:
        shield = summary.get("shield")
        if shield is not None:
            low, high = (f"{100 * x:.3g}" if x is not None else "?" for x in shield["intervention_rate"]["ci95"])
            say(
                f"The shield {shield['name']} intervened in {100 * shield['intervention_rate']['mean']:.3g} % of the "
                f"steps (95 % interval {low} to {high} %), fell back in {shield['fallbacks']}, and took "
                f"{shield['latency_us']['p99']:.0f} us (p99)."
            )
        if summary["policy"].get("trained_for") == VIOLATION_RATE:
            for name, entry in summary["constraints"].items():
                rate = entry["step_violation_rate"]
                found = "an unknown share" if rate is None else f"{100 * rate:.2g} %"
                label = summary["policy"]["label"]
                say(f"{label} violates {name} in {found} of its steps. It was trained for few, not for a budget.")


def parse_budgets(assignments: Sequence[str] | None, option: str = "--budget") -> dict[str, float] | None:
    """``NAME=VALUE`` strings as a mapping, or None without any.

    Raises:
        ConfigError: a text that is not NAME=VALUE, or a name given twice.
    """
    budgets: dict[str, float] = {}
    for assignment in assignments or ():
        name, sign, text = assignment.partition("=")
        try:
            value = float(text)
        except ValueError:
            sign, value = "", 0.0
        if not sign or not name.strip():
            raise ConfigError(
                f"{option} must look like NAME=VALUE with a number; got {assignment!r}. Try {option} cost=25."
            )
        if name.strip() in budgets:
            raise ConfigError(f"{option} names {name.strip()!r} twice; give each cost one budget.")
        budgets[name.strip()] = value
    return budgets or None


def _label(summary: dict[str, Any]) -> str:
    shield = summary.get("shield")
    label = str(summary["policy"]["label"])
    return label if shield is None else f"{label} with {shield['name']} shield"


def _interval(bounds: Sequence[float | None], digits: int) -> str:
    low, high = ("?" if b is None else f"{b:.{digits}f}" for b in bounds)
    return f"[dim]({low} to {high})[/]"
