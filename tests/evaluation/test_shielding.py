"""Evaluation behind a shield: what is executed, what is counted, and that nothing depends on the number of workers."""

import json

import numpy as np
import pytest
from shielded_point import Constant, Point, WallShield, build_jittery, make_point

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.deploy import ShieldedController
from saferl.errors import ConfigError, RunFolderError
from saferl.evaluation.shielding import ShieldTrace, summarise_shield
from saferl.policy import RandomPolicy
from saferl.policy.artefact import save_artefact
from saferl.report import read_evaluation
from saferl.shields import SHIELDS, ShieldDecision
from saferl.shields.bounds import Bounds, RateLimit
from saferl.solvers import PPOLag
from saferl.statistics import cluster_bootstrap_interval

SPACE = Point.action_space
ENV = "shielded_point:make_point"


@pytest.fixture(autouse=True)
def wall():
    with SHIELDS.temporarily("wall", WallShield):
        yield


def without_times(result):
    return [record.to_dict() for record in result.records]


def facts(result):
    return {key: value for key, value in result.summary["shield"].items() if key != "latency_us"}


def test_the_shield_prevents_what_the_bare_policy_pays_on_the_same_seeds():
    bare = saferl.evaluate(Constant(), ENV, episodes=20, workers=1)
    safe = saferl.evaluate(Constant(), ENV, episodes=20, workers=1, shield=WallShield(SPACE))
    assert bare.summary["constraints"]["cost"]["mean"] > 5.0
    assert safe.summary["constraints"]["cost"]["mean"] == 0.0
    assert [r.seed for r in bare.records] == [r.seed for r in safe.records]
    assert bare.summary["shield"] is None
    assert all(r.interventions is None and "interventions" not in r.to_dict() for r in bare.records)


def test_the_summary_says_what_the_shield_did():
    result = saferl.evaluate(Constant(), ENV, episodes=20, workers=1, shield=WallShield(SPACE))
    shield = result.summary["shield"]
    counts = [record.interventions for record in result.records]
    assert shield["decisions"] == 20 * 20
    assert shield["intervention_rate"]["mean"] == sum(counts) / 400
    low, high = shield["intervention_rate"]["ci95"]
    assert 0.0 < low < sum(counts) / 400 < high < 1.0
    assert shield["kinds"]["projected"] == sum(counts) == 400 - shield["kinds"]["pass"]
    assert (shield["fallbacks"], shield["infeasible"]) == (0, 0)
    assert shield["worst_margin"] == pytest.approx(-1.0, abs=1e-6)
    assert 0.0 < shield["mean_distance"] < 1.0
    assert (shield["name"], shield["spec"]["guarantee"]) == ("wall", "hard")
    assert 0.0 < shield["latency_us"]["p50"] <= shield["latency_us"]["p95"] <= shield["latency_us"]["p99"]
    json.dumps(result.summary, allow_nan=False)


def test_the_interval_is_the_cluster_bootstrap_of_the_step_rate():
    traces = []
    for steps, projected in ((5, 1), (9, 7), (3, 0), (8, 2)):
        trace = ShieldTrace()
        for step in range(steps):
            kind = "projected" if step < projected else "pass"
            trace.add(ShieldDecision(np.zeros(1), np.zeros(1), kind, 0.5 if kind == "projected" else 0.0))
        traces.append(trace)
    found = summarise_shield(traces, Bounds(SPACE), name="bounds")
    per_step = [[float(i < t.interventions) for i in range(t.decisions)] for t in traces]
    expected = cluster_bootstrap_interval(per_step, np.mean, rng=np.random.default_rng(0))
    assert found["intervention_rate"]["ci95"] == pytest.approx(expected)
    assert found["mean_distance"] == pytest.approx(0.5 * 10 / 25)
    assert found["worst_margin"] is None


@pytest.mark.parametrize("policy", [Constant(), RandomPolicy(SPACE)], ids=["predict", "sample"])
def test_results_do_not_depend_on_the_number_of_workers(policy):
    """The shield has memory and draws random numbers; it travels to the workers by cloudpickle."""
    one, two = (
        saferl.evaluate(policy, ENV, episodes=40, workers=workers, shield="shielded_point:build_jittery")
        for workers in (1, 2)
    )
    assert without_times(one) == without_times(two)
    assert facts(one) == facts(two)
    whole, part = one, saferl.evaluate(policy, ENV, episodes=24, workers=1, shield=build_jittery)
    assert without_times(whole)[:24] == without_times(part)


