"""Generalised advantage estimation (Schulman et al. 2016) for a reward or any number of costs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def gae(
    signal: FloatArray,
    values: FloatArray,
    next_values: FloatArray,
    terminated: FloatArray,
    truncated: FloatArray,
    *,
    gamma: float,
    gae_lambda: float,
) -> FloatArray:
    """Advantages of every step, same shape as ``signal``.

    delta_t = u_t + gamma (1 - term_t) V(s'_t) - V(s_t)
    A_t     = delta_t + gamma gae_lambda (1 - term_t) (1 - trunc_t) A_{t+1}

    ``s'_t`` is the true next state: at a truncation and at the end of the batch its value is bootstrapped, at a
    termination it is not. Terminations are probabilities in [0, 1], so soft terminations take the same path.

    Args:
        signal: Rewards (T, N), or costs (T, N, K).
        values: V(s_t), same shape as ``signal``.
        next_values: V(s'_t) of the true next state, same shape as ``signal``.
        terminated: Probability that the step ended the task, (T, N).
        truncated: 1 where the episode was cut without ending the task, (T, N).
        gamma: Discount factor in [0, 1].
        gae_lambda: Trace factor in [0, 1]; 1 gives Monte-Carlo returns, 0 one-step errors.
    """
    extra = (1,) * (signal.ndim - terminated.ndim)
    goes_on = (1.0 - terminated).reshape(terminated.shape + extra)
    not_cut = goes_on * (1.0 - truncated).reshape(truncated.shape + extra)
    advantages = signal + gamma * goes_on * next_values - values
    trace = gamma * gae_lambda * not_cut
    for step in range(len(signal) - 2, -1, -1):
        advantages[step] += trace[step] * advantages[step + 1]
    return advantages
