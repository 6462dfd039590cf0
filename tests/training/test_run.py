"""A run folder repeats the run, keeps what it can when training fails, and its best policy is feasible first."""

import csv
import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ArtefactError, ConfigError, CostError, RunFolderError, UnknownNameError
from saferl.evaluation import EVALUATION_SEED, VALIDATION_SEED, EpisodeRecord, Evaluation
from saferl.solvers import PPOLag, UnconstrainedPPO
from saferl.training import RunSettings, callbacks, train
from saferl.trees import read_tree

CONSTRAINTS = ConstraintSet(
    [Constraint("cost", 3.0, max_step_cost=1.0), Constraint("heat", 2.0, kind="discounted", gamma=0.9)]
)
BOX = spaces.Box(-10.0, 10.0, (2,), np.float32)
SPACES = {
    "box": (BOX, spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
    "multibinary": (spaces.MultiBinary(3), spaces.MultiBinary(2)),
    "dict": (spaces.Dict([("x", BOX), ("k", spaces.Discrete(5))]), spaces.MultiDiscrete([2, 3])),
    "image": (spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2)),
}


class Toy(gymnasium.Env):
    """Ten steps of random observations; ``cost`` depends on them, ``heat`` is 1. ``broken_at``: when it becomes NaN."""

    constraints = CONSTRAINTS
    total_steps = 0
    seeds: ClassVar[list] = []

    def __init__(self, kind="box", broken_at=None):
        self.observation_space, self.action_space = SPACES[kind]
        self._broken_at = broken_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Toy.seeds.append(seed)
        self._steps = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._steps += 1
        Toy.total_steps += 1
        cost = float(self.np_random.random() < 0.5)
        if self._broken_at is not None and Toy.total_steps >= self._broken_at:
            cost = float("nan")
        reward = float(np.sum(action))
        return self._obs(), reward, False, self._steps == 10, {"costs": {"cost": cost, "heat": 1.0}}

    def _obs(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


def make_toy(kind="box", broken_at=None):
    Toy.total_steps = 0
    return Toy(kind, broken_at)


ENV = f"{__name__}:make_toy"
SMALL = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "dual_min_episodes": 2}
PPO_SMALL = {key: SMALL[key] for key in ("n_steps", "batch_size", "n_epochs")}
SETTINGS = RunSettings(num_envs=2, validation_episodes=2, validation_share=1.0, num_checkpoints=4, net_arch=(16,))
KWARGS = {"max_episode_steps": 10}


def small_run(out, solver="ppo_lag", env=ENV, **kwargs):
    options = SMALL if solver == "ppo_lag" else PPO_SMALL
    defaults = {"steps": 128, "options": options, "settings": SETTINGS, "env_kwargs": KWARGS, "device": "cpu"}
    return train(solver, env, out=out, **{**defaults, **kwargs})


def weights(run, name="artefact"):
    return (run / name / "weights.safetensors").read_bytes()


def run_json(run):
    return json.loads((run / "run.json").read_text())


