"""What a solver refuses before it trains, each time with the way out."""

import re

import pytest

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, ConstraintError, TrainingError, UnknownNameError
from saferl.solvers import CPO, RCPO, SOLVERS, CaT, LagrangianVecEnv, PIDLag, PPOLag, ReLOAD, TRPOLag, UnconstrainedPPO
from saferl.solvers.catalogue import ONLINE
from saferl.solvers.reload import ReLOADConfig

ENV = "saferl.testing.solver_envs:drift"
CONSTRAINED = [name for name in ONLINE if name != "ppo"]


def drift(**constraint):
    """Ten steps that each cost 1."""
    constraints = ConstraintSet([Constraint("always", **{"max_step_cost": 1.0, **constraint})])
    return saferl.make_vec(ENV, 1, constraints=constraints)


@pytest.mark.parametrize("solver", CONSTRAINED)
@pytest.mark.parametrize("kind", ["probability", "cvar"])
def test_a_kind_of_constraint_that_is_not_supported_is_refused(solver, kind):
    solver_class = SOLVERS.load(solver)
    message = f"{solver_class.__name__} supports constraints of kind .*; got '{kind}' for 'always'. Choose another kind"
    with pytest.raises(ConstraintError, match=message):
        solver_class("MlpPolicy", drift(budget=0.5, kind=kind))


UNITS = {
    "a sum per episode as a rate": ({"kind": "step_rate"}, r"at most 1, .*A sum per episode is kind='episode_sum'"),
    "a sum per episode as a discounted one": (
        {"kind": "discounted", "gamma": 0.9},
        r"at most 10, .*A sum per episode is kind='episode_sum'",
    ),
}


@pytest.mark.parametrize("solver", CONSTRAINED)
@pytest.mark.parametrize(("constraint", "message"), UNITS.values(), ids=UNITS)
def test_a_budget_in_other_units_than_its_kind_is_refused(solver, constraint, message):
    solver_class = SOLVERS.load(solver)
    with pytest.raises(ConstraintError, match=f"^{solver_class.__name__}: the budget of 'always' must be {message}"):
        solver_class("MlpPolicy", drift(budget=25.0, **constraint))


def test_budgets_to_train_at_have_the_units_of_the_environments():
    with pytest.raises(ConstraintError, match=r"^PPOLag: the budget of 'always' must be at most 1,"):
        PPOLag("MlpPolicy", drift(budget=0.5, kind="step_rate"), budgets={"always": 5.0})
    with pytest.raises(ConstraintError, match=r"^LagrangianVecEnv: the budget of 'always' must be at most 1,"):
        LagrangianVecEnv(drift(budget=0.5, kind="step_rate"), budgets={"always": 5.0})
    PPOLag("MlpPolicy", drift(budget=0.5, kind="step_rate"), budgets={"always": 1.0}, n_steps=8)


def test_the_baseline_takes_any_budget_because_it_ignores_it():
    solver = UnconstrainedPPO("MlpPolicy", drift(budget=25.0, kind="step_rate"), n_steps=8, batch_size=8)
    assert solver.learn(8).num_timesteps == 8


@pytest.mark.parametrize("solver", CONSTRAINED)
def test_a_negative_budget_is_refused(solver):
    with pytest.raises(ConstraintError, match="the budget must be finite and at least 0; got -1"):
        SOLVERS.load(solver)("MlpPolicy", drift(budget=0.5, kind="step_rate"), budgets={"always": -1.0})


@pytest.mark.parametrize("solver", [name for name in CONSTRAINED if name.startswith("reload")])
def test_an_unknown_mode_of_optimism_is_refused(solver):
    message = r"optimism must be one of 'both', 'primal', 'dual', 'none'; got 'primel'"
    with pytest.raises(ConfigError, match=message):
        SOLVERS.load(solver)("MlpPolicy", drift(budget=5.0), optimism="primel")


def test_an_unknown_mode_is_refused_in_a_config_too():
    config = ReLOADConfig(optimism="sideways")
    with pytest.raises(ConfigError, match=r"ReLOADConfig\.optimism must be one of .*; got 'sideways'"):
        ReLOAD("MlpPolicy", drift(budget=5.0), config=config)


TOGETHER = {
    "gains and Adam": (
        PPOLag,
        {"dual": "adam", "multiplier_kp": 0.1},
        r"multiplier_kp is a gain of the PID controller and belongs to dual='projected'; got dual='adam'\. Set "
        r"multiplier_kp to 0, or take dual='projected'\.",
    ),
    "a derivative and optimism": (
        TRPOLag,
        {"dual": "optimistic", "multiplier_kd": 0.1},
        r"multiplier_kd is a gain .* got dual='optimistic'",
    ),
    "a controller that is Adam": (
        PIDLag,
        {"dual": "adam"},
        r"PIDLagConfig\.dual must be one of 'projected'; got 'adam'",
    ),
    "softplus from zero": (RCPO, {"dual": "softplus"}, r"dual='softplus' needs multiplier_init > 0.*Try 1\."),
    "optimism twice": (
        ReLOAD,
        {"dual": "optimistic"},
        r"ReLOADConfig\.dual must be one of 'projected'; got 'optimistic'",
    ),
    "multipliers of CPO": (CPO, {"multiplier_lr": 0.1}, r"Unknown option of CPOConfig 'multiplier_lr'"),
    "an offset without a shift": (CaT, {"reward_offset": 1.0}, r"reward_offset must be greater than 0 with .*'shift'"),
}


@pytest.mark.parametrize(("solver", "options", "message"), TOGETHER.values(), ids=TOGETHER)
def test_options_that_do_not_go_together_are_refused(solver, options, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        solver("MlpPolicy", drift(budget=5.0), **options)


def test_a_reward_below_zero_under_cat_names_the_documented_choices():
    model = CaT("MlpPolicy", drift(budget=5.0), n_steps=20, batch_size=20, seed=0, device="cpu")
    with pytest.raises(TrainingError, match=re.escape("Choose negative_rewards='positive_part_only', or 'shift'")):
        model.learn(200)
