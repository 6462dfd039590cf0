import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.rollout import CostVecEnv


def cost(obs, action, next_obs):
    return {"right": float(action == 1), "tilt": abs(float(next_obs[2]))}


def cartpole(num_envs=3, limit=None):
    return saferl.make_vec(
        "CartPole-v1", num_envs, budgets={"right": 5.0, "tilt": 1.0}, cost=cost, max_episode_steps=limit
    )


@pytest.fixture
def env():
    wrapped = CostVecEnv(cartpole())
    wrapped.seed(0)
    yield wrapped
    wrapped.close()


def test_costs_can_be_read_through_other_wrappers(env):
    outer = VecNormalize(env)
    outer.reset()
    outer.step(np.array([1, 0, 1]))
    np.testing.assert_array_equal(outer.costs[:, 0], [1, 0, 1])
    assert outer.constraints.names == ("right", "tilt")
    assert outer.terminated.dtype == outer.truncated.dtype == np.bool_


def test_margins_can_be_read_through_other_wrappers():
    env = VecNormalize(CostVecEnv(saferl.make_vec("SafetyHopperVelocity-v1", 2)))
    env.reset()
    env.step(np.zeros((2, 3), dtype=np.float32))
    assert env.margins.shape == (2, 1)
    np.testing.assert_array_equal(env.costs > 0, env.margins > 0)
    assert (env.margins != env.costs).all()
    env.close()


def test_infos_are_filled_only_where_an_episode_ended(env):
    env.reset()
    sums = np.zeros((3, 2))
    for step in range(1, 200):
        _, _, dones, infos = env.step(np.array([1, step % 2, 1]))
        sums += env.costs
        assert [bool(info) for info in infos] == dones.tolist()
        if dones[0]:
            break
    assert infos[0]["episode"]["l"] == step
    assert infos[0]["episode"]["costs"] == pytest.approx({"right": sums[0, 0], "tilt": sums[0, 1]})
    assert infos[0]["TimeLimit.truncated"] is False
    assert abs(infos[0]["terminal_observation"][2]) > 0.2095  # the fall, not the next episode's start
    np.testing.assert_allclose(env.recent_costs[-1], sums[0])


def test_a_time_limit_is_truncation():
    env = CostVecEnv(cartpole(1, limit=2))
    env.reset()
    env.step(np.array([0]))
    _, _, dones, infos = env.step(np.array([1]))
    assert dones[0]
    assert env.truncated[0]
    assert not env.terminated[0]
    assert infos[0]["TimeLimit.truncated"] is True
    env.close()


def test_totals_count_costs_and_violating_episodes():
    env = CostVecEnv(cartpole(1, limit=8))
    env.reset()
    for action in (1, 1, 1, 1, 0, 1, 1, 0):
        env.step(np.array([action]))
    env.totals.end_iteration()
    env.totals.end_iteration()
    totals = env.totals.to_dict()
    assert totals["steps"] == 8
    assert totals["episodes"] == 1
    assert totals["total_cost"]["right"] == 6
    assert totals["violating_episode_share"]["right"] == 1.0
    assert totals["overshoot_sum"]["right"] == 1.0
    assert totals["overshoot_sum"]["tilt"] == 0.0
    env.close()


def test_a_limit_on_every_step_is_broken_by_the_largest_cost_of_an_episode():
    """``right`` costs 1 in some steps, which breaks a limit of 0.5 on every step and not one of 1."""
    for budget, share in ((0.5, 1.0), (1.0, 0.0)):
        constraints = ConstraintSet([Constraint("right", budget, kind="statewise")])
        env = CostVecEnv(saferl.make_vec("CartPole-v1", 1, cost=cost, constraints=constraints, max_episode_steps=4))
        env.reset()
        for action in (1, 0, 1, 0, 1, 0, 1, 0):
            env.step(np.array([action]))
        totals = env.totals.to_dict()
        assert (totals["episodes"], totals["violating_episode_share"]) == (2, {"right": share})
        env.close()


def test_the_largest_cost_of_an_open_episode_is_part_of_the_state():
    constraints = ConstraintSet([Constraint("right", 0.5, kind="statewise")])
    env, other = (
        CostVecEnv(saferl.make_vec("CartPole-v1", 1, cost=cost, constraints=constraints, max_episode_steps=3))
        for _ in range(2)
    )
    env.reset()
    other.reset()
    env.step(np.array([1]))
    other.set_state(env.get_state())
    for _ in range(3):  # CartPole itself has no state to take over, and begins anew
        other.step(np.array([0]))
    assert other.totals.to_dict()["violating_episode_share"] == {"right": 1.0}
    env.close()
    other.close()


def test_a_seed_is_used_once(env):
    env.seed(7)
    first = env.reset()
    second = env.reset()
    env.seed(7)
    np.testing.assert_array_equal(env.reset(), first)
    assert not np.array_equal(first, second)


def test_stock_stable_baselines3_trains_on_it(env):
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    assert model.learn(96).num_timesteps == 96
    assert isinstance(env.venv_with_costs, gymnasium.vector.VectorEnv)
