"""The environment: contract, observation, state, twin, series and baselines."""

import time

import gymnasium
import numpy as np
import pytest

import saferl
from saferl.envs.microgrid import MicrogridParams, Series
from saferl.envs.microgrid.baselines import BASELINES, baseline
from saferl.envs.microgrid.battery import stored_energy
from saferl.envs.microgrid.env import Microgrid
from saferl.envs.microgrid.foresight import adjusted_fuel, perfect_foresight
from saferl.envs.microgrid.observation import decode
from saferl.envs.state import get_state, set_state
from saferl.errors import ConfigError, EnvContractError, UnknownNameError
from saferl.testing import check_env

LAZY, BUSY = np.array([-1.0, 1.0]), np.array([1.0, -1.0])


def flat(demand, wind=0.0):
    return Series(np.full(1471, float(demand)), np.full(1471, float(wind)))


def run(env, policy, seed=0, steps=1440):
    obs, _ = env.reset(seed=seed)
    state, sums = None, {}
    for _ in range(steps):
        action, state = policy.predict(obs, state) if hasattr(policy, "predict") else (policy, None)
        obs, reward, _, _, info = env.step(action)
        for key, value in {**info["costs"], "fuel": info["fuel"], "unmet": info["unmet"], "return": reward}.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums | {"soc": info["soc"]}


def test_it_keeps_the_contract():
    assert check_env("Microgrid-v0").ok


@pytest.mark.parametrize("options", [{"series": "adversarial"}, {"mismatch": "high"}, {"ramp": 60.0}])
def test_observations_stay_in_their_space_under_every_option(options):
    env = Microgrid(**options, max_episode_steps=300)
    env.action_space.seed(0)
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        for _ in range(300):
            assert env.observation_space.contains(obs)
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            assert not terminated
        assert truncated


def test_an_observation_says_what_the_sensors_say():
    env = Microgrid()
    env.action_space.seed(1)
    obs, _ = env.reset(seed=1)
    for _ in range(200):
        sensors, plant = decode(env.layout, obs), env.plant
        twin = env.twin()
        for seen, true in zip(sensors.gensets, plant.gensets, strict=True):
            assert seen.to_list() == pytest.approx(true.to_list(), abs=1e-9)
        assert (sensors.soc, sensors.demand, sensors.wind) == pytest.approx((plant.soc, twin.demand, twin.wind))
        obs = env.step(env.action_space.sample())[0]


def test_the_forecast_is_what_comes():
    env = Microgrid()
    obs, _ = env.reset(seed=2)
    first = env.layout.forecast
    promised = obs[first : first + 30]
    shown = []
    for _ in range(30):
        obs = env.step(LAZY)[0]
        shown.append(obs[env.layout.base + 5])
    assert np.allclose(promised, shown)


def test_it_goes_on_exactly_from_its_state():
    env, other = saferl.make("Microgrid-v0", mismatch="low"), saferl.make("Microgrid-v0", mismatch="low")
    env.action_space.seed(3)
    env.reset(seed=3)
    for _ in range(50):
        env.step(env.action_space.sample())
    state = get_state(env)
    other.reset(seed=99)
    set_state(other, state)
    for _ in range(60):
        action = env.action_space.sample()
        first, second = env.step(action), other.step(action)
        assert np.array_equal(first[0], second[0])
        assert first[1] == second[1]
        assert first[4]["costs"] == second[4]["costs"]
    assert np.array_equal(env.reset()[0], other.reset()[0])


def test_a_twin_steps_as_the_device_and_leaves_it_alone():
    env = Microgrid()
    env.action_space.seed(4)
    env.reset(seed=4)
    for _ in range(100):
        action, twin = env.action_space.sample(), env.twin()
        margins = twin.step(action)
        info = env.step(action)[-1]
        assert margins == info["margins"]
        assert twin.plant.get_state() == env.plant.get_state()
    copy = twin.clone()
    state = twin.get_state()
    copy.step(BUSY, exogenous=(570.0, 0.0))
    assert twin.get_state() == state
    copy.set_state(state)
    assert copy.get_state() == state


