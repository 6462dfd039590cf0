"""Training runs: a folder from which a run can be repeated, resumed, its policies loaded and its curves drawn."""

from saferl.deploy.shielded_env import ShieldedEnv
from saferl.training.executed_replay import ExecutedActionDictReplayBuffer, ExecutedActionReplayBuffer
from saferl.training.resume import resume
from saferl.training.run import TrainResult, train
from saferl.training.settings import RunSettings
from saferl.training.shielded import ShieldedVecEnv, ShieldedVectorEnv

__all__ = [
    "ExecutedActionDictReplayBuffer",
    "ExecutedActionReplayBuffer",
    "RunSettings",
    "ShieldedEnv",
    "ShieldedVecEnv",
    "ShieldedVectorEnv",
    "TrainResult",
    "resume",
    "train",
]
