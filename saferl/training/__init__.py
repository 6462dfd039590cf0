"""Training runs: a folder from which a run can be repeated, resumed, its policies loaded and its curves drawn."""

from saferl.training.resume import resume
from saferl.training.run import TrainResult, train
from saferl.training.settings import RunSettings

__all__ = ["RunSettings", "TrainResult", "resume", "train"]
