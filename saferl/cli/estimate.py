"""``saferl estimate``."""

from __future__ import annotations

import functools
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, print_rows, print_warning, progress_bar, say

if TYPE_CHECKING:
    from saferl.evaluation.estimates import Estimate, OfflineEstimate

NO_VERDICT = "Not a verdict: estimates from data. A verdict needs episodes of the policy itself: saferl eval."


class Method(StrEnum):
    """What is estimated."""

    ALL = "all"
    FITTED_Q = "fitted-q"
    DOUBLY_ROBUST = "doubly-robust"


@app.command(
    "estimate",
    epilog="Example: saferl estimate runs/bc data/pr.hdf5;  "
    "saferl estimate runs/caps data/pr.hdf5 --budget cost=5 --json",
)
def estimate(
    policy: Annotated[str, typer.Argument(help="A run folder or an artefact folder.")],
    data: Annotated[Path, typer.Argument(help="A data file of the policy's environment.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: compare with these, and act at them where the policy can (repeatable)."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="fitted-q, doubly-robust (needs densities), or all that are possible.")
    ] = Method.ALL,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The mean or most likely action instead of a sampled one.")
    ] = False,
    episodes: Annotated[
        int | None, typer.Option(help="Use only so many episodes of the data, drawn by the seed: for slow policies.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps of an episode. Default: the longest of the data.")] = None,
    steps: Annotated[int, typer.Option(help="Updates of the network that finds features.")] = 2000,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap behind the intervals.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimates as JSON.")] = False,
) -> None:
    """Estimate from data what a policy would earn and cost per episode, before it acts anywhere.

    Fitted-Q estimates are there for every policy with a bounded Box of actions; doubly-robust ones need the policy's
    density and the data's log_probs. Intervals cover the chance in the data's episodes, not what these never show.
    """
    import numpy as np

    import saferl
    from saferl.data import load_dataset
    from saferl.evaluation import EstimateOptions, offline_estimate

    options = EstimateOptions(steps=steps, resamples=resamples)
    budgets = parse_budgets(budget)
    artefact, dataset = saferl.load(policy), load_dataset(data)
    if episodes is not None and episodes < dataset.num_episodes:
        chosen = np.random.default_rng(seed).choice(dataset.num_episodes, size=max(episodes, 0), replace=False)
        dataset = dataset.select(np.sort(chosen))
    with progress_bar() as bar:
        advance = functools.partial(bar.advance, bar.add_task("estimate", total=steps + resamples, note=""))
        found = offline_estimate(
            artefact,
            dataset,
            method={"fitted-q": "fitted_q", "doubly-robust": "doubly_robust"}.get(method.value, "all"),  # type: ignore[arg-type]
            budgets=budgets,
            horizon=horizon,
            deterministic=deterministic,
            seed=seed,
            options=options,
            progress=advance,
        )
    if as_json:
        print_json(found.to_dict())
        return
    _show(found)


def _show(found: OfflineEstimate) -> None:
    """The table, and what to keep in mind."""
    percent = f"{100 * found.confidence:g} %"
    columns = ["per episode", "data", f"fitted-Q ({percent})", f"doubly robust ({percent})", "budget"]
    rows = []
    for name, entry in (("return", found.return_), *found.costs.items()):
        limit = "" if entry.budget is None else f"<= {entry.budget:g}"
        rows.append([name, f"{entry.data:.2f}", _cell(entry.fitted_q), _cell(entry.doubly_robust), limit])
    print_rows(columns, rows, title=f"Estimates from {found.episodes} episodes, for {found.horizon} steps")
    if found.refusal is not None:
        say(f"No doubly-robust estimate: {found.refusal}.")
    for note in found.notes:
        print_warning(note)
    say(NO_VERDICT)


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
