"""Schedule, posterior and fused sampling against hand-computed values, closed forms and the plain network."""

import math

import numpy as np
import pytest
import torch as th
from torch.nn import functional

from saferl.policy.diffusion import Denoiser, FusedSampler, add_noise, denoising_errors, posterior_mean, vp_schedule


def test_the_published_schedule_keeps_the_shares_worked_out_by_hand():
    schedule = vp_schedule(5)
    # alpha_t = exp(-0.02 - 0.198 (2 t - 1)): exponents -0.218, -0.614, -1.01, -1.406, -1.802.
    exponents = np.array([-0.218, -0.614, -1.01, -1.406, -1.802])
    np.testing.assert_allclose(schedule.alpha, np.exp(exponents), rtol=1e-12)
    np.testing.assert_allclose(schedule.alpha_bar, np.exp(np.cumsum(exponents)), rtol=1e-12)
    np.testing.assert_allclose(schedule.alpha_bar, [0.8041, 0.4352, 0.1585, 0.0389, 0.0064], atol=6e-5)
    np.testing.assert_allclose(schedule.beta + schedule.alpha, 1.0)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_whatever_the_number_of_steps_the_same_share_remains_at_the_end(steps):
    # The integral of the rate from 0.1 to 10 over [0, 1] is 5.05.
    assert vp_schedule(steps).alpha_bar[-1] == pytest.approx(math.exp(-5.05), rel=1e-12)


def test_noised_actions_have_the_schedules_mean_and_variance():
    noise = th.tensor([[1.0, -2.0]])
    noised = add_noise(th.tensor([[0.5, 0.25]]), noise, th.tensor([[0.64]]))
    np.testing.assert_allclose(noised, [[0.8 * 0.5 + 0.6, 0.8 * 0.25 - 1.2]], rtol=1e-6)


def test_the_step_back_is_the_mean_of_the_gaussian_posterior():
    """q(a_{t-1} | a_t, a_0) has a closed form; with the true noise the step back must give its mean."""
    schedule = vp_schedule(5)
    start, noise = th.tensor([0.3, -0.8], dtype=th.float64), th.tensor([0.7, 1.1], dtype=th.float64)
    for t in range(1, 5):
        alpha, bar, before = schedule.alpha[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        noised = add_noise(start, noise, th.tensor(bar))
        by_hand = (
            math.sqrt(before) * (1 - alpha) / (1 - bar) * start + math.sqrt(alpha) * (1 - before) / (1 - bar) * noised
        )
        np.testing.assert_allclose(posterior_mean(noised, noise, float(alpha), float(bar)), by_hand, rtol=1e-12)


def test_one_step_back_from_the_first_step_with_the_true_noise_gives_the_action():
    schedule = vp_schedule(5)
    alpha = float(schedule.alpha[0])
    start, noise = th.tensor([0.3, -0.8], dtype=th.float64), th.tensor([0.7, 1.1], dtype=th.float64)
    noised = add_noise(start, noise, th.tensor(alpha, dtype=th.float64))
    np.testing.assert_allclose(posterior_mean(noised, noise, alpha, alpha), start, rtol=1e-12)


def test_a_step_back_takes_no_action_outside_the_box_to_be_the_clean_one():
    schedule = vp_schedule(5)
    noised, predicted = th.tensor([[2.0, -0.1]], dtype=th.float64), th.tensor([[-3.0, 0.0]], dtype=th.float64)
    alpha, bar = float(schedule.alpha[4]), float(schedule.alpha_bar[4])
    before = bar / alpha
    # Without clipping, the noise would say (2 + 3 sqrt(1 - abar)) / sqrt(abar) = 62 and -1.25.
    clean = th.tensor([[1.0, -1.0]], dtype=th.float64)
    by_hand = (math.sqrt(before) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - before) * noised) / (1 - bar)
    np.testing.assert_allclose(posterior_mean(noised, predicted, alpha, bar), by_hand, rtol=1e-12)


def small_denoiser(**options):
    th.manual_seed(0)
    denoiser = Denoiser(3, 2, width=8, blocks=2, time_features=6, time_width=5, dropout=0.0, **options).double()
    with th.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * th.randn_like(parameter))
    return denoiser


