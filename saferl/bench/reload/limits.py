"""A limit that binds in the interior: half-way between a policy that ignores the cost and one that knows nothing else.

Both are trained by plain PPO for equally many steps, the careful one on the negative cost as its reward.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import gymnasium

from saferl.bench.measure import machine
from saferl.bench.reload.fresh import Episodes, FreshEpisodes
from saferl.envs.adapters import CostContract
from saferl.envs.core import EnvFactory, find_spec, make
from saferl.envs.registry import ENVS
from saferl.envs.vector import make_vec
from saferl.errors import UnknownNameError
from saferl.evaluation import EVALUATION_SEED
from saferl.evaluation.summary import versions
from saferl.solvers import SOLVERS
from saferl.training.build import Job, build_env, build_model, torch_threads
from saferl.training.recipes import find_recipe
from saferl.training.settings import split_assignments

_SOLVER = "ppo"


class CostAsReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same task, rewarded for nothing but a low cost: the reward of a step is its negative cost."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env."""
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, -float(info["cost"]), terminated, truncated, info


def careful(task: str) -> gymnasium.Env[Any, Any]:
    """``task``, rewarded for a low cost."""
    env = make(task)
    # Outside it, ``saferl.make`` adds the contract anew.
    return CostAsReward(env.env if isinstance(env, CostContract) else env)


def bench_limits(
    tasks: Sequence[str],
    *,
    steps: int = 500_000,
    seed: int = 1000,
    episodes: int = 32,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The costs of a careless and of a careful policy on every task, and the limit half-way between them.

    Args:
        tasks: Ids of environments with one constraint.
        steps: Training steps of each policy.
        seed: Training seed.
        episodes: Fresh episodes of each policy, with sampled actions.
        report: Told every result as it comes.

    Raises:
        UnknownNameError: a task that ``saferl list envs`` does not know.
    """
    start = time.perf_counter()
    results: dict[str, Any] = {}
    for task in tasks:
        if find_spec(task) is None:
            raise UnknownNameError("environment", task, ENVS)
        row: dict[str, Any] = {}
        for name, target in (("careless", task), ("careful", functools.partial(careful, task))):
            found, seconds = _trained(task, target, steps=steps, seed=seed, episodes=episodes)
            row[name] = {
                "cost": float(found.costs[:, 0].mean()),
                "cost_deviation": float(found.costs[:, 0].std(ddof=1)),
                "return": float(found.returns.mean()),
                "seconds": round(seconds, 1),
            }
            report(f"{task}, {name}: {row[name]}")
        high, low = row["careless"]["cost"], row["careful"]["cost"]
        results[task] = {**row, "limit": low + 0.5 * (high - low)}
    return {
        "benchmark": "limits half-way between the costs of a careless and of a careful policy, per episode",
        "solver": _SOLVER,
        "steps": steps,
        "seed": seed,
        "episodes": episodes,
        "tasks": results,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(),
    }


def _trained(task: str, target: str | EnvFactory, *, steps: int, seed: int, episodes: int) -> tuple[Episodes, float]:
    """Fresh episodes of the task by a policy trained on ``target``, and the seconds of its training."""
    start = time.perf_counter()
    recipe, config_class = find_recipe(task), SOLVERS.load(_SOLVER).config_class
    base = {"anneal_learning_rate": True, **(recipe.options_for(_SOLVER) if recipe is not None else {})}
    config, settings = split_assignments([], config_class, base)
    options = {name: getattr(config, name) for name in config.__dataclass_fields__}
    spec = find_spec(task)
    assert spec is not None
    job = Job(
        solver=_SOLVER,
        env_id=target,
        steps=steps,
        seed=seed,
        constraints=spec.select(),
        options=options,
        settings=settings,
    )
    with torch_threads(1):
        env = build_env(job)
        fresh = FreshEpisodes(functools.partial(make_vec, task, episodes), EVALUATION_SEED)
        try:
            model = build_model(job, env)
            model.learn(steps)
            seconds = time.perf_counter() - start
            return fresh.run(model), seconds
        finally:
            fresh.close()
            env.close()
