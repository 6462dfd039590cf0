"""``evaluate`` writes what DESIGN 4 says, judges by known costs, and never clobbers or half-writes a folder."""

import functools
import json
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ArtefactError, ConfigError, ConstraintError, CostError, RunFolderError, UnknownNameError
from saferl.evaluation import EVALUATION_SEED, evaluate
from saferl.policy import RandomPolicy, save_artefact
from saferl.policy.artefact import header_digest
from saferl.solvers import PPOLag
from saferl.storage import sha256

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import this module

HORIZON = 10
BOUNDED = ConstraintSet([Constraint("cost", 5.0, max_step_cost=1.0)])


class Known(gymnasium.Env):
    """Ten steps that each cost ``price``; the reward is the action. ``broken_at``: a step whose cost is NaN."""

    constraints = BOUNDED
    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(3)
    steps_taken = 0

    def __init__(self, price=0.0, broken_at=None):
        self._price, self._broken_at = price, broken_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        Known.steps_taken += 1
        self._steps += 1
        cost = float("nan") if self._steps == self._broken_at else self._price
        return self.np_random.random(2, np.float32), float(action), False, False, {"cost": cost}


def make_known(price=0.0, broken_at=None):
    return Known(price, broken_at)


def first_coordinate(obs, action, next_obs):
    """A cost function of the test's own."""
    return float(next_obs[0])


RANDOM = RandomPolicy(Known.action_space)


def assess(policy=RANDOM, env=Known, *, episodes=64, price=0.0, **kwargs):
    kwargs = {"workers": 1, **kwargs}
    env_kwargs = {"max_episode_steps": HORIZON, "price": price, **kwargs.pop("env_kwargs", {})}
    return evaluate(policy, env, episodes=episodes, env_kwargs=env_kwargs, **kwargs)


@functools.cache
def model():
    return PPOLag("MlpPolicy", saferl.make_vec(Known, 1, max_episode_steps=HORIZON), n_steps=8, seed=0, device="cpu")


@pytest.fixture
def artefact(tmp_path):
    """An artefact in a run folder, whose provenance names its environment."""
    provenance = {
        "solver": "ppo_lag",
        "label": "PPO-Lagrangian",
        "env": f"{__name__}:make_known",
        "env_kwargs": {"max_episode_steps": HORIZON, "price": 0.25},
        "cost": None,
        "seed": 3,
        "steps": 128,
        "train_budgets": {"cost": 4.0},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    return save_artefact(tmp_path / "run" / "artefact", model(), BOUNDED, provenance)


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"JSON holds {constant}")

    return json.loads(text, parse_constant=refuse)


def test_the_folder_holds_one_line_per_episode_and_the_summary(tmp_path):
    result = assess(episodes=20, price=0.3, out=tmp_path / "new" / "evaluation")
    assert result.folder == tmp_path / "new" / "evaluation"
    assert sorted(path.name for path in result.folder.iterdir()) == ["episodes.jsonl", "summary.json"]
    lines = (result.folder / "episodes.jsonl").read_text().splitlines()
    assert [strict_json(line) for line in lines] == [record.to_dict() for record in result.records]
    assert strict_json((result.folder / "summary.json").read_text()) == result.summary


def test_without_out_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert assess(episodes=1).folder is None
    assert not list(tmp_path.iterdir())


def test_the_summary_has_the_documented_keys(artefact):
    summary = assess(artefact, episodes=5).summary
    assert set(summary) == {
        *("schema", "env", "env_kwargs", "deterministic", "seeds", "checkpoint", "versions", "method", "policy"),
        *("shield", "episodes", "length", "return", "constraints", "duration_s"),
    }
    assert summary["schema"] == "saferl.evaluation/1"
    assert set(summary["return"]) == {"mean", "ci95", "iqm"}
    assert set(summary["constraints"]) == {"cost"}
    assert set(summary["constraints"]["cost"]) == {
        *("kind", "sense", "budget", "description", "mean", "ci95", "lower95", "upper95", "cvar90", "max"),
        *("violation_rate", "violation_rate_ci95", "verdict", "bound"),
        *("step_violation_rate", "step_violation_rate_ci95"),
    }
    assert set(summary["policy"]) == {
        *("name", "label", "solver", "train_steps", "train_seed", "trained_for", "train_budgets"),
        *("weights_sha256", "evaluations"),
    }
    assert summary["seeds"] == {"first": EVALUATION_SEED, "count": 5}
    assert summary["env_kwargs"] == {"max_episode_steps": HORIZON, "price": 0.0}
    assert {"python", "saferl", "numpy", "torch", "gymnasium"} <= set(summary["versions"])


