import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

import saferl
from saferl import Constraint, ConstraintSet
from saferl.errors import ConfigError, ConstraintError, EnvContractError, UnknownNameError
from saferl.evaluation.exact import evaluate_exactly
from saferl.policy.critic import ActionEncoder, ConstrainedCritic, QEnsemble
from saferl.solvers import ReLOADOffPolicy
from saferl.solvers.mpo import action_model
from saferl.solvers.off_policy import td_targets
from saferl.solvers.reload_offpolicy import mixed_values
from saferl.testing import check_solver
from saferl.training import RunSettings, resume

SMALL = {"n_steps": 12, "target_period": 3, "batch_size": 16, "learning_starts": 0, "dual_min_episodes": 1}
PARADOX = {
    **{"n_steps": 66, "target_period": 32, "batch_size": 128, "buffer_size": 20_000, "learning_starts": 0},
    **{"gamma": 0.9, "cost_gamma": 0.9, "tau": 0.5, "learning_rate": 3e-3, "critic_learning_rate": 3e-3},
    **{"min_temperature": 3.0, "multiplier_lr": 0.2, "dual_min_episodes": 1},
}


class Counter(gymnasium.Env):
    """Counts its steps; terminates after 4 of them, or is cut then."""

    constraints = ConstraintSet([Constraint("up", 2.0), Constraint("down", 3.0, sense=">=")])
    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 3.0, (2,), np.float32)

    def __init__(self, terminates=False):
        self._terminates, self._count = terminates, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._count += 1
        ended = self._count == 4
        obs = np.array([self._count], np.float32)
        info = {"costs": {"up": 1.0, "down": 0.5}}
        return obs, 1.0, ended and self._terminates, ended and not self._terminates, info


def toy(**options):
    envs = saferl.make_vec("saferl.testing.solver_envs:drift", 2, kind=options.pop("kind", "Box"))
    policy = "MultiInputPolicy" if isinstance(envs.single_observation_space, spaces.Dict) else "MlpPolicy"
    kwargs = {"net_arch": [8]}
    return ReLOADOffPolicy(policy, envs, **{**SMALL, **options}, policy_kwargs=kwargs, seed=3, device="cpu")


def test_it_passes_every_check_of_a_solver():
    report = check_solver("reload_offpolicy")
    assert report.ok, str(report)
    assert (len(report.checks), report.skipped) == (9, ())


def test_targets_bootstrap_from_the_expected_next_value_unless_the_task_has_ended():
    next_values = th.tensor([[1.0, 3.0], [1.0, 3.0], [5.0, 5.0]])
    terminated = th.tensor([0.0, 1.0, 0.0])
    rewards = th.tensor([1.0, 1.0, 0.0])
    weights = th.tensor([[0.75, 0.25], [0.75, 0.25], [0.5, 0.5]])
    assert td_targets(rewards, next_values, terminated, weights, 0.5).tolist() == [1.75, 1.0, 2.5]
    assert td_targets(rewards, next_values, terminated, None, 0.5).tolist() == [2.0, 1.0, 2.5]
    two_costs = td_targets(th.stack([rewards, 2 * rewards]), th.stack([next_values] * 2), terminated, weights, 0.5)
    assert two_costs.tolist() == [[1.75, 1.0, 2.5], [2.75, 2.0, 2.5]]


@pytest.mark.parametrize("terminates", [True, False])
def test_a_cut_episode_keeps_its_true_last_observation_and_only_a_termination_ends_the_value(terminates):
    envs = saferl.make_vec(lambda: Counter(terminates), 2)
    model = ReLOADOffPolicy("MlpPolicy", envs, **SMALL, seed=0, device="cpu")
    model.learn(24)
    buffer = model.replay_buffer
    counts, after = buffer.obs[""][: buffer.filled, 0, 0], buffer.next_obs[""][: buffer.filled, 0, 0]
    np.testing.assert_array_equal(counts, np.tile([0, 1, 2, 3], 3))
    np.testing.assert_array_equal(after, counts + 1)
    np.testing.assert_array_equal(buffer.terminated[: buffer.filled, 0], (counts == 3) * float(terminates))
    assert buffer.actions[: buffer.filled].min() >= -1.0
    np.testing.assert_array_equal(buffer.costs[: buffer.filled, 1], np.tile([1.0, 0.5], (12, 1)))


def probe(model):
    """Observations, candidate actions, and what the critics say of them now."""
    data = model.sample_batch()
    with th.no_grad():
        chosen = action_model(model.policy.get_distribution(data.obs)).candidates(5, model.generator)
        return data.obs, chosen, *model.critic.lowest(data.obs, chosen.actions)


