"""Training runs: a folder from which a run can be repeated, resumed, its policies loaded and its curves drawn."""

from saferl.deploy.shielded_env import ShieldedEnv
from saferl.training.executed_replay import ExecutedActionDictReplayBuffer, ExecutedActionReplayBuffer
from saferl.training.offline import train_offline
from saferl.training.resume import resume
from saferl.training.run import TrainResult, train
from saferl.training.settings import OfflineSettings, RunSettings
from saferl.training.shielded import ShieldedVecEnv, ShieldedVectorEnv

__all__ = [
    "ExecutedActionDictReplayBuffer",
    "ExecutedActionReplayBuffer",
    "OfflineSettings",
    "RunSettings",
    "ShieldedEnv",
    "ShieldedVecEnv",
    "ShieldedVectorEnv",
    "TrainResult",
    "resume",
    "train",
    "train_offline",
]
