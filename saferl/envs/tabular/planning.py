"""Optimal policies without constraints: the oracle of dual methods, greedy or regularised towards a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.errors import TrainingError

Array = npt.NDArray[np.float64]

MAX_ITERATIONS = 1000
"""Policy iterations after which rounding must be the reason that there is no end."""
_IMPROVEMENT = 1e-13
"""An action replaces another if its normalised Q is larger by this share of the largest reward."""

_SWEEPS, _SWEPT_ITERATIONS = 300, 20
"""Sweeps of value iteration per policy iteration, and in how many of these."""


@dataclass(frozen=True)
class Plan:
    """A policy that is optimal for some reward, and how good any policy can be."""

    policy: Array
    """Probabilities, (S, A) or (H, S, A); one-hot where the plan is deterministic."""
    values: Array
    """Normalised values of the states, (S,) or (H, S)."""
    value: float
    """Mean reward per step from the first state."""
    upper_bound: float
    """No policy has a larger value: ``value`` plus what the Bellman residual may hide."""


def best_response(cmdp: TabularCMDP, reward: Array, *, initial: Array | None = None) -> Plan:
    """The policy that maximises the mean of ``reward``, shaped as the CMDP's rewards.

    A discounted problem is solved by policy iteration (Howard 1960) with exact evaluation, which ends after few
    iterations; ``initial``, a policy that is nearly best, makes them fewer (of a stochastic one the likeliest actions
    count). The upper bound holds for any V (Puterman 1994, 6.3):

        max_pi Jbar <= rho V + max_s (max_a Q(s, a) - V(s))_+ / (1 - gamma)

    A finite horizon is solved by one backward induction, and ``initial`` is not needed.

    Raises:
        TrainingError: no end within 1,000 iterations.
    """
    signal = cmdp.scale * np.asarray(reward, dtype=np.float64)
    if cmdp.horizon is not None:
        return _backward_induction(cmdp, signal)
    tolerance = rounding(reward)
    if initial is None:
        chosen = improved(cmdp, signal, np.zeros(cmdp.num_states), signal.argmax(axis=-1), tolerance).actions
    else:
        chosen = initial.argmax(axis=-1)
    for iteration in range(MAX_ITERATIONS):
        policy = one_hot(chosen, cmdp.num_actions)
        own = np.take_along_axis(signal, chosen[..., None], axis=-1)
        values = cmdp.value_system(policy).values(own)[..., 0]
        better = improved(cmdp, signal, values, chosen, tolerance, iteration)
        if better.is_same:
            value = float(cmdp.rho @ values)
            return Plan(policy, values, value, value + hidden_value(cmdp, better.residual))
        chosen = better.actions
    raise TrainingError(
        f"Policy iteration must end within {MAX_ITERATIONS} iterations; {cmdp!r} did not. Two actions may differ by "
        "rounding only: scale the rewards to order 1."
    )


@dataclass(frozen=True)
class Improvement:
    """Actions that are at least as good as those before."""

    actions: npt.NDArray[np.int64]
    """The actions, (S,)."""
    is_same: bool
    """Whether nothing was to improve."""
    residual: Array
    """max_a Q - V of the values before, (S,)."""


def improved(
    cmdp: TabularCMDP,
    signal: Array,
    values: Array,
    actions: npt.NDArray[np.int64],
    tolerance: float,
    iteration: int = 0,
) -> Improvement:
    """Better actions than ``actions``, whose values are ``values`` (S,), for normalised rewards ``signal`` (S, A).

    An action stays where no other has a Q larger by more than ``tolerance``. Before the new actions are returned, value
    iteration goes on from ``values`` until they settle, at most 300 times: a sweep costs a hundredth of an evaluation
    of a large policy, and rewards spread over a grid by a cell per sweep. From the 20th ``iteration`` on there are no
    sweeps: plain policy iteration has no way to circle in rounding.
    """
    greedy, best, is_better = _greedy(signal + cmdp.discount * cmdp.expected_next(values), actions, tolerance)
    residual, is_same = best - values, not is_better.any()
    for _ in range(_SWEEPS if iteration < _SWEPT_ITERATIONS else 1):
        if not is_better.any():
            break
        actions = np.where(is_better, greedy, actions)
        greedy, best, is_better = _greedy(signal + cmdp.discount * cmdp.expected_next(best), actions, tolerance)
    return Improvement(actions, is_same, residual)


def _greedy(
    q: Array, actions: npt.NDArray[np.int64], tolerance: float
) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.bool_]]:
    """The best action of every state, its Q, and whether it betters ``actions``; q is (S, A)."""
    greedy = q.argmax(axis=-1)
    # Picked by flat index: a maximum over so short an axis takes several times as long.
    first = np.arange(0, q.size, q.shape[-1])
    flat = q.ravel()
    best = flat[first + greedy]
    return greedy, best, best > flat[first + actions] + tolerance


def _backward_induction(cmdp: TabularCMDP, signal: Array) -> Plan:
    """The best policy of a finite horizon, and its values, from the last step to the first."""
    values = np.zeros(signal.shape[:-1])
    chosen = np.zeros(signal.shape[:-1], dtype=np.int64)
    following = np.zeros(cmdp.num_states)
    for step in range(len(signal) - 1, -1, -1):
        q = signal[step] + (cmdp.transitions[step] @ following).reshape(signal[step].shape)
        chosen[step], values[step] = q.argmax(axis=-1), q.max(axis=-1)
        following = values[step]
    value = float(cmdp.rho @ values[0])
    return Plan(one_hot(chosen, cmdp.num_actions), values, value, value)


def rounding(reward: Array) -> float:
    """The difference of two normalised Q for ``reward`` up to which they may be equal."""
    return _IMPROVEMENT * max(1e-300, float(np.abs(reward).max()))


def hidden_value(cmdp: TabularCMDP, residual: Array) -> float:
    """What the optimal value may exceed rho V by, given the residual max_a Q - V, (S,) or (H, S)."""
    if cmdp.horizon is None:
        return max(0.0, float(residual.max())) / cmdp.scale
    return float(np.maximum(residual.max(axis=-1), 0.0).sum())


def soft_best_response(
    cmdp: TabularCMDP, reward: Array, reference: Array, temperature: float, *, tolerance: float = 1e-13
) -> Plan:
    """The policy that maximises the mean of ``reward`` minus ``temperature`` times its divergence from ``reference``.

    In normalised units, with beta the temperature,

        Q(s, a) = scale r(s, a) + gamma E V(s'),    V(s) = beta log sum_a ref(a|s) exp(Q(s, a) / beta)
        pi(a|s) proportional to ref(a|s) exp(Q(s, a) / beta)

    where the KL divergence is summed with the occupancies of pi. Solved by policy iteration on the regularised problem,
    which is Newton's method for the fixed point and converges quadratically (Geist, Scherrer, Pietquin 2019).

    Raises:
        TrainingError: no convergence within 1,000 iterations.
    """
    signal = cmdp.scale * np.asarray(reward, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference)
    values = np.zeros(cmdp.policy_shape[:-1])
    # A hot problem's values are known to the rounding of the temperature only.
    size = max(1e-300, float(np.abs(signal).max()) / cmdp.scale)
    enough = max(tolerance * size, 16 * np.finfo(np.float64).eps * temperature)
    for _ in range(MAX_ITERATIONS):
        q = signal + cmdp.discount * cmdp.expected_next(values)
        scaled = log_reference + q / temperature
        top = scaled.max(axis=-1, keepdims=True)
        weights = np.exp(scaled - top)
        total = weights.sum(axis=-1, keepdims=True)
        policy = weights / total
        soft = temperature * (np.log(total) + top)[..., 0]
        if np.abs(soft - values).max() <= enough:
            first = soft if cmdp.horizon is None else soft[0]
            value = float(cmdp.rho @ first)
            return Plan(policy, soft, value, value + hidden_value(cmdp, soft - values))
        # log(pi / ref) = Q / beta - V / beta, also where ref is 0 and pi with it.
        penalty = q - soft[..., None]
        values = cmdp.value_system(policy).values((policy * (signal - penalty)).sum(axis=-1)[..., None])[..., 0]
    raise TrainingError(f"Regularised policy iteration must converge; {cmdp!r} did not at temperature {temperature:g}.")


def one_hot(actions: npt.NDArray[np.int64], num_actions: int) -> Array:
    """Deterministic policies as probabilities: actions (...) to (..., A)."""
    return np.eye(num_actions)[actions]
