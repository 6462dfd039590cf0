"""Instances have the optima that are written down for them, and the dynamics that they say."""

import itertools
import time

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from scipy import sparse
from scipy.optimize import linprog

from saferl.envs.tabular.grids import LAKES
from saferl.envs.tabular.instances import (
    INSTANCES,
    catch,
    coptidice_random,
    ding_random,
    finite_horizon_random,
    frozen_lake,
    garnet,
    gridworld,
    inventory,
    one_shot_instance,
    paradox_a,
    paradox_b,
    queueing,
    random_binding,
    two_constraints,
)
from saferl.envs.tabular.planning import best_response
from saferl.errors import ConfigError, UnknownNameError


def optimum(cmdp):
    """Normalised value, multipliers (K,) and occupancies of the linear programme over occupancies."""
    matrix, right = cmdp.flow()
    result = linprog(
        -cmdp.rewards.ravel(),
        A_ub=cmdp.costs.reshape(-1, cmdp.num_constraints).T,
        b_ub=cmdp.limits,
        A_eq=matrix,
        b_eq=right,
        method="highs",
    )
    assert result.success, result.message
    return -result.fun, -result.ineqlin.marginals, result.x.reshape(cmdp.policy_shape)


KNOWN = {
    "paradox_a": (paradox_a, 0.5, 1.0),
    "paradox_b": (paradox_b, 0.5, 1.0),
    "ding 20 x 10": (ding_random, 0.8924887273, 0.24266971),
    "ding 10 x 5": (lambda: ding_random(10, 5, 0.9, 6.0), 0.7460071676, 0.22553954),
}


@pytest.mark.parametrize("name", KNOWN)
def test_value_and_multiplier_are_the_published_ones(name):
    make, value, multiplier = KNOWN[name]
    found, multipliers, _ = optimum(make())
    assert found == pytest.approx(value, abs=1e-9)
    assert multipliers == pytest.approx([multiplier], abs=1e-6)


@pytest.mark.parametrize(
    ("seed", "value", "multiplier"),
    [
        (10, 0.721081, 0.6095),
        (11, 0.712052, 0.6731),
        (12, 0.792647, 0.5865),
        (13, 0.772340, 0.3699),
        (14, 0.710286, 0.6120),
    ],
)
def test_random_binding_instances_have_the_published_optima(seed, value, multiplier):
    """Written down with 6 and 4 decimals."""
    found, multipliers, _ = optimum(random_binding(seed))
    assert found == pytest.approx(value, abs=5.1e-7)
    assert multipliers == pytest.approx([multiplier], abs=5.1e-5)


def test_values_of_the_ding_instances_in_the_units_of_the_papers():
    assert optimum(ding_random())[0] / 0.2 == pytest.approx(4.46244364, abs=1e-8)
    assert optimum(ding_random(10, 5, 0.9, 6.0))[0] / 0.1 == pytest.approx(7.46007168, abs=1e-8)


def test_the_optimal_policy_of_paradox_a_is_stochastic_and_no_deterministic_one_is_near_it():
    cmdp = paradox_a()
    _, _, occupancy = optimum(cmdp)
    policy = occupancy / occupancy.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(policy[:, 0], [10 / 11, 1.0], atol=1e-9)
    found = set()
    for actions in itertools.product(range(2), repeat=2):
        evaluation = cmdp.evaluate(np.eye(2)[list(actions)])
        found.add((round(evaluation.value, 4), round(float(evaluation.costs[0]), 4)))
    assert found == {(1.0, 1.0), (0.0, 0.0), (0.0, 0.4737)}


def test_the_one_shot_instance_has_the_published_numbers():
    cmdp = one_shot_instance()
    value, multipliers, _ = optimum(cmdp)
    assert value / cmdp.scale == pytest.approx(6.2521, abs=5e-5)
    assert multipliers == pytest.approx([0.5670], abs=5e-5)
    assert cmdp.evaluate(cmdp.uniform_policy()).costs / cmdp.scale == pytest.approx([2.111], abs=5e-4)
    assert (cmdp.costs[cmdp.rewards <= 0.5] == 0.0).all()


