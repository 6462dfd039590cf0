"""What is around an agent: from exact positions, and from what a pseudo-lidar leaves of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saferl
from saferl.shields.motion import motion_model
from saferl.shields.scene import LidarLayout, decode_lidar, lidar_scene, privileged_scene

BINS, REACH = 16, 3.0


def pseudo_lidar(points, bins=BINS, reach=REACH):
    """The package's lidar: the nearest object of each bin, spilled over to the bins beside it."""
    values = np.zeros(bins)
    for point in points:
        angle = np.angle(point) % (2 * np.pi)
        width = 2 * np.pi / bins
        index = int(angle / width)
        value = max(0.0, reach - abs(point)) / reach
        share = angle / width - index
        for offset, reading in ((0, value), (1, share * value), (-1, (1.0 - share) * value)):
            values[(index + offset) % bins] = max(values[(index + offset) % bins], reading)
    return values


@given(st.floats(0.1, 2.9), st.floats(0.0, 2 * np.pi, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_one_object_is_found_where_it_is(distance, angle):
    point = distance * np.exp(1j * angle)
    np.testing.assert_allclose(decode_lidar(pseudo_lidar([point]), REACH), [point, point], atol=1e-6)


def test_of_several_objects_each_bins_nearest_lies_between_the_two_ends_that_are_given():
    generator = np.random.default_rng(0)
    for _ in range(300):
        points = generator.uniform(0.3, 2.5, 6) * np.exp(1j * generator.uniform(0, 2 * np.pi, 6))
        found = decode_lidar(pseudo_lidar(points), REACH)
        half = len(found) // 2
        bins = (np.angle(points) % (2 * np.pi) / (2 * np.pi / BINS)).astype(int)
        for index in set(bins):
            nearest = min(points[bins == index], key=abs)
            rows = np.flatnonzero(np.isclose(np.abs(found[:half]), abs(nearest), atol=1e-9))
            is_covered = any(
                np.angle(found[row] / nearest) <= 1e-6 and np.angle(found[half + row] / nearest) >= -1e-6
                for row in rows
            )
            # A bin that a nearer neighbour's spill explains is taken to be empty; nothing else is left out.
            spilled = pseudo_lidar([p for p, b in zip(points, bins, strict=True) if b != index])[index]
            assert is_covered or 1.0 - abs(nearest) / REACH <= spilled + 1e-6


@pytest.mark.parametrize("env_id", ["SafetyPointGoal1-v0", "SafetyCarGoal1-v0"])
def test_the_lidar_shows_the_hazards_that_the_privileged_state_has(env_id):
    env = saferl.make(env_id)
    layout = LidarLayout(**env.get_wrapper_attr("lidar_layout")("hazards"))
    forward = motion_model(env_id[6:].split("Goal")[0]).forward
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        seen = lidar_scene(np.asarray(obs, dtype=np.float64), layout, forward)
        exact = privileged_scene(env.get_wrapper_attr("privileged_state")(), forward)
        nearest = exact.centres[np.argmin(np.abs(exact.centres))]
        # Between the two ends that the lidar leaves open: on the same circle, within a bin of 22.5 degrees.
        assert np.abs(np.abs(seen.centres) - abs(nearest)).min() < 1e-3
        near = seen.centres[np.abs(np.abs(seen.centres) - abs(nearest)) < 1e-3]
        assert np.abs(np.angle(near / nearest)).max() < 2 * np.pi / layout.bins
        assert seen.velocity == pytest.approx(exact.velocity, abs=1e-3)
        assert seen.radii[0] == exact.radii[0]
    env.close()


def test_a_turned_agent_sees_the_world_turned_back():
    state = {
        "position": np.array([1.0, 2.0]), "velocity": np.array([0.0, 0.5]), "heading": np.pi / 2, "turn_rate": 0.3,
        "hazards": np.array([[1.0, 3.0], [0.0, 2.0]]), "hazard_size": 0.2, "walls": np.array([[0.0, 1.0, 2.5]]),
    }  # fmt: skip
    scene = privileged_scene(state, 0.0)
    np.testing.assert_allclose(scene.centres, [1.0, 1j], atol=1e-12)
    np.testing.assert_allclose(scene.velocity, 0.5, atol=1e-12)
    np.testing.assert_allclose(scene.normals, [1.0], atol=1e-12)
    np.testing.assert_allclose(scene.offsets, [0.5], atol=1e-12)
