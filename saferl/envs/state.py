"""The whole state of an env, to continue it exactly: what checkpoints, digital twins and branching rollouts need.

A state is a tree of dicts and lists whose leaves are numpy arrays, numbers, strings, booleans and None, so that it can
be stored without pickle. It is gathered layer by layer, from the outermost wrapper to the env:

- a layer with ``get_state()`` and ``set_state(state)`` of its own speaks for itself; what they hold must decide
  everything that follows, the env's random generator included;
- Gymnasium's MuJoCo envs, its time limit, and saferl's wrappers are known here;
- anything else may hide state, so such an env has none, and training resets it at every checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from saferl.envs.adapters import CostContract, CostFunction, SixTupleAdapter
from saferl.errors import EnvContractError

Env = gymnasium.Env[Any, Any]
State = dict[str, Any]
"""Dicts and lists with leaves of numpy arrays, int, float, str, bool and None."""
Handler = tuple[Callable[[Any], State], Callable[[Any, State], None]]


def has_state(env: Env) -> bool:
    """Whether :func:`get_state` can capture everything that decides how ``env`` goes on."""
    return all(_handler(layer) is not None for layer in _layers(env))


def get_state(env: Env) -> State:
    """Everything that decides how ``env`` goes on.

    Raises:
        EnvContractError: a layer of the env neither has ``get_state``/``set_state`` nor is known.

    Example:
        >>> import saferl
        >>> env = saferl.make("SafetyHopperVelocity-v1")
        >>> _ = env.reset(seed=0)
        >>> state, action = get_state(env), env.action_space.sample()
        >>> first = env.step(action)[0]
        >>> set_state(env, state)
        >>> bool((env.step(action)[0] == first).all())
        True
    """
    return {"layers": [{"type": _name(layer), "state": _require(layer)[0](layer)} for layer in _layers(env)]}


def set_state(env: Env, state: State) -> None:
    """Bring ``env`` to a state of :func:`get_state`, taken from it or from another env made the same way.

    Raises:
        EnvContractError: the state is of an env of other layers.
    """
    layers = list(_layers(env))
    names = layer_names(env)
    saved = [entry["type"] for entry in state["layers"]]
    if names != saved:
        raise EnvContractError(f"The state must be of an env made of {names}; got one made of {saved}. Make it alike.")
    for layer, entry in zip(layers, state["layers"], strict=True):
        _require(layer)[1](layer, entry["state"])


def generator_state(generator: np.random.Generator) -> State:
    """The state of a numpy generator."""
    return copy.deepcopy(dict(generator.bit_generator.state))


def new_generator(state: State) -> np.random.Generator:
    """A generator in ``state``, of :func:`generator_state`."""
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _layers(env: Env) -> Iterator[Env]:
    while True:
        yield env
        if not isinstance(env, gymnasium.Wrapper):
            return
        env = env.env


def _name(layer: Env) -> str:
    return type_name(type(layer))


def layer_names(env: Env) -> list[str]:
    """How a state of ``env`` names its layers, from the outermost."""
    return [_name(layer) for layer in _layers(env)]


def type_name(layer_class: type) -> str:
    """How a state names a layer."""
    return f"{layer_class.__module__}.{layer_class.__qualname__}"


def _require(layer: Env) -> Handler:
    handler = _handler(layer)
    if handler is None:
        raise EnvContractError(
            f"The state of an env needs every layer's; {_name(layer)} has no get_state and set_state, and saferl does "
            "not know what it holds. Add both methods to it: what they hold must decide everything that follows."
        )
    return handler


def _handler(layer: Env) -> Handler | None:
    cls = type(layer)
    if cls in _KNOWN:
        return _KNOWN[cls]
    if _is_gymnasium_mujoco(layer):
        return _get_mujoco, _set_mujoco
    if callable(getattr(cls, "get_state", None)) and callable(getattr(cls, "set_state", None)):
        return (lambda env: env.get_state()), (lambda env, state: env.set_state(state))
    return None


def _attributes(*names: str) -> Handler:
    """A layer whose state is some of its attributes."""

    def read(layer: Any) -> State:
        return {name: copy.deepcopy(getattr(layer, name)) for name in names}

    def write(layer: Any, state: State) -> None:
        for name in names:
            setattr(layer, name, copy.deepcopy(state[name]))

    return read, write


_KNOWN: dict[type, Handler] = {
    CostContract: _attributes("last_costs", "last_margins", "last_cost"),
    CostFunction: _attributes("_obs"),
    SixTupleAdapter: _attributes(),
    TimeLimit: _attributes("_elapsed_steps"),
    OrderEnforcing: _attributes("_has_reset"),
    PassiveEnvChecker: _attributes(),
}


# Gymnasium's MuJoCo envs. Their own ``set_state(qpos, qvel)`` is something else, and less than the state.


def _is_gymnasium_mujoco(layer: Env) -> bool:
    return type(layer).__module__.startswith("gymnasium.envs.mujoco.")


_DERIVED = (
    "xpos",
    "xquat",
    "xmat",
    "xipos",
    "ximat",
    "geom_xpos",
    "geom_xmat",
    "site_xpos",
    "site_xmat",
    "subtree_com",
)
"""Poses that a step leaves one substep behind the state, and that some envs read at the start of the next one."""


def _get_mujoco(env: Any) -> State:
    state = {"physics": mujoco_state(env.model, env.data)}
    if env._np_random is not None:
        state["generator"] = generator_state(env._np_random)
        state["generator_seed"] = env._np_random_seed
    return state


def _set_mujoco(env: Any, state: State) -> None:
    set_mujoco_state(env.model, env.data, state["physics"])
    if "generator" in state:
        env._np_random = new_generator(state["generator"])
        env._np_random_seed = state["generator_seed"]


def mujoco_state(model: Any, data: Any) -> State:
    """What decides how a simulation goes on: MuJoCo's integration state, and poses that lag behind it.

    ``mjSTATE_FULLPHYSICS`` lacks the solver's warm start and the controls, and does not continue exactly.
    """
    import mujoco  # type: ignore[import-untyped]

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, spec))
    mujoco.mj_getState(model, data, integration, spec)
    return {"integration": integration, **{name: getattr(data, name).copy() for name in _DERIVED}}


def set_mujoco_state(model: Any, data: Any, state: State) -> None:
    """The inverse of :func:`mujoco_state`, for a model that is the same.

    Raises:
        EnvContractError: the state is of another model.
    """
    import mujoco

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    expected = mujoco.mj_stateSize(model, spec)
    if np.shape(state["integration"]) != (expected,):
        raise EnvContractError(
            f"The MuJoCo state must have {expected} numbers for this model; got {np.shape(state['integration'])}. "
            "It is of another model."
        )
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, state["integration"], spec)
    mujoco.mj_forward(model, data)
    # The forward pass moved the warm start and the poses.
    mujoco.mj_setState(model, data, state["integration"], spec)
    for name in _DERIVED:
        getattr(data, name)[:] = state[name]
