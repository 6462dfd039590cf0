"""A budget bounds the probability of ever being unsafe, for any agent; a rule for single steps does not."""

import numpy as np
import pytest

import saferl
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.env import TabularEnv
from saferl.errors import ConfigError
from saferl.shields import (
    SHIELDS,
    ActionSpec,
    ShieldContext,
    TabularProbShield,
    TabularStepShield,
    load_shield,
    save_shield,
)
from saferl.testing import check_shield

STATES, ACTIONS = 30, 4


def dangerous_mdp():
    """A random MDP in which the safest policy hardly ever fails and the riskiest one nearly always: state 0 is safe."""
    generator = np.random.default_rng(0)
    transitions = generator.dirichlet(0.1 * np.ones(STATES), size=(STATES, ACTIONS))
    transitions[0], transitions[-1] = np.eye(STATES)[0], np.eye(STATES)[-1]
    return transitions, np.arange(STATES) == STATES - 1


TRANSITIONS, UNSAFE = dangerous_mdp()
SPACE = ActionSpec.discrete(ACTIONS)
FREE = TabularProbShield(SPACE, TRANSITIONS, UNSAFE, p=1.0)
START = 1 + int(np.argmin(FREE.least[1:]))
P = float(FREE.least[START]) + 0.1


def budget_shield(**options):
    return TabularProbShield(SPACE, TRANSITIONS, UNSAFE, **{"p": P, **options})


def riskiest(state, _):
    return int(np.argmax(FREE.risk[state]))


def random_agent(_, generator):
    return int(generator.integers(ACTIONS))


def unsafe_frequency(shield, agent, episodes, seed=0):
    """Share of episodes that reach the unsafe state."""
    generator = np.random.default_rng(seed)
    cumulated = TRANSITIONS.cumsum(axis=-1)
    failures = 0
    for _ in range(episodes):
        state, step = START, 0
        if shield is not None:
            shield.reset()
        while 0 < state < STATES - 1 and step < 1_000:
            action = agent(state, generator)
            if shield is not None:
                action = int(shield.filter(state, action, ShieldContext(step=step, generator=generator)).action)
            state = min(int(np.searchsorted(cumulated[state, action], generator.random())), STATES - 1)
            step += 1
        failures += state == STATES - 1
    return failures / episodes


