"""Training runs: a folder from which a run can be repeated, its policies loaded and its curves drawn."""

from saferl.training.run import TrainResult, train
from saferl.training.settings import RunSettings

__all__ = ["RunSettings", "TrainResult", "train"]
