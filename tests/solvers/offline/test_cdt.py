"""CDT: its losses by torch's distributions, batches in chunks, exact resume, and one training for several budgets."""

import numpy as np
import pytest
import torch as th
from cost_data import assert_repeats_and_resumes, known_data
from torch.distributions import Bernoulli, Normal

from saferl.data.dataset import Dataset
from saferl.errors import ConfigError
from saferl.solvers.offline.cdt import CDT, cost_error, likelihood_and_entropy, state_error, temperature_loss

SIZES = {"width": 16, "heads": 2, "layers": 1, "context": 5}
NO_DROPOUT = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}


def test_the_losses_are_those_of_the_distributions_over_the_steps_that_exist():
    th.manual_seed(0)
    means, log_stds, actions = th.randn(3, 4, 2), 0.3 * th.randn(3, 4, 2), th.randn(3, 4, 2)
    mask = th.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).float()
    density, entropy = likelihood_and_entropy(means, log_stds, actions, mask)
    normal, there = Normal(means, log_stds.exp()), mask.bool()
    assert float(density) == pytest.approx(float(normal.log_prob(actions).mean(-1)[there].sum()), rel=1e-5)
    assert float(entropy) == pytest.approx(float(normal.entropy().mean(-1)[there].sum()), rel=1e-5)
    logits, costs = th.randn(3, 4, 2), th.randint(0, 2, (3, 4, 2)).float()
    expected = -Bernoulli(logits=logits).log_prob(costs).mean(-1)[there].sum()
    assert float(cost_error(logits, costs, mask)) == pytest.approx(float(expected), rel=1e-5)
    features, predicted = th.randn(3, 4, 5), th.randn(3, 4, 5)
    by_hand = sum(
        float((predicted[row, t] - features[row, t + 1]).square().mean())
        for row, last in ((0, 3), (1, 1))
        for t in range(last)
    )
    assert float(state_error(predicted, features, mask)) == pytest.approx(by_hand, rel=1e-5)


def test_too_much_entropy_lowers_its_weight():
    log = th.tensor(0.0, requires_grad=True)
    temperature_loss(log, -0.5, -1.0).backward()
    assert float(log.grad) == 0.5


def test_a_batch_in_chunks_is_one_batch():
    weights = []
    for chunk in (64, 7):
        solver = CDT(preset="small", batch_size=64, chunk=chunk, state_weight=0.1, **SIZES, **NO_DROPOUT)
        metrics = solver.fit(known_data(2), steps=3).metrics
        weights.append(np.concatenate([w.numpy().ravel() for w in solver.policy().state_dict().values()]))
        assert metrics["loss/states"] > 0
    np.testing.assert_allclose(weights[0], weights[1], atol=2e-5)


@pytest.mark.parametrize("attention", ["window", "banded"])
def test_training_repeats_and_resumes_exactly(attention):
    """The shared options of the solvers with critics do not apply."""
    own = {"gamma": None, "net_arch": None, "batch_size": None}

    def solver_class(*, preset, **options):
        kept = {key: value for key, value in options.items() if key not in own}
        return CDT(preset=preset, batch_size=16, attention=attention, **SIZES, **kept)

    assert_repeats_and_resumes(solver_class)


def two_ways(count=60, length=10):
    """Half of the episodes act 0.7, earn and spend 1 per step; half act -0.7, and neither earn nor spend."""
    rng = np.random.default_rng(0)
    rows = count * length
    bold = np.repeat(np.arange(count) % 2, length).astype(np.float32)
    observations = rng.normal(size=(rows, 2)).astype(np.float32)
    return Dataset.from_arrays(
        observations=observations,
        next_observations=np.roll(observations, -1, axis=0),
        actions=(1.4 * bold - 0.7 + 0.05 * rng.normal(size=rows).astype(np.float32))[:, None],
        rewards=bold,
        costs=bold[:, None],
        terminals=np.zeros(rows, dtype=bool),
        timeouts=np.arange(rows) % length == length - 1,
    )


def test_one_training_serves_a_small_and_a_large_budget():
    solver = CDT(
        preset="small",
        batch_size=32,
        warmup=10,
        learning_rate=3e-3,
        tilt=0.0,
        ask=0.0,
        augment=0.0,
        **SIZES,
        **NO_DROPOUT,
    )
    solver.fit(two_ways(), steps=300)
    observations = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
    means = {}
    for budget in (0.0, 10.0):
        actor = solver.actor().with_budgets({"cost": budget})
        state = actor.begin(len(observations))
        means[budget] = float(actor.act(observations, state, None, deterministic=True).mean())
    assert means[0.0] < -0.5
    assert means[10.0] > 0.5


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads; got 10 and 3"):
        CDT(width=10, heads=3)
