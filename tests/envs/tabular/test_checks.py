"""Bad input of a CMDP is answered with the array, the index and the value."""

import re

import numpy as np
import pytest
from scipy import sparse

from saferl.envs.tabular import TabularCMDP
from saferl.errors import ConfigError

S, A, K, H = 3, 2, 2, 4


def good(**changes):
    """Arguments of a CMDP that is accepted."""
    moves = np.full((S, A, S), 1.0 / S)
    values = {
        "P": moves,
        "r": np.zeros((S, A)),
        "C": np.zeros((S, A, K)),
        "gamma": 0.9,
        "rho": np.full(S, 1.0 / S),
        "budgets": [1.0, 2.0],
    }
    return {**values, **changes}


def changed(array, index, value):
    result = np.array(array, dtype=float)
    result[index] = value
    return result


def refused(message, **changes):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TabularCMDP(**good(**changes))


MOVES = good()["P"]
STEPS = np.broadcast_to(MOVES, (H, S, A, S))
FINITE = {"gamma": None, "horizon": H}


def test_the_arguments_without_a_change_are_accepted():
    assert repr(TabularCMDP(**good())) == "TabularCMDP(3 states, 2 actions, cost_0, cost_1; gamma=0.9)"
    assert repr(TabularCMDP(**good(**FINITE))) == "TabularCMDP(3 states, 2 actions, cost_0, cost_1; horizon=4)"


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        ((1, 0, 2), 0.5, "The rows of P must sum to 1; got 1.16666667 at P[1, 0]."),
        ((1, 0, 2), -0.25, "P must be at least 0; got -0.25 at P[1, 0, 2]."),
        ((2, 1, 0), np.nan, "P must be finite; got nan at P[2, 1, 0]."),
        ((2, 1, 0), np.inf, "P must be finite; got inf at P[2, 1, 0]."),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "sparse", "rows"])
def test_a_bad_probability_is_named_dense_or_sparse(kind, index, value, message):
    bad = changed(MOVES, index, value)
    if kind != "dense":
        bad = bad.reshape(S * A, S)
    if kind == "sparse":
        bad = sparse.csr_matrix(bad)
    if kind == "rows" and not np.isfinite(value):
        message = f"P must be finite; got {value} at P[5, 0]."
    refused(message, P=bad)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        ((3, 1, 0, 2), 0.5, "The rows of P must sum to 1; got 1.16666667 at P[3, 1, 0]."),
        ((3, 1, 0, 2), -0.25, "P must be at least 0; got -0.25 at P[3, 1, 0, 2]."),
        ((3, 1, 0, 2), np.nan, "P must be finite; got nan at P[3, 1, 0, 2]."),
    ],
)
def test_a_bad_probability_of_a_step_is_named_with_the_step(index, value, message):
    bad = changed(STEPS, index, value)
    refused(message, P=bad, **FINITE)
    as_sparse = [sparse.csr_array(step.reshape(S * A, S)) for step in bad]
    refused(message.replace("P[3, ", "P[3]["), P=as_sparse, **FINITE)


def test_a_negative_part_of_a_repeated_sparse_entry_is_added_up_first():
    """Entries given in parts are one number, and only that one has to be a probability."""
    columns = np.tile([0, 0, 1, 2], S * A)
    parts = np.tile([0.5, -0.1, 0.3, 0.3], S * A)
    moves = sparse.csr_array((parts, columns, np.arange(S * A + 1) * (S + 1)), shape=(S * A, S))
    cmdp = TabularCMDP(**good(P=moves))
    assert cmdp.transitions[0].toarray()[0] == pytest.approx([0.4, 0.3, 0.3])


@pytest.mark.parametrize("gamma", [1.0, 1.5, -0.1, np.nan, True, "0.9", None])
def test_gamma_outside_zero_to_one_is_refused(gamma):
    refused(f"gamma must be a number in [0, 1); got {gamma!r}.", gamma=gamma)


@pytest.mark.parametrize("horizon", [0, -3, 2.5, True])
def test_a_horizon_that_is_no_number_of_steps_is_refused(horizon):
    refused(f"horizon must be a whole number of steps, at least 1; got {horizon!r}.", gamma=None, horizon=horizon)


