"""The transformer that acts step by step is the one that was trained on windows; nothing sees the future."""

import numpy as np
import pytest
import torch as th

from saferl.policy.decision_transformer import DecisionTransformer, Dropout

LANES, STEPS, CONTEXT = 3, 17, 5


def network(attention, num_costs=2, layers=2):
    th.manual_seed(0)
    net = DecisionTransformer(
        4, 2, num_costs, context=CONTEXT, horizon=12, width=16, layers=layers, heads=2, attention=attention
    )
    with th.no_grad():
        for parameter in net.parameters():  # first weights are small: what is far away would hardly matter
            parameter.add_(0.3 * th.randn(parameter.shape))
    return net.eval()


def episode(num_costs=2, seed=1):
    """Features, actions, returns, costs and steps of LANES episodes; the last steps lie beyond the horizon."""
    generator = th.Generator().manual_seed(seed)
    shapes = ((LANES, STEPS, 4), (LANES, STEPS, 2), (LANES, STEPS), (LANES, STEPS, num_costs))
    parts = [th.randn(shape, generator=generator) for shape in shapes]
    return [*parts, th.arange(STEPS).expand(LANES, STEPS)]


def acted(net, parts, memory=None, steps=range(STEPS), last=0.0):
    """What ``decide`` says at every step of the episodes, (LANES, steps, 2)."""
    features, actions, returns, costs, times = parts
    memory = net.remember(LANES) if memory is None else memory
    before = th.cat([th.zeros(LANES, 1, 2) + last, actions[:, :-1]], dim=1)
    with th.no_grad():
        said = [
            net.decide(memory, features[:, t], before[:, t], returns[:, t], costs[:, t], times[:, t])[0] for t in steps
        ]
    return th.stack(said, dim=1)


@pytest.mark.parametrize("num_costs", [1, 2])
def test_acting_is_the_training_pass_over_the_last_steps_window_by_window(num_costs):
    net, parts = network("window", num_costs), episode(num_costs)
    with th.no_grad():
        windows = [
            net(*(part[:, max(0, t + 1 - CONTEXT) : t + 1] for part in parts)).means[:, -1] for t in range(STEPS)
        ]
    np.testing.assert_allclose(acted(net, parts), th.stack(windows, dim=1), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_with_the_banded_mask_kept_keys_are_the_pass_over_the_whole_episode(layers):
    net, parts = network("banded", layers=layers), episode()
    with th.no_grad():
        whole = net(*parts).means
    np.testing.assert_allclose(acted(net, parts), whole, atol=1e-5)


def test_keys_kept_without_the_band_would_act_otherwise():
    """Why the window is computed again: the whole episode through a window's mask sees more than the window."""
    net, parts = network("window"), episode()
    with th.no_grad():
        whole = net(*parts).means
    said = acted(net, parts)
    np.testing.assert_allclose(said[:, :CONTEXT], whole[:, :CONTEXT], atol=1e-5)
    assert (said[:, CONTEXT:] - whole[:, CONTEXT:]).abs().max() > 0.01


@pytest.mark.parametrize("attention", ["window", "banded"])
def test_neither_the_future_nor_what_left_the_window_has_a_say(attention):
    net, parts = network(attention), episode()
    said = acted(net, parts)
    moment = 10
    for changed in range(5):
        for where, is_seen in ((slice(moment + 1, None), False), (slice(None, moment - CONTEXT + 1), False), (8, True)):
            other = [part.clone() for part in parts]
            other[changed][:, where] += 1
            assert bool((acted(net, other)[:, moment] != said[:, moment]).any()) == is_seen


@pytest.mark.parametrize("attention", ["window", "banded"])
def test_lanes_begin_again_on_their_own(attention):
    net, parts, late = network(attention), episode(), episode(seed=2)
    memory = net.remember(LANES)
    acted(net, parts, memory, range(7))
    memory.clear(th.tensor([1]))
    mixed = [th.cat([part[:, 7:], part[:, :7]], dim=1) for part in parts]
    for index in range(5):
        mixed[index][1] = late[index][1]
    said = acted(net, mixed, memory, range(6), last=parts[1][:, 6:7])
    np.testing.assert_allclose(said[1], acted(net, late)[1, :6], atol=1e-5)
    np.testing.assert_allclose(said[[0, 2]], acted(net, parts)[[0, 2], 7:13], atol=1e-5)


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropout, inputs = Dropout(0.3), th.ones(1_000_001)
    kept = dropout.train()(inputs)
    assert (kept == 0).float().mean() == pytest.approx(0.3, abs=2e-3)
    assert kept.mean() == pytest.approx(1.0, abs=3e-3)
    assert dropout.eval()(inputs) is inputs
