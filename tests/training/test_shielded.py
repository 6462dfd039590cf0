"""Training behind a shield: what is executed and stored, interventions as a constraint, safe resets, exact resume."""

import json

import gymnasium
import numpy as np
import pytest
import torch as th
from shielded_point import Point, WallShield
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import saferl
from saferl.constraints import Constraint, ConstraintSet
from saferl.errors import ConfigError, EnvContractError
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.shields import SHIELDS, ActionSpec
from saferl.shields.bounds import Bounds
from saferl.solvers import PPOLag
from saferl.solvers.reload_offpolicy import ReLOADOffPolicy
from saferl.training import (
    ExecutedActionReplayBuffer,
    RunSettings,
    ShieldedEnv,
    ShieldedVecEnv,
    ShieldedVectorEnv,
    resume,
    train,
)

SPACE = Point.action_space
ENV = "shielded_point:make_point"
SMALL = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
RIGHT = np.ones((2, 1), dtype=np.float32)


@pytest.fixture(autouse=True)
def wall():
    with SHIELDS.temporarily("wall", WallShield):
        yield


def shielded(shield=None, num_envs=2, **options):
    return ShieldedVecEnv(saferl.make_vec(ENV, num_envs), shield or WallShield(SPACE), **options)


def test_it_executes_the_shields_actions_and_says_both_at_every_step():
    env = shielded()
    env.seed(0)
    env.reset()
    for step in range(50):
        _, _, dones, infos = env.step(RIGHT)
        assert [info["proposed_action"].tolist() for info in infos] == [[1.0], [1.0]]
        executed = [e.unwrapped.executed.tolist() for e in env.venv_with_costs.envs]
        assert [info["executed_action"].tolist() for info in infos] == executed
        assert [info["shield"] for info in infos] == env.last_decisions
        assert dones.all() == (step % 20 == 19)
        assert (env.costs == 0.0).all()
    assert env.totals.costs.tolist() == [0.0]


def test_the_channel_is_a_constraint_with_costs_in_every_account():
    env = shielded(budgets={"interventions": 3.0, "intervention_distance": 1.0})
    assert env.constraints.names == ("cost", "interventions", "intervention_distance")
    env.seed(0)
    env.reset()
    kinds = np.zeros(2)
    for _ in range(20):
        _, _, _, infos = env.step(RIGHT)
        kinds += [decision.kind != "pass" for decision in env.last_decisions]
    assert [info["episode"]["costs"]["interventions"] for info in infos] == kinds.tolist()
    assert min(kinds) > 0
    assert env.totals.costs[1] == kinds.sum()
    assert np.array(env.recent_costs)[:, 1].tolist() == kinds.tolist()
    assert env.margins.shape == (2, 3)


def test_single_and_vector_environments_behave_the_same():
    batch = shielded(WallShield(SPACE, jitter=0.5), budgets={"interventions": 3.0})
    single = ShieldedEnv(saferl.make(ENV), WallShield(SPACE, jitter=0.5), budgets={"interventions": 3.0})
    batch.seed(4)
    obs = batch.reset()
    other, _ = single.reset(seed=4)
    for _ in range(20):
        assert obs[0].tolist() == other.tolist()
        obs, _, _, infos = batch.step(RIGHT)
        other, _, _, _, info = single.step(RIGHT[0])
        assert infos[0]["executed_action"].tolist() == info["executed_action"].tolist()
        assert batch.costs[0].tolist() == single.last_costs.tolist()
    first, second = batch.last_decisions[0], single.last_decision
    assert (first.kind, first.distance, first.margin) == (second.kind, second.distance, second.margin)


class Recorder(PPOLag):
    """Keeps the first rollout, and what its policy says of the actions in it before it is trained."""

    rollout = None

    def train(self):
        if self.rollout is None:
            self.rollout = self.rollout_buffer.tensors(self.device)
            with th.no_grad():
                self.expected = self.policy.assess(self.rollout.obs, self.rollout.actions)[0]
            self.costs = self.rollout_buffer.costs.copy().reshape(len(self.rollout), -1)
        super().train()


def first_rollout(env):
    return Recorder("MlpPolicy", env, n_steps=16, batch_size=16, **SMALL).learn(32)


