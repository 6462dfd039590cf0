"""Training throughput, ours and a peer's, measured in turn on the same machine."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saferl.errors import ConfigError, TrainingError
from saferl.evaluation.summary import versions
from saferl.training import RunSettings, train

_PEER_LINE = re.compile(r"^STEPS_PER_SECOND[ \t]+(\S+)[ \t]*$", re.MULTILINE)


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
    peer_words = None if peer is None else _split_command(peer)
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
            theirs.append(_run_peer(peer_words))
            report(f"peer {theirs[-1]:.0f} steps/s")
    figures: dict[str, Any] = {"saferl": _figures(ours)}
    if theirs:
        figures["peer"] = _figures(theirs)
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


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "processor": _processor()}


def _figures(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
        "all": [round(v, 1) for v in values],
    }


def _split_command(command: str) -> list[str]:
    """The words of a command, with names of existing files made absolute."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"The peer's command cannot be split into words: {command!r} ({error}).") from error
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"The peer's command must start with a program that exists; got {command!r}.")
    # Not resolved: the python of a virtual environment is a link that must stay one.
    return [os.path.abspath(word) if Path(word).is_file() else word for word in words]


def _run_peer(words: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    found = _PEER_LINE.search(done.stdout)
    speed = _positive(found.group(1)) if found is not None else None
    if done.returncode != 0 or speed is None:
        tail = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise TrainingError(
            "The peer's command must end with exit code 0 and print a line 'STEPS_PER_SECOND x' with x > 0; it ended "
            f"with {done.returncode} and this output: {tail or '(none)'}"
        )
    return speed


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
