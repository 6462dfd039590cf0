"""A vector env equals its single envs stepped in a loop, in this process and across workers."""

import itertools
import os
import signal
import threading

import gymnasium
import numpy as np
import pytest
from toy_envs import ACTIONS, OBSERVATIONS, Scripted, Walk

import saferl
from saferl.envs.batch import StepArrays, leaf_spaces
from saferl.envs.vector import CostVectorEnv, make_vec
from saferl.errors import ConfigError, CostError, EnvContractError, UnknownNameError, UsageError

STEPS = 12
SPACES = list(itertools.product(OBSERVATIONS, ACTIONS))


def action_batches(space, num_envs, steps=STEPS, seed=3):
    """The same random actions for every call."""
    batched = gymnasium.vector.utils.batch_space(space, num_envs)
    batched.seed(seed)
    return [batched.sample() for _ in range(steps)]


def row(batch, index):
    """Row ``index`` of a batch of observations or actions."""
    if isinstance(batch, dict):
        return {key: value[index] for key, value in batch.items()}
    return batch[index]


def assert_same(actual, expected):
    """Exact equality of arrays, or of dicts of them, with dtypes."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    else:
        np.testing.assert_array_equal(actual, expected)
        assert np.asarray(actual).dtype == np.asarray(expected).dtype


def trace(envs, seed=11, steps=STEPS):
    """Everything that a vector env returns."""
    returned = [envs.reset(seed=seed)]
    for actions in action_batches(envs.single_action_space, envs.num_envs, steps):
        returned.append(envs.step(actions))
    return returned


@pytest.fixture
def walks():
    envs = make_vec("toy_envs:Walk", 3)
    yield envs
    envs.close()


@pytest.mark.parametrize(("observations", "actions"), SPACES)
def test_a_vector_env_equals_single_envs_in_a_loop(observations, actions):
    kwargs = {"observations": observations, "actions": actions}
    envs = make_vec("toy_envs:Walk", 3, **kwargs)
    singles = [saferl.make("toy_envs:Walk", **kwargs) for _ in range(3)]
    obs, _ = envs.reset(seed=[5, 6, 7])
    expected = [single.reset(seed=5 + i)[0] for i, single in enumerate(singles)]
    ended_episodes = 0
    for batch in action_batches(envs.single_action_space, 3):
        for i in range(3):
            np.testing.assert_equal(row(obs, i), expected[i])
        obs, rewards, terminated, truncated, infos = envs.step(batch)
        for i, single in enumerate(singles):
            expected[i], reward, is_terminated, is_truncated, info = single.step(row(batch, i))
            assert (rewards[i], terminated[i], truncated[i]) == (reward, is_terminated, is_truncated)
            np.testing.assert_array_equal(infos["costs"][i], [info["costs"]["left"], info["costs"]["right"]])
            assert infos["cost"][i] == info["cost"]
            np.testing.assert_array_equal(infos["margins"][i], [info["margins"]["left"], info["costs"]["right"]])
            if is_terminated or is_truncated:
                ended_episodes += 1
                assert infos["_final_obs"][i]
                np.testing.assert_equal(row(infos["final_obs"], i), expected[i])
                expected[i], _ = single.reset()
            else:
                assert "_final_obs" not in infos or not infos["_final_obs"][i]
    assert ended_episodes > 3
    envs.close()


@pytest.mark.parametrize("observations", list(OBSERVATIONS))
def test_observations_belong_to_the_batched_space(observations):
    envs = make_vec("toy_envs:Walk", 3, observations=observations)
    assert envs.observation_space == gymnasium.vector.utils.batch_space(OBSERVATIONS[observations], 3)
    for obs, *_ in trace(envs):
        assert envs.observation_space.contains(obs)
    envs.close()


def test_costs_are_float64_with_one_row_per_env_and_one_column_per_constraint(walks):
    walks.reset(seed=0)
    for actions in action_batches(walks.single_action_space, 3):
        infos = walks.step(actions)[-1]
        assert infos["costs"].shape == (3, len(walks.constraints)) == (3, 2)
        assert infos["margins"].shape == (3, 2)
        assert infos["costs"].dtype == infos["margins"].dtype == np.float64
        assert infos["cost"].shape == (3,)
        for mask in ("_costs", "_margins", "_cost"):
            assert infos[mask].dtype == np.bool_
            assert infos[mask].tolist() == [True] * 3


def test_the_columns_are_in_the_order_of_the_budgets():
    first, second = ({"left": 1.0, "right": 1.0}, {"right": 1.0, "left": 1.0})
    one, other = (trace(make_vec("toy_envs:Walk", 2, budgets=b))[1][-1]["costs"] for b in (first, second))
    assert (one[:, 0] != one[:, 1]).any()
    np.testing.assert_array_equal(one, other[:, ::-1])


def test_at_an_episodes_end_the_cost_is_that_of_its_last_step_and_the_next_episode_has_begun(walks):
    """A Walk's costs grow with its clock, which is 0 again after a reset."""
    obs, _ = walks.reset(seed=0)
    endings = 0
    for actions in action_batches(walks.single_action_space, 3):
        clock = obs[:, 1]
        obs, _, terminated, truncated, infos = walks.step(actions)
        assert (infos["costs"].min(axis=1) == clock + 1).all()
        ended = terminated | truncated
        assert not (terminated & truncated).any()
        assert (obs[ended, 1] == 0.0).all()
        assert ("final_obs" in infos) == ended.any()
        if ended.any():
            endings += ended.sum()
            np.testing.assert_array_equal(infos["_final_obs"], ended)
            np.testing.assert_array_equal(infos["final_obs"][ended, 1], clock[ended] + 1)
        np.testing.assert_array_equal(obs[~ended, 1], clock[~ended] + 1)
    assert endings >= 6


