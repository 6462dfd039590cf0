"""Choosing among candidates, by hand, and the whole policy against its parts."""

import numpy as np
import pytest
import torch as th

from saferl.policy.feasible_diffusion import FeasibleDiffusion, choose

SIZES = {"steps": 5, "width": 8, "blocks": 1, "time_features": 4, "time_width": 4, "dropout": 0.0}


def policy(**options):
    th.manual_seed(0)
    return FeasibleDiffusion(3, 2, denoiser=SIZES, critic_arch=(8, 8), candidates=6, **options).eval()


def test_without_reward_values_the_smallest_feasibility_value_wins():
    assert choose(th.tensor([[0.2, -0.5, -0.1], [3.0, 2.0, 1.0]]), None, 0.0).tolist() == [1, 2]


def test_among_safe_candidates_the_most_rewarding_wins_and_without_any_the_safest():
    action_values = th.tensor([[0.2, -0.5, -0.1], [-0.05, 0.3, 0.1], [-0.3, -0.2, -0.1]])
    reward_values = th.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 8.0], [1.0, 2.0, 9.0]])
    assert choose(action_values, reward_values, 0.0).tolist() == [2, 0, 2]
    # With a margin of 0.1 the second state has no safe candidate left, and -0.1 itself still is one.
    assert choose(action_values, reward_values, 0.1).tolist() == [2, 0, 2]
    assert choose(action_values, reward_values, 0.15).tolist() == [1, 0, 1]


def test_the_action_is_the_candidate_with_the_smallest_feasibility_value():
    acting = policy()
    observations, noise = th.randn(5, 3), th.randn(5, 5, 6, 2)
    actions = acting.choose_from(observations, noise)
    assert actions.shape == (5, 2)
    alone = [acting.sampler()(acting.features(observations[row, None]), noise[:, row, None])[0] for row in range(5)]
    for row, candidates in enumerate(alone):
        values = acting.action_feasibility(observations[row].expand(6, 3), candidates)
        np.testing.assert_allclose(actions[row], candidates[int(values.argmin())], atol=1e-6)


def test_feasibility_of_an_action_is_the_worse_twin_and_is_unmoved_by_the_reward_critics():
    acting = policy(is_rewarding=True)
    observations, actions = th.randn(4, 3), th.rand(4, 2)
    with th.no_grad():
        twins = acting.critics(observations, actions.unsqueeze(1))[:2, :, 0]
    np.testing.assert_array_equal(acting.action_feasibility(observations, actions), twins.amax(dim=0))


def test_observations_are_scaled_before_every_network():
    acting, observations, noise = policy(is_rewarding=True), th.randn(4, 3), th.randn(5, 1, 6, 2)
    scaled = policy(is_rewarding=True)
    scaled.shift.copy_(th.tensor([1.0, -2.0, 0.5]))
    scaled.scale.copy_(th.tensor([2.0, 0.5, 4.0]))
    raw = observations * scaled.scale + scaled.shift
    np.testing.assert_allclose(scaled.choose_from(raw, noise), acting.choose_from(observations, noise), atol=1e-5)
    np.testing.assert_allclose(scaled.feasibility(raw), acting.feasibility(observations), atol=1e-5)


def test_changed_weights_act_after_a_refresh():
    acting, observations, noise = policy(), th.randn(4, 3), th.randn(5, 1, 6, 2)
    before = acting.choose_from(observations, noise)
    with th.no_grad():
        acting.denoiser.exit.bias.add_(3.0)
    np.testing.assert_array_equal(acting.choose_from(observations, noise), before)
    acting.refresh()
    assert float((acting.choose_from(observations, noise) - before).abs().max()) > 0.1


@pytest.mark.parametrize("is_rewarding", [False, True])
def test_all_learned_numbers_are_counted(is_rewarding):
    critics = (3 + 2 + 1) * 8 + 9 * 8 + 9
    value = (3 + 1) * 8 + 9 * 8 + 9
    denoiser = 2 + (4 + 1) * 4 + (4 + 1) * 4 + (2 + 3 + 4 + 1) * 8 + 16 + 9 * 32 + 33 * 8 + 9 * 2
    expected = (4 if is_rewarding else 2) * critics + value + denoiser
    assert policy(is_rewarding=is_rewarding).num_parameters == expected


def test_deterministic_actions_repeat_and_drawn_ones_belong_to_their_generators():
    acting, observations = policy(is_rewarding=True), th.randn(4, 3)
    fixed = acting.act(observations, None, None, deterministic=True)
    np.testing.assert_array_equal(acting.act(observations, None, None, deterministic=True), fixed)

    def drawn(rows):
        generators = [np.random.default_rng(row) for row in rows]
        return acting.act(observations[rows], None, generators, deterministic=False)

    np.testing.assert_allclose(drawn([0, 1, 2, 3])[[2, 0]], drawn([2, 0]), atol=1e-6)
    assert float((drawn([0, 1, 2, 3]) - fixed).abs().max()) > 0.01


def test_other_weights_act_as_soon_as_they_are_loaded():
    acting, other, observations = policy(), policy(), th.randn(4, 3)
    before = acting.act(observations, None, None, deterministic=True)
    with th.no_grad():
        other.denoiser.exit.bias.add_(3.0)
    acting.load_state_dict(other.state_dict())
    assert float((acting.act(observations, None, None, deterministic=True) - before).abs().max()) > 0.1


def test_the_arch_rebuilds_the_policy():
    acting, observations = policy(is_rewarding=True, margin=0.2), th.randn(4, 3)
    again = FeasibleDiffusion(3, 2, **acting.arch).eval()
    again.load_state_dict(acting.state_dict())
    expected = acting.act(observations, None, None, deterministic=True)
    np.testing.assert_array_equal(again.act(observations, None, None, deterministic=True), expected)
    assert again.margin == 0.2
