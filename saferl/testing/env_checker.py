"""``check_env``: does an environment keep saferl's contract? Everything that is wrong, in one list."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batch import leaf_spaces
from saferl.envs.core import EnvFactory, make
from saferl.envs.state import has_state
from saferl.errors import EnvContractError, UsageError
from saferl.testing.reports import EnvCheckReport, Finding, Problem
from saferl.testing.state_checks import state_findings
from saferl.testing.trace_checks import TRACE_CHECKS, Step, TraceCheck
from saferl.testing.values import is_same, kind_of, vector_difference

Env = gymnasium.Env[Any, Any]
Target = str | EnvFactory | Env

_SHORT = 60
"""Steps of the checks that compare several runs."""
_LIMIT_FACTOR = 10
"""A time limit is tried out if it is at most this many times ``steps``."""
_ADAPT_SIX = "wrap the env in saferl.envs.SixTupleAdapter before any other wrapper (saferl.make does for a bare env)."


def check_env(target: Target, *, seed: int = 0, steps: int = 200, **make_kwargs: Any) -> EnvCheckReport:
    """What is wrong with an environment, all at once; errors inside it are part of the result.

    Args:
        target: What :func:`saferl.make` takes (an id, an import path or a factory), or an env object, which is
            inspected as it is (a bare ``gymnasium.Env`` too) and left open.
        seed: Seed of the env and of the random actions.
        steps: Steps whose values are checked. A time limit of at most ten times as many is tried out.
        **make_kwargs: Arguments of :func:`saferl.make` (``budgets``, ``cost``, the env's own, ...).

    Raises:
        UsageError: the target cannot be made at all: unknown name, no budget, not an env.

    Example:
        >>> print(check_env("SafetyHalfCheetahVelocity-v1"))
        SafetyHalfCheetahVelocity-v1 keeps saferl's contract: 18 checks, 0 problems, 0 warnings.
    """
    if steps < 1:
        raise UsageError(f"check_env needs at least one step; got steps={steps}.")
    if isinstance(target, gymnasium.Env):
        if make_kwargs:
            raise UsageError(f"An env that is made already takes no arguments; got {sorted(make_kwargs)}.")
        return _Inspection(target, seed, steps).report()
    if not isinstance(target, str) and not callable(target):
        raise UsageError(f"check_env needs an env id, an import path, a factory or an env; got {target!r}.")
    try:
        env = make(target, **make_kwargs)
    except UsageError:
        raise
    except Exception as error:
        name = target if isinstance(target, str) else getattr(target, "__name__", "env")
        return EnvCheckReport(name, (_raised("make", error).of("make"),), (), ("make",), ("everything else (no env)",))
    try:
        return _Inspection(env, seed, steps, factory=lambda: make(target, **make_kwargs)).report()
    finally:
        env.close()


class _Breach(Exception):  # noqa: N818 - it never leaves this module
    """A problem was noted after which the running check cannot go on."""


class _Skip(Exception):  # noqa: N818 - it never leaves this module
    """The running check does not apply; the message says why."""


class _Inspection:
    """Runs the checks on one env and collects what they find."""

    def __init__(self, env: Env, seed: int, steps: int, *, factory: Callable[[], CostContract] | None = None) -> None:
        # CostContract raises at the first bad value; what it wraps is inspected instead, to see them all.
        self.env: Env = env.env if isinstance(env, CostContract) else env
        self.name = _name_of(env)
        self.seed, self.steps, self.factory = seed, steps, factory
        self.horizon = (env.horizon if isinstance(env, CostContract) else None) or _time_limit(self.env)
        self.is_fixed_horizon = isinstance(env, CostContract) and env.is_fixed_horizon
        self.constraints: Any = env.get_wrapper_attr("constraints") if env.has_wrapper_attr("constraints") else None
        self.trace: list[Step] = []
        self.problems: dict[tuple[str, str], Problem] = {}
        self.warnings: dict[tuple[str, str], Problem] = {}
        self.checks: list[str] = []
        self.skipped: list[str] = []
        self._broken: set[str] = set()
        self._is_six_tuple = False

    def report(self) -> EnvCheckReport:
        """Run everything."""
        self._run("observation-space", self._check_observation_space)
        self._run("action-space", self._check_action_space)
        self._run("constraints", self._check_constraints)
        self._run("reset", self._check_reset, needs=("observation-space", "action-space"))
        self._run("step", self._record, needs=("reset",))
        for name, check in TRACE_CHECKS.items():
            has_data = len(self.trace) > 1 or name == "observation"
            needs = ("reset",) if has_data else ("reset", "step")
            self._run(name, functools.partial(self._take_all, check), needs=needs)
        self._run("mid-episode-reset", self._check_mid_episode_reset, needs=("step",))
        self._run("aliasing", self._check_aliasing, needs=("mid-episode-reset",))
        self._run("time-limit", self._check_time_limit, needs=("mid-episode-reset",))
        self._run("seeding", self._check_seeding, needs=("mid-episode-reset",))
        self._run("state", self._check_state, needs=("mid-episode-reset", "seeding"))
        if self.factory is None:
            self.skipped.append("vector-env (needs an id or a factory, to make several)")
        elif self.problems:
            self.skipped.append("vector-env (the single env has problems)")
        else:
            self._run("vector-env", functools.partial(self._check_vector_env, self.factory))
        return EnvCheckReport(
            self.name,
            tuple(self.problems.values()),
            tuple(self.warnings.values()),
            tuple(self.checks),
            tuple(self.skipped),
        )

    # How checks run and report.

    def _run(self, name: str, check: Callable[[], None], *, needs: tuple[str, ...] = ()) -> None:
        missing = [need for need in needs if need in self._broken]
        if missing:
            self.skipped.append(f"{name} (needs {missing[0]})")
            self._broken.add(name)
            return
        self.checks.append(name)
        try:
            check()
        except _Skip as reason:
            self.checks.remove(name)
            self.skipped.append(f"{name} ({reason})")
        except _Breach:
            self._broken.add(name)
        except Exception as error:
            self._take(_raised(name, error))
            self._broken.add(name)

    def _fail(self, what: str, must: str, got: str, way_out: str) -> None:
        self._take(Finding(what, must, got, way_out))

    def _warn(self, what: str, must: str, got: str, way_out: str) -> None:
        self._take(Finding(what, must, got, way_out, is_warning=True))

    def _take(self, finding: Finding) -> None:
        table = self.warnings if finding.is_warning else self.problems
        # The same breach at many steps is one problem; its first occurrence is shown.
        table.setdefault((self.checks[-1], finding.what), finding.of(self.checks[-1]))

    def _take_all(self, check: TraceCheck) -> None:
        for finding in check(self.trace, self.env.observation_space, self.constraints):
            self._take(finding)

    # How the env is driven.

    def _reset(self, seed: int | None = None) -> Any:
        result: Any = self.env.reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            self._fail("reset", "return (obs, info) with a dict info", kind_of(result), "Return obs, {}.")
            raise _Breach
        return result[0]

    def _step(self, action: Any, where: str) -> tuple[Any, Step]:
        """The observation itself, and copies of everything."""
        result: Any = self.env.step(action)
        if isinstance(result, tuple) and len(result) == 6:
            if not self._is_six_tuple:
                must = "return (obs, reward, terminated, truncated, info)"
                self._fail("step", must, f"a 6-tuple at {where}", f"If its third entry is the cost, {_ADAPT_SIX}")
            self._is_six_tuple = True
            obs, reward, cost, terminated, truncated, info = result
            info = {**info, "cost": cost} if isinstance(info, dict) else info
        elif isinstance(result, tuple) and len(result) == 5:
            obs, reward, terminated, truncated, info = result
        else:
            self._fail(
                "step",
                "return (obs, reward, terminated, truncated, info)",
                f"{kind_of(result)} at {where}",
                "An old Gym env's done is terminated; a time limit is truncated.",
            )
            raise _Breach
        if not isinstance(info, dict):
            self._fail("step", "return a dict as info", f"{kind_of(info)} at {where}", "Return {} if there is none.")
            raise _Breach
        costs = info.get("costs")
        info = {**info, "costs": dict(costs)} if isinstance(costs, Mapping) else dict(info)
        return obs, Step(where, copy.deepcopy(obs), reward, terminated, truncated, info)

    def _play(self, num_steps: int) -> Iterator[tuple[Any, Step]]:
        """Random steps (always the same) from the state after a reset; an episode that ends is followed by another."""
        actions = copy.deepcopy(self.env.action_space)
        actions.seed(self.seed)
        for number in range(1, num_steps + 1):
            obs, step = self._step(actions.sample(), f"step {number}")
            yield obs, step
            if step.has_ended and number < num_steps:
                self._reset()

    def _episode(self, max_steps: int) -> list[Step]:
        """Steps after a reset until the episode ends, or ``max_steps``."""
        steps = []
        for _, step in self._play(max_steps):
            steps.append(step)
            if step.has_ended:
                break
        return steps

    # What is checked.

    def _check_observation_space(self) -> None:
        self._check_space("observation", self.env.observation_space)

    def _check_action_space(self) -> None:
        space = self.env.action_space
        self._check_space("action", space)
        if isinstance(space, spaces.Dict):
            self._fail(
                "the action space",
                "be Box, Discrete, MultiDiscrete or MultiBinary",
                str(space),
                "Flatten it: Stable-Baselines3's policies give one array.",
            )
        if not isinstance(space, spaces.Box):
            return
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            self._fail(
                "the bounds of the action space",
                "be finite",
                str(space),
                "Give the actuators' limits: actions are clipped to them, and without them nothing stops the policy.",
            )
        elif (space.low != -1.0).any() or (space.high != 1.0).any():
            self._warn(
                "the action space",
                "span [-1, 1] in every entry",
                str(space),
                "New policies explore with a deviation of about 1: use gymnasium.wrappers.RescaleAction(env, -1, 1).",
            )

    def _check_space(self, what: str, space: spaces.Space[Any]) -> None:
        try:
            parts = leaf_spaces(space, what)
        except EnvContractError:
            must = "be Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of them"
            way_out = "Flatten it, for example with gymnasium.wrappers.FlattenObservation."
            self._fail(f"the {what} space", must, str(space), way_out)
            return
        for part in parts.values():
            if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and np.any(part.start != 0):
                self._fail(f"the {what} space", "count from 0", str(part), "Shift it inside the env: start=0.")

    def _check_constraints(self) -> None:
        if isinstance(self.constraints, ConstraintSet) and len(self.constraints) > 0:
            return
        must = "be a saferl.ConstraintSet with at least one Constraint"
        way_out = "Set it in __init__, for example to ConstraintSet([Constraint('cost', budget=25.0)])"
        if self.constraints is None or isinstance(self.constraints, ConstraintSet):
            got = "none" if self.constraints is None else "an empty one"
            self._warn("the attribute constraints", must, got, f"{way_out}, or give budgets to saferl.make.")
        else:
            self._fail("the attribute constraints", must, f"{self.constraints!r}", f"{way_out}.")
        self.constraints = None

    def _check_reset(self) -> None:
        self.trace.append(Step("reset", copy.deepcopy(self._reset(self.seed))))

    def _record(self) -> None:
        for _, step in self._play(self.steps):
            self.trace.append(step)

    def _check_aliasing(self) -> None:
        previous: Any = self._reset(self.seed)
        before = copy.deepcopy(previous)
        for obs, step in self._play(min(self.steps, _SHORT)):
            if not is_same(previous, before):
                self._fail(
                    "an observation",
                    "keep its values after it was returned",
                    f"one that had changed by {step.where}",
                    "Return a copy: obs.copy().",
                )
                return
            previous, before = obs, step.obs

    def _check_mid_episode_reset(self) -> None:
        can_reach_limit = self.horizon is not None and 1 < self.horizon <= _LIMIT_FACTOR * self.steps
        count = min(self.steps, _SHORT)
        self._reset(self.seed)
        begun = self._episode(count if self.horizon is None else min(count, max(1, self.horizon // 2)))
        self._reset()
        episode = self._episode(self.horizon if can_reach_limit and self.horizon else count)
        if begun[-1].has_ended or self.horizon is None or len(episode) != self.horizon - len(begun):
            return
        if np.any(episode[-1].truncated):
            self._fail(
                "reset in the middle of an episode",
                f"begin a new one of up to {self.horizon} steps",
                f"a truncation after {len(episode)} steps, when {len(begun)} had been taken before the reset",
                "Set the step counter to 0 in reset.",
            )

    def _check_time_limit(self) -> None:
        if self.horizon is None:
            raise _Skip("no time limit is known")
        if self.horizon > _LIMIT_FACTOR * self.steps:
            raise _Skip(f"it is {self.horizon} steps; give more steps to try it")
        for attempt in range(3):
            self._reset(self.seed + attempt)
            episode = self._episode(self.horizon)
            last = episode[-1]
            if len(episode) == self.horizon:
                self._check_limit_step(last)
                return
            if self.is_fixed_horizon and np.any(last.terminated):
                self._fail(
                    "an episode of an env declared is_fixed_horizon",
                    f"last {self.horizon} steps",
                    f"a termination at {last.where}",
                    "Declare is_fixed_horizon=False: cost estimates would leave this episode out.",
                )
                return
        raise _Skip(f"none of 3 episodes lasted {self.horizon} steps")

    def _check_limit_step(self, last: Step) -> None:
        flags = f"terminated={last.terminated}, truncated={last.truncated} at step {self.horizon}"
        way_out = "A time limit cuts the episode, the task goes on: use gymnasium.wrappers.TimeLimit."
        if not np.any(last.truncated):
            self._fail("the last step before the time limit", "have truncated=True", flags, way_out)
        elif np.any(last.terminated):
            self._warn("the last step before the time limit", "have terminated=False", flags, way_out)

    def _check_seeding(self) -> None:
        first, second, other = (self._stream(seed) for seed in (self.seed, self.seed, self.seed + 1))
        for one, two in zip(first, second, strict=True):
            for what in ("obs", "reward", "terminated", "truncated", "costs"):
                if not is_same(getattr(one, what), getattr(two, what)):
                    self._fail(
                        "a reset with the same seed and the same actions",
                        f"give the same {what}",
                        f"another {what} at {one.where}",
                        "Draw from self.np_random only, call super().reset(seed=seed), and reset every state variable.",
                    )
                    raise _Breach
        if _are_same(first, other):
            got = f"identical runs of seeds {self.seed} and {self.seed + 1}"
            self._warn("different seeds", "differ, unless the env is deterministic", got, "Is the seed used?")
            return
        half = len(first) // 2
        if _are_same(first[:half], first[half:]):
            self._warn(
                "reset() without a seed",
                "go on with the generator of the last seed",
                "the seeded run once more",
                "Seed only if seed is not None; every episode would be the same one.",
            )

    def _stream(self, seed: int) -> list[Step]:
        """Steps after a seeded reset, then as many with the same actions after an unseeded one."""
        count = min(self.steps, _SHORT)
        runs: list[Step] = []
        for title, start in (("reset(seed)", seed), ("a later reset()", None)):
            runs.append(Step(title, copy.deepcopy(self._reset(start))))
            runs += [step for _, step in self._play(count)]
        return runs

    def _check_state(self) -> None:
        if self.problems:
            raise _Skip("the env has problems")
        if not has_state(self.env):
            raise _Skip("no get_state and set_state: training resets it at every checkpoint")
        factory = self.factory
        another = None if factory is None else lambda: factory().env
        for finding in state_findings(self.env, another, seed=self.seed, steps=min(self.steps, _SHORT)):
            self._take(finding)

    def _check_vector_env(self, factory: Callable[[], CostContract]) -> None:
        found = vector_difference(factory, seed=self.seed, steps=min(self.steps, _SHORT))
        if found is not None:
            self._fail(
                "saferl.make_vec's batch of two envs",
                "do what the two envs do alone",
                found,
                "Envs must share no state: build everything in __init__, nothing at module or class level.",
            )


def _raised(check: str, error: Exception) -> Finding:
    text = " ".join(str(error).split())
    if "too many values to unpack (expected 5" in text:
        way_out = f"If it returns 6-tuples, {_ADAPT_SIX}"
    elif check == "reset" and isinstance(error, TypeError):
        way_out = "Take the keywords seed and options."
    else:
        way_out = "Repair the env where it raises this."
    return Finding("the env", "not raise an error", f"{type(error).__name__}: {text}", way_out)


def _are_same(one: list[Step], other: list[Step]) -> bool:
    return all(is_same((a.obs, a.reward, a.costs), (b.obs, b.reward, b.costs)) for a, b in zip(one, other, strict=True))


def _time_limit(env: Env) -> int | None:
    """Steps of the outermost TimeLimit, wherever it stands among the wrappers."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return env.spec.max_episode_steps if env.spec is not None else None


def _name_of(env: Env) -> str:
    if isinstance(env, CostContract):
        return env.env_id
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