@pytest.mark.parametrize("seed", [12, 0])
def test_the_finite_horizon_instance_leaves_exactly_what_its_utility_does_not_take(seed):
    """Reward and utility share one unit per step, so v* is the budget on 1 - utility, and one unit costs one."""
    cmdp = finite_horizon_random(seed)
    assert cmdp.policy_shape == (10, 30, 3)
    assert set(np.unique(cmdp.rewards)) == {0.0, 1.0}
    np.testing.assert_array_equal(cmdp.costs[..., 0], cmdp.rewards)
    assert len({id(matrix) for matrix in cmdp.transitions}) == 10
    assert cmdp.rho.max() == 1.0
    value, multipliers, _ = optimum(cmdp)
    assert value / cmdp.scale == pytest.approx(cmdp.budgets[0], abs=1e-9)
    assert multipliers == pytest.approx([1.0], abs=1e-9)
    most = best_response(cmdp, 1.0 - cmdp.rewards).value / cmdp.scale
    assert 10.0 - cmdp.budgets[0] == pytest.approx(most / 2, abs=1e-9)


def play(rows, columns, ball, actions):
    """Catch as it is described: whether the ball is caught, and the column of the paddle after every step."""
    paddle, columns_of_paddle = columns // 2, []
    for _, action in zip(range(rows - 1), actions, strict=True):
        paddle = min(max(paddle + (-1, 0, 1)[action], 0), columns - 1)
        columns_of_paddle.append(paddle)
    return paddle == ball, columns_of_paddle


@pytest.mark.parametrize(("rows", "columns"), [(10, 5), (5, 3), (4, 6)])
def test_catch_is_the_game_that_it_says(rows, columns):
    cmdp = catch(rows, columns)
    rng = np.random.default_rng(0)
    moves = [matrix.reshape(columns**2, 3, columns**2) for matrix in cmdp.transitions]
    assert cmdp.rho.reshape(columns, columns)[:, columns // 2].tolist() == [1.0 / columns] * columns
    for ball, _ in itertools.product(range(columns), range(20)):
        actions = rng.integers(3, size=rows - 1)
        is_caught, paddles = play(rows, columns, ball, actions)
        state = ball * columns + columns // 2
        for step, (action, paddle) in enumerate(zip(actions, paddles, strict=True)):
            assert cmdp.costs[step, state, action, 0] == (paddle < columns // 2)
            expected = 0.0 if step < rows - 2 else 1.0 if is_caught else -1.0
            assert cmdp.rewards[step, state, action] == expected
            (state,) = np.flatnonzero(moves[step][state, action])
            assert divmod(state, columns) == (ball, paddle)


def test_catch_has_the_optimum_that_is_written_down():
    """All balls cost (1 + 2) / 5; half of that pays for column 1 and for a quarter of column 0."""
    cmdp = catch()
    assert cmdp.policy_shape == (9, 25, 3)
    assert cmdp.budgets == pytest.approx([0.3], abs=1e-15)
    value, multipliers, occupancy = optimum(cmdp)
    assert value / cmdp.scale == pytest.approx(0.7, abs=1e-9)
    assert multipliers == pytest.approx([1.0], abs=1e-9)
    last = occupancy[-1].reshape(5, 5, 3)
    moved = np.clip(np.arange(5)[:, None] + np.arange(-1, 2), 0, 4)
    caught = [9 * float(last[ball][moved == ball].sum()) * 5 for ball in range(5)]
    assert caught == pytest.approx([0.25, 1.0, 1.0, 1.0, 1.0], abs=1e-9)
    assert best_response(cmdp, cmdp.rewards).value / cmdp.scale == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(10, 2), (3, 5), (3, 6)])
def test_a_board_on_which_a_ball_cannot_be_reached_is_refused(rows, columns):
    with pytest.raises(ConfigError, match=f"at least 3 columns.*got {rows} rows and {columns} columns"):
        catch(rows, columns)


@pytest.mark.parametrize("name", list(INSTANCES))
def test_every_named_instance_is_small_can_be_met_and_binds(name):
    cmdp = INSTANCES.load(name)()
    assert np.prod(cmdp.policy_shape) <= 1000
    value, multipliers, occupancy = optimum(cmdp)
    assert multipliers.max() > 1e-2
    assert value < best_response(cmdp, cmdp.rewards).value - 1e-4
    costs = np.tensordot(occupancy, cmdp.costs, occupancy.ndim)
    assert (costs <= cmdp.limits + 1e-9).all()
    assert cmdp.constraints.budgets.tolist() == cmdp.budgets.tolist()
    assert INSTANCES.get(name).summary


