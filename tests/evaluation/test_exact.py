"""Tabulated policies are what the policies play, and their exact values what their episodes average to."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import DQN
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import saferl
from saferl.envs.adapters import CostContract
from saferl.envs.tabular.batch import make_tabular_vec
from saferl.envs.tabular.env import TabularEnv
from saferl.envs.tabular.instances import finite_horizon_random, paradox_a, random_binding, two_constraints
from saferl.envs.vector import CostVectorEnv
from saferl.errors import ConfigError
from saferl.evaluation import evaluate_exactly, tabulate
from saferl.policy import RandomPolicy
from saferl.rollout import CostVecEnv
from saferl.solvers import PPOLag

TINY = {"n_steps": 8, "batch_size": 16, "seed": 0, "policy_kwargs": {"net_arch": [8]}}


def fresh(cmdp, *, spread=3.0):
    """A solver before its training, whose last layer is made large so that states and actions differ."""
    model = PPOLag("MlpPolicy", make_tabular_vec(cmdp, 2), **TINY)
    with th.no_grad():
        model.policy.action_net.weight.mul_(spread * 100)
    return model


def test_a_new_policy_is_nearly_uniform():
    """The last layer of Stable-Baselines3's actors starts a hundred times smaller than the others."""
    cmdp = random_binding(10)
    model = PPOLag("MlpPolicy", make_tabular_vec(cmdp, 2), **TINY)
    table = tabulate(model, cmdp)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(table, cmdp.uniform_policy(), atol=0.02)


def small_finite():
    return finite_horizon_random(0, num_states=4, horizon=3)


@pytest.mark.parametrize("make", [lambda: random_binding(10), small_finite], ids=["discounted", "finite"])
def test_the_table_has_the_frequencies_of_the_samples(make):
    """Hoeffding and a union over all entries: one is off by more than the bound with probability below 1e-9."""
    cmdp = make()
    model = fresh(cmdp)
    table = tabulate(model, cmdp)
    assert table.shape == cmdp.policy_shape
    assert table.min() >= 0.0
    np.testing.assert_allclose(table.sum(axis=-1), 1.0, atol=1e-12)
    assert np.ptp(table, axis=-2).max() > 0.1
    count = 2000
    states = np.arange(table.size // cmdp.num_actions)
    th.manual_seed(0)
    with th.no_grad():
        shown = th.as_tensor(np.tile(states, count))
        sampled = model.policy.sample(shown).numpy().reshape(count, len(states))
    frequencies = (sampled[..., None] == np.arange(cmdp.num_actions)).mean(axis=0).reshape(table.shape)
    bound = math.sqrt(math.log(2 * table.size / 1e-9) / (2 * count))
    np.testing.assert_allclose(frequencies, table, atol=bound)


def test_deterministic_tables_are_the_predictions():
    cmdp = small_finite()
    model = fresh(cmdp)
    table = tabulate(model, cmdp, deterministic=True)
    assert table.shape == cmdp.policy_shape == (3, 4, 3)
    actions, _ = model.predict(np.arange(12), deterministic=True)
    np.testing.assert_array_equal(table.reshape(12, 3), np.eye(3)[actions])
    np.testing.assert_array_equal(table.argmax(axis=-1), tabulate(model, cmdp).argmax(axis=-1))


def test_a_policy_alone_and_any_form_of_the_env_give_the_same_table():
    cmdp = random_binding(10)
    model = fresh(cmdp)
    table = tabulate(model, cmdp)
    envs = (
        TabularEnv(cmdp),
        saferl.make("RandomBinding10-v0"),
        saferl.make_vec("RandomBinding10-v0", 2),
        saferl.make_vec("RandomBinding10-v0", 2, backend="sync"),
        "RandomBinding10-v0",
    )
    for env in envs:
        np.testing.assert_array_equal(tabulate(model.policy, env), table)


def test_an_artefact_has_the_table_of_its_training(tmp_path):
    run = saferl.train("ppo_lag", "RandomBinding10-v0", steps=64, out=tmp_path / "run", options={"n_steps": 8})
    artefact = saferl.load(run.folder)
    table = tabulate(artefact, "RandomBinding10-v0")
    again, _ = artefact.predict(np.arange(10), deterministic=True)
    np.testing.assert_array_equal(table.argmax(axis=1), again)
    np.testing.assert_array_equal(tabulate(artefact, random_binding(10)), table)


def one_hot(states):
    return np.eye(10, dtype=np.float32)[states]


def test_a_normaliser_stands_between_observation_and_network():
    """Of an algorithm it is the vector env's, and after saving the artefact's own."""
    cmdp = random_binding(10)

    def make():
        env = TransformObservation(TabularEnv(cmdp), one_hot, Box(0.0, 1.0, (10,), np.float32))
        return CostContract(env, cmdp.constraints, env_id="one-hot", horizon=66)

    venv = VecNormalize(CostVecEnv(CostVectorEnv([make, make])), norm_reward=False)
    model = PPOLag("MlpPolicy", venv, **TINY)
    with th.no_grad():
        model.policy.action_net.weight.mul_(300)
    model.learn(64)
    table = tabulate(model, cmdp, observe=one_hot)
    scaled = venv.normalize_obs(one_hot(np.arange(10)))
    probabilities = model.policy.get_distribution(th.as_tensor(scaled)).distribution.probs.detach().numpy()
    np.testing.assert_allclose(table, probabilities, atol=1e-6)
    actions = tabulate(model, cmdp, observe=one_hot, deterministic=True).argmax(axis=1)
    np.testing.assert_array_equal(actions, model.predict(scaled, deterministic=True)[0])
    raw = model.policy.get_distribution(th.as_tensor(one_hot(np.arange(10)))).distribution.probs.detach().numpy()
    assert np.abs(raw - table).max() > 1e-3
    with pytest.raises(ConfigError, match="Give observe if it was trained on a wrapped env"):
        tabulate(model, cmdp)


def test_stock_algorithms_have_tables_too():
    """PPO by its distribution; DQN, which has none, by what it predicts."""
    cmdp = random_binding(10)
    env = DummyVecEnv([lambda: TabularEnv(cmdp)])
    table = tabulate(SB3PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0), cmdp)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    greedy = DQN("MlpPolicy", env, buffer_size=10, seed=0)
    with pytest.raises(ConfigError, match=r"DQN has a predict, but no action distribution\. Give deterministic=True"):
        tabulate(greedy, cmdp)
    np.testing.assert_array_equal(
        tabulate(greedy, cmdp, deterministic=True), np.eye(5)[greedy.predict(np.arange(10), deterministic=True)[0]]
    )


