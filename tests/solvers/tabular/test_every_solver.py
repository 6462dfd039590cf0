"""What holds for every tabular solver."""

import ast
import importlib
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from scipy import sparse

from saferl.config import describe
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.instances import finite_horizon_random, paradox_a, two_constraints
from saferl.errors import ConfigError, TrainingError, UnknownNameError
from saferl.solvers.tabular import TABULAR_SOLVERS
from saferl.solvers.tabular.policies import project_to_simplex
from saferl.solvers.tabular.solution import Recorder

NAMES = (
    "npg_pd pid_lag reload opg_pd omwu_pd pmd_pd rpg_pd uopt_rpgpd cat one_shot_dual rcpo crpo".split()  # noqa: SIM905
)


def short(name):
    """Options for a run of a few iterations."""
    return {} if name in ("cat", "one_shot_dual") else {"iterations": 20}


def test_the_table_names_every_solver_in_one_line_each():
    assert set(TABULAR_SOLVERS) == set(NAMES)
    assert all(entry.summary.endswith(".") for entry in TABULAR_SOLVERS.entries().values())


def test_an_unknown_name_is_answered_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'reload'"):
        TABULAR_SOLVERS.load("relod")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [paradox_a, two_constraints, finite_horizon_random])
def test_the_last_iterate_is_a_policy_whose_values_close_the_trajectory(name, make):
    cmdp = make()
    solution = TABULAR_SOLVERS.load(name)(cmdp, **short(name))
    assert solution.solver == name
    assert solution.policy.shape == cmdp.policy_shape
    assert solution.policy.min() >= 0.0
    np.testing.assert_allclose(solution.policy.sum(axis=-1), 1.0, atol=1e-12)
    exact = cmdp.evaluate(solution.policy)
    assert solution.value == exact.value
    np.testing.assert_array_equal(solution.costs, exact.costs)
    np.testing.assert_array_equal(solution.multipliers, solution.trajectory.multipliers[-1])
    assert (
        solution.trajectory.costs.shape
        == solution.trajectory.multipliers.shape
        == (len(solution.trajectory), cmdp.num_constraints)
    )
    assert solution.multipliers.min() >= 0.0


@pytest.mark.parametrize("name", NAMES)
def test_iterations_count_steps_from_the_uniform_policy(name):
    cmdp = two_constraints()
    solver = TABULAR_SOLVERS.load(name)
    if name in ("cat", "one_shot_dual"):
        assert len(solver(cmdp).trajectory) == 1
        return
    trajectory = solver(cmdp, iterations=3).trajectory
    assert len(trajectory) == 4
    assert trajectory.values[0] == cmdp.evaluate(cmdp.uniform_policy()).value


@pytest.mark.parametrize("name", NAMES)
def test_sparse_transitions_give_the_same_answer(name):
    dense = two_constraints()
    matrix = sparse.csr_array(dense.transitions[0])
    thin = TabularCMDP(matrix, dense.rewards, dense.costs, dense.gamma, dense.rho, dense.budgets)
    solver = TABULAR_SOLVERS.load(name)
    np.testing.assert_allclose(solver(thin, **short(name)).policy, solver(dense, **short(name)).policy, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_options_come_from_a_frozen_config_or_by_name(name):
    solver = TABULAR_SOLVERS.load(name)
    config = solver.config_class()
    with pytest.raises(FrozenInstanceError):
        config.multiplier_max = 1.0
    assert "__dataclass_fields__" in vars(solver.config_class), "a config must be a dataclass of its own"
    assert all(option.help for option in describe(solver.config_class))
    count = {"cat": "max_sweeps", "one_shot_dual": "max_evaluations"}.get(name, "iterations")
    assert solver.has_option(count)
    assert not solver.has_option(count[:-1])
    with pytest.raises(UnknownNameError, match=f"Did you mean '{count}'"):
        solver(paradox_a(), **{count[:-1]: 3})
    with pytest.raises(ConfigError, match=f"{count} must be greater than 0; got 0"):
        solver(paradox_a(), **{count: 0})
    with pytest.raises(ConfigError, match=r"must be int; got 2\.5"):
        solver(paradox_a(), **{count: 2.5})


def test_options_by_name_replace_those_of_the_config():
    from saferl.solvers.tabular.reload import ReLOADConfig, solve

    config = ReLOADConfig(iterations=7, optimism="none")
    assert len(solve(paradox_a(), config).trajectory) == 8
    assert len(solve(paradox_a(), config, iterations=2).trajectory) == 3


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_equal(name):
    first, second = (TABULAR_SOLVERS.load(name)(two_constraints(), **short(name)) for _ in range(2))
    np.testing.assert_array_equal(first.policy, second.policy)
    np.testing.assert_array_equal(first.trajectory.multipliers, second.trajectory.multipliers)


@pytest.mark.parametrize("name", NAMES)
def test_a_solver_imports_no_other_solver(name):
    module = importlib.import_module(f"saferl.solvers.tabular.{name}")
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in imported if module.startswith("saferl.solvers")}
    assert ours <= {"saferl.solvers.tabular.policies", "saferl.solvers.tabular.solution"}


@pytest.mark.parametrize("name", NAMES)
def test_multipliers_never_leave_their_bounds(name):
    solver = TABULAR_SOLVERS.load(name)
    if not solver.has_option("multiplier_max") or name == "one_shot_dual":
        return
    trajectory = solver(paradox_a(), iterations=300, multiplier_max=0.25).trajectory
    assert 0.0 <= trajectory.multipliers.min() <= trajectory.multipliers.max() == 0.25


def test_an_iterate_that_is_not_finite_is_an_error():
    cmdp = paradox_a()
    recorder = Recorder("by_hand", cmdp)
    with pytest.raises(TrainingError, match=r"by_hand must stay finite; iterate 0 .* smaller step sizes"):
        recorder.add(cmdp.evaluate(cmdp.uniform_policy()), np.array([np.nan]))


def test_the_projection_to_the_simplex_is_the_nearest_distribution():
    """Its optimality condition: what stays positive was lowered by one threshold, the rest lay below it."""
    points = np.random.default_rng(0).normal(size=(200, 5))
    nearest = project_to_simplex(points)
    np.testing.assert_allclose(nearest.sum(axis=-1), 1.0, atol=1e-12)
    assert nearest.min() >= 0.0
    threshold = np.where(nearest > 0, points - nearest, -np.inf).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(nearest, np.maximum(points - threshold, 0.0), atol=1e-12)
    assert (nearest == 0).any()


def test_fields_of_shared_options_are_documented_once():
    shared = {field.name for field in fields(TABULAR_SOLVERS.load("npg_pd").config_class)}
    assert shared == {"iterations", "policy_step", "multiplier_step", "multiplier_max"}