@pytest.mark.parametrize("episodes", [1_500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_riskiest_agent_spends_its_p_and_no_more(episodes):
    """Fails by chance with a probability below 0.3 %, and the seed is fixed."""
    deviation = np.sqrt(P * (1.0 - P) / episodes)
    frequency = unsafe_frequency(budget_shield(), riskiest, episodes)
    assert 0.9 * P - 3.0 * deviation <= frequency <= P + 3.0 * deviation


def test_a_rule_for_single_steps_does_not_bound_the_episode():
    per_step = TabularStepShield(SPACE, TRANSITIONS, UNSAFE, delta=P, rule="threshold")
    assert unsafe_frequency(per_step, riskiest, 500) > 4.0 * P
    assert unsafe_frequency(None, riskiest, 500) > 0.9


@pytest.mark.parametrize("agent", [riskiest, random_agent])
def test_the_budget_never_rises_on_average(agent):
    """E[q'] <= q over the drawn action and the successor, in every state that is visited: exact, no sampling."""
    shield, generator = budget_shield(), np.random.default_rng(1)
    worst, mixed = -np.inf, 0
    for _ in range(300):
        state = START
        shield.reset()
        for step in range(30):
            if state in (0, STATES - 1):
                break
            memory, budget, wanted = shield.get_memory(), shield.budget_of(state), agent(state, generator)
            risk, safest = float(shield.risk[state, wanted]), int(shield.safest[state])
            least = float(shield.risk[state, safest])
            share = 1.0 if risk <= budget else (budget - least) / (risk - least)
            mean, outcomes = 0.0, ((share, wanted), (1.0 - share, safest))
            mixed += share < 1.0
            for weight, action in outcomes:
                if weight > 0.0:
                    shield.set_memory(memory)
                    draw = 0.0 if action == wanted else 1.0 - 1e-12
                    decision = shield.filter(state, wanted, ShieldContext(step=step, generator=Fixed(draw)))
                    assert int(decision.action) == action
                    following = [shield.budget_of(s) for s in range(STATES)]
                    assert np.all(np.array(following) >= shield.least - 1e-12)
                    mean += weight * float(TRANSITIONS[state, action] @ following)
            worst = max(worst, mean - budget)
            state = int(generator.choice(STATES, p=TRANSITIONS[state, int(decision.action)]))
    assert worst <= 1e-10
    assert mixed > 50


class Fixed:
    """A generator whose draws are known."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def test_the_safest_agent_is_never_changed():
    shield, generator = budget_shield(), np.random.default_rng(2)
    for _ in range(200):
        state = START
        shield.reset()
        while state not in (0, STATES - 1):
            decision = shield.filter(state, int(shield.safest[state]))
            assert decision.kind == "pass"
            state = int(generator.choice(STATES, p=TRANSITIONS[state, int(decision.action)]))


def test_the_same_draw_gives_the_same_decision():
    shield = budget_shield(p=float(FREE.least[START]) + 1e-3)
    decisions = {int(shield.judge(START, riskiest(START, None), ShieldContext(step=3)).action) for _ in range(5)}
    assert len(decisions) == 1


def test_a_violation_is_paid_for_once():
    """By hand: the action costs at once, so its risk is 1; after it the budget is the least that can be kept."""
    transitions = np.zeros((2, 2, 2))
    transitions[:, :, 1] = 1.0
    violations = np.array([[False, True], [False, True]])
    shield = TabularProbShield(ActionSpec.discrete(2), transitions, violations, p=0.25)
    assert shield.risk.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    taken = shield.filter(0, 1, ShieldContext(generator=Fixed(0.2)))
    assert (taken.kind, int(taken.action), taken.margin) == ("pass", 1, -0.75)
    assert shield.budget_of(1) == 0.0
    assert int(shield.filter(1, 1, ShieldContext(generator=Fixed(0.0))).action) == 0
    shield.reset()
    assert shield.budget_of(0) == 0.25
    assert int(shield.filter(0, 1, ShieldContext(generator=Fixed(0.3))).action) == 0
    assert shield.budget_of(1) == 0.0  # the draw has spent the budget, although nothing happened


def test_first_states_share_p():
    start = np.zeros(STATES)
    start[[START, 5, 7]] = [0.5, 0.25, 0.25]
    shield = budget_shield(p=0.05, start=start)
    assert start @ [shield.budget_of(s) for s in range(STATES)] == pytest.approx(0.05)
    assert shield.filter(5, 0).status == "ok"
    with pytest.raises(ConfigError, match=r"p must be at least .* the risk of the safest policy"):
        budget_shield(p=1e-5, start=start)


def test_a_state_that_the_model_excludes_is_flagged():
    transitions = np.zeros((3, 1, 3))
    transitions[0, 0, 1] = transitions[1, 0, 1] = transitions[2, 0, 2] = 1.0
    shield = TabularProbShield(ActionSpec.discrete(1), transitions, [False, False, False], p=0.1)
    assert shield.filter(0, 0).status == "ok"
    assert "excludes this state" in shield.filter(2, 0).status


def test_states_that_do_not_exist_fall_back():
    shield = budget_shield()
    assert shield.filter(STATES, 0).kind == "fallback"
    assert shield.filter(START, 99).kind == "fallback"
    assert not shield.certifies(STATES)
    assert shield.certifies(START)
    assert not shield.certifies(STATES - 1)


def test_it_is_built_from_an_env():
    costs = np.repeat(UNSAFE.astype(float)[:, None, None], ACTIONS, axis=1)
    rewards = np.zeros((STATES, ACTIONS))
    cmdp = TabularCMDP(TRANSITIONS, rewards, costs, 0.9, np.eye(STATES)[START], [1.0])
    shield = SHIELDS.load("tabular_prob").for_env(saferl.make(lambda: TabularEnv(cmdp)))
    assert shield.p == 0.1
    assert np.array_equal(shield.risk, FREE.risk)
    with pytest.raises(ConfigError, match="finite MDP"):
        TabularProbShield.for_env(object())


def test_it_travels_as_data(tmp_path):
    start = np.eye(STATES)[START]
    for name, shield in (("plain", budget_shield()), ("start", budget_shield(start=start))):
        other = load_shield(save_shield(shield, tmp_path / name))
        assert np.array_equal(other.risk, shield.risk)
        for step, state in enumerate(np.random.default_rng(0).integers(STATES, size=40)):
            one, two = (s.filter(int(state), step % ACTIONS, ShieldContext(step=step)) for s in (shield, other))
            assert (one.kind, int(one.action), one.status) == (two.kind, int(two.action), two.status)


def test_the_unit_keeps_the_protocol():
    report = check_shield(budget_shield(), sample_obs=lambda g: int(g.integers(STATES)))
    assert report.ok, str(report)


@pytest.mark.parametrize("p", [0.0, 1.1, float("nan")])
def test_a_p_outside_of_its_range_is_refused(p):
    with pytest.raises(ConfigError, match=r"p must be in \(0, 1\]"):
        budget_shield(p=p)


def test_a_box_of_actions_is_refused():
    with pytest.raises(ConfigError, match="Discrete"):
        TabularProbShield(ActionSpec.box([0], [1]), TRANSITIONS, UNSAFE, p=0.1)
