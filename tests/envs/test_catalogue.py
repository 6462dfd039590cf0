"""What the catalogue says of an environment is what the environment does."""

import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from saferl.envs.catalogue import CONTROL_SPECS, SIMULATED_SPECS, SPECS, TABULAR_SPECS
from saferl.envs.velocity import TASKS
from saferl.registry import load_object

BY_ID = {spec.id: spec for spec in SPECS}
NAVIGATION = [spec for spec in SIMULATED_SPECS if "safety-gymnasium" in spec.requires]
FIXED_NAVIGATION = ["SafetyPointGoal1-v0", "SafetyCarCircle1-v0", "SafetyDoggoRun0-v0", "SafetyRacecarPush0-v0"]
VELOCITY = [spec for spec in SIMULATED_SPECS if spec not in NAVIGATION]


needs_dm_control = pytest.mark.skipif(find_spec("dm_control") is None, reason="dm_control is not installed")


def each(specs):
    params = [pytest.param(spec, marks=needs_dm_control if spec in CONTROL_SPECS else ()) for spec in specs]
    return pytest.mark.parametrize("spec", params, ids=lambda spec: spec.id)


def build(spec, **kwargs):
    return load_object(spec.factory)(**spec.kwargs, **kwargs)


def test_the_catalogue_can_be_read_without_gymnasium_mujoco_or_torch():
    code = (
        "import sys\n"
        "for name in ('gymnasium', 'mujoco', 'torch', 'safety_gymnasium'): sys.modules[name] = None\n"
        "from saferl.envs.catalogue import SPECS\n"
        "print(*[spec.id for spec in SPECS])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == list(BY_ID)


def test_ids_are_those_of_the_benchmark():
    assert len(BY_ID) == len(SPECS)
    assert set(BY_ID) >= {"SafetyPointGoal1-v0", "SafetyPointCircle1-v0", *(f"Safety{t}Velocity-v1" for t in TASKS)}


@each(SIMULATED_SPECS)
def test_the_default_constraint_is_the_published_one(spec):
    (constraint,) = spec.select()
    assert (constraint.name, constraint.budget, constraint.kind) == ("cost", 25.0, "episode_sum")


@each(SPECS)
def test_the_env_reports_exactly_the_declared_costs_at_every_step(spec):
    env = build(spec)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(30):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert tuple(info["costs"]) == spec.constraints.names
        assert info["cost"] == info["costs"].get("cost", sum(info["costs"].values()))
        assert all(type(cost) is float for cost in info["costs"].values())
        assert all(0.0 <= info["costs"][c.name] <= c.max_step_cost for c in spec.constraints)
        if terminated or truncated:
            env.reset()


@each(TABULAR_SPECS)
def test_a_tabular_env_is_its_instance(spec):
    """Every cost is constrained, in the instance's own units, at its own budget; the time limit is the env's own."""
    env = build(spec)
    assert spec.select() == spec.constraints
    assert spec.constraints.names == env.constraints.names
    assert spec.constraints.budgets == pytest.approx(env.constraints.budgets, abs=1e-9)
    for declared, own in zip(spec.constraints, env.constraints, strict=True):
        units = ("episode_sum", 1.0) if env.cmdp.gamma is None else ("discounted", env.cmdp.gamma)
        assert (declared.kind, declared.gamma) == (own.kind, own.gamma) == units
        assert declared.max_step_cost >= own.max_step_cost
    assert spec.horizon == env.time_limit


@each(NAVIGATION)
def test_a_navigation_task_has_the_horizon_of_the_package(spec):
    assert build(spec).unwrapped._builder.task.num_steps == spec.horizon


TRUNCATED = [s for s in TABULAR_SPECS if s.horizon is not None]
"""Finite CMDPs that go on for ever."""


@each([s for s in VELOCITY if s.is_fixed_horizon] + [BY_ID[i] for i in FIXED_NAVIGATION] + [*TRUNCATED, *CONTROL_SPECS])
def test_an_env_of_fixed_horizon_ends_at_its_horizon_by_truncation(spec):
    assert spec.is_fixed_horizon
    env = build(spec)
    env.action_space.seed(1)
    env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(spec.horizon)]
    assert ends == [(False, False)] * (spec.horizon - 1) + [(False, True)]


@each([BY_ID[f"Safety{task}Velocity-v1"] for task in ("Hopper", "Walker2d", "Humanoid")])
def test_an_env_without_fixed_horizon_can_end_early(spec):
    assert not spec.is_fixed_horizon
    env = build(spec)
    env.action_space.seed(0)
    env.reset(seed=0)
    assert any(env.step(env.action_space.sample())[2] for _ in range(spec.horizon))


@each(VELOCITY)
def test_the_summary_names_the_limit(spec):
    assert float(re.search(r"exceeds ([\d.]+) m/s", spec.summary)[1]) == TASKS[spec.kwargs["task"]].threshold


@each(TABULAR_SPECS)
def test_states_and_actions_are_numbers_in_their_spaces(spec):
    env = build(spec, max_episode_steps=5)
    env.action_space.seed(0)
    assert type(env.reset(seed=0)[0]) is int
    for _ in range(5):
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])


@each(SIMULATED_SPECS)
def test_observations_and_actions_fit_their_spaces(spec):
    env = build(spec, max_episode_steps=5)
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    assert np.isfinite(env.action_space.low).all()
    assert np.isfinite(env.action_space.high).all()
    for _ in range(5):
        assert env.observation_space.contains(obs)
        assert obs.dtype == env.observation_space.dtype == np.float64
        obs = env.step(env.action_space.sample())[0]
