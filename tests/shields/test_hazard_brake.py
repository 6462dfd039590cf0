"""Braking and driving around: exact on its own model, measured in the simulator, and honest about what it lacks."""

import numpy as np
import pytest

import saferl
from saferl.errors import ConfigError
from saferl.shields import ActionSpec, ShieldContext, load_shield, save_shield
from saferl.shields.hazard_brake import HazardBrake, HazardBrakeConfig, lidar
from saferl.shields.manoeuvres import SLACK, Manoeuvres
from saferl.shields.motion import motion_model
from saferl.shields.scene import Scene, privileged_scene
from saferl.testing import check_shield

from .driving import Plant, towards

SPACE = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
OBS = np.zeros(4)
SQUARE = ((1.0, 0.0, 1.1), (-1.0, 0.0, 1.1), (0.0, 1.0, 1.1), (0.0, -1.0, 1.1))


def brake(agent="Point", **options):
    margin = {"Point": 0.04, "Car": 0.08}[agent]
    return HazardBrake(SPACE, motion_model(agent), HazardBrakeConfig(**{"margin": margin, **options}))


def ahead(distance, velocity=0j, radius=0.2):
    """A hazard whose edge is ``distance`` ahead."""
    none = np.zeros(0)
    return Scene(velocity, 0.0, np.array([distance + radius + 0j]), np.array([radius]), none + 0j, none)


def context(plant, step=0):
    return ShieldContext(step=step, privileged=plant.privileged())


def drive(shield, plant, proposals):
    """Smallest gap and the kinds of decisions of one episode."""
    gap, kinds = plant.gap, []
    shield.reset()
    for step, propose in enumerate(proposals):
        decision = shield.filter(OBS, propose(plant), context(plant, step))
        kinds.append(decision.kind)
        plant.step(decision.action)
        gap = min(gap, plant.gap)
    return gap, kinds


# -- manoeuvres -----------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["Point", "Car"])
def test_the_first_manoeuvre_is_braking_as_the_model_says(agent):
    model = motion_model(agent)
    manoeuvres = Manoeuvres(model, stride=3, horizon=9, look=8)
    paths = manoeuvres.paths(ahead(9.0, velocity=0.8 + 0j), np.zeros((1, 2)))[:, 0, 0]
    coarse, state = model.repeat(3), model.step(0j, 0.8 + 0j, 0.0, 0.0, 0.0, 0.0)
    expected = [state[0]]
    for _ in range(9):
        push = float(np.clip(-coarse.a * state[1].real / coarse.b, -1.0, 1.0))
        state = coarse.step(*state, push, 0.0)
        expected.append(state[0])
    np.testing.assert_allclose(paths[:-1], expected, atol=1e-12)
    assert abs(state[1]) < 1e-9, "the horizon is long enough to stop"
    assert paths[-1] == pytest.approx(paths[-2], abs=1e-9)


def test_depths_say_whether_there_is_room_to_stop():
    model = motion_model("Point")
    manoeuvres, fast = Manoeuvres(model, stride=3, horizon=9, look=8), 1.2 + 0j
    way = float(manoeuvres.paths(ahead(9.0, fast), np.zeros((1, 2)))[-1, 0, 0].real)

    def depth(distance):
        wide = ahead(distance, fast, radius=50.0)  # as good as a wall: no way around
        return manoeuvres.depths(wide, np.zeros((1, 2)), margin=0.0, reserve=0.0, creep=0.0)[0, 0]

    assert depth(way + 0.02) <= SLACK
    assert depth(way - 0.1) > 0.05


def test_nothing_is_deep_in_an_empty_scene():
    none = np.zeros(0)
    scene = Scene(1.0 + 0j, 0.0, none + 0j, none, none + 0j, none)
    effects = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    depths = Manoeuvres(motion_model("Car"), stride=3, horizon=9, look=8).depths(
        scene, effects, margin=0.1, reserve=0.0, creep=0.0
    )
    assert depths.shape == (20, 2)
    assert not depths.any()


# -- the shield on its own model -----------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["Point", "Car"])
def test_no_driver_gets_an_agent_that_moves_as_modelled_into_a_hazard(agent):
    """Kamikazes, corners of the action box and noise, 6,000 steps in all; unshielded, each kind drives into one."""
    shield, generator = brake(agent), np.random.default_rng(0)
    hazards = np.array([0.8 + 0.1j, 0.2 - 0.9j, -0.8 + 0.4j, 0.1 + 0.9j])
    at_hazard = [lambda p, h=h: towards(p, h) for h in hazards]
    corner = [lambda p, a=a: np.array(a) for a in ((1.0, 0.0), (1.0, 1.0), (-1.0, 0.3), (-1.0, -1.0))]
    noise = [lambda p: generator.choice([-1.0, 1.0], 2)]
    for proposal in (*at_hazard, *corner, *noise):
        gap, kinds = drive(shield, Plant(shield.model, hazards, walls=SQUARE), [proposal] * 660)
        assert gap > 0.0
        assert "fallback" not in kinds
    unshielded = Plant(shield.model, hazards)
    for _ in range(200):
        unshielded.step(towards(unshielded, hazards[0]))
    assert unshielded.gap < -0.05


