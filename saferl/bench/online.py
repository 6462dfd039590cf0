"""A solver's numbers on a task: training seeds, each evaluated by the protocol, as one JSON file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saferl.bench.measure import machine
from saferl.errors import ConfigError
from saferl.evaluation import evaluate
from saferl.evaluation.summary import versions
from saferl.storage import read_json
from saferl.training import RunSettings, resume, train

COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "sampled": {"checkpoint": "artefact", "deterministic": False},
    "mean_actions": {"checkpoint": "artefact", "deterministic": True},
    "best": {"checkpoint": "artefact-best", "deterministic": False},
}
"""What is evaluated of a run: the last iterate with sampled actions (the result), with mean actions, and the best
checkpoint by validation."""
_KEPT = ("episodes", "seeds", "deterministic", "length", "return", "constraints")


def bench_online(
    solver: str,
    env_id: str,
    *,
    steps: int,
    seeds: Sequence[int],
    runs: Path,
    train_budgets: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    recipe: str | None = None,
    episodes: int = 1000,
    side_episodes: int = 100,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train every seed, and evaluate its last iterate; what ``runs`` holds already is not done again.

    Args:
        solver: Name of a solver.
        env_id: Environment.
        steps: Steps of every training.
        seeds: Training seeds.
        runs: Folder of the run folders; a cut training is resumed.
        train_budgets: Budgets to train at where they are tighter than those that must hold.
        options: Options of the solver.
        settings: Options of the runs.
        recipe: Name of the recipe that options and settings come from.
        episodes: Episodes of the result.
        side_episodes: Episodes of the side columns: mean actions and the best checkpoint.
        report: Told every result as it comes.

    Raises:
        ConfigError: no seeds, too few episodes, or a run in ``runs`` was made with other arguments.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"The training seeds must be different and at least one; got {list(seeds)}.")
    if min(episodes, side_episodes) < 2:
        raise ConfigError(f"Episodes must be at least 2; got {episodes} and {side_episodes}.")
    results = []
    for seed in seeds:
        folder = runs / f"{solver}-{env_id}-{seed}"
        if (folder / "run.json").exists():
            expected = {"steps": steps, "train_budgets": dict(train_budgets or {}), **(options or {})}
            resume(folder, expected={key: value for key, value in expected.items() if value != {}})
        else:
            train(
                solver,
                env_id,
                steps=steps,
                out=folder,
                seed=seed,
                train_budgets=train_budgets,
                options=options,
                settings=settings,
                recipe=recipe,
            )
        row: dict[str, Any] = {
            "seed": seed,
            "training": read_json(folder / "run.json", what="run.json of a run folder")["result"],
        }
        for column, how in COLUMNS.items():
            row[column] = _evaluation(folder, column, how, episodes if column == "sampled" else side_episodes)
        results.append(row)
        report(f"{solver} on {env_id}, seed {seed}: {_in_words(row['sampled'])}")
    return {
        "benchmark": "last iterate of a solver, sampled actions; side columns: mean actions, best by validation",
        "solver": solver,
        "env": env_id,
        "steps": steps,
        "train_budgets": dict(train_budgets or {}),
        "recipe": recipe,
        "options": dict(options or {}),
        "settings": asdict(settings or RunSettings()),
        "runs": results,
        "machine": machine(),
        "versions": versions(),
    }


def _evaluation(folder: Path, column: str, how: Mapping[str, Any], episodes: int) -> dict[str, Any]:
    """The summary of one column, from ``folder`` if it was made before."""
    out = folder / f"evaluation-{column.replace('_', '-')}-{episodes}"
    if not (out / "summary.json").exists():
        evaluate(folder / how["checkpoint"], episodes=episodes, deterministic=bool(how["deterministic"]), out=out)
    summary = read_json(out / "summary.json", what="The summary of an evaluation")
    return {key: summary[key] for key in _KEPT}


def _in_words(summary: Mapping[str, Any]) -> str:
    costs = ", ".join(
        f"{name} {entry['mean']:.1f} (at most {entry['upper95']:.1f}) {entry['verdict']}"
        for name, entry in summary["constraints"].items()
    )
    return f"return {summary['return']['mean']:.0f}; {costs}"
