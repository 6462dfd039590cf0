"""Stock algorithms of Stable-Baselines3 and sb3-contrib become constrained by a wrapper and a callback."""

import json
import pickle

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, ConstraintError, EnvContractError, RunFolderError, UnknownNameError
from saferl.rollout import CostVecEnv
from saferl.solvers import (
    LagrangianCallback,
    LagrangianConfig,
    LagrangianDictReplayBuffer,
    LagrangianReplayBuffer,
    LagrangianVecEnv,
    PPOLag,
)
from saferl.solvers.lagrangian import penalised_rewards

BANDIT = "saferl.testing.probes:bandit_probe"


def small(**options):
    """Options of a small network; made anew, as algorithms write into ``policy_kwargs``."""
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0, **options}


def off_policy(**options):
    return small(**{"learning_starts": 20, "batch_size": 8, "buffer_size": 400, **options})


class Meter(gymnasium.Env):
    """Episodes of exactly five steps with reward 2, cost "heat" 3 (at most 10) and cost "work" 1 (at least 8)."""

    constraints = ConstraintSet([Constraint("heat", 10.0), Constraint("work", 8.0, sense=">=")])
    is_fixed_horizon = True

    def __init__(self, action_space=None, observation_space=None):
        self.action_space = action_space or spaces.Discrete(2)
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        info = {"costs": {"heat": 3.0, "work": 1.0}}
        return self.observation_space.sample(), 2.0, False, False, info


def discrete():
    return TimeLimit(Meter(), 5)


def box():
    return TimeLimit(Meter(spaces.Box(-1.0, 1.0, (1,), np.float32)), 5)


def dictionary():
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,), np.float32), "b": spaces.Discrete(3)})
    return TimeLimit(Meter(spaces.Box(-1.0, 1.0, (1,), np.float32), space), 5)


def meter(factory=discrete, num_envs=2):
    return saferl.make_vec(factory, num_envs, backend="sync")


class Trace(BaseCallback):
    """Multipliers and rewards of every step, as the algorithm saw them."""

    def __init__(self):
        super().__init__()
        self.multipliers, self.rewards = [], []

    def _on_step(self):
        env = self.training_env
        self.multipliers.append(env.multipliers.copy())
        self.rewards.append(self.locals["rewards"].copy())
        return True


class Rows(Logger):
    """Every row that would be written."""

    def __init__(self):
        super().__init__(None, [])
        self.rows = []

    def dump(self, step=0):
        self.rows.append(dict(self.name_to_value))
        super().dump(step)


# The penalised reward


def test_the_penalised_reward_is_reward_less_priced_costs_over_one_plus_the_prices():
    env = LagrangianVecEnv(meter(), multiplier_init=0.5)
    env.reset()
    _, rewards, _, _ = env.step(np.zeros(2, dtype=int))
    # (2 - 0.5 * 3 + 0.5 * 1) / (1 + 0.5 + 0.5): the utility "work" is rewarded.
    np.testing.assert_array_equal(rewards, np.float32([0.5, 0.5]))
    np.testing.assert_array_equal(env.true_rewards, [2.0, 2.0])
    plain = LagrangianVecEnv(meter(), multiplier_init=0.5, rescale=False)
    plain.reset()
    np.testing.assert_array_equal(plain.step(np.zeros(2, dtype=int))[1], np.float32([1.0, 1.0]))


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5),
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
    st.data(),
)
def test_the_rescaled_reward_lies_between_the_reward_and_minus_the_largest_cost(rewards, multipliers, data):
    costs = np.array([[data.draw(st.floats(0, 100)) for _ in multipliers] for _ in rewards])
    weights = np.array(multipliers)
    values = penalised_rewards(np.float32(rewards), costs, weights, 1.0 + weights.sum())
    assert values.dtype == np.float32
    parts = np.column_stack([rewards, -costs])
    assert np.all(values >= parts.min(axis=1) - 1e-4)
    assert np.all(values <= parts.max(axis=1) + 1e-4)
    np.testing.assert_array_equal(penalised_rewards(np.float32(rewards), costs, 0.0 * weights), np.float32(rewards))


