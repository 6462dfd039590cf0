"""The small PointRobot set that comes with the tests."""

from pathlib import Path

import numpy as np
import pytest

from saferl.data import load_dataset
from saferl.envs.point_robot import dynamics
from saferl.solvers.offline.bc_safe import BCSafe

PATH = Path(__file__).with_name("point_robot.hdf5")


@pytest.fixture(scope="module")
def data():
    return load_dataset(PATH)


def test_it_is_small_and_says_how_it_was_made(data):
    assert PATH.stat().st_size < 2 * 2**20
    assert data.metadata.env_id == "PointRobot-v0"
    assert data.metadata.seeds == (0,)
    assert "saferl collect PointRobot-v0 --episodes 60" in data.metadata.note
    assert len(data.metadata.behaviours) == data.num_episodes == 60


def test_it_holds_what_the_environment_does(data):
    state = np.concatenate(
        [data.observations[:, :3], np.arctan2(data.observations[:, 4], data.observations[:, 3])[:, None]], axis=1
    ).astype(np.float64)
    after = dynamics.step(state, data.actions)
    np.testing.assert_allclose(dynamics.observe(after), data.next_observations, atol=1e-5)
    np.testing.assert_allclose(dynamics.reward(state, after), data.rewards, atol=1e-5)
    np.testing.assert_allclose(dynamics.margin(state), data.h[:, 0], atol=1e-5)
    assert np.array_equal(data.costs, data.next_h > 0.0)


def test_it_has_safe_and_unsafe_episodes_of_every_return(data):
    within = data.cost_returns()[:, 0] <= data.metadata.budgets["cost"]
    assert 0.4 < within.mean() < 0.7
    for group in (within, ~within):
        assert np.ptp(data.returns()[group]) > 8.0


def test_a_solver_learns_from_it(data):
    solver = BCSafe()
    result = solver.fit(data, steps=20, budgets={"cost": 5.0}, seed=0)
    assert result is not None
    action, _ = solver.predict(data.observations[:2])
    assert action.shape == (2, 2)
