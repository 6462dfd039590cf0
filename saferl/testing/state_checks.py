"""Does an env go on from a saved state exactly? Used by ``check_env``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium

from saferl.envs.state import get_state, set_state
from saferl.testing.reports import Finding
from saferl.testing.values import is_same
from saferl.trees import require_tree

Env = gymnasium.Env[Any, Any]
_WAY_OUT = "Let get_state return, and set_state take over, everything that decides what follows, generators included."


def state_findings(env: Env, make_another: Callable[[], Env] | None, *, seed: int, steps: int) -> Iterator[Finding]:
    """What is wrong with ``get_state`` and ``set_state`` of ``env``, and of every layer that it wraps.

    The env is played to the middle of an episode and saved; what follows, through a reset, must be the same again in
    another env (so nothing may stay behind in the first) and in the env itself.

    Args:
        env: An env all of whose layers have a state.
        make_another: Makes an equal env; None if only the env itself can be tried.
        seed: Seed of env and actions.
        steps: Steps before and after the state is saved.
    """
    _play_to_the_middle(env, seed, steps)
    state = get_state(env)
    try:
        require_tree(state)
    except TypeError as error:
        yield Finding("the state", "be a tree that can be stored without pickle", str(error), "Convert that part.")
        return
    saved = copy.deepcopy(state)
    expected = _continue(env, seed + 1, steps)
    if not is_same(state, saved):
        yield Finding("the state", "keep its values while the env goes on", "one that had changed", "Return copies.")
        return
    if make_another is not None:
        other = make_another()
        try:
            set_state(other, copy.deepcopy(saved))
            found = _difference(expected, _continue(other, seed + 1, steps))
        finally:
            other.close()
        if found is not None:
            yield Finding("another env that is set to the state", "go on in the same way", found, _WAY_OUT)
            return
    set_state(env, copy.deepcopy(saved))
    found = _difference(expected, _continue(env, seed + 1, steps))
    if found is not None:
        yield Finding("the env that is set back to its state", "go on in the same way", found, _WAY_OUT)


def _play_to_the_middle(env: Env, seed: int, steps: int) -> None:
    """About half of ``steps`` steps, and then on until an episode is under way (one-step episodes never are)."""
    env.reset(seed=seed)
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    since_reset = 0
    for number in range(steps):
        if number >= steps // 2 and since_reset >= 3:
            return
        _, _, terminated, truncated, _ = env.step(actions.sample())
        since_reset += 1
        if terminated or truncated:
            env.reset()
            since_reset = 0


def _continue(env: Env, seed: int, steps: int) -> list[tuple[str, Any]]:
    """What happens in ``steps`` steps of random actions and after a reset."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    trace: list[tuple[str, Any]] = []
    for number in range(1, steps + 1):
        obs, reward, terminated, truncated, info = env.step(actions.sample())
        costs = {name: info.get(name) for name in ("cost", "costs", "margins")}
        trace.append((f"step {number} after it", copy.deepcopy((obs, reward, terminated, truncated, costs))))
        if terminated or truncated:
            trace.append((f"the reset after step {number}", copy.deepcopy(env.reset()[0])))
    trace.append(("the reset after it", copy.deepcopy(env.reset()[0])))
    return trace


def _difference(expected: list[tuple[str, Any]], got: list[tuple[str, Any]]) -> str | None:
    for (where, one), (_, other) in zip(expected, got, strict=False):
        if not is_same(one, other):
            return f"something else at {where}"
    return None if len(expected) == len(got) else "an episode of another length"
