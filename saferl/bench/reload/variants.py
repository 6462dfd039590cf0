"""What is compared, and the settings among which each is tuned: six for everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FINITE_TASKS = ("ParadoxA-v0", "ParadoxB-v0", "RandomBinding10-v0", "CatchCost-v0")
"""Finite CMDPs whose budget binds in the interior; every iterate is evaluated exactly."""
SAMPLED_TASKS = ("DMWalkerHeight-v0", "DMReacherVelocity-v0", "DMQuadrupedTorque-v0", "SafetyHalfCheetahVelocity-v1")
"""Control tasks whose budget binds in the interior; late iterates are evaluated by fresh episodes."""


@dataclass(frozen=True)
class Variant:
    """A solver with the options among which it is tuned."""

    solver: str
    """Name of a solver."""
    grid: tuple[Mapping[str, Any], ...]
    """Options to choose from on the tuning seed."""
    shared: Mapping[str, Any]
    """Options that are not tuned."""


def _grid(
    name: str, steps: Sequence[float], rates: Sequence[float], **extra: Callable[[float], float]
) -> tuple[Mapping[str, Any], ...]:
    """Every pair of a policy step, under its option's ``name``, and a rate of the multipliers."""
    return tuple(
        {name: step, "multiplier_lr": rate, **{key: of(rate) for key, of in extra.items()}}
        for step in steps
        for rate in rates
    )


def _ten_times(rate: float) -> float:
    """The gains of PID-Lagrangian: ten times the integral one, as in its defaults."""
    return 10.0 * rate


def _variants(rates: Sequence[float]) -> Mapping[str, Variant]:
    learning, natural = (3e-4, 1e-3), (0.1, 0.3)
    clipped = {"batch_size": 512}
    pid = _grid("learning_rate", learning, rates, multiplier_kp=_ten_times, multiplier_kd=_ten_times)
    return {
        "ppo_lag": Variant("ppo_lag", _grid("learning_rate", learning, rates), clipped),
        "pid_lag": Variant("pid_lag", pid, clipped),
        "reload": Variant("reload", _grid("policy_step", natural, rates), {}),
        "reload without optimism": Variant("reload", _grid("policy_step", natural, rates), {"optimism": "none"}),
    }


FINITE_VARIANTS = _variants((0.03, 0.1, 0.3))
"""By name, for finite CMDPs, where costs are sums of order 1 and rewards are raw."""
SAMPLED_VARIANTS = _variants((7e-4, 2e-3, 6e-3))
"""By name, for control tasks, where costs are sums of order 100 and rewards are normalised."""
VARIANTS = tuple(FINITE_VARIANTS)
"""Names of both."""
