"""Fits the models of the velocity cap: ``python -m saferl.bench.velocity [TASK ...]`` trains, runs, fits and writes.

Runners are trained for return alone, a short and a long time. They run with action noise of several sizes; a model is
fitted; then they run under the shield, which leads to other states, and the model is fitted again to all of it, several
times. A third runner, from another seed, is kept apart: what is said of errors, costs and returns is said of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from saferl.envs.core import make
from saferl.envs.vector import make_vec
from saferl.envs.velocity import TASKS
from saferl.policy import load
from saferl.shields.safety_layer import SafetyLayer, SafetyLayerConfig, fit_safety_layer
from saferl.shields.velocity_cap import ABOUT, ARRAYS, MARGIN
from saferl.solvers import SOLVERS
from saferl.training import train
from saferl.training.recipes import find_recipe
from saferl.training.settings import split_assignments

Array = npt.NDArray[np.float64]

RUNNERS: Sequence[tuple[int, int]] = ((1000, 300_000), (1001, 1_000_000))
"""Training seed and environment steps of the runners whose transitions are fitted."""
HELD_OUT = (1002, 1_000_000)
"""Those of the runner that is kept apart."""
ROUNDS, STEPS, NUM_ENVS = 3, 1000, 8
NOISE = (0.0, 0.1, 0.3, 0.6)
"""Standard deviations of the noise on actions, in half ranges; drawn per episode."""
MARGINS = (0.03, 0.1, 0.2)
"""What is kept from the limit in the rounds under the shield, as shares of it."""
FIT = SafetyLayerConfig(hidden=(64, 64), epochs=20)


def train_runner(task: str, seed: int, steps: int, folder: Path) -> Any:
    """A policy that PPO trained for return alone, as ``saferl train ppo`` does."""
    env_id = f"Safety{task}Velocity-v1"
    recipe = find_recipe(env_id)
    given = {} if recipe is None else dict(recipe.options_for("ppo"))
    config, settings = split_assignments([], SOLVERS.load("ppo").config_class, given)
    out = folder / f"{task}-{seed}"
    train("ppo", env_id, steps=steps, out=out, seed=seed, options=asdict(config), settings=settings)
    return load(out)


def run(
    task: str, policy: Any, seed: int, *, noise: Sequence[float] = (0.0,), shield: SafetyLayer | None = None
) -> dict[str, Array]:
    """Transitions of a runner in 8 environments, and what their finished episodes came to.

    Returns:
        ``obs`` (N, n), ``actions`` (N, dim) as executed, ``speeds`` (N,) in m/s, and by episode ``returns``, ``costs``
        and ``lengths``.
    """
    envs: Any = make_vec(f"Safety{task}Velocity-v1", NUM_ENVS)
    space, generator = envs.single_action_space, np.random.default_rng(seed)
    half = (space.high - space.low) / 2.0
    obs, _ = envs.reset(seed=seed)
    spread, sums, kept, ended = generator.choice(noise, NUM_ENVS), np.zeros((NUM_ENVS, 3)), [], []
    for _ in range(STEPS):
        actions = policy.predict(obs, deterministic=False)[0]
        actions = np.clip(
            actions + generator.normal(size=actions.shape) * spread[:, None] * half, space.low, space.high
        )
        if shield is not None:
            actions = np.array([decision.action for decision in shield.filter_batch(obs, actions)])
        actions = actions.astype(space.dtype)
        following, rewards, terminated, truncated, infos = envs.step(actions)
        kept.append((obs, actions, infos["margins"][:, 0] + TASKS[task].threshold))
        sums += np.column_stack([rewards, infos["costs"][:, 0], np.ones(NUM_ENVS)])
        for row in np.flatnonzero(terminated | truncated):
            ended.append(sums[row].copy())
            sums[row], spread[row] = 0.0, generator.choice(noise)
        obs = following
    envs.close()
    columns = [np.concatenate(part).astype(np.float64) for part in zip(*kept, strict=True)]
    return dict(zip(("obs", "actions", "speeds"), columns, strict=True)) | dict(
        zip(("returns", "costs", "lengths"), np.array(ended).T, strict=True)
    )


def fit(task: str, runners: Sequence[Any], space: Any) -> SafetyLayer:
    """The model after all rounds, without its errors."""
    limit, parts = TASKS[task].threshold, []
    for index, runner in enumerate(runners):
        parts += [run(task, runner, 10 * index + repeat, noise=NOISE) for repeat in range(2)]
    layer = _fit(parts, space, limit)
    for round_ in range(1, ROUNDS + 1):
        for index, runner in enumerate(runners):
            for level, share in enumerate(MARGINS):
                layer.limits[:] = limit * (1.0 - share)
                seed = 1000 * round_ + 10 * index + level
                parts.append(run(task, runner, seed, noise=NOISE[:3], shield=layer))
        layer = _fit(parts, space, limit)
    return layer


def _fit(parts: Sequence[dict[str, Array]], space: Any, limit: float) -> SafetyLayer:
    obs, actions, speeds = (np.concatenate([part[name] for part in parts]) for name in ("obs", "actions", "speeds"))
    return fit_safety_layer(obs, actions, speeds, action_space=space, limits=[limit], config=FIT)


def errors(layer: SafetyLayer, shielded: dict[str, Array]) -> dict[str, float]:
    """Of predictions under the shield: ``rmse``, and ``p99``, which 99 % of them are too small by at most."""
    low, high = (np.asarray(bound) for bound in (layer.actions.low, layer.actions.high))
    scaled = (shielded["actions"] - (low + high) / 2.0) / ((high - low) / 2.0)
    outputs = layer.model(shielded["obs"])
    missed = shielded["speeds"] - outputs[:, 0] - (outputs[:, 1:] * scaled).sum(axis=1)
    return {"rmse": float(np.sqrt(np.mean(missed**2))), "p99": float(np.quantile(missed, 0.99))}


def make_model(task: str, folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What ``velocity.json`` says of a task, and the weights."""
    env: Any = make(f"Safety{task}Velocity-v1")
    runners = [train_runner(task, seed, steps, folder) for seed, steps in RUNNERS]
    layer = fit(task, runners, env.action_space)
    env.close()
    layer.limits[:] = (1.0 - MARGIN) * TASKS[task].threshold
    kept_apart = train_runner(task, *HELD_OUT, folder)
    found = {"unshielded": run(task, kept_apart, 1), "shielded": run(task, kept_apart, 1, shield=layer)}
    options, arrays = layer.model.to_arrays(task)
    return {
        "network": options,
        "transitions": layer.report["transitions"],
        "errors": errors(layer, found["shielded"]),
        "held_out": {
            name: {key: float(part[key].mean()) for key in ("returns", "costs", "lengths")}
            for name, part in found.items()
        },
    }, arrays


def main(tasks: Sequence[str]) -> None:
    """Fit ``tasks`` (all if none) anew, and write the data files of the package; other tasks stay as they are."""
    models = json.loads(ABOUT.read_text(encoding="utf-8"))["models"] if ABOUT.exists() else {}
    arrays: dict[str, Any] = load_file(ARRAYS) if ARRAYS.exists() else {}
    for task in tasks or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            models[task], weights = make_model(task, Path(folder))
        arrays = {name: part for name, part in arrays.items() if not name.startswith(f"{task}/")}
        arrays |= {name: part.astype(np.float32) for name, part in weights.items()}
        data = {
            "command": "python -m saferl.bench.velocity",
            "runners": [list(runner) for runner in RUNNERS],
            "held_out": list(HELD_OUT),
            "fit": asdict(FIT),
            "models": {name: models[name] for name in TASKS if name in models},
        }
        save_file(arrays, ARRAYS)
        ABOUT.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