def test_the_autoreset_mode_is_declared(walks):
    assert walks.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP


def test_an_int_seeds_each_env_with_its_own_seed(walks):
    one, _ = walks.reset(seed=5)
    other, _ = walks.reset(seed=[5, 6, 7])
    np.testing.assert_array_equal(one, other)
    assert len(set(one[:, 0])) == 3


def test_seeds_may_be_an_array_and_none_goes_on_with_the_generator(walks):
    first, _ = walks.reset(seed=np.array([5, 6, 7]))
    second, _ = walks.reset(seed=[5, None, 7])
    assert (first[:, 0] == second[:, 0]).tolist() == [True, False, True]


def test_equal_seeds_give_equal_runs_and_no_seed_goes_on(walks):
    for one, other in zip(trace(walks), trace(walks), strict=True):
        for actual, expected in zip(one[:-1], other[:-1], strict=True):
            assert_same(actual, expected)
    assert (walks.reset()[0] != walks.reset()[0]).any()


@pytest.mark.parametrize("seeds", [[1, 2], [1, 2, 3, 4], []])
def test_a_wrong_number_of_seeds_is_an_error(walks, seeds):
    with pytest.raises(ConfigError, match=f"One seed per environment is needed: 3; got {len(seeds)}"):
        walks.reset(seed=seeds)


def test_options_reach_every_env(walks):
    plain, _ = walks.reset(seed=0)
    shifted, _ = walks.reset(seed=0, options={"shift": 10.0})
    np.testing.assert_array_equal(shifted[:, 0], plain[:, 0] + 10.0)


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_returned_arrays_are_not_overwritten_by_later_steps(observations):
    envs = make_vec("toy_envs:Walk", 3, observations=observations)

    def arrays(returned):
        for item in returned:
            if isinstance(item, dict):
                yield from arrays(item.values())
            else:
                yield item

    kept, copies = [], []
    for returned in trace(envs):
        kept.extend(arrays(returned))
        copies.extend(array.copy() for array in arrays(returned))
    for array in kept:
        assert array.flags.owndata
    for array, copied in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copied)
    envs.close()


def test_an_env_may_keep_its_actions():
    for actions in ("box", "multi", "dict"):
        envs = make_vec("toy_envs:Walk", 1, actions=actions)
        envs.reset(seed=0)
        batches = action_batches(envs.single_action_space, 1, steps=4)
        for batch in batches:
            envs.step(batch)
        for seen, batch in zip(envs.envs[0].unwrapped.actions, batches, strict=True):
            np.testing.assert_equal(seen, row(batch, 0))
        envs.close()


def test_a_discrete_action_arrives_as_a_python_int():
    for actions, read in (("discrete", lambda action: action), ("dict", lambda action: action["turn"])):
        envs = make_vec("toy_envs:Walk", 2, actions=actions)
        trace(envs, steps=1)
        assert type(read(envs.envs[0].unwrapped.actions[0])) is int
        envs.close()


