r"""BC: behaviour cloning, the policy that does what the data do.

Two losses over the data's pairs of observation and action (scaled to [-1, 1]):

    mse          min E |pi(s) - a|^2              one action per observation, pi = tanh of a network
    likelihood   min -E log pi(a | s)             tanh of a Gaussian, mean and deviations from a network

The first is BC-All, the baseline of OSRL (Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao 2023, "Datasets and
benchmarks for offline safe reinforcement learning").

What it guarantees: nothing about costs. With enough data and a network that can express it, the squared loss tends to
the data's mean action per observation, the likelihood to their distribution if that is a squashed Gaussian; small
errors add up over an episode (Ross, Bagnell 2010).

Differences from the paper: the scaled actions end at 1 - 1e-5; observations can be standardised (preset ``small``).
"""

from __future__ import annotations

from saferl.constraints import KINDS
from saferl.data.dataset import Dataset
from saferl.solvers.offline.base import TrainingData
from saferl.solvers.offline.imitation import Imitation


class BC(Imitation):
    """Behaviour cloning.

    Example:
        >>> solver = BC(preset="small")
        >>> policy = solver.fit(saferl.data.load_dataset("data/pr.hdf5"), steps=2000).policy  # doctest: +SKIP
    """

    name = "bc"
    supported_kinds = KINDS

    def choose(self, data: TrainingData) -> Dataset:
        """All of the data."""
        return data.dataset
