"""A point mass that a diffusion policy drives straight through an obstacle, with and without projected plans."""

from dataclasses import dataclass

import numpy as np
import pytest

from saferl.errors import ConfigError
from saferl.shields import ActionSpec, DiffusionProjector, ShieldContext, load_shield, save_shield
from saferl.shields.diffusion_projector import DDPM
from saferl.shields.trajectory_projector import ProjectorSettings
from saferl.testing import check_shield
from tests.shields.linear_models import DT

HORIZON, STEPS, SPREAD = 8, 20, 0.2
GOAL, OBSTACLE = np.array([1.6, 0.0]), (0.8, 0.05, 0.25)
SPACE = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
LOW, HIGH = [-2.0, -2.0, -1.0, -1.0], [2.0, 2.0, 1.0, 1.0]


@dataclass(frozen=True)
class StraightPlans:
    """The exact model of the noise where clean plans are normal around the straight way to the goal.

    With x_k = sqrt(kept) x_0 + sqrt(1 - kept) e and x_0 ~ N(mean, spread^2), the mean of e given x_k is
    sqrt(1 - kept) (x_k - sqrt(kept) mean) / (kept spread^2 + 1 - kept).
    """

    steps: int = STEPS
    spread: float = SPREAD

    def mean(self, obs):
        way = GOAL - obs
        length = np.linalg.norm(way)
        speed = way / max(length, 1e-9)
        travelled = np.minimum(DT * np.arange(HORIZON), length)[:, None] * speed
        actions = np.where((DT * np.arange(HORIZON) < length)[:, None], speed, 0.0)
        plan = np.hstack([obs + travelled, actions])
        low, high = np.array(LOW), np.array(HIGH)
        return (plan - (high + low) / 2.0) / ((high - low) / 2.0)

    def __call__(self, trajectories, k, obs):
        kept = DDPM(self, self.steps).kept[k]
        change = trajectories - np.sqrt(kept) * self.mean(np.asarray(obs))
        return np.sqrt(1.0 - kept) * change / (kept * self.spread**2 + 1.0 - kept)


def settings(**options):
    return ProjectorSettings(
        **{
            "a": np.eye(2), "b": DT * np.eye(2), "low": [-1.0, -1.0], "high": [1.0, 1.0], "horizon": HORIZON,
            "obstacles": [OBSTACLE], "rows": [[0.0, -1.0]], "limits": [0.6], "tightening": 0.025, **options,
        }
    )  # fmt: skip


def projector(projected=None, **options):
    denoiser = DDPM(StraightPlans(), STEPS)
    return DiffusionProjector(SPACE, denoiser, projected or settings(), steps=STEPS, low=LOW, high=HIGH, **options)


def drive(shield, seed, steps=60, wind=0.0):
    """One episode: the worst violation of the real constraints, and the distance from the goal at its end."""
    generator, state = np.random.default_rng(seed), np.array([0.0, 0.0])
    shield.reset()
    worst, kinds = -np.inf, []
    for step in range(steps):
        decision = shield.filter(state, [0.0, 0.0], ShieldContext(step=step, generator=generator))
        kinds.append(decision.kind)
        state = state + DT * decision.action + generator.uniform(-wind, wind, 2)
        gap = np.linalg.norm(state - OBSTACLE[:2]) - OBSTACLE[2]
        worst = max(worst, -gap, -0.6 - state[1])
    return worst, float(np.linalg.norm(state - GOAL)), kinds


def test_without_constraints_the_policy_hits_the_obstacle_and_reaches_the_goal():
    free = projector(settings(obstacles=(), rows=None, limits=None))
    worst, distance, _ = drive(free, seed=0)
    assert worst > 0.1
    assert distance < 0.1


@pytest.mark.parametrize("select", ["random", "consistent", "cheapest"])
def test_projected_plans_go_round_the_obstacle_to_the_goal(select):
    for seed in range(2):
        worst, distance, kinds = drive(projector(select=select), seed)
        assert worst <= 1e-6
        assert distance < 0.15
        assert "infeasible" not in kinds


