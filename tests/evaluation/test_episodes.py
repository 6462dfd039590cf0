"""An episode's record depends on the policy, the environment and its own seed, and on nothing that runs beside it."""

import functools
import json
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import EnvContractError
from saferl.evaluation import BLOCK, evaluate
from saferl.evaluation import episodes as episodes_module
from saferl.evaluation.episodes import BlockRunner
from saferl.policy import RandomPolicy, save_artefact
from saferl.rollout import CostVecEnv
from saferl.solvers import PPOLag

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import this module

CONSTRAINTS = ConstraintSet(
    [Constraint("high", 5.0, max_step_cost=1.0), Constraint("heat", 5.0, kind="discounted", gamma=0.9)]
)


class Walk(gymnasium.Env):
    """A random walk of random length, at most 40 steps. It refuses to be stepped after its end."""

    constraints = CONSTRAINTS
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.seeds = []
        self._steps, self._position, self._is_over = 0, 0.0, True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self._steps, self._position, self._is_over = 0, self.np_random.normal(), False
        return self._obs(), {}

    def step(self, action):
        assert not self._is_over, "stepped after the end"
        self._steps += 1
        self._position += float(action[0]) + 0.1 * self.np_random.normal()
        terminated, truncated = bool(self.np_random.random() < 0.08), self._steps == 40
        self._is_over = terminated or truncated
        costs = {"high": float(self._position > 0), "heat": abs(self._position)}
        return self._obs(), self._position, terminated, truncated, {"costs": costs, "cost": 2.0}

    def _obs(self):
        return np.array([self._position, self._steps], np.float32)


