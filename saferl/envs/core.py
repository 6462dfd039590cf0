"""``make``: from a name, an import path or a factory to an env that keeps the contract."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import TimeLimit

from saferl.constraints import Constraint, ConstraintSet
from saferl.envs.adapters import CostContract, CostFn, CostFunction, SixTupleAdapter
from saferl.envs.registry import ENVS
from saferl.envs.spec import EnvSpec
from saferl.errors import ConfigError, ConstraintError, UnknownNameError, UsageError
from saferl.registry import load_object

EnvFactory = Callable[..., gymnasium.Env[Any, Any]]
GYMNASIUM_NAMESPACE = "saferl/"


def make(
    env_id: str | EnvFactory,
    *,
    budgets: Mapping[str, float] | None = None,
    constraints: ConstraintSet | None = None,
    cost: CostFn | str | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> CostContract:
    """One env whose every step carries checked costs.

    Args:
        env_id: A saferl id (``saferl list envs``), any Gymnasium id, ``"package.module:factory"``,
            ``"package.module:EnvId"`` (the module registers the id with Gymnasium), or a factory.
        budgets: Limits by cost name; exactly these constraints hold then. Without it the env's default ones do.
        constraints: Full constraints (kinds, discounts, bounds) instead of ``budgets``.
        cost: ``cost(obs, action, next_obs)``, or its import path, for an env that reports no cost.
        max_episode_steps: Another time limit than the env's own, in steps (a limit that a factory has set stays).
        render_mode: Gymnasium's render mode.
        **kwargs: Arguments of the env.

    Raises:
        UnknownNameError: unknown env, or a budget for a cost that the env does not have.
        ConstraintError: no budget is known, or one is malformed.

    Example:
        >>> env = make("SafetyHalfCheetahVelocity-v1", budgets={"cost": 10.0})
        >>> env.constraints.budgets
        array([10.])
    """
    if budgets and constraints is not None:
        raise ConfigError("Give budgets or constraints, not both: constraints already hold their budgets.")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps must be at least 1; got {max_episode_steps}.")
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    spec = find_spec(env_id)
    if spec is not None:
        if max_episode_steps is not None:
            kwargs["max_episode_steps"] = max_episode_steps
        env = _call(load_object(spec.factory), {**spec.kwargs, **kwargs}, spec.id)
        name, horizon = spec.id, max_episode_steps or spec.horizon
        is_fixed = spec.is_fixed_horizon
    else:
        name = env_id if isinstance(env_id, str) else getattr(env_id, "__name__", "env")
        env, own_limit = _build_foreign(env_id, kwargs)
        inner_limit, limit = _time_limit(env), max_episode_steps or own_limit
        env = SixTupleAdapter(env)
        if limit is not None:
            env = TimeLimit(env, limit)
        horizon = min((n for n in (inner_limit, limit) if n is not None), default=None)
        # An env of one's own may declare that no episode ends before its time limit.
        is_fixed = horizon is not None and bool(_attribute_of(env, "is_fixed_horizon", False))
    if cost is not None:
        env = CostFunction(env, load_object(cost) if isinstance(cost, str) else cost)
    if constraints is None:
        constraints = _constraints_of(env, name, spec, budgets, has_cost_function=cost is not None)
    return CostContract(env, constraints, env_id=name, horizon=horizon, is_fixed_horizon=is_fixed)


def find_spec(env_id: str | EnvFactory) -> EnvSpec | None:
    """The catalogue's entry of ``env_id``, or None if it is somebody else's env."""
    if not isinstance(env_id, str):
        return None
    name = env_id.removeprefix(GYMNASIUM_NAMESPACE)
    if name not in ENVS:
        return None
    target = ENVS.load(name)
    return target if isinstance(target, EnvSpec) else None


def register_with_gymnasium() -> None:
    """Register every catalogue id as ``saferl/<id>``, for ``gymnasium.make``."""
    for name, entry in ENVS.entries().items():
        full = GYMNASIUM_NAMESPACE + name
        if isinstance(entry.target, EnvSpec) and full not in gymnasium.registry:
            gymnasium.register(
                full, entry_point="saferl.envs.core:make", kwargs={"env_id": name}, disable_env_checker=True
            )


def _attribute_of(env: gymnasium.Env[Any, Any], name: str, default: Any) -> Any:
    """An attribute of an env or of anything that it wraps."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def _build_foreign(env_id: str | EnvFactory, kwargs: dict[str, Any]) -> tuple[gymnasium.Env[Any, Any], int | None]:
    """The env, and the time limit with which Gymnasium knows it but which is still to be applied."""
    if not isinstance(env_id, str):
        return _call(env_id, kwargs, getattr(env_id, "__name__", "env factory")), None
    if env_id in ENVS:
        return _call(ENVS.load(env_id), kwargs, env_id), None
    module_name, colon, attribute = env_id.partition(":")
    if colon:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UsageError(
                f"Cannot import {module_name!r} of env {env_id!r}: {error}. It must be importable from the current "
                "folder or installed."
            ) from error
        if attribute not in gymnasium.registry:
            if not hasattr(module, attribute):
                known = [n for n in dir(module) if not n.startswith("_")]
                raise UnknownNameError(f"factory or Gymnasium id in {module_name!r}:", attribute, known)
            return _call(getattr(module, attribute), kwargs, env_id), None
        return _gymnasium_make(attribute, kwargs)
    if env_id in gymnasium.registry:
        return _gymnasium_make(env_id, kwargs)
    raise UnknownNameError(
        "environment", env_id, ENVS, hint="An env of your own is named 'package.module:factory' or 'module:EnvId'."
    )


