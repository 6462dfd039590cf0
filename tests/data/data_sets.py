"""Small data sets for tests."""

import numpy as np

from saferl.data import Dataset, DatasetMetadata


def random_data(lengths=(3, 1, 5), *, num_costs=2, seed=0, **more) -> Dataset:
    """Episodes of the given lengths, ending in turn by a time limit and by the task."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros((2, count), dtype=bool)
    timeouts[ends[::2]], terminals[ends[1::2]] = True, True
    arrays = {
        "observations": rng.normal(size=(count, 4)),
        "next_observations": rng.normal(size=(count, 4)),
        "actions": rng.uniform(-1, 1, size=(count, 2)),
        "rewards": rng.normal(size=count),
        "costs": rng.integers(0, 2, size=(count, num_costs)),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    names = tuple(f"c{i}" for i in range(num_costs))
    metadata = DatasetMetadata(env_id="PointRobot-v0", seeds=(seed,), budgets=dict.fromkeys(names, 5.0))
    return Dataset.from_arrays(**{**arrays, **more}, cost_names=names, metadata=metadata)
