"""Everything that decides how a training goes on, as a tree: what makes a resumed run end with the same bits.

Networks, optimiser, a solver's own state (multipliers, cost estimates, minibatch order), running statistics of the
normaliser, sums of open episodes, the environments, pending log entries, and every random generator of this process.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper

from saferl.errors import RunFolderError, TrainingError
from saferl.policy.states import load_module_state, load_optimizer_state, module_state, optimizer_state
from saferl.rollout.cost_vec_env import CostVecEnv

State = dict[str, Any]
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")
_ARRAYS = ("_last_obs", "_last_episode_starts", "_last_original_obs")


def training_state(model: Any) -> State:
    """The state of ``model``, one of saferl's solvers, between two rollouts.

    Raises:
        TrainingError: a wrapper around its environments whose state is not known.
    """
    return {
        "policy": module_state(model.policy),
        "optimizer": optimizer_state(model.policy.optimizer),
        "extra": model.get_extra_state() if hasattr(model, "get_extra_state") else {},
        "counters": {name: getattr(model, name) for name in _COUNTERS},
        "arrays": {name: getattr(model, name) for name in _ARRAYS},
        "episodes": [dict(info) for info in model.ep_info_buffer],
        "successes": [float(value) for value in model.ep_success_buffer],
        "log": _pending_log(model.logger),
        "wrappers": [_wrapper_state(layer) for layer in _layers(model.env)],
        "random": random_state(),
    }


def restore_training_state(model: Any, state: State) -> None:
    """Bring ``model``, built from the same options on the same environments, to ``state``.

    Environments without a state of their own must have been reset as they were when the state was taken.

    Raises:
        RunFolderError: the state does not fit the model.
    """
    try:
        load_module_state(model.policy, state["policy"])
        load_optimizer_state(model.policy.optimizer, state["optimizer"])
        if state["extra"]:
            model.set_extra_state(state["extra"])
        for name, value in {**state["counters"], **state["arrays"]}.items():
            setattr(model, name, value)
        model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
        for layer, part in zip(_layers(model.env), state["wrappers"], strict=True):
            _restore_wrapper(layer, part)
        _restore_log(model.logger, state["log"])
        set_random_state(state["random"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"The checkpoint does not fit this run: {error}. It is of another run, or of another version of saferl."
        ) from error


def random_state() -> State:
    """The states of the generators that belong to the whole process: Python's, numpy's and torch's."""
    version, numbers, gauss = random.getstate()
    # Stable-Baselines3's buffers and some environments draw from numpy's global generator.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": {"version": version, "numbers": list(numbers), "gauss": gauss},
        "numpy": {"name": name, "keys": keys, "position": position, "has_gauss": has_gauss, "cached": cached},
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if th.cuda.is_available() else [],
    }


def set_random_state(state: State) -> None:
    """Go on with the generators of :func:`random_state`."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["numbers"]), python["gauss"]))
    np.random.set_state(  # noqa: NPY002
        (numpy["name"], numpy["keys"], numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    th.set_rng_state(th.tensor(state["torch"]))
    if state["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all([th.tensor(part) for part in state["cuda"]])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What happens in the block draws from the process's generators without moving them."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


def _layers(env: VecEnv) -> list[VecEnv]:
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def _wrapper_state(layer: VecEnv) -> State:
    if isinstance(layer, CostVecEnv):
        return layer.get_state()
    if isinstance(layer, VecNormalize):
        return {
            "obs": {key: _moments(rms) for key, rms in _statistics(layer).items()},
            "ret": _moments(layer.ret_rms),
            "returns": layer.returns,
            "old_obs": layer.old_obs,
            "old_reward": layer.old_reward,
        }
    raise TrainingError(
        f"A checkpoint cannot hold the state of {type(layer).__name__}. Use CostVecEnv and VecNormalize alone, "
        "or train without checkpoints."
    )


def _restore_wrapper(layer: VecEnv, state: State) -> None:
    if isinstance(layer, CostVecEnv):
        layer.set_state(state)
    elif isinstance(layer, VecNormalize):
        for key, rms in _statistics(layer).items():
            _set_moments(rms, state["obs"][key])
        _set_moments(layer.ret_rms, state["ret"])
        layer.returns, layer.old_obs, layer.old_reward = state["returns"], state["old_obs"], state["old_reward"]


def _statistics(layer: VecNormalize) -> dict[str, RunningMeanStd]:
    if not layer.norm_obs:
        return {}
    return layer.obs_rms if isinstance(layer.obs_rms, dict) else {"": layer.obs_rms}


def _moments(rms: RunningMeanStd) -> State:
    return {"mean": np.asarray(rms.mean), "var": np.asarray(rms.var), "count": float(rms.count)}


def _set_moments(rms: RunningMeanStd, state: State) -> None:
    # A shape of () is a numpy scalar in Stable-Baselines3, whose arithmetic an array of that shape would follow too.
    rms.mean, rms.var, rms.count = state["mean"].copy(), state["var"].copy(), state["count"]


def _pending_log(logger: Any) -> State:
    """What was recorded since the last row was written."""
    return {
        key: {"value": value, "count": logger.name_to_count.get(key, 0), "excluded": logger.name_to_excluded[key]}
        for key, value in logger.name_to_value.items()
    }


def _restore_log(logger: Any, state: State) -> None:
    for key, entry in state.items():
        logger.name_to_value[key] = entry["value"]
        logger.name_to_excluded[key] = tuple(entry["excluded"])
        if entry["count"]:
            logger.name_to_count[key] = entry["count"]
