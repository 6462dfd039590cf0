"""``check_shield`` passes a good shield and catches broken ones by name."""

import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from saferl.errors import EnvContractError, UsageError
from saferl.shields import (
    SHIELDS,
    ActionSpec,
    Bounds,
    RateLimit,
    Ruling,
    Shield,
    ShieldContext,
    ShieldData,
    ShieldSpec,
    SimplexSwitch,
)
from saferl.shields.base import ShieldDecision
from saferl.testing import ShieldCase, ShieldPlant, check_shield
from saferl.testing.shield_fuzz import fuzz

BOX = ActionSpec.box([-1.0], [1.0])


class Half(Shield):
    """Clips to half the box, by the book; the broken ones below change one thing each."""

    unit = "half"

    def __init__(self, action_space=BOX):
        super().__init__(action_space)
        self.count = 0

    def spec(self):
        return ShieldSpec(self.unit, (), "empirical")

    def reset(self, obs=None, context=None):
        self.count = 0

    def get_memory(self):
        return {"count": self.count}

    def set_memory(self, memory):
        self.count = memory["count"]

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -0.5, 0.5))

    def _remember(self, obs, decision, context):
        self.count += 1

    def _to_data(self):
        return ShieldData({})

    @classmethod
    def _from_data(cls, data, action_space):
        return cls(action_space)


class PassesWhatItChanges(Half):
    def _decision(self, ruling, proposed, elapsed_us):
        action = self.actions.clip(ruling.action)
        return ShieldDecision(action, proposed, "pass", self.actions.distance(action, proposed))


class NeverContent(Half):
    def _decide(self, obs, proposed, context):
        return Ruling(proposed * 0.5)


class RaisesOnNan(Half):
    def filter(self, obs, action, context=None):
        if np.isnan(np.array(action, dtype=float)).any():
            raise ValueError("NaN here")
        return super().filter(obs, action, context)


class TakesNanObservations(Half):
    def judge(self, obs, action, context=None):
        return super().judge(None, action, context)


class LeavesTheBox(Half):
    def _decision(self, ruling, proposed, elapsed_us):
        action = np.array(ruling.action) * 3.0
        return ShieldDecision(action, proposed, "projected", self.actions.distance(action, proposed))


class IgnoresItsBudget(Half):
    def judge(self, obs, action, context=None):
        self.time_budget_us = None
        return super().judge(obs, action, context)


class FallsBackOutside(Half):
    def fallback(self, obs, context=None):
        return np.array([7.0])


class WritesToTheObservation(Half):
    def _decide(self, obs, proposed, context):
        obs[0] += 1.0
        return super()._decide(obs, proposed, context)


class RemembersPastReset(Half):
    def reset(self, obs=None, context=None):
        pass

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -0.5, 0.5) if self.count < 40 else [0.1])


class HidesItsMemory(Half):
    def get_memory(self):
        return None

    def set_memory(self, memory):
        pass

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -0.5, 0.5) if self.count < 5 else [0.1])


class ForgetsInMemory(Half):
    def get_memory(self):
        return {}

    def set_memory(self, memory):
        pass

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -0.5, 0.5) if self.count < 5 else [0.1])


class SharesWithItsCopy(Half):
    shared: ClassVar = [0]

    def reset(self, obs=None, context=None):
        self.shared[0] = 0

    def get_memory(self):
        return {"count": self.shared[0]}

    def set_memory(self, memory):
        self.shared[0] = memory["count"]

    def _remember(self, obs, decision, context):
        self.shared[0] += 1

    def _decide(self, obs, proposed, context):
        limit = 0.5 / (1 + self.shared[0])
        return Ruling(np.clip(proposed, -limit, limit))


class BatchesWithMemory(Half):
    def filter_batch(self, obs, actions, contexts=None):
        return [self.filter(o, a) for o, a in zip(obs, actions, strict=True)]


class BatchesOtherwise(Half):
    def get_memory(self):
        return None

    def filter_batch(self, obs, actions, contexts=None):
        return [self.filter(o, -a) for o, a in zip(obs, actions, strict=True)]


class SavesTooLittle(Half):
    limit = 0.3

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -self.limit, self.limit))

    @classmethod
    def _from_data(cls, data, action_space):
        shield = cls(action_space)
        shield.limit = 0.4
        return shield