def _gymnasium_make(env_id: str, kwargs: dict[str, Any]) -> tuple[gymnasium.Env[Any, Any], int | None]:
    spec = gymnasium.registry[env_id]
    factory = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    if factory is not None:
        _check_arguments(factory, kwargs, env_id, given=spec.kwargs)
    # Gymnasium's passive checker and time limit reject 6-tuples: CostContract and check_env check what the first would,
    # and the second is applied around SixTupleAdapter.
    env = gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **kwargs)
    return env, spec.max_episode_steps


def _call(factory: EnvFactory, kwargs: dict[str, Any], name: str) -> gymnasium.Env[Any, Any]:
    if not callable(factory):
        raise UsageError(f"The env {name!r} must be a function or class that returns an env; got {factory!r}.")
    _check_arguments(factory, kwargs, name)
    env = factory(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise UsageError(f"The env {name!r} must be a gymnasium.Env; its factory returned {type(env).__name__}.")
    return env


def _check_arguments(
    factory: Callable[..., Any], kwargs: Mapping[str, Any], name: str, *, given: Mapping[str, Any] | None = None
) -> None:
    """Raise if ``factory`` does not take ``kwargs``, or needs more than these and the ones already ``given``."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for key in kwargs:
        if not takes_any and key not in signature.parameters:
            raise UnknownNameError(f"argument of env {name!r}:", key, signature.parameters)
    try:
        signature.bind(**{**(given or {}), **kwargs})
    except TypeError as error:
        raise ConfigError(
            f"The env {name!r} needs other arguments: {error}. It is called as name{signature}; "
            "give them as keyword arguments."
        ) from error


def _time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Steps of the outermost TimeLimit, wherever it stands among the wrappers."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return env.spec.max_episode_steps if env.spec is not None else None


def _constraints_of(
    env: gymnasium.Env[Any, Any],
    name: str,
    spec: EnvSpec | None,
    budgets: Mapping[str, float] | None,
    *,
    has_cost_function: bool,
) -> ConstraintSet:
    if spec is not None and not has_cost_function:
        return spec.select(budgets)
    own = _attribute_of(env, "constraints", None)
    if isinstance(own, ConstraintSet) and not has_cost_function:
        if not budgets:
            return own
        missing = [n for n in budgets if n not in own.names]
        if missing:
            raise UnknownNameError(f"cost of {name}", missing[0], own.names)
        return ConstraintSet(own[n] for n in budgets).with_budgets(budgets)
    if not budgets:
        raise ConstraintError(
            f"{name} declares no constraints, so a budget is needed; got none. Give budgets={{'cost': 25.0}} "
            "(--budget cost=25), or let the env carry a ConstraintSet in its attribute 'constraints'."
        )
    return ConstraintSet(Constraint(cost_name, budget) for cost_name, budget in budgets.items())
