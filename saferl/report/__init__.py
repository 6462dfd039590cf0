"""Reports that say in words, numbers and figures whether a policy keeps its budgets.

A report reads only what an evaluation wrote (``summary.json``, ``episodes.jsonl``) and, for learning curves, the
``progress.csv`` of the run folder around it; it never loads an env or a policy.
"""

from saferl.report.curves import Curves
from saferl.report.page import build_report
from saferl.report.records import ConstraintRecord, Episodes, EvaluationRecord, Interval, read_evaluation

__all__ = [
    "ConstraintRecord",
    "Curves",
    "Episodes",
    "EvaluationRecord",
    "Interval",
    "build_report",
    "read_evaluation",
]