def log_of(run):
    with (run / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run that several tests read."""
    return small_run(
        tmp_path_factory.mktemp("runs") / "run", steps=256, seed=7, train_budgets={"cost": 1.0}, budgets=None
    )


def test_the_folder_holds_what_the_documentation_lists_and_nothing_else(finished):
    names = {path.name for path in finished.folder.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert names - events == {"run.json", "progress.csv", "checkpoint", "artefact", "artefact-best"}
    assert len(events) == 1
    assert (finished.folder / events.pop()).stat().st_size > 100


def test_run_json_names_everything_that_the_result_depends_on(finished):
    record = run_json(finished.folder)
    assert (record["schema"], record["status"]) == ("saferl.run/1", "finished")
    assert (record["solver"], record["env"], record["env_kwargs"]) == ("ppo_lag", ENV, KWARGS)
    assert (record["seed"], record["steps"], record["cost"]) == (7, 256, None)
    assert record["config"] == asdict(PPOLag.config_class(**SMALL))
    assert record["settings"] == json.loads(json.dumps(asdict(SETTINGS)))
    assert ConstraintSet.from_list(record["constraints"]) == CONSTRAINTS
    assert record["train_budgets"] == {"cost": 1.0, "heat": 2.0}
    assert record["discounts"] == {
        "actor_and_reward_critic": 0.99,
        "cost_critic": 0.99,
        "dual": {"cost": 1.0, "heat": 0.9},
    }
    assert {"python", "saferl", "torch", "numpy", "gymnasium", "stable-baselines3"} <= set(record["versions"])
    assert record["machine"]["device"] == "cpu"
    assert record["machine"]["torch_threads"] == 1


def test_run_json_says_what_came_of_it(finished):
    result = run_json(finished.folder)["result"]
    assert result["steps"] == finished.steps == 256
    costs = result["training_costs"]
    assert (costs["steps"], costs["episodes"]) == (256, 24)  # two envs, 128 steps each, ten per episode
    assert costs["total_cost"]["heat"] == 256.0
    assert costs["violating_episode_share"]["heat"] == 1.0
    assert 0 < result["validation_seconds"] < result["seconds"]
    assert finished.steps_per_second == pytest.approx(256 / (finished.seconds - finished.validation_seconds))


def test_run_json_is_enough_to_repeat_the_run(finished, tmp_path):
    record = run_json(finished.folder)
    again = train(
        record["solver"],
        record["env"],
        steps=record["steps"],
        out=tmp_path / "again",
        seed=record["seed"],
        constraints=ConstraintSet.from_list(record["constraints"]),
        train_budgets=record["train_budgets"],
        cost=record["cost"],
        env_kwargs=record["env_kwargs"],
        options=record["config"],
        settings=RunSettings(**{**record["settings"], "net_arch": tuple(record["settings"]["net_arch"])}),
        device=record["machine"]["device"],
    )
    for name in ("artefact", "artefact-best"):
        assert weights(again.folder, name) == weights(finished.folder, name)


@pytest.mark.parametrize("solver", ["ppo", "ppo_lag"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not(solver, tmp_path):
    runs = []
    for index, seed in enumerate((0, 0, 1)):
        th.manual_seed(index)
        np.random.seed(index)  # noqa: NPY002 - global generators must not matter
        runs.append(small_run(tmp_path / str(index), solver, seed=seed).folder)
    assert weights(runs[0]) == weights(runs[1])
    assert weights(runs[0]) != weights(runs[2])
    for first, second in zip(log_of(runs[0]), log_of(runs[1]), strict=True):
        assert {k: v for k, v in first.items() if k[:5] != "time/"} == {
            k: v for k, v in second.items() if k[:5] != "time/"
        }


def test_the_seed_decides_even_where_the_env_has_no_randomness(tmp_path):
    probe = {"env": "saferl.testing.probes:loop_probe", "env_kwargs": {}, "steps": 32}
    runs = [small_run(tmp_path / str(seed), seed=seed, **probe).folder for seed in (0, 1)]
    assert weights(runs[0]) != weights(runs[1])


def test_validation_does_not_change_what_is_learned(tmp_path):
    quiet = replace(SETTINGS, validation_share=0.0)
    with_all, without = small_run(tmp_path / "a"), small_run(tmp_path / "b", settings=quiet)
    assert run_json(with_all.folder)["result"]["validations"]
    assert weights(with_all.folder) == weights(without.folder)


def test_checkpoints_do_not_change_what_is_learned_where_environments_have_a_state(tmp_path):
    hopper = {"env": "SafetyHopperVelocity-v1", "train_budgets": None, "env_kwargs": {"max_episode_steps": 20}}
    quiet = replace(SETTINGS, validation_share=0.0)
    many = small_run(tmp_path / "a", settings=quiet, **hopper)
    none = small_run(tmp_path / "b", settings=replace(quiet, num_checkpoints=0), **hopper)
    assert (many.folder / "checkpoint").is_dir()
    assert weights(many.folder) == weights(none.folder)


def test_without_validation_the_last_iterate_counts_as_best(tmp_path):
    quiet = RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=0, net_arch=(16,))
    run = small_run(tmp_path / "run", settings=quiet).folder
    assert run_json(run)["result"]["validations"] == []
    assert weights(run, "artefact-best") == weights(run)
    assert not (run / "checkpoint").exists()
    assert saferl.load(run / "artefact-best").provenance["steps"] == 128


def test_the_newest_two_checkpoints_are_kept_and_can_be_loaded(finished):
    """Four checkpoints over 256 steps are due at 64, 128, 192; the one at 256 would be the artefact."""
    folders = sorted((finished.folder / "checkpoint").iterdir())
    assert [folder.name for folder in folders] == ["step-000000128", "step-000000192"]
    for folder, steps in zip(folders, (128, 192), strict=True):
        policy = saferl.load(folder)
        assert policy.provenance["steps"] == steps
        assert policy.constraints == CONSTRAINTS
        state = read_tree(folder, "state")["training"]
        assert state["counters"]["num_timesteps"] == steps
        assert state["extra"]["dual"]["values"].shape == (2,)
        assert state["optimizer"]["state"]["0"]["exp_avg"].any()
    assert weights(folders[0]) != weights(folders[1]) != weights(finished.folder)


def test_the_artefact_says_where_it_comes_from(finished):
    artefact = saferl.load(finished.folder)
    provenance = artefact.provenance
    assert artefact.constraints == CONSTRAINTS  # what must hold, not the tighter budgets of training
    assert provenance["train_budgets"] == {"cost": 1.0, "heat": 2.0}
    assert (provenance["env"], provenance["seed"], provenance["steps"]) == (ENV, 7, 256)
    assert provenance["multipliers"] == dict(zip(CONSTRAINTS.names, finished.model.multipliers.tolist(), strict=True))
    assert min(provenance["multipliers"].values()) > 0  # both costs lie above the budgets of training
    result = saferl.evaluate(finished.folder, episodes=2, workers=1)
    assert result.summary["policy"]["evaluations"] == 1


def test_the_best_artefact_is_the_one_that_ranks_first_in_the_history(finished):
    history = run_json(finished.folder)["result"]["validations"]
    assert [entry["steps"] for entry in history][-1] == 256
    assert len(history) >= 3
    first = max(history, key=callbacks._rank)
    best = saferl.load(finished.folder / "artefact-best")
    assert best.provenance["steps"] == first["steps"]
    assert best.evaluations == 0


@pytest.mark.parametrize("solver", ["ppo", "ppo_lag"])
def test_the_log_has_a_row_per_rollout_with_costs_beside_returns(solver, tmp_path):
    options = {**(SMALL if solver == "ppo_lag" else PPO_SMALL), "n_steps": 20, "batch_size": 40}  # whole episodes
    rows = log_of(small_run(tmp_path / "run", solver, options=options, train_budgets={"cost": 1.0}).folder)
    assert [int(row["time/total_timesteps"]) for row in rows] == [40, 80, 120, 160]
    shared = {"time/fps", "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/ep_cost/cost", "rollout/ep_cost/heat"}
    assert shared <= set(rows[0])
    assert {float(row["rollout/ep_len_mean"]) for row in rows} == {10.0}
    assert {float(row["rollout/ep_cost/heat"]) for row in rows} == {10.0}
    constrained = {"multiplier/cost", "multiplier/heat", "dual/estimate/cost", "dual/estimate/heat"}
    if solver == "ppo":
        assert not constrained & set(rows[0])
    else:
        assert constrained <= set(rows[0])
        # Stable-Baselines3 writes a row before it trains on the rollout: duals appear from the second one on.
        assert float(rows[1]["dual/estimate/heat"]) == pytest.approx((1 - 0.9**10) / 0.1)
        assert float(rows[-1]["multiplier/heat"]) > float(rows[1]["multiplier/heat"]) > 0


def test_an_env_that_fails_in_the_middle_leaves_a_failed_run_with_its_checkpoints(tmp_path):
    out = tmp_path / "run"
    settings = RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=8, net_arch=(16,))
    with pytest.raises(CostError, match=r"the cost 'cost' must be finite; got nan"):
        small_run(out, steps=256, settings=settings, env_kwargs={**KWARGS, "broken_at": 150})
    record = run_json(out)
    assert record["status"] == "failed"
    assert record["error"].startswith("CostError: ")
    assert record["config"]["n_steps"] == 16
    assert "result" not in record
    checkpoints = sorted((out / "checkpoint").iterdir())
    assert [folder.name for folder in checkpoints] == ["step-000000096", "step-000000128"]
    assert saferl.load(checkpoints[-1]).predict(np.zeros((1, 2), np.float32))[0].shape == (1, 2)
    assert not (out / "artefact").exists()
    with pytest.raises(ArtefactError, match=r"did not finish.*checkpoint"):
        saferl.load(out)
    assert len(log_of(out)) == 4


def test_an_interrupted_run_is_marked_as_such(tmp_path):
    def interrupt(done, latest):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", progress=interrupt)
    assert run_json(tmp_path / "run")["status"] == "interrupted"


def test_progress_is_reported_once_per_rollout_with_recent_means(tmp_path):
    calls = []
    small_run(tmp_path / "run", progress=lambda done, latest: calls.append((done, latest)))
    assert [done for done, _ in calls] == [32, 64, 96, 128]
    assert all(set(latest) == {"return", "cost", "heat"} for _, latest in calls)
    assert all(latest["heat"] == 10.0 for _, latest in calls)


def test_steps_are_rounded_up_to_whole_rollouts(tmp_path):
    assert small_run(tmp_path / "run", steps=40).steps == 64


def test_a_folder_that_holds_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds files, which were left alone.*another --out"):
        small_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RunFolderError, match=r"must be a folder; got the file"):
        small_run(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"solver": "ppo_lga"}, UnknownNameError, "Did you mean 'ppo_lag'"),
        ({"env": "SafetyPointGaol1-v0"}, UnknownNameError, "Did you mean 'SafetyPointGoal1-v0'"),
        ({"options": {"n_step": 4}}, UnknownNameError, "Did you mean 'n_steps'"),
        ({"options": {"n_steps": "many"}}, ConfigError, "n_steps must be int; got 'many'"),
        ({"budgets": {"csot": 1.0}}, UnknownNameError, "Did you mean 'cost'"),
        ({"train_budgets": {"csot": 1.0}}, UnknownNameError, "Did you mean 'cost'"),
        ({"steps": 0}, ConfigError, "steps must be at least 1; got 0"),
        ({"seed": -1}, ConfigError, "seed must be at least 0; got -1"),
    ],
)
def test_a_mistake_is_one_error_and_leaves_no_folder(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        small_run(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("solver", ["ppo", "ppo_lag"])
@pytest.mark.parametrize("kind", ["discrete", "dict", "multibinary", "image"])
def test_every_kind_of_space_trains_and_its_artefact_evaluates(kind, solver, tmp_path):
    settings = RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=0, net_arch=(16,))
    run = small_run(tmp_path / "run", solver, steps=32, settings=settings, env_kwargs={**KWARGS, "kind": kind}).folder
    artefact = saferl.load(run)
    assert (artefact.observation_space, artefact.action_space) == SPACES[kind]
    assert (artefact.normaliser is not None) == (kind == "dict")
    records = saferl.evaluate(run, episodes=3, workers=1).records
    assert [record.length for record in records] == [10, 10, 10]


def test_the_unconstrained_baseline_ignores_the_budget(tmp_path):
    budgets = ({"cost": 0.0}, {"cost": 100.0})
    runs = [small_run(tmp_path / str(i), "ppo", budgets=b).folder for i, b in enumerate(budgets)]
    assert weights(runs[0]) == weights(runs[1])
    assert isinstance(small_run(tmp_path / "model", "ppo", steps=32).model, UnconstrainedPPO)
    lagrangian = [small_run(tmp_path / f"lag{i}", budgets=b).folder for i, b in enumerate(budgets)]
    assert weights(lagrangian[0]) != weights(lagrangian[1])


def test_an_env_and_a_cost_without_import_paths_train_and_validate(tmp_path):
    """Notebooks define both as closures: the run cannot name them, but it can use them."""
    result = small_run(
        tmp_path / "run",
        env=lambda: gymnasium.make("CartPole-v1"),
        cost=lambda obs, action, next_obs: float(abs(next_obs[0]) > 0.02),
        budgets={"cost": 1.0},
    )
    record = run_json(result.folder)
    assert (record["env"], record["cost"]) == (None, None)
    assert {*record["result"]["validations"][0]["costs"]} == {"cost"}
    with pytest.raises(ConfigError, match="Give env_id"):
        saferl.evaluate(result.folder, episodes=1)


def test_training_validation_and_evaluation_use_seeds_of_their_own(tmp_path):
    Toy.seeds.clear()
    small_run(tmp_path / "run")
    given = [seed for seed in Toy.seeds if seed is not None]
    training = {seed for seed in given if seed < EVALUATION_SEED}
    assert len(training) == 2 + 3 * 2  # this environment has no state: it is reset at each of three checkpoints
    assert set(given) - training == {VALIDATION_SEED, VALIDATION_SEED + 1}


def test_training_gives_torchs_threads_back(tmp_path):
    before = th.get_num_threads()
    try:
        th.set_num_threads(2)
        small_run(tmp_path / "run", steps=32)
        assert th.get_num_threads() == 2
        assert run_json(tmp_path / "run")["machine"]["torch_threads"] == 1
    finally:
        th.set_num_threads(before)


class Shifted(Toy):
    """Its categories do not start at 0."""

    def __init__(self):
        super().__init__("discrete")
        self.action_space = spaces.Discrete(3, start=1)


class Unbounded(Toy):
    """Its actions have no bounds."""

    def __init__(self):
        super().__init__("box")
        self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Shifted, r"actions must start at 0.*Discrete\(3, start=1\).*TransformAction"),
        (Unbounded, r"ppo_lag cannot train on Unbounded.*finite"),
    ],
)
def test_spaces_that_stable_baselines3_would_get_wrong_are_refused(env, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        small_run(tmp_path / "run", env=env)


def scripted(monkeypatch, outcomes):
    """Let validations find the given (return, cost sums of every episode)."""
    queue = iter(outcomes)

    def evaluate(policy, **kwargs):
        return_, sums = next(queue)
        records = tuple(EpisodeRecord(i, i, return_, 10, False, {"cost": s}, s, {}) for i, s in enumerate(sums))
        summary = {"return": {"mean": return_}, "constraints": {"cost": {"mean": float(np.mean(sums))}}}
        return Evaluation(records, summary)

    monkeypatch.setattr(callbacks, "evaluate", evaluate)


FEASIBLE, CLOSE, FAR = [0.0, 1.0, 0.0, 1.0], [3.0, 5.0, 3.0, 5.0], [9.0, 9.5, 9.0, 9.5]
NOISY = [0.0, 5.0, 0.0, 5.0]  # mean 2.5 is below the budget of 3, its upper bound is not


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([(9.0, FAR), (1.0, FEASIBLE)], 2),
        ([(1.0, FEASIBLE), (9.0, CLOSE), (2.0, FEASIBLE), (99.0, FAR)], 3),
        ([(9.0, FAR), (1.0, CLOSE), (8.0, FAR)], 2),
        ([(1.0, FEASIBLE), (99.0, NOISY)], 1),
        ([(1.0, FEASIBLE), (1.0, FEASIBLE)], 1),
        ([(2.0, FEASIBLE), (1.0, FEASIBLE)], 1),
    ],
    ids=["feasible beats return", "return among feasible", "smallest excess", "upper bound decides", "tie", "worse"],
)
def test_the_best_policy_is_feasible_first_then_of_the_highest_return(outcomes, best, finished, monkeypatch, tmp_path):
    scripted(monkeypatch, outcomes)
    constraints = ConstraintSet([Constraint("cost", 3.0)])
    validation = callbacks.BestArtefact(tmp_path / "best", 10, 4, constraints, lambda steps: {"steps": steps}, {})
    for index, _ in enumerate(outcomes, start=1):
        validation.model = SimpleNamespace(policy=finished.model.policy, env=finished.model.env, num_timesteps=index)
        validation.validate()
    assert saferl.load(tmp_path / "best").provenance["steps"] == best
    assert [entry["return"] for entry in validation.history] == [return_ for return_, _ in outcomes]
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
