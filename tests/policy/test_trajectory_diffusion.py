"""Plans by diffusion: schedule, posterior, guidance and choice against formulas; rows and budgets kept apart."""

import math

import numpy as np
import pytest
import torch as th

from saferl.policy.budget_account import BudgetAccount
from saferl.policy.temporal import TemporalRegressor, TemporalUnet
from saferl.policy.trajectory_diffusion import (
    TrajectoryDiffusion,
    budget_left,
    choose_plan,
    cosine_schedule,
    cost_pressure,
)

ARCH = {
    "num_costs": 2,
    "horizon": 50,
    "gamma": 1.0,
    "plan_length": 4,
    "denoising_steps": 3,
    "channels": 8,
    "multipliers": (1, 2),
    "plans": 5,
    "guide_steps": 1,
    "guide_scale": 1.0,
    "unguided_steps": 1,
    "cost_weight": 2.0,
    "has_clock": True,
}


def policy(**options):
    th.manual_seed(0)
    return TrajectoryDiffusion(3, 2, **{**ARCH, **options}).eval().requires_grad_(False)


def test_the_schedule_is_diffusers_and_ends_in_noise():
    """Figures of the definition itself: f(t) / f(0), betas of at most 0.999."""
    schedule = cosine_schedule(20)
    f = np.cos(np.pi / 2 * (np.arange(21) / 20 + 0.008) / 1.008) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], f[1:-1] / f[0], rtol=1e-9)
    assert schedule.alpha[-1] == 0.001
    assert schedule.alpha_bar[-1] < 1e-5


def test_the_budget_that_is_left_is_in_units_of_the_present_state():
    account = BudgetAccount.open(2, 1, np.array([30.0]), gamma=0.9)
    share = (1 - 0.9**20) / (0.1 * 20)
    np.testing.assert_allclose(budget_left(account, 20), 30.0 * share)
    account.spend(np.array([[1.0], [0.0]]))
    account.spend(np.array([[2.0], [0.0]]))
    expected = (30.0 * share - np.array([[1.0 + 0.9 * 2.0], [0.0]])) / 0.9**2
    np.testing.assert_allclose(budget_left(account, 20), expected)


def test_costs_press_only_beyond_the_budget_and_at_most_e():
    costs = th.tensor([[5.0], [10.0], [15.0], [40.0], [1.0], [3.0]])
    left = th.tensor([[10.0], [10.0], [10.0], [10.0], [0.0], [th.inf]])
    expected = [[0.0], [0.0], [math.exp(0.5)], [math.e], [math.e], [0.0]]
    np.testing.assert_allclose(cost_pressure(costs, left), expected, rtol=1e-6)


def test_the_most_rewarding_plan_within_all_budgets_is_taken_and_else_the_least_excessive():
    rewards = th.tensor([[3.0, 2.0, 1.0]] * 3)
    costs = th.tensor([[[5.0, 0.0], [3.0, 9.0], [1.0, 0.0]]] * 3)
    left = th.tensor([[th.inf, th.inf], [3.0, 10.0], [0.0, -1.0]])
    assert choose_plan(rewards, costs, left, th.ones(2)).tolist() == [0, 1, 2]
    costs = th.tensor([[[5.0, 1.0], [3.0, 9.0]]])
    assert choose_plan(rewards[:1, :2], costs, th.zeros(1, 2), th.tensor([1.0, 100.0])).tolist() == [1]


def test_a_perfect_denoiser_ends_at_its_plan_with_the_present_observation():
    acting = policy(guide_scale=0.0)
    target = th.rand(4, 5) - 0.5
    acting.denoiser.forward = lambda noised, step: target.expand(len(noised), 4, 5)
    here = th.randn(7, 3)
    plans = acting.draw(here, th.zeros(7, 2), th.ones(7), th.randn(3, 7, 4, 5))
    np.testing.assert_allclose(plans[:, 1:], target[1:].expand(7, 3, 5), atol=1e-6)
    np.testing.assert_allclose(plans[:, 0, 2:], here)


