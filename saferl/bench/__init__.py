"""Benchmarks: commands that measure, with numbers as JSON for ``docs/benchmarks``."""

from saferl.bench.training import bench_training

__all__ = ["bench_training"]
