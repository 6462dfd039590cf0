"""Control tasks are dm_control's, with the costs that are written down for them."""

import subprocess
import sys

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import saferl
from saferl.envs import control
from saferl.envs.catalogue import CONTROL_SPECS
from saferl.envs.control import ControlEnv, make_control
from saferl.envs.control_tasks import CONTROL_TASKS, BindingLimit
from saferl.envs.state import get_state, set_state
from saferl.errors import ConfigError, EnvContractError, MissingExtraError, UnknownNameError
from saferl.testing import check_env

suite = pytest.importorskip("dm_control.suite")
IDS = list(CONTROL_TASKS)


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_finds_nothing_wrong(env_id):
    report = check_env(env_id, steps=60)
    assert report.ok, str(report)
    assert not report.warnings, str(report)
    assert {"state", "vector-env"} <= set(report.checks)


def cost_of(domain, physics):
    """The costs anew, from other fields of the simulation, and the margin of an indicator."""
    if domain == "walker":
        height = physics.named.data.xpos["torso", "z"]
        return float(height > 0.8), height - 0.8
    if domain == "reacher":
        return min(1.0, max(abs(v) for v in physics.velocity()) / 5.0), None
    return min(1.0, sum(abs(f) for f in physics.data.actuator_force) / 12 / 200.0), None


@pytest.mark.parametrize("env_id", IDS)
def test_observations_rewards_and_costs_are_those_of_the_suite(env_id):
    """Beside dm_control itself with the same seed and actions."""
    task = CONTROL_TASKS[env_id]
    env = make_control(env_id, max_episode_steps=40)
    peer = suite.load(task.domain, task.task, task_kwargs={"random": 3})
    spec = peer.action_spec()
    obs, _ = env.reset(seed=3)
    expected = peer.reset()
    rng = np.random.default_rng(0)
    seen = set()
    for step in range(40):
        flat = [np.ravel(expected.observation[key]) for key in sorted(expected.observation)]
        assert sorted(np.concatenate(flat).astype(np.float32).tolist()) == sorted(obs.tolist())
        action = rng.uniform(-1.0, 1.0, env.action_space.shape)
        obs, reward, terminated, truncated, info = env.step(action)
        # The wrapper's own rounding, which contacts would amplify.
        expected = peer.step(env._env.action(action))
        cost, margin = cost_of(task.domain, peer.physics)
        assert reward == expected.reward
        assert info["cost"] == info["costs"]["cost"] == pytest.approx(cost, abs=1e-12)
        assert info.get("margins", {"cost": None})["cost"] == (margin if margin is None else pytest.approx(margin))
        assert (terminated, truncated) == (False, step == 39)
        assert obs.dtype == np.float32
        assert env.observation_space.contains(obs)
        seen.add(info["cost"])
    assert len(seen) > 1
    for bound, own in ((spec.minimum, env.action_space.low), (spec.maximum, env.action_space.high)):
        assert (np.abs(own) == 1.0).all()
        assert env._env.action(own) == pytest.approx(bound)


def test_the_target_of_the_reacher_belongs_to_the_state():
    env, other = (saferl.make("DMReacherVelocity-v0") for _ in range(2))
    env.reset(seed=1)
    other.reset(seed=2)
    env.step(env.action_space.low)
    set_state(other, get_state(env))
    for _ in range(3):
        np.testing.assert_array_equal(env.step(env.action_space.high)[0], other.step(env.action_space.high)[0])
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_a_step_needs_a_reset_and_a_finite_action():
    env = make_control("DMReacherVelocity-v0")
    with pytest.raises(ResetNeeded, match="call reset before step"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="reacher-easy: the simulation must stay finite"):
        env.step(np.full(2, np.nan))


def test_without_dm_control_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(control, "find_spec", lambda name: None if name == "shimmy" else object())
    with pytest.raises(MissingExtraError, match=r"A control task needs shimmy.*pip install 'saferl\[control\]'"):
        make_control("DMWalkerHeight-v0")


def test_the_catalogue_and_the_module_are_read_without_dm_control():
    code = (
        "import sys\n"
        "for name in ('dm_control', 'shimmy'): sys.modules[name] = None\n"
        "import saferl.envs.control\n"
        "from saferl.envs.catalogue import CONTROL_SPECS\n"
        "print(*[spec.id for spec in CONTROL_SPECS])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == IDS == [spec.id for spec in CONTROL_SPECS]


def test_bad_arguments_are_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown control task 'DMWalkerHight-v0'\. Did you mean"):
        make_control("DMWalkerHight-v0")
    with pytest.raises(ConfigError, match=r"render_mode must be None or 'rgb_array'.*got 'human'"):
        ControlEnv(CONTROL_TASKS["DMWalkerHeight-v0"], render_mode="human")


def test_a_budget_is_half_way_and_binds():
    assert BindingLimit(high=10.0, low=4.0, steps=1, high_return=3.0).limit == 7.0
    for spec, task in zip(CONTROL_SPECS, CONTROL_TASKS.values(), strict=True):
        (constraint,) = spec.select()
        assert constraint.budget == pytest.approx(task.budget.limit, abs=0.05)
        assert task.budget.low < constraint.budget < task.budget.high <= 1000.0
        assert (constraint.kind, constraint.max_step_cost, spec.horizon) == ("episode_sum", 1.0, 1000)
