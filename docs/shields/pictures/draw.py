"""The pictures of docs/shields, each made by the real unit: ``python docs/shields/pictures/draw.py [NAME ...]``.

Most show the same task: a mass on a line with |x| <= 1 and |u| <= 1, pushed to the right, which a shield must stop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saferl.bench.figure import new_figure, save_figure
from saferl.shields import (
    ActionMask,
    ActionSpec,
    BackupRolloutShield,
    Bounds,
    CBFQPShield,
    CompositeShield,
    ConstraintMonitor,
    CriticShield,
    DiffusionProjector,
    MPSCShield,
    RateLimit,
    Shield,
    ShieldContext,
    SimplexSwitch,
    TabularProbShield,
    TabularStepShield,
)
from saferl.shields.barriers import BrakingBarrier, LinearDynamics
from saferl.shields.cbf_qp import Condition
from saferl.shields.critic import CriticConfig
from saferl.shields.diffusion_projector import DDPM
from saferl.shields.monitor import Signal
from saferl.shields.mpsc import LinearModel
from saferl.shields.networks import Network
from saferl.shields.safety_layer import fit_safety_layer
from saferl.shields.temporal import Always, AtMost
from saferl.shields.trajectory_projector import ProjectorSettings
from saferl.shields.twins import AtRest, Brake, DoubleIntegratorTwin, brake_actions

FOLDER = Path(__file__).parent
DT = 0.1
BLUE, RUST, GREEN, GREY = "#1f5fa8", "#b3541e", "#1b7f4d", "#777777"
ONE = ActionSpec.box([-1.0], [1.0])
Axes = Any


def figure(name: str, columns: int = 1, size: tuple[float, float] = (6.0, 3.2)) -> tuple[Any, Any, Path]:
    """A figure, its axes in a row, and where it goes."""
    path = FOLDER / f"{name}.svg"
    made = new_figure(path, size)
    return made, made.subplots(1, columns, squeeze=False)[0], path


def move(state: Any, action: float) -> Any:
    """The mass after one step."""
    x, v = state
    return np.array([x + v * DT + action * DT * DT / 2.0, v + action * DT])


def drive(shield: Shield, start: Sequence[float], policy: Callable[[int, Any], float], steps: int) -> tuple[Any, ...]:
    """States, proposals, executed actions and kinds of one run of the mass."""
    state, states, proposed, executed, kinds = np.array(start), [], [], [], []
    for step in range(steps):
        asked = policy(step, state)
        decision = shield.filter(state, [asked], ShieldContext(step=step))
        states.append(state)
        proposed.append(asked)
        executed.append(float(decision.action[0]))
        kinds.append(decision.kind)
        state = move(state, executed[-1])
    return np.array(states), np.array(proposed), np.array(executed), kinds


def actions(axes: Axes, proposed: Any, executed: Any) -> None:
    """Proposed and executed actions over time."""
    time = DT * np.arange(len(proposed))
    axes.step(time, proposed, where="post", color=GREY, linestyle="--", label="proposed")
    axes.step(time, executed, where="post", color=BLUE, label="executed")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("action")
    axes.legend(frameon=False, fontsize=9)


def phase(axes: Axes, shield: Shield, certified: bool = True) -> None:
    """Certified states and runs into the wall on the plane of position and speed."""
    if certified:
        x, v = np.meshgrid(np.linspace(-1.05, 1.05, 43), np.linspace(-1.6, 1.6, 43))
        safe = np.array([shield.certifies(np.array(s)) for s in np.column_stack([x.ravel(), v.ravel()])])
        axes.contourf(x, v, safe.reshape(x.shape).astype(float), levels=[0.5, 1.5], colors=[GREEN], alpha=0.15)
    for start in ([-0.9, 0.0], [0.0, 0.6], [-0.5, 1.0]):
        shield.reset()
        states, *_ = drive(shield, start, lambda step, state: 1.0, 60)
        axes.plot(states[:, 0], states[:, 1], color=BLUE, linewidth=1.2)
        axes.plot(*start, "o", color=BLUE, markersize=4)
    axes.axvline(1.0, color=RUST, linewidth=1.0)
    axes.axvline(-1.0, color=RUST, linewidth=1.0)
    axes.set_xlabel("position (m)")
    axes.set_ylabel("speed (m/s)")


def mass(name: str, shield: Shield, title: str) -> None:
    """Phase plane, and the actions of one run."""
    made, (left, right), path = figure(name, 2, (7.6, 3.2))
    phase(left, shield)
    left.set_title(title, fontsize=10)
    shield.reset()
    _, proposed, executed, _ = drive(shield, [-0.9, 0.0], lambda step, state: 1.0, 40)
    actions(right, proposed, executed)
    right.set_title("always full thrust to the right", fontsize=10)
    save_figure(made, path)


def wish(step: int, state: Any) -> float:
    """A restless operator."""
    return float(1.2 * np.sin(0.25 * step) * np.sign(np.sin(0.7 * step) + 0.3))


def action_mask() -> None:
    """A robot on a line of cells whose ends have no floor behind them."""
    table = [[False, True, True], *[[True, True, True]] * 5, [True, True, False]]
    shield = ActionMask(ActionSpec.discrete(3), table=table)
    executed = np.array([[int(shield.filter(cell, asked).action) for asked in range(3)] for cell in range(7)])
    made, (axes,), path = figure("action_mask", size=(6.0, 2.4))
    for cell in range(7):
        for asked, word in enumerate(("left", "stay", "right")):
            allowed = executed[cell, asked] == asked
            axes.text(cell, asked, word, ha="center", va="center", fontsize=9, color=GREEN if allowed else RUST)
            if not allowed:
                axes.annotate("", (cell, executed[cell, asked]), (cell, asked), arrowprops={"arrowstyle": "->"})
    axes.set_xlim(-0.6, 6.6)
    axes.set_ylim(-0.6, 2.6)
    axes.set_xticks(range(7), [f"cell {i}" for i in range(7)], fontsize=8)
    axes.set_yticks(range(3), ["asked: left", "asked: stay", "asked: right"], fontsize=8)
    axes.set_title("green passes; what is masked becomes the first allowed action", fontsize=10)
    save_figure(made, path)


def bounds() -> None:
    """Clipping."""
    made, (axes,), path = figure("bounds")
    _, proposed, executed, _ = drive(Bounds(ONE, low=-0.5, high=0.8), [0.0, 0.0], wish, 60)
    actions(axes, proposed, executed)
    axes.axhline(0.8, color=RUST, linewidth=0.8)
    axes.axhline(-0.5, color=RUST, linewidth=0.8)
    save_figure(made, path)


def rate_limit() -> None:
    """Slopes."""
    made, (axes,), path = figure("rate_limit")
    _, proposed, executed, _ = drive(RateLimit(ONE, rise=0.15, fall=0.3, initial=[0.0]), [0.0, 0.0], wish, 60)
    actions(axes, np.clip(proposed, -1.0, 1.0), executed)
    axes.set_title("rises by 0.15 and falls by 0.3 per step at most", fontsize=10)
    save_figure(made, path)


def cbf_qp() -> None:
    """Two braking barriers."""
    cart = LinearDynamics(np.array([[1.0, DT], [0.0, 1.0]]), np.array([[DT * DT / 2], [DT]]))
    walls = [Condition(BrakingBarrier(0, 1, limit=1.0, deceleration=1.0, sign=side, reaction=DT)) for side in (1, -1)]
    shield = CBFQPShield(ONE, cart, walls, time="discrete", disturbance=[0.0, 0.0])
    mass("cbf_qp", shield, "green: both barriers >= 0")


def backup_rollout() -> None:
    """Braking as the backup."""
    shield = BackupRolloutShield(brake_actions(), DoubleIntegratorTwin(), Brake(), terminal=AtRest(), horizon=50)
    mass("backup_rollout", shield, "green: braking now stays inside")


def mpsc() -> None:
    """A plan with tightened limits."""
    model = LinearModel.with_box(
        [[1.0, DT], [0.0, 1.0]], [[DT * DT / 2.0], [DT]], w_max=[1e-3, 5e-3], low=[-1.0, -2.0], high=[1.0, 2.0]
    )
    mass("mpsc", MPSCShield(ONE, model), "green: a safe plan exists for every disturbance")


def to_the_middle(state: Any) -> list[float]:
    """A verified controller: back to the middle."""
    return [float(np.clip(-2.0 * state[0] - 3.0 * state[1], -1.0, 1.0))]


def room(state: Any) -> float:
    """Distance left after braking."""
    x, v = state
    return float(1.0 - max(abs(x), abs(x + np.sign(v) * (v * v / 2.0 + abs(v) * DT))))


def simplex() -> None:
    """Switching with hysteresis."""

    def model(state: Any, action: Any) -> Any:
        return move(state, float(action[0]))

    shield = SimplexSwitch(ONE, to_the_middle, room, model=model, leave=0.3)
    states, _, _, kinds = drive(shield, [-0.6, 0.0], lambda step, state: 1.0, 120)
    made, (axes,), path = figure("simplex")
    time, margins = DT * np.arange(len(states)), [room(state) for state in states]
    axes.plot(time, margins, color=BLUE, label="barrier")
    switched = [kind != "pass" for kind in kinds]
    axes.fill_between(time, 0, 1, where=switched, step="post", color=RUST, alpha=0.15, label="baseline drives")
    axes.axhline(0.3, color=GREY, linestyle=":", label="hands back above")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("room to stop (m)")
    axes.legend(frameon=False, fontsize=9)
    save_figure(made, path)


def monitor() -> None:
    """A warning before the violation."""
    watch = ConstraintMonitor(
        ONE, {"speed": Signal("obs[0]", max_change=0.1)}, {"slow": Always(AtMost("speed", 1.0))}, lookahead=3
    )
    speeds = 0.55 + 0.55 * np.sin(0.12 * np.arange(60))
    words = [watch.filter(np.array([speed]), [0.0]).status for speed in speeds]
    time = DT * np.arange(len(speeds))
    made, (axes,), path = figure("monitor")
    axes.plot(time, speeds, color=BLUE, label="speed")
    axes.axhline(1.0, color=RUST, label="limit")
    warned = ["warning" in word for word in words]
    axes.fill_between(time, 0, 1.15, where=warned, step="post", color=GREY, alpha=0.2, label="warning")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("m/s")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(made, path)


def composite() -> None:
    """Two units in a row."""
    shield = CompositeShield({"rate": RateLimit(ONE, rise=0.2, initial=[0.0]), "limits": Bounds(ONE, high=0.6)})
    made, (axes,), path = figure("composite")
    _, proposed, executed, _ = drive(shield, [0.0, 0.0], wish, 60)
    actions(axes, np.clip(proposed, -1.0, 1.0), executed)
    axes.axhline(0.6, color=RUST, linewidth=0.8)
    axes.set_title("a rate limit, then a bound that never gives way", fontsize=10)
    save_figure(made, path)


def tabular_prob() -> None:
    """How often an agent that always risks fails, for several p."""
    stay, risky = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.0, 1.0]]
    transitions, generator, episodes = np.stack([stay, risky], axis=1), np.random.default_rng(0), 2000
    levels, found = (0.1, 0.2, 0.3, 0.4, 0.5), []
    for p in levels:
        shield = TabularProbShield(ActionSpec.discrete(2), transitions, [0, 1], p=p)
        unsafe = 0
        for _ in range(episodes):
            shield.reset()
            state = 0
            for step in range(12):
                action = int(shield.filter(state, 1, ShieldContext(step=step, generator=generator)).action)
                state = int(generator.random() < transitions[state, action, 1]) if state == 0 else 1
            unsafe += state
        found.append(unsafe / episodes)
    made, (axes,), path = figure("tabular_prob", size=(4.6, 3.2))
    axes.plot([0, 0.55], [0, 0.55], color=RUST, linewidth=1.0, label="p")
    axes.errorbar(
        levels, found, [2 * np.sqrt(f * (1 - f) / episodes) for f in found], fmt="o", color=BLUE, label="measured"
    )
    axes.axhline(1 - 0.9**12, color=GREY, linestyle="--", label="no shield")
    axes.set_xlabel("p that was asked for")
    axes.set_ylabel("unsafe episodes")
    axes.legend(frameon=False, fontsize=9)
    save_figure(made, path)


def tabular_step() -> None:
    """How often an agent that always risks fails in episodes of several lengths, for one allowance per step."""
    stay, risky = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.0, 1.0]]
    transitions, generator, episodes = np.stack([stay, risky], axis=1), np.random.default_rng(0), 2000
    shield = TabularStepShield(ActionSpec.discrete(2), transitions, [0, 1], delta=0.15, rule="threshold")
    steps, first = 20, []
    for _ in range(episodes):
        shield.reset()
        state, step = 0, 0
        while state == 0 and step < steps:
            action = int(shield.filter(state, 1, ShieldContext(step=step, generator=generator)).action)
            state = int(generator.random() < transitions[state, action, 1])
            step += 1
        first.append(step if state else np.inf)
    made, (axes,), path = figure("tabular_step", size=(4.6, 3.2))
    length = np.arange(1, steps + 1)
    axes.plot(length, [np.mean(np.array(first) <= n) for n in length], "o", color=BLUE, markersize=3, label="measured")
    axes.plot(length, 1 - 0.9**length, color=GREY, label="1 - 0.9^n")
    axes.axhline(0.15, color=RUST, linewidth=1.0, label="allowance of a step")
    axes.set_xlabel("steps of an episode")
    axes.set_ylabel("unsafe episodes")
    axes.legend(frameon=False, fontsize=9)
    save_figure(made, path)


def safety_layer() -> None:
    """The learned half-space."""
    generator = np.random.default_rng(0)
    obs, drawn = generator.uniform(-1, 1, (4000, 1)), generator.uniform(-1, 1, (4000, 1))
    layer = fit_safety_layer(obs, drawn, obs + 0.5 * drawn, action_space=ONE, limits=[0.8])
    states = np.linspace(-1, 1, 101)
    executed = [float(layer.filter([state], [1.0]).action[0]) for state in states]
    made, (axes,), path = figure("safety_layer", size=(4.6, 3.2))
    axes.plot(states, np.ones(101), color=GREY, linestyle="--", label="proposed")
    axes.plot(states, executed, color=BLUE, label="executed, learned model")
    axes.plot(states, np.clip((0.8 - states) / 0.5, -1, 1), color=GREEN, linestyle=":", label="exact limit")
    axes.set_xlabel("state")
    axes.set_ylabel("action")
    axes.legend(frameon=False, fontsize=9)
    save_figure(made, path)


def critic() -> None:
    """Projection along the gradient of a critic."""
    space = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
    generator = np.random.default_rng(3)
    risk = Network(
        [generator.normal(size=(16, 4)), generator.normal(size=(1, 16)) / 4.0], [generator.normal(size=16), np.zeros(1)]
    )
    state = np.array([0.3, -0.2])
    a, b = np.meshgrid(np.linspace(-1, 1, 81), np.linspace(-1, 1, 81))
    points = np.column_stack([a.ravel(), b.ravel()])
    values = risk(np.hstack([np.tile(state, (len(points), 1)), points]))[:, 0].reshape(a.shape)
    threshold = float(np.median(values))
    shield = CriticShield(space, [risk], CriticConfig(mode="project", eps=threshold))
    made, (axes,), path = figure("critic", size=(4.6, 3.6))
    axes.contourf(a, b, values, levels=[-1e9, threshold, 1e9], colors=[GREEN, RUST], alpha=0.15)
    for proposed in generator.uniform(-1, 1, (14, 2)):
        executed = shield.filter(state, proposed).action
        axes.annotate("", executed, proposed, arrowprops={"arrowstyle": "->", "color": BLUE})
        axes.plot(*proposed, "o", color=BLUE, markersize=3)
    axes.set_xlabel("first action")
    axes.set_ylabel("second action")
    axes.set_title("green: the critic is below its threshold", fontsize=10)
    save_figure(made, path)


def diffusion_projector() -> None:
    """Plans of a diffusion policy around an obstacle."""
    obstacle, goal, horizon, spread, steps = (0.8, 0.05, 0.25), np.array([1.6, 0.0]), 8, 0.2, 20
    low, high = np.array([-2.0, -2.0, -1.0, -1.0]), np.array([2.0, 2.0, 1.0, 1.0])

    def noise(trajectories: Any, k: int, obs: Any) -> Any:
        # The exact noise model of plans that are normal around the straight way to the goal.
        way = goal - obs
        length = np.linalg.norm(way)
        gone = np.minimum(DT * np.arange(horizon), length)[:, None] * way / max(float(length), 1e-9)
        push = np.where((DT * np.arange(horizon) < length)[:, None], way / max(float(length), 1e-9), 0.0)
        mean = np.hstack([np.asarray(obs) + gone, push]) / ((high - low) / 2.0)
        kept = DDPM(noise, steps).kept[k]
        change = trajectories - np.sqrt(kept) * mean
        return np.sqrt(1.0 - kept) * change / (kept * spread**2 + 1.0 - kept)

    space = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
    rules = ProjectorSettings(
        a=np.eye(2), b=DT * np.eye(2), low=[-1.0, -1.0], high=[1.0, 1.0], horizon=horizon, obstacles=[obstacle],
        tightening=0.025,
    )  # fmt: skip
    free = ProjectorSettings(a=np.eye(2), b=DT * np.eye(2), low=[-1.0, -1.0], high=[1.0, 1.0], horizon=horizon)
    made, (axes,), path = figure("diffusion_projector", size=(6.0, 3.0))
    angle = np.linspace(0, 2 * np.pi, 60)
    x, y, radius = obstacle
    axes.fill(x + radius * np.cos(angle), y + radius * np.sin(angle), color=RUST, alpha=0.3)
    for settings, colour, label in ((free, GREY, "plans as drawn"), (rules, BLUE, "plans projected")):
        shield = DiffusionProjector(space, DDPM(noise, steps), settings, steps=steps, low=low, high=high)
        for seed in range(3):
            generator, state, way = np.random.default_rng(seed), np.zeros(2), []
            shield.reset()
            for step in range(30):
                way.append(state)
                context = ShieldContext(step=step, generator=generator)
                state = state + DT * shield.filter(state, [0.0, 0.0], context).action
            axes.plot(*np.array(way).T, color=colour, linewidth=1.0, label=label if seed == 0 else None)
    axes.plot(*goal, "*", color=GREEN, markersize=12)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    save_figure(made, path)


def hazard_brake() -> None:
    """Two ways through SafetyPointGoal1 of a driver that sees no hazard: as proposed and as the shield lets it."""
    import saferl
    from saferl.shields.hazard_brake import HazardBrake

    env: Any = saferl.make("SafetyPointGoal1-v0")
    shield, stops = HazardBrake.for_env(env), np.array([1.4 + 1.2j, -1.4 - 0.2j, 1.4 - 0.8j])

    def towards(target: complex, state: Any) -> Any:
        way = (target - complex(*state["position"])) * np.exp(-1j * state["heading"])
        turn = float(np.clip(3.0 * np.angle(way), -1.0, 1.0))
        return np.array([1.0 if abs(np.angle(way)) < 1.0 else 0.0, turn]) * shield.model.saturation

    made, (axes,), path = figure("hazard_brake", size=(5.4, 4.6))
    for is_shielded, colour, label in ((False, GREY, "as proposed"), (True, BLUE, "with the shield")):
        obs, _ = env.reset(seed=1)
        shield.reset()
        way, cost, reached = [], 0.0, 0
        for step in range(1000):
            state = env.get_wrapper_attr("privileged_state")()
            way.append(state["position"])
            reached += abs(stops[reached] - complex(*state["position"])) < 0.3
            if reached == len(stops):
                break
            action = towards(stops[reached], state)
            if is_shielded:
                action = shield.filter(obs, action, ShieldContext(step=step, privileged=state)).action
            obs, _, _, _, info = env.step(np.asarray(action, dtype=np.float32))
            cost += info["cost"]
        label = f"{label}: cost {cost:.0f}, {reached} of {len(stops)} stops in {len(way)} steps"
        axes.plot(*np.array(way).T, color=colour, linewidth=1.3, label=label)
    angle = np.linspace(0, 2 * np.pi, 60)
    for x, y in state["hazards"]:
        axes.fill(x + state["hazard_size"] * np.cos(angle), y + state["hazard_size"] * np.sin(angle), RUST, alpha=0.3)
    axes.plot(stops.real, stops.imag, "*", color=GREEN, markersize=11)
    axes.plot(*way[0], "o", color=BLUE, markersize=5)
    axes.set_aspect("equal")
    axes.set_xlabel("m")
    axes.set_ylabel("m")
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    save_figure(made, path)
    env.close()


def velocity_cap() -> None:
    """The speed of the next step, in the simulator, from fast states: as proposed and as executed."""
    import saferl
    from saferl.shields.velocity_cap import VelocityCap

    env: Any = saferl.make("SafetyHalfCheetahVelocity-v1")
    shield, generator, rows = VelocityCap.for_env(env), np.random.default_rng(0), []
    limit = env.get_wrapper_attr("task").threshold

    def speed(state: Any, action: Any) -> float:
        env.get_wrapper_attr("set_state")(state)
        return float(env.step(np.asarray(action, dtype=np.float32))[-1]["margins"]["cost"] + limit)

    for seed in range(150):
        env.reset(seed=seed)
        speeds = env.unwrapped.data.qvel.copy()
        speeds[0] = limit * generator.uniform(0.7, 1.3)
        env.unwrapped.set_state(env.unwrapped.data.qpos.copy(), speeds)
        for _ in range(generator.integers(1, 6)):
            obs, *_ = env.step(generator.uniform(-1.0, 1.0, 6).astype(np.float32))
        proposed, state = generator.uniform(-1.0, 1.0, 6), env.get_wrapper_attr("get_state")()
        rows.append([speed(state, proposed), speed(state, shield.filter(obs, proposed).action)])
    before, after = np.array(rows).T
    made, (axes,), path = figure("velocity_cap", size=(4.8, 3.8))
    axes.plot([0.5, 4.5], [0.5, 4.5], color=GREY, linewidth=0.8, label="unchanged")
    axes.axhline(limit, color=RUST, linewidth=1.0, label="limit")
    axes.axhline(shield.limits[0], color=RUST, linewidth=1.0, linestyle=":", label="limit less margin")
    axes.plot(before, after, "o", color=BLUE, markersize=3, label="150 fast states")
    axes.set_xlabel("speed of the next step as proposed (m/s)")
    axes.set_ylabel("as executed (m/s)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(made, path)
    env.close()


def scu_microgrid() -> None:
    """A day in which the agent asks for no genset and an empty battery, all the time."""
    from saferl.envs.microgrid.baselines import baseline
    from saferl.envs.microgrid.env import Microgrid
    from saferl.shields.scu import MicrogridShield

    env = Microgrid(start="evaluation", soc=0.2)
    shield, lazy = MicrogridShield.for_env(env), baseline("lazy")
    obs, _ = env.reset(seed=0)
    demand, wind, charge, deficit = [], [], [], 0.0
    for minute in range(env.time_limit):
        obs, _, _, _, info = env.step(shield.filter(obs, lazy.predict(obs)[0]).action)
        demand.append(env.day.demand[minute + 1])
        wind.append(env.day.wind[minute + 1])
        charge.append(info["soc"])
        deficit += info["costs"]["deficit"]
    demand, wind, charge = (series[::5] for series in (demand, wind, charge))
    hours = np.arange(len(demand)) / 12.0
    made = new_figure(FOLDER / "scu_microgrid.svg", (6.4, 3.8))
    top, bottom = made.subplots(2, 1, sharex=True)
    top.plot(hours, demand, color=BLUE, linewidth=0.8, label="demand")
    top.plot(hours, wind, color=GREEN, linewidth=0.8, label="wind available")
    top.set_ylabel("kW")
    top.legend(frameon=False, fontsize=8, ncols=2)
    top.set_title(f"an agent that asks for nothing but discharge: {deficit:.0f} minutes of deficit", fontsize=10)
    bottom.plot(hours, charge, color=BLUE, linewidth=0.8)
    bottom.axhline(0.1, color=RUST, linewidth=0.8)
    bottom.axhline(0.9, color=RUST, linewidth=0.8)
    bottom.set_ylabel("charge")
    bottom.set_xlabel("hours since 07:00")
    save_figure(made, FOLDER / "scu_microgrid.svg")


PICTURES: dict[str, Callable[[], None]] = {
    draw.__name__: draw
    for draw in (
        action_mask, bounds, rate_limit, cbf_qp, backup_rollout, mpsc, simplex, monitor, composite, tabular_prob,
        tabular_step, safety_layer, critic, diffusion_projector, hazard_brake, velocity_cap,
        scu_microgrid,
    )
}  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
