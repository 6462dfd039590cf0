"""Only allowed actions are executed where there is one."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferl.errors import ConfigError
from saferl.shields import ActionMask, ActionSpec, ShieldContext, load_shield, save_shield
from saferl.testing import ShieldPlant, check_shield

FOUR = ActionSpec.discrete(4)
TABLE = np.array([[True, True, True, True], [True, False, False, True], [False, False, True, False], [False] * 4])


@dataclass(frozen=True)
class NotBeyond:
    """Allows actions up to what the observation leaves."""

    limit: float = 3.0

    def __call__(self, obs):
        return np.arange(4) <= self.limit - float(obs[0])


@pytest.mark.parametrize(
    ("options", "proposed", "executed"),
    [
        ({}, 1, 0),
        ({}, 2, 3),
        ({"replacement": "first"}, 2, 0),
        ({"replacement": "first", "order": [1, 3, 2, 0]}, 2, 3),
    ],
)
def test_a_masked_action_is_replaced_by_the_rule(options, proposed, executed):
    decision = ActionMask(FOUR, table=TABLE, **options).filter(1, proposed)
    assert (decision.kind, int(decision.action), decision.distance) == ("masked", executed, 1.0)


def test_an_allowed_action_passes():
    assert ActionMask(FOUR, table=TABLE).filter(1, 3).kind == "pass"


def test_a_tie_goes_to_the_smaller_action():
    assert int(ActionMask(FOUR, rule=lambda obs: np.array([True, False, True, False])).filter(None, 1).action) == 0


def test_random_replacement_is_uniform_over_what_is_allowed_and_repeats():
    shield, generator = ActionMask(FOUR, table=TABLE, replacement="random"), np.random.default_rng(0)
    drawn = [int(shield.filter(1, 1, ShieldContext(generator=generator)).action) for _ in range(2_000)]
    assert set(drawn) == {0, 3}
    # Within 5 standard deviations of 1,000: fails by chance less than once in a million.
    assert abs(drawn.count(0) - 1_000) < 112
    assert [int(shield.filter(1, 1, ShieldContext(step=s)).action) for s in range(9)] == [
        int(shield.filter(1, 1, ShieldContext(step=s)).action) for s in range(9)
    ]


def test_an_empty_mask_is_infeasible_and_executes_the_default():
    decision = ActionMask(FOUR, table=TABLE, default=2).filter(3, 1)
    assert (decision.kind, int(decision.action), decision.status) == ("infeasible", 2, "no action is allowed")
    assert ActionMask(FOUR, table=TABLE, default=2).filter(3, 2).kind == "infeasible"


@pytest.mark.parametrize("obs", [-1, 4, 0.5, [0, 1], "x"])
def test_an_observation_that_the_table_does_not_have_is_a_recorded_fallback(obs):
    decision = ActionMask(FOUR, table=TABLE, default=3).filter(obs, 1)
    assert (decision.kind, int(decision.action)) == ("fallback", 3)


def test_a_rule_that_gives_no_booleans_is_a_recorded_fallback():
    decision = ActionMask(FOUR, rule=lambda obs: [1, 0, 0, 0]).filter(None, 1)
    assert decision.kind == "fallback"
    assert "must give 4 booleans" in decision.status


def test_the_fallback_is_allowed_where_the_state_is_known():
    shield = ActionMask(FOUR, table=TABLE, default=1)
    assert [int(shield.fallback(obs)) for obs in (0, 1, 2, 3)] == [1, 0, 2, 1]
    assert int(shield.filter(2, 9).action) == 2


def test_states_where_something_is_allowed_are_certified():
    shield = ActionMask(FOUR, table=TABLE)
    assert [shield.certifies(obs) for obs in (0, 1, 2, 3, 4)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a rule or a table"),
        ({"table": TABLE, "rule": NotBeyond()}, "either a rule or a table"),
        ({"table": TABLE[:, :3]}, "booleans \\(observations, 4\\)"),
        ({"table": TABLE.astype(float)}, "got float64"),
        ({"table": TABLE, "replacement": "best"}, "replacement must be one of nearest, first, random"),
        ({"table": TABLE, "order": [0, 1, 2]}, "each of the 4 actions once"),
        ({"table": TABLE, "default": 4}, "from 0 to 3; got 4"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ActionMask(FOUR, **options)


def test_boxes_are_refused():
    with pytest.raises(ConfigError, match="Discrete"):
        ActionMask(ActionSpec.box([0.0], [1.0]), table=TABLE)


@given(
    st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 3), st.sampled_from(["nearest", "first", "random"])
)
def test_what_is_executed_is_allowed_if_anything_is(allowed, proposed, replacement):
    shield = ActionMask(FOUR, table=[allowed], replacement=replacement)
    decision = shield.filter(0, proposed)
    assert allowed[int(decision.action)] or not any(allowed)
    assert (decision.kind == "pass") == allowed[proposed]


@pytest.mark.parametrize("replacement", ["nearest", "first", "random"])
def test_the_unit_keeps_the_protocol_and_its_plant_safe(replacement):
    plant = ShieldPlant(
        start=lambda generator: np.zeros(1),
        step=lambda state, action, _: (state + int(action)) * 0.5,
        violation=lambda state: float(state[0]) - 1.5,
    )
    shield = ActionMask(FOUR, rule=NotBeyond(), replacement=replacement)
    report = check_shield(shield, plant=plant)
    assert (report.ok, report.warnings, report.skipped, len(report.checks)) == (True, (), (), 14), str(report)
    wrong = check_shield(ActionMask(FOUR, rule=NotBeyond(4.0), replacement=replacement), plant=plant)
    assert [problem.check for problem in wrong.problems] == ["hard-guarantee"]


def test_rules_and_tables_survive_saving(tmp_path):
    table = ActionMask(FOUR, table=TABLE, replacement="first", order=[3, 2, 1, 0], default=2)
    again = load_shield(save_shield(table, tmp_path / "table"))
    assert again.table.tolist() == TABLE.tolist()
    assert (again.replacement, again.order, again.default) == ("first", (3, 2, 1, 0), 2)
    rule = load_shield(save_shield(ActionMask(FOUR, rule=NotBeyond(2.0)), tmp_path / "rule"))
    assert rule.rule == NotBeyond(2.0)
