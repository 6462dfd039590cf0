"""Kill a training at random moments, resume it, and compare its weights with those of one that was never cut."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np

from saferl.errors import ConfigError, TrainingError
from saferl.evaluation.summary import versions
from saferl.storage import sha256
from saferl.training import resume, train

_POLL_S = 0.0005
_PRELOADED = [
    "saferl.bench.resume",
    "saferl.solvers.ppo_lag",
    "saferl.envs.velocity",
    "gymnasium.envs.mujoco",
    "torch.utils.tensorboard",
    "torch._dynamo",  # which an optimiser imports at its first step
]


def bench_resume(
    solver: str,
    env_id: str,
    *,
    kills: int = 20,
    kill_seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    **train_arguments: Any,
) -> dict[str, Any]:
    """Kill ``kills`` trainings once each (SIGKILL), resume them, and compare the weights of their last iterates.

    Every other training is killed at a random time, the rest at the moment in which a randomly chosen checkpoint is
    being written.

    Args:
        solver: Name of a solver.
        env_id: Name or import path of an environment.
        kills: Trainings to kill.
        kill_seed: Seed of the moments.
        report: Told the outcome of every trial.
        **train_arguments: Arguments of :func:`saferl.train` other than ``out`` (they must pickle).

    Raises:
        ConfigError: no kill is asked for.
        TrainingError: a training fails for another reason than being killed.
    """
    if kills < 1:
        raise ConfigError(f"The number of kills must be at least 1; got {kills}.")
    context = multiprocessing.get_context("forkserver")
    # Trials then start in no time: the server has imported everything that they need.
    context.set_forkserver_preload(_PRELOADED)
    arguments = {"solver": solver, "env_id": env_id, **train_arguments}
    rng = np.random.default_rng(kill_seed)
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _finish(_start(context, folder / "warm-up", arguments), "The training")
        start = time.perf_counter()
        _finish(_start(context, folder / "whole", arguments), "The training")
        duration = time.perf_counter() - start
        expected = sha256(folder / "whole" / "artefact" / "weights.safetensors")
        written = sum(1 for line in (folder / "whole" / "written").read_text().splitlines() if line)
        for number in range(kills):
            out = folder / f"trial-{number}"
            process = _start(context, out, arguments)
            if number % 2 == 0 or not written:
                trial = _kill_at(process, float(rng.uniform(0.0, duration)))
            else:
                trial = _kill_while_writing(process, out / "checkpoint", int(rng.integers(1, written + 1)))
            trial |= _state_of(out)
            if (out / "run.json").exists():
                _finish(_start(context, out, None), "The resumed training")
            else:  # killed before it had begun
                _finish(_start(context, out, arguments), "The training")
            trial["same_weights"] = sha256(out / "artefact" / "weights.safetensors") == expected
            trials.append(trial)
            report(f"kill {number + 1} of {kills}: {trial}")
    return {
        "solver": solver,
        "env": env_id,
        "steps": train_arguments.get("steps"),
        "kill_seed": kill_seed,
        "whole_run_s": round(duration, 3),
        "kills": kills,
        "same_weights": sum(trial["same_weights"] for trial in trials),
        "killed_while_writing": sum(trial["was_writing"] for trial in trials),
        "trials": trials,
        "versions": versions(),
    }


def _start(context: ForkServerContext, out: Path, arguments: Mapping[str, Any] | None) -> ForkServerProcess:
    process = context.Process(target=_run, args=(str(out), arguments))
    process.start()
    return process


def _run(out: str, arguments: Mapping[str, Any] | None) -> None:  # pragma: no cover - runs in a child process
    folder = Path(out)
    if arguments is None:
        resume(folder)
        return
    # Only the whole run is asked how many checkpoints it wrote.
    seen: set[str] = set()

    def note(done: int, latest: dict[str, float]) -> None:
        seen.update(path.name for path in (folder / "checkpoint").glob("step-*"))

    train(**arguments, out=out, progress=note)
    (folder / "written").write_text("\n".join(sorted(seen)))


def _finish(process: ForkServerProcess, what: str) -> None:
    process.join()
    if process.exitcode != 0:
        raise TrainingError(
            f"{what} must end by itself; it ended with exit code {process.exitcode}. Its error is above."
        )


def _kill_at(process: ForkServerProcess, delay: float) -> dict[str, Any]:
    start = time.perf_counter()
    process.join(delay)
    return {"kind": "random time", **_kill(process, start)}


def _kill_while_writing(process: ForkServerProcess, folder: Path, number: int) -> dict[str, Any]:
    """Kill when the temporary folder of the ``number``-th checkpoint has appeared."""
    start = time.perf_counter()
    seen: set[str] = set()
    while process.is_alive() and len(seen) < number:
        seen.update(path.name for path in folder.glob(".step-*") if ".old-" not in path.name)
        time.sleep(_POLL_S)
    return {"kind": f"checkpoint {number}", **_kill(process, start)}


def _kill(process: ForkServerProcess, start: float) -> dict[str, Any]:
    was_alive = process.is_alive()
    if was_alive and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return {"after_s": round(time.perf_counter() - start, 4), "was_running": was_alive}


def _state_of(out: Path) -> dict[str, Any]:
    folder = out / "checkpoint"
    return {
        "checkpoints": len(list(folder.glob("step-*"))),
        "was_writing": any(".old-" not in path.name for path in folder.glob(".step-*")),
    }
