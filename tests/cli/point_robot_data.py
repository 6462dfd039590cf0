"""Episodes of PointRobot with uniform actions, as a data file."""

import numpy as np

import saferl
from saferl.data import Dataset, DatasetMetadata, write_dsrl

KEYS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")


def write_random_episodes(path, count, *, has_densities=False):
    """``count`` episodes in ``path``, the densities of their actions with them or not; the path."""
    env, rng = saferl.make("PointRobot-v0"), np.random.default_rng(0)
    rows = {key: [] for key in KEYS}
    for episode in range(count):
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            action = rng.uniform(-1.0, 1.0, 2).astype(np.float32)
            new, reward, terminated, truncated, _ = env.step(action)
            values = (obs, new, action, reward, env.last_costs.copy(), terminated, truncated)
            for key, value in zip(KEYS, values, strict=True):
                rows[key].append(value)
            obs, over = new, terminated or truncated
    metadata = DatasetMetadata(env_id="PointRobot-v0", budgets={"cost": 5.0})
    log_probs = np.full(len(rows["rewards"]), np.log(0.25)) if has_densities else None
    write_dsrl(Dataset.from_arrays(**rows, log_probs=log_probs, cost_names=("cost",), metadata=metadata), path)
    return path
