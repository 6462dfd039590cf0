"""Trees survive a round trip bit for bit, and nothing else is written."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from saferl.errors import RunFolderError
from saferl.trees import read_tree, write_tree

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**130), 2**130),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    arrays(
        st.sampled_from([np.float64, np.float32, np.int64, np.uint32, np.uint8, np.bool_]), array_shapes(min_dims=0)
    ),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(TREES)
def test_a_tree_is_read_back_as_it_was(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "state", tree)
    assert same(tree, read_tree(folder, "state"))


def test_numbers_that_json_lacks_survive(tmp_path):
    write_tree(tmp_path, "state", [math.inf, -math.inf, math.nan])
    assert str(read_tree(tmp_path, "state")) == "[inf, -inf, nan]"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({1: 2}, "string keys"),
        ({"a": object()}, r"got object at /a"),
        ([np.array([None])], "Python objects at /0"),
        ({"a": {1, 2}}, "got set at /a"),
    ],
)
def test_what_is_no_tree_is_refused(tmp_path, tree, message):
    with pytest.raises(TypeError, match=message):
        write_tree(tmp_path, "state", tree)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_damaged_or_missing_file_is_one_error(tmp_path, name):
    write_tree(tmp_path, "state", {"a": np.zeros(3)})
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_tree(tmp_path, "state")
    (tmp_path / name).unlink()
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_tree(tmp_path, "state")