def test_it_leads_around_a_hazard_on_the_way_to_a_goal():
    shield = brake()
    plant = Plant(shield.model, np.array([1.0 + 0.02j]))
    nearest, gap = 3.0, plant.gap
    for step in range(400):
        decision = shield.filter(OBS, towards(plant, 2.0 + 0j), context(plant, step))
        plant.step(decision.action)
        nearest, gap = min(nearest, abs(plant.position - 2.0)), min(gap, plant.gap)
    assert nearest < 0.3
    assert gap > 0.0


def test_far_from_everything_it_changes_nothing():
    shield = brake()
    plant = Plant(shield.model, np.array([3.0 + 0j]))
    for wish in np.random.default_rng(1).uniform(-1, 1, (50, 2)):
        decision = shield.filter(OBS, wish, context(plant))
        assert (decision.kind, decision.action.tolist()) == ("pass", wish.tolist())


def test_the_executed_action_is_the_one_of_its_effect_that_is_nearest_to_the_proposal():
    shield = brake()
    plant = Plant(shield.model, np.array([5.3 + 0j]), size=5.0, velocity=0.8 + 0j)
    decision = shield.filter(OBS, [0.7, 0.3], context(plant))
    assert decision.kind == "projected"
    assert decision.action[0] == pytest.approx(-0.05), "full braking, no harder than what saturates"
    assert abs(decision.action[1]) in (pytest.approx(0.95), pytest.approx(0.0), pytest.approx(0.3))


def test_where_nothing_is_safe_it_says_so_and_limits_the_damage():
    shield = brake()
    plant = Plant(shield.model, np.array([0.23 + 0j]), velocity=0.9 + 0j)
    decision = shield.filter(OBS, [1.0, 0.0], context(plant))
    assert decision.kind == "infeasible"
    assert decision.slack > 0.0
    assert not shield.certifies(OBS, context(plant))
    blind = Plant(shield.model, plant.hazards, velocity=plant.velocity)
    gap, _ = drive(shield, plant, [lambda p: np.array([1.0, 0.0])] * 30)
    reached = [blind.step([1.0, 0.0]) or blind.gap for _ in range(30)]
    assert gap > min(reached) + 0.03


def test_inside_a_hazard_it_finds_the_way_out():
    shield = brake()
    plant = Plant(shield.model, np.array([0.1 + 0j]))
    assert plant.gap < 0.0
    drive(shield, plant, [lambda p: towards(p, p.hazards[0])] * 200)
    assert plant.gap > 0.0


def test_certificates_hold_on_the_model():
    shield, generator, certified = brake(), np.random.default_rng(2), 0
    for _ in range(60):
        hazards = generator.uniform(-1, 1, 3) + 1j * generator.uniform(-1, 1, 3)
        speed = generator.uniform(0.0, 1.2) * np.exp(1j * generator.uniform(0, 2 * np.pi))
        plant = Plant(shield.model, hazards, velocity=complex(speed), heading=float(generator.uniform(0, 6)))
        if shield.certifies(OBS, context(plant)):
            certified += 1
            gap, _ = drive(shield, plant, [lambda p: towards(p, p.hazards[0])] * 60)
            assert gap > 0.0
    assert certified > 20


# -- in the simulator -----------------------------------------------------------------------


def simulate(env_id, make_shield, proposal, *, seeds, steps=400):
    """Costs of episodes in the environment, with and without the shield."""
    env, sums = saferl.make(env_id), {}
    for name in ("shielded", "unshielded"):
        shield, sums[name] = make_shield(env), []
        for seed in seeds:
            obs, _ = env.reset(seed=seed)
            shield.reset()
            total = 0.0
            for step in range(steps):
                state = env.get_wrapper_attr("privileged_state")()
                action = np.asarray(proposal(state, shield.model), dtype=np.float64)
                if name == "shielded":
                    action = shield.filter(obs, action, ShieldContext(step=step, privileged=state)).action
                obs, _, terminated, truncated, info = env.step(action.astype(np.float32))
                total += info["cost"]
                if terminated or truncated:
                    break
            sums[name].append(total)
    env.close()
    return np.mean(sums["shielded"]), np.mean(sums["unshielded"])


def at_the_nearest_hazard(state, model):
    hazards = state["hazards"] @ np.array([1.0, 1.0j])
    here = complex(*state["position"])
    plant = Plant(model, hazards, position=here, heading=state["heading"] + model.forward)
    return towards(plant, hazards[np.argmin(np.abs(hazards - here))])


def outwards(state, model):
    here = complex(*state["position"])
    plant = Plant(model, np.zeros(0, dtype=complex), position=here, heading=state["heading"] + model.forward)
    return towards(plant, 10.0 * np.sign(here.real or 1.0))


