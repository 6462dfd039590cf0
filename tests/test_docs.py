"""The tables of the docs are checked against the code that they describe."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import saferl
from saferl.constraints import KINDS
from saferl.data import write_dsrl
from saferl.envs.catalogue import CONTROL_SPECS, SIMULATED_SPECS, TABULAR_SPECS
from saferl.envs.table import control_row_of, row_of, tabular_row_of
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import GUARANTEES
from saferl.shields.protocol import KINDS as KINDS_OF_DECISIONS
from saferl.solvers import SOLVERS
from saferl.solvers.catalogue import CATALOGUE as SOLVER_FACTS
from saferl.solvers.catalogue import ONLINE
from saferl.testing.offline_checker import small_data
from saferl.training import RunSettings

DOCS = Path(__file__).parent.parent / "docs"
MADE = {
    "SafetyHumanoidVelocity-v1",
    "SafetyPointGoal2-v0",
    "SafetyCarButton1-v0",
    "SafetyRacecarPush2-v0",
    "SafetyAntCircle1-v0",
    "SafetyDoggoRun0-v0",
}


def rows(path):
    """Rows of all Markdown tables of a file, as lists of cells without code marks and links."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
    return [
        [re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", c).replace("`", "").strip() for c in line.strip("|").split("|")]
        for line in lines
    ]


def test_the_task_table_is_the_catalogue():
    """Ids, costs and horizons of all; the environment itself is made for one of each kind."""
    table = {row[0]: row for row in rows(DOCS / "tasks.md") if row[0].startswith("Safety")}
    assert list(table) == [spec.id for spec in SIMULATED_SPECS]
    for spec in SIMULATED_SPECS:
        names, horizon = table[spec.id][3:5]
        assert names.replace("*", "").split(", ") == list(spec.constraints.names)
        assert horizon == (f"{spec.horizon}, fixed" if spec.is_fixed_horizon else f"at most {spec.horizon}")
        assert all(constraint.budget == 25 for constraint in spec.constraints)
    page = (DOCS / "tasks.md").read_text(encoding="utf-8").splitlines()
    made = [spec for spec in SIMULATED_SPECS if spec.id in MADE]
    assert len(made) == len(MADE)
    assert all(row_of(spec) in page for spec in made)
    assert find_spec("dm_control") is None or all(control_row_of(spec) in page for spec in CONTROL_SPECS)
    assert all(tabular_row_of(spec) in page for spec in TABULAR_SPECS)


def test_the_solver_table_names_every_solver_and_its_kinds():
    table = {row[0]: row[1:3] for row in rows(DOCS / "solvers" / "README.md") if row[0] in SOLVERS}
    expected = {}
    for name in SOLVERS:
        solver = SOLVERS.load(name)
        kinds = "ignores all" if tuple(solver.supported_kinds) == KINDS else ", ".join(solver.supported_kinds)
        expected[name] = [solver.__name__, kinds]
    assert table == expected


def test_the_shield_table_is_the_catalogue_and_the_ladder_that_of_the_protocol():
    table = rows(DOCS / "shields" / "README.md")
    expected = [
        [name, f.target.partition(":")[2], ", ".join(f.needs) or "nothing", f.guarantee, ", ".join(f.actions), f.speed]
        for name, f in CATALOGUE.items()
    ]
    assert [row for row in table if row[0] in CATALOGUE] == expected
    assert [row[0] for row in table if row[0] in GUARANTEES] == list(GUARANTEES)
    kinds = {kind.strip() for row in table for kind in row[0].split(",")}
    assert set(KINDS_OF_DECISIONS) <= kinds


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_logged_column_is_explained_and_every_explained_one_is_logged(tmp_path):
    """The columns are those of real runs, in the first row or later."""
    explained = {
        name
        for row in rows(DOCS / "metrics.md")
        for name in row[0].replace(" ", "").split(",")
        if re.fullmatch(r"[a-z_]+/\S+", name)
    }
    logged = set()
    more = {
        "ppo": {},
        "cat": {"negative_rewards": "positive_part_only"},
        "reload_offpolicy": {"dual_min_episodes": 1, "learning_starts": 0},
    }
    for solver in ONLINE:
        saferl.train(
            solver,
            "SafetyHopperVelocity-v1",
            steps=160,
            out=tmp_path / solver,
            env_kwargs={"max_episode_steps": 8},
            options={"n_steps": 16, "batch_size": 32, **more.get(solver, {"dual_min_episodes": 1})},
            settings=RunSettings(num_envs=2, num_checkpoints=0, validation_share=0.0, net_arch=(8,)),
        )
        header = (tmp_path / solver / "progress.csv").read_text(encoding="utf-8").splitlines()[0]
        logged |= {re.sub(r"/cost$", "/NAME", column) for column in header.split(",")}
    data = tmp_path / "data.hdf5"
    write_dsrl(small_data(), data)
    for solver in [name for name in SOLVER_FACTS if name not in ONLINE]:
        budgets = {"cost_0": 5.0, "cost_1": 5.0}
        saferl.train(solver, data, steps=2, out=tmp_path / solver, budgets=budgets, preset="small")
        header = (tmp_path / solver / "progress.csv").read_text(encoding="utf-8").splitlines()[0]
        logged |= {re.sub(r"/cost_\d$", "/NAME", column) for column in header.split(",") if "/" in column}
    assert logged == explained
