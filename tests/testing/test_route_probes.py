"""The corridor and the time-limit probe have the optima that they state, and PPO-Lagrangian finds them."""

import itertools

import numpy as np
import pytest
import torch as th
from scipy.optimize import linprog

import saferl
from saferl.solvers import PPOLag
from saferl.testing import CorridorProbe, TimeLimitProbe, check_env, corridor_probe, time_limit_probe
from saferl.testing.route_probes import END


def solve_lp(probe):
    """J_r* and lambda* over occupancies of an undiscounted task whose every way ends."""
    shape = np.shape(probe.rewards)
    flow = np.zeros((shape[0], *shape))
    for state, action in np.ndindex(shape):
        flow[state, state, action] += 1
        if probe.moves[state][action] != END:
            flow[probe.moves[state][action], state, action] -= 1
    result = linprog(
        -np.ravel(probe.rewards),
        A_ub=np.reshape(probe.costs, (1, -1)),
        b_ub=probe.constraints.budgets,
        A_eq=flow.reshape(shape[0], -1),
        b_eq=np.eye(shape[0])[0],
        method="highs",
    )
    return -result.fun, -result.ineqlin.marginals, result.x.reshape(shape)


def test_the_corridors_optimum_is_that_of_the_occupancy_lp():
    best, multipliers, visits = solve_lp(CorridorProbe())
    optimum = CorridorProbe.optimum
    assert best == pytest.approx(optimum.return_, abs=1e-9)
    assert multipliers == pytest.approx(optimum.multipliers, abs=1e-9)
    assert visits[0] / visits[0].sum() == pytest.approx(optimum.action_probabilities[0], abs=1e-9)
    values, cost_values = CorridorProbe().exact_values(optimum.action_probabilities, 1.0)
    assert (values[0], cost_values[0, 0]) == pytest.approx((optimum.return_, *optimum.costs))


def episode_return(quit_probability):
    """Of a stationary policy under the limit of 5 steps, by stepping through its law."""
    alive, total = 1.0, 0.0
    for _ in range(TimeLimitProbe.time_limit):
        total += alive * ((1 - quit_probability) * 1.0 + quit_probability * 2.8)
        alive *= 1 - quit_probability
    return total


def test_staying_is_the_time_limit_probes_optimum_and_a_wrong_critic_would_quit():
    returns = [episode_return(q) for q in np.linspace(0.0, 1.0, 101)]
    assert returns[0] == pytest.approx(TimeLimitProbe.optimum.return_)
    assert all(one > other for one, other in itertools.pairwise(returns))
    values, cost_values = TimeLimitProbe().exact_values([[1.0, 0.0]], 0.9)
    assert (values[0], cost_values[0, 0]) == pytest.approx((10.0, 1.0))
    wrong = np.mean([sum(0.9**t for t in range(left)) for left in range(1, 6)])
    assert wrong < 2.8 < values[0]


@pytest.mark.parametrize("factory", [corridor_probe, time_limit_probe])
def test_the_probes_keep_the_contract_their_state_included(factory):
    report = check_env(factory)
    assert report.ok, str(report)
    assert "state" in report.checks


def learn(factory, iterations, **options):
    threads = th.get_num_threads()
    th.set_num_threads(1)
    model = PPOLag(
        "MlpPolicy", saferl.make_vec(factory, 16), seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **options
    )
    late = []
    obs = th.as_tensor(factory().unwrapped.observations)
    for iteration in range(iterations):
        model.learn(16 * model.n_steps, reset_num_timesteps=iteration == 0)
        if iteration >= iterations - 30:
            late.append(model.policy.get_distribution(obs).distribution.probs.detach().numpy())
    th.set_num_threads(threads)
    return model, np.array(late), obs


def test_ppo_lag_mixes_the_corridors_routes_as_the_budget_allows():
    model, late, _ = learn(
        corridor_probe,
        200,
        n_steps=16,
        batch_size=256,
        gamma=1.0,
        cost_gamma=1.0,
        gae_lambda=1.0,
        cost_gae_lambda=1.0,
        learning_rate=1e-3,
        multiplier_lr=0.1,
        multiplier_kp=1.0,
    )
    assert np.all(np.abs(late[:, 0, 1] - 0.25) < 0.12)
    assert model.multipliers == pytest.approx([1.0], abs=0.35)


def test_ppo_lag_stays_because_its_critics_look_beyond_the_limit():
    model, late, obs = learn(
        time_limit_probe, 60, n_steps=20, batch_size=160, gamma=0.9, cost_gamma=0.9, learning_rate=3e-3
    )
    assert late[-1] == pytest.approx(np.array([[1.0, 0.0]]), abs=0.02)
    values, cost_values = model.policy.predict_all_values(obs)
    assert values.item() == pytest.approx(10.0, rel=0.05)
    assert cost_values.item() == pytest.approx(1.0, rel=0.05)
    assert model.multipliers == pytest.approx([0.0])
