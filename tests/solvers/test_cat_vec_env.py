"""Stock PPO and A2C learn from soft terminations through a wrapper; what cannot is refused with the reason."""

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, EnvContractError, TrainingError, UnknownNameError
from saferl.rollout import CostVecEnv
from saferl.solvers import CaTCallback, CaTVecEnv, PPOLag
from saferl.solvers.soft_terminations import SoftTerminationConfig

SMALL = {"n_steps": 10, "device": "cpu", "seed": 0, "policy_kwargs": {"net_arch": [8]}}
FULL = {"p_start": 1.0, "p_final": 1.0, "c_max": {"heat": 1.0}}


class Heater(gymnasium.Env):
    """Reward 1; the margin is that of the step number: -1, 0.5, 2, -1, 0.5, 2, ..."""

    constraints = ConstraintSet([Constraint("heat", 5.0)])
    action_space = spaces.Discrete(2)

    def __init__(self, image=False):
        self.observation_space = (
            spaces.Box(0, 255, (36, 36, 3), np.uint8) if image else spaces.Box(-1.0, 1.0, (2,), np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action):
        margin = (-1.0, 0.5, 2.0)[self._steps % 3]
        self._steps += 1
        info = {"costs": {"heat": float(margin > 0)}, "margins": {"heat": margin}}
        return self._observe(), 1.0, False, False, info

    def _observe(self):
        return np.full(self.observation_space.shape, self._steps % 2, dtype=self.observation_space.dtype)


def heater(image=False):
    return TimeLimit(Heater(image), 10)


def heaters(num_envs=2, **options):
    return CaTVecEnv(saferl.make_vec(heater, num_envs), **{**FULL, **options})


def of_first_env(array):
    """What Stable-Baselines3 has flattened, environment after environment, for the training."""
    return array.reshape(2, 10)[0]


DELTA = np.array([0.0, 0.5, 1.0, 0.0, 0.5, 1.0, 0.0, 0.5, 1.0, 0.0])


def test_the_rollout_of_stock_ppo_holds_soft_ends_and_scaled_rewards():
    model = sb3.PPO("MlpPolicy", heaters(), **SMALL, batch_size=20)
    model.learn(20, callback=CaTCallback())
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.episode_starts[1:, 0], DELTA[:-1])
    np.testing.assert_array_equal(buffer.rewards[:-1, 0], 1.0 - DELTA[:-1])
    assert model._last_episode_starts.tolist() == [1.0, 1.0]  # cut by the time limit


@pytest.mark.parametrize("timeout", ["bootstrap", "terminal"])
def test_a_step_with_delta_one_has_a_target_of_zero_and_a_time_limit_has_what_the_option_says(timeout):
    model = sb3.PPO("MlpPolicy", heaters(timeout=timeout), **SMALL, batch_size=20)
    before = sb3.PPO("MlpPolicy", heaters(), **SMALL, batch_size=20).policy
    model.learn(20, callback=CaTCallback())
    returns = of_first_env(model.rollout_buffer.returns)
    assert (returns[DELTA == 1.0] == 0.0).all()
    observation, _ = before.obs_to_tensor(np.zeros((1, 2), dtype=np.float32))
    value = before.predict_values(observation).item()
    assert returns[9] == pytest.approx(1.0 + (0.99 * value if timeout == "bootstrap" else 0.0), rel=1e-4)


def test_half_a_violation_halves_reward_and_future():
    model = sb3.A2C("MlpPolicy", heaters(), **SMALL, gae_lambda=0.0, gamma=0.5)
    model.learn(20, callback=CaTCallback())
    returns, values = (of_first_env(array) for array in (model.rollout_buffer.returns, model.rollout_buffer.values))
    assert returns[1] == pytest.approx((1.0 - DELTA[1]) * (1.0 + 0.5 * values[2]), rel=1e-5)


