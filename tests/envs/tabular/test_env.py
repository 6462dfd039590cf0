"""A CMDP as an environment, single and batched: the same seeds give the same episodes, and the CMDP's own laws."""

import itertools
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st

import saferl
from saferl.envs.catalogue import TABULAR_SPECS
from saferl.envs.state import get_state, set_state
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.batch import TabularBatch, UniformLanes, make_tabular_vec
from saferl.envs.tabular.env import TabularEnv, make_tabular
from saferl.envs.tabular.instances import INSTANCES, gridworld, paradox_a
from saferl.envs.tabular.sampling import StateSampler
from saferl.errors import ConfigError, ConstraintError, EnvContractError, UnknownNameError
from saferl.testing import check_env

IDS = [spec.id for spec in TABULAR_SPECS]


def finite(horizon=3, *, stationary=False):
    rng = np.random.default_rng(0)
    lead = () if stationary else (horizon,)
    moves = rng.dirichlet(np.ones(4), size=(*lead, 4, 2))
    shape = (*lead, 4, 2)
    costs = rng.uniform(size=(*shape, 2))
    return TabularCMDP(moves, rng.uniform(size=shape), costs, None, np.full(4, 0.25), [1.0, 2.0], horizon=horizon)


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_finds_nothing_wrong(env_id):
    report = check_env(env_id)
    assert report.ok, str(report)
    # Nothing is random in the paradoxes but a first state, and Catch ends when the ball is down.
    expected = {"ParadoxA-v0": {"seeding"}, "ParadoxB-v0": {"seeding"}, "CatchCost-v0": {"episode-ends"}}.get(
        env_id, set()
    )
    assert {warning.check for warning in report.warnings} == expected, str(report)
    assert {"state", "vector-env"} <= set(report.checks)


def test_check_env_finds_nothing_wrong_with_a_cmdp_of_ones_own():
    assert check_env(lambda: TabularEnv(paradox_a())).ok
    report = check_env(lambda: TabularEnv(finite()))
    assert report.ok, str(report)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_makes_it_too(env_id):
    env = gymnasium.make(f"saferl/{env_id}")
    env.reset(seed=0)
    assert env.step(0)[-1]["costs"].keys() == set(saferl.make(env_id).constraints.names)


