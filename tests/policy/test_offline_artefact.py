"""Artefacts of policies that were learned from data: whole, or refused."""

import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.errors import ArtefactError, ConfigError, UnknownNameError
from saferl.policy.behaviour import DeterministicMlp, GaussianMlp
from saferl.policy.offline import POLICIES, OfflinePolicy, policy_class
from saferl.policy.offline_actor import OfflineActor
from saferl.policy.offline_artefact import OfflineArtefact, save_offline_artefact
from saferl.storage import HEADER_HASH, header_digest

CONSTRAINTS = ConstraintSet([Constraint("cost", 5.0), Constraint("other", 2.0)])
BOX = spaces.Box(np.array([0.0, -3.0], np.float32), np.array([10.0, 3.0], np.float32))
DICT = spaces.Dict({"place": spaces.Box(-1.0, 1.0, (2, 2)), "mode": spaces.Discrete(3, start=1)})


def saved(folder, kind=GaussianMlp, observation=DICT):
    policy = kind(7, 2, net_arch=(8,)).eval()
    policy.shift += 0.5
    actor = OfflineActor(policy, observation, BOX, CONSTRAINTS.names)
    save_offline_artefact(folder, actor, CONSTRAINTS, {"env": "X-v0", "env_kwargs": {}})
    return actor


def batch(count=5):
    rng = np.random.default_rng(0)
    return {"place": rng.normal(size=(count, 2, 2)).astype(np.float32), "mode": rng.integers(1, 4, size=count)}


@pytest.mark.parametrize("kind", [GaussianMlp, DeterministicMlp])
def test_what_is_loaded_acts_bit_for_bit_as_what_was_saved(tmp_path, kind):
    actor = saved(tmp_path / "a", kind)
    loaded = saferl.load(tmp_path / "a")
    assert isinstance(loaded, OfflineArtefact)
    assert (loaded.observation_space, loaded.action_space, loaded.constraints) == (DICT, BOX, CONSTRAINTS)
    generators = [[np.random.default_rng([1, row]) for row in range(5)] for _ in range(2)]
    np.testing.assert_array_equal(loaded.sample(batch(), generators[0]), actor.sample(batch(), generators[1]))
    expected = actor.predict(batch(), deterministic=kind is not DeterministicMlp)[0]
    np.testing.assert_array_equal(loaded.predict(batch(), deterministic=True)[0], expected)


def test_loading_leaves_torchs_generator_alone(tmp_path):
    saved(tmp_path / "a")
    before = th.get_rng_state()
    saferl.load(tmp_path / "a")
    assert th.equal(before, th.get_rng_state())


def test_a_single_observation_gives_a_single_action_inside_the_box(tmp_path):
    saved(tmp_path / "a")
    loaded = saferl.load(tmp_path / "a")
    one = {key: value[0] for key, value in batch().items()}
    action, state = loaded.predict(one, deterministic=True)
    assert BOX.contains(action)
    assert state is None
    np.testing.assert_allclose(action, loaded.predict(batch(), deterministic=True)[0][0], atol=1e-5)


def test_actions_are_scaled_to_the_box_and_clipped():
    class Extreme(OfflinePolicy):
        kind = "extreme"

        def act(self, observations, state, generators, deterministic):
            return th.tensor([[-1.0, 1.0], [0.0, 0.5], [1.0, -7.0]])

    actor = OfflineActor(Extreme(1, 2), spaces.Box(-1.0, 1.0, (1,)), BOX, ("cost",))
    actions, _ = actor.predict(np.zeros((3, 1), np.float32))
    np.testing.assert_allclose(actions, [[0.0, 3.0], [5.0, 1.5], [10.0, -3.0]], atol=1e-6)


def test_a_changed_byte_of_weights_or_header_is_refused(tmp_path):
    saved(tmp_path / "a")
    weights = tmp_path / "a" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="was changed after it was written"):
        saferl.load(tmp_path / "a")
    weights.write_bytes(whole)
    header = tmp_path / "a" / "artefact.json"
    header.write_text(header.read_text().replace('"budget": 5.0', '"budget": 50.0'))
    with pytest.raises(ArtefactError, match="does not match its header_sha256"):
        saferl.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "gaussian_mpl", "Unknown kind of offline policy 'gaussian_mpl'. Did you mean 'gaussian_mlp'"),
        ("arch", {"net_arch": [9]}, "does not fit together"),
        ("arch", {"depth": 3}, "does not fit together"),
        ("kind", "os:system", "Unknown kind of offline policy"),
    ],
)
def test_a_header_that_was_rewritten_is_refused_in_one_message(tmp_path, key, value, message):
    saved(tmp_path / "a")
    path = tmp_path / "a" / "artefact.json"
    header = json.loads(path.read_text())
    header["offline"][key] = value
    path.write_text(json.dumps({**header, HEADER_HASH: header_digest(header)}))
    with pytest.raises(ArtefactError, match=message):
        saferl.load(tmp_path / "a")


def test_budgets_are_refused_by_a_policy_that_takes_none_and_for_unknown_costs(tmp_path):
    actor = saved(tmp_path / "a")
    with pytest.raises(ConfigError, match="keeps the budgets of its training"):
        saferl.load(tmp_path / "a").with_budgets({"cost": 1.0})
    with pytest.raises(UnknownNameError, match="Did you mean 'cost'"):
        OfflineActor(actor.policy, DICT, BOX, ("cost", "other"), {"cots": 1.0})


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,))])
def test_actions_outside_a_bounded_box_are_refused(space):
    with pytest.raises(ConfigError, match="bounded Box"):
        OfflineActor(DeterministicMlp(7, 2), DICT, space, ("cost",))


@pytest.mark.parametrize("kind", sorted(POLICIES))
def test_every_kind_is_the_name_that_its_class_has(kind):
    found = policy_class(kind)
    assert found.kind == kind
    assert issubclass(found, OfflinePolicy)


def test_the_density_of_a_squashed_gaussian_sums_to_one():
    policy = GaussianMlp(1, 1, net_arch=(4,))
    grid = th.linspace(-1.0, 1.0, 200_001)[1:-1]
    with th.no_grad():
        density = policy.log_prob(th.zeros(len(grid), 1), grid[:, None]).exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=2e-3)


def test_drawn_actions_of_a_squashed_gaussian_have_its_density():
    """Mean of ``log_prob`` over 20,000 draws against its integral, within five standard errors."""
    policy = GaussianMlp(1, 1, net_arch=(4,)).eval()
    grid = th.linspace(-1.0, 1.0, 200_001)[1:-1]
    with th.no_grad():
        logs = policy.log_prob(th.zeros(len(grid), 1), grid[:, None])
        entropy = float((logs.exp() * logs).sum() * (grid[1] - grid[0]))
        generators = [np.random.default_rng([3, row]) for row in range(20_000)]
        drawn = policy.log_prob(th.zeros(20_000, 1), policy.act(th.zeros(20_000, 1), None, generators, False))
    assert abs(float(drawn.mean()) - entropy) < 5.0 * float(drawn.std()) / 20_000**0.5 + 2e-3
