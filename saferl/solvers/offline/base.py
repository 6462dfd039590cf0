"""What offline solvers have in common: ``fit``, Stable-Baselines3's ``predict``, and exact resume.

A solver writes three methods: :meth:`OfflineSolver.build` makes its networks, optimisers and samplers and names them
to :meth:`OfflineSolver.keep`; :meth:`OfflineSolver.update` takes one gradient step; :meth:`OfflineSolver.publish`
gives the policy. Whatever they draw from torch's global generator (first weights, dropout) comes from a stream of the
solver's own, which the seed decides.
"""

from __future__ import annotations

import abc
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from torch import nn

from saferl.config import from_mapping
from saferl.constraints import Kind
from saferl.data.dataset import Dataset
from saferl.errors import ConfigError, ConstraintError, DataError, UnknownNameError, UsageError
from saferl.policy.offline import OfflinePolicy
from saferl.policy.offline_actor import OfflineActor
from saferl.policy.states import load_module_state, load_optimizer_state, module_state, optimizer_state
from saferl.solvers.offline.data import Spaces, TrainingData, find_spaces, prepare

Callback = Callable[[int, Mapping[str, float]], None]
"""Called after every update with the number of updates done and what the last one logged."""

__all__ = [
    "Callback",
    "FitResult",
    "OfflineSolver",
    "Spaces",
    "TrainingData",
    "choose_options",
    "find_spaces",
    "observation_scale",
    "part_state",
    "prepare",
    "restore_part",
]


@dataclass(frozen=True)
class FitResult:
    """What a training left."""

    policy: OfflinePolicy
    """The policy, in inputs and outputs of its own; the solver's ``predict`` acts in env units."""
    steps: int
    """Updates done since the start."""
    seconds: float
    """Wall-clock time of this call."""
    metrics: Mapping[str, float]
    """What the last update logged."""