def test_numbers_of_the_summary_are_those_of_the_episodes():
    result = assess(episodes=20, price=0.3)
    returns = [record.return_ for record in result.records]
    entry = result.summary["constraints"]["cost"]
    assert result.summary["return"]["mean"] == pytest.approx(np.mean(returns))
    assert entry["mean"] == entry["cvar90"] == entry["max"] == pytest.approx(3.0)
    assert entry["violation_rate"] == 0.0
    assert result.summary["length"] == {"mean": 10.0, "min": 10, "max": 10}
    assert result.summary["episodes"] == 20


def test_a_single_episode_has_no_interval_and_still_valid_json(tmp_path):
    result = assess(episodes=1, price=0.3, out=tmp_path / "e")
    summary = strict_json((result.folder / "summary.json").read_text())
    assert summary["return"]["ci95"] == [None, None]
    assert result.verdicts == {"cost": "undecided"}


@pytest.mark.parametrize(("price", "verdict"), [(0.0, "satisfied"), (0.5, "undecided"), (1.0, "violated")])
def test_verdicts_on_known_costs_against_a_budget_of_5_per_episode(price, verdict):
    assert assess(price=price).verdicts == {"cost": verdict}


def test_a_few_episodes_do_not_decide():
    assert assess(episodes=2, price=0.0).verdicts == {"cost": "undecided"}


def test_a_lower_limit_is_judged_from_below():
    constraints = ConstraintSet([Constraint("cost", 5.0, sense=">=", max_step_cost=1.0)])
    assert assess(price=1.0, constraints=constraints).verdicts == {"cost": "satisfied"}
    assert assess(price=0.0, constraints=constraints).verdicts == {"cost": "violated"}


def test_a_cost_without_a_known_bound_gets_no_verdict():
    result = assess(price=0.0, constraints=ConstraintSet([Constraint("cost", 5.0)]))
    entry = result.summary["constraints"]["cost"]
    assert entry["verdict"] == "undecided"
    assert "approximate" in entry["bound"]


def test_a_discounted_budget_is_judged_by_the_discounted_sum():
    constraints = ConstraintSet([Constraint("cost", 2.0, kind="discounted", gamma=0.5, max_step_cost=1.0)])
    entry = assess(price=0.5, constraints=constraints).summary["constraints"]["cost"]
    assert entry["mean"] == pytest.approx(0.5 * (1 - 0.5**HORIZON) / 0.5)
    assert entry["verdict"] == "satisfied"  # the undiscounted sum of 5 would break the budget of 2


def test_budgets_replace_the_limits_of_the_env():
    assert assess(price=0.5, budgets={"cost": 9.0}).verdicts == {"cost": "satisfied"}


def test_an_artefact_brings_its_own_env_arguments_and_constraints(artefact):
    result = evaluate(artefact, episodes=64, workers=1)
    assert result.summary["env"] == f"{__name__}:make_known"
    assert result.summary["constraints"]["cost"]["mean"] == pytest.approx(2.5)
    assert result.verdicts == {"cost": "satisfied"}
    assert evaluate(artefact, episodes=1, workers=1, env_kwargs={"price": 0.5}).records[0].cost == 5.0


def test_other_budgets_keep_the_kind_and_bound_of_the_artefacts_own_constraints(artefact):
    own = [{"name": "cost", "budget": 2.0, "kind": "discounted", "gamma": 0.5, "max_step_cost": 0.5}]
    header = json.loads((artefact / "artefact.json").read_text())
    header["constraints"] = own
    header["header_sha256"] = header_digest(header)
    (artefact / "artefact.json").write_text(json.dumps(header))
    result = evaluate(artefact, episodes=64, workers=1, budgets={"cost": 0.1})
    entry = result.summary["constraints"]["cost"]
    assert (entry["kind"], entry["budget"]) == ("discounted", 0.1)
    assert result.verdicts == {"cost": "violated"}


def test_a_budget_for_a_cost_that_nobody_has_is_refused(artefact):
    with pytest.raises(UnknownNameError, match=r"cost of .*'csot'.*Did you mean 'cost'"):
        evaluate(artefact, episodes=1, workers=1, budgets={"csot": 1.0})


def test_a_cost_function_of_an_artefact_is_used_again(artefact):
    header = json.loads((artefact / "artefact.json").read_text())
    header["provenance"]["cost"] = f"{__name__}:first_coordinate"
    header["header_sha256"] = header_digest(header)
    (artefact / "artefact.json").write_text(json.dumps(header))
    costs = [record.costs["cost"] for record in evaluate(artefact, episodes=3, workers=1).records]
    assert len(set(costs)) == 3
    assert 0.0 < min(costs) <= max(costs) < HORIZON


