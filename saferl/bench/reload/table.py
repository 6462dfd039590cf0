"""The tables of the benchmark, from its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_EXACT = {
    "last_gap": "gap",
    "last_violation": "violation",
    "late_mean_gap": "late mean gap",
    "late_worst_violation": "late worst violation",
    "late_cost_deviation": "late deviation of cost",
    "late_oscillation": "late oscillation of value",
    "late_crossings": "late crossings",
}
_SAMPLED = {
    "last_return": "return",
    "last_cost": "cost",
    "late_mean_return": "late mean return",
    "late_mean_cost": "late mean cost",
    "late_worst_violation": "late worst violation",
    "late_cost_deviation": "late deviation of cost",
    "late_oscillation": "late oscillation of return",
    "late_crossings": "late crossings",
}
_BASELINE = "ppo_lag"


def columns_of(kind: str) -> tuple[str, ...]:
    """Headings for tasks that are ``exact`` or ``sampled``."""
    return ("task", "variant", *(_EXACT if kind == "exact" else _SAMPLED).values(), f"deviation to {_BASELINE}")


def rows_of(tasks: Mapping[str, Any], kind: str) -> list[tuple[str, ...]]:
    """One row per task and variant, means over the reported seeds; all cells are texts."""
    keys, digits = (_EXACT, 4) if kind == "exact" else (_SAMPLED, 1)
    rows = []
    for task, entry in tasks.items():
        if entry["kind"] != kind:
            continue
        base = entry["variants"].get(_BASELINE, {}).get("mean", {}).get("late_cost_deviation", 0.0)
        for name, row in entry["variants"].items():
            mean = row["mean"]
            cells = (f"{mean[key]:.{1 if key == 'late_crossings' else digits}f}" for key in keys)
            share = f"{mean['late_cost_deviation'] / base:.2f}" if base > 0.0 else ""
            rows.append((task, name, *cells, share))
    return rows


def markdown(result: Mapping[str, Any]) -> str:
    """The whole result as Markdown."""
    seeds = ", ".join(map(str, result["seeds"]))
    parts = [
        f'Means over the training seeds {seeds}, {result["steps"]:,} steps each; "late" are the last '
        f"{100 * result['late_share']:.0f} % of the iterates. Every variant was tuned among six settings on seed "
        f"{result['tuning_seed']} with {result['tuning_steps']:,} steps.\n"
    ]
    for kind, title in (
        ("exact", "Finite CMDPs: exact means per step of every iterate."),
        ("sampled", f"Sampled tasks: {result['episodes']} fresh episodes of every late iterate, per episode."),
    ):
        rows = rows_of(result["tasks"], kind)
        if rows:
            parts += [f"\n{title}\n\n", _table(columns_of(kind), rows)]
            parts += ["\n", *(_limit(task, row) for task, row in result["tasks"].items() if row["kind"] == kind)]
    return "".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", "---", *["--:"] * (len(columns) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _limit(task: str, entry: Mapping[str, Any]) -> str:
    limits = ", ".join(f"{limit:.4g}" for limit in entry["limits"])
    if entry["kind"] == "sampled":
        return f"- `{task}`: cost at most {limits} per episode\n"
    return f"- `{task}`: cost at most {limits} per step, optimum {entry['optimal_value']:.4f}\n"
