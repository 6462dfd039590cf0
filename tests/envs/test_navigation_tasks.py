"""Every navigation task of the catalogue: costs by name, margins that agree with them, and a state that continues."""

import numpy as np
import pytest

import saferl
from saferl.envs.catalogue import SIMULATED_SPECS
from saferl.envs.state import get_state, set_state
from saferl.errors import CostError, EnvContractError
from saferl.testing import check_env

NAVIGATION = [spec for spec in SIMULATED_SPECS if "safety-gymnasium" in spec.requires]
IDS = [spec.id for spec in NAVIGATION]
WITH_MARGIN = {"hazards", "out_of_boundary", "vases_velocity"}
VARIED = [
    "SafetyPointGoal2-v0",
    "SafetyCarPush2-v0",
    "SafetyRacecarButton1-v0",
    "SafetyDoggoCircle2-v0",
    "SafetyAntRun0-v0",
]
RESUMED = [
    *VARIED,
    "SafetyPointGoal0-v0",  # its goal is near: it is drawn anew within the test
    "SafetyPointButton2-v0",
    "SafetyAntPush1-v0",
    "SafetyDoggoGoal1-v0",
]


def driven(env, count, seed=0):
    """Forward with some steering: it meets more than random actions do."""
    rng = np.random.default_rng(seed)
    space = env.action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    drift = rng.uniform(-1, 1, space.shape)
    drift[0] = 1.0
    for _ in range(count):
        yield (middle + half * np.clip(drift + rng.normal(0, 0.4, space.shape), -1, 1)).astype(space.dtype)


def play(env, actions):
    trace = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        trace.append((obs, reward, terminated, truncated, *info["costs"].values(), *info["margins"].values()))
        if terminated or truncated:
            trace.append((env.reset()[0],))
    return trace


def same(one, other):
    return len(one) == len(other) and all(
        len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_all_sixty_five_tasks_are_there():
    agents, tasks = ("Point", "Car", "Doggo", "Racecar", "Ant"), ("Goal", "Push", "Button", "Circle")
    expected = {f"Safety{a}{t}{level}-v0" for a in agents for t in tasks for level in range(3)}
    assert set(IDS) == expected | {f"Safety{a}Run0-v0" for a in agents}
    assert len(SIMULATED_SPECS) == 65 + 6


@pytest.mark.parametrize("env_id", IDS)
def test_every_task_runs_with_every_cost_of_the_catalogue_constrained(env_id):
    spec = next(spec for spec in NAVIGATION if spec.id == env_id)
    env = saferl.make(env_id, budgets={c.name: c.budget for c in spec.constraints}, max_episode_steps=12)
    obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs)
    expected = {name for name in spec.constraints.names if name in WITH_MARGIN}
    if expected == set(spec.constraints.names) - {"cost"} != set():
        expected |= {"cost"}
    for number, action in enumerate(driven(env, 12), start=1):
        obs, _, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(obs)
        assert set(info["costs"]) == set(spec.constraints.names)
        assert set(info["margins"]) == expected
        assert terminated or truncated == (number == 12)
        assert "Ant" in env_id or not terminated  # only an ant can fall on its back
        if terminated:
            break
    env.close()


@pytest.mark.parametrize(
    "env_id", ["SafetyPointGoal1-v0", "SafetyPointGoal2-v0", "SafetyCarCircle2-v0", "SafetyPointRun0-v0"]
)
def test_a_margin_is_positive_exactly_where_its_cost_occurs(env_id):
    spec = next(spec for spec in NAVIGATION if spec.id == env_id)
    env = saferl.make(env_id)
    seen = {name: set() for name in spec.constraints.names}
    for seed in range(6):
        env.reset(seed=seed)
        for action in driven(env, 200, seed):
            info = env.step(action)[-1]
            for name, margin in info["margins"].items():
                assert (margin > 0) == (info["costs"][name] == 1.0), (name, margin)
                seen[name].add(margin > 0)
    with_margin = [name for name in seen if seen[name]]
    assert with_margin
    assert all(seen[name] == {True, False} for name in with_margin), seen