def test_a_tightening_absorbs_the_error_of_the_model():
    """Wind of up to 0.0175 m to each side is at most 0.025 m: the next state stays outside."""
    for seed in range(2):
        worst, distance, kinds = drive(projector(), seed, wind=0.0175)
        assert worst <= 1e-6
        assert distance < 0.2
        assert "infeasible" not in kinds
    loose = drive(projector(settings(tightening=0.0)), 0, wind=0.0175)[0]
    assert loose > 1e-3


def test_clean_plans_are_those_of_the_exact_posterior():
    """With the exact noise and enough steps, plans have the mean and the spread of the model: 2,000 draws."""
    steps, generator, obs = 200, np.random.default_rng(0), np.zeros(2)
    denoise = DDPM(StraightPlans(steps), steps, noise_scale=1.0)
    plans = generator.standard_normal((2_000, HORIZON, 4))
    for k in reversed(range(steps)):
        plans = denoise(plans, k, obs, generator.standard_normal(plans.shape))
    assert np.max(np.abs(plans.mean(axis=0) - StraightPlans().mean(obs))) < 5.0 * SPREAD / np.sqrt(2_000)
    assert plans.std(axis=0) == pytest.approx(np.full((HORIZON, 4), SPREAD), rel=0.12)


def test_rules_of_selection():
    shield = projector()
    plans = shield.plans(np.zeros(2), np.random.default_rng(0))
    assert plans.is_feasible.all()
    assert projector(select="cheapest")._choose(plans, np.random.default_rng(0)) == int(np.argmin(plans.costs))
    shield.set_memory({"plan": np.vstack([np.zeros((1, 4)), plans.trajectories[2, :-1]]), "age": 1})
    assert shield._choose(plans, np.random.default_rng(0)) == 2
    drawn = {projector(select="random")._choose(plans, np.random.default_rng(s)) for s in range(40)}
    assert drawn == {0, 1, 2, 3}


def test_where_no_plan_is_feasible_the_last_one_is_followed():
    shield = projector(settings(obstacles=(), rows=[[1.0, 0.0]], limits=[0.5], tightening=0.0))
    shield.filter(np.array([0.2, 0.0]), [0.0, 0.0])
    plan = shield.get_memory()["plan"]
    decision = shield.filter(np.array([1.0, 0.0]), [0.0, 0.0])
    assert decision.kind == "infeasible"
    assert decision.action == pytest.approx(np.clip(plan[1, 2:], -1, 1))
    shield.reset()
    assert shield.filter(np.array([1.0, 0.0]), [0.5, 0.0]).action.tolist() == [0.0, 0.0]


def test_a_denoiser_that_fails_is_a_fallback():
    def broken(trajectories, k, obs, noise):
        return np.full_like(trajectories, np.nan)

    shield = DiffusionProjector(SPACE, broken, settings(), steps=2)
    assert shield.filter(np.zeros(2), [0.0, 0.0]).kind in ("infeasible", "fallback")


def test_a_state_inside_the_obstacle_is_not_certified():
    assert projector().certifies(np.zeros(2))
    assert not projector().certifies(np.array(OBSTACLE[:2]))
    assert not projector().certifies(np.array([np.nan, 0.0]))


def test_it_travels_as_data(tmp_path):
    shield = projector(select="cheapest", candidates=2)
    other = load_shield(save_shield(shield, tmp_path / "dpcc"))
    for step, obs in enumerate(np.random.default_rng(0).uniform(-0.4, 0.4, (5, 2))):
        one, two = (s.filter(obs, [0.0, 0.0], ShieldContext(step=step)) for s in (shield, other))
        assert one.action.tolist() == two.action.tolist()


def test_the_unit_keeps_the_protocol():
    shield = DiffusionProjector(SPACE, DDPM(StraightPlans(4), 4), settings(), steps=4, low=LOW, high=HIGH, candidates=2)
    report = check_shield(shield, sample_obs=lambda g: g.uniform(-0.4, 0.4, 2))
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"share": 1.5}, "share"),
        ({"select": "best"}, "random, consistent, cheapest"),
        ({"low": [0.0]}, "one number per state and action"),
    ],
)
def test_options_out_of_their_ranges_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionProjector(SPACE, DDPM(StraightPlans(), STEPS), settings(), **options)