class OfflineSolver(abc.ABC):
    """Learns a policy from a data set alone."""

    name: ClassVar[str]
    """Its name in the registry."""
    config_class: ClassVar[type[Any]]
    """Its options."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {}}
    """Named options, as far as they differ from the defaults."""
    default_steps: ClassVar[int] = 100_000
    """Updates at the published sizes where nobody says how many."""
    small_steps: ClassVar[int] = 20_000
    """Updates of the preset ``small`` where nobody says how many: minutes on two cores."""

    sampling: ClassVar[str] = "offline"
    """Tells it from solvers that need an environment."""
    supported_kinds: ClassVar[tuple[Kind, ...]] = ("episode_sum",)
    """Kinds of constraints that it trains for; all kinds where it ignores costs."""
    needs_budgets: ClassVar[bool] = False
    """Whether it trains for given budgets, and refuses to without."""
    needs_margins: ClassVar[bool] = False
    """Whether it refuses data without ``h``."""

    generator: th.Generator
    """For the draws of updates that are explicit; seeded before :meth:`build`."""

    def __init__(self, config: Any = None, *, preset: str | None = None, **options: Any) -> None:
        """Choose options.

        Args:
            config: Options as an instance of ``config_class``; the defaults if None.
            preset: Name of options instead of ``config``.
            **options: Single options on top of the preset.

        Raises:
            UnknownNameError: an unknown option or preset.
            ConfigError: an option out of range, or both a config and single options.
        """
        if config is not None and (preset is not None or options):
            raise ConfigError("Give a config, or a preset and single options; got both.")
        self.config = choose_options(type(self), preset, options) if config is None else config
        self.num_updates = 0
        self.data: TrainingData | None = None
        self._parts: dict[str, Any] = {}
        self._stream = th.get_rng_state()
        self._actor: tuple[int, OfflineActor] | None = None

    @abc.abstractmethod
    def build(self, data: TrainingData, seed: int) -> None:
        """Make networks, optimisers and samplers, and :meth:`keep` them.

        Raises:
            DataError: data or budgets that the solver cannot train on.
        """

    @abc.abstractmethod
    def update(self) -> dict[str, float]:
        """Take one gradient step; what there is to log."""

    @abc.abstractmethod
    def publish(self) -> OfflinePolicy:
        """The policy as it is now; it may share weights with the training, the base copies it."""

    def keep(self, **parts: Any) -> None:
        """Name what :meth:`state_dict` must hold beside the base's own.

        Modules, optimisers, torch's and numpy's generators, and whatever has ``state_dict`` and ``load_state_dict``.
        """
        self._parts.update(parts)

    def start(
        self,
        dataset: Dataset,
        *,
        seed: int = 0,
        budgets: Mapping[str, float] | None = None,
        known_spaces: Spaces | None = None,
    ) -> None:
        """Prepare for the first update.

        Args:
            dataset: In env units.
            seed: Of first weights, batches and noise.
            budgets: Limits of the episodes' cost sums by name, where the solver trains at some.
            known_spaces: Of the environment; by default the one that the metadata name.

        Raises:
            DataError: data or budgets that the solver cannot train on.
        """
        self.data = None
        data = prepare(dataset, budgets=budgets, known_spaces=known_spaces)
        if self.needs_budgets and data.budgets is None:
            raise ConstraintError(
                f"{self.name} trains for budgets; got none. Give budgets={{{data.cost_names[0]!r}: 10.0}} "
                f"(--budget {data.cost_names[0]}=10); the data have the costs {', '.join(data.cost_names)}."
            )
        if self.needs_margins and dataset.h is None:
            raise DataError(f"{self.name} needs data with margins h; these have none. Collect them again with margins.")
        self.num_updates, self._parts, self._actor = 0, {}, None
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            self.generator = th.Generator().manual_seed(seed + 1)
            self.keep(generator=self.generator)
            self.build(data, seed)
            self._stream = th.get_rng_state()
        self.data = data

    def fit(
        self,
        dataset: Dataset,
        *,
        steps: int,
        seed: int = 0,
        budgets: Mapping[str, float] | None = None,
        callback: Callback | None = None,
    ) -> FitResult:
        """Train from the start for ``steps`` updates; see :meth:`start` for the rest.

        Example:
            >>> BC(preset="small").fit(data, steps=2000).metrics["loss/policy"]  # doctest: +SKIP
            0.021
        """
        if steps < 1:
            raise ConfigError(f"The number of steps must be at least 1; got {steps}.")
        self.start(dataset, seed=seed, budgets=budgets)
        return self.advance(steps, callback)

    def advance(self, steps: int, callback: Callback | None = None) -> FitResult:
        """Take ``steps`` more updates."""
        self._started()
        begun = time.perf_counter()
        metrics: dict[str, float] = {}
        with th.random.fork_rng(devices=[]):
            th.set_rng_state(self._stream)
            for _ in range(steps):
                metrics = self.update()
                self.num_updates += 1
                if callback is not None:
                    self._stream = th.get_rng_state()
                    callback(self.num_updates, metrics)
                    th.set_rng_state(self._stream)
            self._stream = th.get_rng_state()
        return FitResult(self.policy(), self.num_updates, time.perf_counter() - begun, metrics)

    def policy(self) -> OfflinePolicy:
        """A copy of the policy as it is now, ready to act."""
        self._started()
        policy = copy.deepcopy(self.publish())
        return policy.eval().requires_grad_(False)

    def actor(self) -> OfflineActor:
        """The policy as it is now, in env units."""
        data = self._started()
        if self._actor is None or self._actor[0] != self.num_updates:
            acting = OfflineActor(
                self.policy(), data.spaces.observation, data.spaces.action, data.cost_names, data.named_budgets
            )
            self._actor = (self.num_updates, acting)
        return self._actor[1]

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions in env units for raw observations; see :meth:`OfflineActor.predict`."""
        return self.actor().predict(observation, state, episode_start, deterministic)

    def state_dict(self) -> dict[str, Any]:
        """Everything that further updates depend on beside data and options: a tree for :mod:`saferl.trees`."""
        self._started()
        return {
            "num_updates": self.num_updates,
            "stream": self._stream.numpy().copy(),
            "parts": {name: part_state(part) for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, after :meth:`start` with the same data, seed and options."""
        self._started()
        for name, part in self._parts.items():
            restore_part(part, state["parts"][name])
        self._stream = th.tensor(state["stream"])
        self.num_updates, self._actor = int(state["num_updates"]), None

    def _started(self) -> TrainingData:
        if self.data is None:
            raise UsageError(f"{type(self).__name__} has not been trained. Call fit(dataset, steps=...) first.")
        return self.data


def choose_preset(solver: type[OfflineSolver], preset: str | None) -> tuple[str | None, int]:
    """The preset that ``saferl train`` takes, ``small`` where there is one and nobody chose, and its number of updates.

    Raises:
        UnknownNameError: an unknown preset.
    """
    chosen = preset if preset is not None or "small" not in solver.presets else "small"
    choose_options(solver, chosen, {})
    return chosen, solver.small_steps if chosen == "small" else solver.default_steps


def choose_options(solver: type[OfflineSolver], preset: str | None, options: Mapping[str, Any]) -> Any:
    """The config of ``solver`` with a preset's options and single ones on top.

    Raises:
        UnknownNameError: an unknown preset or option.
    """
    if preset is not None and preset not in solver.presets:
        raise UnknownNameError(f"preset of {solver.name}", preset, solver.presets)
    return from_mapping(solver.config_class, {**(solver.presets[preset] if preset else {}), **options})


def observation_scale(dataset: Dataset, *, standardise: bool) -> tuple[th.Tensor, th.Tensor]:
    """Shift and scale (F,) that bring flat observations to mean 0 and deviation 1, or leave them as they are.

    Deviations below 1e-3 count as 1e-3.
    """
    width = dataset.observations.shape[1]
    if not standardise:
        return th.zeros(width), th.ones(width)
    values = dataset.observations.astype(np.float64)
    shift, scale = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3)
    return th.tensor(shift, dtype=th.float32), th.tensor(scale, dtype=th.float32)


def part_state(part: Any) -> Any:
    """The state of a module, an optimiser, a generator, or of anything with ``state_dict``, as a tree."""
    if isinstance(part, nn.Module):
        return module_state(part)
    if isinstance(part, th.optim.Optimizer):
        return optimizer_state(part)
    if isinstance(part, th.Generator):
        return part.get_state().numpy().copy()
    if isinstance(part, np.random.Generator):
        return dict(part.bit_generator.state)
    return part.state_dict()


def restore_part(part: Any, state: Any) -> None:
    """Bring a part to a state of :func:`part_state`."""
    if isinstance(part, nn.Module):
        load_module_state(part, state)
    elif isinstance(part, th.optim.Optimizer):
        load_optimizer_state(part, state)
    elif isinstance(part, th.Generator):
        part.set_state(th.tensor(state))
    elif isinstance(part, np.random.Generator):
        part.bit_generator.state = state
    else:
        part.load_state_dict(state)
