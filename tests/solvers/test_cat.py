"""CaT: targets that a violation masks, the exact fixed point, records that claim no budget, and what is refused."""

import csv
import json
from contextlib import suppress
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecNormalize

import saferl
from saferl import Constraint, ConstraintSet
from saferl.envs.state import generator_state, new_generator
from saferl.envs.tabular.batch import make_tabular_vec
from saferl.envs.tabular.instances import one_shot_instance, paradox_a
from saferl.errors import ConstraintError, TrainingError, UnknownNameError
from saferl.evaluation import evaluate
from saferl.evaluation.exact import tabulate
from saferl.report import read_evaluation
from saferl.report.page import headlines, label_agents
from saferl.rollout import CostVecEnv, gae
from saferl.solvers import CaT
from saferl.solvers.tabular.cat import solve
from saferl.training import RunSettings, resume, train

SMALL = {"n_steps": 20, "batch_size": 20, "n_epochs": 1, "seed": 0, "device": "cpu"}


class Alarm(gymnasium.Env):
    """A reward that never changes, and a margin that the step number decides: -1, 0.5, 2, -1, 0.5, 2, ..."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    constraints = ConstraintSet([Constraint("heat", 5.0, max_step_cost=1.0)])
    margins = (-1.0, 0.5, 2.0)

    def __init__(self, reward):
        self._reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action):
        margin = self.margins[self._steps % 3]
        self._steps += 1
        info = {"costs": {"heat": float(margin > 0)}, "margins": {"heat": margin}}
        return self._observe(), self._reward, False, False, info

    def _observe(self):
        return np.array([self._steps % 3 - 1, 0.0], dtype=np.float32)


def alarm(reward=1.0):
    """Ten steps of :class:`Alarm`."""
    return TimeLimit(Alarm(reward), 10)


def cat_on_alarm(reward=1.0, **options):
    env = saferl.make_vec(lambda: alarm(reward), 2)
    options = {"p_start": 1.0, "p_final": 1.0, "c_max": {"heat": 1.0}, **options}
    return CaT("MlpPolicy", env, **{**SMALL, **options})


def deltas(steps):
    """delta of :func:`alarm`, whose episodes begin anew every 10 steps, for p = 1 and c_max = 1."""
    return np.array([(0.0, 0.5, 1.0)[step % 10 % 3] for step in range(steps)])


def test_rewards_and_terminations_of_the_rollout_are_soft():
    model = cat_on_alarm()
    model.learn(40)
    expected = deltas(20)
    np.testing.assert_array_equal(model.rollout_buffer.rewards, np.tile(1.0 - expected, (2, 1)).T)
    np.testing.assert_array_equal(model.rollout_buffer.terminated, np.tile(expected, (2, 1)).T)
    assert model.rollout_buffer.truncated.sum() == 4


def test_a_step_with_delta_one_has_a_target_of_exactly_zero():
    """Neither its reward nor anything after it reaches the critic or the actor: the mask of the gradient."""
    model = cat_on_alarm()
    model.learn(40)
    buffer = model.rollout_buffer
    masked = buffer.terminated == 1.0
    targets = buffer.tensors(model.device).reward_returns.numpy().reshape(masked.shape)
    assert masked.sum() == 12
    assert (targets[masked] == 0.0).all()
    assert (targets[~masked] != 0.0).all()
    before, later = buffer.reward_advantages.copy(), np.flatnonzero(masked[:, 0])[0] + 1
    buffer.rewards[later:] += 100.0
    buffer.next_values[later - 1 :] += 100.0
    ends = {"terminated": buffer.terminated, "truncated": buffer.truncated}
    after = gae(buffer.rewards, buffer.values, buffer.next_values, **ends, gamma=0.99, gae_lambda=0.95)
    np.testing.assert_array_equal(after[:later], before[:later])
    assert (after[later:] > before[later:])[~masked[later:]].all()


def test_a_half_violation_halves_reward_and_future():
    model = cat_on_alarm(gae_lambda=0.0, gamma=0.5)
    model.learn(40)
    buffer = model.rollout_buffer
    one_step = (1.0 - buffer.terminated) * (1.0 + 0.5 * buffer.next_values) - buffer.values
    np.testing.assert_allclose(buffer.reward_advantages, one_step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("timeout", "expected"), [("bootstrap", 0.0), ("terminal", 1.0)])
def test_what_follows_a_time_limit_is_an_option(timeout, expected):
    model = cat_on_alarm(timeout=timeout)
    model.learn(40)
    assert deltas(10)[-1] == 0.0  # the step that is cut does not violate
    np.testing.assert_array_equal(model.rollout_buffer.terminated[[9, 19]], np.full((2, 2), expected))


def test_the_log_shows_violations_and_the_curriculum():
    model = cat_on_alarm(p_start=0.05, p_final=0.25, curriculum_share=0.5)
    rows = []
    model.dump_logs = lambda iteration=0: rows.append(dict(model.logger.name_to_value))
    model.learn(160)
    violations = 12 / 20  # per ten steps: four of 0.5, no, three of 0.5 and three of 2
    assert [row["cat/violation_rate/heat"] for row in rows] == [violations] * 4
    assert rows[0]["cat/p_max/heat"] == pytest.approx(1 / 12)  # after 40 of 160 steps, half of the curriculum
    assert rows[1]["cat/p_max/heat"] == rows[3]["cat/p_max/heat"] == pytest.approx(0.25)
    assert rows[3]["cat/mean_delta"] == pytest.approx(0.25 * deltas(10).mean())
    assert rows[0]["cat/c_max/heat"] == 1.0


def exact_value(cmdp, delta, policy):
    """V(rho) of a policy (S, A): V = sum_a pi (1 - delta)(r + gamma P V)."""
    moves = np.asarray(cmdp.transitions[0]).reshape(cmdp.num_states, cmdp.num_actions, cmdp.num_states)
    going_on = np.einsum("sa,sa,sat->st", policy, 1.0 - delta, moves)
    rewards = (policy * (1.0 - delta) * cmdp.rewards).sum(axis=1)
    return float(cmdp.rho @ np.linalg.solve(np.eye(cmdp.num_states) - cmdp.gamma * going_on, rewards))


TABULAR = {
    **{"n_steps": 32, "batch_size": 256, "n_epochs": 8, "learning_rate": 0.03, "anneal_learning_rate": True},
    **{"max_grad_norm": 10.0, "policy_kwargs": {"net_arch": [32]}, "seed": 0, "device": "cpu"},
}


def test_the_learned_policy_and_values_are_those_of_the_exact_fixed_point():
    """The reward-greedy policy has 63 % of the fixed point's value here, the uniform one 57 %."""
    cmdp = one_shot_instance()
    fixed_point = solve(cmdp, probability=0.25, violation_scale=(1.0,)).details
    best = float(cmdp.rho @ fixed_point["values"])
    options = {"gamma": cmdp.gamma, "p_start": 0.25, "p_final": 0.25, "c_max": {"cost": 1.0}}
    model = CaT("MlpPolicy", make_tabular_vec(cmdp, 32), **TABULAR, **options)
    model.learn(30_000)
    assert exact_value(cmdp, fixed_point["delta"], tabulate(model, cmdp)) > 0.98 * best
    values = model.policy.predict_all_values(th.arange(cmdp.num_states)[:, None])[0].detach().numpy()
    np.testing.assert_allclose(values, fixed_point["values"], rtol=0.04)


