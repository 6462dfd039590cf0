"""The microgrid's benchmark: the same days for all, nobody below perfect foresight, and a share with an interval."""

import json

import numpy as np
import pytest

import saferl
from saferl.bench import bench_microgrid
from saferl.bench.microgrid import FIRST_SEED, REFERENCE, gap_closed
from saferl.cli.bench_microgrid import _runs
from saferl.errors import ConfigError, UnknownNameError, UsageError
from saferl.training import RunSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = RunSettings(num_envs=2, validation_share=0.0, num_checkpoints=0, net_arch=(8,))
    options = {"n_steps": 32, "batch_size": 64, "n_epochs": 1}
    saferl.train(
        "ppo", "Microgrid-v0", shield="scu_microgrid", steps=64, options=options, settings=settings, out=folder
    )
    return folder


@pytest.fixture(scope="module")
def result(run):
    return bench_microgrid(days=2, runs={"tiny": run})


def test_nobody_behind_the_shield_misses_a_minute_or_beats_perfect_foresight(result):
    json.dumps(result, allow_nan=False)
    assert list(result["series"]) == ["synthetic", "adversarial"]
    for table in result["series"].values():
        for day in table["by_day"]:
            for name, record in day["records"].items():
                if name.endswith(", shield"):
                    assert (record["deficit"], record["excess"], record["breaches"]) == (0, 0, 0), name
                if record["deficit"] == 0:
                    assert record["adjusted_fuel"] >= day["foresight"], name


def test_a_run_is_shown_with_sampled_and_mean_actions_and_without_the_shield(result):
    rows = result["series"]["synthetic"]["policies"]
    assert {name for name in rows if name.startswith("tiny")} == {
        "tiny, shield",
        "tiny, no shield",
        "tiny (mean actions), shield",
    }
    assert rows["tiny, shield"]["mean"] != rows["tiny (mean actions), shield"]["mean"]
    said = result["runs"]["tiny"]
    assert (said["solver"], said["env"], said["steps"]) == ("ppo", "Microgrid-v0", 64)


def test_the_reference_has_no_share_and_saves_nothing(result):
    for table in result["series"].values():
        row = table["policies"][REFERENCE]
        assert row["gap_closed"] == {"share": 0.0, "ci95": [0.0, 0.0]}
        assert row["saved"]["mean"] == row["more_wear"]["mean"] == 0.0


def test_days_are_the_same_however_many_processes_there_are(result):
    other = bench_microgrid(days=2, series=["synthetic"], jobs=2)
    first, second = result["series"]["synthetic"], other["series"]["synthetic"]
    assert other["first_seed"] == FIRST_SEED
    for day, same in zip(first["by_day"], second["by_day"], strict=True):
        assert day["foresight"] == same["foresight"]
        for name, record in same["records"].items():
            assert {**record, "decision_us": 0} == {**day["records"][name], "decision_us": 0}


def test_the_share_of_the_gap_is_that_of_sums_and_its_interval_holds_it():
    generator = np.random.default_rng(0)
    best, gap = generator.uniform(100.0, 900.0, 30), generator.uniform(50.0, 500.0, 30)
    closed = gap_closed(best + 0.4 * gap, best + gap, best)
    assert closed["share"] == pytest.approx(0.6)
    assert closed["ci95"] == pytest.approx([0.6, 0.6])
    noisy = gap_closed(best + gap * generator.uniform(0.0, 0.8, 30), best + gap, best)
    assert noisy["ci95"][0] < noisy["share"] < noisy["ci95"][1]


def test_runs_are_called_as_said_or_like_their_folder():
    assert {name: str(path) for name, path in _runs(["runs/day", "best=runs/other"]).items()} == {
        "day": "runs/day",
        "best": "runs/other",
    }
    for bad in (["=runs/day"], ["day="], ["runs/day", "other/day"]):
        with pytest.raises(UsageError, match="--run must be"):
            _runs(bad)


def test_bad_arguments_are_refused_before_any_day(run):
    with pytest.raises(ConfigError, match="at least 2 days"):
        bench_microgrid(days=1)
    with pytest.raises(UnknownNameError, match="synthetic"):
        bench_microgrid(series=["sinthetic"])
    with pytest.raises(ConfigError, match="'lazy'"):
        bench_microgrid(runs={"lazy": run})
