"""What every policy that was learned from data alone can do, and the names that artefacts know them by.

Observations reach a policy flat and raw, ``(B, F)`` float32; actions leave it in [-1, 1], ``(B, A)``. Between them and
the units of an environment stands :class:`saferl.policy.offline_actor.OfflineActor`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from saferl.errors import UnknownNameError, UsageError
from saferl.registry import load_object

FloatArray = npt.NDArray[np.float64]
Generators = Sequence[np.random.Generator]
State = Any
"""What a policy remembers of the episodes that it acts in, one lane each; None where it remembers nothing."""

POLICIES: dict[str, str] = {
    "decision_transformer": "saferl.policy.decision_policy:DecisionPolicy",
    "gaussian_mlp": "saferl.policy.behaviour:GaussianMlp",
    "deterministic_mlp": "saferl.policy.behaviour:DeterministicMlp",
    "feasible_diffusion": "saferl.policy.feasible_diffusion:FeasibleDiffusion",
    "perturbed_vae": "saferl.policy.vae:PerturbedVae",
    "switching_heads": "saferl.policy.switching_heads:SwitchingHeads",
    "trajectory_diffusion": "saferl.policy.trajectory_diffusion:TrajectoryDiffusion",
}
"""Import paths of the policies that an artefact can name, by their kind."""


class OfflinePolicy(nn.Module, abc.ABC):
    """A network that acts; its weights and ``arch`` are all that an artefact stores of it."""

    kind: ClassVar[str]
    """Its name in :data:`POLICIES`."""
    is_stateful: ClassVar[bool] = False
    """Whether its actions depend on what happened earlier in the episode."""
    has_density: ClassVar[bool] = False
    """Whether :meth:`log_prob` is there."""
    takes_budgets: ClassVar[bool] = False
    """Whether it can be given other budgets than those it was trained at, by :meth:`begin`."""

    shift: th.Tensor
    """Subtracted from observations, (F,); training sets it."""
    scale: th.Tensor
    """They are divided by it after that, (F,)."""

    def __init__(self, num_features: int, action_width: int, arch: Mapping[str, Any] | None = None) -> None:
        """Note the sizes; observations are left as they are until shift and scale are set.

        Args:
            num_features: Width F of an observation.
            action_width: Width A of an action.
            arch: Plain JSON, with which ``type(self)(num_features, action_width, **arch)`` builds the same network.
        """
        super().__init__()
        self.num_features, self.action_width = num_features, action_width
        self.arch: dict[str, Any] = dict(arch or {})
        self.register_buffer("shift", th.zeros(num_features))
        self.register_buffer("scale", th.ones(num_features))

    @property
    def num_parameters(self) -> int:
        """Learned numbers in all its networks."""
        return sum(parameter.numel() for parameter in self.parameters())

    def features(self, observations: th.Tensor) -> th.Tensor:
        """Observations (..., F), scaled as in training."""
        return (observations - self.shift) / self.scale

    def begin(self, lanes: int, budgets: FloatArray | None) -> State:
        """The state in front of the first action of ``lanes`` episodes.

        Args:
            lanes: Number of episodes that are acted in together.
            budgets: Limits of the episodes' cost sums, (C,), infinite where there is none; None: nobody gave any.
        """
        return None

    @abc.abstractmethod
    def act(
        self, observations: th.Tensor, state: State, generators: Generators | None, deterministic: bool
    ) -> th.Tensor:
        """Actions in [-1, 1], (B, A).

        Args:
            observations: Raw and flat, (B, F).
            state: Of B lanes, from :meth:`begin`; changed in place.
            generators: Row i draws from ``generators[i]`` alone; None: from torch's global generator.
            deterministic: Whether to take the mean or mode, where the policy has one.
        """

    def observe(self, state: State, rewards: FloatArray, costs: FloatArray, ended: npt.NDArray[np.bool_]) -> None:
        """Tell the policy what came of its last actions.

        Args:
            state: Of B lanes; changed in place.
            rewards: (B,).
            costs: (B, C).
            ended: Whether the episode is over, (B,).
        """

    def restart(self, state: State, rows: npt.NDArray[np.int64]) -> None:
        """Forget the episodes of the lanes ``rows``, in which new ones begin."""

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log density of actions in [-1, 1] (B, A) at observations (B, F); only where ``has_density``."""
        raise UsageError(f"{type(self).__name__} has no density; only policies with has_density do.")


def policy_class(kind: str) -> type[OfflinePolicy]:
    """The class that artefacts of ``kind`` are made of.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind not in POLICIES:
        raise UnknownNameError("kind of offline policy", kind, POLICIES)
    found: type[OfflinePolicy] = load_object(POLICIES[kind])
    return found


def standard_normal(shape: tuple[int, ...], generators: Generators | None) -> th.Tensor:
    """Standard normal numbers, ``shape[0]`` rows; row i is drawn from ``generators[i]`` alone, None: by torch."""
    if generators is None:
        return th.randn(shape)
    return th.from_numpy(np.stack([rng.standard_normal(shape[1:], dtype=np.float32) for rng in generators]))
