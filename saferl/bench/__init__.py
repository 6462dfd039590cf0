"""Benchmarks: commands that measure, with numbers as JSON for ``docs/benchmarks``.

Each is loaded on first use: some need torch or a simulator, and a process that measures memory must not hold them.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "bench_env": "saferl.bench.env",
    "bench_limits": "saferl.bench.reload.limits",
    "bench_microgrid": "saferl.bench.microgrid",
    "bench_offline": "saferl.bench.offline",
    "bench_offline_inference": "saferl.bench.offline_inference",
    "bench_offline_training": "saferl.bench.offline_training",
    "bench_online": "saferl.bench.online",
    "bench_point_robot": "saferl.bench.point_robot",
    "bench_point_robot_truth": "saferl.bench.point_robot",
    "bench_reload": "saferl.bench.reload",
    "bench_resume": "saferl.bench.resume",
    "bench_samplers": "saferl.bench.samplers",
    "bench_shields": "saferl.bench.shields",
    "bench_tabular": "saferl.bench.tabular",
    "bench_tabular_scale": "saferl.bench.tabular_scale",
    "bench_training": "saferl.bench.training",
}

__all__ = [
    "bench_env",
    "bench_limits",
    "bench_microgrid",
    "bench_offline",
    "bench_offline_inference",
    "bench_offline_training",
    "bench_online",
    "bench_point_robot",
    "bench_point_robot_truth",
    "bench_reload",
    "bench_resume",
    "bench_samplers",
    "bench_shields",
    "bench_tabular",
    "bench_tabular_scale",
    "bench_training",
]


def __getattr__(name: str) -> Any:
    """Load a benchmark on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
