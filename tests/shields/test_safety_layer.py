"""The learned linear cost model: exact corrections, a fit that finds a known model, and honest words."""

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, load_shield, save_shield
from saferl.shields.networks import Network
from saferl.shields.qp import project
from saferl.shields.safety_layer import SafetyLayer, SafetyLayerConfig, fit_safety_layer
from saferl.testing import check_shield

SPACE = ActionSpec.box([0.0, -2.0], [4.0, 2.0])  # middle (2, 0), half ranges (2, 2)
MIDDLE, HALF = np.array([2.0, 0.0]), np.array([2.0, 2.0])


def constant_model(base, gain):
    """The same b and g for every observation of three numbers."""
    out = np.concatenate([base, np.ravel(gain)])
    return Network((np.zeros((len(out), 3)),), (out,))


def random_layer(generator, costs=2):
    sizes = [3, 8, costs * 3]
    weights = [generator.normal(size=(sizes[1], sizes[0])), generator.normal(size=(sizes[2], sizes[1]))]
    return SafetyLayer(SPACE, Network(weights, [np.zeros(8), generator.normal(size=sizes[2])]), limits=[1.0] * costs)


def test_one_exceeded_limit_is_corrected_along_its_gain_by_the_closed_form_of_the_paper():
    base, gain, limit = 0.2, np.array([0.5, -1.0]), 0.1
    layer = SafetyLayer(SPACE, constant_model([base], gain), [limit])
    wish = np.array([2.4, -0.8])
    a0 = (wish - MIDDLE) / HALF
    multiplier = (gain @ a0 + base - limit) / (gain @ gain)
    decision = layer.filter(np.zeros(3), wish)
    np.testing.assert_allclose(decision.action, MIDDLE + HALF * (a0 - multiplier * gain), atol=1e-8)
    assert decision.kind == "projected"
    assert decision.margin == pytest.approx(limit - base - gain @ a0)
    assert layer.filter(np.zeros(3), [2.0, 1.0]).kind == "pass"


def test_several_limits_are_the_projection_in_half_ranges_and_never_worse_than_predicted():
    generator = np.random.default_rng(0)
    kinds = set()
    for _ in range(300):
        layer, obs = random_layer(generator), generator.normal(size=3)
        wish = MIDDLE + 1.5 * HALF * generator.uniform(-1, 1, 2)
        decision = layer.filter(obs, wish)
        base, gain = layer.predict(obs)
        kinds.add(decision.kind)
        exact = project((wish - MIDDLE) / HALF, -gain, base - layer.limits, -np.ones(2), np.ones(2))
        np.testing.assert_allclose((decision.action - MIDDLE) / HALF, exact.action, atol=1e-7)
        predicted = base + gain @ ((decision.action - MIDDLE) / HALF)
        if decision.kind == "infeasible":
            assert decision.slack == pytest.approx((predicted - layer.limits).max(), abs=1e-7)
        else:
            assert (predicted <= layer.limits + 1e-12).all()
    assert kinds == {"pass", "projected", "infeasible"}


def test_the_fit_finds_a_linear_cost_model_and_its_filter_keeps_the_true_cost():
    pytest.importorskip("torch")
    generator = np.random.default_rng(1)

    def cost(obs, actions):
        scaled = (actions - MIDDLE) / HALF
        first = obs[:, 0] + (1.0 + 0.5 * obs[:, 1]) * scaled[:, 0]
        return np.column_stack([first, 50.0 - 20.0 * scaled[:, 1]])

    obs = generator.uniform(-1, 1, (8_000, 3))
    actions = MIDDLE + HALF * generator.uniform(-1, 1, (8_000, 2))
    fit = {"action_space": SPACE, "limits": [0.5, 45.0], "config": SafetyLayerConfig(epochs=15)}
    layer = fit_safety_layer(obs, actions, cost(obs, actions), **fit)
    assert layer.report["kept_apart"] == 800
    assert (np.array(layer.report["rmse"]) < 0.05 * np.array(layer.report["std"])).all()
    unsafe = cost(obs[:500], actions[:500])
    executed = np.array([layer.filter(o, a).action for o, a in zip(obs[:500], actions[:500], strict=True)])
    kept = cost(obs[:500], executed)
    possible = obs[:500, 0] - (1.0 + 0.5 * obs[:500, 1]) < 0.3
    assert (unsafe[possible] > [0.5, 45.0]).any(axis=1).mean() > 0.4
    assert (kept[possible] > [0.65, 48.0]).any(axis=1).mean() < 0.01
    again = fit_safety_layer(obs, actions, cost(obs, actions), **fit)
    assert again.report == layer.report


def test_what_cannot_be_fitted_or_built_is_refused():
    ones = np.ones((4, 3)), np.ones((4, 2)), np.ones(4)
    for obs, actions, costs in ((ones[0], ones[1][:3], ones[2]), (ones[0] * np.nan, ones[1], ones[2])):
        with pytest.raises(ConfigError, match=r"Fitting needs|must be finite"):
            fit_safety_layer(obs, actions, costs, action_space=SPACE, limits=[0.0])
    with pytest.raises(ConfigError, match="need a model of 6 outputs"):
        SafetyLayer(SPACE, constant_model([0.0], [1.0, 1.0]), [0.0, 0.0])
    with pytest.raises(ConfigError, match="validation in"):
        SafetyLayerConfig(validation=1.0)


def test_it_keeps_the_protocol_claims_nothing_hard_and_travels_without_torch(tmp_path):
    layer = random_layer(np.random.default_rng(3))
    layer.report = {"rmse": [0.1, 0.2]}
    report = check_shield(layer, sample_obs=lambda generator: generator.normal(size=3))
    assert not report.problems, str(report)
    assert layer.spec().guarantee == "empirical"
    assert not layer.certifies(np.zeros(3))
    loaded = load_shield(save_shield(layer, tmp_path / "layer"))
    assert loaded.report == layer.report
    for obs in np.random.default_rng(4).normal(size=(20, 3)):
        assert loaded.filter(obs, [4.0, 2.0]).action.tolist() == layer.filter(obs, [4.0, 2.0]).action.tolist()


def test_an_observation_of_another_length_is_a_recorded_fallback():
    decision = random_layer(np.random.default_rng(3)).filter(np.zeros(4), [2.0, 0.0])
    assert (decision.kind, "must have 3 numbers" in decision.status) == ("fallback", True)
