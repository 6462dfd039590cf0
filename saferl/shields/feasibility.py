"""Feasibility critics as a shield: what FISOR learned about safety from data, around any policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch as th

from saferl.errors import ConfigError
from saferl.policy import load
from saferl.policy.feasible_diffusion import FeasibleDiffusion
from saferl.shields.critic import CriticConfig, CriticShield
from saferl.shields.networks import Network

DEFAULT = CriticConfig(rule="feasibility", mode="resample", candidates=64, spread=1.0)
"""How a proposal that the critics reject is replaced: the nearest accepted of 64 draws, or the least unsafe of them."""


def feasibility_shield(
    run: str | Path, *, epsilon: float = 0.0, config: CriticConfig = DEFAULT, time_budget_us: float | None = None
) -> CriticShield:
    """A :class:`CriticShield` with the critics Q_h and the value V_h that a run of ``fisor`` learned.

    An action is accepted if ``Q_h(s, a) <= -epsilon`` where ``V_h(s) <= -epsilon``; elsewhere the least Q_h that is
    found is executed.

    Args:
        run: Run or artefact folder of ``fisor``.
        epsilon: By how much the feasible set is taken to be smaller than learned, at least 0, in units of h
            (:func:`saferl.solvers.offline.feasibility.calibrate_epsilon`).
        config: What is done about a rejected action; the rule is ``feasibility``.
        time_budget_us: See :class:`~saferl.shields.Shield`.

    Raises:
        ArtefactError: no artefact there, or a damaged one.
        ConfigError: a policy of another solver, an epsilon below 0, or another rule.

    Example:
        >>> shield = feasibility_shield("runs/f", epsilon=0.05)   # doctest: +SKIP
        >>> saferl.shields.save_shield(shield, "shields/f")       # doctest: +SKIP
    """
    artefact = load(run)
    policy = getattr(artefact.policy, "policy", None)
    if not isinstance(policy, FeasibleDiffusion):
        raise ConfigError(
            f"{run} must be a run of fisor, which learns feasibility; it holds another policy. Train one: "
            "saferl train fisor DATA --out RUN."
        )
    if not 0.0 <= epsilon < float("inf") or config.rule != "feasibility":
        raise ConfigError(
            f"A feasibility shield needs an epsilon of at least 0 and the rule 'feasibility'; got {epsilon!r} and "
            f"{config.rule!r}."
        )
    critics, value = policy.critics, policy.value
    first = th.cat([critics.of_features, critics.of_actions], dim=1)
    q_layers = list(zip([first, *critics.weights], [critics.bias, *critics.biases], strict=True))
    v_layers = list(zip(value.weights, value.biases, strict=True))
    shift, scale = _numpy(policy.shift), _numpy(policy.scale)
    width = policy.action_width
    return CriticShield(
        artefact.action_space,
        [
            _member(q_layers, twin, epsilon, np.append(shift, np.zeros(width)), np.append(scale, np.ones(width)))
            for twin in range(2)
        ],
        config,
        value=_member(v_layers, 0, epsilon, shift, scale),
        time_budget_us=time_budget_us,
    )


def _member(
    layers: Sequence[tuple[th.Tensor, th.Tensor]],
    index: int,
    epsilon: float,
    shift: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> Network:
    """One member of a batched network, with ``epsilon`` added to what it says."""
    weights = [_numpy(weight[index]).T for weight, _ in layers]
    biases = [_numpy(bias[index, 0]) for _, bias in layers]
    biases[-1] = biases[-1] + epsilon
    return Network(weights, biases, "relu", shift, scale)


def _numpy(tensor: th.Tensor) -> npt.NDArray[np.float64]:
    return np.broadcast_to(tensor.detach().cpu().numpy().astype(np.float64), tensor.shape).copy()