def test_a_step_back_is_the_posterior_of_the_forward_process():
    """Mean and variance by Gaussian conditioning of x_{t-1} on x_t with a known x_0."""
    acting, t = policy(guide_scale=0.0, denoising_steps=6), 5
    alpha, bar = acting.schedule.alpha, acting.schedule.alpha_bar
    prior_var, noise_var = 1 - bar[t - 1], 1 - alpha[t]
    gain = np.sqrt(alpha[t]) * prior_var / (alpha[t] * prior_var + noise_var)
    acting.denoiser.forward = lambda noised, step: th.full_like(noised, 0.4)
    seen = []
    original = acting.pin
    acting.pin = lambda plans, features: seen.append(plans) or original(plans, features)
    noise = th.randn(6, 1, 4, 5)
    here = noise[0, :, 0, 2:]
    acting.draw(here, th.zeros(1, 2), th.ones(1), noise)
    mean = np.sqrt(bar[t - 1]) * 0.4 + gain * (noise[0] - np.sqrt(alpha[t]) * np.sqrt(bar[t - 1]) * 0.4)
    spread = np.sqrt(prior_var * (1 - gain * np.sqrt(alpha[t])))
    np.testing.assert_allclose(seen[1], mean + spread * noise[1], rtol=1e-4, atol=1e-5)


def test_guidance_climbs_the_reward_and_descends_costs_beyond_the_budget():
    acting = policy()
    acting.value_scale.copy_(th.tensor([1.0, 4.0, 1.0]))
    acting.value_shift.copy_(th.tensor([0.0, 1.0, 0.0]))
    plans, clock = th.randn(6, 4, 5), th.ones(6)

    def gradient_of(column):
        variable = plans.clone().requires_grad_()
        acting.values(variable, th.full((6,), 2), clock)[:, column].sum().backward()
        return variable.grad

    unlimited = acting.guidance(plans, 2, th.full((6, 2), th.inf), clock)
    np.testing.assert_allclose(unlimited, gradient_of(0), atol=1e-6)
    costs = acting.values(plans, th.full((6,), 2), clock)[:, 1] * 4.0 + 1.0
    left = th.stack([costs / 1.5, th.full((6,), th.inf)], dim=1)
    assert (costs > 0).all()
    expected = gradient_of(0) - 2.0 * math.exp(0.5) * gradient_of(1)
    np.testing.assert_allclose(acting.guidance(plans, 2, left, clock), expected, atol=1e-5)


def test_deterministic_actions_do_not_depend_on_the_lanes_beside_them():
    acting = policy(plans=600)
    observations = th.randn(3, 3)
    together = acting.act(observations, acting.begin(3, np.array([1.0, np.inf])), None, True)
    for row in range(3):
        alone = acting.act(observations[row : row + 1], acting.begin(1, np.array([1.0, np.inf])), None, True)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)
    assert (together.abs() <= 1.0).all()


@pytest.mark.parametrize(("length", "multipliers"), [(4, (1, 2, 4)), (32, (1, 2, 4, 8)), (6, (1, 2)), (5, (3,))])
def test_networks_keep_shapes_for_lengths_that_halve_evenly(length, multipliers):
    unet = TemporalUnet(5, channels=8, multipliers=multipliers)
    assert unet(th.zeros(2, length, 5), th.tensor([0, 3])).shape == (2, length, 5)
    values = TemporalRegressor(5, length, 3, channels=8, multipliers=multipliers, has_clock=False)
    assert values(th.zeros(2, length, 5), th.tensor([0, 3]), th.ones(2)).shape == (2, 3)


def test_the_clock_is_seen_only_where_asked_for():
    for has_clock in (False, True):
        acting = policy(has_clock=has_clock)
        plans = th.zeros(1, 4, 5)
        early, late = (acting.predict_values(plans, 0, acting.clock(th.tensor([step]))) for step in (0, 40))
        assert bool((early != late).any()) is has_clock
    assert acting.clock(th.tensor([0, 25, 99])).tolist() == [1.0, 0.5, 0.0]