@pytest.mark.parametrize(
    ("space", "batch"),
    [
        ("box", np.zeros(3, np.float32)),
        ("box", np.zeros((1, 3), np.float32)),
        ("box", 0.5),
        ("discrete", 1),
        ("discrete", np.zeros((3, 1), np.int64)),
        ("discrete", [0, 1]),
        ("dict", np.zeros((3, 3))),
        ("dict", {"turn": np.zeros(3, np.int64)}),
        ("dict", {"turn": np.zeros(3, np.int64), "push": np.zeros(2)}),
    ],
)
def test_actions_of_another_shape_are_an_error_and_not_broadcast(space, batch):
    envs = make_vec("toy_envs:Walk", 3, actions=space)
    envs.reset(seed=0)
    with pytest.raises(EnvContractError, match=r"actions must have shape|must have the keys"):
        envs.step(batch)
    envs.close()


def test_an_observation_of_another_shape_is_an_error_and_not_broadcast():
    def wrong():
        env = Walk()
        env._observe = lambda: np.zeros(1)
        return env

    with pytest.raises(EnvContractError, match=r"must have its space's shape \(2,\); got \(1,\)"):
        make_vec(wrong, 2).reset(seed=0)


@pytest.mark.parametrize("backend", ["batched", "reference"])
def test_facts_of_the_single_env_are_those_of_the_vector_env(backend):
    envs = make_vec("SafetySwimmerVelocity-v1", 2, max_episode_steps=7, backend=backend)
    assert (envs.env_id, envs.horizon, envs.is_fixed_horizon) == ("SafetySwimmerVelocity-v1", 7, True)
    assert envs.constraints.names == ("cost",)
    assert envs.num_envs == 2
    assert len(envs.envs) == (2 if backend == "reference" else 0)
    envs.close()


def test_a_cost_function_and_budgets_reach_every_env():
    envs = make_vec("CartPole-v1", 2, cost="toy_envs:step_number", budgets={"cost": 2.0}, max_episode_steps=3)
    obs, _ = envs.reset(seed=0)
    next_obs, *_, infos = envs.step(np.array([0, 1]))
    np.testing.assert_allclose(infos["costs"][:, 0], 10.0 * obs[:, 1] + next_obs[:, 1], rtol=1e-6)
    assert envs.horizon == 3
    envs.close()


@pytest.mark.parametrize("num_envs", [0, -1])
@pytest.mark.parametrize("backend", ["sync", "process"])
def test_fewer_than_one_env_is_an_error(num_envs, backend):
    with pytest.raises(ConfigError, match=f"num_envs must be at least 1; got {num_envs}"):
        make_vec("toy_envs:Walk", num_envs, backend=backend)


def test_a_vector_env_of_no_factories_is_an_error():
    with pytest.raises(ConfigError, match="num_envs must be at least 1; got 0"):
        CostVectorEnv([])


@pytest.mark.parametrize("num_workers", [0, -1])
def test_fewer_than_one_worker_is_an_error(num_workers):
    with pytest.raises(ConfigError, match=f"num_workers must be at least 1; got {num_workers}"):
        make_vec("toy_envs:Walk", 2, backend="process", num_workers=num_workers)


def test_an_unknown_backend_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"Unknown backend 'proces'\. Did you mean 'process'"):
        make_vec("toy_envs:Walk", 2, backend="proces")


def test_an_unknown_env_is_the_same_error_as_of_make():
    with pytest.raises(UnknownNameError, match="Unknown environment 'Walk'"):
        make_vec("Walk", 2)


def test_a_space_that_does_not_fit_into_arrays_is_an_error_with_a_way_out():
    def text():
        env = Walk()
        env.observation_space = gymnasium.spaces.Text(5)
        return env

    with pytest.raises(EnvContractError, match=r"The observation space must be Box, .*Flatten it"):
        make_vec(text, 1)


@pytest.mark.parametrize("difference", ["observations", "actions", "constraints"])
def test_envs_of_one_batch_must_be_alike(difference):
    def other():
        if difference == "constraints":
            return saferl.make(Walk, budgets={"left": 1.0})
        return saferl.make(Walk, **{difference: "dict"})

    words = {"observations": "observation spaces", "actions": "action spaces", "constraints": "constraints"}
    with pytest.raises(EnvContractError, match=f"must have equal {words[difference]}; got"):
        CostVectorEnv([lambda: saferl.make(Walk), other])