def test_a_finite_horizon_has_no_discount():
    refused("A finite horizon has no discount: give gamma=None with horizon; got gamma=0.9.", horizon=4)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("r", (2, 1), np.nan, "r must be finite; got nan at r[2, 1]."),
        ("C", (0, 1, 1), np.nan, "C must be finite; got nan at C[0, 1, 1]."),
        ("C", (0, 1, 1), -np.inf, "C must be finite; got -inf at C[0, 1, 1]."),
        ("rho", (1,), np.nan, "rho must be finite; got nan at rho[1]."),
        ("rho", (1,), -0.5, "rho must be at least 0; got -0.5 at rho[1]."),
        ("rho", (1,), 0.5, "rho must sum to 1; got 1.16666667."),
        ("budgets", (1,), np.inf, "budgets must be finite; got inf at budgets[1]."),
    ],
)
def test_a_bad_number_is_named_with_array_index_and_value(name, index, value, message):
    refused(message, **{name: changed(good()[name], index, value)})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("r", (S,), "r must have shape (S, A) without an empty axis; got (3,)."),
        ("r", (S, 0), "r must have shape (S, A) without an empty axis; got (3, 0)."),
        ("r", (H, S, A), "r must have shape (S, A) without an empty axis; got (4, 3, 2)."),
        ("C", (S, A), "C must have shape (3, 2, 'K'), the last axis one cost per constraint, to match r (3, 2); got"),
        ("C", (S, A + 1, K), "got (3, 3, 2)."),
        ("C", (S, A, 0), "got (3, 2, 0)."),
        ("rho", (S + 1,), "rho must have shape (3,), one probability per state; got (4,)."),
        ("budgets", (K + 1,), "budgets must have shape (2,), one per cost in the last axis of C; got (3,)."),
        ("budgets", (), "budgets must have shape (2,), one per cost in the last axis of C; got ()."),
        ("P", (S, A), "P must have shape (S, A, S) = (3, 2, 3) to match r; got (3, 2)."),
        ("P", (S, A, S + 1), "got (3, 2, 4)."),
        ("P", (H, S, A, S), "got (4, 3, 2, 3)."),
    ],
)
def test_arrays_of_other_shapes_are_refused_with_both_shapes(name, shape, message):
    refused(message, **{name: np.zeros(shape)})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("r", (H + 1, S, A), "r must have one row per step of the horizon 4; got shape (5, 3, 2)."),
        ("C", (H + 1, S, A, K), "got (5, 3, 2, 2)."),
        (
            "P",
            (H + 1, S, A, S),
            "P must have shape (S, A, S) = (3, 2, 3) or (H, S, A, S) = (4, 3, 2, 3) to match r; got",
        ),
    ],
)
def test_arrays_of_another_horizon_are_refused(name, shape, message):
    refused(message, **{name: np.zeros(shape)}, **FINITE)


def test_sparse_transitions_of_another_shape_are_refused():
    refused("A sparse P must have shape (6, 3), row s * A + a; got (6, 6).", P=sparse.eye_array(6))


def test_a_list_of_sparse_transitions_needs_one_per_step():
    steps = [sparse.csr_array(MOVES.reshape(S * A, S))] * (H - 1)
    refused("P must be 4 sparse matrices, one per step, or a dense array; got a list of 3 items.", P=steps, **FINITE)
    refused("P must be one sparse matrix, or a dense array; got a list of 3 items.", P=steps)


def test_what_is_no_array_of_numbers_is_refused():
    refused("r must be an array of numbers; got list (", r=[["a", "b"]] * S)
    refused("C must be an array of numbers; got list (", C=[[1.0], [1.0, 2.0]])


def test_a_number_of_names_must_be_that_of_the_costs():
    with pytest.raises(ConfigError, match=r"names must hold 2 different names, one per cost of C; got \['a', 'a'\]"):
        TabularCMDP(**good(), names=["a", "a"])


def test_rounding_of_probabilities_is_allowed():
    cmdp = TabularCMDP(**good(P=MOVES * (1 + 5e-10), rho=np.full(S, (1 - 5e-10) / S)))
    assert cmdp.rho.sum() < 1.0 < cmdp.transitions[0].sum(axis=1).max()


def test_what_is_given_is_copied():
    given = {name: np.array(value) for name, value in good().items() if name != "gamma"}
    cmdp = TabularCMDP(**given, gamma=0.9)
    for array in given.values():
        array[...] = 7.0
    assert cmdp.evaluate(cmdp.uniform_policy()).value == 0.0
    assert cmdp.budgets.tolist() == [1.0, 2.0]


def test_sparse_transitions_are_copied():
    given = sparse.csr_array(MOVES.reshape(S * A, S))
    cmdp = TabularCMDP(**good(P=given))
    given.data[:] = 7.0
    assert cmdp.transitions[0].toarray() == pytest.approx(1.0 / S)