def test_an_environment_that_only_evaluates_gives_rewards_as_they_are():
    env = LagrangianVecEnv(meter(), multiplier_init=0.5, is_training=False)
    env.reset()
    np.testing.assert_array_equal(env.step(np.zeros(2, dtype=int))[1], [2.0, 2.0])


# The dual


def test_multipliers_follow_the_sequence_computed_by_hand():
    """One rollout of ten steps is two episodes. Their costs are 15 and 5, so the gaps are 15 - 10 = 5 and
    -(5 - 8) = 3, and with a step of 0.1 the multipliers grow by 0.5 and 0.3 per rollout."""
    env = LagrangianVecEnv(meter(num_envs=1), multiplier_lr=0.1, dual_min_episodes=2)
    trace, rows = Trace(), Rows()
    model = sb3.PPO("MlpPolicy", env, n_steps=10, batch_size=10, n_epochs=1, **small())
    model.set_logger(rows)
    model.learn(40, callback=[LagrangianCallback(), trace])
    for rollout in range(4):
        first, second = 0.5 * rollout, 0.3 * rollout
        reward = np.float32((2 - 3 * first + second) / (1 + first + second))
        for step in range(10 * rollout, 10 * rollout + 10):
            np.testing.assert_allclose(trace.multipliers[step], [first, second], rtol=1e-12)
            np.testing.assert_allclose(trace.rewards[step], reward, rtol=1e-6)
        row = rows.rows[rollout]
        assert row["multiplier/heat"] == pytest.approx(first)
        assert row["multiplier/work"] == pytest.approx(second)
        assert (row["dual/estimate/heat"], row["dual/estimate/work"]) == (15.0, 5.0)
        assert (row["rollout/ep_cost/heat"], row["rollout/ep_cost/work"]) == (15.0, 5.0)
        assert (row["rollout/ep_rew_mean"], row["rollout/ep_len_mean"]) == (10.0, 5.0)
    np.testing.assert_allclose(env.multipliers, [2.0, 1.2], rtol=1e-12)
    # PPO has added the value of the last state, where the time limit cut, to its own copy of the rewards.
    np.testing.assert_allclose(env.learned_rewards, (2 - 3 * 1.5 + 0.9) / 3.4, rtol=1e-6)


def test_the_dual_waits_for_enough_episodes():
    env = LagrangianVecEnv(meter(num_envs=1), multiplier_lr=0.1, dual_min_episodes=4)
    sb3.A2C("MlpPolicy", env, n_steps=5, **small()).learn(15, callback=LagrangianCallback())
    np.testing.assert_array_equal(env.multipliers, [0.0, 0.0])
    sb3.A2C("MlpPolicy", env, n_steps=5, **small()).learn(5, callback=LagrangianCallback())
    np.testing.assert_allclose(env.multipliers, [0.5, 0.3])


def test_budgets_and_the_kind_of_dual_are_options():
    env = LagrangianVecEnv(
        meter(num_envs=1), budgets={"heat": 12.0}, config=LagrangianConfig(dual="adam"), multiplier_lr=0.25
    )
    assert env.targets.budgets.tolist() == [12.0, 8.0]
    sb3.A2C("MlpPolicy", env, n_steps=40, **small()).learn(40, callback=LagrangianCallback())
    np.testing.assert_allclose(env.multipliers, [0.25, 0.25], rtol=1e-6)  # Adam's first step is its step size


def test_random_steps_before_learning_starts_do_not_move_the_dual():
    env = LagrangianVecEnv(meter(box, 1), multiplier_lr=0.1, dual_min_episodes=1)
    model = sb3.TD3("MlpPolicy", env, **off_policy(learning_starts=30))
    model.learn(30, callback=LagrangianCallback())
    np.testing.assert_array_equal(env.multipliers, [0.0, 0.0])
    model.learn(5, callback=LagrangianCallback(), reset_num_timesteps=False)
    np.testing.assert_allclose(env.multipliers, [0.5, 0.3])


