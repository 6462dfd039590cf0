import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, ConstraintError, EnvContractError, UnknownNameError
from saferl.rollout import CostVecEnv
from saferl.solvers import PPOLag
from saferl.solvers.clipped import approximate_kl, clipped_surrogate, lagrangian_advantages
from saferl.solvers.ppo_lag import PPOLagConfig


class Toy(gymnasium.Env):
    """Ten steps of anything; two costs."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.constraints = ConstraintSet([Constraint("a", 2.0), Constraint("b", 3.0, kind="discounted", gamma=0.9)])
        self._steps = 0

    def _obs(self):
        if isinstance(self.observation_space, spaces.Discrete):
            return self._steps % self.observation_space.n
        self.observation_space.seed(self._steps)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._steps += 1
        return self._obs(), 1.0, False, self._steps == 10, {"costs": {"a": 0.5, "b": 1.0}}


BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "box": (BOX, spaces.Box(-2, 2, (2,), np.float32)),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
    "multidiscrete": (BOX, spaces.MultiDiscrete([2, 3])),
    "multibinary": (BOX, spaces.MultiBinary(3)),
    "dict": (spaces.Dict({"x": BOX, "k": spaces.Discrete(5)}), spaces.Discrete(2)),
}
SMALL = {"n_steps": 20, "batch_size": 20, "n_epochs": 2, "seed": 3, "device": "cpu"}


def toy_vec(kind="box", num_envs=2):
    return saferl.make_vec(lambda: Toy(*SPACES[kind]), num_envs)


def policy_for(kind):
    return "MultiInputPolicy" if kind == "dict" else "MlpPolicy"


def weights(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def test_advantages_are_mixed_raw_and_standardised_once():
    reward, costs = th.tensor([1.0, 3.0]), th.tensor([[1.0, 0.0], [0.0, 2.0]])
    mixed = lagrangian_advantages(reward, costs, th.tensor([2.0, 0.5]))
    raw = np.array([1.0 - 2.0, 3.0 - 1.0])
    np.testing.assert_allclose(mixed.numpy(), (raw - raw.mean()) / raw.std(), rtol=1e-6)


def test_the_surrogate_is_clipped_only_where_that_lowers_it():
    ratio, advantage = th.tensor([1.5, 0.5, 1.5, 0.5]), th.tensor([1.0, 1.0, -1.0, -1.0])
    assert float(clipped_surrogate(ratio, advantage, 0.2)) == pytest.approx((1.2 + 0.5 - 1.5 - 0.8) / 4)


def test_the_kl_estimate_matches_its_hand_value_and_is_never_negative():
    log_ratio = th.tensor([0.1, -0.2])
    expected = np.mean(np.exp([0.1, -0.2]) - 1 - np.array([0.1, -0.2]))
    assert float(approximate_kl(log_ratio)) == pytest.approx(expected, rel=1e-5)
    assert float(approximate_kl(th.randn(100))) >= 0


@pytest.mark.parametrize("kind", SPACES)
def test_every_space_trains_and_predicts_inside_the_action_space(kind):
    model = PPOLag(policy_for(kind), toy_vec(kind), **SMALL)
    before = weights(model)
    model.learn(80)
    assert not th.equal(before, weights(model))
    obs = model.env.reset()
    action, _ = model.predict(obs)
    assert all(model.action_space.contains(a) for a in action)


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    runs = [PPOLag("MlpPolicy", toy_vec(), **SMALL).learn(120) for _ in range(2)]
    assert th.equal(weights(runs[0]), weights(runs[1]))
    assert np.array_equal(runs[0].multipliers, runs[1].multipliers)


def test_another_seed_gives_other_weights():
    first = PPOLag("MlpPolicy", toy_vec(), **SMALL).learn(40)
    second = PPOLag("MlpPolicy", toy_vec(), **{**SMALL, "seed": 4}).learn(40)
    assert not th.equal(weights(first), weights(second))


def test_each_multiplier_follows_its_own_constraint():
    """Costs per episode are 5 (a, budget 2) and (1 - 0.9^10) / 0.1 = 6.513 (b, discounted, budget 3)."""
    model = PPOLag("MlpPolicy", toy_vec(), **SMALL, multiplier_lr=0.1, dual_min_episodes=1).learn(40)
    np.testing.assert_allclose(model.multipliers, [0.1 * 3.0, 0.1 * (10 * (1 - 0.9**10) - 3.0)], rtol=1e-6)


def test_a_lower_limit_raises_its_multiplier_when_the_value_is_too_small():
    constraints = ConstraintSet([Constraint("a", 8.0, sense=">=")])
    env = saferl.make_vec(lambda: Toy(*SPACES["box"]), 2, constraints=constraints)
    model = PPOLag("MlpPolicy", env, **SMALL, multiplier_lr=0.1, dual_min_episodes=1).learn(40)
    np.testing.assert_allclose(model.multipliers, [0.1 * 3.0])


def test_training_budgets_replace_those_of_the_env():
    model = PPOLag("MlpPolicy", toy_vec(), **SMALL, budgets={"a": 1.0})
    assert model.constraints.budgets.tolist() == [1.0, 3.0]
    with pytest.raises(UnknownNameError, match="constraint"):
        PPOLag("MlpPolicy", toy_vec(), **SMALL, budgets={"c": 1.0})


def test_save_and_load_keep_the_policy(tmp_path):
    model = PPOLag("MlpPolicy", toy_vec(), **SMALL).learn(40)
    model.save(tmp_path / "model")
    loaded = PPOLag.load(tmp_path / "model", env=toy_vec(), device="cpu")
    obs = toy_vec().reset(seed=0)[0]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    np.testing.assert_array_equal(model.multipliers, loaded.multipliers)


def test_critics_value_through_a_time_limit():
    """Reward 1 and cost a = 0.5 per step, for ever but for the time limit: V_r = 1 / (1 - gamma), V_a = half of it."""
    env = toy_vec("discrete", 4)
    options = {**SMALL, "n_steps": 50, "batch_size": 50, "n_epochs": 10}
    model = PPOLag("MlpPolicy", env, **options, learning_rate=3e-3, gamma=0.8, cost_gamma=0.8, target_kl=None)
    model.learn(8_000)
    obs = th.as_tensor(np.arange(4))
    with th.no_grad():
        values, cost_values = model.policy.predict_all_values(obs)
    np.testing.assert_allclose(values.numpy(), 5.0, rtol=0.05)  # taking the limit for an end would give 4.5 on average
    np.testing.assert_allclose(cost_values[:, 0].numpy(), 2.5, rtol=0.05)


def test_final_observations_are_normalised_like_all_others():
    env = VecNormalize(CostVecEnv(toy_vec()), norm_obs=True)
    model = PPOLag("MlpPolicy", env, **SMALL)
    seen = []
    original = model.policy.predict_all_values
    model.policy.predict_all_values = lambda obs: (seen.append(obs.clone()), original(obs))[1]
    env.obs_rms.mean[:] = 1000.0  # raw observations lie in [-1, 1], normalised ones are clipped far below
    env.training = False
    model.learn(40)
    assert seen
    assert all(float(obs.max()) <= -9.0 for obs in seen)


@pytest.mark.parametrize(("kind", "fields"), [("statewise", {}), ("cvar", {}), ("probability", {})])
def test_unsupported_kinds_are_refused_by_name(kind, fields):
    constraints = ConstraintSet([Constraint("a", 1.0, kind=kind, **fields)])
    env = saferl.make_vec(lambda: Toy(*SPACES["box"]), 1, constraints=constraints)
    with pytest.raises(ConstraintError, match=f"PPOLag supports.*{kind}"):
        PPOLag("MlpPolicy", env, **SMALL)


def test_envs_without_costs_are_refused():
    with pytest.raises(EnvContractError, match=r"saferl\.make"):
        PPOLag("MlpPolicy", gymnasium.make("CartPole-v1"), **SMALL)
    with pytest.raises(EnvContractError, match="CostVecEnv"):
        PPOLag("MlpPolicy", DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), **SMALL)


def test_unknown_and_wrong_options_are_refused():
    with pytest.raises(UnknownNameError, match="learning_rate"):
        PPOLag("MlpPolicy", toy_vec(), learning_rat=1.0)
    with pytest.raises(ConfigError, match="n_epochs"):
        PPOLag("MlpPolicy", toy_vec(), n_epochs=1.5)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("learning_rate", 0.0, "greater than 0"), ("gamma", 1.01, r"in \[0, 1\]"), ("multiplier_lr", -1.0, "at least 0")],
)
def test_options_outside_their_range_are_refused_by_name(option, value, words):
    with pytest.raises(ConfigError, match=f"PPOLagConfig.{option} must be {words}; got"):
        PPOLag("MlpPolicy", toy_vec(), **{option: value})


def test_a_config_object_and_options_agree():
    config = PPOLagConfig(n_steps=20, batch_size=20)
    model = PPOLag("MlpPolicy", toy_vec(), config=config, n_epochs=7, device="cpu")
    assert (model.config.n_steps, model.config.n_epochs, model.n_steps) == (20, 7, 20)


def test_values_and_log_probabilities_belong_to_the_step_and_environment_that_they_are_written_for():
    model = PPOLag("MlpPolicy", toy_vec(), **SMALL).learn(20)
    buffer, policy = model.rollout_buffer, model.policy
    callback = CallbackList([])
    callback.init_callback(model)
    model.collect_rollouts(model.env, callback, buffer, model.n_steps)
    for step in range(model.n_steps):
        obs, actions = th.as_tensor(buffer.obs[""][step]), th.as_tensor(buffer.actions[step])
        with th.no_grad():
            log_probs, _, values, cost_values = policy.assess(obs, actions)
        np.testing.assert_allclose(buffer.log_probs[step], log_probs, rtol=1e-4)
        np.testing.assert_allclose(buffer.values[step], values, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(buffer.cost_values[step], cost_values, rtol=1e-4, atol=1e-6)
