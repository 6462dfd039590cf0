"""The table of ``docs/benchmarks/online.md``, from the JSON files that ``saferl bench solver`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saferl.solvers.catalogue import CATALOGUE
from saferl.storage import read_json

RESULTS = (
    "| Task | Solver | Steps | Seed | Return (95 % CI) | Cost (95 % upper bound) | Verdict at 25 "
    "| Mean actions: return, cost | Best checkpoint: return, cost | Published: return, cost |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
"""Head of the table of results."""
TRAINING = (
    "| Task | Solver | Seed | Trained at | Minutes | Total cost | Violating episodes | Sum of excess over iterations |",
    "|---|---|---|---|---|---|---|---|",
)
"""Head of the table of what happened in training."""


def online_rows(folder: Path) -> Iterator[tuple[str, str]]:
    """A row of results and one of training per training seed, in Markdown, in the order of the files' names.

    Args:
        folder: The folder of the JSON files, with ``published.json``.
    """
    published = read_json(folder / "published.json", what="The published results")
    for path in sorted(folder.glob("*-v[0-9].json")):
        data = read_json(path, what="A benchmark")
        for run in data["runs"]:
            theirs = published["results"].get(data["env"], {}).get(data["solver"])
            yield _line(*_result(data, run, theirs)), _line(*_training(data, run))


def _result(data: Mapping[str, Any], run: Mapping[str, Any], published: Mapping[str, float] | None) -> Iterator[str]:
    (name,) = run["sampled"]["constraints"]
    low, high = run["sampled"]["return"]["ci95"]
    cost = run["sampled"]["constraints"][name]
    yield from (data["env"], f"`{data['solver']}`", f"{run['training']['steps']:,}", str(run["seed"]))
    yield f"{_number(run['sampled']['return']['mean'])} ({_number(low)} to {_number(high)})"
    yield f"{cost['mean']:.1f} ({cost['upper95']:.1f})"
    share = f"no budget; {100 * cost['step_violation_rate']:.2f} % of steps violate"
    yield cost["verdict"] if _has_budget(data) else share
    for column in ("mean_actions", "best"):
        summary = run[column]
        yield f"{_number(summary['return']['mean'])}, {summary['constraints'][name]['mean']:.1f}"
    yield "" if published is None else f"{_number(published['return'])}, {published['cost']:.1f}"


def _training(data: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    (name,) = run["sampled"]["constraints"]
    budget = data["train_budgets"].get(name, run["sampled"]["constraints"][name]["budget"])
    costs = run["training"]["training_costs"]
    yield from (data["env"], f"`{data['solver']}`", str(run["seed"]))
    yield f"{budget:g}" if _has_budget(data) else "no budget"
    yield f"{run['training']['seconds'] / 60:.1f}"
    yield f"{costs['total_cost'][name]:,.0f}"
    yield f"{100 * costs['violating_episode_share'][name]:.1f} %"
    yield f"{costs['overshoot_sum'][name]:,.0f}"


def _has_budget(data: Mapping[str, Any]) -> bool:
    """Whether the solver was trained for the budget that its result is held against; CaT knows none."""
    return CATALOGUE[data["solver"]].family != "terminations"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
