"""How a shield is named: an object, a name, a folder, ``package.module:factory`` or a factory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from saferl.errors import ConfigError, SaferlError
from saferl.registry import load_object
from saferl.shields import SHIELDS, Shield, load_shield
from saferl.shields.protocol import ActionSpec
from saferl.shields.storage import HEADER

ShieldSource = Shield | str | Path | Callable[[Any], Shield]
"""A shield; a name of ``saferl list shields``; a folder of :func:`saferl.shields.save_shield`, or a controller's or a
run's folder with one below ``shield/``; ``"package.module:factory"``; or a factory, called with the environment."""


def find_shield(source: ShieldSource, env: Any) -> Shield:
    """The shield that ``source`` names, checked to fit ``env``.

    Args:
        source: See :data:`ShieldSource`. A factory gets an environment of its own, which may be closed afterwards.
        env: An environment of :func:`saferl.make`.

    Raises:
        ConfigError: no such shield, one for other actions, or one whose needs the environment does not meet.
        UnknownNameError: an unknown name.
        ArtefactError: a damaged folder.
    """
    shield = _load(source, env)
    if not isinstance(shield, Shield):
        raise ConfigError(
            f"A shield must be a saferl.shields.Shield; {shield_name(source)} gave {type(shield).__name__}. "
            "Let the factory return one."
        )
    require_fit(shield, env, shield_name(source))
    return shield


def shield_name(source: ShieldSource) -> str:
    """What reports call the shield of ``source``: its folder, the name or path given, the factory, or the unit.

    A folder called ``shield``, as in a run or a controller, is named after its unit.
    """
    if isinstance(source, Shield):
        return source.unit
    if isinstance(source, str | Path):
        folder = _folder(source)
        if folder is None:
            return str(source)
        return folder.name if folder.name != "shield" else load_shield(folder).unit
    return getattr(source, "__name__", type(source).__name__)


def require_fit(shield: Shield, env: Any, name: str) -> None:
    """Raise unless ``shield`` filters the actions of ``env`` and gets the privileged state that it needs.

    Raises:
        ConfigError: it does not; the message names what is missing.
    """
    actions = ActionSpec.of(env.action_space)
    if not same_actions(shield.actions, actions):
        raise ConfigError(
            f"The shield {name} filters the actions {_show(shield.actions)}; {_id_of(env)} has {_show(actions)}. "
            "Build it for the action space of this environment."
        )
    if "privileged state" in shield.spec().needs and not has_attribute(env, "privileged_state"):
        raise ConfigError(
            f"The shield {name} needs privileged state, which {_id_of(env)} does not give. Add a method "
            "privileged_state() to it that returns a mapping, or take a shield that needs none."
        )


def same_actions(first: ActionSpec, second: ActionSpec) -> bool:
    """Whether two action spaces are the same, up to the rounding of float32."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return first.n == second.n and first.is_box == second.is_box
    return first.dim == second.dim and bool(
        np.allclose(first.low, second.low, rtol=1e-6) and np.allclose(first.high, second.high, rtol=1e-6)
    )


def has_attribute(env: Any, name: str) -> bool:
    """Whether an environment, or anything that it wraps, has an attribute."""
    has = getattr(env, "has_wrapper_attr", None)
    return bool(has(name)) if has is not None else hasattr(env, name)


def _load(source: Any, env: Any) -> Any:
    if isinstance(source, Shield):
        return source
    if isinstance(source, str | Path):
        folder = _folder(source)
        if folder is not None:
            return load_shield(folder)
        if isinstance(source, Path):
            raise ConfigError(f"A folder of a shield must hold {HEADER}; {source} does not. Save one with save_shield.")
        if ":" not in source:
            return _by_name(source, env)
        source = load_object(source)
    if not callable(source):
        raise ConfigError(f"A shield must be a name, a folder, module:factory, a factory or a Shield; got {source!r}.")
    try:
        return source(env)
    except SaferlError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The shield factory {getattr(source, '__name__', source)!r} failed: {type(error).__name__}: {error}. "
            "It is called with the environment and returns a Shield."
        ) from error


def _folder(source: str | Path) -> Path | None:
    """The folder that holds the shield, if ``source`` is a path to one."""
    path = Path(source)
    for candidate in (path, path / "shield", path / "artefact" / "shield"):
        if (candidate / HEADER).is_file():
            return candidate
    return None


def _by_name(name: str, env: Any) -> Any:
    cls = SHIELDS.load(name)
    build = getattr(cls, "for_env", None)
    if build is None:
        raise ConfigError(
            f"The shield {name!r} cannot build itself for {_id_of(env)}: it needs to be told its limits or its model. "
            "Save one with saferl.shields.save_shield and give the folder, or give module:factory."
        )
    return build(env)


def _id_of(env: Any) -> str:
    return str(getattr(env, "env_id", env))


def _show(actions: ActionSpec) -> str:
    if actions.low is None or actions.high is None:
        return f"0 to {(actions.n or 1) - 1}"
    return f"{actions.low.tolist()} to {actions.high.tolist()}"
