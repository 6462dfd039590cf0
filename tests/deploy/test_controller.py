"""A controller acts whatever it is given, and is one folder that stands for its policy and its shield."""

import json

import numpy as np
import pytest
from shielded_point import Constant, Point, WallShield, make_point

import saferl
from saferl.deploy import ShieldedController, load_controller
from saferl.errors import ArtefactError, ConfigError
from saferl.policy.artefact import save_artefact
from saferl.shields import SHIELDS, ActionSpec, ShieldContext
from saferl.shields.bounds import Bounds, RateLimit
from saferl.solvers import PPOLag

SPACE = Point.action_space


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    model = PPOLag("MlpPolicy", saferl.make(make_point), seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    folder = save_artefact(tmp_path_factory.mktemp("policy") / "artefact", model, model.constraints, {"env": None})
    return saferl.load(folder)


@pytest.fixture(autouse=True)
def wall():
    with SHIELDS.temporarily("wall", WallShield):
        yield


def test_it_executes_what_the_shield_decides_in_the_form_of_the_action_space():
    controller = ShieldedController(Constant(1.0), Bounds(SPACE, -0.5, 0.5))
    action = controller.act(np.zeros(1))
    assert (action.tolist(), action.dtype, action.shape) == ([0.5], np.float32, (1,))
    (decision,) = controller.last_decisions
    assert (decision.kind, decision.proposed.tolist()) == ("projected", [1.0])


def test_reset_forgets_the_episode():
    controller = ShieldedController(Constant(1.0), RateLimit(SPACE, 0.25, initial=[0.0]))
    first = [controller.act(np.zeros(1)).item() for _ in range(3)]
    controller.reset(np.zeros(1))
    assert first == [0.25, 0.5, 0.75] == [controller.act(np.zeros(1)).item() for _ in range(3)]


def test_the_shield_is_told_the_step_and_what_the_caller_knows():
    controller = ShieldedController(Constant(), WallShield(SPACE))
    controller.act(np.zeros(1))
    controller.act(np.zeros(1))
    controller.act(np.zeros(1), ShieldContext(step=7, privileged={"x": 1.0}))
    assert [c.step for c in controller.shield.seen] == [0, 1, 7]
    assert controller.shield.seen[-1].privileged == {"x": 1.0}


class Broken:
    action_space = SPACE

    def predict(self, *args, **kwargs):
        raise RuntimeError("the network is gone")


@pytest.mark.parametrize("policy", [Broken(), Constant(np.nan)], ids=["raises", "nan"])
def test_a_policy_that_fails_is_answered_by_the_shields_recorded_fallback(policy):
    controller = ShieldedController(policy, WallShield(SPACE))
    assert controller.act(np.zeros(1)).tolist() == [-1.0]
    assert controller.last_decisions[0].kind == "fallback"
    assert controller.act(np.array([np.nan])).tolist() == [-1.0]


class Raising(Bounds):
    def filter(self, *args, **kwargs):
        raise RuntimeError("broken promise")


def test_a_shield_that_breaks_its_promise_is_answered_by_the_controllers_fallback():
    controller = ShieldedController(Constant(), Raising(SPACE), fallback=[-0.25])
    assert controller.act(np.zeros(1)).tolist() == [-0.25]
    (decision,) = controller.last_decisions
    assert (decision.kind, decision.unit) == ("fallback", "controller")
    assert "broken promise" in decision.status


def test_bounds_have_the_last_word_and_the_record_says_that_the_certificate_is_void():
    controller = ShieldedController(Constant(1.0), Bounds(SPACE), bounds=ActionSpec.box([-0.2], [0.2]))
    decision = controller.decide(np.zeros(1))
    assert decision.action.tolist() == [0.2]
    assert (decision.kind, decision.unit, decision.distance) == ("projected", "controller", pytest.approx(0.8))
    assert "certificate is void" in decision.status


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="must filter the actions of the policy"):
        ShieldedController(Constant(), Bounds(ActionSpec.box([-2.0], [2.0])))
    with pytest.raises(ConfigError, match="bounds of a controller must lie inside"):
        ShieldedController(Constant(), Bounds(SPACE), bounds=ActionSpec.box([-2.0], [1.0]))
    with pytest.raises(ConfigError, match="fallback of a controller must lie inside its bounds"):
        ShieldedController(Constant(), Bounds(SPACE), fallback=[np.nan])