class AlwaysFails(Half):
    def _decide(self, obs, proposed, context):
        raise RuntimeError("no model")


class NamesAnother(Half):
    def spec(self):
        return ShieldSpec("other", (), "empirical")


class DrawsFromTheClock(Half):
    generator = np.random.default_rng(0)

    def _decide(self, obs, proposed, context):
        return Ruling(np.clip(proposed, -0.5, 0.5) * type(self).generator.uniform(0.9, 1.0))


BROKEN = {
    PassesWhatItChanges: "kinds",
    NeverContent: "idempotence",
    RaisesOnNan: "bad-actions",
    TakesNanObservations: "bad-observations",
    LeavesTheBox: "kinds",
    IgnoresItsBudget: "time-budget",
    FallsBackOutside: "fallback",
    WritesToTheObservation: "arguments",
    RemembersPastReset: "reset",
    HidesItsMemory: "memory",
    ForgetsInMemory: "memory",
    SharesWithItsCopy: "copy",
    BatchesWithMemory: "batch",
    BatchesOtherwise: "batch",
    SavesTooLittle: "storage",
    AlwaysFails: "kinds",
    NamesAnother: "spec",
    DrawsFromTheClock: "reset",
}


@pytest.fixture
def _registered():
    with SHIELDS.temporarily("half", Half):
        yield


@pytest.mark.usefixtures("_registered")
def test_a_shield_by_the_book_passes_every_check():
    report = check_shield(Half())
    assert (report.ok, report.warnings, report.skipped) == (
        True, (), ("hard-guarantee (it claims no hard guarantee)",),
    )  # fmt: skip
    assert report.checks == (
        "spec", "kinds", "idempotence", "bad-actions", "bad-observations", "time-budget", "fallback", "arguments",
        "reset", "memory", "copy", "batch", "storage",
    )  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_shield_is_caught_by_its_check(broken):
    with SHIELDS.temporarily("half", broken):
        report = check_shield(broken())
    assert BROKEN[broken] in {problem.check for problem in report.problems}, str(report)


def test_what_is_given_is_not_used():
    shield = RateLimit(BOX, rise=0.1, initial=[0.0])
    shield.filter(None, [1.0])
    check_shield(shield)
    assert shield.get_memory()["last"].tolist() == [0.1]


def test_a_shield_that_is_not_registered_is_checked_but_for_loading():
    report = check_shield(Half())
    assert "storage ('half' is not registered, so it can be saved but not loaded)" in report.skipped


def test_a_shield_with_a_lambda_says_that_it_cannot_travel():
    shield = SimplexSwitch(BOX, lambda x: [0.0], lambda x: 1.0 - abs(float(x[0])), model=lambda x, u: x + u)
    report = check_shield(shield, sample_obs=lambda generator: generator.uniform(-1.0, 1.0, 1))
    assert report.ok
    assert any(reason.startswith("storage (it cannot be saved: ") for reason in report.skipped)


def test_a_factory_and_a_case_are_taken():
    assert check_shield(lambda: Bounds(BOX)).ok
    case = ShieldCase(Bounds(BOX), sample_obs=lambda generator: generator.normal(size=3))
    assert check_shield(case).ok
    assert check_shield(lambda: case).ok


@pytest.mark.parametrize("given", [7, "bounds", lambda: 7, ShieldCase(7)])
def test_what_is_no_shield_is_refused(given):
    with pytest.raises(UsageError, match=r"needs a saferl\.shields\.Shield"):
        check_shield(given)


def test_a_shield_that_needs_a_state_needs_observations():
    shield = SimplexSwitch(BOX, lambda x: [0.0], lambda x: 1.0, enter=0.1)
    with pytest.raises(UsageError, match="needs a state vector, observations are needed"):
        check_shield(shield)
    with pytest.raises(UsageError, match="at least one step"):
        check_shield(Bounds(BOX), steps=0)


def test_a_mapping_is_spoilt_inside():
    def sample(generator):
        return {"mode": 1, "speed": generator.normal(size=2), "more": {"x": np.zeros(1)}}

    assert check_shield(Bounds(BOX), sample_obs=sample).ok


