"""Shields as data: they come back as they were, and what was changed is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferl.errors import ArtefactError, ConfigError, RunFolderError
from saferl.shields import (
    SHIELDS,
    ActionMask,
    ActionSpec,
    Bounds,
    CompositeShield,
    RateLimit,
    SimplexSwitch,
    load_shield,
    save_shield,
)
from saferl.shields.catalogue import CATALOGUE
from saferl.storage import write_header

BOX = ActionSpec.box([-1.0, -np.inf], [1.0, np.inf])


@pytest.fixture
def saved(tmp_path):
    return save_shield(Bounds(BOX, -0.5, 0.5, time_budget_us=900.0), tmp_path / "shield")


def edit(folder, change):
    path = folder / "shield.json"
    header = json.loads(path.read_text())
    change(header)
    write_header(path, header)


def test_a_shield_comes_back_as_it_was(saved):
    shield = load_shield(str(saved))
    assert isinstance(shield, Bounds)
    assert (shield.time_budget_us, shield.low.tolist(), shield.high.tolist()) == (900.0, [-0.5, -0.5], [0.5, 0.5])
    assert shield.actions.to_dict() == BOX.to_dict()
    assert sorted(path.name for path in saved.iterdir()) == ["shield.json", "shield.safetensors"]


@given(
    st.lists(st.tuples(st.floats(-1.0, 0.0), st.floats(0.0, 1.0), st.floats(0.0, 2.0)), min_size=1, max_size=4),
    st.none() | st.floats(1.0, 1e9),
)
@settings(max_examples=20, deadline=None)
def test_numbers_come_back_to_the_last_bit(tmp_path_factory, rows, budget):
    low, high, rise = (np.array(column) for column in zip(*rows, strict=True))
    space = ActionSpec.box(-np.ones(len(rows)), np.ones(len(rows)))
    whole = CompositeShield(
        {"a": Bounds(space, low, high, time_budget_us=budget), "b": RateLimit(space, rise)}, time_budget_us=budget
    )
    again = load_shield(save_shield(whole, tmp_path_factory.mktemp("folder") / "shield"))
    assert list(again.children) == ["a", "b"]
    assert again.children["a"].low.tolist() == low.tolist()
    assert again.children["a"].high.tolist() == high.tolist()
    assert again.children["b"].rise.tolist() == rise.tolist()
    assert again.time_budget_us == again.children["a"].time_budget_us == budget


def test_a_folder_that_exists_is_not_overwritten(saved):
    with pytest.raises(RunFolderError):
        save_shield(Bounds(BOX), saved)


def test_a_function_that_no_path_leads_to_cannot_be_saved(tmp_path):
    shield = SimplexSwitch(BOX, lambda x: x, lambda x: 1.0, model=lambda x, u: x)
    with pytest.raises(ConfigError, match="baseline of a shield must be a function of a module"):
        save_shield(shield, tmp_path / "shield")
    assert not (tmp_path / "shield").exists()


def test_changed_arrays_are_refused(saved):
    path = saved / "shield.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="missing or was changed"):
        load_shield(saved)


def test_a_changed_number_in_the_header_is_refused(saved):
    path = saved / "shield.json"
    text = path.read_text()
    changed = text.replace('"time_budget_us": 900.0', '"time_budget_us": 9000.0')
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ArtefactError, match="content does not match its header_sha256"):
        load_shield(saved)


@pytest.mark.parametrize("name", ["shield.json", "shield.safetensors"])
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtefactError, match=name.replace(".", "[.]")):
        load_shield(saved)


@pytest.mark.parametrize("schema", ["saferl.shield/2", None, "saferl.policy/1"])
def test_another_schema_is_refused(saved, schema):
    edit(saved, lambda header: header.update(schema=schema))
    with pytest.raises(ArtefactError, match=r"must have the schema 'saferl\.shield/1'"):
        load_shield(saved)


def test_a_header_that_is_no_object_is_refused(saved):
    (saved / "shield.json").write_text("[]")
    with pytest.raises(ArtefactError, match="must have the schema"):
        load_shield(saved)


CHANGES = {
    "no shield": lambda h: h.pop("shield"),
    "no unit": lambda h: h["shield"].pop("unit"),
    "unknown unit": lambda h: h["shield"].update(unit="bonds"),
    "unknown array": lambda h: h["shield"].update(arrays=["low", "hihg"]),
    "another space": lambda h: h["shield"].update(actions={"n": 3}),
    "no space": lambda h: h["shield"].update(actions=None),
    "empty limits": lambda h: h["shield"].update(actions={"low": [2.0, 2.0], "high": [3.0, 3.0]}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_content_that_the_unit_does_not_accept_is_refused(saved, change):
    edit(saved, CHANGES[change])
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_shield(saved)


def test_code_that_is_not_there_is_named(tmp_path):
    shield = ActionMask(ActionSpec.discrete(2), rule=np.isnan)
    shield.rule = _Elsewhere()
    with pytest.raises(ConfigError, match="rule of a shield must be a function"):
        save_shield(shield, tmp_path / "shield")
    table = ActionMask(ActionSpec.discrete(2), table=[[True, False]])
    folder = save_shield(table, tmp_path / "table")
    edit(folder, lambda h: h["shield"]["config"].update(rule={"path": "no_such_package:rule"}))
    with pytest.raises(ArtefactError, match="code at 'no_such_package:rule'"):
        load_shield(folder)


def test_an_artefact_calls_nothing_but_dataclasses(tmp_path):
    folder = save_shield(ActionMask(ActionSpec.discrete(2), table=[[True, False]]), tmp_path / "table")
    made = tmp_path / "made"
    call = {"path": "os:mkdir", "options": {"path": str(made)}}
    edit(folder, lambda h: h["shield"]["config"].update(rule=call))
    with pytest.raises(ArtefactError, match="must be made by a dataclass; 'os:mkdir' is none"):
        load_shield(folder)
    assert not made.exists()


class _Elsewhere:
    def __call__(self, obs):
        return np.array([True, True])


def test_every_unit_of_the_catalogue_is_registered():
    assert set(CATALOGUE) <= set(SHIELDS)