class Only:
    """Nothing but a predict; ``answers`` are given in turn."""

    def __init__(self, *answers, state=None):
        self.answers, self.state = itertools.cycle(answers), state

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.array(next(self.answers)), self.state


def test_a_policy_with_only_predict_is_tabulated_as_one_hot():
    policy = Only([1, 0])
    assert tabulate(policy, paradox_a(), deterministic=True).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ConfigError, match="Only has a predict, but no action distribution"):
        tabulate(policy, paradox_a())


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Only([0, 0], [0, 1]), "Only is stochastic: its predict gives other actions for the same states"),
        (Only([0, 0], state=np.zeros(2)), "Only a policy without a memory has a table"),
        (Only([0, 2]), r"must give an action from 0 to 1 for each of 2 observations; .* values \[0 2\]"),
        (Only([[0], [1]]), r"got an array of shape \(2, 1\)"),
    ],
    ids=["stochastic", "memory", "no such action", "shape"],
)
def test_what_has_no_table_is_refused(policy, message):
    with pytest.raises(ConfigError, match=message):
        tabulate(policy, paradox_a(), deterministic=True)


def test_a_policy_for_other_spaces_is_refused():
    with pytest.raises(
        ConfigError, match=r"must see Discrete\(2\) and act in Discrete\(2\); got one that sees Discrete"
    ):
        tabulate(fresh(random_binding(10)), paradox_a())


def test_an_env_that_is_no_cmdp_is_refused():
    with pytest.raises(ConfigError, match="needs a TabularCMDP or an env of one"):
        tabulate(RandomPolicy(TabularEnv(paradox_a()).action_space), saferl.make("SafetyHopperVelocity-v1"))


def test_tables_are_checked_and_played_as_they_are():
    cmdp = paradox_a()
    table = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_array_equal(tabulate(table, cmdp), table)
    np.testing.assert_array_equal(tabulate(table, cmdp, deterministic=True), [[0.0, 1.0], [1.0, 0.0]])
    for bad in ([[0.5, 0.6], [1.0, 0.0]], [[1.5, -0.5], [1.0, 0.0]], [[np.nan, 1.0], [1.0, 0.0]]):
        with pytest.raises(ConfigError, match=r"at least 0 with sum 1; got .* at \[0\]"):
            tabulate(np.array(bad), cmdp)
    with pytest.raises(ConfigError, match=r"must have shape \(2, 2\); got \(3, 2\)"):
        tabulate(np.ones((3, 2)) / 2, cmdp)


def test_the_random_policy_is_uniform():
    cmdp = paradox_a()
    policy = RandomPolicy(TabularEnv(cmdp).action_space)
    np.testing.assert_array_equal(tabulate(policy, cmdp), cmdp.uniform_policy())
    with pytest.raises(ConfigError, match="has no deterministic actions"):
        tabulate(policy, cmdp, deterministic=True)


