"""A filter that starts feasible stays feasible, keeps every limit and changes as little as the problem allows."""

import itertools

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, MPSCShield, load_shield, save_shield
from saferl.shields.mpsc import LinearModel, reference_action
from saferl.shields.sets import disturbance_vertices
from saferl.testing import ShieldPlant, check_shield
from tests.shields.linear_models import cart_pole, double_integrator

CASES = {"double integrator": (double_integrator(), 1.0), "cart-pole": (cart_pole(), 10.0)}


@pytest.fixture(scope="module", params=list(CASES))
def shield(request):
    model, most = CASES[request.param]
    return MPSCShield(ActionSpec.box([-most], [most]), model)


def limits_of(shield):
    count = len(np.asarray(shield.model.a))
    return np.asarray(shield.model.limits)[:count]


def certified_start(shield, generator):
    while True:
        state = generator.uniform(-1.0, 1.0, len(limits_of(shield))) * limits_of(shield)
        if shield.certifies(state):
            return state


def closed_loop(shield, runs, steps=100, seed=0):
    """Adversarial proposals and vertex disturbances: infeasible problems, violations, closest approach to a limit."""
    generator = np.random.default_rng(seed)
    model, high = shield.model, np.asarray(shield.actions.high)
    a, b, rows, limits = (np.asarray(x) for x in (model.a, model.b, model.rows, model.limits))
    vertices = disturbance_vertices(np.asarray(model.w_max))
    infeasible = violations = 0
    closest = np.inf
    for run in range(runs):
        state, sign = certified_start(shield, generator), generator.choice([-1.0, 1.0])
        shield.reset()
        for _ in range(steps):
            sign = -sign if generator.random() < 0.03 else sign
            decision = shield.filter(state, high * (sign if run % 3 else generator.uniform(-1.0, 1.0)))
            infeasible += decision.kind in ("infeasible", "fallback")
            following = a @ state + b @ decision.action
            excess = np.max((following + vertices) @ rows.T - limits, axis=1)
            worst = vertices[int(np.argmax(excess))]
            push = worst if run % 2 else vertices[generator.integers(len(vertices))]
            state = following + push
            room = float(np.min(limits - rows @ state))
            violations += room < -1e-7
            closest = min(closest, room)
    return infeasible, violations, closest


@pytest.mark.parametrize("runs", [30, pytest.param(1_000, marks=pytest.mark.slow)])
def test_no_problem_is_infeasible_and_no_limit_is_broken(shield, runs):
    infeasible, violations, closest = closed_loop(shield, runs)
    assert (infeasible, violations) == (0, 0)
    assert closest < 1e-3  # a limit is reached: the filter is not lazy


def test_a_terminal_set_that_ignores_the_tube_loses_feasibility():
    """The nominal level set of the literature's first version: why tightenings and terminal set must match."""
    model = double_integrator((4e-3, 2e-2))
    space = ActionSpec.box([-1], [1])
    right = MPSCShield(space, model, horizon=5)
    nominal = MPSCShield(space, double_integrator((0.0, 0.0)), horizon=5, gain=right.gain)
    wrong = MPSCShield(space, model, horizon=5, terminal=nominal.terminal)
    assert closed_loop(right, 20)[:2] == (0, 0)
    assert closed_loop(wrong, 20)[0] > 0


def near_the_boundary(shield, generator):
    """A state that is just certified: the furthest one in a random direction, less 2 %."""
    direction, low, high = generator.normal(size=len(limits_of(shield))) * limits_of(shield), 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2.0
        low, high = (middle, high) if shield.certifies(direction * middle) else (low, middle)
    return 0.98 * low * direction


def test_actions_are_those_of_the_reference(shield):
    """States in and just outside of the certified set, proposals at both ends: the same action, or none in both."""
    generator = np.random.default_rng(1)
    most = np.asarray(shield.actions.high)
    projected = refused = 0
    states = [near_the_boundary(shield, generator) * (1.0 if index % 4 else 1.05) for index in range(20)]
    for state, proposed in itertools.product(states, (most, -most)):
        decision, expected = shield.filter(state, proposed), reference_action(shield, state, proposed)
        shield.reset()
        assert (decision.kind == "infeasible") == (expected is None)
        refused += expected is None
        projected += decision.kind == "projected"
        if expected is not None:
            assert decision.action == pytest.approx(expected, abs=1e-5 * float(most[0]))
    assert projected > 3
    assert refused > 2


def test_two_inputs_are_filtered_together():
    dt = 0.1
    one_a, one_b = np.array([[1, dt], [0, 1]]), np.array([[dt**2 / 2], [dt]])
    a, b, zero_a, zero_b = one_a, one_b, np.zeros((2, 2)), np.zeros((2, 1))
    model = LinearModel.with_box(
        np.block([[a, zero_a], [zero_a, a]]), np.block([[b, zero_b], [zero_b, b]]), [1e-3, 5e-3] * 2,
        low=[-1, -2, -1, -2], high=[1, 2, 1, 2],
    )  # fmt: skip
    # Not only a box: the sum of the positions is limited, too.
    model = LinearModel(
        model.a, model.b, model.w_max, np.vstack([model.rows, [1, 0, 1, 0]]), np.append(model.limits, 1.2)
    )
    shield = MPSCShield(ActionSpec.box([-1, -1], [1, 1]), model)
    state, proposed = np.array([0.55, 0.3, 0.5, 0.3]), np.array([1.0, 0.5])
    decision = shield.filter(state, proposed)
    assert decision.kind == "projected"
    assert decision.action == pytest.approx(reference_action(shield, state, proposed), abs=2e-5)
    assert closed_loop(shield, 10, steps=60)[:2] == (0, 0)