@pytest.mark.parametrize(("gamma", "steps"), [(0.9, 66), (0.5, 10), (0.99, 688), (0.0, 1)])
def test_with_a_discount_a_time_limit_truncates_where_a_thousandth_is_left(gamma, steps):
    cmdp = paradox_a()
    env = saferl.make(
        lambda: TabularEnv(TabularCMDP(cmdp.transitions[0], cmdp.rewards, cmdp.costs, gamma, cmdp.rho, [5.0]))
    )
    env.reset(seed=0)
    assert (env.horizon, env.is_fixed_horizon) == (steps, True)
    ends = [env.step(0)[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]
    assert gamma**steps <= 1e-3 < gamma ** (steps - 1)


def test_a_finite_horizon_terminates_and_time_is_observed():
    cmdp = finite()
    env = saferl.make(lambda: TabularEnv(cmdp))
    assert env.observation_space == gymnasium.spaces.Discrete(12)
    obs, _ = env.reset(seed=1)
    for step in range(3):
        state = obs - 4 * step
        assert 0 <= state < 4
        obs, reward, terminated, truncated, info = env.step(1)
        assert reward == cmdp.rewards[step, state, 1]
        assert list(info["costs"].values()) == cmdp.costs[step, state, 1].tolist()
        assert info["cost"] == cmdp.costs[step, state, 1].sum()
        assert (terminated, truncated) == (step == 2, False)
    assert obs == 8 + state
    with pytest.raises(ResetNeeded, match="the episode has ended"):
        env.step(0)


def test_a_time_limit_can_cut_a_finite_horizon_and_none_is_known_otherwise():
    env = TabularEnv(finite(), max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert saferl.make(lambda: TabularEnv(finite())).horizon is None
    assert saferl.make(lambda: TabularEnv(finite()), max_episode_steps=3).horizon == 3


def test_rewards_and_costs_are_those_of_state_and_action():
    cmdp = INSTANCES.load("queueing")()
    env = TabularEnv(cmdp)
    state, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(100):
        action = env.action_space.sample()
        following, reward, _, _, info = env.step(action)
        assert reward == cmdp.rewards[state, action]
        assert info["costs"] == dict(zip(("effort", "rejections"), cmdp.costs[state, action].tolist(), strict=True))
        state = following


@pytest.mark.parametrize("action", [-1, 2, 1.5, None])
def test_an_action_that_does_not_exist_is_an_error_and_nothing_moves(action):
    env = TabularEnv(paradox_a())
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(EnvContractError, match="an action must be a whole number from 0 to 1; got"):
        env.step(action)
    assert env.get_state() == before


def test_a_step_needs_a_reset():
    with pytest.raises(ResetNeeded):
        TabularEnv(paradox_a()).step(0)
    with pytest.raises(ResetNeeded):
        make_tabular_vec(paradox_a(), 2).step([0, 0])


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="max_episode_steps must be at least 1; got 0"):
        TabularEnv(paradox_a(), max_episode_steps=0)
    with pytest.raises(ConfigError, match="num_envs must be at least 1; got 0"):
        make_tabular_vec(paradox_a(), 0)
    with pytest.raises(UnknownNameError, match=r"Unknown tabular instance 'paradox'\. Did you mean 'paradox_"):
        make_tabular("paradox")
    with pytest.raises(UnknownNameError, match="argument of env 'ParadoxA-v0'"):
        saferl.make("ParadoxA-v0", render_mode="rgb_array")
    with pytest.raises(ConstraintError, match="at least 0; got -1"):
        TabularEnv(paradox_a().with_budgets([-1.0]))


def test_budgets_choose_the_constraints():
    env = saferl.make("Queueing-v0", budgets={"rejections": 1.5})
    assert [(c.name, c.budget, c.kind) for c in env.constraints] == [("rejections", 1.5, "discounted")]
    env.reset(seed=0)
    env.step(0)
    assert env.last_costs.tolist() == [0.6]
    with pytest.raises(UnknownNameError, match="cost of Queueing-v0"):
        saferl.make("Queueing-v0", budgets={"cost": 1.0})


# The batch.


def singles(make, count):
    return [saferl.make(make) for _ in range(count)]


def assert_equal_runs(envs, batch, steps):
    """A batch beside single envs with the same seeds and actions, resets included."""
    actions = np.random.default_rng(0).integers(batch.single_action_space.n, size=(steps, len(envs)))
    seeds = [5 + row for row in range(len(envs))]
    obs, _ = batch.reset(seed=5)
    assert obs.tolist() == [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    ends = 0
    for row_of_actions in actions:
        obs, rewards, terminated, truncated, infos = batch.step(row_of_actions)
        for row, env in enumerate(envs):
            last, *rest, info = env.step(int(row_of_actions[row]))
            assert rest == [rewards[row], terminated[row], truncated[row]]
            assert infos["costs"][row].tolist() == env.last_costs.tolist()
            assert infos["cost"][row] == info["cost"]
            if rest[1] or rest[2]:
                ends += 1
                assert infos["_final_obs"][row]
                assert infos["final_obs"][row] == last
                last, _ = env.reset()
            assert obs[row] == last
    return ends


CMDPS = {
    "discounted": paradox_a,
    "two costs": INSTANCES.load("queueing"),
    "sparse": lambda: gridworld(25, gamma=0.9),
    "finite": finite,
    "finite and stationary": lambda: finite(stationary=True),
    "real finite": INSTANCES.load("finite_horizon"),
}


@pytest.mark.parametrize("name", CMDPS)
def test_a_batch_does_what_single_envs_do(name):
    """Long enough for the numbers that are drawn ahead to run out, at other moments in every lane."""
    cmdp = CMDPS[name]()
    ends = assert_equal_runs(singles(lambda: TabularEnv(cmdp), 3), make_tabular_vec(cmdp, 3), 600)
    assert ends >= 3


@pytest.mark.parametrize("env_id", IDS)
def test_the_backends_of_an_id_are_equal(env_id):
    batched, single = (saferl.make_vec(env_id, 2, backend=kind, max_episode_steps=7) for kind in ("auto", "sync"))
    assert type(batched).__name__ == "BatchedVectorEnv"
    assert (batched.constraints, batched.horizon, batched.is_fixed_horizon) == (single.constraints, 7, True)
    assert_equal_runs(single.envs, batched, 20)


def test_a_choice_of_constraints_chooses_columns_of_the_batch():
    envs = saferl.make_vec("Queueing-v0", 2, budgets={"rejections": 1.0, "effort": 2.0})
    envs.reset(seed=0)
    infos = envs.step([6, 7])[-1]
    assert infos["costs"].tolist() == [[0.6, 1.0], [0.0, 1.0]]
    assert infos["cost"].tolist() == [1.6, 1.0]
    with pytest.raises(UnknownNameError):
        TabularBatch(paradox_a(), 1, saferl.ConstraintSet([saferl.Constraint("heat", 1.0)]))


@pytest.mark.parametrize("taken", [0, 3, 254, 255, 256, 700])
def test_states_go_from_single_envs_to_the_batch_and_back(taken):
    """After any number of draws, also where the block of numbers drawn ahead has just ended."""
    batch = saferl.make_vec("RandomBinding10-v0", 2)
    envs = [saferl.make("RandomBinding10-v0") for _ in range(2)]
    batch.reset(seed=3)
    actions = np.random.default_rng(1).integers(5, size=(taken + 80, 2))
    for row_of_actions in actions[:taken]:
        batch.step(row_of_actions)
    states = batch.get_states()
    for env, state in zip(envs, states, strict=True):
        env.reset(seed=99)
        set_state(env, state)
    other = saferl.make_vec("RandomBinding10-v0", 2)
    other.reset(seed=98)
    other.set_states([get_state(env) for env in envs])
    for row_of_actions in actions[taken:]:
        expected, found = batch.step(row_of_actions), other.step(row_of_actions)
        for one, two in zip(expected[:4], found[:4], strict=True):
            np.testing.assert_array_equal(two, one)
        for row, env in enumerate(envs):
            obs, _, terminated, truncated, _ = env.step(int(row_of_actions[row]))
            obs = env.reset()[0] if terminated or truncated else obs
            assert obs == expected[0][row]


def test_a_state_of_another_env_is_refused():
    batch = saferl.make_vec("ParadoxA-v0", 1)
    env = saferl.make(lambda: TabularEnv(paradox_a()))
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="The state must be of an env made of"):
        batch.set_states([get_state(env)])
    with pytest.raises(EnvContractError, match="must be taken after a reset"):
        batch.get_states()


@pytest.mark.parametrize("bad", [-1, 2])
def test_a_bad_action_of_one_lane_is_named_and_nothing_moves(bad):
    envs = make_tabular_vec(paradox_a(), 3)
    envs.reset(seed=0)
    before = envs.get_states()
    with pytest.raises(EnvContractError, match=f"from 0 to 1; environment 1 got {bad}"):
        envs.step([0, bad, 0])
    assert envs.get_states() == before or all(
        one["layers"][1]["state"] == two["layers"][1]["state"]
        for one, two in zip(before, envs.get_states(), strict=True)
    )


def test_lanes_without_a_seed_differ():
    envs = make_tabular_vec(gridworld(8), 64)
    obs, _ = envs.reset()
    assert len(set(obs.tolist())) > 5


@settings(max_examples=25, deadline=None)
@given(draws=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=600))
def test_lanes_give_each_generators_own_numbers_in_its_own_order(draws):
    lanes = UniformLanes(3)
    expected = [np.random.default_rng(seed) for seed in range(3)]
    for lane in range(3):
        lanes.take_over(lane, np.random.default_rng(lane), lane)
    for mask in draws:
        rows = np.flatnonzero(mask)
        assert lanes.draw(rows).tolist() == [expected[row].random() for row in rows]
    for lane in range(3):
        generator, seed = lanes.generator(lane)
        assert seed == lane
        assert generator.bit_generator.state == expected[lane].bit_generator.state


