"""The nearest trajectory against cvxpy, the model to the last bit, and obstacles from inside."""

import cvxpy as cp
import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields.trajectory_projector import ProjectorSettings, TrajectoryProjector
from tests.shields.linear_models import DT

POINT = {"a": np.eye(2), "b": DT * np.eye(2), "low": [-1.0, -1.0], "high": [1.0, 1.0]}
MASS = {"a": [[1, DT], [0, 1]], "b": [[DT**2 / 2], [DT]], "low": [-1.0], "high": [1.0]}


def reference(settings, trajectory, state):
    """The same problem without obstacles, uncondensed."""
    a, b = np.array(settings.a, dtype=float), np.array(settings.b, dtype=float)
    steps, states = settings.horizon, len(a)
    s, u = cp.Variable((steps, states)), cp.Variable((steps, b.shape[1]))
    conditions = [s[0] == state, u >= np.array(settings.low), u <= np.array(settings.high)]
    for t in range(1, steps):
        delta = settings.tightening + settings.growth * (t - 1)
        conditions += [s[t] == a @ s[t - 1] + b @ u[t - 1]]
        conditions += [np.array(settings.rows) @ s[t] <= np.array(settings.limits) - delta]
    weights = np.ones(states + b.shape[1]) if settings.weights is None else np.array(settings.weights)
    change = cp.hstack([s, u]) - trajectory
    cost = cp.sum(cp.multiply(np.tile(weights, (steps, 1)), cp.square(change))) / 2.0
    problem = cp.Problem(cp.Minimize(cost), conditions)
    problem.solve(solver=cp.CLARABEL)
    if problem.status != cp.OPTIMAL:
        return None, None
    return np.hstack([s.value, u.value]), float(problem.value) - float(
        weights[:states] @ (state - trajectory[0, :states]) ** 2 / 2.0
    )


@pytest.mark.parametrize("options", [{}, {"tightening": 0.05, "growth": 0.01}, {"weights": [10.0, 1.0, 0.1]}])
def test_projections_are_those_of_the_reference(options):
    settings = ProjectorSettings(**MASS, horizon=10, rows=[[1, 0], [0, 1]], limits=[0.4, 0.5], **options)
    projector, generator = TrajectoryProjector(settings), np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(12):
        trajectory, state = generator.normal(size=(10, 3)), generator.uniform(-0.4, 0.45, 2)
        projection, (expected, cost) = projector.project(trajectory, state), reference(settings, trajectory, state)
        assert projection.is_feasible == (expected is not None)
        seen[projection.is_feasible] += 1
        if expected is not None:
            assert projection.trajectory == pytest.approx(expected, abs=1e-3)
            assert projection.cost == pytest.approx(cost, rel=1e-5, abs=1e-5)
    assert seen[True] > 5


def test_a_projection_follows_the_model_and_projecting_it_again_changes_nothing():
    settings = ProjectorSettings(**POINT, obstacles=[(0.5, 0.02, 0.2)], rows=[[0, 1]], limits=[0.6])
    projector, generator = TrajectoryProjector(settings), np.random.default_rng(0)
    for _ in range(20):
        state = generator.uniform(-0.5, 0.1, 2)
        plan = projector.project(generator.normal(size=(8, 4)), state).trajectory
        assert plan[0, :2].tolist() == state.tolist()
        assert plan[1:, :2] == pytest.approx(plan[:-1, :2] + DT * plan[:-1, 2:], abs=1e-12)
        assert np.all(np.abs(plan[:, 2:]) <= 1.0 + 1e-9)
        again = projector.project(plan, state)
        assert again.trajectory == pytest.approx(plan, abs=1e-5)
        assert again.cost < 1e-9


def test_a_plan_through_an_obstacle_goes_round_it():
    settings = ProjectorSettings(**POINT, horizon=12, obstacles=[(0.5, 0.02, 0.2)], tightening=0.01)
    projector = TrajectoryProjector(settings)
    straight = np.zeros((12, 4))
    straight[:, 0], straight[:, 2] = 0.1 * np.arange(12), 1.0
    assert projector.violation(straight) > 0.1
    plan = projector.project(straight, [0.0, 0.0])
    assert plan.is_feasible
    assert projector.violation(plan.trajectory) <= -0.01 + 1e-6
    assert plan.trajectory[-1, 0] > 0.7


def test_what_is_measured_may_break_a_constraint():
    """From 0.55 with a limit of 0.5 and steps of 0.1 the plan is back inside after one step, or infeasible from 0.7."""
    settings = ProjectorSettings(**POINT, horizon=4, rows=[[1, 0]], limits=[0.5])
    projector, still = TrajectoryProjector(settings), np.zeros((4, 4))
    still[:, 0] = 0.55
    back = projector.project(still, [0.55, 0.0])
    assert back.is_feasible
    assert back.trajectory[1:, 0] == pytest.approx(0.5)
    lost = projector.project(still, [0.7, 0.0])
    assert not lost.is_feasible
    assert lost.trajectory[1:, 0] == pytest.approx(lost.trajectory[:-1, 0] + DT * lost.trajectory[:-1, 2])


def test_the_tightening_grows_along_the_plan():
    projector = TrajectoryProjector(ProjectorSettings(**POINT, horizon=4, tightening=0.1, growth=0.02))
    assert projector.deltas[1:] == pytest.approx([0.1, 0.12, 0.14])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 1}, "horizon >= 2"),
        ({"tightening": -0.1}, "tightening >= 0"),
        ({"rows": [[1.0]], "limits": [1.0]}, "rows"),
        ({"weights": [1.0, 1.0, 0.0, 1.0]}, "positive"),
        ({"obstacles": [(0.0, 1.0)]}, "2 coordinates and a radius"),
        ({"low": [2.0, 2.0]}, "low <= high"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrajectoryProjector(ProjectorSettings(**{**POINT, **options}))
