"""Several trainings at once, each in a process of its own, with a progress bar each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from saferl.errors import SaferlError


def train_side_by_side(jobs: Mapping[str, Mapping[str, Any]], bar: Any, *, workers: int) -> dict[str, dict[str, Any]]:
    """Train every job, ``workers`` at a time; one that fails does not stop the others.

    Args:
        jobs: Arguments of :func:`saferl.train` (or of :func:`saferl.resume`, without ``steps``), by title.
        bar: A progress bar of :func:`saferl.cli.console.progress_bar`.
        workers: Processes.

    Returns:
        ``folder, steps, seconds, steps_per_second`` by title.

    Raises:
        SaferlError: the first failure, after all have ended.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        tasks = {title: bar.add_task(title, total=job["steps"], note="") for title, job in jobs.items()}
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures: dict[Future[dict[str, Any]], str] = {
                pool.submit(_train_one, title, dict(job), queue): title for title, job in jobs.items()
            }
            waiting = set(futures)
            while waiting:
                _, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    title, count, latest = queue.get()
                    note = "  ".join(f"{key} {value:.0f}" for key, value in latest.items())
                    bar.update(tasks[title], completed=min(count, jobs[title]["steps"]), note=note)
    failures = [(title, future.exception()) for future, title in futures.items() if future.exception() is not None]
    if failures:
        title, error = failures[0]
        if isinstance(error, SaferlError) and len(futures) > 1:
            others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise SaferlError(f"{title}{others} failed: {error}") from error
        raise error  # type: ignore[misc]
    return {title: future.result() for future, title in futures.items()}


def _train_one(title: str, job: dict[str, Any], queue: Any) -> dict[str, Any]:
    from saferl.training import train

    return outcome(train(**job, progress=lambda count, latest: queue.put((title, count, latest))))


def outcome(result: Any) -> dict[str, Any]:
    """What ``--json`` prints of a training."""
    return {
        "folder": str(result.folder),
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "steps_per_second": round(result.steps_per_second, 1),
    }