# The laws.


def test_next_states_are_the_inverse_of_the_distribution_function():
    """Every uniform number leads to the state whose share of [0, 1) it falls into, for all rows."""
    cmdp = finite()
    sampler = StateSampler(cmdp)
    numbers = np.append((np.arange(400) + 0.5) / 400, [0.0, np.nextafter(1.0, 0.0)])
    for step, state, action in itertools.product(range(3), range(4), range(2)):
        shares = np.cumsum(cmdp.transitions[step][state * 2 + action])
        expected = [int(np.flatnonzero(share < shares)[0]) if share < shares[-1] else 3 for share in numbers]
        found = sampler.next(np.full(402, step), np.full(402, state), np.full(402, action), numbers)
        assert found.tolist() == expected


def test_states_without_probability_are_never_drawn():
    """Also by numbers at the very ends, in the last rows of a large CMDP."""
    cmdp = gridworld(100, budget=1.0)
    sampler = StateSampler(cmdp)
    rows = np.arange(4 * cmdp.num_states)
    for number in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        found = sampler.next(0, rows // 4, rows % 4, number)
        assert (np.asarray(cmdp.transitions[0][rows, found]) > 0.0).all()
        assert cmdp.rho[sampler.first(number)] > 0.0


def test_visits_have_the_frequencies_of_the_cmdp():
    """Hoeffding: any of 11 means of 20,000 draws is off by more than the bound with probability below 1e-9."""
    cmdp = finite(2)
    count = 20_000
    bound = math.sqrt(math.log(2 * 11 / 1e-9) / (2 * count))
    assert bound < 0.025
    envs = make_tabular_vec(cmdp, count)
    first, _ = envs.reset(seed=0)
    actions = np.ones(count, dtype=int)
    following = envs.step(actions)[0] - 4
    np.testing.assert_allclose(np.bincount(first, minlength=4) / count, cmdp.rho, atol=bound)
    expected = cmdp.rho @ cmdp.transitions[0].reshape(4, 2, 4)[:, 1]
    np.testing.assert_allclose(np.bincount(following, minlength=4) / count, expected, atol=bound)
    # Rewards and costs of the two steps: means of numbers in [0, 1].
    _, rewards, terminated, _, infos = envs.step(actions)
    assert terminated.all()
    means = np.append(rewards.mean(), infos["costs"].mean(axis=0))
    exact = [expected @ cmdp.rewards[1, :, 1], *(expected @ cmdp.costs[1, :, 1])]
    np.testing.assert_allclose(means, exact, atol=bound)
