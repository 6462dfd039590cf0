import sys

import pytest

from saferl.bench import offline_training
from saferl.bench.offline_training import bench_offline_training
from saferl.errors import ConfigError, TrainingError

TINY = {"observation": 3, "action": 1, "batches": (2,), "actions": 2, "repeats": 2, "threads": 1}


def peer_that(folder, monkeypatch, body):
    script = folder / "peer.py"
    script.write_text(body)
    monkeypatch.setattr(offline_training, "DRIVER", script)
    return sys.executable


def test_readings_are_taken_in_turn_and_the_first_does_not_count(tmp_path, monkeypatch):
    body = "import sys\nfor n, line in enumerate(sys.stdin):\n    print(1000.0 + n, flush=True)\n"
    said = []
    result = bench_offline_training(**TINY, peer=peer_that(tmp_path, monkeypatch, body), report=said.append)
    step, acts = result["rows"]
    assert step["seconds"]["osrl"] == {"median": 1001.5, "all": [1001.0, 1002.0]}
    assert acts["seconds"]["osrl"]["all"] == [1004.0, 1005.0]
    assert step["ratio"] == pytest.approx(1001.5 / step["seconds"]["saferl"]["median"], rel=0.1)
    assert set(acts["seconds"]) == {"saferl", "saferl, banded variant", "osrl"}
    assert len(said) == 2


def test_ours_alone_has_no_ratio():
    assert all("ratio" not in row for row in bench_offline_training(**TINY)["rows"])


def test_a_peer_that_ends_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="must answer 'step 2' with seconds"):
        bench_offline_training(**TINY, peer=peer_that(tmp_path, monkeypatch, "input()\n"))


def test_numbers_below_one_are_refused():
    with pytest.raises(ConfigError, match="must be at least 1"):
        bench_offline_training(repeats=0)
