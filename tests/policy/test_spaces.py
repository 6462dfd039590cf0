"""A space that goes through JSON comes back as itself."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saferl.errors import ArtefactError
from saferl.policy.spaces import space_from_dict, space_to_dict


def through_json(space):
    return space_from_dict(json.loads(json.dumps(space_to_dict(space), allow_nan=False)))


def assert_same_box(restored, box):
    """Gymnasium's own equality of boxes has a tolerance; a policy's clipping must not change by a bit."""
    assert isinstance(restored, spaces.Box)
    assert (restored.shape, restored.dtype) == (box.shape, box.dtype)
    np.testing.assert_array_equal(restored.low, box.low)
    np.testing.assert_array_equal(restored.high, box.high)


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        numbers = st.floats(width=kind.itemsize * 8, allow_nan=False)
    else:
        numbers = st.integers(0, 255) if kind.kind == "u" else st.integers(-(2**62), 2**62)
    first, second = (draw(hnp.arrays(dtype, shape, elements=numbers)) for _ in range(2))
    low, high = np.minimum(first, second), np.maximum(first, second)
    if kind.kind == "f":  # a lower end of +inf is no interval
        low, high = np.where(np.isposinf(low), 0, low), np.where(np.isneginf(high), 0, high)
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)


discretes = st.builds(spaces.Discrete, st.integers(1, 100), start=st.integers(-5, 5))
counts = hnp.arrays(np.int64, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(1, 9))
multi_discretes = counts.map(lambda nvec: spaces.MultiDiscrete(nvec, start=nvec - 3))
multi_binaries = st.one_of(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(
    spaces.MultiBinary
)
leaves = st.one_of(boxes(), discretes, multi_discretes, multi_binaries)


@given(boxes())
def test_a_box_comes_back_bit_for_bit(box):
    assert_same_box(through_json(box), box)


@given(st.one_of(discretes, multi_discretes, multi_binaries))
def test_a_space_of_categories_comes_back_equal(space):
    assert through_json(space) == space


@given(st.lists(st.tuples(st.text(max_size=5), leaves), min_size=1, max_size=4, unique_by=lambda pair: pair[0]))
def test_a_dict_comes_back_with_its_keys_in_their_order(pairs):
    """The order decides where a part lands in the network's input."""
    space = spaces.Dict(pairs)
    restored = through_json(space)
    assert restored == space
    assert list(restored.spaces) == [key for key, _ in pairs]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-np.inf, 0.5), (0.1, np.inf)])
def test_infinite_bounds_are_kept(low, high, dtype):
    box = spaces.Box(low, high, (2, 3), dtype)
    assert_same_box(through_json(box), box)
    mixed = spaces.Box(np.array([low, -1.0], dtype), np.array([high, 1.0], dtype), dtype=dtype)
    assert_same_box(through_json(mixed), mixed)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (3, 4, 5)])
def test_shapes_are_kept(shape):
    box = spaces.Box(-1.0, 1.0, shape, np.float32)
    assert_same_box(through_json(box), box)


def test_the_description_of_equal_bounds_is_short():
    assert space_to_dict(spaces.Box(0, 255, (3, 84, 84), np.uint8)) == {
        "type": "Box",
        "shape": [3, 84, 84],
        "dtype": "uint8",
        "low": 0,
        "high": 255,
    }


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_dtypes_of_categories_are_kept(dtype):
    for space in (spaces.Discrete(3, dtype=dtype), spaces.MultiDiscrete([2, 3], dtype=dtype)):
        assert through_json(space) == space
        assert through_json(space).dtype == dtype


@pytest.mark.parametrize("space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3)], ids=lambda s: type(s).__name__)
def test_another_space_is_refused_by_name(space):
    with pytest.raises(ArtefactError, match=f"got {type(space).__name__}"):
        space_to_dict(space)


def test_an_unknown_type_is_refused_by_name():
    with pytest.raises(ArtefactError, match="type 'Sphere', which this version"):
        space_from_dict({"type": "Sphere"})


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        "Box",
        {"type": "Box"},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0.0, 0.0, 0.0], "high": 1.0},
        {"type": "Box", "shape": [2], "dtype": "float33", "low": 0.0, "high": 1.0},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": 1.0, "high": 0.0},
        {"type": "Box", "shape": [2], "dtype": "uint8", "low": 0, "high": 256},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": "infinite", "high": 1.0},
        {"type": "Discrete", "n": -1, "start": 0, "dtype": "int64"},
        {"type": "MultiDiscrete", "nvec": "many", "start": [0], "dtype": "int64"},
        {"type": "MultiBinary", "n": 0},
        {"type": "Dict", "spaces": [1]},
        {"type": "Dict", "spaces": {"a": {"type": "Discrete"}}},
    ],
    ids=str,
)
def test_a_malformed_description_is_one_artefact_error(data):
    with pytest.raises(ArtefactError, match="cannot be read"):
        space_from_dict(data)
