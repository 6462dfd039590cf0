"""An artefact acts as the model did when it was saved, or refuses to load with one clear error."""

import functools
import json
import pickle
import shutil

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ArtefactError
from saferl.policy import artefact as artefact_module
from saferl.policy import save_artefact
from saferl.policy.artefact import header_digest
from saferl.policy.networks import ConstrainedActorCriticPolicy
from saferl.policy.sampling import sample_rows
from saferl.rollout import CostVecEnv
from saferl.solvers import PPOLag, UnconstrainedPPO

CONSTRAINTS = ConstraintSet([Constraint("cost", 2.0, max_step_cost=1.0), Constraint("heat", 3.0)])
BOX = spaces.Box(-5.0, 5.0, (3,), np.float64)
WIDE = spaces.Box(np.full((2, 3), -0.3, np.float32), np.full((2, 3), 0.5, np.float32))
SPACES = {
    "box": (BOX, WIDE),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
    "multidiscrete": (BOX, spaces.MultiDiscrete([2, 3])),
    "multibinary": (spaces.MultiBinary(4), spaces.MultiBinary(3)),
    "dict": (spaces.Dict([("x", BOX), ("k", spaces.Discrete(5)), ("b", BOX)]), spaces.Discrete(3)),
    "image": (spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(3)),
}
POLICIES = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}
each_kind = pytest.mark.parametrize("kind", SPACES)


class Toy(gymnasium.Env):
    """Ten steps of random observations, far from mean 0 and variance 1."""

    constraints = CONSTRAINTS

    def __init__(self, kind):
        self.observation_space, self.action_space = SPACES[kind]
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._obs(), {}

    def step(self, action):
        self._steps += 1
        return self._obs(), 1.0, False, self._steps == 10, {"costs": {"cost": 1.0, "heat": 0.5}}

    def _obs(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


@functools.cache
def trained(kind, solver=PPOLag):
    """A model after a little training, with normalised observations where they are floats."""
    env = CostVecEnv(saferl.make_vec(lambda: Toy(kind), 2))
    if kind in ("box", "multidiscrete", "dict"):
        env = VecNormalize(env, norm_reward=False, norm_obs_keys=["x", "b"] if kind == "dict" else None)
    model = solver(POLICIES.get(kind, "MlpPolicy"), env, n_steps=10, batch_size=20, seed=1, device="cpu")
    model.learn(40)
    return model


def batch(kind, size=16, seed=0):
    space, _ = SPACES[kind]
    space.seed(seed)
    rows = [space.sample() for _ in range(size)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]) for key in space.spaces}
    return np.stack(rows)


def normalised(model, obs):
    env = model.get_vec_normalize_env()
    return obs if env is None else env.normalize_obs(obs)


def generators(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.fixture(params=[PPOLag, UnconstrainedPPO], ids=["ppo_lag", "ppo"])
def solver(request):
    return request.param


@pytest.fixture
def saved(tmp_path):
    return save_artefact(tmp_path / "artefact", trained("box"), CONSTRAINTS, {"env": "toy", "steps": 40})


@each_kind
def test_a_loaded_policy_acts_exactly_as_the_saved_model(kind, solver, tmp_path):
    model = trained(kind, solver)
    loaded = saferl.load(save_artefact(tmp_path / "artefact", model, CONSTRAINTS, {}))
    obs = batch(kind)
    expected, _ = model.predict(normalised(model, obs), deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    th.manual_seed(3)
    expected, _ = model.predict(normalised(model, obs))
    th.manual_seed(3)
    np.testing.assert_array_equal(loaded.predict(obs)[0], expected)


@each_kind
def test_spaces_are_kept_and_every_action_lies_in_them(kind, tmp_path):
    loaded = saferl.load(save_artefact(tmp_path / "artefact", trained(kind), CONSTRAINTS, {}))
    assert (loaded.observation_space, loaded.action_space) == SPACES[kind]
    obs = batch(kind)
    samples = loaded.sample(obs, generators(*range(16)))
    for actions in (samples, loaded.predict(obs)[0], loaded.predict(obs, deterministic=True)[0]):
        assert all(loaded.action_space.contains(action) for action in actions)


def test_an_unbatched_observation_gives_an_unbatched_action(saved):
    loaded = saferl.load(saved)
    obs = batch("box")
    np.testing.assert_allclose(
        loaded.predict(obs[0], deterministic=True)[0], loaded.predict(obs, deterministic=True)[0][0], rtol=1e-5
    )


def test_constraints_and_provenance_are_kept(saved):
    loaded = saferl.load(saved)
    assert loaded.constraints == CONSTRAINTS
    assert loaded.provenance == {"env": "toy", "steps": 40}


def test_a_plain_model_of_stable_baselines3_can_be_an_artefact(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0, device="cpu")
    loaded = saferl.load(save_artefact(tmp_path / "artefact", model, CONSTRAINTS, {}))
    obs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_the_normaliser_gives_what_vec_normalize_gave_at_save_time(kind, tmp_path):
    env = CostVecEnv(saferl.make_vec(lambda: Toy(kind), 2))
    env = VecNormalize(env, clip_obs=1.5, norm_obs_keys=["x", "b"] if kind == "dict" else None)
    model = PPOLag(POLICIES.get(kind, "MlpPolicy"), env, n_steps=10, batch_size=20, seed=1, device="cpu").learn(40)
    obs = batch(kind, 200)
    at_save_time = env.normalize_obs(obs)
    loaded = saferl.load(save_artefact(tmp_path / "artefact", model, CONSTRAINTS, {}))
    model.learn(100)
    np.testing.assert_equal(loaded.normaliser(obs), at_save_time)
    moved = env.normalize_obs(obs)
    assert not np.array_equal(
        moved["x"] if kind == "dict" else moved, at_save_time["x"] if kind == "dict" else at_save_time
    )
    if kind == "dict":
        np.testing.assert_array_equal(loaded.normaliser(obs)["k"], obs["k"])


def test_predictions_do_not_change_however_often_it_predicts(saved):
    loaded = saferl.load(saved)
    obs = batch("box")
    first, _ = loaded.predict(obs, deterministic=True)
    for seed in range(100):
        loaded.predict(100.0 * batch("box", seed=seed))
        loaded.sample(100.0 * batch("box", seed=seed), generators(*range(16)))
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], first)


