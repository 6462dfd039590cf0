"""``saferl data``: look at data files, filter them, and write them in another layout."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, print_rows, say
from saferl.errors import ConfigError

if TYPE_CHECKING:
    from saferl.data import Dataset
    from saferl.data.filters import Rectangle

    Filter = tuple[str, Callable[[Dataset], Dataset]]

data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at data files, filter them, and write them in another layout.",
    epilog="Example: saferl data info data/pr.hdf5",
)
app.add_typer(data_app, name="data")

File = Annotated[Path, typer.Argument(help="Data file (HDF5 in DSRL's layout) or folder (Minari's).")]
NewFile = Annotated[Path, typer.Option(help="New data file.")]


class Layout(StrEnum):
    """Layouts of data."""

    DSRL = "dsrl"
    MINARI = "minari"


@data_app.callback()
def _group() -> None:
    pass


@data_app.command(epilog="Example: saferl data info data/pr.hdf5")
def info(
    file: File, as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False
) -> None:
    """Check a data set, and say what it holds."""
    from saferl.data import load_dataset
    from saferl.data.card import describe

    facts = describe(load_dataset(file), name=str(file))
    if as_json:
        print_json(facts)
        return
    env = facts["env"] or "an unnamed environment"
    say(f"{file}: {facts['episodes']:,} episodes, {facts['steps']:,} steps of {env}")
    returns, lengths = facts["returns"], facts["lengths"]
    rows = [("return", *_numbers(returns), "", "", ""), ("length", *_numbers(lengths), "", "", "")]
    for name, row in facts["costs"].items():
        limit = ("", "") if row["budget"] is None else (f"{row['budget']:g}", f"{row['within']:.1%}")
        rows.append((name, *_numbers(row), f"{row['free']:.1%}", *limit))
    print_rows(("per episode", "least", "median", "mean", "most", "none", "budget", "within it"), rows, title="")
    say(f"observations of {facts['observation']}, {facts['action']} actions; margins: {facts['has_margins']}")
    if facts["note"]:
        say(facts["note"])


@data_app.command(epilog="Example: saferl data card data/pr.hdf5 --out data/pr-card")
def card(
    file: File,
    out: Annotated[Path | None, typer.Option(help="New folder. Default: the file's name, with -card.")] = None,
) -> None:
    """Write a card of a data set: a Markdown page with pictures of returns and costs, quality and coverage."""
    from saferl.data import load_dataset
    from saferl.data.card import write_card

    folder = out if out is not None else file.with_name(f"{file.stem}-card")
    say(f"Card: {write_card(load_dataset(file), folder, name=file.name)}")


@data_app.command(epilog="Example: saferl data filter data/pr.hdf5 --best cost=5 --count 100 --out data/safe.hdf5")
def filter(
    file: File,
    out: NewFile,
    returns: Annotated[
        str | None, typer.Option("--return", help="LOW:HIGH of the return; either may be empty.")
    ] = None,
    cost: Annotated[list[str] | None, typer.Option(help="NAME=LOW:HIGH of a cost sum (repeatable).")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="C0:C1,R0:R1: cut out this part of the cost's and return's ranges, in [0, 1] (repeatable)."),
    ] = None,
    best: Annotated[list[str] | None, typer.Option(help="NAME=BUDGET: episodes that keep it (repeatable).")] = None,
    count: Annotated[int | None, typer.Option(help="With --best: only so many, of largest return.")] = None,
    cells: Annotated[
        str | None, typer.Option(help="COSTSxRETURNS: a grid on which crowds are thinned, 10x50 say.")
    ] = None,
    at_most: Annotated[int, typer.Option(help="With --cells: episodes that a cell keeps.")] = 10,
    at_least: Annotated[int, typer.Option(help="With --cells: fewer in a cell are outliers, and dropped.")] = 1,
    share: Annotated[float | None, typer.Option(help="Random share of the episodes, in (0, 1].")] = None,
    outliers: Annotated[
        float | None, typer.Option(help="Share of episodes to turn into lucky ones, as DSRL does; needs --below.")
    ] = None,
    below: Annotated[float | None, typer.Option(help="With --outliers: the budget that they seem to keep.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Write the episodes that pass every filter given, applied in the order of the options above."""
    from saferl.data import load_dataset, write_dsrl

    if (outliers is None) != (below is None):
        raise ConfigError("--outliers and --below belong together; give both or neither.")
    if count is not None and not best:
        raise ConfigError("--count is for --best; give a budget that the best episodes keep, --best cost=10.")
    filters = [
        *_by_value(returns, cost or [], without or []),
        *_by_rank(parse_budgets(best, "--best"), count),
        *_by_chance(cells, at_least, at_most, share, seed),
        *_spoiling(outliers, below, seed),
    ]
    if not filters:
        raise ConfigError("No filter is given; 'saferl data filter --help' lists them. To copy data, copy the file.")
    before = data = load_dataset(file)
    done = []
    for words, apply in filters:
        data = apply(data)
        done.append(f"{words}: {data.num_episodes}")
    note = f"{data.metadata.note}; filtered: {', '.join(done)}".removeprefix("; ")
    write_dsrl(data.with_metadata(replace(data.metadata, note=note)), out)
    say(f"Kept {data.num_episodes:,} of {before.num_episodes:,} episodes ({len(data):,} steps) in {out}")


