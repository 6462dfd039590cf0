"""From episodes to a summary: means with intervals, and a verdict per constraint."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.constraints import Constraint, ConstraintSet
from saferl.evaluation.episodes import EpisodeRecord
from saferl.statistics import assess, iqm, mean_interval_t

SCHEMA = "saferl.evaluation/1"

METHOD = {
    "mean_cost": (
        "Verdicts use one-sided 95 % confidence bounds on the mean by testing by betting (Waudby-Smith and Ramdas "
        "2024), valid for any distribution of a bounded cost; ci95 is two-sided by the same method. Without a known "
        "bound on the cost the interval is Student's t, an approximation, and there is no verdict."
    ),
    "rates": "Share of episodes that break the budget by themselves, with a Clopper-Pearson interval.",
    "return": "Mean with Student's t interval (an approximation); IQM is the mean of the middle half of the episodes.",
    "confidence": 0.95,
}


def summarise(
    records: Sequence[EpisodeRecord], constraints: ConstraintSet, *, horizon: int | None, about: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        records: Episodes, in the order of their seeds.
        constraints: What must hold.
        horizon: Time limit of the env in steps, or None.
        about: The keys that say what ran: env, env_kwargs, deterministic, seeds, checkpoint, policy, shield.
    """
    returns = np.array([r.return_ for r in records])
    lengths = np.array([r.length for r in records])
    reports: dict[str, Any] = {}
    for constraint in constraints:
        name = constraint.name
        reports[name] = assess(
            constraint,
            sums=np.array([r.costs[name] for r in records]),
            lengths=lengths,
            horizon=horizon,
            discounted_sums=(
                np.array([r.discounted_costs[name] for r in records]) if constraint.kind == "discounted" else None
            ),
        ).to_dict() | _step_violation_rate(name, records, lengths, horizon)
    low, high = mean_interval_t(returns)
    return {
        "schema": SCHEMA,
        **about,
        "versions": versions(),
        "method": METHOD,
        "episodes": len(records),
        "length": {"mean": float(lengths.mean()), "min": int(lengths.min()), "max": int(lengths.max())},
        "return": {
            "mean": float(returns.mean()),
            "ci95": [x if np.isfinite(x) else None for x in (low, high)],
            "iqm": float(iqm(returns)),
        },
        "constraints": reports,
    }


def _step_violation_rate(
    name: str, records: Sequence[EpisodeRecord], lengths: npt.NDArray[np.int64], horizon: int | None
) -> dict[str, Any]:
    """Share of steps that violate a constraint, with its interval; None where episodes did not count them."""
    if any(name not in r.violating_steps for r in records):
        return {"step_violation_rate": None, "step_violation_rate_ci95": [None, None]}
    rate = Constraint(name, budget=0.0, kind="step_rate", max_step_cost=1.0)
    found = assess(rate, sums=[r.violating_steps[name] for r in records], lengths=lengths, horizon=horizon).to_dict()
    return {"step_violation_rate": found["mean"], "step_violation_rate_ci95": found["ci95"]}


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("saferl", "numpy", "scipy", "gymnasium", "mujoco", "safety-gymnasium", "stable-baselines3", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
