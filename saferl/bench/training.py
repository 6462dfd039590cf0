"""Training throughput, ours and a peer's, measured in turn on the same machine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saferl.bench.measure import figures_of, machine, run_peer, split_command
from saferl.errors import ConfigError
from saferl.evaluation.summary import versions
from saferl.training import RunSettings, train


def bench_training(
    solver: str,
    env_id: str,
    *,
    steps: int,
    repeats: int = 3,
    options: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    peer: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Medians of steps/s over ``repeats`` runs, ours and the peer's in turn, and their ratio.

    Args:
        solver: Name of a solver.
        env_id: Environment.
        steps: Steps of each of our runs.
        repeats: Runs of each.
        options: Options of the solver.
        settings: Options of the run.
        peer: A command that trains the peer and prints a line ``STEPS_PER_SECOND x``. It runs in a folder of its own,
            which is removed; files of the current folder that it names are found all the same.
        report: Told every reading as it comes.

    Raises:
        ConfigError: ``repeats`` or ``peer`` is malformed.
        TrainingError: the peer's command fails or prints no throughput.
    """
    if repeats < 1:
        raise ConfigError(f"The number of repeats must be at least 1; got {repeats}.")
    peer_words = None if peer is None else split_command(peer)
    ours: list[float] = []
    theirs: list[float] = []
    for index in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                solver,
                env_id,
                steps=steps,
                out=Path(folder) / "run",
                seed=1000 + index,
                options=options,
                settings=settings,
            )
        ours.append(result.steps_per_second)
        report(f"saferl {ours[-1]:.0f} steps/s")
        if peer_words is not None:
            theirs.append(run_peer(peer_words))
            report(f"peer {theirs[-1]:.0f} steps/s")
    figures: dict[str, Any] = {"saferl": figures_of(ours)}
    if theirs:
        figures["peer"] = figures_of(theirs)
        figures["ratio_of_medians"] = round(statistics.median(ours) / statistics.median(theirs), 2)
    return {
        "benchmark": "training throughput, env steps per second of wall-clock, updates included",
        "solver": solver,
        "env": env_id,
        "steps": steps,
        "repeats": repeats,
        "peer_command": None if peer_words is None else " ".join(Path(word).name for word in peer_words),
        "options": dict(options or {}),
        "results": figures,
        "machine": machine(),
        "versions": versions(),
    }
