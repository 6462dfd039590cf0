"""Logged data: what offline solvers learn from, its files, filters, scores and samplers."""

from saferl.data.dataset import Dataset, DatasetMetadata
from saferl.data.dsrl import load_dataset, read_dsrl, write_dsrl
from saferl.data.samplers import TransitionSampler, WindowSampler

__all__ = [
    "Dataset",
    "DatasetMetadata",
    "TransitionSampler",
    "WindowSampler",
    "load_dataset",
    "read_dsrl",
    "write_dsrl",
]
