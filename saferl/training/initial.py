"""``--init-from``: start a training from the weights and the normaliser of a policy that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from saferl.errors import ConfigError
from saferl.policy.artefact import PolicyArtefact, load

_COST_CRITIC = ("cost_critic.", "cost_value_net.")
_UNKNOWN_COUNT = 10_000.0
"""Weight of normaliser statistics from an artefact that does not say how many observations they are made of."""


def initialise(model: Any, source: str | Path) -> dict[str, Any]:
    """Give ``model`` the weights and observation statistics of an artefact; the optimiser and multipliers start anew.

    The cost critic is taken over if the artefact has one for the same constraints, and is new otherwise, so that a
    constrained agent can start from an unconstrained one.

    Returns:
        What ``run.json`` says of it.

    Raises:
        ConfigError: other spaces, another network, or another use of observation normalisation.
        ArtefactError: ``source`` is no whole artefact.
    """
    artefact = load(source)
    for what, here, there in (
        ("observation space", model.observation_space, artefact.observation_space),
        ("action space", model.action_space, artefact.action_space),
    ):
        if here != there:
            raise ConfigError(f"--init-from needs a policy of the same {what}: {here}; {source} is for {there}.")
    own_kind, given_kind = (policy.activation_fn.__name__ for policy in (model.policy, artefact.policy))
    if own_kind != given_kind:
        raise ConfigError(
            f"--init-from needs the same network; its activation is {own_kind} here and {given_kind} in {source}. "
            f"Use --set activation={given_kind}."
        )
    own, given = model.policy.state_dict(), artefact.policy.state_dict()
    if artefact.constraints.names != model.constraints.names:
        given = {key: value for key, value in given.items() if not key.startswith(_COST_CRITIC)}
    for key in {**own, **given}:
        if key.startswith(_COST_CRITIC) and not (key in own and key in given and own[key].shape == given[key].shape):
            given.pop(key, None)
            continue
        sizes = [tuple(part[key].shape) if key in part else None for part in (own, given)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"--init-from needs the same network; {key} is {sizes[0] or 'absent'} here and {sizes[1] or 'absent'} "
                f"in {source}. Set net_arch as it was there: {artefact.header['network'].get('net_arch')}."
            )
    model.policy.load_state_dict({**own, **{key: th.tensor(value.numpy()) for key, value in given.items()}})
    _take_statistics(model, artefact, source)
    return {
        "policy": str(source),
        "weights_sha256": artefact.header["sha256"]["weights.safetensors"],
        "solver": artefact.provenance.get("solver"),
        "steps": artefact.provenance.get("steps"),
    }


def _take_statistics(model: Any, artefact: PolicyArtefact, source: str | Path) -> None:
    layer, normaliser = unwrap_vec_normalize(model.env), artefact.normaliser
    normalises = layer is not None and layer.norm_obs
    if normalises != (normaliser is not None):
        raise ConfigError(
            f"--init-from needs the same observation normalisation; {source} was trained "
            f"{'with' if normaliser is not None else 'without'} it. "
            f"Use --set normalize_observations={'true' if normaliser is not None else 'false'}."
        )
    if layer is None or normaliser is None:
        return
    for key, rms in (layer.obs_rms if isinstance(layer.obs_rms, dict) else {"": layer.obs_rms}).items():
        rms.mean, rms.var = normaliser.mean[key].copy(), normaliser.var[key].copy()
        rms.count = normaliser.count.get(key, _UNKNOWN_COUNT)