def test_where_all_reward_needs_a_violation_it_goes_on_violating():
    """On Paradox A the greedy policy is the optimum of CaT for every p < 1: it knows no budget."""
    model = CaT("MlpPolicy", make_tabular_vec(paradox_a(), 16), **TABULAR, gamma=0.9, c_max={"cost": 1.0})
    model.learn(8_000)
    costs = paradox_a().evaluate(tabulate(model, paradox_a())).costs
    assert costs[0] > 0.95  # per step; the budget allows half


def test_a_negative_reward_ends_the_training_and_names_the_ways_out():
    with pytest.raises(TrainingError, match=r"got -0\.5\. Choose negative_rewards='positive_part_only', or 'shift'"):
        cat_on_alarm(-0.5).learn(40)
    cat_on_alarm(0.0).learn(40)
    shifted = cat_on_alarm(-0.5, negative_rewards="shift", reward_offset=2.0)
    shifted.learn(40)
    np.testing.assert_array_equal(shifted.rollout_buffer.rewards[:, 0], 1.5 * (1.0 - deltas(20)))
    whole = cat_on_alarm(-0.5, negative_rewards="positive_part_only")
    whole.learn(40)
    assert (whole.rollout_buffer.rewards == -0.5).all()


def test_reward_scaling_keeps_the_sign():
    env = VecNormalize(CostVecEnv(saferl.make_vec(alarm, 2)), norm_obs=False)
    CaT("MlpPolicy", env, **SMALL).learn(40)
    env = VecNormalize(CostVecEnv(saferl.make_vec(lambda: alarm(-0.5), 2)), norm_obs=False)
    with pytest.raises(TrainingError, match=r"at least 0"):
        CaT("MlpPolicy", env, **SMALL).learn(40)


def test_budgets_to_train_at_are_for_limits_on_every_step_alone():
    with pytest.raises(ConstraintError, match=r"CaT lowers the share of steps .*'heat'.*'episode_sum'; got 3\."):
        CaT("MlpPolicy", saferl.make_vec(alarm, 2), budgets={"heat": 3.0}, **SMALL)
    constraints = ConstraintSet([Constraint("heat", 0.5, kind="statewise")])
    env = saferl.make_vec(alarm, 2, constraints=constraints)
    model = CaT("MlpPolicy", env, budgets={"heat": 0.25}, c_max={"heat": 1.0}, p_start=1.0, p_final=1.0, **SMALL)
    model.learn(40)
    assert model.train_budgets == {"heat": 0.25}
    costly = (deltas(20) > 0).astype(float)
    np.testing.assert_array_equal(model.rollout_buffer.terminated[:, 0], 0.75 * costly)  # the cost 1 less 0.25