@pytest.mark.parametrize("name", list(INSTANCES))
def test_a_name_gives_the_same_instance_every_time(name):
    one, other = (INSTANCES.load(name)() for _ in range(2))
    for field in ("rewards", "costs", "rho", "budgets"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for a, b in zip(one.transitions, other.transitions, strict=True):
        assert (a != b).sum() == 0


@pytest.mark.parametrize("make", [random_binding, two_constraints, coptidice_random, finite_horizon_random, garnet])
def test_another_seed_gives_another_instance(make):
    assert not np.array_equal(make(1).costs, make(2).costs)


def test_half_way_budgets_are_between_the_greedy_and_the_careful_costs():
    cmdp = two_constraints()
    greedy = cmdp.evaluate(best_response(cmdp, cmdp.rewards).policy).costs
    careful = cmdp.evaluate(best_response(cmdp, -cmdp.costs.sum(axis=-1)).policy).costs
    np.testing.assert_allclose(cmdp.limits, (greedy + careful) / 2, atol=1e-12)
    assert (careful < cmdp.limits).all()
    assert (cmdp.limits < greedy).all()


def test_the_coptidice_instance_follows_its_recipe():
    cmdp = coptidice_random(3)
    moves = cmdp.transitions[0].reshape(50, 4, 50)
    (goal,) = np.flatnonzero(cmdp.rewards[:, 0])
    assert cmdp.rewards[goal] == pytest.approx(20.0)
    assert cmdp.rewards.sum() == pytest.approx(80.0)
    assert (moves[[goal, 49]][..., 49] == 1.0).all()
    others = [state for state in range(49) if state != goal]
    assert ((moves[others] > 0).sum(axis=-1) == 4).all()
    assert (moves[others][..., 49] == 0.0).all()
    assert (cmdp.costs.min(axis=1) == 0.0).all()
    assert cmdp.limits == pytest.approx([0.1])
    assert cmdp.evaluate(best_response(cmdp, cmdp.rewards).policy).costs[0] > 0.1


@pytest.mark.parametrize("is_slippery", [True, False])
@pytest.mark.parametrize("name", LAKES)
def test_the_frozen_lake_moves_as_gymnasiums(name, is_slippery):
    """Up to its ends, where Gymnasium stops and we stay."""
    env = FrozenLakeEnv(map_name=name, is_slippery=is_slippery)
    cmdp = frozen_lake(name, is_slippery=is_slippery)
    letters = env.desc.astype(str).ravel()
    moves = cmdp.transitions[0].reshape(len(letters), 4, -1)
    assert cmdp.rho.tolist() == env.initial_state_distrib.tolist()
    for state, action in itertools.product(range(len(letters)), range(4)):
        expected = np.zeros(len(letters))
        for chance, other, reward, ended in env.P[state][action]:
            expected[other] += chance
            assert ended == (letters[other] in "HG")
            assert reward == (letters[other] == "G" and letters[state] not in "HG")
        np.testing.assert_allclose(moves[state, action], expected, rtol=0.0, atol=1e-15)
        assert cmdp.rewards[state, action] == (letters[state] == "G")
        assert cmdp.costs[state, action, 0] == (letters[state] == "H")


def test_the_best_return_of_the_frozen_lake_is_the_known_one():
    """0.542 with gamma 0.99, for a reward on the step into the goal; ours is earned one step later."""
    cmdp = frozen_lake()
    best = best_response(cmdp, cmdp.rewards).value
    table = FrozenLakeEnv(map_name="4x4").P
    values = np.zeros(16)
    for _ in range(2000):
        q = [[sum(p * (r + 0.99 * values[t] * (not d)) for p, t, r, d in table[s][a]) for a in range(4)] for s in table]
        values = np.max(q, axis=1)
    assert best == pytest.approx(0.99 * values[0], abs=1e-9)
    assert values[0] == pytest.approx(0.542, abs=5e-4)


def test_a_lake_of_ones_own_is_built_from_its_rows():
    """Right, down, and then the goal for ever: gamma^2 per step."""
    cmdp = frozen_lake(["SF", "HG"], is_slippery=False, gamma=0.5)
    assert cmdp.num_states == 4
    assert best_response(cmdp, cmdp.rewards).value == pytest.approx(0.25)


@pytest.mark.parametrize("rows", [["SF", "HGF"], ["SX", "HG"], ["FF", "HG"], ["SS", "HG"], []])
def test_a_map_that_is_no_lake_is_refused(rows):
    with pytest.raises(ConfigError, match="The map of a lake must be a square of the letters F, H, G and one S"):
        frozen_lake(rows)


def test_an_unknown_map_is_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"Unknown map of the frozen lake '4x5'\. Did you mean '4x4'"):
        frozen_lake("4x5")


