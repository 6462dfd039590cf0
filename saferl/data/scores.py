"""Normalised scores: returns in shares of a range, costs in budgets, by DSRL's constants or by the data's extrema.

Of an undiscounted return R and cost sum C (Liu, Guo, Lin and others, 2023, arXiv 2306.09303):

    R_norm = (R - R_min) / (R_max - R_min)
    C_norm = (C + eps) / (k + eps),   eps = 1 if the budget k is 0, else 0

so that an episode, or a mean over episodes, is safe if and only if C_norm <= 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, UnknownNameError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """Between which returns a score is 0 and 1."""

    return_min: float
    """Return that scores 0."""
    return_max: float
    """Return that scores 1."""
    horizon: int | None = None
    """Longest episode, in steps."""
    cost_max: float | None = None
    """Largest cost sum in the data."""

    @classmethod
    def of(cls, dataset: Dataset) -> Reference:
        """The extrema of a data set; the cost is its first one."""
        returns, lengths = dataset.returns(), dataset.episode_ends - dataset.episode_starts
        cost_max = float(dataset.cost_returns()[:, 0].max())
        return cls(float(returns.min()), float(returns.max()), int(lengths.max()), cost_max)


def normalised_return(returns: npt.ArrayLike, reference: Reference) -> FloatArray:
    """Returns in shares of the reference's range, of the same shape; outside of it they lie outside of [0, 1].

    Raises:
        ConfigError: the reference has no range.

    Example:
        >>> normalised_return([30.0711, 0.012], DSRL["PointGoal1"]).tolist()
        [1.0, 0.0]
    """
    span = reference.return_max - reference.return_min
    if not span > 0.0:
        raise ConfigError(
            f"A score needs a largest return above the smallest one; got {reference.return_min:g} to "
            f"{reference.return_max:g}. Take the reference from other data."
        )
    return (np.asarray(returns, dtype=np.float64) - reference.return_min) / span


def normalised_cost(costs: npt.ArrayLike, budget: float) -> FloatArray:
    """Cost sums in budgets, of the same shape: at most 1 where the budget is kept.

    Raises:
        ConfigError: a budget that is negative or not finite.

    Example:
        >>> normalised_cost([0.0, 5.0, 20.0], 10.0).tolist(), normalised_cost([0.0, 1.0], 0.0).tolist()
        ([0.0, 0.5, 2.0], [1.0, 2.0])
    """
    if not (np.isfinite(budget) and budget >= 0.0):
        raise ConfigError(f"A normalised cost needs a finite budget of at least 0; got {budget:g}.")
    epsilon = 1.0 if budget == 0.0 else 0.0
    return (np.asarray(costs, dtype=np.float64) + epsilon) / (budget + epsilon)


def mean_normalised_cost(cost: float, budgets: Iterable[float]) -> float:
    """What DSRL's tables show of a policy whose mean cost is ``cost``: the mean over the budgets of the scores.

    Example:
        >>> round(mean_normalised_cost(1.0, DSRL_BUDGETS["bullet"]), 4)
        0.0583
    """
    return float(np.mean([normalised_cost(cost, budget) for budget in budgets]))


def reference_of(name: str) -> Reference:
    """DSRL's constants of a task, by its key, DSRL's environment, a file of DSRL's or ours of Safety-Gymnasium.

    Raises:
        UnknownNameError: none of DSRL's tasks.

    Example:
        >>> reference_of("OfflineCarGoal1Gymnasium-v0") == reference_of("SafetyCarGoal1-v0") == DSRL["CarGoal1"]
        True
        >>> reference_of("SafetyBallRun-v0-80-940.hdf5").horizon
        100
    """
    found = re.match(r"(?:Offline|Safety)?(?:Metadrive-)?(\w+?)(?:Gymnasium)?(?:-v\d.*)?$", name)
    key = found.group(1) if found is not None else name
    if key not in DSRL:
        raise UnknownNameError("task of DSRL", name, DSRL, hint="Use the extrema of your own data.")
    return DSRL[key]


DSRL_BUDGETS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"bullet": (10.0, 20.0, 40.0), "metadrive": (10.0, 20.0, 40.0), "safety_gymnasium": (20.0, 40.0, 80.0)}
)
"""Budgets over which DSRL's tables average, by suite."""

