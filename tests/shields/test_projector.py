"""The batched projector: exact answers, stated residual, exact gradients."""

import subprocess
import sys

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields.qp import project

torch = pytest.importorskip("torch")

from saferl.shields.projector import project_batch  # noqa: E402

LOW, HIGH = -torch.ones(2).double(), torch.ones(2).double()


def problems(count, m=4, dim=2, seed=0, hardest=0.3):
    generator = np.random.default_rng(seed)
    rows, bounds = generator.normal(size=(count, m, dim)), generator.uniform(-1.0, hardest, (count, m))
    starts = generator.uniform(-1.5, 1.5, (count, dim))
    return (torch.from_numpy(part) for part in (starts, rows, bounds))


@pytest.mark.parametrize(("m", "dim"), [(1, 1), (4, 2), (3, 3), (8, 4)])
def test_answers_are_those_of_the_single_projection(m, dim):
    starts, rows, bounds = problems(500, m, dim)
    low, high = -torch.ones(dim).double(), torch.ones(dim).double()
    found = project_batch(starts, rows, bounds, low, high)
    for k in range(500):
        one = project(*(part[k].numpy() for part in (starts, rows, bounds)), low.numpy(), high.numpy())
        assert bool(found.feasible[k]) == (one.status in ("pass", "solved"))
        np.testing.assert_allclose(found.action[k].numpy(), one.action, atol=1e-6)
    assert found.residual <= 1e-9


def test_no_feasible_problem_of_a_large_batch_misses_a_row_or_leaves_the_box():
    starts, rows, bounds = problems(4096, seed=3)
    found = project_batch(starts, rows, bounds, LOW, HIGH)
    missed = (bounds - (rows * found.action[:, None]).sum(-1)) / rows.norm(dim=-1)
    largest = float(missed[found.feasible].max())
    assert largest <= 1e-9
    assert found.residual == pytest.approx(max(largest, 0.0), abs=1e-14)
    assert bool(((found.action >= -1.0) & (found.action <= 1.0)).all())
    assert 0.02 < float((~found.feasible).double().mean()) < 0.2
    # A proposal that keeps all rows is not touched.
    kept = ((rows * starts[:, None]).sum(-1) >= bounds).all(-1) & (starts.abs() <= 1.0).all(-1)
    assert torch.equal(found.action[kept], starts[kept])


def test_gradients_by_proposal_rows_and_bounds_are_those_of_finite_differences():
    starts, rows, bounds = (part[:60] for part in problems(60, hardest=0.1))
    feasible = project_batch(starts, rows, bounds, LOW, HIGH).feasible
    starts, rows, bounds = (part[feasible].requires_grad_() for part in (starts, rows, bounds))
    assert torch.autograd.gradcheck(
        lambda *parts: project_batch(*parts, LOW, HIGH).action, (starts, rows, bounds), eps=1e-7, atol=1e-5
    )


def test_gradients_of_what_was_solved_one_by_one_are_right_too(monkeypatch):
    from saferl.shields import projector

    monkeypatch.setattr(projector, "_SWEEPS", 1)
    starts, rows, bounds = problems(60, seed=5, hardest=0.1)
    found = project_batch(starts, rows, bounds, LOW, HIGH)
    assert found.exact - int((~found.feasible).sum()) > 5
    starts, rows, bounds = (part[found.feasible].requires_grad_() for part in (starts, rows, bounds))
    assert torch.autograd.gradcheck(
        lambda *parts: project_batch(*parts, LOW, HIGH).action, (starts, rows, bounds), eps=1e-7, atol=1e-5
    )


def test_infeasible_problems_are_flagged_and_give_no_gradient():
    start = torch.zeros(2, 2, requires_grad=True)
    rows, bounds = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.5, -0.7]])
    found = project_batch(start, rows, bounds, -torch.ones(2), torch.ones(2))
    assert found.feasible.tolist() == [False, True]
    assert found.action.dtype == torch.float32
    np.testing.assert_allclose(found.action.detach(), [[0.0, 0.0], [0.5, 0.0]], atol=1e-6)
    found.action.sum().backward()
    assert start.grad.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_an_unbounded_box_and_an_empty_batch_are_fine():
    infinite = torch.full((2,), torch.inf)
    found = project_batch(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), -infinite, infinite)
    np.testing.assert_allclose(found.action, [[0.5, 0.5]], atol=1e-7)
    empty = project_batch(torch.zeros(0, 2), torch.ones(1, 2), torch.ones(1), -infinite, infinite)
    assert (empty.action.shape, empty.residual) == ((0, 2), 0.0)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="project_batch takes"):
        project_batch(torch.zeros(3, 2), torch.ones(2, 1, 2), torch.ones(1), LOW, HIGH)
    with pytest.raises(ConfigError, match="project_batch takes"):
        project_batch(torch.zeros(2), torch.ones(1, 2), torch.ones(1), LOW, HIGH)


def test_a_policy_trained_through_the_projection_learns_the_best_safe_action():
    # Maximise u_1 + u_2 under u_1 <= 0.3: the optimum is (0.3, 1), on a row and on the box.
    wish = torch.zeros(1, 2, requires_grad=True)
    optimiser = torch.optim.SGD([wish], lr=0.1)
    rows, bounds = torch.tensor([[-1.0, 0.0]]), torch.tensor([-0.3])
    for _ in range(30):
        optimiser.zero_grad()
        action = project_batch(wish, rows, bounds, -torch.ones(2), torch.ones(2)).action
        (-action.sum()).backward()
        optimiser.step()
    np.testing.assert_allclose(action.detach(), [[0.3, 1.0]], atol=1e-6)


def test_the_numpy_shields_and_this_module_load_without_torch():
    code = (
        "import sys, saferl.shields.projector, saferl.shields.cbf_qp, saferl.shields.safety_layer, "
        "saferl.shields.critic; sys.exit('torch' in sys.modules or 'gymnasium' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