def slow_grid(size, slip, goal):
    """Transitions of the grid cell by cell."""
    steps = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    moves = np.zeros((size * size, 4, size * size))
    for row, column, action in itertools.product(range(size), range(size), range(4)):
        for turn, chance in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
            down, right = steps[(action + turn) % 4]
            to = (min(max(row + down, 0), size - 1), min(max(column + right, 0), size - 1))
            to = to if (row, column) != goal else goal
            moves[row * size + column, action, to[0] * size + to[1]] += chance
    return moves


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("slip", [0.0, 0.1, 1.0])
def test_a_gridworld_moves_as_it_says(slip, is_sparse):
    cmdp = gridworld(5, slip, [(0, 1), (4, 0)], goal=(2, 3), start=(1, 1), is_sparse=is_sparse)
    moves = cmdp.transitions[0].toarray() if is_sparse else cmdp.transitions[0]
    np.testing.assert_allclose(moves.reshape(25, 4, 25), slow_grid(5, slip, (2, 3)), rtol=0.0, atol=1e-15)
    assert np.flatnonzero(cmdp.rewards.all(axis=1)).tolist() == [13]
    assert np.flatnonzero(cmdp.costs[..., 0].all(axis=1)).tolist() == [1, 20]
    assert cmdp.rho[6] == 1.0
    assert cmdp.is_sparse == is_sparse


def test_drawn_hazards_leave_the_goal_and_the_start_free():
    for seed in range(20):
        cmdp = gridworld(4, hazards=0.8, start=(0, 0), seed=seed)
        assert cmdp.costs[[0, 15]].sum() == 0.0
        assert cmdp.costs.sum() > 0.0
        anywhere = gridworld(6, seed=seed)
        starts = np.flatnonzero(anywhere.rho)
        assert anywhere.costs[starts].sum() == 0.0
        assert 35 not in starts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [6, 12, 25])
def test_the_budget_of_a_gridworld_has_a_price_between_a_half_and_two(size, seed):
    """And the policy that ignores it breaks it."""
    cmdp = gridworld(size, seed=seed)
    _, multipliers, _ = optimum(cmdp)
    assert 0.5 - 1e-9 <= multipliers[0] <= 2.0 + 1e-9
    assert cmdp.evaluate(best_response(cmdp, cmdp.rewards).policy).costs[0] > cmdp.limits[0] + 1e-6


def test_the_price_of_a_stock_out_is_between_a_half_and_two():
    assert 0.5 <= optimum(inventory())[1][0] <= 2.0


def test_a_given_budget_is_kept():
    assert gridworld(5, budget=3.0).budgets.tolist() == [3.0]


def test_a_large_gridworld_is_sparse_and_quick_to_make():
    """99,856 states; almost all of the time is for the cost of the straight walk."""
    start = time.perf_counter()
    cmdp = gridworld(316)
    assert time.perf_counter() - start < 20.0
    assert cmdp.limits[0] > 0.0
    assert cmdp.num_states == 99_856
    assert cmdp.is_sparse
    assert cmdp.transitions[0].nnz <= 12 * 99_856


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1}, "needs size >= 2 and slip in"),
        ({"slip": 1.5}, "needs size >= 2 and slip in"),
        ({"hazards": 1.0}, "The share of hazards must lie in"),
        ({"hazards": [(0, 8)]}, r"The hazard must be a cell \(row, column\) of a 8 x 8 grid; got \(0, 8\)"),
        ({"goal": (-1, 0)}, "The goal must be a cell"),
        ({"start": (0, 9)}, "The start must be a cell"),
        ({"size": 2, "hazards": [(0, 0), (0, 1), (1, 0)]}, "a cell that is neither goal nor hazard; got none"),
    ],
)
def test_a_gridworld_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        gridworld(**arguments)


