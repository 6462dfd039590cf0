"""The avoidable set of PointRobot: its symmetries, its files, and two oracles that know nothing of grids."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from saferl.bench.point_robot import SLICES, agreement, bench_point_robot_truth, draw_slices, slice_states
from saferl.envs.point_robot import dynamics, manoeuvre
from saferl.envs.point_robot.behaviours import anywhere, guarded, rollout, seek
from saferl.envs.point_robot.truth import COARSE, Resolution, Truth, candidates, fold, solve
from saferl.errors import ConfigError, DataError

SMALL = Resolution(positions=31, speeds=11, headings=16, hold=5)


@pytest.fixture(scope="module")
def truth():
    """About 10 seconds."""
    return solve(COARSE)


@pytest.fixture(scope="module")
def fine_slices():
    """The four slices on the fine grid, as ``saferl bench point-robot-truth`` finds them, (4, 201, 201)."""
    with np.load(Path(__file__).with_name("point_robot_slices.npz")) as file:
        shape = file["shape"]
        return np.unpackbits(file["avoidable"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def deepest(data):
    ends = np.flatnonzero(data["terminals"] | data["timeouts"]) + 1
    return np.maximum.reduceat(data["next_h"][:, 0], np.concatenate([[0], ends[:-1]]))


def best_of_many(states, rng, count=600, steps=60):
    """The least depth that any of many control sequences reaches: two bang-bang phases, and random ones."""
    corners = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=2)))
    sequences = [
        np.concatenate([np.repeat([a], switch, axis=0), np.repeat([b], steps - switch, axis=0)])
        for a, b in itertools.product(corners, corners)
        for switch in (5, 10, 20)
    ]
    for _ in range(count):
        held = int(rng.integers(2, 16))
        drawn = rng.choice([-1.0, 0.0, 1.0], size=(-(-steps // held), 2))
        sequences.append(np.repeat(drawn, held, axis=0)[:steps])
    controls = np.array(sequences)
    here = states[:, None].repeat(len(controls), axis=1)
    worst = dynamics.margin(here)
    for step in range(steps):
        here = dynamics.step(here, controls[:, step])
        worst = np.maximum(worst, dynamics.margin(here))
    return worst.min(axis=1)


def test_from_avoidable_states_the_greedy_policy_violates_nothing(truth):
    starts = anywhere(800, np.random.default_rng(0))
    starts = starts[truth.avoidable(starts)]
    found = deepest(rollout(starts, truth.best_actions))
    assert (found <= 0.0).mean() >= 0.998
    assert found.max() < 0.01


def test_from_unavoidable_states_no_control_of_many_avoids(truth):
    rng = np.random.default_rng(1)
    starts = anywhere(6000, rng)
    value = truth.value(starts)
    is_trapped = (value > 0.01) & (dynamics.margin(starts) <= 0.0)
    starts, value = starts[is_trapped][:120], value[is_trapped][:120]
    assert len(starts) == 120
    best = best_of_many(starts, rng)
    assert (best > 0.0).all()
    # The value is also the depth that cannot be helped, up to the grid and to what the sequences miss.
    assert np.abs(np.median(value - best)) < 0.01


def test_the_two_resolutions_and_the_published_mask_agree_on_the_slices(truth, fine_slices):
    published = (0.8790, 0.8594, 0.8412, 0.8264)
    for point, fine, share in zip(SLICES, fine_slices, published, strict=True):
        states = slice_states(*point)
        mask = manoeuvre.is_avoided(states)
        assert mask.mean() == pytest.approx(share, abs=5e-5)
        assert agreement(truth.avoidable(states), fine)["agreement"] > 0.999
        found = agreement(mask, fine)
        assert found["false_safe"] < 0.001
        assert found["coverage"] > 0.999


def test_the_published_starts_are_told_apart(truth):
    assert truth.avoidable([dynamics.EVALUATION_START, [-1.5, 0.0, 2.0, np.pi / 4]]).tolist() == [True, False]


def test_feasible_starts_are_avoidable_in_truth(truth):
    assert truth.avoidable(manoeuvre.feasible_starts(2000, np.random.default_rng(3))).all()


def test_the_ends_of_an_episode_cannot_save_anybody(truth):
    """No unavoidable state is in the goal, so that who reaches it was avoidable; the module says why."""
    axis = np.linspace(-dynamics.GOAL_RADIUS, dynamics.GOAL_RADIUS, 7)
    x, y, theta = np.meshgrid(axis, axis, np.linspace(-np.pi, np.pi, 25))
    states = np.stack([x + dynamics.GOAL[0], y + dynamics.GOAL[1], np.full_like(x, 2.5), theta], axis=-1)
    assert truth.value(states).max() < -0.1


def test_the_guarded_policy_keeps_out_and_gets_there(truth):
    starts = manoeuvre.feasible_starts(60, np.random.default_rng(4))
    data = rollout(starts, guarded(truth, lambda states: seek(states, 1.0)))
    assert deepest(data).max() <= 0.0
    ends = np.flatnonzero(data["terminals"] | data["timeouts"])
    assert dynamics.is_at_goal(dynamics.state_of(data["next_observations"][ends])).mean() >= 0.9


def test_the_value_is_at_least_the_depth_and_keeps_the_symmetries(truth):
    states = anywhere(2000, np.random.default_rng(5))
    assert (truth.value(states) >= dynamics.margin(states)).all()
    turned = states * [-1.0, -1.0, 1.0, 1.0] + [0.0, 0.0, 0.0, np.pi]
    backwards = states * [1.0, 1.0, -1.0, 1.0] + [0.0, 0.0, 0.0, np.pi]
    np.testing.assert_allclose(truth.value(turned), truth.value(states), atol=1e-6)
    np.testing.assert_allclose(truth.value(backwards), truth.value(states), atol=1e-6)
    assert (fold(states)[:, 3] < np.pi).all()


def test_a_value_is_its_own_backup():
    small = solve(SMALL)
    grid, rng = small.resolution, np.random.default_rng(6)
    i, j = rng.integers(grid.speeds, size=300), rng.integers(grid.headings, size=300)
    x, y = rng.integers(grid.positions, size=(2, 300))
    line = np.linspace(-3.0, 3.0, grid.positions)
    states = np.stack([line[x], line[y], i * grid.speed_step, j * grid.heading_step], axis=1)
    backup = np.maximum(dynamics.margin(states), small.action_values(states).min(axis=1))
    # States whose best action leaves the arena read values of h there, which interpolation rounds.
    np.testing.assert_allclose(small.values[i, j, x, y], backup, atol=2e-2)
    np.testing.assert_allclose(np.median(np.abs(small.values[i, j, x, y] - backup)), 0.0, atol=1e-4)


def test_candidates_brake_to_a_stop_exactly():
    actions = candidates(np.array([0.1, -0.1, 2.0]), hold=4)
    assert actions.shape == (3, 12, 2)
    np.testing.assert_allclose(actions[:, 9, 0], [-0.5, 0.5, -1.0])


def test_a_truth_is_saved_and_loaded_and_nothing_else_is(tmp_path, truth):
    truth.save(tmp_path / "a" / "truth.npz")
    loaded = Truth.load(tmp_path / "a" / "truth.npz")
    assert loaded.resolution == truth.resolution
    np.testing.assert_allclose(loaded.values, truth.values, atol=2e-3)
    other = tmp_path / "other.npz"
    other.write_bytes(b"not a file of arrays")
    with pytest.raises(DataError, match=r"other\.npz"):
        Truth.load(other)
    np.savez(other, values=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz"):
        Truth.load(other)


def test_what_the_grid_does_not_know_is_refused(truth):
    with pytest.raises(ConfigError, match=r"up to 2\.5 m/s"):
        truth.value([[0.0, 0.0, 2.6, 0.0]])
    with pytest.raises(ConfigError, match="odd number"):
        Resolution(positions=60, speeds=26, headings=32, hold=4)


def test_the_benchmark_reports_both_and_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("saferl.bench.point_robot.RESOLUTIONS", {"coarse": SMALL, "fine": SMALL})
    lines = []
    result = bench_point_robot_truth(cache=tmp_path, figure=tmp_path / "slices.svg", states=50, report=lines.append)
    assert len(result["slices"]) == 4
    assert result["slices"][0]["coarse_to_fine"] == {"agreement": 1.0, "false_safe": 0.0, "coverage": 1.0}
    assert result["rollouts"]["fine"]["kept"] > 0.9
    assert lines
    first = (tmp_path / "slices.svg").read_text(encoding="utf-8")
    assert first.startswith("<?xml")
    saved = Truth.load(tmp_path / "point-robot-fine.npz")
    draw_slices(tmp_path / "again.svg", saved)
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == first
    draw_slices(tmp_path / "learned.svg", saved, lambda states: dynamics.margin(states) + 0.1, label="FISOR")
    assert (tmp_path / "learned.svg").read_text(encoding="utf-8") != first