def test_the_first_estimate_after_random_steps_is_left_out():
    """Learning starts at step 7 of episodes of 5: the one that ends at step 10 is seen from its third step on."""

    class Open(Meter):
        is_fixed_horizon = False

    env = LagrangianVecEnv(
        saferl.make_vec(lambda: TimeLimit(Open(spaces.Box(-1.0, 1.0, (1,), np.float32)), 5), 1),
        multiplier_lr=0.1,
        dual_min_episodes=1,
    )
    model = sb3.TD3("MlpPolicy", env, **off_policy(learning_starts=7))
    trace = Trace()
    model.learn(16, callback=[LagrangianCallback(), trace])
    np.testing.assert_array_equal(trace.multipliers[:15], np.zeros((15, 2)))
    np.testing.assert_allclose(env.multipliers, [0.5, 0.3])


def test_a_second_callback_counts_no_step_twice():
    env = LagrangianVecEnv(meter(num_envs=1), multiplier_lr=0.1, dual_min_episodes=2)
    model = sb3.A2C("MlpPolicy", env, n_steps=10, **small())
    model.learn(10, callback=[LagrangianCallback(), LagrangianCallback()])
    np.testing.assert_allclose(env.multipliers, [0.5, 0.3])


def test_a_reset_leaves_open_episodes_out_of_the_estimates():
    env = LagrangianVecEnv(meter(num_envs=1), dual_min_episodes=1)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(1, dtype=int))
        env.observe()
    env.reset()
    for _ in range(5):
        env.step(np.zeros(1, dtype=int))
        env.observe()
    np.testing.assert_array_equal(env.update_multipliers(), [15.0, 5.0])


def test_ppo_on_the_bandit_finds_the_multiplier_and_spends_the_budget():
    """lambda* = 1 and p* = 0.3. Means over the last half of 60 rollouts may be off by 0.1 and 0.04, the last policy by
    0.15; six seeds were off by at most 0.03, 0.018 and 0.07."""
    env = LagrangianVecEnv(saferl.make_vec(BANDIT, 8, backend="sync"), multiplier_lr=0.2, multiplier_kp=3.0)
    model = sb3.PPO("MlpPolicy", env, n_steps=32, batch_size=256, n_epochs=4, learning_rate=3e-3, **small())
    trace = Trace()
    model.learn(60 * 256, callback=[LagrangianCallback(), trace])
    late = slice(30 * 32, None)
    assert np.mean(trace.multipliers[late]) == pytest.approx(1.0, abs=0.1)
    prices, rewards = np.array(trace.multipliers[late]), np.array(trace.rewards[late])
    chosen = rewards * (1 + prices) / (1 - prices)  # 1 for the costly action, as rhat = (1 - lambda) / (1 + lambda)
    assert chosen.mean() == pytest.approx(0.3, abs=0.04)
    with th.no_grad():
        last = model.policy.get_distribution(th.ones(1, 1)).distribution.probs[0, 1].item()
    assert last == pytest.approx(0.3, abs=0.15)


# Every algorithm