def test_a_queue_grows_and_shrinks_as_the_model_says():
    cmdp = queueing(capacity=3, arrival=0.5, services=(0.25, 0.75))
    moves = cmdp.transitions[0].reshape(4, 4, 4)
    slow_closed, slow_open, fast_open = 0, 1, 3
    np.testing.assert_allclose(moves[1, slow_closed], [0.25, 0.75, 0.0, 0.0])
    np.testing.assert_allclose(moves[1, slow_open], [0.125, 0.5, 0.375, 0.0])
    np.testing.assert_allclose(moves[2, fast_open], [0.0, 0.375, 0.5, 0.125])
    np.testing.assert_allclose(moves[0, slow_open], [0.625, 0.375, 0.0, 0.0])
    np.testing.assert_allclose(moves[0, slow_closed], [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(moves[3, fast_open], [0.0, 0.0, 0.75, 0.25])
    np.testing.assert_allclose(cmdp.rewards[:, 0], [1.0, 2 / 3, 1 / 3, 0.0])
    np.testing.assert_array_equal(cmdp.costs[..., 0], np.tile([0.0, 0.0, 1.0, 1.0], (4, 1)))
    np.testing.assert_array_equal(cmdp.costs[:3, :, 1], np.tile([0.5, 0.0, 0.5, 0.0], (3, 1)))
    np.testing.assert_array_equal(cmdp.costs[3, :, 1], [0.5] * 4)


@pytest.mark.parametrize(
    "arguments", [{"capacity": 0}, {"services": [0.5]}, {"services": [0.5, 1.0]}, {"arrival": 0.0}]
)
def test_a_queue_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ConfigError, match="A queue needs capacity >= 1"):
        queueing(**arguments)


def test_an_inventory_sells_what_it_has():
    """By hand for a store of one or two units; demand 0, 1, 2 or more with Poisson probabilities of mean 1."""
    cmdp = inventory(capacity=2, max_order=1, demand=1.0, purchase=0.5, holding=0.1)
    none = np.exp(-1.0)
    moves = cmdp.transitions[0].reshape(3, 2, 3)
    np.testing.assert_allclose(moves[0], [[1.0, 0.0, 0.0], [1 - none, none, 0.0]])
    np.testing.assert_allclose(moves[1, 1], [1 - 2 * none, none, none])
    np.testing.assert_allclose(moves[2, 0], moves[2, 1])
    np.testing.assert_allclose(cmdp.rewards[0], [0.0, (1 - none) - 0.5 - 0.1])
    np.testing.assert_allclose(cmdp.rewards[1, 1], (1 - none) + (1 - 2 * none) - 0.5 - 0.2)
    np.testing.assert_allclose(cmdp.rewards[2, 1], cmdp.rewards[2, 0])
    np.testing.assert_allclose(cmdp.costs[:2, 0, 0], [1 - none, 1 - 2 * none])


@pytest.mark.parametrize("arguments", [{"capacity": 0}, {"max_order": 0}, {"demand": 0.0}])
def test_an_inventory_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ConfigError, match="An inventory needs capacity >= 1"):
        inventory(**arguments)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_garnet_has_few_successors(is_sparse):
    cmdp = garnet(5, 30, 3, 4, is_sparse=is_sparse)
    moves = sparse.csr_array(cmdp.transitions[0])
    assert (np.diff(moves.indptr) == 4).all()
    assert cmdp.is_sparse == is_sparse


def test_a_garnet_is_the_same_dense_and_sparse():
    one, other = (garnet(5, 30, 3, 4, is_sparse=kind) for kind in (False, True))
    assert one.budgets == pytest.approx(other.budgets, abs=1e-10)
    np.testing.assert_array_equal(one.transitions[0], other.transitions[0].toarray())
