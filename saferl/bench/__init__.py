"""Benchmarks: commands that measure, with numbers as JSON for ``docs/benchmarks``."""

from saferl.bench.env import bench_env
from saferl.bench.resume import bench_resume
from saferl.bench.training import bench_training

__all__ = ["bench_env", "bench_resume", "bench_training"]