def test_every_lane_of_a_batch_has_its_own_memory_and_starts_anew_by_itself():
    controller = ShieldedController(Constant(1.0), RateLimit(SPACE, 0.25, initial=[0.0]))
    obs, state = np.zeros((2, 1)), None
    rows = []
    for starts in ([True, True], [False, False], [False, True]):
        actions, state = controller.predict(obs, state, np.array(starts))
        rows.append(actions[:, 0].tolist())
    assert rows == [[0.25, 0.25], [0.5, 0.5], [0.75, 0.25]]
    assert controller.predict(np.zeros((3, 1)))[0][:, 0].tolist() == [0.25] * 3


def test_a_controller_is_saved_to_one_folder_and_decides_the_same_when_loaded(policy, tmp_path):
    controller = ShieldedController(
        policy, WallShield(SPACE), bounds=ActionSpec.box([-0.9], [0.9]), fallback=[-0.5], deterministic=False
    )
    folder = controller.save(tmp_path / "controller")
    assert sorted(p.name for p in folder.iterdir()) == ["artefact.json", "shield", "weights.safetensors"]
    loaded = load_controller(folder)
    assert (loaded.deterministic, loaded.fallback.tolist(), loaded.bounds.high.tolist()) == (False, [-0.5], [0.9])
    for x in np.linspace(-1.0, 1.5, 20):
        obs = np.array([x], dtype=np.float32)
        left, right = (ShieldedController(c.policy, c.shield, bounds=c.bounds).act(obs) for c in (controller, loaded))
        assert left.tolist() == right.tolist()
    assert saferl.load(folder).constraints == policy.constraints
    again = loaded.save(tmp_path / "again")
    assert (again / "artefact.json").read_bytes() == (folder / "artefact.json").read_bytes()


@pytest.mark.parametrize("name", ["shield/shield.json", "shield/shield.safetensors", "artefact.json"])
def test_a_changed_file_of_the_shield_is_refused_like_one_of_the_policy(policy, tmp_path, name):
    folder = ShieldedController(policy, WallShield(SPACE)).save(tmp_path / "controller")
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"wall", b"well") + b" ")
    if name == "artefact.json":
        header = json.loads(path.read_text())
        header["controller"]["fallback"] = [0.5]
        path.write_text(json.dumps(header))
    with pytest.raises(ArtefactError, match="was changed after it was written"):
        load_controller(folder)


def test_a_header_cannot_name_files_outside_the_folder(policy, tmp_path):
    from saferl.storage import header_digest

    folder = ShieldedController(policy, WallShield(SPACE)).save(tmp_path / "controller")
    path = folder / "artefact.json"
    header = json.loads(path.read_text())
    header["sha256"]["../other"] = "0"
    header["header_sha256"] = header_digest(header)
    path.write_text(json.dumps(header))
    with pytest.raises(ArtefactError, match="must list files inside the artefact"):
        saferl.load(folder)


def test_what_is_no_controller_is_refused_with_the_way_out(policy, tmp_path):
    with pytest.raises(ArtefactError, match="must have a shield"):
        load_controller(policy.path)
    with pytest.raises(ConfigError, match="saved with the artefact of its policy"):
        ShieldedController(Constant(), WallShield(SPACE)).save(tmp_path / "controller")


def test_the_controller_itself_needs_neither_torch_nor_gymnasium():
    import subprocess
    import sys

    code = (
        "import sys, saferl.deploy.controller; "
        "sys.exit(bool({'torch', 'gymnasium', 'mujoco', 'stable_baselines3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
