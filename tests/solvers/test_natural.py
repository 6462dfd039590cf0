"""Natural-gradient steps: the divergence, the Fisher matrix, the step on a table, and the trust region."""

import numpy as np
import pytest
import torch as th

import saferl
from saferl.evaluation.exact import tabulate
from saferl.solvers import TRPOLag
from saferl.solvers.natural import PolicyGeometry, conjugate_gradient, line_search


@pytest.fixture
def collected():
    """A solver on a two-state task with a rollout in its buffer, and the rollout's tensors."""
    model = TRPOLag(
        "MlpPolicy",
        saferl.make_vec("ParadoxA-v0", 8),
        seed=0,
        n_steps=66,
        policy_kwargs={"net_arch": [16]},
        device="cpu",
    ).learn(528)
    return model, model.rollout_buffer.tensors(model.device)


def test_conjugate_gradient_solves_a_positive_definite_system():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(6, 6))
    matrix = th.as_tensor(half @ half.T + np.eye(6))
    right = th.as_tensor(rng.normal(size=6))
    th.testing.assert_close(conjugate_gradient(lambda x: matrix @ x, right, 20), th.linalg.solve(matrix, right))


def test_the_divergence_is_zero_at_the_start_and_that_of_the_tables_after_a_step(collected):
    model, data = collected
    geometry = PolicyGeometry(model, data, damping=0.1)
    assert float(geometry.kl().detach()) == pytest.approx(0.0, abs=1e-7)
    before = tabulate(model, "ParadoxA-v0")
    geometry.move(0.05 * th.randn(len(geometry.start), generator=th.Generator().manual_seed(0)))
    after = tabulate(model, "ParadoxA-v0")
    share = np.bincount(data.obs.flatten().long(), minlength=2) / len(data)
    expected = share @ (before * np.log(before / after)).sum(axis=1)
    assert expected > 1e-4
    assert float(geometry.kl().detach()) == pytest.approx(expected, rel=1e-3)


def test_the_fisher_product_is_the_curvature_of_the_divergence(collected):
    model, data = collected
    geometry = PolicyGeometry(model, data, damping=0.0)
    direction = th.randn(len(geometry.start), generator=th.Generator().manual_seed(1))
    curvature = float(direction @ geometry.fisher_product()(direction))
    length = 1e-2
    geometry.move(length * direction)
    ahead = float(geometry.kl().detach())
    geometry.move(-length * direction)
    assert curvature == pytest.approx((ahead + float(geometry.kl().detach())) / length**2, rel=0.02)


def test_on_a_table_the_natural_step_adds_the_advantages_to_the_logits(collected):
    """pi <- pi exp(eta A): the logits of a state differ by eta times the difference of its advantages."""
    model, data = collected
    table = th.tensor([[0.6, -0.4], [-0.3, 0.5]])
    advantages = table[data.obs.flatten().long(), data.actions.flatten().long()]
    geometry = PolicyGeometry(model, data, damping=1e-5)
    direction = conjugate_gradient(geometry.fisher_product(), geometry.gradient(advantages), 50)
    before = tabulate(model, "ParadoxA-v0")
    geometry.move(0.1 * direction)
    after = tabulate(model, "ParadoxA-v0")
    moved = np.log(after / before)
    np.testing.assert_allclose(moved[:, 0] - moved[:, 1], 0.1 * np.array([1.0, -0.8]), rtol=0.03)


def test_the_line_search_shrinks_until_accepted_and_else_leaves_the_policy(collected):
    model, data = collected
    geometry = PolicyGeometry(model, data, damping=0.1)
    step = th.ones_like(geometry.start)
    answers = iter([False, False, True])
    assert line_search(geometry, step, lambda: next(answers), shrink=0.5, trials=5) == 0.25
    moved = th.nn.utils.parameters_to_vector(geometry.parameters)
    th.testing.assert_close(moved, geometry.start + 0.25 * step)
    assert line_search(geometry, step, lambda: False, shrink=0.5, trials=3) == 0.0
    assert th.equal(th.nn.utils.parameters_to_vector(geometry.parameters), geometry.start)


@pytest.mark.parametrize("solver", ["trpo_lag", "cpo", "reload"])
def test_updates_move_the_policy_and_stay_in_the_trust_region(solver):
    from saferl.solvers import SOLVERS

    seen = []
    model = SOLVERS.load(solver)(
        "MlpPolicy",
        saferl.make_vec("RandomBinding10-v0", 8),
        seed=0,
        n_steps=66,
        gamma=0.9,
        cost_gamma=0.9,
        device="cpu",
    )
    train = model.train

    def spy():
        train()
        seen.append(model.logger.name_to_value["train/approx_kl"])

    model.train = spy
    model.learn(528 * 6)
    assert max(seen) <= model.config.target_kl * 1.001
    assert sum(kl > 1e-6 for kl in seen) >= 4
