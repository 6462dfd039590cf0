"""Cards say what the data hold; the same data give the same files."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from saferl.data import Dataset, DatasetMetadata
from saferl.data.card import describe, principal, render, write_card
from saferl.errors import RunFolderError
from tests.data.data_sets import random_data


def test_the_numbers_are_those_of_the_data():
    data = random_data((4, 2, 6)).with_metadata(
        DatasetMetadata(env_id="SafetyPointGoal1-v0", budgets={"c0": 2.0}, behaviours=("a/0", "a/1", "b"), note="mine")
    )
    facts = describe(data, name="x.hdf5")
    json.dumps(facts, allow_nan=False)
    sums = data.cost_returns()
    assert (facts["episodes"], facts["steps"], facts["behaviours"]) == (3, 12, {"a": 2, "b": 1})
    assert (facts["ended_by_task"], facts["ended_by_limit"]) == (1, 2)
    assert facts["costs"]["c0"]["within"] == (sums[:, 0] <= 2).mean()
    assert facts["costs"]["c1"]["budget"] is None
    assert facts["costs"]["c1"]["mean"] == sums[:, 1].mean()
    assert facts["lengths"] == {"min": 2, "median": 4, "mean": 4, "max": 6}
    assert facts["next_is_following"] == 0.0
    low, high = data.returns().min(), data.returns().max()
    assert facts["dsrl_score"]["max"] == pytest.approx((high - 0.0120) / (30.0711 - 0.0120))
    text = render(facts)
    for part in ("# x.hdf5", "mine", "a (2), b (1)", f"{low:.4g} to {high:.4g}", data.digest(), "| `c1` |"):
        assert part in text


def test_a_card_is_a_page_with_pictures_and_the_same_for_the_same_data(tmp_path):
    data = random_data((4, 2, 6))
    for name in ("a", "b"):
        page = write_card(data, tmp_path / name)
        assert page == tmp_path / name / "README.md"
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["README.md", "coverage.svg", "quality.svg", "returns.svg"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        if name.endswith(".svg"):
            assert ET.parse(tmp_path / "a" / name).getroot().tag.endswith("svg")
            assert f"]({name})" in page.read_text()
    with pytest.raises(RunFolderError, match="must be new"):
        write_card(data, tmp_path / "a")


def test_a_card_of_the_barest_data_is_drawn(tmp_path):
    one = Dataset.from_arrays(
        observations=np.zeros((1, 1)),
        next_observations=np.zeros((1, 1)),
        actions=[0.0],
        rewards=[0.0],
        costs=[0.0],
        terminals=[1],
        timeouts=[0],
    )
    assert write_card(one, tmp_path / "card").exists()


def test_principal_directions_are_those_of_largest_variance():
    rng = np.random.default_rng(0)
    main, second = rng.normal(size=(2, 500))
    points = np.stack([main, main + 0.01 * second, second, np.full(500, 7.0)], axis=1)
    found = principal(points)
    assert abs(np.corrcoef(found[:, 0], main)[0, 1]) > 0.99
    assert abs(np.corrcoef(found[:, 1], second)[0, 1]) > 0.99
    assert principal(np.ones((5, 3))).shape == (5, 1)
