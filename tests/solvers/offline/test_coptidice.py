"""COptiDICE's weights, dual and cost bound against convex programs on small tables; exact resume; a known optimum."""

import cvxpy as cp
import numpy as np
import pytest
import torch as th
from cost_data import BEST, BUDGET, QUICK, assert_repeats_and_resumes, known_data, mean_action
from scipy.optimize import minimize, minimize_scalar

from saferl.solvers.offline.coptidice import (
    COptiDICE,
    ball_divergence,
    ball_weights,
    closed_form_weights,
    cost_bound,
    divergence,
    nu_loss,
)

GAMMA, ALPHA = 0.8, 0.3
# Every pair of 3 states and 2 actions once, with its next state, reward and cost.
STATES, NEXT = np.repeat(np.arange(3), 2), np.array([0, 1, 2, 0, 1, 2])
REWARDS, COSTS = np.array([0.1, 0.5, 1.0, 0.0, 0.3, 0.8]), np.array([0.0, 0.4, 1.0, 0.0, 0.1, 0.9])
FIRST = np.array([0, 1])


@pytest.mark.parametrize("kind", ["softchi", "chi2", "kl"])
@pytest.mark.parametrize("advantage", [-2.0, -0.2, 0.0, 0.7, 3.0])
def test_the_closed_form_is_the_maximiser_of_the_regularised_advantage(kind, advantage):
    def negative(weight):
        value = th.tensor(weight, dtype=th.float64)
        return -float(value * advantage - ALPHA * divergence(value, kind))

    best = minimize_scalar(
        negative, bounds=(0.0, 3e4 if kind == "kl" else 20.0), method="bounded", options={"xatol": 1e-9}
    )
    found = closed_form_weights(th.tensor(advantage, dtype=th.float64), ALPHA, kind).item()
    assert -negative(found) >= -best.fun - 1e-9


def flow(weights):
    """Violation of the flow of the distribution ``weights / 6``, per state (3,)."""
    share = weights / 6.0
    into = sum(GAMMA * share[i] * np.eye(3)[NEXT[i]] for i in range(6))
    out = sum(share[i] * np.eye(3)[STATES[i]] for i in range(6))
    return (1.0 - GAMMA) * np.bincount(FIRST, minlength=3) / len(FIRST) + into - out


@pytest.mark.parametrize("kind", ["softchi", "chi2"])
def test_the_dual_gives_the_constrained_optimum_and_its_multiplier(kind):
    limit = 0.35
    weights, above = cp.Variable(6, nonneg=True), cp.Variable(6, nonneg=True)
    if kind == "chi2":
        penalty, extra = 0.5 * cp.sum_squares(weights - 1.0), []
    else:  # soft chi-square is the infimal convolution of KL below 1 and a square
        low = weights - above
        penalty, extra = cp.sum(-cp.entr(low) - low + 1.0) + 0.5 * cp.sum_squares(above), [low <= 1.0]
    budget = (COSTS @ weights) / 6.0 <= limit
    problem = cp.Problem(cp.Maximize((REWARDS @ weights - ALPHA * penalty) / 6.0), [flow(weights) == 0, budget, *extra])
    problem.solve(solver=cp.CLARABEL)
    assert budget.dual_value > 1e-3

    rewards, costs = th.tensor(REWARDS), th.tensor(COSTS)

    def loss(x):
        values = th.tensor(x, requires_grad=True)
        nu, multiplier = values[:3], values[3]
        advantages = rewards - multiplier * costs + GAMMA * nu[NEXT] - nu[STATES]
        total = nu_loss(nu[FIRST], advantages, ALPHA, GAMMA, kind) + multiplier * limit
        total.backward()
        return total.item(), values.grad.numpy()

    solved = minimize(
        loss, np.zeros(4), jac=True, bounds=[(None, None)] * 3 + [(0, None)], options={"ftol": 1e-14, "gtol": 1e-10}
    )
    nu, multiplier = solved.x[:3], solved.x[3]
    advantages = th.tensor(REWARDS - multiplier * COSTS + GAMMA * nu[NEXT] - nu[STATES])
    np.testing.assert_allclose(closed_form_weights(advantages, ALPHA, kind), weights.value, atol=1e-3)
    assert solved.fun == pytest.approx(problem.value, abs=1e-6)
    assert multiplier == pytest.approx(float(budget.dual_value), abs=2e-3)


