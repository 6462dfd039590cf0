"""A trained policy as a folder that says what it is: no pickle, every file hashed.

``artefact.json`` (schema version, spaces, network, frozen normaliser, constraints, provenance, hashes of every file)
and ``weights.safetensors`` (network and normaliser arrays). ``evaluations.json`` counts how often it was evaluated and
is the only file that changes afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from torch import nn

from saferl.constraints import ConstraintSet
from saferl.errors import ArtefactError, RunFolderError, SaferlError
from saferl.policy.actor import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from saferl.policy.networks import (
    ConstrainedActorCriticCnnPolicy,
    ConstrainedActorCriticPolicy,
    ConstrainedMultiInputActorCriticPolicy,
)
from saferl.policy.normaliser import FrozenNormaliser
from saferl.policy.sampling import sample_rows
from saferl.policy.spaces import space_from_dict, space_to_dict
from saferl.storage import HEADER_HASH, atomic_folder, header_digest, read_json, sha256, write_header, write_json

SCHEMA = "saferl.artefact/1"
OFFLINE = "offline"
"""The part of a header that describes a policy learned from data; a Stable-Baselines3 policy has none."""
HEADER, WEIGHTS, COUNTER = "artefact.json", "weights.safetensors", "evaluations.json"

_POLICY_CLASSES: dict[str, type[ActorCriticPolicy]] = {
    cls.__name__: cls
    for cls in (
        ActorCriticPolicy,
        ActorCriticCnnPolicy,
        MultiInputActorCriticPolicy,
        ConstrainedActorCriticPolicy,
        ConstrainedActorCriticCnnPolicy,
        ConstrainedMultiInputActorCriticPolicy,
        ActorPolicy,
        ActorCnnPolicy,
        MultiInputActorPolicy,
    )
}
_ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Identity)}
_PLAIN_KWARGS = ("net_arch", "log_std_init", "ortho_init", "share_features_extractor", "normalize_images")


class PolicyArtefact:
    """A loaded policy: Stable-Baselines3's ``predict`` on raw observations, in env units.

    Example:
        >>> artefact = saferl.load("runs/quick/ppo_lag")           # doctest: +SKIP
        >>> action, _ = artefact.predict(obs, deterministic=True)  # doctest: +SKIP
    """

    def __init__(
        self, policy: ActorCriticPolicy, normaliser: FrozenNormaliser | None, header: Mapping[str, Any], path: Path
    ) -> None:
        """Use :func:`load`."""
        self.policy = policy
        self.normaliser = normaliser
        self.header = header
        self.path = path

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of raw observations."""
        return self.policy.observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of actions; predictions lie in it."""
        return self.policy.action_space

    @property
    def constraints(self) -> ConstraintSet:
        """The constraints that it was trained at."""
        return ConstraintSet.from_list(self.header["constraints"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it comes from: solver, env, steps, seed, versions, multipliers."""
        return self.header["provenance"]  # type: ignore[no-any-return]

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for raw observations, batched or not (a stochastic one draws from torch's global generator)."""
        normalised = self.normaliser(observation) if self.normaliser is not None else observation
        return self.policy.predict(normalised, state, episode_start, deterministic)

    def sample(self, observation: Any, generators: Sequence[np.random.Generator]) -> Any:
        """Stochastic actions for a batch of raw observations; row i draws from ``generators[i]`` alone."""
        normalised = self.normaliser(observation) if self.normaliser is not None else observation
        with th.no_grad():
            tensors, _ = self.policy.obs_to_tensor(normalised)
            actions = sample_rows(self.policy.get_distribution(tensors), generators)
        actions = actions.reshape(len(generators), *(self.action_space.shape or ()))
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions

    @property
    def evaluations(self) -> int:
        """How many evaluations it has had (PROTOCOL 3).

        Raises:
            ArtefactError: the counter beside the artefact cannot be read.
        """
        counter = self.path / COUNTER
        if not counter.exists():
            return 0
        try:
            return int(read_json(counter, what="The evaluation counter")["count"])
        except (RunFolderError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"The evaluation counter of the artefact must hold a count; {counter} does not ({error}). Write "
                '{"count": N} into it, with the number of evaluations so far.'
            ) from error

    def count_evaluation(self) -> int:
        """Note one more evaluation beside the artefact, and give the new count."""
        count = self.evaluations + 1
        try:
            write_json(self.path / COUNTER, {"count": count})
        except OSError:
            return count  # a read-only artefact can still be evaluated; its count stays
        return count


def save_artefact(
    folder: Path, model: BaseAlgorithm, constraints: ConstraintSet, provenance: Mapping[str, Any]
) -> Path:
    """Write the policy of a Stable-Baselines3 ``model`` as an artefact folder, atomically.

    Raises:
        ArtefactError: a policy class, network, activation or space that an artefact cannot describe.
    """
    policy = model.policy
    network = _describe_network(policy)
    normaliser = FrozenNormaliser.from_vec_normalize(unwrap_vec_normalize(model.env) if model.env else None)
    # Copies: actor and critics may share a features extractor, and safetensors refuses tensors that share memory.
    tensors = {
        f"policy/{key}": value.detach().cpu().clone(memory_format=th.contiguous_format)
        for key, value in policy.state_dict().items()
    }
    if normaliser is not None:
        for key in normaliser.mean:
            tensors[f"normaliser/mean/{key}"] = th.from_numpy(np.ascontiguousarray(normaliser.mean[key]))
            tensors[f"normaliser/var/{key}"] = th.from_numpy(np.ascontiguousarray(normaliser.var[key]))
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        header = {
            "schema": SCHEMA,
            "policy_class": type(policy).__name__,
            "network": network,
            "observation_space": space_to_dict(policy.observation_space),
            "action_space": space_to_dict(policy.action_space),
            "normaliser": None if normaliser is None else _describe_normaliser(normaliser),
            "constraints": constraints.to_list(),
            "provenance": dict(provenance),
            "sha256": {WEIGHTS: sha256(temporary / WEIGHTS)},
        }
        write_header(temporary / HEADER, header)
    return folder


def _describe_network(policy: Any) -> dict[str, Any]:
    """The arguments that :func:`_build` makes the network from."""
    if type(policy) not in _POLICY_CLASSES.values():
        raise ArtefactError(
            f"An artefact can hold the policies {', '.join(_POLICY_CLASSES)}; got {type(policy).__name__}. "
            "Policies of your own keep Stable-Baselines3's model.save(...)."
        )
    parameters = policy._get_constructor_parameters()
    extractor, extractor_kwargs = parameters["features_extractor_class"], parameters["features_extractor_kwargs"]
    stock = inspect.signature(type(policy)).parameters.get("features_extractor_class")
    if extractor is not (stock.default if stock else FlattenExtractor) or extractor_kwargs or policy.use_sde:
        raise ArtefactError(
            "An artefact can hold the features extractors of Stable-Baselines3's policies at their defaults, without "
            f"use_sde; got {extractor.__name__} with {extractor_kwargs}, use_sde={policy.use_sde}. "
            "Keep such a policy with Stable-Baselines3's model.save(...)."
        )
    activation = policy.activation_fn.__name__
    if activation not in _ACTIVATIONS:
        raise ArtefactError(f"An artefact knows the activations {', '.join(_ACTIVATIONS)}; got {activation}.")
    network = {key: parameters[key] for key in _PLAIN_KWARGS if key in parameters}
    network["share_features_extractor"] = policy.share_features_extractor
    network["activation_fn"] = activation
    if isinstance(policy, ConstrainedActorCriticPolicy):
        network["num_constraints"] = policy.num_constraints
    return network


def _describe_normaliser(normaliser: FrozenNormaliser) -> dict[str, Any]:
    return {"clip": normaliser.clip, "epsilon": normaliser.epsilon, "count": dict(normaliser.count)}


def load(path: str | Path) -> PolicyArtefact:
    """Load a policy from an artefact folder, or from a run folder (its last iterate).

    Raises:
        ArtefactError: no artefact there, a newer major version, a missing file, or one with changed bytes.
    """
    folder = resolve(Path(path))
    try:
        header = read_json(folder / HEADER, what="The header of a policy artefact")
    except RunFolderError as error:
        raise ArtefactError(str(error)) from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        got = header.get("schema") if isinstance(header, dict) else type(header).__name__
        raise ArtefactError(
            f"{folder / HEADER} must have schema {SCHEMA!r}; got {got!r}. Use a matching saferl version."
        )
    if header.get(HEADER_HASH) != header_digest(header):
        raise ArtefactError(
            f"{folder / HEADER} was changed after it was written: its content does not match its {HEADER_HASH}. "
            "Copy the artefact again from where it was made."
        )
    hashes = header.get("sha256")
    if not isinstance(hashes, dict) or WEIGHTS not in hashes:
        raise ArtefactError(
            f"{folder / HEADER} must list the sha256 of {WEIGHTS}; it does not. Train or copy it again."
        )
    for name, expected in hashes.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtefactError(f"{folder / HEADER} must list files inside the artefact; got {name!r}. Copy it again.")
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"The artefact {folder} is incomplete: {name} is missing. Copy the whole folder again.")
        if (got := sha256(file)) != expected:
            raise ArtefactError(
                f"{file} was changed after it was written: its sha256 must be {str(expected)[:12]}...; "
                f"got {got[:12]}.... Copy the artefact again from where it was made."
            )
    try:
        if OFFLINE in header:
            from saferl.policy.offline_artefact import rebuild  # it builds on this module

            return rebuild(header, load_file(folder / WEIGHTS), folder)
        policy, normaliser = _build(header, load_file(folder / WEIGHTS))
    except _MISFITS as error:
        raise ArtefactError(
            f"The artefact {folder} does not fit together: {_reason(error)}. It was edited, or is from a newer saferl. "
            "Copy it again from where it was made, or use a matching saferl version."
        ) from error
    return PolicyArtefact(policy, normaliser, header, folder)


