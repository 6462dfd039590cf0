"""PointRobot: equations, contract, batch, behaviours and the data that they collect."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saferl
from saferl.collection.plan import find_plan
from saferl.data.dataset import Dataset
from saferl.envs.point_robot import PointRobot, dynamics, manoeuvre
from saferl.envs.point_robot.behaviours import EXACT, anywhere, collect_scripted, rollout, seek
from saferl.envs.state import get_state, set_state
from saferl.errors import ConfigError, EnvContractError, UnknownNameError
from saferl.testing import check_env

numbers = st.floats(-3.0, 3.0, allow_nan=False)


def test_it_keeps_the_contract():
    assert check_env("PointRobot-v0").ok


def test_a_step_is_the_euler_step_of_the_description():
    state, action = np.array([1.0, -2.0, 1.5, 0.7]), np.array([0.4, -0.9])
    expected = [1.0 + 0.05 * 1.5 * np.cos(0.7), -2.0 + 0.05 * 1.5 * np.sin(0.7), 1.5 + 0.05 * 0.4, 0.7 - 0.05 * 0.9]
    np.testing.assert_allclose(dynamics.step(state, action), expected, rtol=0.0, atol=1e-15)
    np.testing.assert_array_equal(dynamics.step(state, [5.0, -7.0]), dynamics.step(state, [1.0, -1.0]))


def test_observation_margin_and_cost_are_those_of_the_state():
    env = PointRobot()
    obs, info = env.reset(options={"state": [0.4, -2.2, 2.0, np.pi / 2]})
    # One metre below a hazard's centre, straight ahead; the other one is 0.8 m to the left and 3.4 m ahead.
    far = np.hypot(0.8, 3.4)
    np.testing.assert_allclose(
        obs, [0.4, -2.2, 2.0, 0.0, 1.0, 1.0, 1.0, 0.0, far, 3.4 / far, 0.8 / far], rtol=0.0, atol=1e-12
    )
    assert info["h"] == pytest.approx(-0.2)
    first, second, third = (env.step(np.zeros(2)) for _ in range(3))
    assert [s[-1]["costs"]["cost"] for s in (first, second, third)] == [0.0, 0.0, 1.0]
    assert [s[-1]["margins"]["cost"] for s in (first, second, third)] == pytest.approx([-0.1, 0.0, 0.1])
    assert third[-1]["cost"] == 1.0


def test_the_reward_is_progress_and_one_for_the_goal_which_ends_the_episode():
    env = PointRobot()
    env.reset(options={"state": [2.2 - 0.45, 2.2, 2.0, 0.0]})
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, info["is_at_goal"]) == (pytest.approx(0.1), False, False)
    _, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, truncated, info["is_at_goal"]) == (pytest.approx(1.1), True, False, True)


def test_leaving_the_arena_ends_the_episode_and_the_limit_truncates_it():
    env = PointRobot(max_episode_steps=2)
    env.reset(options={"state": [0.0, 2.95, 2.0, np.pi / 2]})
    assert env.step(np.zeros(2))[2:4] == (True, False)
    env.reset(options={"state": [-2.0, 0.0, 0.0, 0.0]})
    assert env.step(np.zeros(2))[2:4] == (False, False)
    assert env.step(np.zeros(2))[2:4] == (False, True)


def test_starts_are_those_that_were_asked_for():
    low, high = dynamics.START_LOW, dynamics.START_HIGH
    random = PointRobot()
    starts = []
    for seed in range(200):
        random.reset(seed=seed)
        starts.append(random.state)
    assert ((np.array(starts) >= low) & (np.array(starts) <= high)).all()
    assert (np.ptp(starts, axis=0) > 0.9 * (high - low)).all()
    fixed = PointRobot(start="evaluation")
    fixed.reset(seed=3)
    np.testing.assert_array_equal(fixed.state, [-1.8, 0.0, 2.0, np.pi / 4])
    feasible = PointRobot(start="feasible")
    for seed in range(20):
        feasible.reset(seed=seed)
        assert manoeuvre.is_avoided(feasible.state)
        assert manoeuvre.stays_inside(feasible.state)


@pytest.mark.parametrize(
    "options", [{"state": [0.0, 0.0, 1.0]}, {"state": [4.0, 0.0, 0.0, 0.0]}, {"state": [np.nan] * 4}, {"speed": 1.0}]
)
def test_a_start_that_is_none_is_refused(options):
    with pytest.raises(ConfigError, match="PointRobot"):
        PointRobot().reset(options=options)


def test_bad_arguments_and_actions_are_refused():
    with pytest.raises(UnknownNameError, match="feasible"):
        PointRobot(start="feasable")
    with pytest.raises(ConfigError, match="at least 1"):
        PointRobot(max_episode_steps=0)
    env = PointRobot()
    env.reset(seed=0)
    for action in ([np.nan, 0.0], [0.0], np.inf):
        with pytest.raises(EnvContractError, match="two finite numbers"):
            env.step(action)
    envs = saferl.make_vec("PointRobot-v0", 2)
    envs.reset(seed=0)
    with pytest.raises(EnvContractError, match="environment 1"):
        envs.step(np.array([[0.0, 0.0], [0.0, np.nan]], dtype=np.float32))


@settings(max_examples=50, deadline=None)
@given(st.tuples(numbers, numbers, numbers, st.floats(-3.1, 3.1)))
def test_an_observation_says_the_whole_state(state):
    obs = dynamics.observe(state)
    assert PointRobot().observation_space.contains(obs)
    np.testing.assert_allclose(dynamics.state_of(obs), state, rtol=0.0, atol=1e-12)
    nearest = min(obs[5], obs[8])
    assert dynamics.margin(state) == 0.8 - nearest


def test_every_step_of_the_batch_is_that_of_the_single_envs_and_states_are_exchanged():
    single, batched = (
        saferl.make_vec("PointRobot-v0", 5, backend=b, max_episode_steps=40) for b in ("sync", "batched")
    )
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(batched.reset(seed=7)[0], single.reset(seed=7)[0], rtol=0.0, atol=1e-12)
    ends = 0
    for step in range(150):
        actions = rng.uniform(-1.0, 1.0, size=(5, 2)).astype(np.float32)
        expected, actual = single.step(actions), batched.step(actions)
        for one, other in zip(expected[:4], actual[:4], strict=True):
            np.testing.assert_allclose(other, one, rtol=0.0, atol=1e-12)
        np.testing.assert_array_equal(actual[4]["costs"], expected[4]["costs"])
        np.testing.assert_allclose(actual[4]["margins"], expected[4]["margins"], rtol=0.0, atol=1e-12)
        ended = expected[2] | expected[3]
        if ended.any():
            np.testing.assert_allclose(
                actual[4]["final_obs"][ended], expected[4]["final_obs"][ended], rtol=0.0, atol=1e-12
            )
        ends += int(ended.sum())
        if step == 75:
            states = [get_state(env) for env in single.envs]
            for mine, theirs in zip(batched.batch.get_states(), states, strict=True):
                assert [layer["type"] for layer in mine["layers"]] == [layer["type"] for layer in theirs["layers"]]
                assert mine["layers"][1]["state"]["generator"] == theirs["layers"][1]["state"]["generator"]
            batched.batch.set_states(states)
            for env, state in zip(single.envs, batched.batch.get_states(), strict=True):
                set_state(env, state)
    assert ends >= 20


def test_data_of_behaviours_are_what_the_env_gives_for_their_actions():
    arrays = collect_scripted(30, seed=1)
    assert len(arrays.pop("behaviours")) == 30
    data = Dataset.from_arrays(**arrays)
    assert data.num_episodes == 30
    env = PointRobot()
    for start, end in zip(data.episode_starts, data.episode_ends, strict=True):
        obs, info = env.reset(options={"state": dynamics.state_of(data.observations[start])})
        for row in range(start, end):
            # Stored observations are float32, so the replay drifts by that.
            np.testing.assert_allclose(data.observations[row], obs, atol=1e-3)
            assert data.h[row, 0] == pytest.approx(info["h"] if row == start else info["margins"]["cost"], abs=1e-4)
            obs, reward, terminated, truncated, info = env.step(data.actions[row])
            np.testing.assert_allclose(data.next_observations[row], obs, atol=1e-3)
            assert data.rewards[row] == pytest.approx(reward, abs=1e-4)
            assert data.costs[row, 0] == float(data.next_h[row, 0] > 0.0)
            assert data.next_h[row, 0] == pytest.approx(info["margins"]["cost"], abs=1e-4)
        assert (data.terminals[end - 1], data.timeouts[end - 1]) == (terminated, truncated and not terminated)


def test_behaviours_repeat_by_seed_and_cover_the_state_space():
    first, second, other = collect_scripted(100, seed=5), collect_scripted(100, seed=5), collect_scripted(100, seed=6)
    assert first["behaviours"] == second["behaviours"] != other["behaviours"]
    np.testing.assert_array_equal(first["observations"], second["observations"])
    states = dynamics.state_of(first["observations"])
    cells, _ = np.histogramdd(states, bins=[6, 6, 4, 8], range=[[-3.0, 3.0], [-3.0, 3.0], [0.0, 2.0], [-np.pi, np.pi]])
    assert (cells > 0).mean() > 0.6
    assert 0.05 < (first["h"] > 0.0).mean() < 0.3
    assert {"seeker", "roamer", "switcher", "random"} == {label.split("/")[0] for label in first["behaviours"]}


def test_careful_seekers_reach_the_goal_without_a_violation_and_reckless_ones_drive_through():
    starts = manoeuvre.feasible_starts(150, np.random.default_rng(2))
    careful, reckless = (
        Dataset.from_arrays(**rollout(starts, lambda states, g=g: seek(states, g))) for g in (EXACT, 1.0)
    )
    assert careful.cost_returns().max() == 0.0
    goals = dynamics.is_at_goal(dynamics.state_of(careful.next_observations[careful.episode_ends - 1]))
    assert goals.mean() >= 0.97
    assert (reckless.cost_returns()[:, 0] > 0.0).mean() > 0.15
    assert len(reckless) < len(careful)


def test_the_manoeuvre_is_what_stepping_it_gives():
    starts = anywhere(200, np.random.default_rng(3))
    starts[:50, 2] *= -1.0
    here, worst = starts, dynamics.hazard_distances(starts)
    turns = [manoeuvre._away(starts, centre) for centre in dynamics.HAZARDS]
    for hazard, turn in enumerate(turns):
        here = starts
        for _ in range(40):
            here = dynamics.step(here, np.stack([np.clip(-here[:, 2] / dynamics.DT, -1.0, 1.0), turn], axis=1))
            worst[:, hazard] = np.minimum(worst[:, hazard], dynamics.hazard_distances(here)[:, hazard])
    np.testing.assert_array_equal(manoeuvre.is_avoided(starts), worst.min(axis=1) >= 0.8)
    np.testing.assert_array_equal(manoeuvre.is_avoided(starts, 1.0), worst.min(axis=1) >= 1.0)


def test_what_cannot_be_collected_is_refused():
    with pytest.raises(ConfigError, match="at least one episode"):
        collect_scripted(0, seed=0)
    with pytest.raises(ConfigError, match="aggressiveness"):
        seek(anywhere(2, np.random.default_rng(0)), 1.5)


def test_collection_has_a_plan_for_it():
    assert find_plan("PointRobot-v0").scripted == "saferl.envs.point_robot.behaviours:collect_scripted"
