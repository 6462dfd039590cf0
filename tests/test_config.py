"""Options are checked against the types of their dataclass, and described by its docstrings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest

from saferl.config import Option, describe, from_assignments, from_mapping
from saferl.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Options:
    """Options of nothing."""

    learning_rate: float = 3e-4
    """Step size,
    > 0."""
    num_steps: int = 128
    """Steps per environment and rollout."""
    use_gae: bool = True
    name: str = "run"
    """What to call it."""
    kind: Literal["adam", "sgd"] = "adam"
    level: Literal[1, 2] = 1
    layers: tuple[int, ...] = (64, 64)
    span: tuple[float, float] = field(default_factory=lambda: (0.0, 1.0))
    """Lower and upper end."""
    clip: float | None = None
    rate: float | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Needy:
    """An option without default."""

    size: int


ACCEPTED = [
    ("learning_rate", 1, 1.0),
    ("learning_rate", 0.5, 0.5),
    ("num_steps", 7, 7),
    ("use_gae", False, False),
    ("name", "x", "x"),
    ("kind", "sgd", "sgd"),
    ("level", 2, 2),
    ("layers", [32], (32,)),
    ("layers", (), ()),
    ("span", [0, 2], (0.0, 2.0)),
    ("clip", None, None),
    ("clip", 3, 3.0),
    ("rate", "auto", "auto"),
    ("rate", 2, 2.0),
]
REFUSED = [
    ("learning_rate", True),
    ("learning_rate", "0.1"),
    ("learning_rate", None),
    ("learning_rate", math.nan),
    ("learning_rate", math.inf),
    ("num_steps", True),
    ("num_steps", 1.0),
    ("num_steps", "1"),
    ("use_gae", 1),
    ("use_gae", "true"),
    ("name", 3),
    ("name", None),
    ("kind", "Adam"),
    ("kind", ["adam"]),
    ("level", True),
    ("level", 1.0),
    ("layers", 64),
    ("layers", "64"),
    ("layers", [64, 1.5]),
    ("layers", [True]),
    ("span", [1.0]),
    ("span", [1.0, 2.0, 3.0]),
    ("clip", "none"),
    ("clip", True),
    ("rate", "fast"),
    ("rate", True),
]


@pytest.mark.parametrize(("key", "value", "kept"), ACCEPTED)
def test_a_value_of_the_right_type_is_kept_in_the_fields_type(key, value, kept):
    got = getattr(from_mapping(Options, {key: value}), key)
    assert got == kept
    assert type(got) is type(kept)
    if isinstance(kept, tuple):
        assert [type(part) for part in got] == [type(part) for part in kept]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_value_of_another_type_is_an_error_that_names_option_and_value(key, value):
    with pytest.raises(ConfigError, match=rf"Options\.{key} must be .*; got") as caught:
        from_mapping(Options, {key: value})
    assert repr(value) in str(caught.value) or isinstance(value, list)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("learning_rate", "x", "must be a finite number; got 'x'"),
        ("num_steps", 1.5, "must be int; got 1.5"),
        ("kind", "rms", "must be one of 'adam', 'sgd'; got 'rms'"),
    ],
)
def test_the_error_says_what_the_value_must_be(key, value, text):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Options, {key: value})
    assert text in str(caught.value)


def test_options_not_given_keep_their_defaults():
    assert from_mapping(Options, {}) == Options()
    assert from_mapping(Options, {"num_steps": 3}) == Options(num_steps=3)


def test_an_unknown_option_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"option of Options 'learnin_rate'\. Did you mean 'learning_rate'"):
        from_mapping(Options, {"learnin_rate": 1.0})


def test_a_missing_option_without_default_is_an_error():
    assert from_mapping(Needy, {"size": 3}).size == 3
    with pytest.raises(ConfigError, match=r"Needy\.size must be int; got nothing"):
        from_mapping(Needy, {})


def test_assignments_are_read_as_json_where_that_is_possible():
    options = from_assignments(
        Options,
        [
            "learning_rate=1e-3",
            "use_gae=false",
            "layers=[8, 8, 8]",
            "clip=0.5",
            "name=night run",
            'kind="sgd"',
            "rate=auto",
        ],
    )
    assert options == Options(
        learning_rate=1e-3, use_gae=False, layers=(8, 8, 8), clip=0.5, name="night run", kind="sgd", rate="auto"
    )


def test_null_is_none_and_spaces_around_the_key_do_not_matter():
    assert from_assignments(Options, [" clip =null"], {"clip": 3.0}).clip is None


def test_only_the_first_equals_sign_separates():
    assert from_assignments(Options, ["name=a=b"]).name == "a=b"


def test_assignments_win_over_the_base_and_the_last_one_over_earlier_ones():
    base = {"num_steps": 1, "name": "base"}
    options = from_assignments(Options, ["num_steps=2", "num_steps=3"], base)
    assert (options.num_steps, options.name) == (3, "base")
    assert base == {"num_steps": 1, "name": "base"}


@pytest.mark.parametrize("text", ["num_steps", "", "num_steps 3"])
def test_an_assignment_without_equals_sign_is_an_error(text):
    with pytest.raises(ConfigError, match="must look like KEY=VALUE"):
        from_assignments(Options, [text])


@pytest.mark.parametrize(
    "text", ["learning_rate=NaN", "learning_rate=Infinity", "learning_rate=1e999", "num_steps=1e3"]
)
def test_an_assignment_is_checked_like_any_other_value(text):
    with pytest.raises(ConfigError, match="must be"):
        from_assignments(Options, [text])


def test_describe_reads_name_type_default_and_the_docstring_under_each_field():
    described = {option.name: option for option in describe(Options)}
    assert list(described) == list(Options.__dataclass_fields__)
    assert described["learning_rate"] == Option("learning_rate", "float", 3e-4, "Step size, > 0.")
    assert described["use_gae"] == Option("use_gae", "bool", True, "")
    assert described["kind"].type == "Literal['adam', 'sgd']"
    assert described["span"] == Option("span", "tuple[float, float]", (0.0, 1.0), "Lower and upper end.")


def test_describe_shows_no_default_as_none():
    assert describe(Needy) == [Option("size", "int", None, "")]


@dataclass(frozen=True)
class MoreOptions(Options):
    """One option more."""

    extra: int = 1
    """One more."""


def test_inherited_options_keep_their_docstrings():
    helps = {option.name: option.help for option in describe(MoreOptions)}
    assert helps["extra"] == "One more."
    assert helps["learning_rate"] == "Step size, > 0."