def test_a_bad_cost_of_one_env_is_an_error():
    envs = make_vec("toy_envs:Faulty", 2, fault="nan", seed=6)
    envs.reset(seed=5)
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(CostError, match="toy_envs:Faulty: the cost 'left' must be finite"):
        envs.step(np.zeros(2, np.int64))


def test_a_closed_vector_env_is_an_error(walks):
    walks.reset(seed=0)
    walks.close()
    walks.close()
    assert walks.envs == []
    with pytest.raises(ConfigError, match="is closed; make a new one"):
        walks.step(np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="is closed; make a new one"):
        walks.reset(seed=0)


def test_closing_closes_every_env():
    closed = []

    class Closes(Walk):
        def close(self):
            closed.append(self)

    envs = make_vec(Closes, 3)
    envs.close()
    assert len(set(closed)) == 3


@pytest.mark.parametrize(
    ("observations", "actions", "num_workers"), [("dict", "dict", 2), ("discrete", "discrete", 1), ("box", "box", 8)]
)
def test_worker_processes_return_the_same_bits_as_this_process(observations, actions, num_workers):
    kwargs = {"observations": observations, "actions": actions}
    here = make_vec("toy_envs:Walk", 3, **kwargs)
    there = make_vec("toy_envs:Walk", 3, backend="process", num_workers=num_workers, **kwargs)
    assert there.constraints == here.constraints
    assert there.envs == []
    for ours, theirs in zip(trace(here), trace(there), strict=True):
        for expected, actual in zip(ours[:-1], theirs[:-1], strict=True):
            assert_same(actual, expected)
        if "_final_obs" in ours[-1]:
            ended = ours[-1]["_final_obs"]
            for infos in (ours[-1], theirs[-1]):
                infos["final_obs"] = row(infos["final_obs"], ended)
        assert_same(theirs[-1], ours[-1])
    there.close()
    with pytest.raises(ConfigError, match="closed"):
        there.reset()


def test_simulated_physics_is_the_same_in_a_worker_process():
    here = make_vec("SafetySwimmerVelocity-v1", 2, max_episode_steps=3)
    there = make_vec("SafetySwimmerVelocity-v1", 2, backend="process", num_workers=2, max_episode_steps=3)
    for ours, theirs in zip(trace(here), trace(there), strict=True):
        for expected, actual in zip(ours[:-1], theirs[:-1], strict=True):
            assert_same(actual, expected)
        if "costs" in ours[-1]:
            assert_same(theirs[-1]["costs"], ours[-1]["costs"])
            assert_same(theirs[-1]["margins"], ours[-1]["margins"])
    there.close()


def test_functions_that_no_module_holds_work_in_worker_processes():
    scale = 3.0
    envs = make_vec(
        lambda: Scripted({}, {}),
        2,
        backend="process",
        num_workers=1,
        cost=lambda obs, action, next_obs: scale * action,
        budgets={"cost": 1.0},
    )
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.step(np.array([0, 1]))[-1]["costs"], [[0.0], [3.0]])
    envs.close()


def faulty(fault):
    """Two envs, one per worker process; the second fails at its second step."""
    envs = make_vec("toy_envs:Faulty", 2, backend="process", num_workers=2, fault=fault, seed=6)
    envs.reset(seed=5)
    envs.step(np.zeros(2, np.int64))
    return envs


def assert_ended(envs):
    """No stale arrays after a failure, no process left, and closing works."""
    with pytest.raises(EnvContractError, match="ended after an earlier error; make new environments"):
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(EnvContractError, match="ended after an earlier error; make new environments"):
        envs.reset(seed=0)
    envs.close()


def test_a_bad_cost_in_a_worker_process_is_the_same_error_as_in_this_process():
    envs = faulty("nan")
    with pytest.raises(CostError, match="toy_envs:Faulty: the cost 'left' must be finite"):
        envs.step(np.zeros(2, np.int64))
    assert_ended(envs)


def test_any_other_error_in_a_worker_process_arrives_with_its_traceback():
    envs = faulty("raise")
    with pytest.raises(EnvContractError, match=r"(?s)in its worker process.*ZeroDivisionError: the motor stalled"):
        envs.step(np.zeros(2, np.int64))
    assert_ended(envs)