ON_POLICY = {
    "PPO": (sb3.PPO, discrete, {"n_steps": 20, "batch_size": 20, "n_epochs": 1}),
    "A2C": (sb3.A2C, box, {"n_steps": 20}),
    "TRPO": (sb3_contrib.TRPO, box, {"n_steps": 20, "batch_size": 20}),
    "RecurrentPPO": (sb3_contrib.RecurrentPPO, discrete, {"n_steps": 20, "batch_size": 20, "n_epochs": 1}),
}
OFF_POLICY = {
    "SAC": (sb3.SAC, box),
    "TD3": (sb3.TD3, box),
    "DDPG": (sb3.DDPG, box),
    "DQN": (sb3.DQN, discrete),
    "TQC": (sb3_contrib.TQC, box),
    "QRDQN": (sb3_contrib.QRDQN, discrete),
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_an_on_policy_algorithm_learns_from_penalised_rewards(name):
    """Four rollouts of 20 steps in 2 environments are 8 episodes each: gaps 5 and 3, as above."""
    algorithm, factory, options = ON_POLICY[name]
    env = LagrangianVecEnv(meter(factory), multiplier_lr=0.1)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    lstm = {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}} if "Lstm" in policy else {}
    model = algorithm(policy, env, gamma=0.0, **options, **small(**lstm))
    model.learn(160, callback=LagrangianCallback())
    np.testing.assert_allclose(env.multipliers, [2.0, 1.2])
    # gamma = 0, so that nothing is added where an episode is cut; in the last rollout lambda was (1.5, 0.9).
    np.testing.assert_allclose(model.rollout_buffer.rewards, (2 - 1.5 * 3 + 0.9) / 3.4, rtol=1e-6)


@pytest.mark.parametrize("buffer", [None, LagrangianReplayBuffer], ids=["stock buffer", "LagrangianReplayBuffer"])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_an_off_policy_algorithm_learns_from_penalised_rewards(name, buffer):
    """The dual moves every 8 episodes of policy steps, which are 20 steps per environment, but for the first 8."""
    algorithm, factory = OFF_POLICY[name]
    env = LagrangianVecEnv(meter(factory), multiplier_lr=0.1)
    trace = Trace()
    model = algorithm("MlpPolicy", env, replay_buffer_class=buffer, **off_policy())
    model.learn(160, callback=[LagrangianCallback(), trace])
    count = 70 // 20 - 1  # the first 10 steps are random
    np.testing.assert_allclose(env.multipliers, [0.5 * count, 0.3 * count])
    collected = np.array(trace.rewards)
    assert len(np.unique(collected)) == count + 1
    stored = model.replay_buffer.rewards[:80]
    if buffer is None:
        np.testing.assert_array_equal(stored, collected)
    else:
        model.replay_buffer.sample(4)
        np.testing.assert_array_equal(stored, collected[-1, 0])


def test_dict_observations_work_on_and_off_policy():
    env = LagrangianVecEnv(meter(dictionary), multiplier_lr=0.1)
    sb3.PPO("MultiInputPolicy", env, n_steps=20, batch_size=20, n_epochs=1, **small()).learn(
        40, callback=LagrangianCallback()
    )
    np.testing.assert_allclose(env.multipliers, [0.5, 0.3])
    model = sb3.SAC("MultiInputPolicy", env, replay_buffer_class=LagrangianDictReplayBuffer, **off_policy())
    model.learn(100, callback=LagrangianCallback())
    np.testing.assert_allclose(env.multipliers, [1.0, 0.6])
    samples = model.replay_buffer.sample(3)
    assert set(samples.observations) == {"a", "b"}
    np.testing.assert_allclose(samples.rewards, (2 - 3.0 + 0.6) / 2.6, rtol=1e-6)


def test_while_multipliers_stay_zero_a_run_equals_the_unconstrained_one():
    def weights(env, callback):
        options = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "device": "cpu", "seed": 7}
        model = sb3.PPO("MlpPolicy", VecNormalize(env), **options).learn(256, callback=callback)
        return th.cat([p.detach().flatten() for p in model.policy.parameters()])

    made = [saferl.make_vec("SafetyHopperVelocity-v1", 2, max_episode_steps=20) for _ in range(3)]
    free = weights(CostVecEnv(made[0]), None)
    wrapped = LagrangianVecEnv(made[1], multiplier_lr=0.0, dual_min_episodes=1)
    assert th.equal(weights(wrapped, LagrangianCallback()), free)
    priced = LagrangianVecEnv(made[2], multiplier_init=1.0, multiplier_lr=0.0)
    assert not th.equal(weights(priced, LagrangianCallback()), free)


