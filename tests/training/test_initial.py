"""A training starts from a policy that exists: its weights and statistics, if it fits."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import unwrap_vec_normalize

import saferl
from saferl.errors import ArtefactError, ConfigError
from saferl.training import RunSettings
from saferl.training.build import Job, build_env, build_model
from saferl.training.initial import initialise

SMALL = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
SETTINGS = RunSettings(num_envs=2, num_checkpoints=0, validation_share=0.0, net_arch=(16,))
ENV = "SafetyHopperVelocity-v1"
KWARGS = {"max_episode_steps": 20}


def run(out, solver="ppo_lag", **kwargs):
    defaults = {"steps": 64, "options": SMALL, "settings": SETTINGS, "env_kwargs": KWARGS}
    return saferl.train(solver, ENV, out=out, **{**defaults, **kwargs}).folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run(tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def unconstrained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("ppo") / "run", solver="ppo")


def new_model(solver="ppo_lag", **kwargs):
    job = Job(solver, **{"env_id": ENV, "steps": 64, "options": SMALL, "settings": SETTINGS, "seed": 9, **kwargs})
    env = build_env(job)
    return build_model(job, env)


def test_a_new_run_predicts_as_the_policy_that_it_starts_from_and_keeps_its_statistics(first):
    artefact, model = saferl.load(first), new_model()
    about = initialise(model, first)
    obs = np.random.default_rng(0).normal(size=(8, 11))
    scaled = unwrap_vec_normalize(model.env).normalize_obs(obs)
    assert np.array_equal(model.predict(scaled, deterministic=True)[0], artefact.predict(obs, deterministic=True)[0])
    counts = artefact.normaliser.count[""]
    assert unwrap_vec_normalize(model.env).obs_rms.count == counts > 64
    assert about["weights_sha256"] == artefact.header["sha256"]["weights.safetensors"]
    own, given = model.policy.state_dict(), artefact.policy.state_dict()
    assert all(np.array_equal(own[key], given[key]) for key in own)


def test_a_constrained_run_starts_from_an_unconstrained_one_with_a_new_cost_critic(unconstrained):
    model = new_model()
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    initialise(model, unconstrained)
    own, given = model.policy.state_dict(), saferl.load(unconstrained).policy.state_dict()
    assert all(np.array_equal(own[key], given[key]) for key in given)
    fresh = [key for key in own if key not in given]
    assert fresh
    assert all(key.startswith("cost_") and np.array_equal(own[key], before[key]) for key in fresh)


def test_the_run_says_what_it_started_from_and_does_learn(first, tmp_path):
    folder = run(tmp_path / "second", init_from=first, seed=4)
    provenance = saferl.load(folder).provenance["init_from"]
    assert (provenance["policy"], provenance["steps"], provenance["solver"]) == (str(first), 64, "ppo_lag")
    assert (folder / "artefact/weights.safetensors").read_bytes() != (
        first / "artefact/weights.safetensors"
    ).read_bytes()


def test_it_differs_from_a_run_that_starts_anew(first, tmp_path):
    one, other = run(tmp_path / "one", init_from=first), run(tmp_path / "other")
    assert (one / "artefact/weights.safetensors").read_bytes() != (other / "artefact/weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env_id": "SafetyWalker2dVelocity-v1"}, "same observation space"),
        ({"settings": RunSettings(num_envs=1, net_arch=(8,))}, r"same network; .* is \(8, 11\) here and \(16, 11\)"),
        ({"settings": RunSettings(num_envs=1, net_arch=(16, 16))}, "is .* here and absent"),
        ({"settings": RunSettings(num_envs=1, net_arch=(16,), activation="ReLU")}, "ReLU here and Tanh in .*=Tanh"),
        (
            {"settings": RunSettings(num_envs=1, net_arch=(16,), normalize_observations=False)},
            "with it. Use --set normalize_observations=true",
        ),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_the_difference_named(first, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        initialise(new_model(**kwargs), first)


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="needed"):
        run(tmp_path / "run", init_from=tmp_path)
