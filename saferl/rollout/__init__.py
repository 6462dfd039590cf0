"""From environments to training data: the Stable-Baselines3 bridge, buffers, advantages and episode statistics."""

from saferl.rollout.buffer import ConstrainedRolloutBuffer
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.rollout.estimator import CostEstimator
from saferl.rollout.gae import gae
from saferl.rollout.replay import ConstrainedReplayBuffer

__all__ = ["ConstrainedReplayBuffer", "ConstrainedRolloutBuffer", "CostEstimator", "CostVecEnv", "gae"]
