"""``saferl data`` and ``saferl bench samplers``."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_one_message, flat, run_quietly

from saferl.data import load_dataset

POINT_ROBOT = Path(__file__).parent.parent / "data" / "point_robot.hdf5"


def test_info_says_what_a_file_holds():
    code, out, err = run_quietly("data", "info", POINT_ROBOT, "--json")
    assert code == 0, err
    facts, data = json.loads(out), load_dataset(POINT_ROBOT)
    assert (facts["episodes"], facts["steps"], facts["sha256"]) == (60, len(data), data.digest())
    code, out, _ = run_quietly("data", "info", POINT_ROBOT)
    assert code == 0
    assert f"60 episodes, {len(data):,} steps of PointRobot-v0" in flat(out)
    assert f"{data.returns().max():.4g}" in out


def test_a_card_is_written_beside_the_file_or_where_it_is_told(tmp_path):
    copy = tmp_path / "pr.hdf5"
    copy.write_bytes(POINT_ROBOT.read_bytes())
    assert run_quietly("data", "card", copy)[0] == 0
    assert (tmp_path / "pr-card" / "returns.svg").is_file()
    code, out, _ = run_quietly("data", "card", copy, "--out", tmp_path / "c")
    assert (code, out.strip()) == (0, f"Card: {tmp_path / 'c' / 'README.md'}")


def test_filters_are_applied_one_after_the_other_and_noted(tmp_path):
    out = tmp_path / "f.hdf5"
    words = ("--return", "0:", "--cost", "cost=:60", "--best", "cost=20", "--count", 20, "--share", 0.5, "--out", out)
    code, said, err = run_quietly("data", "filter", POINT_ROBOT, *words)
    assert code == 0, err
    data = load_dataset(out)
    assert said.startswith(f"Kept 10 of 60 episodes ({len(data):,} steps)")
    assert data.returns().min() >= 0.0
    assert data.cost_returns().max() <= 20.0
    assert "best 20 within cost=20: 20, a share of 0.5, seed 0: 10" in data.metadata.note
    assert "saferl collect PointRobot-v0" in data.metadata.note
    again = tmp_path / "g.hdf5"
    assert run_quietly("data", "filter", POINT_ROBOT, *words[:-1], again)[0] == 0
    assert load_dataset(again).digest() == data.digest()


def test_grids_rectangles_and_outliers_work_too(tmp_path):
    words = (
        "--cost",
        "cost=:80",
        "--cells",
        "5x5",
        "--at-most",
        3,
        "--without",
        "0:0.1,0.8:1",
        "--outliers",
        0.05,
        "--below",
        5,
    )
    code, _, err = run_quietly("data", "filter", POINT_ROBOT, *words, "--out", tmp_path / "f.hdf5")
    assert code == 0, err
    note = load_dataset(tmp_path / "f.hdf5").metadata.note
    assert "without 0:0.1,0.8:1" in note
    assert "1 to 3 per cell of 5x5" in note
    assert "turned into outliers below 5" in note


ERRORS = {
    "nothing to do": ([], 2, "No filter is given"),
    "empty": (["--return", "90:"], 1, r"leaves none of 60 episodes; the data have returns -4\.9"),
    "no budget kept": (["--best", "cost=-1"], 1, "below the cost of every episode; the cheapest of 60 costs 0"),
    "unknown cost": (["--best", "csot=5"], 2, "Unknown cost of the data 'csot'. Did you mean 'cost'"),
    "no range": (["--return", "5"], 2, "--return must look like LOW:HIGH"),
    "no number": (["--return", "a:b"], 2, "--return must look like LOW:HIGH"),
    "range without name": (["--cost", "0:5"], 2, "--cost must look like NAME=LOW:HIGH"),
    "no grid": (["--cells", "5"], 2, "--cells must look like COSTSxRETURNS"),
    "no rectangle": (["--without", "0:1"], 2, "--without must look like"),
    "count alone": (["--count", "5"], 2, "--count is for --best"),
    "outliers alone": (["--outliers", "0.1"], 2, "belong together"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_filters_that_cannot_be_are_one_message_and_write_nothing(tmp_path, name):
    words, expected, message = ERRORS[name]
    code, out, err = run_quietly("data", "filter", POINT_ROBOT, *words, "--out", tmp_path / "f.hdf5")
    assert (code, out) == (expected, "")
    assert_one_message(err, message)
    assert not list(tmp_path.iterdir())


def test_damaged_and_missing_files_are_one_message(tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(POINT_ROBOT.read_bytes()[:5000])
    for words in (("info", path), ("card", path), ("convert", path, "--to", "dsrl", "--out", tmp_path / "b.hdf5")):
        code, _, err = run_quietly("data", *words)
        assert code == 1
        assert_one_message(err, r"a\.hdf5 is not HDF5, or was cut short")
    code, _, err = run_quietly("data", "info", tmp_path / "none.hdf5")
    assert_one_message(err, "'saferl collect' makes one")


def test_convert_goes_to_minari_and_back_and_to_plain_files(tmp_path):
    pytest.importorskip("minari")
    folder, back, plain = tmp_path / "pr-v0", tmp_path / "back.hdf5", tmp_path / "plain.hdf5"
    code, out, err = run_quietly("data", "convert", POINT_ROBOT, "--to", "minari", "--out", folder)
    assert code == 0, err
    assert f"MINARI_DATASETS_PATH={tmp_path}" in out
    assert run_quietly("data", "convert", folder, "--to", "dsrl", "--out", back)[0] == 0
    assert run_quietly("data", "convert", back, "--to", "dsrl", "--compression", 0, "--out", plain)[0] == 0
    original = load_dataset(POINT_ROBOT)
    assert load_dataset(back).digest() == original.digest()
    assert np.array_equal(load_dataset(plain, memory_map=True).h, original.h)


def test_a_benchmark_of_samplers_prints_ratios_and_writes_json(tmp_path):
    words = ("bench", "samplers", POINT_ROBOT, "--batch", 16, "--length", 5, "--repeats", 1)
    code, out, err = run_quietly(*words, "--json", tmp_path / "s.json")
    assert code == 0, err
    result = json.loads((tmp_path / "s.json").read_text())
    assert [(row["kind"], row["batch"]) for row in result["rows"]] == [("transitions", 16), ("windows", 16)]
    for row in result["rows"]:
        medians = {name: entry["median"] for name, entry in row["ms"].items()}
        assert set(medians) == {"saferl", "saferl_on_disk", "sample_by_sample"}
        ratio = row["times_as_fast"]["saferl"]["sample_by_sample"]
        assert ratio == pytest.approx(medians["sample_by_sample"] / medians["saferl"], rel=0.02)
        assert ratio > 1
        assert f"{ratio:.1f} times" in out