# Wrappers around it


def test_vecnormalize_outside_normalises_penalised_rewards_and_off_policy_buffers_store_them_raw():
    env = LagrangianVecEnv(meter(box), multiplier_init=0.5, multiplier_lr=0.0)
    outer = VecNormalize(env, norm_obs=True)
    model = sb3.SAC("MlpPolicy", outer, replay_buffer_class=LagrangianReplayBuffer, **off_policy())
    model.learn(60, callback=LagrangianCallback())
    np.testing.assert_array_equal(model.replay_buffer.rewards[:30], 0.5)
    np.testing.assert_array_equal(model.replay_buffer.true_rewards[:30], 2.0)
    np.testing.assert_array_equal(model.replay_buffer.costs[:30], np.broadcast_to([3.0, 1.0], (30, 2, 2)))
    samples = model.replay_buffer.sample(5, env=outer)
    np.testing.assert_allclose(samples.rewards, outer.normalize_reward(np.float32(0.5)), rtol=1e-6)


def test_options_and_multipliers_can_be_read_through_outer_wrappers():
    outer = VecFrameStack(VecNormalize(LagrangianVecEnv(meter(), multiplier_init=0.5)), 2)
    assert outer.multipliers.tolist() == [0.5, 0.5]
    assert outer.constraints.names == outer.targets.names == ("heat", "work")


def test_vecnormalize_inside_is_refused():
    with pytest.raises(ConfigError, match=r"VecNormalize\(LagrangianVecEnv\(saferl\.make_vec"):
        LagrangianVecEnv(VecFrameStack(VecNormalize(CostVecEnv(meter()), norm_reward=False), 2))


def test_one_around_another_is_refused():
    with pytest.raises(ConfigError, match="Leave one out"):
        LagrangianVecEnv(VecFrameStack(LagrangianVecEnv(meter()), 2))


def test_a_monitor_that_would_log_penalised_returns_is_refused():
    with pytest.warns(UserWarning, match="already wrapped"):
        env = VecMonitor(LagrangianVecEnv(meter()))
    with pytest.raises(ConfigError, match="VecMonitor around LagrangianVecEnv"):
        sb3.A2C("MlpPolicy", env, **small()).learn(10, callback=LagrangianCallback())


def test_a_model_without_the_wrapper_is_refused():
    with pytest.raises(ConfigError, match="contains a LagrangianVecEnv; got CostVecEnv"):
        sb3.A2C("MlpPolicy", CostVecEnv(meter()), **small()).learn(10, callback=LagrangianCallback())


@pytest.mark.parametrize("env", [lambda: DummyVecEnv([discrete]), discrete], ids=["DummyVecEnv", "plain env"])
def test_an_environment_without_costs_is_refused(env):
    with pytest.raises(EnvContractError, match="costs"):
        LagrangianVecEnv(env())


def test_an_environment_of_saferl_make_is_taken_as_it_is():
    env = LagrangianVecEnv(saferl.make(discrete))
    assert env.num_envs == 1


def test_other_constraints_options_and_budgets_are_refused():
    limits = ConstraintSet([Constraint("heat", 1.0, kind="cvar"), Constraint("work", 1.0)])
    with pytest.raises(ConstraintError, match="cvar"):
        LagrangianVecEnv(saferl.make_vec(discrete, 1, constraints=limits))
    with pytest.raises(UnknownNameError, match="multiplier_lr"):
        LagrangianVecEnv(meter(), multipler_lr=0.1)
    with pytest.raises(UnknownNameError, match="heat"):
        LagrangianVecEnv(meter(), budgets={"heta": 1.0})
    with pytest.raises(ConfigError, match="dual_min_episodes"):
        LagrangianVecEnv(meter(), dual_min_episodes=0)