class Rows(BaseCallback):
    """Keeps what is logged by the end of every rollout."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.rows.append(dict(self.logger.name_to_value))


def test_the_callback_moves_the_curriculum_and_logs():
    rows = Rows()
    env = heaters(p_start=0.05, p_final=0.25, curriculum_share=0.5)
    sb3.PPO("MlpPolicy", env, **SMALL, batch_size=20).learn(80, callback=[CaTCallback(), rows])
    found = [row["cat/p_max/heat"] for row in rows.rows]
    assert found == pytest.approx([0.05, 1 / 12, 0.25, 0.25])  # at the start of each rollout
    assert {row["cat/violation_rate/heat"] for row in rows.rows} == {0.6}
    assert rows.rows[0]["cat/mean_delta"] == pytest.approx(0.05 * DELTA.mean())


def test_it_trains_outside_of_the_normaliser():
    env = CaTVecEnv(VecNormalize(CostVecEnv(saferl.make_vec(heater, 2))), config=SoftTerminationConfig(**FULL))
    model = sb3.PPO("MlpPolicy", env, **SMALL, batch_size=20)
    model.learn(40, callback=CaTCallback())
    assert env.venv.ret_rms.count > 40
    assert env.costs.shape == env.margins.shape == (2, 1)
    assert model.num_timesteps == 40


def test_images_that_stable_baselines3_turns_are_fine():
    env = CaTVecEnv(saferl.make_vec(lambda: heater(image=True), 2), **FULL)
    small = {**SMALL, "policy_kwargs": {}}
    assert sb3.PPO("CnnPolicy", env, **small, batch_size=20).learn(20, callback=CaTCallback()).num_timesteps == 20


def test_an_evaluation_env_passes_rewards_and_ends_as_they_are(tmp_path):
    env = heaters(is_training=False)
    env.reset()
    for _ in range(9):
        _, rewards, dones, _ = env.step(np.zeros(2, dtype=int))
        assert rewards.tolist() == [1.0, 1.0]
        assert (dones.dtype, dones.any()) == (np.bool_, False)
    callback = EvalCallback(env, n_eval_episodes=4, eval_freq=10, verbose=0)
    model = sb3.PPO("MlpPolicy", heaters(), **SMALL, batch_size=20)
    model.learn(20, callback=[CaTCallback(), callback])
    assert callback.last_mean_reward == 10.0


def test_without_the_callback_nothing_trains():
    model = sb3.PPO("MlpPolicy", heaters(), **SMALL, batch_size=20)
    with pytest.raises(ConfigError, match=r"must know which algorithm trains on it.*Pass callback=CaTCallback"):
        model.learn(20)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: sb3.DQN("MlpPolicy", heaters(), device="cpu"), "got DQN, which is off-policy: it would count every"),
        (
            lambda: sb3_contrib.RecurrentPPO("MlpLstmPolicy", heaters(), device="cpu", n_steps=10),
            "got RecurrentPPO, which is recurrent: it would forget part of its memory at every soft termination",
        ),
        (lambda: sb3_contrib.TRPO("MlpPolicy", heaters(), device="cpu"), "got TRPO, which is not known to"),
        (lambda: PPOLag("MlpPolicy", heaters(), device="cpu"), "got PPOLag, which is a solver of saferl"),
    ],
)
def test_other_algorithms_are_refused_with_the_reason(make, reason):
    with pytest.raises(ConfigError, match=f"for Stable-Baselines3's PPO and A2C.*{reason}"):
        make().learn(40, callback=CaTCallback())


@pytest.mark.parametrize("wrapper", [VecNormalize, lambda env: VecFrameStack(env, 2)])
def test_another_wrapper_around_it_is_refused(wrapper):
    model = sb3.PPO("MlpPolicy", wrapper(heaters()), **SMALL, batch_size=20)
    name = type(model.get_env()).__name__
    with pytest.raises(ConfigError, match=f"must be the outermost wrapper.*got {name} around it"):
        model.learn(20, callback=CaTCallback())


def test_a_model_on_another_env_is_refused():
    for env, message in (
        (CostVecEnv(saferl.make_vec(heater, 2)), "needs a model on a CaTVecEnv; got one on CostVecEnv"),
        (heaters(is_training=False), "must have is_training=True"),
    ):
        with pytest.raises(ConfigError, match=message):
            sb3.PPO("MlpPolicy", env, **SMALL, batch_size=20).learn(20, callback=CaTCallback())


def test_what_has_no_costs_and_what_does_not_exist_is_refused():
    with pytest.raises(EnvContractError, match="carries costs; got DummyVecEnv"):
        CaTVecEnv(DummyVecEnv([heater]))
    with pytest.raises(UnknownNameError, match="Did you mean 'p_start'"):
        heaters(p_sart=0.1)


def test_a_negative_reward_is_refused():
    env = CaTVecEnv(saferl.make_vec("SafetySwimmerVelocity-v1", 2))
    model = sb3.PPO("MlpPolicy", env, n_steps=20, batch_size=20, device="cpu", seed=0)
    with pytest.raises(TrainingError, match="every reward must be at least 0"):
        model.learn(40, callback=CaTCallback())
