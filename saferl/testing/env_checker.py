"""``check_env``: does an environment keep saferl's contract? Everything that is wrong, in one list."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import TimeLimit

from saferl.constraints import ConstraintSet
from saferl.envs.adapters import CostContract
from saferl.envs.batch import leaf_spaces
from saferl.envs.core import EnvFactory, make
from saferl.envs.vector import CostVectorEnv
from saferl.errors import EnvContractError, UsageError

Env = gymnasium.Env[Any, Any]
Target = str | EnvFactory | Env

_SHORT = 60
"""Steps of the checks that compare several runs, and of their episodes a third."""
_LIMIT_FACTOR = 10
"""A time limit is tried out if it is at most this many times ``steps``."""
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


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
        SafetyHalfCheetahVelocity-v1 keeps saferl's contract (0 problems, 0 warnings, 17 checks).
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
        return EnvCheckReport(name, (_raised("make", error),), (), ("make",), ("everything else (no env)",))
    try:
        return _Inspection(env, seed, steps, factory=lambda: make(target, **make_kwargs)).report()
    finally:
        env.close()


class _Breach(Exception):  # noqa: N818 - not an error of the caller
    """A problem after which the running check cannot go on."""


@dataclass(frozen=True)
class _Step:
    """Copies of what one step gave."""

    where: str
    obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Mapping[str, Any]

    @property
    def has_ended(self) -> bool:
        return bool(self.terminated) or bool(self.truncated)

    @property
    def costs(self) -> Any:
        """What stands for the costs by name; None if nothing does."""
        if "costs" in self.info:
            return self.info["costs"]
        return {"cost": self.info["cost"]} if "cost" in self.info else None


class _Inspection:
    """Runs the checks on one env and collects what they find."""

    def __init__(self, env: Env, seed: int, steps: int, *, factory: Callable[[], CostContract] | None = None) -> None:
        # CostContract raises at the first bad value; what it wraps is inspected instead, to see them all.
        self.env: Env = env.env if isinstance(env, CostContract) else env
        self.name = env.env_id if isinstance(env, CostContract) else _innermost(env)
        self.seed, self.steps, self.factory = seed, steps, factory
        self.horizon = (env.horizon if isinstance(env, CostContract) else None) or _time_limit(self.env)
        self.is_fixed_horizon = isinstance(env, CostContract) and env.is_fixed_horizon
        carrier = env if env.has_wrapper_attr("constraints") else None
        self.constraints: Any = carrier.get_wrapper_attr("constraints") if carrier is not None else None
        self.actions: spaces.Space[Any] = copy.deepcopy(env.action_space)
        self.first: Any = None
        self.trace: list[_Step] = []
        self.problems: dict[tuple[str, str], Problem] = {}
        self.warnings: dict[tuple[str, str], Problem] = {}
        self.checks: list[str] = []
        self.skipped: list[str] = []
        self._broken: set[str] = set()

    def report(self) -> EnvCheckReport:
        """Run everything."""
        self._run("observation-space", self._check_observation_space)
        self._run("action-space", self._check_action_space)
        self._run("constraints", self._check_constraints)
        self._run("reset", self._check_reset)
        self._run("step", self._record, needs=("reset",))
        for name, check in (
            ("observation", self._check_observation),
            ("reward", self._check_reward),
            ("flags", self._check_flags),
            ("costs", self._check_costs),
            ("cost-scalar", self._check_cost_scalar),
            ("cost-bounds", self._check_cost_bounds),
            ("episode-ends", self._check_episode_ends),
        ):
            self._run(name, check, needs=() if self.trace else ("step", "reset"))
        self._run("aliasing", self._check_aliasing, needs=("step",))
        self._run("mid-episode-reset", self._check_mid_episode_reset, needs=("step",))
        self._run("time-limit", self._check_time_limit, needs=("mid-episode-reset",))
        self._run("seeding", self._check_seeding, needs=("mid-episode-reset",))
        if self.factory is None:
            self.skipped.append("vector-env (needs an id or a factory, to make several)")
        elif self.problems:
            self.skipped.append("vector-env (the single env has problems)")
        else:
            self._run("vector-env", self._check_vector_env)
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
        except _Breach:
            self._broken.add(name)
        except Exception as error:
            self._add(self.problems, _raised(name, error))
            self._broken.add(name)

    def _fail(self, what: str, must: str, got: str, way_out: str) -> None:
        self._add(self.problems, Problem(self.checks[-1], what, must, got, way_out))

    def _warn(self, what: str, must: str, got: str, way_out: str) -> None:
        self._add(self.warnings, Problem(self.checks[-1], what, must, got, way_out))

    @staticmethod
    def _add(table: dict[tuple[str, str], Problem], problem: Problem) -> None:
        # The same breach at many steps is one problem; its first occurrence is shown.
        table.setdefault((problem.check, problem.what), problem)

    # How the env is driven.

    def _reset(self, seed: int | None = None) -> Any:
        result: Any = self.env.reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            self._fail("reset", "return (obs, info) with a dict info", _shape_of(result), "Return obs, {}.")
            raise _Breach
        return result[0]

    def _step(self, action: Any, where: str) -> tuple[Any, _Step]:
        """The observation itself, and copies of everything."""
        result: Any = self.env.step(action)
        if isinstance(result, tuple) and len(result) == 6:
            self._fail(
                "step",
                "return (obs, reward, terminated, truncated, info)",
                f"a 6-tuple at {where}",
                "If its third entry is the cost, wrap the env in saferl.envs.SixTupleAdapter (saferl.make does).",
            )
            obs, reward, cost, terminated, truncated, info = result
            info = {**info, "cost": cost} if isinstance(info, dict) else info
        elif isinstance(result, tuple) and len(result) == 5:
            obs, reward, terminated, truncated, info = result
        else:
            self._fail(
                "step",
                "return (obs, reward, terminated, truncated, info)",
                f"{_shape_of(result)} at {where}",
                "An old Gym env's done is terminated; a time limit is truncated.",
            )
            raise _Breach
        if not isinstance(info, dict):
            self._fail("step", "return a dict as info", f"{_shape_of(info)} at {where}", "Return {} if there is none.")
            raise _Breach
        costs = info.get("costs")
        info = {**info, "costs": dict(costs)} if isinstance(costs, Mapping) else dict(info)
        return obs, _Step(where, copy.deepcopy(obs), reward, terminated, truncated, info)

    def _play(self, num_steps: int, *, salt: int = 0) -> Iterator[tuple[Any, _Step]]:
        """Random steps from the state after a reset; episodes that end are followed by another."""
        self.actions.seed(self.seed + salt)
        for number in range(1, num_steps + 1):
            obs, step = self._step(self.actions.sample(), f"step {number}")
            yield obs, step
            if step.has_ended and number < num_steps:
                self._reset()

    def _episode(self, max_steps: int) -> list[_Step]:
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
                "A new policy explores with a standard deviation of 1: use gymnasium.wrappers.RescaleAction(env, -1, 1).",
            )

    def _check_space(self, what: str, space: spaces.Space[Any]) -> None:
        must = "be Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of them"
        try:
            parts = leaf_spaces(space, what)
        except EnvContractError:
            self._fail(f"the {what} space", must, str(space), "Flatten it with gymnasium.wrappers.FlattenObservation.")
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
        self.first = self._reset(self.seed)

    def _record(self) -> None:
        for _, step in self._play(self.steps):
            self.trace.append(step)

    def _check_observation(self) -> None:
        for where, obs in (("reset", self.first), *((step.where, step.obs) for step in self.trace)):
            found = _mismatch(self.env.observation_space, obs)
            if found is not None:
                what, must, got = found
                way_out = "Return what observation_space says, or declare what you return."
                self._fail(what, must, f"{got} at {where}", way_out)

    def _check_reward(self) -> None:
        for step in self.trace:
            if not isinstance(step.reward, _NUMBERS):
                self._fail("the reward", "be a float", f"{_shape_of(step.reward)} at {step.where}", "Return float(reward).")
            elif not math.isfinite(step.reward):
                self._fail(
                    "the value of the reward",
                    "be finite",
                    f"{step.reward} at {step.where}",
                    "End the episode before the state diverges.",
                )

    def _check_flags(self) -> None:
        for step in self.trace:
            for what, flag in (("terminated", step.terminated), ("truncated", step.truncated)):
                if not isinstance(flag, bool | np.bool_):
                    self._fail(what, "be a bool", f"{_shape_of(flag)} {flag!r} at {step.where}", f"Return bool({what}).")

    def _check_costs(self) -> None:
        keys: set[str] | None = None
        for step in self.trace:
            where = f"{step.where}{', the last of its episode' if step.has_ended else ''}"
            costs = step.costs
            if costs is None:
                self._fail(
                    "info",
                    "hold 'costs' (or 'cost' for a single one) at every step, also the last of an episode",
                    f"the keys {sorted(step.info)} at {where}",
                    "Report every cost at every step, 0.0 if there was none; or give saferl.make a cost function.",
                )
                continue
            if not isinstance(costs, Mapping):
                got = f"{_shape_of(costs)} at {where}"
                self._fail("info['costs']", "be a dict from name to number", got, "Return {'cost': value}.")
                continue
            for name, cost in costs.items():
                self._check_number(f"the cost {name!r}", cost, where)
            absent = [name for name in self.constraints.names if name not in costs] if self.constraints else []
            if absent:
                self._fail(
                    f"info['costs'] for the constraint {absent[0]!r}",
                    "hold its cost at every step",
                    f"the costs {sorted(costs)} at {where}",
                    "Name the constraint after its cost, and report it at every step.",
                )
            elif keys is not None and set(costs) != keys:
                # Costs that nobody constrains may come and go, but a budget for one would fail later.
                report = self._warn if self.constraints else self._fail
                got = f"{sorted(costs)} at {where} after {sorted(keys)}"
                report("the keys of info['costs']", "be the same at every step", got, "Report 0.0 for absent costs.")
            keys = set(costs) if keys is None else keys

    def _check_cost_scalar(self) -> None:
        for step in self.trace:
            if "cost" not in step.info:
                continue
            self._check_number("info['cost']", step.info["cost"], step.where)
            costs = step.costs
            if isinstance(costs, Mapping) and not _is_same(costs.get("cost", step.info["cost"]), step.info["cost"]):
                self._warn(
                    "info['cost']",
                    "be info['costs']['cost'] where both exist",
                    f"{step.info['cost']!r} and {costs['cost']!r} at {step.where}",
                    "Give the two quantities different names.",
                )

    def _check_number(self, what: str, value: Any, where: str) -> None:
        if not isinstance(value, _NUMBERS):
            self._fail(what, "be a number", f"{_shape_of(value)} {value!r} at {where}", "Return float(cost).")
        elif not math.isfinite(value):
            got = f"{value} at {where}"
            self._fail(what, "be finite", got, "A cost that is not a number would hide a violation: fix the env.")

    def _check_cost_bounds(self) -> None:
        for step in self.trace:
            for constraint in self.constraints or ():
                costs, most = step.costs, constraint.max_step_cost
                value = costs.get(constraint.name) if isinstance(costs, Mapping) else None
                if most is None or not isinstance(value, _NUMBERS) or 0.0 <= value <= most or not math.isfinite(value):
                    continue
                self._fail(
                    f"the cost {constraint.name!r}",
                    f"lie in [0, {most:g}], since its max_step_cost is {most:g}",
                    f"{value} at {step.where}",
                    "Confidence bounds rely on it: correct the cost, raise max_step_cost, or leave it out.",
                )

    def _check_episode_ends(self) -> None:
        ends = [number for number, step in enumerate(self.trace, start=1) if step.has_ended]
        lengths = {stop - start for start, stop in zip([0, *ends], ends, strict=False)}
        are_terminations = all(bool(self.trace[end - 1].terminated) for end in ends)
        if len(ends) >= 3 and len(lengths) == 1 and lengths != {1} and are_terminations:
            self._warn(
                "an episode that a time limit ends",
                "be truncated, not terminated",
                f"terminated=True after exactly {lengths.pop()} steps in each of {len(ends)} episodes",
                "If that is a time limit, return truncated=True there: values are then bootstrapped.",
            )

    def _check_aliasing(self) -> None:
        previous: Any = self._reset(self.seed)
        before = copy.deepcopy(previous)
        for obs, step in self._play(min(self.steps, _SHORT)):
            if not _is_same(previous, before):
                self._fail(
                    "an observation",
                    "keep its values after it was returned",
                    f"one that {step.where} changed",
                    "Return a copy: obs.copy().",
                )
                return
            previous, before = obs, step.obs

    def _check_mid_episode_reset(self) -> None:
        can_reach_limit = self.horizon is not None and 1 < self.horizon <= _LIMIT_FACTOR * self.steps
        half = max(1, self.horizon // 2) if self.horizon is not None else self.steps
        self._reset(self.seed)
        begun = self._episode(min(half, self.steps, _SHORT))
        self._reset()
        episode = self._episode(self.horizon if can_reach_limit and self.horizon else min(self.steps, _SHORT))
        if begun[-1].has_ended or self.horizon is None or len(episode) != self.horizon - len(begun):
            return
        if bool(episode[-1].truncated):
            self._fail(
                "reset in the middle of an episode",
                f"begin a new one of up to {self.horizon} steps",
                f"a truncation after {len(episode)} steps, when {len(begun)} had been taken before the reset",
                "Set the step counter to 0 in reset.",
            )

    def _check_time_limit(self) -> None:
        if self.horizon is None or self.horizon > _LIMIT_FACTOR * self.steps:
            self.checks.pop()
            known = "no time limit is known" if self.horizon is None else f"{self.horizon} steps; give more steps to try"
            self.skipped.append(f"time-limit ({known})")
            return
        for attempt in range(3):
            self._reset(self.seed + attempt)
            episode = self._episode(self.horizon)
            last = episode[-1]
            if len(episode) == self.horizon:
                self._check_limit_step(last)
                return
            if self.is_fixed_horizon and bool(last.terminated):
                self._fail(
                    "an episode of an env declared is_fixed_horizon",
                    f"last {self.horizon} steps",
                    f"a termination at {last.where}",
                    "Declare is_fixed_horizon=False: cost estimates would leave this episode out.",
                )
                return
        self.checks.pop()
        self.skipped.append(f"time-limit (no episode of 3 lasted {self.horizon} steps)")

    def _check_limit_step(self, last: _Step) -> None:
        flags = f"terminated={last.terminated}, truncated={last.truncated} at step {self.horizon}"
        way_out = "A time limit cuts the episode, the task goes on: use gymnasium.wrappers.TimeLimit."
        if not bool(last.truncated):
            self._fail("the last step before the time limit", "have truncated=True", flags, way_out)
        elif bool(last.terminated):
            self._warn("the last step before the time limit", "have terminated=False", flags, way_out)

    def _check_seeding(self) -> None:
        first, second, other = (self._stream(seed) for seed in (self.seed, self.seed, self.seed + 1))
        for one, two in zip(first, second, strict=True):
            for what in ("obs", "reward", "terminated", "truncated", "costs"):
                if not _is_same(getattr(one, what), getattr(two, what)):
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

    def _stream(self, seed: int) -> list[_Step]:
        """Steps after a seeded reset, then as many with the same actions after an unseeded one."""
        count = min(self.steps, _SHORT)
        runs: list[_Step] = []
        for title, start in (("reset(seed)", seed), ("a later reset()", None)):
            runs.append(_Step(title, copy.deepcopy(self._reset(start)), 0.0, False, False, {}))
            runs += [step for _, step in self._play(count)]
        return runs

    def _check_vector_env(self) -> None:
        assert self.factory is not None
        factory, limit = self.factory, max(1, min(self.steps, _SHORT) // 3)

        def short() -> CostContract:
            env = factory()
            return CostContract(TimeLimit(env.env, limit), env.constraints, env_id=env.env_id, horizon=limit)

        singles = [short(), short()]
        vector = CostVectorEnv([short, short])
        try:
            batch, _ = vector.reset(seed=self.seed)
            alone = [env.reset(seed=self.seed + row)[0] for row, env in enumerate(singles)]
            self._compare("obs", "reset", batch, alone)
            vector.action_space.seed(self.seed)
            for number in range(1, min(self.steps, _SHORT) + 1):
                self._compare_step(vector, singles, f"step {number}")
        finally:
            for env in (vector, *singles):
                env.close()

    def _compare_step(self, vector: CostVectorEnv, singles: list[CostContract], where: str) -> None:
        """Step the batch and its members alone, with SAME_STEP autoreset, and compare."""
        actions = vector.action_space.sample()
        batch, rewards, terminated, truncated, infos = vector.step(actions)
        alone = []
        for row, (env, action) in enumerate(zip(singles, iterate(vector.action_space, actions), strict=True)):
            obs, *results, _ = env.step(action)
            values = (rewards[row], terminated[row], truncated[row], infos["costs"][row])
            for what, ours, theirs in zip(
                ("reward", "terminated", "truncated", "costs"), values, (*results, env.last_costs), strict=True
            ):
                self._compare(what, where, [ours], [theirs])
            if results[1] or results[2]:
                self._compare("final_obs", where, rows_of(infos["final_obs"], row), obs)
                obs, _ = env.reset()
            alone.append(obs)
        self._compare("obs", where, batch, alone)