def test_a_policy_without_normalisation_gets_raw_observations(tmp_path):
    loaded = saferl.load(save_artefact(tmp_path / "artefact", trained("discrete"), CONSTRAINTS, {}))
    assert loaded.normaliser is None


def test_loading_runs_no_pickle(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was loaded")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (th, "load"), (np, "load")):
        monkeypatch.setattr(module, name, refuse)
    action, _ = saferl.load(saved).predict(batch("box"), deterministic=True)
    assert action.shape == (16, 2, 3)
    assert sorted(path.name for path in saved.iterdir()) == ["artefact.json", "weights.safetensors"]


def change_header(folder, **changes):
    header = json.loads((folder / "artefact.json").read_text())
    for key, value in changes.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    header["header_sha256"] = header_digest(header)
    (folder / "artefact.json").write_text(json.dumps(header))


def flip_a_byte(folder):
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def loosen_the_budget(folder):
    header = json.loads((folder / "artefact.json").read_text())
    header["constraints"][0]["budget"] += 1
    (folder / "artefact.json").write_text(json.dumps(header))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "a changed byte": (flip_a_byte, "was changed after it was written.*Copy the artefact again"),
    "a loosened budget": (loosen_the_budget, "artefact.json was changed after it was written.*Copy the artefact again"),
    "cut-off weights": (lambda f: truncate(f / "weights.safetensors"), "was changed.*Copy the artefact again"),
    "missing weights": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing.*Copy"),
    "missing header": (lambda f: (f / "artefact.json").unlink(), "holds no artefact.json.*--out"),
    "cut-off header": (lambda f: truncate(f / "artefact.json"), "not valid JSON.*cut off or edited"),
    "header in binary": (lambda f: (f / "artefact.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
    "header is a list": (lambda f: (f / "artefact.json").write_text("[]"), "must have schema.*saferl version"),
    "newer schema": (lambda f: change_header(f, schema="saferl.artefact/2"), "got 'saferl.artefact/2'.*saferl version"),
    "no schema": (lambda f: change_header(f, schema=None), "got None.*saferl version"),
    "no hashes": (lambda f: change_header(f, sha256=None), "must list the sha256"),
    "hashes of nothing": (lambda f: change_header(f, sha256={}), "must list the sha256"),
    "a hash that is a number": (lambda f: change_header(f, sha256={"weights.safetensors": 7}), "was changed"),
    "another network": (
        lambda f: change_header(f, network={"net_arch": [2], "activation_fn": "Tanh"}),
        "size mismatch",
    ),
    "network is a list": (lambda f: change_header(f, network=[1]), "does not fit together"),
    "unknown activation": (lambda f: change_header(f, network={"activation_fn": "Sine"}), "activation 'Sine'"),
    "unknown policy class": (lambda f: change_header(f, policy_class="Transformer"), "policy class 'Transformer'"),
    "no policy class": (lambda f: change_header(f, policy_class=None), "'policy_class' is missing"),
    "another action space": (
        lambda f: change_header(f, action_space={"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}),
        "does not fit together",
    ),
    "an action space that no network has": (
        lambda f: change_header(f, action_space={"type": "MultiBinary", "n": [2, 2]}),
        "does not fit together",
    ),
    "unknown space": (lambda f: change_header(f, action_space={"type": "Sphere"}), "Sphere"),
    "normaliser is text": (lambda f: change_header(f, normaliser="yes"), "does not fit together"),
    "no constraints": (lambda f: change_header(f, constraints=None), "'constraints' is missing"),
    "a negative budget": (lambda f: change_header(f, constraints=[{"name": "cost", "budget": -1}]), "at least 0"),
    "provenance is text": (lambda f: change_header(f, provenance="home"), "provenance must be an object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_is_one_error_that_names_the_folder_and_a_way_out(damage, saved):
    spoil, message = DAMAGES[damage]
    spoil(saved)
    with pytest.raises(ArtefactError, match=message) as caught:
        saferl.load(saved)
    assert str(saved) in str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n  " not in str(caught.value).replace("\n\t", "")


def test_a_half_written_run_names_its_checkpoints(tmp_path):
    run = tmp_path / "run"
    (run / ".artefact.x7").mkdir(parents=True)  # what a killed write leaves
    (run / "run.json").write_text('{"status": "running"}')
    with pytest.raises(ArtefactError, match=r"did not finish.*checkpoints"):
        saferl.load(run)


def test_a_missing_or_foreign_folder_is_told_apart(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        saferl.load(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match=r"holds no artefact\.json"):
        saferl.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match=r"holds no artefact\.json"):
        saferl.load(tmp_path / "file")


def test_a_run_folder_loads_its_last_iterate(saved):
    assert saferl.load(saved.parent).path == saved
    assert saferl.load(str(saved)).path == saved


def test_an_artefact_can_be_moved(saved, tmp_path):
    before = saferl.load(saved).predict(batch("box"), deterministic=True)[0]
    shutil.move(saved, tmp_path / "elsewhere")
    np.testing.assert_array_equal(
        saferl.load(tmp_path / "elsewhere").predict(batch("box"), deterministic=True)[0], before
    )


def test_a_failed_save_leaves_the_older_artefact_and_nothing_else(saved, monkeypatch):
    before = (saved / "weights.safetensors").read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(artefact_module, "write_header", fail)
    with pytest.raises(OSError, match="disk full"):
        save_artefact(saved, trained("discrete"), CONSTRAINTS, {})
    assert [path.name for path in saved.parent.iterdir()] == ["artefact"]
    assert (saved / "weights.safetensors").read_bytes() == before
    assert saferl.load(saved).observation_space == BOX


class OwnPolicy(ConstrainedActorCriticPolicy):
    """A policy that only its author can build."""


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "message"),
    [
        (OwnPolicy, {}, "got OwnPolicy"),
        ("MlpPolicy", {"activation_fn": nn.Softplus}, "got Softplus"),
        ("CnnPolicy", {"features_extractor_kwargs": {"features_dim": 8}}, "NatureCNN with {'features_dim': 8}"),
    ],
)
def test_a_network_that_an_artefact_cannot_describe_is_refused_when_it_is_saved(
    policy, policy_kwargs, message, tmp_path
):
    env = saferl.make_vec(lambda: Toy("image" if policy == "CnnPolicy" else "box"), 1)
    model = PPOLag(policy, env, n_steps=8, policy_kwargs=policy_kwargs, device="cpu")
    with pytest.raises(ArtefactError, match=message):
        save_artefact(tmp_path / "artefact", model, CONSTRAINTS, {})
    assert not (tmp_path / "artefact").exists()


def test_state_dependent_noise_is_refused_when_it_is_saved(tmp_path):
    model = PPO("MlpPolicy", "Pendulum-v1", use_sde=True, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ArtefactError, match="use_sde=True"):
        save_artefact(tmp_path / "artefact", model, CONSTRAINTS, {})


@pytest.mark.parametrize("kind", ["box", "discrete", "multidiscrete", "multibinary", "dict"])
def test_a_row_depends_on_its_own_generator_and_observation_alone(kind, tmp_path):
    loaded = saferl.load(save_artefact(tmp_path / "artefact", trained(kind), CONSTRAINTS, {}))
    obs, other_obs = batch(kind), batch(kind, seed=1)
    if isinstance(obs, dict):
        for key, value in other_obs.items():
            value[5] = obs[key][5]
    else:
        other_obs[5] = obs[5]
    first = loaded.sample(obs, generators(*range(16)))
    other = loaded.sample(other_obs, generators(*range(100, 105), 5, *range(200, 210)))
    np.testing.assert_array_equal(first[5], other[5])
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, loaded.sample(obs, generators(*range(16))))


def test_loading_and_sampling_leave_the_global_generators_alone(saved):
    th.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the legacy generator is what must stay untouched
    before = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    saferl.load(saved).sample(batch("box"), generators(*range(16)))
    assert th.equal(th.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


# Each of the tests below would fail with probability 1e-6 if its seed were drawn afresh.
N, LEVEL = 20_000, 1e-6


def draw(distribution):
    rng = np.random.default_rng(7)
    return sample_rows(distribution, [rng] * N)


def test_gaussian_samples_follow_mean_and_deviation():
    mean, log_std = th.tensor([[1.0, -2.0]]).repeat(N, 1), th.tensor([-1.0, 0.5])
    samples = draw(DiagGaussianDistribution(2).proba_distribution(mean, log_std))
    standard = (samples - mean.numpy()) / log_std.exp().numpy()
    for column in standard.T:
        assert stats.kstest(column, "norm").pvalue > LEVEL
    assert stats.pearsonr(*standard.T).pvalue > LEVEL
    assert samples.dtype == np.float32


def test_categorical_samples_follow_the_probabilities():
    probs = np.array([0.1, 0.0, 0.6, 0.3])
    samples = draw(CategoricalDistribution(4).proba_distribution(th.tensor(np.log(probs + 1e-30)).repeat(N, 1)))
    counted = np.bincount(samples, minlength=4)
    assert counted[1] == 0
    assert stats.chisquare(counted[[0, 2, 3]], N * probs[[0, 2, 3]]).pvalue > LEVEL


def test_multi_categorical_samples_follow_independent_probabilities():
    first, second = np.array([0.2, 0.8]), np.array([0.5, 0.2, 0.3])
    logits = th.tensor(np.log(np.concatenate([first, second]))).repeat(N, 1)
    samples = draw(MultiCategoricalDistribution([2, 3]).proba_distribution(logits))
    counted = np.bincount(samples[:, 0] * 3 + samples[:, 1], minlength=6)
    assert stats.chisquare(counted, N * np.outer(first, second).flatten()).pvalue > LEVEL


def test_bernoulli_samples_follow_independent_probabilities():
    probs = np.array([0.3, 0.9])
    samples = draw(BernoulliDistribution(2).proba_distribution(th.tensor(np.log(probs / (1 - probs))).repeat(N, 1)))
    joint = np.outer([1 - probs[0], probs[0]], [1 - probs[1], probs[1]]).flatten()
    assert stats.chisquare(np.bincount(samples[:, 0] * 2 + samples[:, 1], minlength=4), N * joint).pvalue > LEVEL


def test_sampled_actions_are_the_clipped_samples_of_the_distribution(saved):
    loaded = saferl.load(saved)
    obs = batch("box")
    tensors, _ = loaded.policy.obs_to_tensor(loaded.normaliser(obs))
    with th.no_grad():
        raw = sample_rows(loaded.policy.get_distribution(tensors), generators(*range(16)))
    actions = loaded.sample(obs, generators(*range(16)))
    np.testing.assert_array_equal(actions, np.clip(raw.reshape(16, 2, 3), WIDE.low, WIDE.high))
    assert (actions == 0.5).any()


def test_a_distribution_without_row_sampling_is_refused_by_name():
    with pytest.raises(TypeError, match="StateDependentNoiseDistribution"):
        sample_rows(StateDependentNoiseDistribution(2), generators(0))


def test_the_evaluation_counter_counts_and_outlives_the_process(saved):
    loaded = saferl.load(saved)
    assert loaded.evaluations == 0
    assert [loaded.count_evaluation() for _ in range(2)] == [1, 2]
    assert saferl.load(saved).evaluations == 2
    assert json.loads((saved / "evaluations.json").read_text()) == {"count": 2}


def test_a_read_only_artefact_can_still_be_evaluated(saved, monkeypatch):
    loaded = saferl.load(saved)

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(artefact_module, "write_json", refuse)
    assert loaded.count_evaluation() == 1
    assert not (saved / "evaluations.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"count": "many"}', '{"count": null}'])
def test_a_broken_counter_is_one_error_with_a_way_out(content, saved):
    (saved / "evaluations.json").write_text(content)
    loaded = saferl.load(saved)
    with pytest.raises(ArtefactError, match=r'evaluation counter.*Write {"count": N}'):
        loaded.count_evaluation()