def test_a_twin_has_the_nominal_parameters_of_a_device_that_differs():
    env = Microgrid(mismatch="high")
    env.reset(seed=5)
    assert env.plant.params != env.params
    assert env.twin().plant.params == env.params


def test_lazy_operation_without_a_shield_is_dark_most_of_a_windless_day():
    env = Microgrid(start="evaluation", soc=0.5)
    env.reset(seed=0, options={"series": flat(300.0)})
    dark = sum(env.step(LAZY)[-1]["costs"]["deficit"] for _ in range(1440))
    assert dark > 1000


def test_one_genset_meets_a_constant_demand_at_its_fuel_rate():
    env = Microgrid(start="evaluation", soc=0.5)
    env.reset(seed=0, options={"series": flat(250.0)})
    infos = [env.step(np.array([0.0, 0.0]))[-1] for _ in range(60)]
    assert sum(info["fuel"] for info in infos) == pytest.approx(0.25 * 250 + 10)
    assert all(info["balance"] == pytest.approx(0.0, abs=1e-9) for info in infos)


def test_deficit_and_excess_cost_and_are_penalised_as_specified():
    env = Microgrid(start="evaluation", soc=0.05)
    env.reset(seed=0, options={"series": flat(570.0)})
    _, reward, _, _, info = env.step(np.array([0.0, 1.0]))
    assert info["costs"]["deficit"] == info["costs"]["overload"] == 1.0
    assert info["balance"] == pytest.approx(-130.0)
    assert info["margins"]["deficit"] == pytest.approx(129.95)
    assert reward == pytest.approx(-120.0 / 240.0 - 100.0 * (0.1 + 130.0 / 1480.0))


def test_a_dump_load_takes_the_excess_and_says_so():
    costs = {}
    for dump in (0.0, 100.0):
        env = Microgrid(start="evaluation", soc=0.95, dump_load=dump)
        env.reset(seed=0, options={"series": flat(150.0)})
        costs[dump] = [env.step(BUSY)[-1]["costs"] for _ in range(30)]
    assert sum(c["excess"] for c in costs[0.0]) == 30
    assert sum(c["excess"] for c in costs[100.0]) == 0
    assert sum(c["dumped"] for c in costs[100.0]) == 30


def test_a_series_out_of_bounds_is_run_and_flagged():
    env = Microgrid(start="evaluation")
    jump = flat(200.0)
    jump.demand[700:] = 550.0
    _, info = env.reset(seed=0, options={"series": jump})
    assert info["bounds_violated"]
    assert env.step(BUSY)[-1]["bounds_violated"]
    assert not env.reset(seed=0)[1]["bounds_violated"]


def test_starts_are_safe_and_differ():
    env = Microgrid()
    charges = []
    for seed in range(30):
        env.reset(seed=seed)
        charges.append(env.plant.soc)
        assert all(env.step(BUSY)[-1]["costs"]["deficit"] == 0.0 for _ in range(9))
    assert len(set(charges)) == 30


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"series": "real"}, UnknownNameError),
        ({"start": "noon"}, UnknownNameError),
        ({"mismatch": "some"}, UnknownNameError),
        ({"soc": 1.5}, ConfigError),
        ({"max_episode_steps": 2000}, ConfigError),
        ({"render_mode": "human"}, ConfigError),
        ({"ramp": 0.0}, ConfigError),
    ],
)
def test_malformed_options_are_refused(options, error):
    with pytest.raises(error):
        Microgrid(**options)


def test_misuse_is_named():
    env = Microgrid()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(LAZY)
    with pytest.raises(ConfigError, match="got night"):
        env.reset(options={"night": True})
    with pytest.raises(ConfigError, match="at least 1471 minutes"):
        env.reset(options={"series": Series(np.ones(10), np.ones(10))})
    env.reset(seed=0)
    with pytest.raises(EnvContractError, match="two finite numbers"):
        env.step(np.array([np.nan, 0.0]))


