"""The fitted motion models: against the simulator on driving they were not fitted to, and against themselves."""

import dataclasses

import numpy as np
import pytest

from saferl.bench.motion import HELD_OUT_SEED, drive, errors, fit
from saferl.errors import UnknownNameError
from saferl.shields.motion import MotionModel, motion_model

AGENTS = ("Point", "Car")


@pytest.mark.parametrize("agent", AGENTS)
def test_the_errors_that_are_stated_are_those_on_driving_it_was_not_fitted_to(agent):
    model = motion_model(agent)
    found = errors(model, drive(agent, HELD_OUT_SEED + 1, episodes=4, steps=200))
    assert found.keys() == model.errors.keys()
    for name, stated in model.errors.items():
        assert found[name] <= 1.5 * stated, name


@pytest.mark.parametrize("agent", AGENTS)
def test_the_fit_finds_the_model_that_made_the_data(agent):
    model, generator = motion_model(agent), np.random.default_rng(0)
    rows = {"position": [0j], "velocity": [0.2 + 0.1j], "heading": [0.3], "turn_rate": [0.1]}
    actions = generator.uniform(-1.0, 1.0, (200, 2))
    for action in actions:
        state = (rows["position"][-1], rows["velocity"][-1], rows["heading"][-1] + model.forward, rows["turn_rate"][-1])
        after = model.step(*state, *model.inputs(model.effects(action)))
        for name, value in zip(rows, after, strict=True):
            rows[name].append(value - model.forward if name == "heading" else value)
    found = fit(agent, [{**{name: np.array(values) for name, values in rows.items()}, "actions": actions}])
    for name in ("a", "b", "g", "alpha", "beta", "gamma", "delta"):
        assert getattr(found, name) == pytest.approx(getattr(model, name), abs=1e-9), name


@pytest.mark.parametrize("agent", AGENTS)
def test_several_steps_at_once_are_the_steps_one_by_one(agent):
    model = motion_model(agent)
    # Straight ahead: turning while the steps last is what the repeated model leaves out.
    state = (0j, 0.4 + 0.0j, 0.0, 0.0)
    for _ in range(5):
        state = model.step(*state, 0.7, 0.0)
    _, velocity, heading, rate = model.repeat(5).step(0j, 0.4 + 0.0j, 0.0, 0.0, 0.7, 0.0)
    np.testing.assert_allclose([velocity, heading, rate], state[1:], atol=1e-12)
    state = (0j, 0j, 0.0, 0.6)
    for _ in range(5):
        state = model.step(*state, 0.0, -0.4)
    _, _, heading, rate = model.repeat(5).step(0j, 0j, 0.0, 0.6, 0.0, -0.4)
    np.testing.assert_allclose([heading, rate], state[2:], atol=1e-12)


def test_a_model_travels_as_json_types():
    model = motion_model("Car")
    assert MotionModel.from_dict(model.to_dict()) == dataclasses.replace(model, errors=dict(model.errors))


def test_an_agent_without_a_model_is_named():
    with pytest.raises(UnknownNameError, match="'Ant'"):
        motion_model("Ant")