@pytest.mark.parametrize(
    ("env_id", "make_shield", "proposal", "left"),
    [
        ("SafetyPointGoal1-v0", HazardBrake.for_env, at_the_nearest_hazard, 0.05),
        ("SafetyCarGoal1-v0", HazardBrake.for_env, at_the_nearest_hazard, 0.1),
        ("SafetyPointGoal1-v0", lidar, at_the_nearest_hazard, 0.1),
        ("SafetyPointCircle1-v0", HazardBrake.for_env, outwards, 0.05),
        ("SafetyCarCircle1-v0", HazardBrake.for_env, outwards, 0.05),
    ],
)
def test_in_the_simulator_it_keeps_a_kamikaze_out(env_id, make_shield, proposal, left):
    shielded, unshielded = simulate(env_id, make_shield, proposal, seeds=range(3))
    assert unshielded > 50.0
    assert shielded <= left * unshielded


# -- the protocol -----------------------------------------------------------------------


def privileged(generator):
    plant = Plant(
        motion_model("Point"),
        generator.uniform(-1, 1, 3) + 1j * generator.uniform(-1, 1, 3),
        velocity=complex(*generator.uniform(-0.7, 0.7, 2)),
        heading=float(generator.uniform(-3, 3)),
    )
    return ShieldContext(privileged=plant.privileged())


def test_it_keeps_the_protocol():
    report = check_shield(brake(), sample_obs=lambda generator: OBS, context=privileged, steps=300)
    assert report.problems == ()


def test_memory_goes_back_in_time():
    shield = brake()
    plant = Plant(shield.model, np.array([0.5 + 0.01j]), velocity=0.8 + 0j)
    shield.filter(OBS, [1.0, 0.0], context(plant))
    memory = shield.get_memory()
    first = shield.filter(OBS, [1.0, 0.2], context(plant)).action.tolist()
    assert shield.get_memory() != memory
    shield.set_memory(memory)
    assert shield.filter(OBS, [1.0, 0.2], context(plant)).action.tolist() == first


def test_without_the_positions_of_hazards_it_brakes_and_says_why():
    decision = brake().filter(OBS, [1.0, 0.0])
    assert decision.kind == "fallback"
    assert "needs privileged state" in decision.status


def test_it_travels_as_data(tmp_path):
    env = saferl.make("SafetyCarGoal1-v0")
    for name, shield in {"seeing": HazardBrake.for_env(env, sight=0.7), "lidar": lidar(env)}.items():
        again = load_shield(save_shield(shield, tmp_path / name))
        assert (again.config, again.layout, again.model) == (shield.config, shield.layout, shield.model)
        obs, _ = env.reset(seed=3)
        known = ShieldContext(privileged=env.get_wrapper_attr("privileged_state")())
        for wish in np.random.default_rng(0).uniform(-1, 1, (10, 2)):
            assert again.filter(obs, wish, known).action.tolist() == shield.filter(obs, wish, known).action.tolist()
    env.close()


def test_what_it_needs_depends_on_where_it_looks():
    env = saferl.make("SafetyPointGoal1-v0")
    seeing, with_lidar = HazardBrake.for_env(env).spec(), lidar(env).spec()
    env.close()
    assert (seeing.needs, with_lidar.needs) == (("privileged state",), ("state vector",))
    assert seeing.guarantee == with_lidar.guarantee == "empirical"
    assert any("hidden behind a nearer one" in line for line in with_lidar.assumptions)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("SafetyHalfCheetahVelocity-v1", {}, "is another task"),
        ("SafetyPointGoal0-v0", {}, "is another task"),
        ("SafetyPointCircle1-v0", {"source": "lidar"}, "no lidar of SafetyPointCircle1-v0 shows its walls"),
        ("SafetyPointGoal1-v0", {"margin": -0.1}, "margin, reserve and creep >= 0"),
        ("SafetyPointGoal1-v0", {"sight": 0.0}, "sight > 0"),
        ("SafetyPointGoal1-v0", {"patience": 0}, "patience >= 1"),
        ("SafetyPointGoal1-v0", {"source": "radar"}, "source must be one of privileged, lidar"),
    ],
)
def test_it_refuses_what_it_cannot_do(env_id, options, message):
    env = saferl.make(env_id)
    with pytest.raises(ConfigError, match=message):
        HazardBrake.for_env(env, **options)
    env.close()


def test_it_refuses_other_actions_and_a_lidar_without_a_layout():
    with pytest.raises(ConfigError, match="filters two actions"):
        HazardBrake(ActionSpec.box([-1.0], [1.0]), motion_model("Point"))
    with pytest.raises(ConfigError, match="needs a LidarLayout"):
        HazardBrake(SPACE, motion_model("Point"), HazardBrakeConfig(source="lidar"))


def test_a_scene_of_the_plant_is_the_one_it_is_in():
    plant = Plant(motion_model("Car"), np.array([1.0 + 1.0j]), position=1.0 + 0j, heading=np.pi / 2)
    scene = privileged_scene(plant.privileged(), plant.model.forward)
    np.testing.assert_allclose(scene.centres, [1.0 + 0j], atol=1e-12)
