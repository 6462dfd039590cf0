"""Artefacts of policies that were learned from data: the same folder, loaded by the same :func:`saferl.load`.

In place of a Stable-Baselines3 network the header holds ``offline``: the policy's kind and ``arch``, the names of its
costs, the budgets that it acts at, and where its spaces are from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from safetensors.torch import save_file

from saferl.constraints import ConstraintSet
from saferl.policy.artefact import HEADER, OFFLINE, SCHEMA, WEIGHTS, PolicyArtefact, load
from saferl.policy.offline import Generators, State, policy_class
from saferl.policy.offline_actor import Budgets, OfflineActor
from saferl.policy.spaces import space_from_dict, space_to_dict
from saferl.storage import atomic_folder, sha256, write_header


class OfflineArtefact(PolicyArtefact):
    """A loaded policy that was learned from data.

    Beside ``predict`` and ``sample`` it has the calls of :class:`~saferl.policy.offline_actor.OfflineActor` for
    policies that remember their episode.

    Example:
        >>> artefact = saferl.load("runs/cdt").with_budgets({"cost": 20.0})  # doctest: +SKIP
        >>> state = artefact.begin(1)                                        # doctest: +SKIP
        >>> actions, state = artefact.predict(obs[None], state)              # doctest: +SKIP
        >>> artefact.observe(state, [reward], [[cost]], [terminated])        # doctest: +SKIP
    """

    policy: OfflineActor  # type: ignore[assignment]

    def __init__(self, actor: OfflineActor, header: Mapping[str, Any], path: Path, budgets: Budgets | None) -> None:
        """Use :func:`saferl.load`."""
        super().__init__(actor, None, header, path)  # type: ignore[arg-type]
        self._budgets = budgets

    def __reduce__(self) -> Any:
        """Worker processes read the folder; weights do not pass through pickle."""
        return _reload, (self.path, self._budgets)

    @property
    def action_space(self) -> spaces.Box:
        """Space of actions; predictions lie in it."""
        return self.policy.action_space

    @property
    def cost_names(self) -> tuple[str, ...]:
        """The costs that it knows, in the order of :meth:`observe`."""
        return self.policy.cost_names

    @property
    def is_stateful(self) -> bool:
        """Whether actions depend on what happened earlier in the episode."""
        return self.policy.is_stateful

    @property
    def takes_budgets(self) -> bool:
        """Whether :meth:`with_budgets` is there for it."""
        return self.policy.policy.takes_budgets

    @property
    def knows_its_spaces(self) -> bool:
        """Whether its spaces are those of an environment, and not merely as wide as the data."""
        return bool(self.header[OFFLINE]["spaces"] == "environment")

    def with_budgets(self, budgets: Budgets) -> OfflineArtefact:
        """The same policy at other budgets of the episodes' cost sums.

        Raises:
            ConfigError: it takes none at run time.
            UnknownNameError: a budget for a cost that it does not know.
        """
        return OfflineArtefact(self.policy.with_budgets(budgets), self.header, self.path, dict(budgets))

    def sample(self, observation: Any, generators: Sequence[np.random.Generator]) -> Any:
        """Drawn actions for a batch of raw observations; row i draws from ``generators[i]`` alone."""
        return self.policy.sample(observation, generators)

    def begin(self, lanes: int) -> State:
        """The state in front of ``lanes`` episodes."""
        return self.policy.begin(lanes)

    def act(self, observation: Any, state: State, generators: Generators | None, *, deterministic: bool) -> Any:
        """Actions for a batch of raw observations, in env units."""
        return self.policy.act(observation, state, generators, deterministic=deterministic)

    def observe(self, state: State, rewards: Any, costs: Any, ended: Any) -> None:
        """What came of the last actions: rewards (B,), costs (B, C) in the order of ``cost_names``, ended (B,)."""
        self.policy.observe(state, rewards, costs, ended)

    def restart(self, state: State, rows: Any) -> None:
        """New episodes begin in the lanes ``rows``."""
        self.policy.restart(state, rows)


def save_offline_artefact(
    folder: Path,
    actor: OfflineActor,
    constraints: ConstraintSet,
    provenance: Mapping[str, Any],
    *,
    spaces_from: str = "environment",
) -> Path:
    """Write the policy of ``actor`` as an artefact folder, atomically.

    Args:
        folder: Where to; one that is there is replaced.
        actor: The policy between its spaces, with the budgets that it acts at.
        constraints: What evaluations judge by.
        provenance: Where it comes from.
        spaces_from: ``environment``, or ``data`` where the spaces only have the right widths.

    Raises:
        ArtefactError: a space that an artefact cannot describe.
    """
    policy = actor.policy
    tensors = {
        f"policy/{key}": value.detach().cpu().clone(memory_format=th.contiguous_format)
        for key, value in policy.state_dict().items()
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS)
        header = {
            "schema": SCHEMA,
            OFFLINE: {
                "kind": policy.kind,
                "num_features": policy.num_features,
                "action_width": policy.action_width,
                "arch": policy.arch,
                "cost_names": list(actor.cost_names),
                "budgets": actor.budgets,
                "spaces": spaces_from,
            },
            "observation_space": space_to_dict(actor.observation_space),
            "action_space": space_to_dict(actor.action_space),
            "normaliser": None,
            "constraints": constraints.to_list(),
            "provenance": dict(provenance),
            "sha256": {WEIGHTS: sha256(temporary / WEIGHTS)},
        }
        write_header(temporary / HEADER, header)
    return folder


def rebuild(header: Mapping[str, Any], tensors: Mapping[str, th.Tensor], folder: Path) -> OfflineArtefact:
    """The policy that a checked header and its weights describe.

    Raises:
        UnknownNameError: a kind of policy that this version does not know.
        Exception: whatever an edited header leads to; :func:`saferl.load` explains it.
    """
    ConstraintSet.from_list(header["constraints"])
    if not isinstance(header["provenance"], dict):
        raise TypeError(f"provenance must be an object; got {header['provenance']!r}")
    about = header[OFFLINE]
    # A new network is filled with random numbers: those of the caller must not change by loading a policy.
    with th.random.fork_rng(devices=[]):
        policy = policy_class(about["kind"])(about["num_features"], about["action_width"], **about["arch"])
    policy.load_state_dict({key.removeprefix("policy/"): value for key, value in tensors.items()})
    policy.eval().requires_grad_(False)
    actor = OfflineActor(
        policy,
        space_from_dict(header["observation_space"]),
        space_from_dict(header["action_space"]),
        about["cost_names"],
        about["budgets"],
    )
    return OfflineArtefact(actor, header, folder, None)


def _reload(path: Path, budgets: Budgets | None) -> PolicyArtefact:
    artefact = load(path)
    return artefact.with_budgets(budgets) if budgets and isinstance(artefact, OfflineArtefact) else artefact
