"""The tables of ``docs/benchmarks/offline.md``, from the files of ``saferl bench offline``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saferl.storage import read_json

HEAD = (
    "| Budget | Solver | Steps | Return per seed | Score | Cost per seed | Cost / budget | Verdicts |",
    "|--:|---|--:|---|--:|---|--:|---|",
)
"""Head of a table."""


def offline_tables(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Environment and rows of a table, of every file in ``folder``, by name."""
    for path in sorted(folder.glob("*.json")):
        result = read_json(path, what="The file of saferl bench offline")
        yield result["env"], table(result)


def table(result: Mapping[str, Any]) -> list[str]:
    """Rows by budget: the data's frontier, then every solver with its seeds, by library and name."""
    low, high = result["data"]["return"]

    def key(row: Mapping[str, Any]) -> tuple[float, str, str, str, int]:
        return row["budget"], row["solver"], row["library"] != "saferl", row["preset"], row["steps"]

    lines = []
    budget = None
    for group_key, group in itertools.groupby(sorted(result["rows"], key=key), key=key):
        if group_key[0] != budget:
            budget = group_key[0]
            best = result["data"]["frontier"][str(budget)]
            score = (best - low) / (high - low)
            lines.append(f"| {budget:g} | best episode of the data within it | | {best:.4g} | {score:.2f} | | | |")
        lines.append(_line(sorted(group, key=lambda row: row["seed"])))
    return lines


def _line(rows: Sequence[Mapping[str, Any]]) -> str:
    first, count = rows[0], len(rows)
    name = f"`{first['solver']}`" if first["library"] == "saferl" else f"OSRL's {first['solver']}"
    preset = "" if first["preset"] == "published" else f", {first['preset']}"
    costs = [next(iter(row["evaluation"]["constraints"].values())) for row in rows]
    verdicts = Counter(entry["verdict"] for entry in costs)
    cost_score = "" if not first["budget"] else f"{sum(row['normalised_cost'] for row in rows) / count:.2f}"
    cells = [
        f"{first['budget']:g}",
        f"{name}{preset}",
        f"{first['steps']:,}",
        ", ".join(f"{row['evaluation']['return']['mean']:.4g}" for row in rows),
        f"{sum(row['normalised_return'] for row in rows) / count:.2f}",
        ", ".join(f"{entry['mean']:.3g}" for entry in costs),
        cost_score,
        ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())),
    ]
    return f"| {' | '.join(cells)} |"
