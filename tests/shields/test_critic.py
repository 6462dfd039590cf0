"""The critic's veto: bounds of the three rules, what happens to rejected actions, and no hard claims."""

import itertools

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, ShieldContext, load_shield, save_shield
from saferl.shields.critic import CriticConfig, CriticShield
from saferl.shields.networks import Network
from saferl.testing import check_shield

SPACE = ActionSpec.box([0.0, -1.0], [4.0, 1.0])
BUTTONS = ActionSpec.discrete(4)
OBS = np.array([0.3])


def linear(weights, bias=0.0):
    """A critic w'(obs, action in half ranges) + bias."""
    return Network((np.array([weights], dtype=float),), (np.array([bias]),))


def small(generator, inputs, outputs=1, activation="tanh"):
    """A random network with two hidden layers."""
    sizes = [inputs, 16, 12, outputs]
    weights = [generator.normal(size=(b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    return Network(weights, [generator.normal(size=len(w)) for w in weights], activation)


def uniform(obs, count, generator):
    """A policy that draws from the whole box."""
    return generator.uniform([0.0, -1.0], [4.0, 1.0], (count, 2))


def retreat(obs):
    """A recovery policy."""
    return [0.0, float(-np.sign(obs[0]))]


RISING = linear([0.0, 1.0, 0.0])  # Q = the first action in half ranges


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_the_three_rules_make_their_bounds():
    value = Network((np.array([[1.0]]),), (np.array([0.1]),))  # V(0.3) = 0.4

    def bound(**options):
        return CriticShield(SPACE, [RISING], CriticConfig(**options), value=value).bound(OBS)

    assert bound(rule="threshold", eps=0.2) == 0.2
    assert bound(rule="recovery_rate", eps=0.2, alpha=0.25) == pytest.approx(0.75 * 0.4 + 0.25 * 0.2)
    assert bound(rule="recovery_rate", eps=0.2, alpha=1.0) == pytest.approx(0.2)
    assert bound(rule="feasibility") == -np.inf
    safe = CriticShield(SPACE, [RISING], CriticConfig(rule="feasibility"), value=value)
    assert safe.bound(np.array([-0.5])) == 0.0


def test_the_largest_of_several_critics_counts():
    shield = CriticShield(SPACE, [RISING, linear([0.0, -1.0, 0.0])])
    np.testing.assert_allclose(shield.risk(OBS, [[4.0, 0.0], [0.0, 0.0], [2.0, 0.0]]), [1.0, 1.0, 0.0])


# -- rejected actions -------------------------------------------------------------------------------------------------


def test_projection_steps_down_the_gradient_until_the_critic_accepts():
    shield = CriticShield(SPACE, [RISING], CriticConfig(mode="project", eps=0.1))
    assert shield.filter(OBS, [2.1, 0.5]).kind == "pass"
    decision = shield.filter(OBS, [2.5, 0.5])  # Q = 0.25: four steps of 0.05 end at 0.05
    assert (decision.kind, decision.margin) == ("projected", pytest.approx(-0.15))
    np.testing.assert_allclose(decision.action, [2.1, 0.5])
    short = CriticShield(SPACE, [RISING], CriticConfig(mode="project", eps=0.1, iterations=3)).filter(OBS, [2.5, 0.5])
    assert (short.kind, short.slack) == ("infeasible", pytest.approx(0.0, abs=1e-9))
    far = CriticShield(SPACE, [RISING], CriticConfig(mode="project", eps=0.1, iterations=2)).filter(OBS, [3.0, 0.5])
    assert (far.kind, far.slack) == ("infeasible", pytest.approx(0.3))
    np.testing.assert_allclose(far.action, [2.8, 0.5])


def test_projection_lowers_the_risk_of_a_nonlinear_critic_below_its_bound():
    generator = np.random.default_rng(0)
    critics, kinds = [small(generator, 3), small(generator, 3)], []
    drawn = CriticShield(SPACE, critics).risk(np.zeros(1), uniform(None, 100, generator))
    eps = float(np.median(drawn))
    shield = CriticShield(SPACE, critics, CriticConfig(mode="project", eps=eps))
    for _ in range(200):
        obs, wish = generator.normal(size=1), uniform(None, 1, generator)[0]
        decision = shield.filter(obs, wish)
        kinds.append(decision.kind)
        risk = shield.risk(obs, decision.action[None])[0]
        assert (risk <= eps) == (decision.kind in ("pass", "projected"))
        assert risk <= shield.risk(obs, wish[None])[0] + 1e-12
    assert kinds.count("projected") > 20


def test_resampling_takes_the_accepted_candidate_nearest_to_the_proposal():
    shield = CriticShield(SPACE, [RISING], CriticConfig(mode="resample", eps=-0.2, candidates=50), sampler=uniform)
    decision = shield.filter(OBS, [3.5, 0.5], ShieldContext(generator=np.random.default_rng(7)))
    candidates = uniform(None, 50, np.random.default_rng(7))
    accepted = candidates[candidates[:, 0] <= 1.6]
    nearest = accepted[np.argmin((((accepted - [3.5, 0.5]) / [2.0, 1.0]) ** 2).sum(axis=1))]
    assert (decision.kind, decision.action.tolist()) == ("resampled", nearest.tolist())


def test_without_an_accepted_candidate_the_fallback_or_else_the_least_risk_is_executed():
    options = CriticConfig(mode="resample", eps=-2.0, candidates=50)
    context = ShieldContext(generator=np.random.default_rng(7))
    least = CriticShield(SPACE, [RISING], options, sampler=uniform).filter(OBS, [3.5, 0.5], context)
    assert least.kind == "infeasible"
    assert least.action[0] == uniform(None, 50, np.random.default_rng(7))[:, 0].min()
    assert least.slack == pytest.approx((least.action[0] - 2.0) / 2.0 + 2.0)
    safe = CriticShield(SPACE, [RISING], options, fallback=retreat).filter(OBS, [3.5, 0.5])
    assert (safe.kind, safe.action.tolist()) == ("fallback", [0.0, -1.0])


def test_replacing_executes_the_recovery_policy_and_trusts_it():
    network = Network((np.array([[0.0], [10.0]]),), (np.array([-0.5, 0.0]),))  # (-0.5, 3) in half ranges, clipped
    for fallback, expected in (([1.0, 0.0], [1.0, 0.0]), (retreat, [0.0, -1.0]), (network, [1.0, 1.0])):
        shield = CriticShield(SPACE, [RISING], CriticConfig(mode="replace", eps=-0.9), fallback=fallback)
        decision = shield.filter(OBS, [3.0, 0.0])
        assert (decision.kind, decision.action.tolist()) == ("replaced", expected)
        assert shield.filter(OBS, expected).kind == "pass"


def test_in_an_infeasible_state_feasibility_critics_give_the_safest_action_found():
    value = linear([1.0])
    shield = CriticShield(
        SPACE, [RISING], CriticConfig(rule="feasibility", mode="project", iterations=100), value=value
    )
    decision = shield.filter(OBS, [1.0, 0.0])
    assert decision.kind == "infeasible"
    np.testing.assert_allclose(decision.action, [0.0, 0.0], atol=1e-12)
    assert shield.filter([-0.1], [1.0, 0.0]).kind == "pass"
    assert shield.filter([-0.1], [3.0, 0.0]).kind == "projected"


def test_discrete_actions_become_the_one_of_least_risk():
    critic = Network((np.array([[0.0, 0.9, 0.2, 0.05, 0.4]]),), (np.zeros(1),))
    shield = CriticShield(BUTTONS, [critic], CriticConfig(eps=0.25))
    assert shield.filter(OBS, 1).kind == "pass"
    decision = shield.filter(OBS, 0)
    assert (decision.kind, int(decision.action), decision.distance) == ("resampled", 2, 1.0)
    assert decision.margin == pytest.approx(0.25 - 0.9)
    strict = CriticShield(BUTTONS, [critic], CriticConfig(eps=0.01)).filter(OBS, 0)
    assert (strict.kind, int(strict.action), strict.slack) == ("infeasible", 2, pytest.approx(0.04))


# -- the exact rule on a small chain ----------------------------------------------------------------------------------


def test_with_exact_critics_the_recovery_rule_holds_in_every_state_where_it_can():
    """A chain of risks: the one-step inequality of the rule is what the executed action keeps."""
    generator = np.random.default_rng(5)
    states, buttons, eps, alpha = 12, 4, 0.1, 0.3
    q = generator.uniform(0, 1, (states, buttons)) ** 2
    v = q.min(axis=1) + 0.1
    for s in range(states):
        one_hot = np.eye(states)[s]
        row = Network((np.concatenate([np.zeros(states), q[s]])[None],), (np.zeros(1),))
        value = Network((np.zeros((1, states)),), (v[s : s + 1],))
        shield = CriticShield(BUTTONS, [row], CriticConfig("recovery_rate", eps=eps, alpha=alpha), value=value)
        bound = (1 - alpha) * v[s] + alpha * eps
        for wish in range(buttons):
            decision = shield.filter(one_hot, wish)
            if q[s].min() <= bound - 1e-9:
                assert q[s, int(decision.action)] <= bound
            else:
                assert decision.kind in ("infeasible", "pass")


# -- protocol ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_the_gradient_of_a_network_is_that_of_its_values(activation):
    generator = np.random.default_rng(1)
    network = small(generator, 4, activation=activation)
    network = Network(
        network.weights, network.biases, activation, mean=np.full(4, 0.3), scale=np.array([1, 2, 0.5, 1.0])
    )
    x, step = generator.normal(size=4), 1e-6
    value, gradient = network.value_and_gradient(x)
    assert value == pytest.approx(network(x[None])[0, 0])
    for j in range(4):
        shift = step * np.eye(4)[j]
        slope = (network((x + shift)[None]) - network((x - shift)[None]))[0, 0] / (2 * step)
        assert gradient[j] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "ELU"])
def test_a_network_of_torch_gives_the_same_numbers_in_numpy(activation):
    torch = pytest.importorskip("torch")
    f = getattr(torch.nn, activation)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), f(), torch.nn.Linear(8, 8), f(), torch.nn.Linear(8, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(Network.from_torch(module)(x.numpy()), module(x).detach().numpy(), atol=1e-12)
    with pytest.raises(ConfigError, match="Linear layers"):
        Network.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 8), f()))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"critics": []}, {}, "at least one critic"),
        ({"critics": [linear([1.0, 1.0])]}, {}, "read the observation and 2 numbers"),
        ({"value": linear([1.0, 1.0])}, {}, "the value must read 1 numbers"),
        ({}, {"rule": "recovery_rate"}, "needs a value network"),
        ({}, {"mode": "replace"}, "needs a fallback"),
    ],
)
def test_what_rule_and_mode_need_is_asked_for(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        CriticShield(SPACE, arguments.pop("critics", [RISING]), CriticConfig(**options), **arguments)


def test_options_out_of_range_and_gradients_of_discrete_actions_are_refused():
    for options in ({"rule": "hope"}, {"mode": "wish"}, {"alpha": 0.0}, {"step": 0.0}, {"eps": np.nan}):
        with pytest.raises(ConfigError, match="critic"):
            CriticConfig(**options)
    with pytest.raises(ConfigError, match="no gradient"):
        CriticShield(BUTTONS, [linear([1.0] * 5)], CriticConfig(mode="project"))


def shields():
    generator = np.random.default_rng(2)
    pair = [small(generator, 4), small(generator, 4)]
    value = small(generator, 2)
    yield CriticShield(SPACE, pair, CriticConfig("threshold", "project", eps=0.2))
    yield CriticShield(SPACE, pair, CriticConfig("recovery_rate", "resample", eps=0.2), value=value, sampler=uniform)
    yield CriticShield(SPACE, pair, CriticConfig("feasibility", "resample"), fallback=retreat)
    yield CriticShield(SPACE, pair, CriticConfig("feasibility", "project"), value=value, fallback=[0.0, 1.0])
    yield CriticShield(SPACE, pair, CriticConfig("threshold", "replace", eps=0.2), fallback=small(generator, 2, 2))
    yield CriticShield(BUTTONS, [small(generator, 6)], CriticConfig("threshold", eps=0.2))
    yield CriticShield(
        BUTTONS, [small(generator, 6)], CriticConfig("threshold", "replace"), fallback=small(generator, 2, 4)
    )


@pytest.mark.parametrize("shield", list(shields()))
def test_every_shield_keeps_the_protocol_claims_nothing_hard_and_travels(shield, tmp_path):
    report = check_shield(shield, sample_obs=lambda generator: generator.normal(size=2))
    assert not report.problems, str(report)
    assert shield.spec().guarantee == "empirical"
    loaded = load_shield(save_shield(shield, tmp_path / "critic"))
    generator = np.random.default_rng(4)
    for step in range(20):
        obs = generator.normal(size=2)
        wish = generator.integers(4) if shield.actions.n else uniform(obs, 1, generator)[0]
        one, other = (unit.filter(obs, wish, ShieldContext(step=step)) for unit in (shield, loaded))
        assert (one.kind, one.action.tolist()) == (other.kind, other.action.tolist())