def test_observations_without_real_numbers_skip_their_check():
    report = check_shield(Bounds(BOX), sample_obs=lambda generator: int(generator.integers(5)))
    assert "bad-observations (observations without real numbers)" in report.skipped
    assert report.ok


def test_contexts_reach_the_shield():
    seen = set()

    class Looks(Half):
        def _decide(self, obs, proposed, context):
            seen.add((context.privileged["hazard"], context.generator is not None))
            return super()._decide(obs, proposed, context)

    check_shield(Looks(), context=lambda generator: ShieldContext(privileged={"hazard": 3}))
    assert seen == {(3, True)}


def test_the_report_is_plain_json_and_raises_on_demand():
    report = check_shield(AlwaysFails())
    assert json.loads(json.dumps(report.to_dict()))["shield"] == "half"
    assert report.shield == "half"
    with pytest.raises(EnvContractError, match="no model"):
        report.raise_if_failed()


WALL = ShieldPlant(
    start=lambda generator: np.zeros(1),
    step=lambda state, action, push: state + 0.1 * action + push,
    violation=lambda state: abs(float(state[0])) - 1.0,
    vertices=(np.array([-0.02]), np.array([0.02])),
)


def test_the_adversaries_reach_the_wall_if_nobody_stops_them():
    result = fuzz(Bounds(BOX), WALL, steps=1_000)
    assert result.violation is not None
    assert result.worst > 0.0
    assert fuzz(Bounds(BOX), WALL, steps=1_000) == result


def test_a_shield_that_knows_the_disturbance_stops_them_at_the_wall():
    def back(state):
        return -np.sign(state)

    shield = SimplexSwitch(BOX, back, lambda x: 1.0 - abs(float(x[0])), model=lambda x, u: x + 0.1 * u, enter=0.02)
    result = fuzz(shield, WALL, steps=4_000)
    assert (result.violation, result.steps, result.is_uncertified) == (None, 4_000, False)
    assert -0.01 < result.worst <= 1e-9
    assert 0 < result.interventions < 4_000
    weaker = SimplexSwitch(BOX, back, lambda x: 1.0 - abs(float(x[0])), model=lambda x, u: x + 0.1 * u, enter=0.005)
    assert fuzz(weaker, WALL, steps=4_000).violation is not None


def test_a_plant_whose_state_becomes_nan_is_a_violation():
    plant = ShieldPlant(lambda generator: np.zeros(1), lambda s, u, w: s + np.nan, lambda s: float(s[0]))
    assert "nan" in fuzz(Bounds(BOX), plant).violation


def test_one_adversary_looks_a_step_ahead():
    """A plant that breaks only if the disturbance changes its side thirty times in a row."""

    def step(state, action, side):
        count, turn = state
        return (count + 1 if side == turn else 0, -turn)

    plant = ShieldPlant(lambda generator: (0, 1), step, lambda s: s[0] - 30, (-1, 1), observe=lambda s: np.zeros(1))
    assert fuzz(Bounds(BOX), plant, steps=4_000).violation is not None


def test_uncertified_starts_are_a_warning():
    class Doubts(Bounds):
        def certifies(self, obs, context=None):
            return False

    plant = ShieldPlant(lambda generator: np.zeros(1), lambda s, u, w: s, lambda s: -1.0)
    report = check_shield(Doubts(BOX), plant=plant)
    assert report.ok
    assert [warning.what for warning in report.warnings] == ["certifies"]


def test_discrete_actions_are_all_proposed():
    space, seen = ActionSpec.discrete(3), set()

    class Sees(Half):
        def _decide(self, obs, proposed, context):
            seen.add(int(proposed))
            return Ruling(proposed)

    plant = ShieldPlant(lambda generator: np.zeros(1), lambda s, u, w: s, lambda s: -1.0)
    assert fuzz(Sees(space), plant, steps=500).violation is None
    assert seen == {0, 1, 2}


def test_the_checker_loads_neither_torch_nor_gymnasium():
    code = (
        "import sys, saferl.testing as t, saferl.shields as s\n"
        "assert t.check_shield(s.Bounds(s.ActionSpec.box([0.0], [1.0]))).ok\n"
        "print(sorted({'torch', 'gymnasium', 'mujoco', 'stable_baselines3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
