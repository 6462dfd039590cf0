"""Milliseconds per batch of OSRL's loaders on our data file, run by the Python that has OSRL, without saferl.

    PEER_PYTHON osrl_loader.py DATA windows --batch 2048 --length 10

The last line of the output is JSON: ``{"ms": 140.2}``.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch as th


def _main() -> None:
    import h5py
    from osrl.common import SequenceDataset, TransitionDataset
    from torch.utils.data import DataLoader

    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("kind", choices=("transitions", "windows"))
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    keys = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    with h5py.File(arguments.data, "r") as file:
        data = {key: np.asarray(file[key], dtype=np.float32) for key in keys}
    th.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - OSRL draws from the global generator
    if arguments.kind == "transitions":
        source = TransitionDataset(data)
    else:
        # As its CDT draws: episodes with probabilities, which must not be negative.
        source = SequenceDataset(data, seq_len=arguments.length, cost_sample=True, cost_transform=lambda c: 1e6 - c)
    batches = iter(DataLoader(source, batch_size=arguments.batch))
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < arguments.seconds or count < 2:
        next(batches)
        count += 1
    print(json.dumps({"ms": 1e3 * (time.perf_counter() - start) / count}))


if __name__ == "__main__":
    _main()
