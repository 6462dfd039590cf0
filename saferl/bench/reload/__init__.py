"""Do late iterates settle? Solvers on tasks where plain ones swing, each tuned alike (``saferl bench reload``)."""

from saferl.bench.reload.benchmark import bench_reload
from saferl.bench.reload.variants import FINITE_TASKS, SAMPLED_TASKS, VARIANTS

__all__ = ["FINITE_TASKS", "SAMPLED_TASKS", "VARIANTS", "bench_reload"]