def test_the_on_policy_buffer_keeps_the_proposed_action_with_its_log_probability():
    tight = Bounds(SPACE, -0.01, 0.01)
    bare, safe = first_rollout(saferl.make_vec(ENV, 2)), first_rollout(shielded(tight))
    # The first proposals do not depend on the shield; they are stored as they were drawn, unclipped.
    assert bare.rollout.actions[:2].tolist() == safe.rollout.actions[:2].tolist()
    assert safe.rollout.actions.abs().max() > 1.0
    assert safe.rollout.log_probs.tolist() == safe.expected.tolist()
    counted = first_rollout(shielded(tight, budgets={"interventions": 1.0}))
    assert counted.costs[:, 1].tolist() == (counted.rollout.actions.abs() > 0.01).flatten().float().tolist()


@pytest.mark.parametrize("store", ["executed", "proposed"])
def test_the_replay_buffer_of_an_off_policy_solver_keeps_what_was_asked_for(store):
    env = VecNormalize(shielded(Bounds(SPACE, -0.01, 0.01), store=store))
    model = ReLOADOffPolicy("MlpPolicy", env, n_steps=16, batch_size=16, learning_starts=0, **SMALL)
    model.learn(32)
    actions = np.abs(model.replay_buffer.actions[: model.replay_buffer.filled])
    assert (actions.max() <= 0.0100001) == (store == "executed")


@pytest.mark.parametrize("around", ["vector", "single"])
def test_stable_baselines3_trains_behind_a_shield_and_can_store_executed_actions(around):
    wide = gymnasium.make("Pendulum-v1").action_space
    if around == "vector":
        venv = saferl.make_vec("Pendulum-v1", 2, cost="toy_envs:step_number", budgets={"cost": 1.0})
        env = ShieldedVecEnv(venv, Bounds(wide, -1.0, 1.0))
    else:
        env = DummyVecEnv([lambda: ShieldedEnv(gymnasium.make("Pendulum-v1"), Bounds(wide, -1.0, 1.0))] * 2)
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(64)
    model = SAC("MlpPolicy", env, replay_buffer_class=ExecutedActionReplayBuffer, learning_starts=20, device="cpu")
    model.learn(60)
    stored = model.replay_buffer.actions[: model.replay_buffer.size()]
    assert np.abs(stored).max() == 0.5  # 1 of 2, scaled
    bare = SAC("MlpPolicy", gymnasium.make("Pendulum-v1"), replay_buffer_class=ExecutedActionReplayBuffer, device="cpu")
    with pytest.raises(ConfigError, match="needs info"):
        bare.learn(10)


def test_a_safe_reset_draws_starts_until_the_shield_certifies_them():
    env = shielded(WallShield(SPACE, wall=0.4), safe_reset=100)
    env.seed(0)
    obs = env.reset()
    for _ in range(5):
        assert (obs <= 0.1 + 1e-6).all()
        assert [e.unwrapped._x for e in env.venv_with_costs.envs] == pytest.approx(obs[:, 0].tolist())
        for _ in range(20):
            obs, *_ = env.step(-RIGHT)
    never = WallShield(SPACE, wall=-1.0)
    with pytest.raises(EnvContractError, match="certified none of 3"):
        shielded(never, safe_reset=3).reset()
    flagged = shielded(never, safe_reset=3, on_uncertified="flag")
    flagged.reset()
    assert flagged.shielded.uncertified_starts == 2


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="must filter the actions"):
        shielded(Bounds(ActionSpec.box([-2.0], [2.0])))
    with pytest.raises(ConfigError, match="VecNormalize go around it"):
        ShieldedVecEnv(VecNormalize(CostVecEnv(saferl.make_vec(ENV, 2))), WallShield(SPACE))
    with pytest.raises(ConfigError, match="'executed' or 'proposed'"):
        shielded(store="both")
    workers = saferl.make_vec(ENV, 2, backend="process", num_workers=1)
    try:
        with pytest.raises(ConfigError, match="backend='sync'"):
            ShieldedVectorEnv(workers, WallShield(SPACE), safe_reset=3)
    finally:
        workers.close()


RUN = {
    "solver": "ppo_lag",
    "env_id": ENV,
    "steps": 640,
    "budgets": {"cost": 1.0, "interventions": 4.0},
    "shield": "shielded_point:build_jittery",
    "options": {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "dual_min_episodes": 2},
    "settings": RunSettings(num_envs=2, validation_episodes=2, validation_share=0.3, num_checkpoints=8, net_arch=(8,)),
}


class CutError(Exception):
    """The power is gone."""


def cut_at(steps):
    def progress(done, latest):
        if done >= steps:
            raise CutError

    return progress


