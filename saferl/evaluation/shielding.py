"""What the episodes of an evaluation say about the shield that was in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saferl.shields.base import Shield
from saferl.shields.protocol import KINDS, ShieldDecision
from saferl.statistics import cluster_bootstrap_interval

METHOD = (
    "Interventions over decisions, with a cluster bootstrap over episodes (2,000 resamples, 95 %, an approximation). "
    "Distances are in units of half the range of each action, over all decisions with a finite proposal."
)


@dataclass
class ShieldTrace:
    """What a shield did in one episode."""

    decisions: int = 0
    """Number of decisions."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Decisions by kind, without kinds that did not occur."""
    distance: float = 0.0
    """Sum of the finite distances."""
    measured: int = 0
    """Decisions with a finite distance."""
    worst_margin: float = float("inf")
    """Smallest margin; infinite if no decision had one."""
    elapsed_us: list[float] = field(default_factory=list)
    """Time of every decision in microseconds."""

    def add(self, decision: ShieldDecision) -> None:
        """Count one decision."""
        self.decisions += 1
        self.kinds[decision.kind] = self.kinds.get(decision.kind, 0) + 1
        if np.isfinite(decision.distance):
            self.distance += decision.distance
            self.measured += 1
        if not np.isnan(decision.margin):
            self.worst_margin = min(self.worst_margin, decision.margin)
        self.elapsed_us.append(decision.elapsed_us)

    @property
    def interventions(self) -> int:
        """Decisions that executed something else than was proposed."""
        return self.decisions - self.kinds.get("pass", 0)


def summarise_shield(traces: Sequence[ShieldTrace], shield: Shield, *, name: str) -> dict[str, Any]:
    """The key ``shield`` of ``summary.json``.

    Args:
        traces: One per episode, in the order of the episodes.
        shield: What acted.
        name: What reports call it.
    """
    decisions = sum(t.decisions for t in traces)
    kinds = {kind: sum(t.kinds.get(kind, 0) for t in traces) for kind in KINDS}
    measured, worst = sum(t.measured for t in traces), min(t.worst_margin for t in traces)
    low, high = cluster_bootstrap_interval(
        [[t.interventions, t.decisions] for t in traces],
        lambda drawn: float(drawn[::2].sum() / drawn[1::2].sum()),
        rng=np.random.default_rng(0),
    )
    elapsed = np.concatenate([t.elapsed_us for t in traces])
    p50, p95, p99 = np.quantile(elapsed, [0.5, 0.95, 0.99]).tolist()
    return {
        "name": name,
        "spec": shield.spec().to_dict(),
        "decisions": decisions,
        "intervention_rate": {
            "mean": sum(t.interventions for t in traces) / decisions,
            "ci95": [x if np.isfinite(x) else None for x in (low, high)],
        },
        "episodes_with_interventions": sum(t.interventions > 0 for t in traces) / len(traces),
        "kinds": kinds,
        "mean_distance": sum(t.distance for t in traces) / measured if measured else None,
        "worst_margin": worst if np.isfinite(worst) else None,
        "fallbacks": kinds["fallback"],
        "infeasible": kinds["infeasible"],
        "latency_us": {"mean": float(elapsed.mean()), "p50": p50, "p95": p95, "p99": p99},
        "method": METHOD,
    }