def test_algorithms_that_would_not_be_constrained_by_it_are_refused():
    env = LagrangianVecEnv(meter())
    with pytest.raises(ConfigError, match="PPOLag has multipliers of its own"):
        PPOLag("MlpPolicy", env, n_steps=5, device="cpu").learn(10, callback=LagrangianCallback())
    with pytest.raises(ConfigError, match="ARS learns from returns"):
        sb3_contrib.ARS("MlpPolicy", env, device="cpu").learn(10, callback=LagrangianCallback())


def test_a_buffer_that_computes_rewards_without_costs_is_refused():
    part = spaces.Box(-1.0, 1.0, (1,), np.float32)
    goals = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), part))
    env = LagrangianVecEnv(meter(lambda: TimeLimit(Meter(part, goals), 5)))
    model = sb3.SAC("MultiInputPolicy", env, replay_buffer_class=sb3.HerReplayBuffer, **off_policy())
    with pytest.raises(ConfigError, match="HerReplayBuffer computes rewards anew"):
        model.learn(10, callback=LagrangianCallback())


def test_an_environment_that_only_evaluates_cannot_train():
    env = LagrangianVecEnv(meter(), is_training=False)
    with pytest.raises(ConfigError, match="is_training=True"):
        sb3.A2C("MlpPolicy", env, **small()).learn(10, callback=LagrangianCallback())


def test_a_forgotten_callback_is_called_to_mind():
    env = LagrangianVecEnv(meter())
    model = sb3.A2C("MlpPolicy", env, n_steps=5, **small())
    model.learn(490)  # 98 episodes
    with pytest.warns(UserWarning, match=r"Pass callback=LagrangianCallback\(\)"):
        model.learn(10)
    model.learn(100)


# Evaluation inside a training


def test_returns_of_stock_evaluation_hold_no_penalty():
    env = LagrangianVecEnv(meter(), multiplier_init=5.0)
    model = sb3.A2C("MlpPolicy", env, **small())
    assert evaluate_policy(model, env, n_eval_episodes=4) == (10.0, 0.0)
    outside = LagrangianVecEnv(meter(), is_training=False)
    callback = EvalCallback(VecNormalize(outside, training=False), eval_freq=20, n_eval_episodes=2, verbose=0)
    model = sb3.A2C("MlpPolicy", VecNormalize(env), **small())
    model.learn(80, callback=[LagrangianCallback(), callback])
    assert callback.best_mean_reward == 10.0


# Saving


@pytest.mark.parametrize(
    "options",
    [
        {"multiplier_kp": 0.5, "multiplier_kd": 0.1, "multiplier_delay": 2, "multiplier_smoothing": 0.5},
        {"dual": "optimistic"},
        {"dual": "adam"},
        {"dual": "softplus", "multiplier_init": 1.0},
    ],
    ids=lambda options: options.get("dual", "pid"),
)
@pytest.mark.parametrize("steps", [0, 60], ids=["untrained", "trained"])
def test_saved_multipliers_go_on_as_if_nothing_had_happened(options, steps, tmp_path):
    env = LagrangianVecEnv(meter(num_envs=1), multiplier_lr=0.1, dual_min_episodes=2, **options)
    sb3.A2C("MlpPolicy", env, n_steps=10, **small()).learn(steps, callback=LagrangianCallback())
    env.save_multipliers(tmp_path / "multipliers.json")
    other = LagrangianVecEnv(meter(num_envs=3), multiplier_lr=0.1, **options)
    other.load_multipliers(tmp_path / "multipliers.json")
    for gaps in ([5.0, 3.0], [-2.0, 7.0], [0.1, -0.3]):
        np.testing.assert_array_equal(other.multipliers, env.multipliers)
        np.testing.assert_array_equal(other.dual.update(np.array(gaps)), env.dual.update(np.array(gaps)))


