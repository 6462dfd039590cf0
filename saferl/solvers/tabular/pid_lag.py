"""PID-Lagrangian: descent-ascent whose multipliers are set by a PID controller of the constraint gaps.

With the normalised gap g = Jbar_c(pi_k) - dbar of every constraint,

    I  <- clip(I + ki g, 0, max)                              integral: the plain Lagrangian's multiplier
    dp <- a_p dp + (1 - a_p) g,    cd <- a_d cd + (1 - a_d) Jbar_c(pi_k)
    D  =  [cd - cd of ``derivative_delay`` iterations ago]_+
    lambda_{k+1} = clip(kp dp + I + kd D, 0, max)

    pi_{k+1}(a|s)  proportional to  pi_k(a|s) exp(eta G_k(s, a))

where G is the gradient of one of three Lagrangians, with Q at pi_k:

    normalisation  none         Q_r - sum_i lambda_i Q_ci
                   sum          (Q_r - sum_i lambda_i Q_ci) / (1 + sum_i lambda_i)
                   difference   (1 - lambda) Q_r - lambda Q_c, with I and lambda in [0, 1]

The derivative acts on the cost, not on the multiplier, and only while the cost rises. kp = kd = 0 without normalisation
is NPG primal-dual, step by step.

Paper: Stooke, Achiam, Abbeel (2020), "Responsive safety in reinforcement learning by PID Lagrangian methods", arXiv
2007.03964. A fixed point of the controller is the saddle point, since I moves until the gap is zero. Convergence is not
proved; the proportional term damps the swing.

Differences from the paper: exact evaluation and a natural gradient step instead of sampled PPO. Gains are for
normalised costs, and smoothing is off by default because there is no noise to smooth. With ``difference`` only one
constraint is allowed: the paper has one, and a multiplier of 1 must mean "cost only".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saferl.config import check_ranges
from saferl.envs.tabular import Evaluation, TabularCMDP
from saferl.errors import ConfigError
from saferl.solvers.tabular.policies import TabularConfig, centred, options, softmax
from saferl.solvers.tabular.solution import Recorder, TabularSolution

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PIDLagConfig(TabularConfig):
    """Options of PID-Lagrangian; ``multiplier_step`` is the integral gain ki."""

    proportional: float = 5.0
    """Gain kp of the (smoothed) gap, >= 0."""
    derivative: float = 0.0
    """Gain kd of the rise of the (smoothed) cost, >= 0."""
    proportional_smoothing: float = 0.0
    """Share a_p of the old value in the smoothed gap, in [0, 1]; the paper's code has 0.95."""
    derivative_smoothing: float = 0.0
    """Share a_d of the old value in the smoothed cost, in [0, 1]; the paper's code has 0.95."""
    derivative_delay: int = 1
    """Iterations over which the rise of the cost is measured, >= 1."""
    normalisation: Literal["none", "sum", "difference"] = "none"
    """What keeps the policy's gradient of order 1 when multipliers are large; see the module."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_ranges(
            self,
            positive=("derivative_delay",),
            non_negative=("proportional", "derivative"),
            unit=("proportional_smoothing", "derivative_smoothing"),
        )


class PIDController:
    """Multipliers from gaps, one controller per constraint.

    Example:
        >>> controller = PIDController(PIDLagConfig(multiplier_step=0.5, proportional=2.0), 1)
        >>> controller.update(costs=np.array([1.4]), gaps=np.array([0.4])).round(6)
        array([1.])
        >>> controller.integral.round(6)
        array([0.2])
    """

    def __init__(self, config: PIDLagConfig, num_constraints: int) -> None:
        """Start with everything at 0."""
        self.config = config
        self.maximum = 1.0 if config.normalisation == "difference" else config.multiplier_max
        self.integral: Array = np.zeros(num_constraints)
        self._gap: Array = np.zeros(num_constraints)
        self._cost: Array = np.zeros(num_constraints)
        self._past: deque[Array] = deque([self._cost], maxlen=config.derivative_delay)

    def update(self, costs: Array, gaps: Array) -> Array:
        """The multipliers (K,) after normalised costs (K,) and their gaps (K,)."""
        config = self.config
        self.integral = np.clip(self.integral + config.multiplier_step * gaps, 0.0, self.maximum)
        self._gap = _smoothed(self._gap, gaps, config.proportional_smoothing)
        self._cost = _smoothed(self._cost, costs, config.derivative_smoothing)
        rise = np.maximum(self._cost - self._past[0], 0.0)
        self._past.append(self._cost)
        control = config.proportional * self._gap + self.integral + config.derivative * rise
        return np.clip(control, 0.0, self.maximum)


def _smoothed(old: Array, new: Array, share: float) -> Array:
    return share * old + (1.0 - share) * new


def policy_gradient(evaluation: Evaluation, multipliers: Array, normalisation: str) -> Array:
    """G of the chosen Lagrangian, (..., A)."""
    if normalisation == "difference":
        return np.asarray((1.0 - multipliers[0]) * evaluation.reward_q - evaluation.cost_q @ multipliers)
    mixed = evaluation.mixed_q(multipliers)
    return mixed / (1.0 + multipliers.sum()) if normalisation == "sum" else mixed


def solve(cmdp: TabularCMDP, config: PIDLagConfig | None = None, **given: Any) -> TabularSolution:
    """Iterate from the uniform policy and multipliers 0.

    Raises:
        ConfigError: ``normalisation="difference"`` on a CMDP with several constraints.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> abs(solve(paradox_a()).value - 0.5) < 1e-8
        True
    """
    config = options(PIDLagConfig, config, given)
    if config.normalisation == "difference" and cmdp.num_constraints > 1:
        raise ConfigError(
            f"PIDLagConfig.normalisation 'difference' is for one constraint; {cmdp!r} has {cmdp.num_constraints}. "
            "Take 'sum' or 'none'."
        )
    recorder = Recorder("pid_lag", cmdp)
    controller = PIDController(config, cmdp.num_constraints)
    logits, multipliers = np.zeros(cmdp.policy_shape), np.zeros(cmdp.num_constraints)
    for _ in range(config.iterations):
        evaluation = cmdp.evaluate(softmax(logits))
        recorder.add(evaluation, multipliers)
        gradient = policy_gradient(evaluation, multipliers, config.normalisation)
        logits = centred(logits + config.policy_step * gradient)
        multipliers = controller.update(evaluation.costs, evaluation.costs - cmdp.limits)
    return recorder.solution(softmax(logits), multipliers)
