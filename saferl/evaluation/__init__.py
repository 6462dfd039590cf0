"""Running a policy on fixed seeds, and what episodes say about each constraint; exact values; estimates from data."""

import importlib
from typing import TYPE_CHECKING, Any

from saferl.evaluation.episodes import BLOCK, EpisodeRecord
from saferl.evaluation.evaluate import EVALUATION_SEED, VALIDATION_SEED, Evaluation, evaluate
from saferl.evaluation.summary import summarise

if TYPE_CHECKING:
    from saferl.evaluation.estimates import EstimateOptions, OfflineEstimate, offline_estimate
    from saferl.evaluation.exact import ExactEvaluation, evaluate_exactly, tabulate

_LAZY = {
    **dict.fromkeys(("ExactEvaluation", "evaluate_exactly", "tabulate"), "saferl.evaluation.exact"),
    **dict.fromkeys(("EstimateOptions", "OfflineEstimate", "offline_estimate"), "saferl.evaluation.estimates"),
}

__all__ = [
    "BLOCK",
    "EVALUATION_SEED",
    "VALIDATION_SEED",
    "EpisodeRecord",
    "EstimateOptions",
    "Evaluation",
    "ExactEvaluation",
    "OfflineEstimate",
    "evaluate",
    "evaluate_exactly",
    "offline_estimate",
    "summarise",
    "tabulate",
]


def __getattr__(name: str) -> Any:
    """Load what needs scipy on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
