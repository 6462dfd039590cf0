"""The batched backend gives what the single environments give, step by step, and goes on from their states."""

import itertools
import warnings
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

import saferl
from saferl.envs.catalogue import CONTROL_SPECS, MICROGRID_SPECS, SIMULATED_SPECS, SPECS
from saferl.envs.safety_gymnasium import compat
from saferl.envs.state import get_state, set_state
from saferl.errors import ConfigError, EnvContractError

ROUNDING = 1e-12
"""The batch adds and multiplies in another order than the package, one object after the other."""
BY_ID = {spec.id: spec for spec in SIMULATED_SPECS}
SAMPLE = [
    "SafetyHalfCheetahVelocity-v1",
    "SafetyHopperVelocity-v1",
    "SafetyAntVelocity-v1",
    "SafetyHumanoidVelocity-v1",
    "SafetyPointGoal1-v0",
    "SafetyPointPush2-v0",
    "SafetyCarGoal2-v0",
    "SafetyCarCircle2-v0",
    "SafetyDoggoButton1-v0",
    "SafetyRacecarCircle1-v0",
    "SafetyAntPush1-v0",
    "SafetyAntRun0-v0",
]


def both(env_id, num_envs=2, **kwargs):
    """The reference and the batched version, with every cost as a constraint."""
    budgets = {constraint.name: 25.0 for constraint in BY_ID[env_id].constraints}
    return [
        saferl.make_vec(env_id, num_envs, backend=backend, budgets=budgets, **kwargs) for backend in ("sync", "batched")
    ]


def random_actions(env, steps, seed=0, held=15):
    """Actions that stay the same for some steps, so that the agents get somewhere; some at the limits."""
    rng = np.random.default_rng(seed)
    low, high = env.single_action_space.low.astype(np.float64), env.single_action_space.high.astype(np.float64)
    for step in range(steps):
        if step % held == 0:
            actions = (low + high) / 2 + (high - low) / 2 * np.clip(rng.normal(size=(env.num_envs, len(low))), -1, 1)
        yield np.clip(actions, low, high).astype(env.single_action_space.dtype)


def assert_equal_steps(expected, actual):
    """Two results of ``step``."""
    for one, other in zip(expected[:2], actual[:2], strict=True):
        np.testing.assert_allclose(other, one, rtol=0.0, atol=ROUNDING)
    for one, other in zip(expected[2:4], actual[2:4], strict=True):
        np.testing.assert_array_equal(other, one)
    for key in ("costs", "cost"):
        np.testing.assert_array_equal(actual[4][key], expected[4][key])
    np.testing.assert_allclose(actual[4]["margins"], expected[4]["margins"], rtol=0.0, atol=ROUNDING)
    assert ("final_obs" in actual[4]) == ("final_obs" in expected[4])
    if "final_obs" in expected[4]:
        ended = expected[4]["_final_obs"]
        np.testing.assert_array_equal(actual[4]["_final_obs"], ended)
        np.testing.assert_allclose(
            actual[4]["final_obs"][ended], expected[4]["final_obs"][ended], rtol=0.0, atol=ROUNDING
        )


def assert_equal_runs(reference, batched, actions):
    """Both from the same seed, and all steps; how much cost, how many ends, and how much reward there was."""
    np.testing.assert_allclose(batched.reset(seed=3)[0], reference.reset(seed=3)[0], rtol=0.0, atol=ROUNDING)
    costs, ends, arrivals = 0.0, 0, 0
    for action in actions:
        expected, actual = reference.step(action), batched.step(action)
        assert_equal_steps(expected, actual)
        costs += float(expected[4]["costs"].sum())
        ends += int((expected[2] | expected[3]).sum())
        arrivals += int((expected[1] > 0.5).sum())
    reference.close()
    batched.close()
    return costs, ends, arrivals