def test_a_step_takes_well_under_100_us():
    env = Microgrid()
    env.reset(seed=0)
    best = np.inf
    for _ in range(10):
        start = time.process_time()
        for _ in range(100):
            env.step(LAZY)
        best = min(best, (time.process_time() - start) / 100)
    assert best < 100e-6


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_acts_alike_alone_and_in_a_batch(name):
    env, policy = Microgrid(start="evaluation"), baseline(name)
    obs, _ = env.reset(seed=0)
    batch = np.stack([obs, obs])
    state = alone = None
    for _ in range(3):
        both, state = policy.predict(batch, state)
        one, alone = baseline(name).predict(obs, alone)
        assert both.shape == (2, 2)
        assert one.shape == (2,)
        assert name == "random" or np.array_equal(both, np.stack([one, one]))


def test_memory_of_an_operator_ends_with_the_episode():
    policy = baseline("realistic")
    obs, _ = Microgrid(start="evaluation", soc=0.95).reset(seed=0)
    first, state = policy.predict(obs[None])
    assert state[0][0, 2] == 1.0  # full: discharging
    low, _ = Microgrid(start="evaluation", soc=0.5).reset(seed=0)
    going_on, _ = policy.predict(low[None], state, np.array([False]))
    anew, _ = policy.predict(low[None], state, np.array([True]))
    assert going_on[0, 1] == first[0, 1] == 1.0
    assert anew[0, 1] <= 0.0


def test_an_unknown_baseline_is_named():
    with pytest.raises(UnknownNameError, match="baseline"):
        baseline("clever")


def test_the_operator_keeps_the_lights_on_and_never_stops_the_last_genset():
    env = Microgrid(start="evaluation", soc=0.5)
    sums = run(env, baseline("realistic"))
    assert sums["deficit"] == sums["breaches"] == 0
    assert any(genset.is_on for genset in env.plant.gensets)


@pytest.mark.parametrize("name", ["realistic", "idle", "charge"])
def test_nobody_who_meets_the_demand_beats_perfect_foresight(name):
    for seed in range(3):
        env = Microgrid(start="evaluation", soc=0.2)
        env.reset(seed=seed)
        day = Series(env.day.demand[1:1441], env.day.wind[1:1441])
        sums = run(env, baseline(name), seed=seed)
        assert sums["deficit"] == 0
        assert adjusted_fuel(sums["fuel"], 0.2, sums["soc"]) >= perfect_foresight(day, 0.2).adjusted_fuel


def test_perfect_foresight_has_the_value_of_a_day_by_hand():
    """Two hours at 300 kW: the charge from 10 % down to the reserve's 5 % is worth more than its price."""
    day = Series(np.full(120, 300.0), np.zeros(120))
    best = perfect_foresight(day, 0.1)
    battery = MicrogridParams().battery
    served = battery.efficiency * (stored_energy(0.1, battery) - stored_energy(0.05, battery))
    assert best.adjusted_fuel == pytest.approx((600 - served) * (0.25 + 10 / 440) + 150 * 0.05)
    assert best.last_charge == pytest.approx(0.05)
    windy = perfect_foresight(Series(np.full(120, 300.0), np.full(120, 400.0)), 0.1)
    assert windy.fuel == pytest.approx(0.0, abs=1e-6)
    assert windy.adjusted_fuel < 0.0  # 100 kW of surplus are worth something


def test_a_day_that_nobody_can_serve_is_refused():
    with pytest.raises(ConfigError, match="no plan"):
        perfect_foresight(Series(np.full(60, 1470.0), np.zeros(60)), 0.1, MicrogridParams(num_gensets=1))


def test_the_vector_environment_steps_as_single_ones():
    envs = saferl.make_vec("Microgrid-v0", num_envs=2, backend="reference", max_episode_steps=40)
    envs.reset(seed=[5, 6])
    singles = [saferl.make("Microgrid-v0", max_episode_steps=40) for _ in range(2)]
    for env, seed in zip(singles, (5, 6), strict=True):
        env.reset(seed=seed)
    actions = np.array([[0.5, 0.2], [-0.5, -0.7]], dtype=np.float32)
    for _ in range(20):
        obs, rewards, *_ = envs.step(actions)
        for i, env in enumerate(singles):
            single = env.step(actions[i])
            assert np.array_equal(obs[i], single[0])
            assert rewards[i] == pytest.approx(single[1])
    envs.close()