def test_at_the_best_temperature_the_bound_is_the_worst_mean_within_the_ball():
    values, ball = np.array([0.0, 0.3, 1.0, 0.2, 0.7]), 0.05
    p = cp.Variable(5, nonneg=True)
    worst = cp.Problem(cp.Maximize(values @ p), [cp.sum(p) == 1, cp.sum(cp.rel_entr(p, np.full(5, 0.2))) <= ball])
    worst.solve(solver=cp.CLARABEL)
    table = th.tensor(values)[None]
    best = minimize_scalar(
        lambda t: cost_bound(table, th.tensor([t]), ball).item(), bounds=(1e-3, 10.0), method="bounded"
    )
    assert best.fun == pytest.approx(worst.value, abs=1e-5)
    weights = ball_weights(table, th.tensor([best.x]))
    np.testing.assert_allclose(weights[0] / 5, p.value, atol=1e-3)
    # Tau moves along the ball's slack, which is 0 at the best one.
    assert ball_divergence(weights).item() == pytest.approx(ball, abs=1e-4)


def test_chi_confines_the_bound_to_distributions_that_keep_the_flow():
    """Each sample is a first state with a transition; p reweights them, and must leave the flow of w intact."""
    first, ball, generator = FIRST[np.array([0, 1, 0, 1, 0, 1])], 0.02, np.random.default_rng(0)
    weights = cp.Variable(6, nonneg=True)
    starts = (1.0 - GAMMA) * np.bincount(first, minlength=3) / 6.0
    moves = np.array([GAMMA * np.eye(3)[NEXT[i]] - np.eye(3)[STATES[i]] for i in range(6)])
    cp.Problem(cp.Minimize(cp.sum_squares(weights - 1.0)), [starts + moves.T @ weights / 6.0 == 0]).solve()
    ratio = np.maximum(weights.value, 0.0)
    p = cp.Variable(6, nonneg=True)
    kept = (1.0 - GAMMA) * np.eye(3)[first].T @ p + (ratio[:, None] * moves).T @ p == 0
    worst = cp.Problem(
        cp.Maximize((ratio * COSTS) @ p), [cp.sum(p) == 1, kept, cp.sum(cp.rel_entr(p, np.full(6, 1 / 6))) <= ball]
    )
    worst.solve(solver=cp.CLARABEL)

    def bound(x):
        values = th.tensor(x, requires_grad=True)
        chi, tau = values[:3], values[3].exp()
        samples = (1.0 - GAMMA) * chi[first] + th.tensor(ratio) * (th.tensor(COSTS) + GAMMA * chi[NEXT] - chi[STATES])
        total = cost_bound(samples[None], tau[None], ball)[0]
        total.backward()
        return total.item(), values.grad.numpy()

    solved = minimize(bound, generator.normal(size=4), jac=True, options={"gtol": 1e-9})
    assert solved.fun == pytest.approx(worst.value, abs=1e-4)


def test_the_limit_is_a_mean_per_step():
    solver = COptiDICE(preset="small", **QUICK)
    solver.start(known_data(), budgets={"cost": BUDGET})
    # 8 of 20 steps: 0.4 per step, less what lies behind the horizon.
    assert solver.rates.item() == pytest.approx(0.4 * (1.0 - 0.8**20), rel=1e-5)


@pytest.mark.parametrize("ball", [0.0, 0.01])
def test_training_repeats_and_resumes_exactly(ball):
    assert_repeats_and_resumes(COptiDICE, ball=ball)


def test_the_budget_decides_how_far_the_action_goes():
    options = {**QUICK, "gamma": 0.5, "learning_rate": 3e-3, "actor_learning_rate": 3e-3, "scalar_learning_rate": 0.1}
    tight, loose = (COptiDICE(preset="small", **options) for _ in range(2))
    tight.fit(known_data(), steps=250, budgets={"cost": BUDGET})
    loose.fit(known_data(), steps=250, budgets={"cost": 19.0})
    assert mean_action(tight) == pytest.approx(BEST, abs=0.3)
    assert mean_action(loose) > mean_action(tight) + 0.3