def test_what_does_not_fit_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'heat'"):
        cat_on_alarm(classes={"heet": "hard"})
    lower = ConstraintSet([Constraint("heat", 1.0, sense=">=")])
    with pytest.raises(ConstraintError, match="is a lower limit"):
        CaT("MlpPolicy", saferl.make_vec(alarm, 2, constraints=lower), **SMALL)
    tail = ConstraintSet([Constraint("heat", 1.0, kind="cvar")])
    with pytest.raises(ConstraintError, match="got 'cvar' for 'heat'"):
        CaT("MlpPolicy", saferl.make_vec(alarm, 2, constraints=tail), **SMALL)


QUICK = RunSettings(num_envs=2, backend="sync", net_arch=(8,), num_checkpoints=0, validation_share=0.0)
OPTIONS = {"n_steps": 20, "batch_size": 20, "n_epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cat"
    return train("cat", f"{__name__}:alarm", steps=80, out=out, options=OPTIONS, settings=QUICK, device="cpu").folder


class Chance(Alarm):
    """Margins drawn at random, from a generator that a checkpoint holds."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.margins = self.np_random.normal(size=3).tolist()
        return result

    def get_state(self):
        return {"steps": self._steps, "margins": list(self.margins), "generator": generator_state(self.np_random)}

    def set_state(self, state):
        self._steps, self.margins = state["steps"], list(state["margins"])
        self._np_random = new_generator(state["generator"])


def chance():
    return TimeLimit(Chance(1.0), 10)


def test_a_cut_training_goes_on_from_its_running_maxima(tmp_path):
    settings = replace(QUICK, num_checkpoints=4)
    options = {**OPTIONS, "c_max_window": 8}
    arguments = {"steps": 160, "options": options, "settings": settings, "device": "cpu"}

    class CutError(Exception):
        pass

    def cut(done, latest):
        if done > 80:
            raise CutError

    whole = train("cat", f"{__name__}:chance", out=tmp_path / "whole", **arguments).folder
    with suppress(CutError):
        train("cat", f"{__name__}:chance", out=tmp_path / "cut", progress=cut, **arguments)
    resumed = resume(tmp_path / "cut").folder
    weights, expected = ((folder / "artefact" / "weights.safetensors").read_bytes() for folder in (resumed, whole))
    assert weights == expected
    found, wanted = (c_max_of(folder / "progress.csv") for folder in (resumed, whole))
    assert found == wanted
    assert len(set(found)) == 4


def c_max_of(log):
    """The column ``cat/c_max/heat`` of a log."""
    with log.open(encoding="utf-8", newline="") as file:
        return [row["cat/c_max/heat"] for row in csv.DictReader(file)]


def test_the_records_of_a_run_say_what_it_was_trained_for_and_claim_no_budget(run):
    record = json.loads((run / "run.json").read_text())
    assert (record["label"], record["trained_for"], record["train_budgets"]) == ("CaT", "violation rate per step", None)
    provenance = json.loads((run / "artefact" / "artefact.json").read_text())["provenance"]
    assert (provenance["trained_for"], provenance["train_budgets"]) == ("violation rate per step", None)
    assert "cat/violation_rate/heat" in (run / "progress.csv").read_text().splitlines()[0]


def test_a_report_shows_the_violation_rate_and_that_no_budget_was_trained_for(run, tmp_path):
    result = evaluate(run, episodes=20, out=tmp_path / "evaluation", workers=1)
    entry = result.summary["constraints"]["heat"]
    assert entry["step_violation_rate"] == 0.6  # 6 of 10 steps
    assert all(record.violating_steps == {"heat": 6} for record in result.records)
    low, high = entry["step_violation_rate_ci95"]
    assert low < 0.6 < high
    evaluation = read_evaluation(tmp_path / "evaluation")
    (agent,) = label_agents([evaluation])
    ((verdict, sentence),) = headlines(agent)
    assert verdict == "violated"
    assert sentence.startswith("CaT breaks the budget of heat: mean heat 6.00")
    assert "It was trained for few violating steps, not for this budget; heat is violated in 60.0 % of its" in sentence
    assert evaluation.policy.train_budgets is None


def test_a_limit_on_every_step_trains_without_validations(tmp_path):
    """Evaluation cannot judge this kind, so nothing is chosen by it."""
    constraints = ConstraintSet([Constraint("heat", 0.0, kind="statewise")])
    settings = replace(QUICK, validation_share=1.0, validation_episodes=2)
    arguments = {"steps": 80, "options": OPTIONS, "settings": settings, "device": "cpu"}
    by_sum = train("cat", f"{__name__}:alarm", out=tmp_path / "sum", **arguments)
    assert len(json.loads((by_sum.folder / "run.json").read_text())["result"]["validations"]) == 2
    run = train("cat", f"{__name__}:alarm", out=tmp_path / "run", constraints=constraints, **arguments)
    record = json.loads((run.folder / "run.json").read_text())
    assert record["result"]["validations"] == []
    assert record["result"]["training_costs"]["violating_episode_share"] == {"heat": 1.0}
    assert record["train_budgets"] == {"heat": 0.0}