def test_a_safe_proposal_passes_to_the_last_bit(shield):
    proposed = np.array([0.1234567890123])
    decision = shield.filter(np.zeros(len(limits_of(shield))), proposed)
    assert (decision.kind, decision.distance, decision.action.tolist()) == ("pass", 0.0, proposed.tolist())


def test_limits_that_the_tube_fills_are_refused_by_name():
    """The tube of the slow cart-pole is 0.588 m wide to each side: a track of 0.5 m leaves nothing to certify."""
    slow = MPSCShield(ActionSpec.box([-1], [1]), cart_pole()).gain
    with pytest.raises(ConfigError, match=r"not be empty.*limit 0 of the state \(\+1 x0 <= 0.5\) has a tube of 0.5878"):
        MPSCShield(ActionSpec.box([-10], [10]), cart_pole(track=0.5), gain=slow)
    with pytest.raises(ConfigError, match=r"action 0 \(-0.5 to 0.5\) has a tube of 0.6261"):
        MPSCShield(ActionSpec.box([-0.5], [0.5]), cart_pole(), gain=slow)


def test_the_last_plan_is_followed_where_there_is_no_new_one():
    shield = MPSCShield(ActionSpec.box([-1], [1]), double_integrator())
    state = np.array([0.7, 0.6])
    shield.filter(state, [1.0])
    plan = shield.get_memory()["plan"]
    lost = np.array([1.3, 0.6])
    decision = shield.filter(lost, [1.0])
    assert (decision.kind, decision.status) == (
        "infeasible",
        "no safe plan was found; the last one is followed, step 1",
    )
    assert decision.action == pytest.approx(np.clip(shield.gain @ lost + plan[1], -1, 1))
    for _ in range(25):
        decision = shield.filter(lost, [1.0])
    assert decision.action == pytest.approx(np.clip(shield.gain @ lost, -1, 1))


def test_a_proposal_that_is_no_number_gets_a_certified_action():
    shield = MPSCShield(ActionSpec.box([-1], [1]), double_integrator())
    state = np.array([0.8, 0.5])
    decision = shield.filter(state, [np.nan])
    assert decision.kind == "fallback"
    assert shield.filter(state, decision.action).kind == "pass"


def test_without_an_observation_the_plan_goes_on():
    shield = MPSCShield(ActionSpec.box([-1], [1]), double_integrator((0.0, 0.0)))
    model, state = shield.model, np.array([0.7, 0.6])
    first = shield.filter(state, [1.0])
    plan = shield.get_memory()["plan"]
    state = model.a @ state + model.b @ first.action
    blind = shield.filter(np.array([np.nan, 0.0]), [1.0])
    assert blind.kind == "fallback"
    assert blind.action == pytest.approx(shield.gain @ state + plan[1])


def test_what_a_parent_executes_is_what_the_next_plan_starts_from():
    shield = MPSCShield(ActionSpec.box([-1], [1]), double_integrator())
    state = np.zeros(2)
    judged = shield.judge(state, [0.5])
    shield._remember(state, shield.judge(state, [-0.25]), None)
    shield.judge(state, [0.5])
    shield._remember(state, judged, None)
    memory = shield.get_memory()
    assert shield.gain @ state + memory["plan"][0] == pytest.approx([0.5])
    assert memory["age"] == 1


def test_it_travels_as_data(shield, tmp_path):
    other = load_shield(save_shield(shield, tmp_path / "mpsc"))
    generator = np.random.default_rng(0)
    for _ in range(20):
        state = certified_start(shield, generator)
        one, two = (s.filter(state, np.asarray(shield.actions.high)) for s in (shield, other))
        assert one.action.tolist() == two.action.tolist()


def test_the_unit_keeps_the_protocol_and_its_hard_guarantee(shield):
    model = shield.model
    a, b, rows, limits = (np.asarray(x) for x in (model.a, model.b, model.rows, model.limits))
    plant = ShieldPlant(
        start=lambda g: g.uniform(-1.0, 1.0, len(a)) * limits[: len(a)] * 0.9,
        step=lambda state, action, push: a @ state + b @ action + push,
        violation=lambda state: float(np.max(rows @ state - limits)),
        vertices=list(disturbance_vertices(np.asarray(model.w_max))),
    )
    report = check_shield(shield, plant=plant, steps=2_000)
    assert (report.ok, report.skipped) == (True, ()), str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "at least 1 step"),
        ({"gain": [[0.0, 0.0]]}, "must stabilise"),
        ({"gain": [[0.0]]}, "must be"),
        ({"model": LinearModel([[1.0]], [[1.0, 1.0]], [0.1], [[1.0]], [1.0])}, "must fit together"),
        ({"model": LinearModel([[0.5]], [[1.0]], [-0.1], [[1.0]], [1.0])}, "w_max >= 0"),
        ({"action_space": ActionSpec.box([-np.inf], [1.0])}, "bounded"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    options = {"action_space": ActionSpec.box([-1], [1]), "model": double_integrator(), **change}
    with pytest.raises(ConfigError, match=message):
        MPSCShield(options.pop("action_space"), options.pop("model"), **options)