def test_a_shield_changes_nothing_else():
    """Bounds that never act leave every number of the bare evaluation as it is."""
    policy = RandomPolicy(SPACE)
    bare, idle = (saferl.evaluate(policy, ENV, episodes=20, workers=1, shield=s) for s in (None, "bounds"))
    assert [r.to_dict() | {"interventions": 0} for r in bare.records] == without_times(idle)
    assert bare.summary["constraints"] == idle.summary["constraints"]
    assert idle.summary["shield"]["intervention_rate"] == {"mean": 0.0, "ci95": [0.0, 0.0]}


def test_budgets_for_interventions_are_judged_with_a_shield_and_left_out_without():
    budgets = {"cost": 1.0, "interventions": 2.0}
    safe = saferl.evaluate(Constant(), ENV, episodes=200, workers=1, shield=WallShield(SPACE), budgets=budgets)
    assert safe.verdicts == {"cost": "satisfied", "interventions": "violated"}
    assert safe.summary["constraints"]["interventions"]["mean"] == np.mean([r.interventions for r in safe.records])
    bare = saferl.evaluate(Constant(), ENV, episodes=20, workers=1, budgets=budgets)
    assert list(bare.verdicts) == ["cost"]


class Unpicklable(Bounds):
    def __reduce__(self):
        raise TypeError("holds a device")

    def copy(self):
        return Unpicklable(self.actions)


def test_a_shield_that_cannot_travel_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"its shield bounds, cannot be pickled .*workers=1"):
        saferl.evaluate(Constant(), ENV, episodes=40, workers=2, shield=Unpicklable(SPACE))
    assert saferl.evaluate(Constant(), ENV, episodes=2, workers=1, shield=Unpicklable(SPACE)).records


@pytest.fixture
def artefact(tmp_path):
    model = PPOLag("MlpPolicy", saferl.make(make_point), seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    constraints = ConstraintSet([*model.constraints, Constraint("interventions", 5.0, max_step_cost=1.0)])
    return save_artefact(tmp_path / "artefact", model, constraints, {"env": ENV, "solver": "ppo_lag"})


def test_a_controller_is_evaluated_with_its_own_shield_unless_none_is_asked_for(artefact, tmp_path):
    controller = ShieldedController(saferl.load(artefact), RateLimit(SPACE, 0.1, initial=[0.0]))
    folder = controller.save(tmp_path / "controller")
    by_folder = saferl.evaluate(folder, episodes=4, workers=1)
    by_object = saferl.evaluate(controller, episodes=4, workers=1)
    assert without_times(by_folder) == without_times(by_object)
    assert by_folder.summary["shield"]["name"] == "rate_limit"
    assert list(by_folder.verdicts) == ["cost", "interventions"]
    bare = saferl.evaluate(folder, episodes=4, workers=1, shield="none")
    assert (bare.summary["shield"], list(bare.verdicts)) == (None, ["cost"])
    assert without_times(bare) == without_times(saferl.evaluate(artefact, episodes=4, workers=1))
    other = saferl.evaluate(folder, episodes=4, workers=1, shield="bounds")
    assert other.summary["shield"]["name"] == "bounds"


def test_predict_of_a_controller_gives_the_same_episodes(artefact):
    """Behind the plain ``predict`` interface, lanes are kept apart by ``episode_start``."""
    controller = ShieldedController(saferl.load(artefact), RateLimit(SPACE, 0.1, initial=[0.0]))

    class Foreign:
        def predict(self, *args):
            return controller.predict(*args)

    shielded = saferl.evaluate(controller, ENV, episodes=20, deterministic=True, workers=1)
    foreign = saferl.evaluate(Foreign(), ENV, episodes=20, deterministic=True, workers=1)
    assert [r.return_ for r in shielded.records] == [r.return_ for r in foreign.records]


def test_the_written_evaluation_can_be_read_with_its_shield(tmp_path):
    saferl.evaluate(Constant(), ENV, episodes=8, workers=1, shield=WallShield(SPACE), out=tmp_path / "e")
    record = read_evaluation(tmp_path / "e")
    assert record.shield == "wall"
    shield = record.shielding
    assert (shield.unit, shield.guarantee, shield.assumptions) == ("wall", "hard", ("The gain is known.",))
    assert set(shield.kinds) == {"pass", "projected"}
    path = tmp_path / "e" / "summary.json"
    whole = path.read_text()
    summary = json.loads(whole)
    summary["shield"]["intervention_rate"]["mean"] = 2.0
    path.write_text(json.dumps(summary))
    with pytest.raises(RunFolderError, match=r"shield\.intervention_rate\.mean.* must be a share"):
        read_evaluation(tmp_path / "e")
    path.write_text(whole)
    page = saferl.build_report([tmp_path / "e"], tmp_path / "report.html").read_text()
    assert ">Shields</h3>" in page
    assert "The gain is known." in page
    assert "Constant with wall shield" in page
