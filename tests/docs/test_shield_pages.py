"""Every shield has a page with its guarantee and a picture."""

from pathlib import Path

import pytest

from saferl.shields.catalogue import CATALOGUE

PAGES = Path(__file__).parents[2] / "docs" / "shields"


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_shield_has_a_page_with_its_guarantee_and_a_picture(name):
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"(`{name}`)" in text.splitlines()[0]
    assert "## Guarantee" in text
    assert "ssum" in text, "the assumptions are missing"
    assert (PAGES / "pictures" / f"{name}.svg").exists()
    assert f"](pictures/{name}.svg)" in text
    assert f"[`{name}`]({name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")