def test_a_shielded_run_is_recorded_and_resumes_to_the_same_weights(tmp_path):
    whole = train(**RUN, out=tmp_path / "whole").folder
    cut = tmp_path / "cut"
    for steps in (300, 500):
        with pytest.raises(CutError):
            train(**RUN, out=cut, progress=cut_at(steps)) if steps == 300 else resume(cut, progress=cut_at(steps))
    resume(cut)
    for name in ("artefact", "artefact-best"):
        first, second = ((f / name / "weights.safetensors").read_bytes() for f in (whole, cut))
        assert first == second
    record = json.loads((whole / "run.json").read_text())
    assert record["shield"] == {
        "name": "shielded_point:build_jittery",
        "source": "shielded_point:build_jittery",
        "is_kept": True,
        "spec": WallShield(SPACE).spec().to_dict(),
    }
    assert [c["name"] for c in record["constraints"]] == ["cost", "interventions"]
    assert record["result"]["training_costs"]["total_cost"]["cost"] == 0.0
    assert record["result"]["validations"][0]["costs"]["interventions"] > 0.0
    assert "shield/intervention_rate" in (whole / "progress.csv").read_text().splitlines()[0]
    with pytest.raises(ConfigError, match="has shield 'shielded_point:build_jittery'"):
        resume(cut, expected={"shield": "bounds"})


def test_the_shields_memory_and_generator_are_in_the_checkpoint(tmp_path, monkeypatch):
    """Without them a resumed run must end otherwise, or the test above would show nothing."""
    whole = train(**RUN, out=tmp_path / "whole").folder
    with pytest.raises(CutError):
        train(**RUN, out=tmp_path / "cut", progress=cut_at(300))
    monkeypatch.setattr("saferl.deploy.lane.Lane.set_state", lambda self, state: None)
    resume(tmp_path / "cut")
    first, second = ((f / "artefact" / "weights.safetensors").read_bytes() for f in (whole, tmp_path / "cut"))
    assert first != second


def test_a_run_without_a_shield_says_so(tmp_path):
    options = {**RUN, "shield": None, "budgets": {"cost": 1.0}, "steps": 64}
    folder = train(**options, out=tmp_path / "run").folder
    assert json.loads((folder / "run.json").read_text())["shield"] is None
    assert not (folder / "shield").exists()
    assert "shield" not in saferl.load(folder).provenance


def test_a_shield_of_an_unregistered_unit_is_built_again_by_its_factory(tmp_path):
    request = {**RUN, "shield": "shielded_point:build_other"}
    whole = train(**request, out=tmp_path / "whole").folder
    with pytest.raises(CutError):
        train(**request, out=tmp_path / "cut", progress=cut_at(300))
    assert json.loads((whole / "run.json").read_text())["shield"]["is_kept"] is False
    assert not (whole / "shield").exists()
    resume(tmp_path / "cut")
    first, second = ((f / "artefact" / "weights.safetensors").read_bytes() for f in (whole, tmp_path / "cut"))
    assert first == second


class Unsavable(WallShield):
    def _to_data(self):
        raise ConfigError("wall: holds a device.")


def test_a_shield_that_could_not_be_found_again_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"resumed: wall: holds a device\. Give package"):
        train(**{**RUN, "shield": Unsavable(SPACE), "steps": 64}, out=tmp_path / "run")


def trained_behind_the_wall(seed, budgets):
    """Cost per episode of the bare policy that PPO-Lagrangian learned behind the wall, and its last multipliers."""
    constraints = ConstraintSet([Constraint("cost", 0.5, max_step_cost=1.0)])
    env = shielded(num_envs=8, budgets=budgets) if budgets else shielded(num_envs=8)
    assert env.constraints[:1] == constraints
    options = SMALL | {"seed": seed, "n_steps": 40, "batch_size": 64, "multiplier_lr": 0.05}
    model = PPOLag("MlpPolicy", VecNormalize(env), **options).learn(30_000)
    bare = saferl.evaluate(model, ENV, episodes=64, workers=1)
    return bare.summary["constraints"]["cost"]["mean"], np.asarray(model.multipliers).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_with_the_channel_the_bare_policy_becomes_safe_and_without_it_does_not(seed):
    """The reason for the channel: a shield hides every cost, the multiplier stays 0, and nothing is learned of it.

    Seen: 11.8 violating steps of 20 without the channel (seed 0, 15,000 steps); 0.66 and 0.30 with it (seeds 0 and 1).
    """
    hidden, multipliers = trained_behind_the_wall(seed, None)
    assert multipliers == [0.0]
    assert hidden > 8.0
    learned, _ = trained_behind_the_wall(seed, {"interventions": 0.5})
    assert learned < 2.0