def read_spaces(folder: Path) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Observation and action space of the artefact in ``folder``, without building its network."""
    header = read_json(folder / HEADER, what="The header of a policy artefact")
    return space_from_dict(header["observation_space"]), space_from_dict(header["action_space"])


_MISFITS = (
    SaferlError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    SafetensorError,
)
"""What an edited header raises where its parts are put together."""


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).strip().rstrip(".")


def resolve(path: Path) -> Path:
    """The artefact folder that ``path`` means: itself, or ``artefact/`` of a run folder."""
    for candidate in (path, path / "artefact"):
        if (candidate / HEADER).is_file():
            return candidate
    if (path / "run.json").is_file():
        raise ArtefactError(
            f"The run {path} has no artefact: its training did not finish. Evaluate one of its checkpoints "
            f"({path / 'checkpoint'}/...), or train again."
        )
    what = "does not exist" if not path.exists() else f"holds no {HEADER}"
    raise ArtefactError(f"A policy artefact or run folder is needed; {path} {what}. Give the folder that --out named.")


def _build(
    header: Mapping[str, Any], tensors: Mapping[str, th.Tensor]
) -> tuple[ActorCriticPolicy, FrozenNormaliser | None]:
    ConstraintSet.from_list(header["constraints"])
    if not isinstance(header["provenance"], dict):
        raise TypeError(f"provenance must be an object; got {header['provenance']!r}")
    kwargs = dict(header["network"])
    name, activation = header["policy_class"], kwargs.pop("activation_fn")
    if name not in _POLICY_CLASSES or activation not in _ACTIVATIONS:
        raise ValueError(f"policy class {name!r} or activation {activation!r} is unknown")
    kwargs["activation_fn"] = _ACTIVATIONS[activation]
    kwargs["ortho_init"] = False  # an expensive way to make weights that are replaced below
    observation_space, action_space = (space_from_dict(header[f"{what}_space"]) for what in ("observation", "action"))
    # A new network is filled with random numbers: those of the caller must not change by loading a policy.
    with th.random.fork_rng(devices=[]):
        policy = _POLICY_CLASSES[name](observation_space, action_space, lambda _: 0.0, **kwargs)
    policy.load_state_dict({key[7:]: value for key, value in tensors.items() if key.startswith("policy/")})
    policy.set_training_mode(False)
    normaliser = None
    if header["normaliser"] is not None:
        arrays: dict[str, dict[str, Any]] = {"mean": {}, "var": {}}
        for key, value in tensors.items():
            if key.startswith("normaliser/"):
                _, part, leaf = key.split("/", 2)
                arrays[part][leaf] = value.numpy()
        numbers = header["normaliser"]
        normaliser = FrozenNormaliser(
            arrays["mean"], arrays["var"], numbers["clip"], numbers["epsilon"], numbers.get("count", {})
        )
    return policy, normaliser
