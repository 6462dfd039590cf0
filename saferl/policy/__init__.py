"""Policies: networks with cost critics, and the folder that a trained policy is kept in."""

from saferl.policy.artefact import PolicyArtefact, load, save_artefact
from saferl.policy.networks import (
    ConstrainedActorCriticCnnPolicy,
    ConstrainedActorCriticPolicy,
    ConstrainedMultiInputActorCriticPolicy,
)
from saferl.policy.random import RandomPolicy

__all__ = [
    "ConstrainedActorCriticCnnPolicy",
    "ConstrainedActorCriticPolicy",
    "ConstrainedMultiInputActorCriticPolicy",
    "PolicyArtefact",
    "RandomPolicy",
    "load",
    "save_artefact",
]
