"""Names lead to objects, ours and those of plug-ins; every wrong name or path is one clear error."""

import math
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from saferl.errors import UnknownNameError, UsageError
from saferl.registry import Registry, load_object

GROUP = "saferl.solvers"


@pytest.fixture
def registry():
    table = Registry("solver", GROUP)
    table.register("ppo_lag", "math:pi", summary="Ours.")
    return table


@pytest.fixture
def plugins(monkeypatch):
    """Calling it makes entry points look installed; it counts the searches in ``searches``."""
    searches = []

    def install(*points):
        def entry_points(*, group):
            searches.append(group)
            return [point for point in points if point.group == group]

        monkeypatch.setattr("saferl.registry.entry_points", entry_points)
        return searches

    return install


def test_a_string_target_is_imported_only_when_it_is_loaded():
    table = Registry("solver", GROUP)
    table.register("later", "package_that_does_not_exist:Solver")
    assert "later" in table
    with pytest.raises(UsageError, match="Cannot import 'package_that_does_not_exist'"):
        table.load("later")


def test_an_object_is_its_own_target(registry):
    thing = object()
    registry.register("thing", thing)
    assert registry.load("thing") is thing
    assert registry.load("ppo_lag") == math.pi


def test_names_are_listed_in_order(registry):
    registry.register("cpo", 1)
    assert list(registry) == ["cpo", "ppo_lag"]


def test_a_taken_name_is_an_error_and_keeps_its_target(registry):
    with pytest.raises(UsageError, match="solver 'ppo_lag' is already registered"):
        registry.register("ppo_lag", 3)
    assert registry.load("ppo_lag") == math.pi


def test_an_unknown_name_is_answered_with_the_nearest_one(registry):
    assert "ppolag" not in registry
    with pytest.raises(UnknownNameError, match=r"Unknown solver 'ppolag'\. Did you mean 'ppo_lag'"):
        registry.get("ppolag")


def test_a_plugin_is_found_by_its_entry_point(registry, plugins):
    plugins(
        EntryPoint("mine", "math:tau", GROUP)._for(SimpleNamespace(name="my-package")),
        EntryPoint("alien", "math:e", "saferl.shields"),
    )
    assert list(registry) == ["mine", "ppo_lag"]
    assert registry.load("mine") == math.tau
    assert registry.get("mine").source == "my-package"
    assert registry.get("mine").summary == "from my-package"
    assert registry.get("ppo_lag").source == "saferl"


def test_a_plugin_is_suggested_too(registry, plugins):
    plugins(EntryPoint("my_solver", "math:tau", GROUP))
    with pytest.raises(UnknownNameError, match="Did you mean 'my_solver'"):
        registry.get("my_slover")


def test_a_plugin_cannot_shadow_ours(registry, plugins):
    plugins(EntryPoint("ppo_lag", "math:tau", GROUP))
    assert registry.load("ppo_lag") == math.pi
    assert registry.get("ppo_lag").summary == "Ours."


def test_a_broken_plugin_is_listed_and_fails_only_when_it_is_loaded(registry, plugins):
    plugins(EntryPoint("broken", "package_that_does_not_exist:Solver", GROUP))
    assert list(registry) == ["broken", "ppo_lag"]
    assert registry.load("ppo_lag") == math.pi
    with pytest.raises(UsageError, match="package_that_does_not_exist:Solver"):
        registry.load("broken")


def test_installed_packages_are_searched_once(registry, plugins):
    searches = plugins()
    for _ in range(3):
        list(registry)
        assert "ppo_lag" in registry
    assert searches == [GROUP]


def test_an_import_path_leads_through_attributes():
    assert load_object("saferl.registry:Registry.load") is Registry.load


@pytest.mark.parametrize("path", ["", "math", "math:", ":pi", ":", ".math:pi", "..x:y"])
def test_a_text_that_is_not_an_import_path_is_an_error(path):
    with pytest.raises(UsageError, match=r"must look like 'package\.module:name'; got"):
        load_object(path)


@pytest.mark.parametrize("path", ["no_such_package:x", "math.no_such_module:x", "saferl.no_such_module:x"])
def test_a_module_that_cannot_be_imported_is_an_error_with_cause_and_way_out(path):
    with pytest.raises(UsageError, match="It must be importable from the current folder or installed") as caught:
        load_object(path)
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize(("path", "nearest"), [("math:sqr", "sqrt"), ("saferl.registry:Registry.lod", "load")])
def test_an_unknown_attribute_is_answered_with_the_nearest_one(path, nearest):
    with pytest.raises(UnknownNameError, match=f"Did you mean .*'{nearest}'"):
        load_object(path)
