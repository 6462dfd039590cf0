"""Expectation and maximisation step against closed forms, finite differences and torch's own divergences."""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from torch.distributions import Normal, kl_divergence

from saferl.solvers.mpo import (
    Categorical,
    Gaussian,
    StepSizes,
    action_model,
    deviation_over_actions,
    expectation_weights,
    optimistic_values,
    temperature_dual,
)

VALUES = th.tensor([[1.0, 3.0, -2.0], [0.5, 0.5, 0.5]], dtype=th.float64)
LOG_PRIOR = th.log(th.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=th.float64))


def generator(seed=0):
    return th.Generator().manual_seed(seed)


def test_weights_over_all_actions_are_the_prior_times_the_exponential_of_the_value():
    weights = expectation_weights(VALUES, th.tensor(2.0), LOG_PRIOR)
    by_hand = LOG_PRIOR.exp() * th.exp(VALUES / 2.0)
    np.testing.assert_allclose(weights, by_hand / by_hand.sum(dim=1, keepdim=True), rtol=1e-12)


def test_weights_of_drawn_actions_leave_the_prior_to_the_draw():
    weights = expectation_weights(VALUES, th.tensor(2.0))
    by_hand = th.exp(VALUES / 2.0)
    np.testing.assert_allclose(weights, by_hand / by_hand.sum(dim=1, keepdim=True), rtol=1e-12)


def test_equal_values_give_back_the_prior():
    weights = expectation_weights(VALUES[1:], th.tensor(0.3), LOG_PRIOR[1:])
    np.testing.assert_allclose(weights, LOG_PRIOR[1:].exp(), rtol=1e-12)


@pytest.mark.parametrize("log_prior", [LOG_PRIOR, None])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_slope_of_the_temperature_dual_is_epsilon_minus_the_divergence_of_the_weights(temperature, log_prior):
    variable = th.tensor(temperature, dtype=th.float64, requires_grad=True)
    temperature_dual(VALUES, variable, 0.1, log_prior).backward()
    weights = expectation_weights(VALUES, variable.detach(), log_prior)
    prior = LOG_PRIOR if log_prior is not None else th.full_like(VALUES, -math.log(3.0))
    divergence = (weights * (weights.log() - prior)).sum(dim=1).mean()
    assert float(variable.grad) == pytest.approx(0.1 - float(divergence), abs=1e-12)


def test_at_the_minimum_of_its_dual_the_temperature_keeps_the_bound():
    grid = th.logspace(-1.0, 2.0, 3001, dtype=th.float64)
    values = th.stack([temperature_dual(VALUES, temperature, 0.1, LOG_PRIOR) for temperature in grid])
    best = int(values.argmin())
    assert 0 < best < 3000
    weights = expectation_weights(VALUES, grid[best], LOG_PRIOR)
    assert float((weights * (weights.log() - LOG_PRIOR)).sum(dim=1).mean()) == pytest.approx(0.1, rel=5e-3)


def test_optimistic_values_are_the_plain_ones_where_nothing_has_changed():
    assert th.equal(optimistic_values(VALUES, VALUES), VALUES)
    assert th.equal(optimistic_values(VALUES, th.zeros_like(VALUES)), 2.0 * VALUES)


def test_the_deviation_counts_all_actions_alike():
    assert float(deviation_over_actions(VALUES)) == pytest.approx(float(np.std([1.0, 3.0, -2.0])) / 2.0)


def gaussians():
    draw = generator(1)
    prior = Gaussian(th.randn(5, 3, generator=draw), 0.5 + th.rand(5, 3, generator=draw))
    return prior, Gaussian(th.randn(5, 3, generator=draw), 0.5 + th.rand(5, 3, generator=draw))


def test_the_divergences_of_a_gaussian_are_those_of_mean_and_deviation_apart():
    prior, policy = gaussians()
    parts = policy.divergences(prior)
    old = Normal(prior.mean, prior.std)
    np.testing.assert_allclose(parts["mean"], kl_divergence(old, Normal(policy.mean, prior.std)).sum(dim=1).mean())
    of_std = kl_divergence(old, Normal(prior.mean, policy.std)).sum(dim=1).mean()
    np.testing.assert_allclose(parts["std"], of_std, rtol=1e-5)


def test_mean_and_deviation_are_fitted_apart_from_each_other():
    prior, policy = gaussians()
    mean, std = policy.mean.requires_grad_(), policy.std.requires_grad_()
    actions = prior.candidates(7, generator()).actions
    fitted = Gaussian(mean, std).log_likelihood(prior, actions)
    alone = Normal(mean[:, None], prior.std[:, None]).log_prob(actions).sum(dim=2)
    beside = Normal(prior.mean[:, None], std[:, None]).log_prob(actions).sum(dim=2)
    np.testing.assert_allclose(fitted.detach(), (alone + beside).detach(), rtol=1e-5)
    of_mean = th.autograd.grad(fitted.sum(), mean, retain_graph=True)[0]
    of_std = th.autograd.grad(fitted.sum(), std)[0]
    moved = Gaussian(policy.mean.detach(), 2.0 * std.detach())
    np.testing.assert_allclose(
        of_mean, th.autograd.grad(Gaussian(mean, moved.std).log_likelihood(prior, actions).sum(), mean)[0]
    )
    other = Gaussian(mean.detach() + 3.0, std)
    np.testing.assert_allclose(of_std, th.autograd.grad(other.log_likelihood(prior, actions).sum(), std)[0])