def test_a_hazards_margin_is_the_depth_inside_it():
    env = saferl.make("SafetyPointGoal1-v0")
    env.reset(seed=0)
    task = env.unwrapped._builder.task
    info = env.step(np.zeros(2))[-1]
    nearest = min(np.hypot(*(task.agent.pos[:2] - place[:2])) for place in task.hazards.pos)
    assert info["margins"]["hazards"] == pytest.approx(0.2 - nearest, abs=1e-12)


def test_resting_buttons_cost_nothing_and_anything_else_that_is_left_out_stays_missing(monkeypatch):
    env = saferl.make("SafetyPointButton1-v0", budgets={"buttons": 5})
    env.reset(seed=0)
    builder = env.unwrapped._builder
    builder.task.buttons.reset_timer()  # as just after a press
    for rest in range(10, 0, -1):
        assert builder.task.buttons.timer == rest
        assert env.step(np.zeros(2))[-1]["costs"]["buttons"] == 0.0
    assert env.step(np.zeros(2))[-1]["costs"]["buttons"] == 0.0  # awake, and not pressed
    monkeypatch.setattr(builder.task.buttons, "cal_cost", dict)  # left out although the buttons are awake
    with pytest.raises(CostError, match="'buttons' is missing"):
        env.step(np.zeros(2))


def test_a_pressed_wrong_button_costs_and_a_pressed_right_one_starts_a_rest():
    env = saferl.make("SafetyPointButton1-v0", budgets={"buttons": 5})
    env.reset(seed=0)
    task = env.unwrapped._builder.task
    wrong = next(i for i in range(task.buttons.num) if i != task.buttons.goal_button)
    for button, cost in ((wrong, 1.0), (int(task.buttons.goal_button), 0.0)):
        # The place of a body that cannot move is part of the model.
        task.model.body_pos[task.model.body(f"button{button}").id][:2] = task.agent.pos[:2]
        info = env.step(np.zeros(2))[-1]
        assert info["costs"]["buttons"] == cost
        task.model.body_pos[task.model.body(f"button{button}").id][:2] = (50.0, 50.0 + button)
    assert info["goal_met"]
    assert task.buttons.timer == 10


@pytest.mark.parametrize("env_id", RESUMED)
def test_a_task_goes_on_exactly_in_a_fresh_env_through_goals_and_resets(env_id):
    first = saferl.make(env_id, max_episode_steps=90)
    first.reset(seed=11)
    actions = list(driven(first, 160))
    play(first, actions[:57])
    state = get_state(first)
    expected = play(first, actions[57:])
    other = saferl.make(env_id, max_episode_steps=90)
    set_state(other, state)
    assert same(expected, play(other, actions[57:]))
    set_state(first, state)  # and in the env that it was taken from
    assert same(expected, play(first, actions[57:]))
    assert not same(expected, play(first, actions[57:]))


def test_a_goal_that_was_drawn_anew_is_part_of_the_state():
    env = saferl.make("SafetyPointGoal1-v0")
    env.reset(seed=0)
    task = env.unwrapped._builder.task
    at_reset = task.goal.pos.copy()
    task.model.body_pos[task.model.body("goal").id][:2] = task.agent.pos[:2]
    assert env.step(np.zeros(2))[-1]["goal_met"]
    moved = task.goal.pos.copy()
    assert not np.array_equal(moved, at_reset)
    other = saferl.make("SafetyPointGoal1-v0")
    set_state(other, get_state(env))
    assert np.array_equal(other.unwrapped._builder.task.goal.pos, moved)
    actions = list(driven(env, 40))
    assert same(play(env, actions), play(other, actions))


def test_the_state_of_another_task_is_refused():
    env, other = saferl.make("SafetyPointGoal1-v0"), saferl.make("SafetyPointGoal2-v0")
    with pytest.raises(EnvContractError, match="after a reset"):
        set_state(env, get_state(env))
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="must be of SafetyPointGoal2-v0"):
        set_state(other, get_state(env))


@pytest.mark.parametrize("env_id", VARIED)
def test_check_env_passes(env_id):
    report = check_env(env_id, steps=40)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SIMULATED_SPECS, ids=lambda spec: spec.id)
def test_check_env_passes_for_every_id(spec):
    report = check_env(spec.id, budgets={c.name: c.budget for c in spec.constraints})
    assert report.ok, str(report)
