"""Errors say what is wrong and the way out, and survive the way from a worker process."""

import copy
import inspect
import pickle

import pytest

import saferl.errors
from saferl.errors import (
    ArtefactError,
    ConfigError,
    ConstraintError,
    CostError,
    EnvContractError,
    MissingExtraError,
    RunFolderError,
    SaferlError,
    TrainingError,
    UnknownNameError,
    UsageError,
)

CLASSES = [value for value in vars(saferl.errors).values() if inspect.isclass(value) and issubclass(value, SaferlError)]


@pytest.mark.parametrize("kind", [UsageError, UnknownNameError, ConfigError, ConstraintError, MissingExtraError])
def test_bad_usage_exits_with_2(kind):
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", [CostError, EnvContractError, ArtefactError, RunFolderError, TrainingError])
def test_a_failed_run_exits_with_1(kind):
    assert kind.exit_code == 1


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("duplicate", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_keeps_class_and_message_when_it_is_pickled_or_copied(kind, duplicate):
    arguments = {UnknownNameError: ("solver", "x", ["y"]), MissingExtraError: ("Training", "torch", "train")}
    error = kind(*arguments.get(kind, ("what went wrong",)))
    twin = duplicate(error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_a_near_miss_is_answered_with_the_nearest_names():
    error = UnknownNameError("solver", "ppolag", ["ppo_lag", "cpo", "ppo"])
    assert str(error) == "Unknown solver 'ppolag'. Did you mean 'ppo_lag' or 'ppo'?"
    assert error.suggestions == ("ppo_lag", "ppo")


def test_a_name_like_no_other_is_answered_with_all_names_in_order():
    error = UnknownNameError("solver", "zzz", ["ppo_lag", "cpo"])
    assert str(error) == "Unknown solver 'zzz'. Known: cpo, ppo_lag."
    assert error.suggestions == ()


def test_a_long_list_of_known_names_is_cut():
    message = str(UnknownNameError("solver", "zzz", [f"name{i:02}" for i in range(30)]))
    assert message.endswith("name10, name11, ....")
    assert "name12" not in message


def test_an_empty_table_is_said_to_be_empty():
    assert str(UnknownNameError("shield", "x", [])) == "Unknown shield 'x'. There is none."


def test_a_hint_ends_the_message():
    assert str(UnknownNameError("env", "x", ["y"], hint="Try z.")) == "Unknown env 'x'. Known: y. Try z."


def test_a_name_that_is_not_text_is_answered_too():
    assert "Unknown solver '3'" in str(UnknownNameError("solver", 3, ["ppo"]))


def test_a_missing_extra_names_the_command_that_installs_it():
    assert "pip install 'saferl[train]'" in str(MissingExtraError("Training", "torch", "train"))