def test_drawn_actions_have_the_moments_of_the_gaussian():
    """Of 200,000 draws: a mean is off by 5 standard errors with probability below 1e-5 over all six numbers."""
    prior = Gaussian(th.tensor([[1.0, -2.0, 0.5]]), th.tensor([[0.1, 2.0, 1.0]]))
    chosen = prior.candidates(200_000, generator())
    assert chosen.log_prior is None
    error = 5.0 * prior.std[0] / math.sqrt(200_000)
    assert bool(((chosen.actions[0].mean(dim=0) - prior.mean[0]).abs() < error).all())
    assert bool(((chosen.actions[0].std(dim=0) - prior.std[0]).abs() < error).all())


def test_a_single_category_is_weighed_over_all_its_values():
    model = Categorical((LOG_PRIOR,))
    chosen = model.candidates(99, generator())
    assert chosen.actions.tolist() == [[[0], [1], [2]]]
    assert th.equal(chosen.log_prior, LOG_PRIOR)
    np.testing.assert_allclose(model.log_likelihood(model, chosen.actions), LOG_PRIOR)


def test_several_categories_are_drawn_and_their_log_probabilities_add_up():
    model = Categorical((LOG_PRIOR, LOG_PRIOR[:, :2].log_softmax(dim=1)))
    chosen = model.candidates(4, generator())
    assert chosen.log_prior is None
    assert chosen.actions.shape == (2, 4, 2)
    expected = [
        [float(model.logits[0][row, a] + model.logits[1][row, b]) for a, b in chosen.actions[row].tolist()]
        for row in range(2)
    ]
    np.testing.assert_allclose(model.log_likelihood(model, chosen.actions), expected)


def test_the_divergence_of_categories_is_torchs_and_zero_from_itself():
    policy, prior = Categorical((th.zeros(2, 3).log_softmax(dim=1),)), Categorical((LOG_PRIOR,))
    expected = kl_divergence(
        th.distributions.Categorical(logits=LOG_PRIOR), th.distributions.Categorical(logits=policy.logits[0])
    ).mean()
    np.testing.assert_allclose(policy.divergences(prior)["probs"], expected, rtol=1e-6)
    assert float(prior.divergences(prior)["probs"]) == 0.0


def test_every_distribution_of_the_policy_has_its_model_and_others_are_refused():
    logits = th.tensor([[0.1, 0.7, -0.2, 0.3, 0.0]])
    gaussian = action_model(DiagGaussianDistribution(5).proba_distribution(logits, th.full((5,), -1.0)))
    np.testing.assert_allclose(gaussian.std, np.full((1, 5), math.exp(-1.0)), rtol=1e-6)
    single = action_model(CategoricalDistribution(5).proba_distribution(logits))
    np.testing.assert_allclose(single.logits[0], logits.log_softmax(dim=1), rtol=1e-5)
    several = action_model(MultiCategoricalDistribution([2, 3]).proba_distribution(logits))
    assert [part.shape[1] for part in several.logits] == [2, 3]
    with pytest.raises(TypeError, match="BernoulliDistribution"):
        action_model(BernoulliDistribution(5).proba_distribution(logits))


def test_a_penalty_falls_inside_its_trust_region_rises_outside_and_bends_only_the_policy():
    sizes = StepSizes({"mean": 0.1, "std": 0.1}, temperature=2.0)
    inside, outside = (th.tensor(value, requires_grad=True) for value in (0.04, 0.3))
    for_policy, for_penalties = sizes.penalty({"mean": inside, "std": outside})
    (for_policy + for_penalties).backward()
    assert float(inside.grad) == float(outside.grad) == 1.0
    assert float(sizes.log_penalties["mean"].grad) == pytest.approx(0.06, abs=1e-6)
    assert float(sizes.log_penalties["std"].grad) == pytest.approx(-0.2, abs=1e-6)


def test_temperature_and_penalties_are_brought_back_to_their_floors():
    sizes = StepSizes({"probs": 0.1}, temperature=2.0, floor=0.5)
    with th.no_grad():
        sizes.log_penalties["probs"].fill_(-9.0)
    sizes.clamp(least_temperature=3.0)
    assert sizes.temperature.item() == pytest.approx(3.0)
    assert sizes.log_penalties["probs"].exp().item() == pytest.approx(0.5)
    sizes.clamp(least_temperature=1.0)
    assert sizes.temperature.item() == pytest.approx(3.0)