@pytest.mark.parametrize("env_id", SAMPLE)
def test_every_step_is_that_of_the_single_envs(env_id):
    reference, batched = both(env_id, max_episode_steps=60)
    _, ends, _ = assert_equal_runs(reference, batched, random_actions(reference, 150))
    assert ends >= 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("env_id", list(BY_ID))
def test_a_thousand_steps_are_those_of_the_single_envs(env_id):
    reference, batched = both(env_id)
    _, ends, _ = assert_equal_runs(reference, batched, random_actions(reference, 1010))
    assert ends >= 2


def drive(env):
    """Actions that drive every point of single envs to its goal."""
    actions = []
    for single in env.envs:
        task = single.unwrapped._builder.task
        ahead, aside, _ = (task.goal.pos - task.agent.pos) @ task.agent.mat
        turn = np.arctan2(aside, ahead)
        actions.append([1.0 if abs(turn) < 0.5 else 0.0, np.clip(2.0 * turn, -1.0, 1.0)])
    return np.array(actions)


@pytest.mark.parametrize("env_id", ["SafetyPointGoal2-v0", "SafetyPointButton2-v0"])
def test_goals_are_reached_and_drawn_anew_alike(env_id):
    reference, batched = both(env_id, max_episode_steps=400)

    def actions():
        for _ in range(450):
            yield drive(reference)

    costs, ends, arrivals = assert_equal_runs(reference, batched, actions())
    assert arrivals >= 4
    assert ends == 2
    assert costs > 0