def test_the_optimum_of_paradox_a_is_evaluated_to_its_known_numbers():
    result = evaluate_exactly(np.array([[10 / 11, 1 / 11], [1.0, 0.0]]), "ParadoxA-v0", optimum=0.5)
    assert result.return_ == pytest.approx(5.0, abs=1e-12)
    assert result.total_costs == {"cost": pytest.approx(5.0, abs=1e-12)}
    assert (result.value, result.costs.tolist()) == (pytest.approx(0.5), [pytest.approx(0.5)])
    assert result.gap == pytest.approx(0.0, abs=1e-12)
    assert result.violation == pytest.approx(0.0, abs=1e-12)


def test_staying_for_ever_is_better_than_the_optimum_and_breaks_the_budget():
    result = evaluate_exactly(np.array([[1.0, 0.0], [1.0, 0.0]]), paradox_a(), optimum=0.5)
    assert (result.value, result.violation) == (pytest.approx(1.0), pytest.approx(0.5))
    assert result.gap == pytest.approx(-0.5)
    never = evaluate_exactly(np.array([[0.0, 1.0], [1.0, 0.0]]), paradox_a())
    assert (never.gap, never.violation) == (None, 0.0)
    assert never.excess == pytest.approx([-0.5])


def test_the_budgets_of_the_env_are_those_that_count():
    policy = paradox_a().uniform_policy()
    assert evaluate_exactly(policy, saferl.make("ParadoxA-v0", budgets={"cost": 9.0})).violation == 0.0
    some = saferl.make(lambda: TabularEnv(two_constraints()), budgets={"second": 2.0})
    cmdp = two_constraints()
    excess = evaluate_exactly(cmdp.uniform_policy(), some).excess
    costs = cmdp.evaluate(cmdp.uniform_policy()).costs
    np.testing.assert_allclose(excess, costs - [cmdp.limits[0], 0.2], atol=1e-12)


def test_exact_values_are_what_episodes_of_a_trained_policy_average_to():
    """A finite horizon: return and cost of an episode lie in [0, 10]. Either mean of 480 episodes is off by more than
    the bound with probability below 1e-6 (Hoeffding)."""
    cmdp = finite_horizon_random()

    def make():
        return TabularEnv(cmdp)

    options = {"n_steps": 50, "batch_size": 200, "gamma": 1.0, "cost_gamma": 1.0}
    model = PPOLag("MlpPolicy", make_tabular_vec(cmdp, 16), **options, seed=1)
    before = evaluate_exactly(model, cmdp)
    model.learn(16 * 50 * 8)
    exact = evaluate_exactly(model, cmdp)
    assert abs(exact.value - before.value) > 1e-3
    episodes = 480
    sampled = saferl.evaluate(model, make, episodes=episodes, workers=1).summary
    bound = 10.0 * math.sqrt(math.log(2 * 2 / 1e-6) / (2 * episodes))
    assert sampled["return"]["mean"] == pytest.approx(exact.return_, abs=bound)
    assert sampled["constraints"]["cost"]["mean"] == pytest.approx(exact.total_costs["cost"], abs=bound)


def test_training_on_a_binding_instance_lowers_the_exact_violation():
    """And sampled discounted costs agree with it: each is at most ten times the largest cost, of which the time limit
    hides a thousandth; the mean of 320 is off by more than the bound with probability below 1e-6 (Hoeffding)."""
    cmdp = random_binding(10)
    options = {"n_steps": 66, "batch_size": 264, "learning_rate": 5e-3, "multiplier_lr": 0.05}
    discounts = {"gamma": 0.9, "cost_gamma": 0.9}
    model = PPOLag("MlpPolicy", saferl.make_vec("RandomBinding10-v0", 16), **options, **discounts, seed=2)
    before = evaluate_exactly(model, cmdp, optimum=0.7210813832)
    model.learn(16 * 66 * 12)
    after = evaluate_exactly(model, cmdp, optimum=0.7210813832)
    assert before.violation > 0.1
    assert after.violation < 0.4 * before.violation
    assert after.value > before.value
    episodes, largest = 320, 10.0 * cmdp.costs.max()
    sampled = saferl.evaluate(model, "RandomBinding10-v0", episodes=episodes, workers=1).summary
    bound = largest * (math.sqrt(math.log(2 / 1e-6) / (2 * episodes)) + 1e-3)
    assert sampled["constraints"]["cost"]["mean"] == pytest.approx(after.total_costs["cost"], abs=bound)


def test_ppo_lag_trains_on_paradox_a_from_a_single_env():
    model = PPOLag("MlpPolicy", saferl.make("ParadoxA-v0"), n_steps=132, batch_size=66, dual_min_episodes=1, seed=0)
    model.learn(264)
    assert model.multipliers.shape == (1,)
    assert tabulate(model, "ParadoxA-v0").shape == (2, 2)
