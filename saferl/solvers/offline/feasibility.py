"""FISOR's equations as functions: losses, the feasible Bellman operator, weights, margins, and calibration.

Numbers of equations are those of Zheng, Li, Yu, Yang, Li, Zhan, Liu (2024), "Safe offline reinforcement learning with
feasibility-guided diffusion model"; :mod:`.fisor` says how they belong together.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.data.dataset import Dataset, Floats
from saferl.errors import ConfigError, DataError


def expectile_loss(errors: th.Tensor, expectile: float) -> th.Tensor:
    """Mean of ``|expectile - 1(u < 0)| u^2``.

    With u = target - value and an expectile above 0.5 the value follows the high targets, with u = value - target the
    low ones (the reverse expectile of FISOR, equation 9).
    """
    weight = th.where(errors < 0.0, 1.0 - expectile, expectile)
    return (weight * errors.square()).mean()


def feasible_targets(h: th.Tensor, next_values: th.Tensor, gamma: float) -> th.Tensor:
    """Feasible Bellman operator ``(1 - gamma) h + gamma max(h, V_h(s'))``, a contraction by gamma (FISOR, eq. 5)."""
    return (1.0 - gamma) * h + gamma * th.maximum(h, next_values)


def next_feasibility(values: th.Tensor, h: th.Tensor, next_h: th.Tensor | None, terminals: th.Tensor) -> th.Tensor:
    """V_h(s') as the operator takes it: the state's own margin at a terminal state, and never below it elsewhere.

    Args:
        values: V_h of the next states, (B,).
        h: Margins of the states before, (B,), which stand for an unknown margin of a terminal state.
        next_h: Margins of the next states, (B,), or None where the data have none.
        terminals: True where the next state is terminal, (B,); a time limit is not.
    """
    if next_h is None:
        return th.where(terminals, h, values)
    return th.where(terminals, next_h, th.maximum(next_h, values))


def feasible_weights(
    values: th.Tensor,
    action_values: th.Tensor,
    reward_advantages: th.Tensor,
    *,
    reward_temperature: float,
    cost_temperature: float,
    max_weight: float,
    max_infeasible_weight: float,
) -> th.Tensor:
    """Weights of transitions in the denoising loss, (B,) (FISOR, equation 15).

    Args:
        values: V_h(s), (B,).
        action_values: Q_h(s, a), (B,).
        reward_advantages: A_r(s, a), (B,).
        reward_temperature: Sharpness towards reward in feasible states.
        cost_temperature: Sharpness towards safety in infeasible states.
        max_weight: Largest weight in feasible states.
        max_infeasible_weight: Largest weight in infeasible states.
    """
    rewarding = th.exp(reward_temperature * reward_advantages).clamp(max=max_weight)
    safest = th.exp(-cost_temperature * (action_values - values)).clamp(max=max_infeasible_weight)
    return th.where(values <= 0.0, th.where(action_values <= 0.0, rewarding, 0.0), safest)


def contrasted_weights(
    values: th.Tensor,
    action_values: th.Tensor,
    reward_values: th.Tensor,
    *,
    reward_temperature: float,
    cost_temperature: float,
) -> th.Tensor:
    """The weights of :func:`feasible_weights`, divided by their mean over other actions in the same state, (B,).

    So every state weighs about the same and no baseline is needed, whose error may be larger than the difference that
    one action makes. They lie between 0 and K.

    Args:
        values: V_h(s), (B,).
        action_values: Q_h of K actions in each state, (B, K); the first is the one that is weighed.
        reward_values: Q_r of the same actions, (B, K).
        reward_temperature: Sharpness towards reward in feasible states.
        cost_temperature: Sharpness towards safety in infeasible states.
    """
    rewarding = (reward_temperature * reward_values).masked_fill(action_values > 0.0, -th.inf)
    logits = th.where((values <= 0.0).unsqueeze(1), rewarding, -cost_temperature * action_values)
    # Where no action is safe, all logits are -inf and the weight is 0.
    return logits.shape[1] * th.softmax(logits, dim=1)[:, 0].nan_to_num(0.0)


def margins_of(dataset: Dataset, source: str, cost_scale: float) -> tuple[Floats, Floats | None]:
    """Largest margin h (N,) of every transition and of its next state, None where the data do not say.

    Args:
        dataset: The data.
        source: ``dataset``, ``costs`` or ``auto``, as in :class:`FISORConfig`.
        cost_scale: h of a transition that costs something, where h comes from costs.

    Raises:
        DataError: margins were asked for and there are none.
    """
    if source == "dataset" and dataset.h is None:
        raise DataError(
            "FISOR.margins is 'dataset', but the data have no h. Use margins='costs', or data with margins."
        )
    if source != "costs" and dataset.h is not None:
        return dataset.h.max(axis=1), None if dataset.next_h is None else dataset.next_h.max(axis=1)
    is_costly = (dataset.costs > 0.0).any(axis=1)
    return np.where(is_costly, cost_scale, -1.0).astype(np.float32), None


def reward_factor(dataset: Dataset, span: float) -> float:
    """What rewards are multiplied by, so that returns span ``span`` times the longest episode; 1 where span is 0."""
    returns = dataset.returns()
    width = float(returns.max() - returns.min())
    longest = int((dataset.episode_ends - dataset.episode_starts).max())
    return span * longest / width if span > 0.0 and width > 0.0 else 1.0


def calibrate_epsilon(values: npt.ArrayLike, violated: npt.ArrayLike, level: float = 0.02) -> float:
    """The smallest margin epsilon >= 0 at which ``V_h <= -epsilon`` passes at most a share ``level`` of bad starts.

    Split conformal: with the n bad starts in order of V_h, the ``floor(level (n + 1))``-th smallest may still pass;
    a further bad start, exchangeable with them, passes with probability at most ``level``.

    Args:
        values: V_h of the starts of held-out rollouts, (E,).
        violated: Whether each rollout violated the constraint, (E,).
        level: Share of bad starts that may pass, in (0, 1).

    Raises:
        ConfigError: too few rollouts violated to say anything at this level.
    """
    bad = np.sort(np.asarray(values, dtype=np.float64)[np.asarray(violated, dtype=bool)])
    allowed = math.floor(level * (len(bad) + 1) + 1e-9)
    if allowed < 1:
        raise ConfigError(
            f"Calibrating epsilon at level {level:g} needs at least {math.ceil(1 / level - 1e-9) - 1} held-out "
            f"rollouts that violate; got {len(bad)}. Give more rollouts from unsafe starts, or a higher level."
        )
    return max(0.0, -float(bad[allowed - 1]))