class TorchPolicy:
    """Only ``predict``, drawing from torch's global generator, as Stable-Baselines3's models do."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        noise = 0.0 if deterministic else th.randn(len(observation), 1).numpy()
        return np.clip(-0.1 * observation[:, :1] + noise, -1, 1), state


@functools.cache
def trained():
    return PPOLag("MlpPolicy", CostVecEnv(saferl.make_vec(Walk, 2)), n_steps=20, seed=0, device="cpu").learn(40)


@pytest.fixture
def artefact(tmp_path):
    return save_artefact(tmp_path / "policy", trained(), CONSTRAINTS, {})


def run(policy, seeds, *, env=Walk, deterministic=False, first=0, **kwargs):
    runner = BlockRunner(functools.partial(saferl.make, env, **kwargs), policy, deterministic=deterministic)
    records = runner.run(first, seeds)
    runner.close()
    return records


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", ["artefact", "torch"])
def test_episode_i_of_5_equals_episode_i_of_20(kind, deterministic, artefact):
    policy = artefact if kind == "artefact" else TorchPolicy()
    found = []
    for episodes in (20, 5):
        th.manual_seed(episodes)  # what came before must not matter either
        found.append(evaluate(policy, Walk, episodes=episodes, deterministic=deterministic, workers=1).records)
    many, few = found
    assert few == many[:5]
    assert len({record.return_ for record in many}) == 20


def test_the_random_policy_repeats_itself():
    many, few = (evaluate(RandomPolicy(Walk.action_space), Walk, episodes=n, workers=1).records for n in (20, 5))
    assert few == many[:5]


def test_a_network_on_mujoco_gives_the_same_episodes_alone_and_among_others(tmp_path):
    env = "SafetyHalfCheetahVelocity-v1"
    model = PPOLag("MlpPolicy", saferl.make_vec(env, 1), n_steps=8, seed=0, device="cpu")
    folder = save_artefact(tmp_path / "policy", model, model.constraints, {})
    short = {"max_episode_steps": 40}
    many, few = (evaluate(folder, env, episodes=n, workers=1, env_kwargs=short).records for n in (18, 2))
    assert few == many[:2]
    last = evaluate(folder, env, episodes=1, workers=1, env_kwargs=short, first_seed=many[17].seed).records[0]
    assert (last.return_, last.costs) == (many[17].return_, many[17].costs)


def test_the_number_of_workers_changes_nothing(artefact):
    here = evaluate(artefact, Walk, episodes=37, workers=1)
    there = evaluate(artefact, Walk, episodes=37, workers=2)
    assert there.records == here.records
    for summary in (here.summary, there.summary):
        del summary["duration_s"], summary["policy"]["evaluations"]
    assert there.summary == here.summary


def test_every_episode_is_reset_once_with_its_own_seed_and_not_stepped_after_its_end():
    envs = []

    def make():
        envs.append(Walk())
        return envs[-1]

    runner = BlockRunner(functools.partial(saferl.make, make), RandomPolicy(Walk.action_space), deterministic=False)
    records = [*runner.run(0, list(range(100, 116))), *runner.run(16, [116, 117, 118])]
    assert len(envs) == BLOCK
    assert [env.seeds for env in envs] == [[100 + i, 116 + i] if i < 3 else [100 + i] for i in range(BLOCK)]
    assert [(r.episode, r.seed) for r in records] == [(i, 100 + i) for i in range(19)]
    assert len({r.length for r in records}) > 5


def test_a_first_seed_moves_the_window_of_seeds():
    ahead = evaluate(RandomPolicy(Walk.action_space), Walk, episodes=6, first_seed=1000, workers=1).records
    later = evaluate(RandomPolicy(Walk.action_space), Walk, episodes=4, first_seed=1002, workers=1).records
    assert [r.seed for r in ahead] == list(range(1000, 1006))
    assert [(r.seed, r.return_, r.length) for r in later] == [(r.seed, r.return_, r.length) for r in ahead[2:]]


def test_the_policy_always_sees_a_whole_block_with_zeros_in_unused_lanes():
    seen = []

    class Spy(TorchPolicy):
        def predict(self, observation, *args):
            seen.append(observation.copy())
            return super().predict(observation, *args)

    run(Spy(), [1, 2, 3])
    assert {obs.shape for obs in seen} == {(BLOCK, 2)}
    assert not any(obs[3:].any() for obs in seen)


def test_a_policy_with_state_gets_it_back_until_the_block_ends():
    calls = []

    class Stateful(TorchPolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            calls.append((state, episode_start.copy()))
            count = np.zeros(len(observation), int) if state is None else state
            return super().predict(observation, None, None, deterministic)[0], count + 1

    runner = BlockRunner(functools.partial(saferl.make, Walk), Stateful(), deterministic=False)
    lengths = []
    for seeds in ([1, 2, 3], [4, 5]):
        calls.clear()
        records = runner.run(0, seeds)
        assert calls[0][0] is None
        assert calls[0][1].all()
        for index, (state, starts) in enumerate(calls[1:], start=1):
            assert (state == index).all()
            assert not starts.any()
        lengths.append((len(calls), max(r.length for r in records)))
    assert all(number_of_calls == longest for number_of_calls, longest in lengths)


def test_sampled_actions_come_from_sample_and_deterministic_ones_from_predict():
    class Both:
        def sample(self, observation, generators):
            assert len(generators) == BLOCK
            return np.full((BLOCK, 1), 1.0)

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            assert deterministic
            return np.full((BLOCK, 1), -1.0), state

    sampled, mean = (run(Both(), [1], deterministic=flag)[0] for flag in (False, True))
    assert sampled.return_ > 0 > mean.return_


class Clock(gymnasium.Env):
    """Costs 1 and 3 per step; ends by itself after as many steps as its seed says, or is cut at 6."""

    constraints = ConstraintSet(
        [Constraint("one", 9.0, kind="discounted", gamma=0.9), Constraint("three", 9.0, kind="discounted", gamma=0.5)]
    )
    observation_space = spaces.Dict({"time": spaces.Box(0, 100, (1,), np.float32), "phase": spaces.Discrete(7)})
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps, self._end = 0, seed
        return self._obs(), {}

    def step(self, action):
        assert type(action) is int
        self._steps += 1
        info = {"costs": {"one": 1.0, "three": 3.0}}
        return self._obs(), 0.5, self._steps == self._end, self._steps == 6, info

    def _obs(self):
        return {"time": np.array([self._steps], np.float32), "phase": self._steps}


def test_sums_lengths_and_ends_are_those_of_each_episode():
    seeds = [1, 3, 5, 100]
    records = run(RandomPolicy(Clock.action_space), seeds, env=Clock)
    lengths = [1, 3, 5, 6]
    assert [r.length for r in records] == lengths
    assert [r.terminated for r in records] == [True, True, True, False]
    assert [r.return_ for r in records] == [0.5 * n for n in lengths]
    assert [r.costs for r in records] == [{"one": float(n), "three": 3.0 * n} for n in lengths]
    assert [r.cost for r in records] == [4.0 * n for n in lengths]  # no scalar of its own: the sum


def test_discounted_costs_weigh_step_t_by_gamma_to_the_t():
    for record in run(RandomPolicy(Clock.action_space), [1, 3, 5, 100], env=Clock):
        n = record.length
        assert record.discounted_costs["one"] == pytest.approx((1 - 0.9**n) / 0.1, rel=1e-12)
        assert record.discounted_costs["three"] == pytest.approx(3 * (1 - 0.5**n) / 0.5, rel=1e-12)


def test_only_discounted_constraints_have_discounted_costs():
    (record,) = run(RandomPolicy(Walk.action_space), [1])
    assert set(record.costs) == {"high", "heat"}
    assert set(record.discounted_costs) == {"heat"}
    assert record.cost == 2.0 * record.length  # the env's own scalar, not the sum of the parts


def test_a_record_becomes_one_json_object_with_the_key_return():
    (record,) = run(RandomPolicy(Walk.action_space), [1], first=7)
    data = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert set(data) == {
        *("episode", "seed", "length", "terminated", "costs", "cost", "discounted_costs", "return", "violating_steps")
    }
    assert (data["episode"], data["return"]) == (7, record.return_)


def test_evaluating_leaves_torch_as_it_was():
    th.manual_seed(5)
    before, threads = th.get_rng_state(), th.get_num_threads()
    evaluate(TorchPolicy(), Walk, episodes=3, workers=1)
    assert th.equal(th.get_rng_state(), before)
    assert th.get_num_threads() == threads


class Endless(gymnasium.Env):
    constraints = ConstraintSet([Constraint("cost", 1.0)])
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"cost": 0.0}


def test_an_episode_that_never_ends_is_an_error_that_asks_for_a_time_limit(monkeypatch):
    monkeypatch.setattr(episodes_module, "_NO_END", 50)
    with pytest.raises(EnvContractError, match=r"Endless: an episode did not end within 50 steps.*max_episode_steps"):
        run(RandomPolicy(Endless.action_space), [1], env=Endless)
    assert run(RandomPolicy(Endless.action_space), [1], env=Endless, max_episode_steps=60)[0].length == 60