def test_boxes_are_pushed_to_the_goal_alike(monkeypatch):
    """With a goal so large that a box pushed at random gets there."""
    goal = compat.load("assets.geoms.goal").Goal
    build = goal.__init__

    def large(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.size = 2.0

    monkeypatch.setattr(goal, "__init__", large)
    reference, batched = both("SafetyPointPush1-v0", max_episode_steps=200)
    _, _, arrivals = assert_equal_runs(reference, batched, random_actions(reference, 250))
    assert arrivals >= 2


def test_an_episode_whose_next_goal_finds_no_room_is_truncated_alike(monkeypatch):
    reference, batched = both("SafetyPointGoal0-v0", num_envs=1, max_episode_steps=400)
    reference.reset(seed=3)
    batched.reset(seed=3)
    monkeypatch.setattr(type(batched._driver._maker.sampler), "goal", lambda *args: None)
    generator = reference.envs[0].unwrapped._builder.task.random_generator
    monkeypatch.setattr(generator, "sample_goal_position", lambda: False)
    monkeypatch.setattr(reference.envs[0].unwrapped, "_build_layout", lambda seed: np.zeros(28))
    monkeypatch.setattr(batched._driver, "_begin", lambda row, seed: None)
    for _ in range(300):
        action = drive(reference)
        expected, actual = reference.step(action), batched.step(action)
        if expected[3].any():
            break
    assert (bool(actual[2][0]), bool(actual[3][0])) == (bool(expected[2][0]), bool(expected[3][0])) == (False, True)
    assert actual[1] == pytest.approx(expected[1], abs=ROUNDING)
    assert actual[1][0] > 0.5
    np.testing.assert_allclose(actual[4]["final_obs"], expected[4]["final_obs"], rtol=0.0, atol=ROUNDING)
    reference.close()
    batched.close()


@pytest.mark.parametrize("env_id", ["SafetyCarButton1-v0", "SafetyAntVelocity-v1"])
def test_results_do_not_depend_on_the_number_of_threads(env_id):
    traces = []
    for threads in (1, 2, 5):
        envs = saferl.make_vec(env_id, 5, backend="batched", num_workers=threads, max_episode_steps=20)
        trace = [envs.reset(seed=4)[0]]
        for action in random_actions(envs, 50):
            obs, rewards, *_, infos = envs.step(action)
            trace += [obs, rewards, infos["costs"]]
        envs.close()
        traces.append(trace)
    for other in traces[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(traces[0], other, strict=True))


def same(one, other):
    """Whether two states are equal, down to the last bit."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


def without_memory(state):
    """What is computed in another order, the distances that a task remembers and the margins; and all the rest."""
    contract, *wrappers, env = state["layers"]
    margins = dict(enumerate(contract["state"]["last_margins"]))
    rest = [{**contract["state"], "last_margins": None}, wrappers]
    world = env["state"].get("world")
    if world is None:
        return margins, [rest, env]
    return {**margins, **world["task"]}, [rest, {**env["state"], "world": {**world, "task": None}}]


@pytest.mark.parametrize(
    "env_id", ["SafetyPointButton1-v0", "SafetyCarGoal2-v0", "SafetyAntPush1-v0", "SafetyWalker2dVelocity-v1"]
)
def test_states_are_those_of_single_envs_and_go_both_ways(env_id):
    reference, batched = both(env_id, max_episode_steps=100)
    reference.reset(seed=5)
    batched.reset(seed=5)
    for action in random_actions(reference, 30):
        reference.step(action)
        batched.step(action)
    states = batched.get_states()
    for state, other in zip(states, reference.get_states(), strict=True):
        (memory, rest), (expected_memory, expected_rest) = without_memory(state), without_memory(other)
        assert memory == pytest.approx(expected_memory, abs=ROUNDING)
        assert same(rest, expected_rest)
    further = list(random_actions(reference, 100, seed=1))
    batched.set_states(states[::-1])  # another row, which goes on as the first would have
    reference.set_states(states)
    for action in further:
        actual, wanted = batched.step(action[::-1]), reference.step(action)
        np.testing.assert_allclose(actual[0][::-1], wanted[0], rtol=0.0, atol=ROUNDING)
        np.testing.assert_array_equal(actual[4]["costs"][::-1], wanted[4]["costs"])
    reference.close()
    batched.close()


def test_a_single_env_branches_from_a_row():
    budgets = {"cost": 25.0}
    batched = saferl.make_vec("SafetyPointGoal1-v0", 3, backend="batched", budgets=budgets)
    batched.reset(seed=1)
    actions = list(random_actions(batched, 40))
    for action in actions[:20]:
        batched.step(action)
    twin = saferl.make("SafetyPointGoal1-v0", budgets=budgets)
    set_state(twin, batched.get_states()[1])
    for action in actions[20:]:
        obs, reward, *_ = twin.step(action[1])
        expected = batched.step(action)
        np.testing.assert_allclose(obs, expected[0][1], rtol=0.0, atol=ROUNDING)
        assert reward == pytest.approx(expected[1][1], abs=ROUNDING)
    assert list(get_state(twin)) == list(batched.get_states()[1])
    batched.close()


def test_a_state_of_another_task_is_refused():
    goal, push = (saferl.make_vec(f"SafetyPoint{task}-v0", 1, backend="batched") for task in ("Goal1", "Push1"))
    goal.reset(seed=0)
    with pytest.raises(EnvContractError, match="must be of SafetyPointPush1-v0; got one of SafetyPointGoal1-v0"):
        push.set_states(goal.get_states())
    with pytest.raises(EnvContractError, match="after a reset; got one of before"):
        push.get_states()
    with pytest.raises(ConfigError, match="One state per environment is needed: 1; got 2"):
        goal.set_states(goal.get_states() * 2)
    goal.close()
    push.close()


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyHalfCheetahVelocity-v1"])
def test_a_simulation_that_diverges_is_reported_and_reset_and_the_others_go_on(env_id):
    kwargs = {"backend": "batched", "max_episode_steps": 50}
    envs, healthy = (saferl.make_vec(env_id, 3, **kwargs) for _ in range(2))
    envs.reset(seed=2)
    healthy.reset(seed=2)
    actions = list(random_actions(envs, 12))
    for action in actions[:5]:
        before = envs.step(action)[0]
        healthy.step(action)
    envs._driver.simulations.datas[1].qvel[0] = 1e12
    with pytest.warns(RuntimeWarning, match=f"{env_id}: the simulation of environment 1 diverged after 5 steps"):
        result = envs.step(actions[5])
    expected = healthy.step(actions[5])
    obs, rewards, terminated, truncated, infos = result
    assert (bool(terminated[1]), bool(truncated[1]), rewards[1]) == (False, True, 0.0)
    assert infos["costs"][1].tolist() == infos["margins"][1].tolist() == [1.0]
    np.testing.assert_array_equal(infos["final_obs"][1], before[1])
    assert infos["diverged"].tolist() == [False, True, False]
    assert np.isfinite(obs).all()
    for action in actions[6:]:
        np.testing.assert_array_equal(obs[[0, 2]], expected[0][[0, 2]])
        np.testing.assert_array_equal(rewards[[0, 2]], expected[1][[0, 2]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            obs, rewards, _, truncated, infos = envs.step(action)
        expected = healthy.step(action)
        assert "diverged" not in infos
        assert not truncated.any()
    envs.close()
    healthy.close()


@pytest.fixture
def points():
    envs = saferl.make_vec("SafetyPointGoal1-v0", 3, backend="batched")
    envs.reset(seed=0)
    yield envs
    envs.close()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "actions must be finite; entry 1 of environment 2 .* got nan"),
        (np.inf, "actions must be finite; entry 1 of environment 2 .* got inf"),
        (1.5, r"inside the action space; entry 1 of environment 2 must be in \[-1, 1\]; got 1.5. Clip"),
    ],
)
def test_a_bad_action_is_named_and_nothing_moves(points, value, message):
    before = points.get_states()
    actions = np.zeros((3, 2))
    actions[2, 1] = value
    with pytest.raises(EnvContractError, match=message):
        points.step(actions)
    assert same(points.get_states(), before)


def test_a_batch_of_another_shape_is_refused(points):
    with pytest.raises(EnvContractError, match=r"must have shape \(3, 2\); got \(2, 2\)"):
        points.step(np.zeros((2, 2)))


def test_a_step_before_the_first_reset_is_refused():
    envs = saferl.make_vec("SafetyPointGoal1-v0", 2, backend="batched")
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before step"):
        envs.step(np.zeros((2, 2)))
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("CartPole-v1", {"cost": lambda *_: 0.0, "budgets": {"cost": 1.0}}, "only the ids of 'saferl list envs'"),
        ("SafetyPointGoal1-v0", {"cost": lambda *_: 0.0, "budgets": {"cost": 1.0}}, "a cost function is called by"),
        pytest.param(
            *("DMReacherVelocity-v0", {}, "the control tasks have none"),
            marks=pytest.mark.skipif(find_spec("dm_control") is None, reason="dm_control is not installed"),
        ),
        ("SafetyPointGoal1-v0", {"render_mode": "rgb_array"}, "'render_mode' is for single environments"),
    ],
)
def test_what_has_no_batched_version_is_refused_where_it_is_demanded(env_id, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        saferl.make_vec(env_id, 2, backend="batched", **kwargs)
    assert type(saferl.make_vec(env_id, 1, **kwargs)).__name__ == "CostVectorEnv"


def test_auto_is_batched_for_every_task_of_the_catalogue_but_control_tasks_and_microgrid():
    assert all(spec.batched for spec in SPECS if spec not in (*CONTROL_SPECS, *MICROGRID_SPECS))
    for env_id in [*itertools.islice(BY_ID, 0, None, 20), "ParadoxA-v0"]:
        envs = saferl.make_vec(env_id, 2)
        assert type(envs).__name__ == "BatchedVectorEnv"
        envs.close()


def test_more_threads_than_none_are_needed():
    with pytest.raises(ConfigError, match="num_workers must be at least 1; got 0"):
        saferl.make_vec("SafetyPointGoal1-v0", 2, backend="batched", num_workers=0)