def test_the_errors_are_summed_over_the_action_and_belong_to_their_rows():
    denoiser = small_denoiser()
    features, actions, noise = th.randn(4, 3).double(), th.rand(4, 2).double(), th.randn(4, 2).double()
    step, bar = th.tensor([0, 4, 2, 2]), th.as_tensor(vp_schedule(5).alpha_bar)
    errors = denoising_errors(denoiser, features, actions, step, noise, bar).detach()
    for row in range(4):
        noised = math.sqrt(bar[step[row]]) * actions[row] + math.sqrt(1 - bar[step[row]]) * noise[row]
        predicted = denoiser(noised[None], features[row, None], step[row, None])[0]
        assert float(errors[row]) == pytest.approx(float(((predicted - noise[row]) ** 2).sum().detach()), rel=1e-10)


def test_the_fused_sampler_walks_back_exactly_as_the_network_does():
    denoiser, schedule = small_denoiser(), vp_schedule(5)
    features, noise = th.randn(700, 3).double(), 0.3 * th.randn(5, 700, 2, 2).double()
    fused = FusedSampler(denoiser, schedule)(features, noise)
    plain, repeated = noise[0].reshape(1400, 2), features.repeat_interleave(2, dim=0)
    with th.no_grad():
        for t in reversed(range(5)):
            predicted = denoiser(plain, repeated, th.full((1400,), t))
            plain = posterior_mean(plain, predicted, float(schedule.alpha[t]), float(schedule.alpha_bar[t]))
            if t:
                plain = plain + math.sqrt(schedule.beta[t]) * noise[5 - t].reshape(1400, 2)
    assert float((plain.abs() < 1).double().mean()) > 0.05
    np.testing.assert_allclose(fused, plain.view(700, 2, 2), atol=1e-10)


def test_actions_of_a_state_do_not_depend_on_the_batch_nor_on_the_noise_of_others():
    denoiser = small_denoiser()
    sampler = FusedSampler(denoiser, vp_schedule(5))
    features, noise = th.randn(300, 3).double(), th.randn(5, 300, 4, 2).double()
    whole = sampler(features, noise)
    np.testing.assert_allclose(sampler(features[250:251], noise[:, 250:251]), whole[250:251], atol=1e-12)
    shared = sampler(features, noise[:, :1])
    np.testing.assert_allclose(shared[7], sampler(features[7:8], noise[:, :1])[0], atol=1e-12)


def test_the_fused_sampler_keeps_the_weights_it_was_made_from():
    denoiser = small_denoiser()
    sampler = FusedSampler(denoiser, vp_schedule(5))
    features, noise = th.randn(2, 3).double(), th.randn(5, 2, 4, 2).double()
    before = sampler(features, noise)
    with th.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(2.0)
    np.testing.assert_array_equal(sampler(features, noise), before)


def test_mish_with_one_exponential_is_mish_everywhere():
    from saferl.policy.diffusion import _mish_

    values = th.tensor([-200.0, -50.0, -5.0, -0.3, 0.0, 0.7, 8.0, 60.0, 400.0])
    np.testing.assert_allclose(_mish_(values.clone()), functional.mish(values), atol=1e-6)


def test_a_trained_denoiser_draws_the_two_actions_of_the_data_where_their_states_say_so():
    th.manual_seed(0)
    generator = th.Generator().manual_seed(0)
    denoiser = Denoiser(1, 1, width=32, blocks=1, time_width=16, dropout=0.0)
    schedule = vp_schedule(5)
    bar = th.as_tensor(schedule.alpha_bar, dtype=th.float32)
    optimizer = th.optim.Adam(denoiser.parameters(), lr=3e-3)
    for _ in range(250):
        features = th.randint(0, 2, (128, 1), generator=generator).float()
        sign = 2.0 * th.randint(0, 2, (128, 1), generator=generator) - 1.0
        actions = th.where(features > 0, 0.6 * sign, 0.2)  # two modes where the feature is 1, one where it is 0
        step = th.randint(0, 5, (128,), generator=generator)
        noise = th.randn((128, 1), generator=generator)
        loss = denoising_errors(denoiser, features, actions, step, noise, bar).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = th.randn((5, 2, 200, 1), generator=generator)
    one, two = FusedSampler(denoiser, schedule)(th.tensor([[0.0], [1.0]]), noise)[..., 0]
    assert float((one - 0.2).abs().mean()) < 0.15
    assert float((two.abs() - 0.6).abs().mean()) < 0.25
    assert 0.25 < float((two > 0).float().mean()) < 0.75