def test_multipliers_of_another_task_or_dual_or_a_damaged_file_are_refused(tmp_path):
    env, path = LagrangianVecEnv(meter(), multiplier_init=0.5), tmp_path / "multipliers.json"
    env.save_multipliers(path)
    with pytest.raises(ConfigError, match="for the constraints heat, work and dual='projected'"):
        LagrangianVecEnv(saferl.make_vec(BANDIT, 2)).load_multipliers(path)
    with pytest.raises(ConfigError, match="dual='adam'"):
        LagrangianVecEnv(meter(), dual="adam").load_multipliers(path)
    good = json.loads(path.read_text())
    for change in (
        {"schema": 2},
        {"dual": {}},
        {"dual": {**good["dual"], "values": [1.0]}},
        {"dual": {**good["dual"], "values": ["a", "b"]}},
        {"constraints": None},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(RunFolderError, match="multipliers"):
            env.load_multipliers(path)
    with pytest.raises(RunFolderError, match="missing"):
        env.load_multipliers(tmp_path / "absent.json")
    assert env.multipliers.tolist() == [0.5, 0.5]


def test_a_model_and_its_replay_buffer_are_saved_without_the_environment(tmp_path):
    env = LagrangianVecEnv(meter(box), multiplier_lr=0.1)
    model = sb3.SAC("MlpPolicy", env, replay_buffer_class=LagrangianReplayBuffer, **off_policy())
    model.learn(100, callback=LagrangianCallback())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = sb3.SAC.load(tmp_path / "model", env=env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer._env is None
    loaded.learn(10, callback=LagrangianCallback(), reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 55
    loaded.replay_buffer.sample(2)
    np.testing.assert_array_equal(loaded.replay_buffer.rewards[:55], env.learned_rewards[0])


# The replay buffer's own errors


def test_a_buffer_that_is_not_connected_is_refused():
    env = LagrangianVecEnv(meter(box))
    model = sb3.SAC("MlpPolicy", env, replay_buffer_class=LagrangianReplayBuffer, **off_policy())
    with pytest.raises(ConfigError, match=r"callback=LagrangianCallback\(\)"):
        model.learn(10)


def test_a_buffer_refuses_rewards_that_something_else_has_changed():
    class Doubled(VecFrameStack):
        def step_wait(self):
            obs, rewards, dones, infos = super().step_wait()
            return obs, 2 * rewards, dones, infos

    env = Doubled(LagrangianVecEnv(meter(box)), 2)
    model = sb3.SAC("MlpPolicy", env, replay_buffer_class=LagrangianReplayBuffer, **off_policy())
    with pytest.raises(EnvContractError, match="inside LagrangianVecEnv"):
        model.learn(10, callback=LagrangianCallback())


def test_a_buffer_of_another_environment_is_refused():
    first, second = LagrangianVecEnv(meter(box)), LagrangianVecEnv(saferl.make_vec(BANDIT, 2))
    buffer = LagrangianReplayBuffer(10, first.observation_space, first.action_space, "cpu", n_envs=2)
    buffer.connect(first)
    buffer.connect(first)
    with pytest.raises(ConfigError, match="holds 2 costs of 2 environments"):
        buffer.connect(second)
    assert pickle.loads(pickle.dumps(buffer))._env is None


def test_rows_priced_between_two_samples_are_priced_anew_even_if_the_multipliers_came_back():
    env = LagrangianVecEnv(meter(box), multiplier_init=0.5)
    buffer = LagrangianReplayBuffer(10, env.observation_space, env.action_space, "cpu", n_envs=2)
    buffer.connect(env)
    obs = env.reset()
    actions = np.zeros((2, 1), dtype=np.float32)
    for prices in ([0.5, 0.5], [1.0, 0.0], [0.5, 0.5]):
        env.dual.values = np.array(prices)
        new_obs, rewards, dones, infos = env.step(actions)
        buffer.add(obs, new_obs, actions, rewards, dones, infos)
        if prices[1] == 0.5:
            buffer.sample(1)
    np.testing.assert_array_equal(buffer.rewards[:3], 0.5)
