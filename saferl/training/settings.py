"""Options of a training run that do not belong to the solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from saferl.config import check_ranges, from_mapping, parse_assignments
from saferl.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class RunSettings:
    """How a solver is run: environments, networks, normalisation, checkpoints."""

    num_envs: int = 8
    """Environments stepped together, >= 1."""
    backend: Literal["auto", "batched", "reference", "sync", "process"] = "auto"
    """How they are stepped: all at once, or one by one, in this process or in worker processes (``make_vec``)."""
    normalize_observations: bool = True
    """Whether observations are normalised by running statistics, frozen in the artefact."""
    normalize_rewards: bool = True
    """Whether rewards are divided by the running deviation of their discounted sum, in training only; costs never."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden layers of actor and critics."""
    activation: Literal["Tanh", "ReLU", "ELU", "SiLU"] = "Tanh"
    """Activation of the hidden layers."""
    log_std_init: float = -0.5
    """First logarithm of the standard deviation of Gaussian actions."""
    num_checkpoints: int = 10
    """Checkpoints over the run, evenly spaced, from which a cut run resumes; the last two are kept. 0: none."""
    validation_episodes: int = 16
    """Episodes per validation that chooses ``artefact-best``, on seeds of their own; >= 2."""
    validation_share: float = 0.1
    """Largest share of the training steps spent on validation; 0 turns it off and the last iterate counts as best."""
    torch_threads: int = 0
    """Threads of torch; 0: one, which is fastest for small networks beside busy environments."""
    shield_store: Literal["executed", "proposed"] = "executed"
    """With a shield: which action the replay buffer of an off-policy solver keeps (on-policy: always the proposed)."""
    shield_safe_reset: int = 0
    """With a shield: starts drawn at most until it certifies one, else an error; 0: episodes start anywhere."""

    def __post_init__(self) -> None:
        """Check ranges."""
        # A bound of a mean needs at least two episodes.
        for name, least in (("num_envs", 1), ("validation_episodes", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"RunSettings.{name} must be at least {least}; got {getattr(self, name)}.")
        for name in ("num_checkpoints", "torch_threads", "shield_safe_reset"):
            if getattr(self, name) < 0:
                raise ConfigError(f"RunSettings.{name} must be at least 0; got {getattr(self, name)}.")
        if any(width < 1 for width in self.net_arch):
            raise ConfigError(f"RunSettings.net_arch must hold layer widths of at least 1; got {self.net_arch}.")
        if not 0.0 <= self.validation_share <= 1.0:
            raise ConfigError(f"RunSettings.validation_share must be in [0, 1]; got {self.validation_share}.")


@dataclass(frozen=True)
class OfflineSettings:
    """How an offline solver is run."""

    num_checkpoints: int = 10
    """Checkpoints over the run, evenly spaced, from which a cut run resumes; the last two are kept. 0: none."""
    checkpoint_seconds: float = 60.0
    """A checkpoint is also written when the last one is this old, in seconds, > 0."""
    log_every: int = 0
    """Updates per row of the log; 0: a hundredth of the run, at most 1,000."""
    torch_threads: int = 0
    """Threads of torch; 0: one."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(
            self, positive=("checkpoint_seconds",), non_negative=("num_checkpoints", "log_every", "torch_threads")
        )


SettingsT = TypeVar("SettingsT", RunSettings, OfflineSettings)


def split_assignments(
    assignments: list[str],
    config_class: type[Any],
    base: Mapping[str, Any] | None = None,
    settings_class: type[SettingsT] = RunSettings,  # type: ignore[assignment]
) -> tuple[Any, SettingsT]:
    """Sort ``KEY=VALUE`` strings, on top of the values of ``base``, into a solver's config and the run's settings.

    Raises:
        UnknownNameError: a key of neither.
        ConfigError: a value of the wrong type, a key given twice, or a text without ``=``.
    """
    run_names, solver_names = _names(settings_class), _names(config_class)
    values = dict(base or {}) | read_assignments(assignments, config_class, settings_class)
    for key in values:
        _require_known(key, run_names | solver_names)
    return (
        from_mapping(config_class, {k: v for k, v in values.items() if k not in run_names}),
        from_mapping(settings_class, {k: v for k, v in values.items() if k in run_names}),
    )


def read_assignments(
    assignments: list[str], config_class: type[Any], settings_class: type[Any] = RunSettings
) -> dict[str, Any]:
    """The values of ``KEY=VALUE`` strings whose keys a solver's config or the run's settings have.

    Raises:
        UnknownNameError: a key of neither.
        ConfigError: a key given twice, or a text without ``=``.
    """
    seen: dict[str, str] = {}
    for assignment in assignments:
        key, sign, _ = assignment.partition("=")
        key = key.strip()
        if sign:
            _require_known(key, _names(settings_class) | _names(config_class))
        if sign and key in seen:
            raise ConfigError(f"The option {key!r} must be given once; got {seen[key]!r} and {assignment!r}.")
        seen[key] = assignment
    return parse_assignments(assignments)


def _names(config_class: type[Any]) -> set[str]:
    return {field.name for field in fields(config_class)}


def _require_known(key: str, names: set[str]) -> None:
    if key not in names:
        raise UnknownNameError("option", key, names)
