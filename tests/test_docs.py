"""The tables of the docs are checked against the code that they describe."""

import re
from pathlib import Path

import pytest

from saferl.constraints import KINDS
from saferl.envs.catalogue import SPECS
from saferl.solvers import SOLVERS

DOCS = Path(__file__).parent.parent / "docs"


def rows(path):
    """Rows of all Markdown tables of a file, as lists of cells without code marks and links."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
    return [
        [re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", c).replace("`", "").strip() for c in line.strip("|").split("|")]
        for line in lines
    ]


def test_the_environment_table_is_the_catalogue():
    table = {row[0]: row[1:3] for row in rows(DOCS / "environments.md") if row[0].startswith("Safety")}
    expected = {
        spec.id: [str(spec.horizon), ", ".join(f"{c.name} ({c.budget:g})" for c in spec.constraints)] for spec in SPECS
    }
    assert table == expected


def test_the_solver_table_names_every_solver_and_its_kinds():
    table = {row[0]: row[1:3] for row in rows(DOCS / "solvers" / "README.md") if row[0] in SOLVERS}
    expected = {}
    for name in SOLVERS:
        solver = SOLVERS.load(name)
        kinds = "ignores all" if tuple(solver.supported_kinds) == KINDS else ", ".join(solver.supported_kinds)
        expected[name] = [solver.__name__, kinds]
    assert table == expected


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_logged_column_is_explained():
    explained = (DOCS / "metrics.md").read_text(encoding="utf-8")
    source = "".join(
        (Path(__file__).parent.parent / "saferl" / "solvers" / name).read_text(encoding="utf-8")
        for name in ("on_policy.py", "ppo_lag.py")
    )
    columns = {re.sub(r"\{.*?\}", "NAME", c) for c in re.findall(r'record\(\s*f?"([a-z_]+/[^"]+)"', source)}
    columns.discard("train/NAME")
    assert columns
    assert not {c for c in columns if c not in explained}