@data_app.command(epilog="Example: saferl data convert data/pr.hdf5 --to minari --out minari/point-robot-v0")
def convert(
    file: File,
    out: Annotated[Path, typer.Option(help="New file, or for Minari new folder NAME-vN.")],
    to: Annotated[Layout, typer.Option(help="Layout to write.")],
    compression: Annotated[
        int, typer.Option(min=0, max=9, help="Of DSRL's layout: gzip's level; 0 can be memory-mapped.")
    ] = 4,
) -> None:
    """Write a data set in another layout; nothing is lost."""
    from saferl.data import load_dataset, write_dsrl
    from saferl.data.minari import write_minari

    data = load_dataset(file)
    written = write_minari(data, out) if to is Layout.MINARI else write_dsrl(data, out, compression=compression)
    say(f"Wrote {data.num_episodes:,} episodes ({len(data):,} steps) to {written}")
    if to is Layout.MINARI:
        where = shlex.quote(str(written.resolve().parent))
        say(f"MINARI_DATASETS_PATH={where} lets minari.load_dataset({written.name!r}) find it.")


def _by_value(returns: str | None, costs: list[str], without: list[str]) -> Iterator[Filter]:
    from saferl.data import filters as f

    if returns is not None or costs:
        wanted, limits = None if returns is None else _range(returns, "--return"), dict(map(_named_range, costs))
        words = " and ".join([*([] if returns is None else [f"return={returns}"]), *costs])
        yield words, lambda data: f.in_ranges(data, returns=wanted, costs=limits)
    if without:
        rectangles = [_rectangle(text) for text in without]
        yield f"without {' '.join(without)}", lambda data: f.without(data, rectangles)


def _by_rank(budgets: dict[str, float] | None, count: int | None) -> Iterator[Filter]:
    from saferl.data import filters as f

    if budgets is not None:
        limits = " ".join(f"{name}={budget:g}" for name, budget in budgets.items())
        words = f"best {'' if count is None else f'{count} '}within {limits}"
        yield words, lambda data: f.best_within(data, budgets, count=count)


def _by_chance(cells: str | None, at_least: int, at_most: int, share: float | None, seed: int) -> Iterator[Filter]:
    from saferl.data import filters as f

    if cells is not None:
        grid = _cells(cells)
        words = f"{at_least} to {at_most} per cell of {cells}, seed {seed}"
        yield words, lambda data: f.thinned(data, cells=grid, at_most=at_most, at_least=at_least, seed=seed)
    if share is not None:
        yield f"a share of {share:g}, seed {seed}", lambda data: f.random_share(data, share, seed=seed)


def _spoiling(outliers: float | None, below: float | None, seed: int) -> Iterator[Filter]:
    from saferl.data import filters as f

    if outliers is not None and below is not None:
        words = f"a share of {outliers:g} turned into outliers below {below:g}, seed {seed}"
        yield words, lambda data: f.with_outliers(data, outliers, budget=below, seed=seed)


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{row[key]:.4g}" for key in ("min", "median", "mean", "max"))


def _range(text: str, option: str) -> tuple[float, float]:
    low, sign, high = text.partition(":")
    try:
        if not sign:
            raise ValueError
        limits = float(low or -math.inf), float(high or math.inf)
    except ValueError:
        raise ConfigError(f"{option} must look like LOW:HIGH, either may be empty; got {text!r}. Try 0:25.") from None
    return limits


def _named_range(text: str) -> tuple[str, tuple[float, float]]:
    name, sign, limits = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"--cost must look like NAME=LOW:HIGH; got {text!r}. Try --cost cost=0:25.")
    return name.strip(), _range(limits, "--cost")


def _rectangle(text: str) -> Rectangle:
    from saferl.data.filters import Rectangle

    cost, sign, returns = text.partition(",")
    if not sign:
        raise ConfigError(f"--without must look like C0:C1,R0:R1; got {text!r}. Try --without 0:0.5,0.5:1.")
    return Rectangle(_range(cost, "--without"), _range(returns, "--without"))


def _cells(text: str) -> tuple[int, int]:
    costs, sign, returns = text.partition("x")
    if not (sign and costs.isdecimal() and returns.isdecimal()):
        raise ConfigError(f"--cells must look like COSTSxRETURNS; got {text!r}. Try --cells 10x50.")
    return int(costs), int(returns)