DSRL: Mapping[str, Reference] = {
    "AntCircle": Reference(0.0177, 460.7092, horizon=500, cost_max=200.0),
    "AntRun": Reference(0.0018, 955.4819, horizon=200, cost_max=150.0),
    "BallCircle": Reference(0.3831, 881.4634, horizon=200, cost_max=80.0),
    "BallRun": Reference(26.3398, 1327.4456, horizon=100, cost_max=80.0),
    "CarCircle": Reference(3.4844, 534.3061, horizon=300, cost_max=100.0),
    "CarRun": Reference(204.2873, 574.6533, horizon=200, cost_max=40.0),
    "DroneCircle": Reference(207.7942, 996.3892, horizon=300, cost_max=100.0),
    "DroneRun": Reference(10.5570, 682.8330, horizon=200, cost_max=140.0),
    "CarButton1": Reference(0.0029, 44.4200, horizon=1000, cost_max=250.0),
    "CarButton2": Reference(0.0018, 41.9951, horizon=1000, cost_max=300.0),
    "CarCircle1": Reference(8.0371, 24.9416, horizon=500, cost_max=250.0),
    "CarCircle2": Reference(5.1134, 25.9501, horizon=500, cost_max=398.0),
    "CarGoal1": Reference(0.0122, 39.9078, horizon=1000, cost_max=120.0),
    "CarGoal2": Reference(0.0010, 28.9029, horizon=1000, cost_max=200.0),
    "CarPush1": Reference(0.0137, 16.3045, horizon=1000, cost_max=200.0),
    "CarPush2": Reference(0.0003, 15.1416, horizon=1000, cost_max=250.0),
    "PointButton1": Reference(0.0088, 41.1930, horizon=1000, cost_max=200.0),
    "PointButton2": Reference(0.0141, 42.8986, horizon=1000, cost_max=250.0),
    "PointCircle1": Reference(20.0676, 61.7282, horizon=500, cost_max=200.0),
    "PointCircle2": Reference(20.4783, 54.0218, horizon=500, cost_max=299.0),
    "PointGoal1": Reference(0.0120, 30.0711, horizon=1000, cost_max=100.0),
    "PointGoal2": Reference(0.0026, 27.7177, horizon=1000, cost_max=200.0),
    "PointPush1": Reference(0.0014, 16.5187, horizon=1000, cost_max=150.0),
    "PointPush2": Reference(0.0012, 14.6910, horizon=1000, cost_max=200.0),
    "AntVelocity": Reference(6.1519, 2976.2766, horizon=1000, cost_max=250.0),
    "HalfCheetahVelocity": Reference(5.7510, 2806.9331, horizon=1000, cost_max=250.0),
    "HopperVelocity": Reference(37.0515, 1911.3967, horizon=1000, cost_max=250.0),
    "SwimmerVelocity": Reference(0.0711, 238.9583, horizon=1000, cost_max=200.0),
    "Walker2dVelocity": Reference(18.6685, 3418.2239, horizon=1000, cost_max=300.0),
    "easysparse": Reference(20.0943, 425.8006, horizon=1000, cost_max=82.4),
    "easymean": Reference(22.1426, 425.8244, horizon=1000, cost_max=82.4),
    "easydense": Reference(19.7114, 425.8173, horizon=1000, cost_max=80.4),
    "mediumsparse": Reference(17.4466, 269.8008, horizon=1000, cost_max=46.5),
    "mediummean": Reference(17.0325, 269.8221, horizon=1000, cost_max=46.5),
    "mediumdense": Reference(15.1023, 269.7813, horizon=1000, cost_max=46.5),
    "hardsparse": Reference(17.2480, 486.8052, horizon=1000, cost_max=85.0),
    "hardmean": Reference(19.3880, 486.9968, horizon=1000, cost_max=84.3),
    "harddense": Reference(15.3869, 486.6362, horizon=1000, cost_max=84.8),
}
"""Extrema of DSRL's own data, by task (its infos.py)."""