def test_an_artefact_without_an_env_asks_for_one(tmp_path):
    folder = save_artefact(tmp_path / "a", model(), BOUNDED, {"env": None})
    with pytest.raises(ConfigError, match="Give env_id"):
        evaluate(folder, episodes=1)
    with pytest.raises(ConfigError, match="Give env_id"):
        evaluate(RANDOM, episodes=1)


def test_stochastic_and_deterministic_actions_are_told_apart(artefact):
    sampled, mean = (evaluate(artefact, episodes=16, workers=1, deterministic=flag) for flag in (False, True))
    assert (sampled.summary["deterministic"], mean.summary["deterministic"]) == (False, True)
    assert [r.return_ for r in sampled.records] != [r.return_ for r in mean.records]
    assert evaluate(artefact, episodes=16, workers=1, deterministic=True).records == mean.records


def test_the_random_policy_has_no_deterministic_mode():
    with pytest.raises(ConfigError, match="random policy has no deterministic"):
        assess(deterministic=True)


def test_a_policy_for_another_env_is_refused_before_anything_is_written(artefact, tmp_path):
    with pytest.raises(ConfigError, match=r"is for observations in Box.*has Box.*trained on"):
        evaluate(artefact, "SafetyHalfCheetahVelocity-v1", episodes=1, out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1; got 0"),
        ({"episodes": -5}, "episodes must be at least 1; got -5"),
        ({"workers": 0}, "workers must be at least 1; got 0"),
        ({"first_seed": -1}, "first seed must be at least 0; got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        assess(**arguments)


def test_a_folder_that_holds_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds files, which were left alone.*another --out"):
        assess(episodes=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_episode(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    before = Known.steps_taken
    with pytest.raises(RunFolderError, match="another --out"):
        assess(episodes=1, out=tmp_path / name)
    assert Known.steps_taken == before
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_used(tmp_path):
    assert assess(episodes=1, out=tmp_path).folder == tmp_path


def test_a_cost_that_becomes_nan_writes_no_result_and_counts_no_evaluation(artefact, tmp_path):
    with pytest.raises(CostError, match=r"the cost 'cost' must be finite; got nan"):
        evaluate(artefact, episodes=3, workers=1, env_kwargs={"broken_at": 7}, out=tmp_path / "e")
    assert not list((tmp_path / "e").iterdir())
    assert saferl.load(artefact).evaluations == 0


def test_every_evaluation_of_an_artefact_is_counted_in_its_summary(artefact):
    counts = [assess(artefact, episodes=1).summary["policy"]["evaluations"] for _ in range(3)]
    assert counts == [1, 2, 3]
    assert assess(episodes=1).summary["policy"]["evaluations"] is None


def test_a_broken_counter_is_found_before_the_work(artefact):
    (artefact / "evaluations.json").write_text("{")
    before = Known.steps_taken
    with pytest.raises(ArtefactError, match="evaluation counter"):
        assess(artefact, episodes=1)
    assert Known.steps_taken == before


def test_the_summary_says_which_policy_it_was(artefact, tmp_path):
    summary = assess(artefact, episodes=1).summary
    policy = summary["policy"]
    assert summary["checkpoint"] == "last"
    assert (policy["name"], policy["label"], policy["train_seed"]) == ("ppo_lag", "PPO-Lagrangian", 3)
    assert policy["train_budgets"] == {"cost": 4.0}
    assert policy["weights_sha256"] == sha256(artefact / "weights.safetensors")
    assert assess(artefact.parent, episodes=1, label="mine").summary["policy"]["label"] == "mine"
    best = artefact.rename(artefact.with_name("artefact-best"))
    assert assess(best, episodes=1).summary["checkpoint"] == "best"
    elsewhere = best.rename(tmp_path / "artefact")  # outside a run nobody knows which iterate it is
    assert assess(elsewhere, episodes=1).summary["checkpoint"] is None
    assert assess(episodes=1).summary["checkpoint"] is None
    assert assess(episodes=1, label="uniform").summary["policy"]["label"] == "uniform"


def test_progress_adds_up_to_the_episodes():
    counts = []
    assess(episodes=37, progress=counts.append)
    assert counts == [16, 16, 5]


def test_an_env_without_constraints_needs_a_budget():
    with pytest.raises(ConstraintError, match="a budget is needed"):
        evaluate(RandomPolicy(spaces.Discrete(2)), "CartPole-v1", episodes=1, cost=first_coordinate)