def test_a_worker_process_that_dies_in_a_step_is_one_clear_error():
    envs = faulty("die")
    with pytest.raises(EnvContractError, match=r"process died\. Run with backend='sync' to see why"):
        envs.step(np.zeros(2, np.int64))
    assert_ended(envs)


def test_a_worker_process_killed_between_steps_is_one_clear_error():
    envs = faulty("none")
    process = envs._driver._processes[0]
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=10)
    with pytest.raises(EnvContractError, match=r"process died\. Run with backend='sync' to see why"):
        envs.step(np.zeros(2, np.int64))
    assert_ended(envs)


def test_an_env_that_cannot_be_built_in_a_worker_process_is_an_error_with_its_traceback():
    with pytest.raises(EnvContractError, match=r"(?s)in its worker process.*FileNotFoundError: no model file here"):
        make_vec("toy_envs:only_in_the_parent", 2, backend="process", num_workers=1)


def test_closing_ends_the_worker_processes():
    envs = make_vec("toy_envs:Walk", 2, backend="process", num_workers=2)
    processes = list(envs._driver._processes)
    assert all(process.is_alive() for process in processes)
    envs.close()
    assert not any(process.is_alive() for process in processes)


def test_a_factory_that_cannot_be_sent_to_a_worker_process_is_an_error_with_a_way_out():
    lock = threading.Lock()

    def locked():
        with lock:
            return Walk()

    with pytest.raises(UsageError, match=r"cannot be sent to a worker process.*backend='sync'"):
        make_vec(locked, 2, backend="process", num_workers=1)


@pytest.mark.parametrize(("observations", "actions"), SPACES)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_arrays_of_one_step_share_one_buffer_without_overlap(observations, actions, num_envs):
    layout = (OBSERVATIONS[observations], ACTIONS[actions], num_envs, 2)
    memory = bytearray(StepArrays.nbytes(*layout))
    arrays = StepArrays.allocate(*layout, memory=memory)
    trees = [arrays.obs, arrays.final_obs, arrays.actions]
    leaves = [leaf for tree in trees for leaf in tree.values()]
    leaves += [arrays.rewards, arrays.costs, arrays.margins, arrays.cost, arrays.terminated, arrays.truncated]
    for number, leaf in enumerate(leaves):
        leaf.view(np.uint8)[...] = number % 2 if leaf.dtype == np.bool_ else number
    for number, leaf in enumerate(leaves):
        assert (leaf.view(np.uint8) == (number % 2 if leaf.dtype == np.bool_ else number)).all()
    again = StepArrays.allocate(*layout, memory=memory)
    np.testing.assert_array_equal(again.costs, arrays.costs)


def test_rows_are_views_of_the_whole():
    arrays = StepArrays.allocate(OBSERVATIONS["dict"], ACTIONS["discrete"], 4, 2)
    arrays.rows(1, 3).costs[:] = 7.0
    arrays.rows(2, 4).margins[:] = 8.0
    arrays.rows(1, 3).obs["time"][:] = 5
    np.testing.assert_array_equal(arrays.costs[:, 0], [0.0, 7.0, 7.0, 0.0])
    np.testing.assert_array_equal(arrays.margins[:, 0], [0.0, 0.0, 8.0, 8.0])
    np.testing.assert_array_equal(arrays.obs["time"], [0, 5, 5, 0])


def test_an_env_without_constraints_has_no_cost_columns():
    arrays = StepArrays.allocate(OBSERVATIONS["box"], ACTIONS["box"], 2, 0)
    assert arrays.costs.shape == (2, 0)


def test_the_part_of_a_dict_space_that_does_not_fit_is_named():
    nested = gymnasium.spaces.Dict({"outer": gymnasium.spaces.Dict({"inner": gymnasium.spaces.Discrete(2)})})
    with pytest.raises(EnvContractError, match="under 'outer'"):
        leaf_spaces(nested, "action")


def test_the_reference_takes_processes_for_a_slow_environment_only():
    slow = saferl.make_vec("SafetyPointCircle1-v0", 2, num_workers=1, backend="reference")
    fast = saferl.make_vec("SafetyHalfCheetahVelocity-v1", 2, backend="reference")
    single = saferl.make_vec("SafetyPointCircle1-v0", 1, backend="reference")
    assert [len(envs.envs) for envs in (slow, fast, single)] == [0, 2, 1]
    for envs in (slow, fast, single):
        envs.close()
