"""Fits the motion models of the shields: ``python -m saferl.bench.motion`` drives, fits and writes ``motion.json``.

Every agent drives in its Circle0 task, where nothing is in the way, by random actions that are held for 1 to 24 steps.
Coefficients come from the fitting seeds, errors from the held-out seeds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.envs.core import make
from saferl.shields.motion import DATA, MotionModel

Array = npt.NDArray[np.float64]

FIT_SEED, HELD_OUT_SEED = 1, 2
EPISODES, STEPS = 20, 400
_LONGEST_HOLD = 24

_KNOWN: dict[str, dict[str, Any]] = {
    "Point": {"forward": 0.0, "saturation": (0.05, 0.95), "mixing": ((1.0, 0.0), (0.0, 1.0))},
    "Car": {"forward": -np.pi / 2, "saturation": (0.02, 0.02), "mixing": ((0.5, 0.5), (-0.5, 0.5))},
}
"""What the MuJoCo models say: ``forcerange`` and gear of the motors, and where the front is."""


def drive(agent: str, seed: int, *, episodes: int = EPISODES, steps: int = STEPS) -> list[dict[str, Array]]:
    """Random driving, per episode: ``position`` and ``velocity`` complex, ``heading``, ``turn_rate`` (steps + 1,).

    Args:
        agent: Point or Car.
        seed: Of actions and starts.
        episodes: How many.
        steps: Steps of each; ``actions`` has the shape (steps, 2).
    """
    env: Any = make(f"Safety{agent}Circle0-v0")
    ask = env.get_wrapper_attr("privileged_state")
    generator = np.random.default_rng(seed)
    driven = []
    for episode in range(episodes):
        env.reset(seed=1000 * seed + episode)
        states, actions, left = [ask()], np.zeros((steps, 2)), 0
        for step in range(steps):
            if left == 0:
                left = int(generator.integers(1, _LONGEST_HOLD + 1))
                # Corners as well as the inside: policies saturate.
                is_corner = generator.random() < 0.25
                action = generator.choice([-1.0, 0.0, 1.0], 2) if is_corner else generator.uniform(-1.0, 1.0, 2)
            left -= 1
            actions[step] = action
            env.step(action.astype(env.action_space.dtype))
            states.append(ask())
        position, velocity = (np.array([s[key] for s in states]) for key in ("position", "velocity"))
        driven.append(
            {
                "position": position @ np.array([1.0, 1.0j]),
                "velocity": velocity @ np.array([1.0, 1.0j]),
                "heading": np.unwrap([s["heading"] for s in states]),
                "turn_rate": np.array([s["turn_rate"] for s in states]),
                "actions": actions,
            }
        )
    env.close()
    return driven


def fit(agent: str, driven: list[dict[str, Array]], *, dt: float = 0.02) -> MotionModel:
    """The least-squares model of random driving, without its errors."""
    shape = MotionModel(
        agent, dt, a=0.0, b=0.0, g=0.0, alpha=0.0, beta=0.0, gamma=0.0, delta=0.0, errors={}, **_KNOWN[agent]
    )
    rows = []
    for part in driven:
        u, r = shape.inputs(shape.effects(part["actions"]))
        ahead = np.exp(-1j * (part["heading"][1:] + shape.forward))
        before, after = part["velocity"][:-1] * ahead, part["velocity"][1:] * ahead
        turn, rate = np.diff(part["heading"]), part["turn_rate"]
        rows.append([u, r, before.real, before.imag, after.real, after.imag, turn, rate[:-1], rate[1:]])
    u, r, l0, s0, l1, s1, turn, w0, w1 = np.concatenate(rows, axis=1)
    a, b = _solve([l0, u], l1)
    (g,) = _solve([s0], s1)
    alpha, beta = _solve([w0, r], w1)
    gamma, delta = _solve([w0, r], turn)
    return replace(shape, a=a, b=b, g=g, alpha=alpha, beta=beta, gamma=gamma, delta=delta)


def errors(model: MotionModel, driven: list[dict[str, Array]]) -> dict[str, float]:
    """How far the model is from driving it was not fitted to; :attr:`MotionModel.errors`."""
    found: dict[str, list[Array]] = {"position_1": [], "velocity_1": [], "position_10": [], "position_25": []}
    for part in driven:
        for horizon in (1, 10, 25):
            starts = np.arange(0, len(part["actions"]) - horizon, 1 if horizon == 1 else 5)
            position, velocity, _, _ = predict(model, part, starts, horizon)
            found[f"position_{horizon}"].append(np.abs(position - part["position"][starts + horizon]))
            if horizon == 1:
                found["velocity_1"].append(np.abs(velocity - part["velocity"][starts + 1]))
    level = {name: 0.999 if name.endswith("_1") else 0.99 for name in found}
    return {name: float(np.quantile(np.concatenate(values), level[name])) for name, values in found.items()}


def predict(model: MotionModel, part: dict[str, Array], starts: npt.NDArray[np.int64], horizon: int) -> Any:
    """What the model says ``horizon`` steps after each of ``starts``, under the actions that were driven."""
    state = (
        part["position"][starts],
        part["velocity"][starts],
        part["heading"][starts] + model.forward,
        part["turn_rate"][starts],
    )
    for step in range(horizon):
        state = model.step(*state, *model.inputs(model.effects(part["actions"][starts + step])))
    return state


def fit_all() -> dict[str, MotionModel]:
    """Fitted models of all agents with their errors."""
    models = {}
    for agent in _KNOWN:
        model = fit(agent, drive(agent, FIT_SEED))
        models[agent] = replace(model, errors=errors(model, drive(agent, HELD_OUT_SEED)))
    return models


def _solve(columns: list[Array], target: Array) -> list[float]:
    found = np.linalg.lstsq(np.column_stack(columns), target, rcond=None)[0]
    return [float(value) for value in found]


def main() -> None:
    """Fit, and write the data file of the package."""
    data = {
        "command": "python -m saferl.bench.motion",
        "fit_seed": FIT_SEED,
        "held_out_seed": HELD_OUT_SEED,
        "episodes": EPISODES,
        "steps": STEPS,
        "models": {name: model.to_dict() for name, model in fit_all().items()},
    }
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