def test_optimistic_values_are_plain_ones_while_critics_and_multipliers_stay_as_they_were():
    model = toy().learn(48)
    obs, chosen, rewards, costs = probe(model)
    model.critic_previous.load_state_dict(model.critic.state_dict())
    model.previous_multipliers = model.signed_multipliers()
    plain = mixed_values(rewards, costs, model.signed_multipliers())
    with th.no_grad():
        np.testing.assert_allclose(model._optimistic_values(obs, chosen, rewards, costs), plain, rtol=1e-5, atol=1e-5)
        model.previous_multipliers = model.previous_multipliers + 1.0
        moved = model._optimistic_values(obs, chosen, rewards, costs)
    np.testing.assert_allclose(moved, plain + costs.sum(dim=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("optimism", "primal", "dual"), [("both", 1, 1), ("primal", 1, 0), ("dual", 0, 1), ("none", 0, 0)]
)
def test_each_mode_of_optimism_concerns_the_players_that_it_names(optimism, primal, dual):
    model = toy(optimism=optimism).learn(24)
    assert hasattr(model.dual, "_last") == bool(dual)
    obs, chosen, rewards, costs = probe(model)
    with th.no_grad():
        before = model._optimistic_values(obs, chosen, rewards, costs)
        for parameter in model.critic_previous.parameters():
            parameter.zero_()
        after = model._optimistic_values(obs, chosen, rewards, costs)
    assert (not th.equal(before, after)) == bool(primal)


def test_the_lagged_critics_and_multipliers_are_those_that_the_iteration_ended_with_and_used():
    model = toy(multiplier_init=0.5).learn(24)
    for now, before in zip(model.critic.parameters(), model.critic_previous.parameters(), strict=True):
        assert th.equal(now, before)
    np.testing.assert_array_equal(model.previous_multipliers, [0.5, 0.5])
    assert model.multipliers[0] > 0.5 > model.multipliers[1]


def test_a_lower_limit_makes_its_cost_worth_something():
    envs = saferl.make_vec(lambda: Counter(), 2)
    model = ReLOADOffPolicy("MlpPolicy", envs, **SMALL, multiplier_init=2.0, seed=0, device="cpu")
    assert model.signed_multipliers().tolist() == [2.0, -2.0]
    values = mixed_values(th.ones(1, 1), th.tensor([[[10.0]], [[100.0]]]), model.signed_multipliers())
    assert values.item() == 1.0 - 20.0 + 200.0


def test_the_multipliers_wait_for_whole_episodes():
    assert toy(dual_min_episodes=3).learn(24).multipliers.tolist() == [0.0, 0.0]
    assert toy(dual_min_episodes=2).learn(24).multipliers[0] > 0.0


def test_nothing_is_learned_before_learning_starts():
    model = toy(learning_starts=100)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(96)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert model._n_updates == 0


def test_the_temperature_never_falls_below_its_floor():
    model = toy(min_temperature=7.0, anneal_steps=False, epsilon=50.0, step_sizes_lr=0.5).learn(96)
    with th.no_grad():
        model.step_sizes.clamp(least_temperature=7.0)
        assert model.step_sizes.temperature.item() == pytest.approx(7.0)


def test_steps_are_annealed_to_a_tenth_also_where_the_last_rollout_is_longer_than_what_is_left():
    model = toy()
    assert model.step_scale == 1.0
    assert model.learn(30).step_scale == pytest.approx(0.1)
    assert model.num_timesteps == 48
    assert toy(anneal_steps=False).learn(30).step_scale == 1.0


def test_an_action_of_the_critics_is_clipped_and_scaled_or_one_hot():
    box = ActionEncoder(spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32)))
    assert box(th.tensor([[-9.0, 5.0], [1.0, 99.0]])).tolist() == [[-1.0, 0.0], [0.0, 1.0]]
    free = ActionEncoder(spaces.Box(-np.inf, np.inf, (1,)))
    assert free(th.tensor([[123.0]])).tolist() == [[123.0]]
    both = ActionEncoder(spaces.MultiDiscrete([2, 3]))
    assert both(th.tensor([[1, 0], [0, 2]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


@pytest.mark.parametrize("net_arch", [[], [4], [5, 6]])
def test_every_member_of_an_ensemble_is_the_network_that_its_slices_spell(net_arch):
    ensemble = QEnsemble(3, 4, 2, net_arch)
    features, actions = th.randn(5, 4), th.randn(5, 7, 2)
    values = ensemble(features, actions)
    assert values.shape == (3, 5, 7)
    for member in range(3):
        hidden = features[:, None] @ ensemble.of_features[member] + actions @ ensemble.of_actions[member]
        hidden = hidden + ensemble.bias[member]
        for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
            hidden = hidden.relu() @ weight[member] + bias[member]
        np.testing.assert_allclose(values[member].detach(), hidden.squeeze(2).detach(), rtol=1e-4, atol=1e-5)
    shared = ensemble(features, actions[:1])
    np.testing.assert_allclose(
        shared.detach(), ensemble(features, actions[:1].expand(5, 7, 2)).detach(), rtol=1e-4, atol=1e-6
    )


def test_only_reward_critics_are_taken_at_their_lowest():
    critic = ConstrainedCritic(
        spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), num_constraints=2, num_reward_critics=3
    )
    obs, actions = th.randn(4, 3), th.randn(4, 5, 2)
    rewards, costs = critic(obs, actions)
    lowest, same = critic.lowest(obs, actions)
    assert (rewards.shape, costs.shape) == ((3, 4, 5), (2, 4, 5))
    assert th.equal(lowest, rewards.min(dim=0).values)
    assert th.equal(costs, same)


def test_a_resumed_run_ends_with_the_same_bits_and_its_checkpoint_holds_filled_rows_only(tmp_path):
    arguments = {
        "steps": 240,
        "seed": 5,
        "options": {**SMALL, "buffer_size": 10_000},
        "settings": RunSettings(num_envs=2, backend="sync", net_arch=(8,), num_checkpoints=5, validation_share=0.0),
    }
    env = "saferl.testing.solver_envs:drift"
    whole = saferl.train("reload_offpolicy", env, out=tmp_path / "whole", **arguments)

    def cut(done, _):
        if done >= 168:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saferl.train("reload_offpolicy", env, out=tmp_path / "cut", progress=cut, **arguments)
    newest = sorted((tmp_path / "cut" / "checkpoint").iterdir())[-1]
    assert newest.name == "step-000000144"
    again = resume(tmp_path / "cut")
    weights = [(r.folder / "artefact" / "weights.safetensors").read_bytes() for r in (whole, again)]
    assert weights[0] == weights[1]
    for name in ("critic", "critic_target", "critic_previous", "step_sizes"):
        pair = (getattr(r.model, name).state_dict() for r in (whole, again))
        first, second = pair
        assert all(th.equal(first[key], second[key]) for key in first)
    np.testing.assert_array_equal(whole.model.replay_buffer.next_obs[""], again.model.replay_buffer.next_obs[""])
    assert (newest / "state.safetensors").stat().st_size < 100_000


def test_a_saved_model_goes_on_with_critics_and_target_policy(tmp_path):
    model = toy().learn(48)
    model.save(tmp_path / "model.zip")
    again = ReLOADOffPolicy.load(tmp_path / "model.zip", device="cpu")
    for name in ("critic", "critic_target", "critic_previous", "policy_target"):
        first, second = (getattr(m, name).state_dict() for m in (model, again))
        assert all(th.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"optimism": "all"}, ConfigError, "'both', 'primal', 'dual', 'none'"),
        ({"dual": "adam"}, ConfigError, "'projected'"),
        ({"multiplier_kp": 0.1}, ConfigError, "multiplier_kp is a gain of the PID controller"),
        ({"min_temperature": 0.0}, ConfigError, "min_temperature must be greater than 0"),
        ({"tau": 1.5}, ConfigError, r"tau must be in \[0, 1\]"),
        ({"n_step": 3}, UnknownNameError, "Did you mean 'n_steps'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        toy(**options)


def test_gains_go_with_multipliers_that_are_not_optimistic():
    assert toy(optimism="primal", multiplier_kp=0.1).learn(24).multipliers[0] > 0.0


def test_other_kinds_and_envs_without_costs_are_refused():
    envs = saferl.make_vec(
        "saferl.testing.solver_envs:drift",
        1,
        constraints=ConstraintSet([Constraint("always", 0.5, kind="probability")]),
    )
    with pytest.raises(ConstraintError, match="probability"):
        ReLOADOffPolicy("MlpPolicy", envs)
    with pytest.raises(EnvContractError, match="costs"):
        ReLOADOffPolicy("MlpPolicy", gymnasium.make("CartPole-v1"))


class Iterates(BaseCallback):
    """Evaluates every policy exactly."""

    def __init__(self):
        super().__init__()
        self.found = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.found.append(evaluate_exactly(self.model, "ParadoxA-v0", optimum=0.5))


@pytest.mark.slow
def test_late_iterates_stay_near_the_stochastic_optimum_of_paradox_a():
    """Plain descent-ascent alternates between earning everything and nothing there (see the tabular tests)."""
    envs, iterates = saferl.make_vec("ParadoxA-v0", 16), Iterates()
    model = ReLOADOffPolicy("MlpPolicy", envs, **PARADOX, policy_kwargs={"net_arch": [32]}, seed=0, device="cpu")
    model.learn(130 * 16 * PARADOX["n_steps"], callback=iterates)
    late = iterates.found[117:]
    assert abs(np.mean([result.gap for result in late])) < 0.05
    assert np.mean([result.violation for result in late]) < 0.05
    assert 0.5 < model.multipliers[0] < 1.5
