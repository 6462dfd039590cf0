"""What benchmarks share: figures of readings, a peer's command, and the machine."""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saferl.errors import ConfigError, TrainingError

_PEER_LINE = re.compile(r"^(?:ENV_)?STEPS_PER_SECOND[ \t]+(\S+)[ \t]*$", re.MULTILINE)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "processor": _processor()}


def figures_of(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and all readings."""
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
        "all": [round(v, 1) for v in values],
    }


def split_command(command: str) -> list[str]:
    """The words of a command, with names of existing files made absolute."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"The peer's command cannot be split into words: {command!r} ({error}).") from error
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"The peer's command must start with a program that exists; got {command!r}.")
    # Not resolved: the python of a virtual environment is a link that must stay one.
    return [os.path.abspath(word) if Path(word).is_file() else word for word in words]


def run_peer(words: Sequence[str]) -> float:
    """The throughput that a peer's command prints.

    Raises:
        TrainingError: it fails, or prints none.
    """
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
