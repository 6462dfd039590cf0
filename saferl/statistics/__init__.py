"""Confidence bounds, robust summaries and verdicts on cost budgets.

Everything here computes from arrays and returns numbers; nothing draws, logs or reads files.
"""

from saferl.statistics.bounds import (
    Interval,
    betting_lower,
    betting_ratio_lower,
    betting_ratio_upper,
    betting_upper,
    bootstrap_interval,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cluster_bootstrap_interval,
    mean_interval_t,
    stratified_bootstrap_interval,
)
from saferl.statistics.summaries import cvar, iqm
from saferl.statistics.verdicts import SUPPORTED_KINDS, ConstraintReport, Verdict, assess, holm_reject

__all__ = [
    "SUPPORTED_KINDS",
    "ConstraintReport",
    "Interval",
    "Verdict",
    "assess",
    "betting_lower",
    "betting_ratio_lower",
    "betting_ratio_upper",
    "betting_upper",
    "bootstrap_interval",
    "clopper_pearson",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cluster_bootstrap_interval",
    "cvar",
    "holm_reject",
    "iqm",
    "mean_interval_t",
    "stratified_bootstrap_interval",
]
