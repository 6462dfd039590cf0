"""The report in a real browser: nothing overflows, nothing is logged or fetched, everything can be read, as before.

The pictures in ``screenshots`` are compared coarsely, because fonts differ between machines. After a change that is
meant, look at the page and write them anew with::

    SAFERL_UPDATE_SCREENSHOTS=1 uv run pytest tests/report/test_browser.py
"""

import io
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from saferl.constraints import Constraint, ConstraintSet
from saferl.evaluation.episodes import EpisodeRecord
from saferl.evaluation.summary import summarise
from saferl.report import build_report

image = pytest.importorskip("PIL.Image")
sync_api = pytest.importorskip("playwright.sync_api")

SCREENSHOTS = Path(__file__).parent / "screenshots"
CONSTRAINTS = ConstraintSet(
    [Constraint("cost", 25.0, max_step_cost=1.0), Constraint("hazards", 10.0, max_step_cost=1.0)]
)
POLICIES = {
    "random": (-280.0, 0.4, 0.2),
    "PPO (unconstrained)": (2400.0, 330.0, 60.0),
    "PPO-Lagrangian": (2700.0, 12.0, 7.5),
}
VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
GRID = 32
"""Pictures are compared as this many squares per width."""
TOLERANCE = 9.0
"""Mean difference of grey values (0 to 255) that fonts may make; a page without its style sheet differs by more."""


def browser_path():
    """A Chromium; a missing one fails in CI and skips elsewhere."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("The report's tests need Chromium, and CI must have it: apt-get install chromium.")
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


def write_evaluation(folder, label, return_, *costs):
    """An evaluation of 200 episodes with known figures, inside a run folder with a log."""
    rng = np.random.default_rng(len(label))
    records = []
    for episode in range(200):
        sums = {c.name: float(rng.binomial(1000, m / 1000)) for c, m in zip(CONSTRAINTS, costs, strict=True)}
        records.append(
            EpisodeRecord(episode, episode, float(rng.normal(return_, 40)), 1000, False, sums, sums["cost"], {})
        )
    about = {
        "env": "SafetyHalfCheetahVelocity-v1",
        "env_kwargs": {},
        "deterministic": False,
        "seeds": {"first": 0, "count": 200},
        "checkpoint": "last",
        "policy": {
            "name": label,
            "label": label,
            "solver": None,
            "train_steps": 1_000_000,
            "train_seed": 0,
            "train_budgets": None,
            "evaluations": 1,
        },
        "shield": None,
    }
    summary = summarise(records, CONSTRAINTS, horizon=1000, about=about)
    summary["versions"] = {"python": "3.11.0", "saferl": "0.1.0"}  # the page must not depend on the machine
    summary["duration_s"] = 1.0
    evaluation = folder / "evaluations" / "001"
    evaluation.mkdir(parents=True)
    (evaluation / "summary.json").write_text(json.dumps(summary))
    (evaluation / "episodes.jsonl").write_text("".join(json.dumps(r.to_dict()) + "\n" for r in records))
    (folder / "run.json").write_text("{}")
    steps = np.arange(1, 41) * 25_000
    rows = [f"{s},{return_ * (1 - np.exp(-s / 3e5)):.1f},{costs[0] * (1 - np.exp(-s / 2e5)):.2f},0.1" for s in steps]
    head = "time/total_timesteps,rollout/ep_rew_mean,rollout/ep_cost/cost,multiplier/cost"
    (folder / "progress.csv").write_text("\n".join([head, *rows, ""]))
    return evaluation


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluations = [write_evaluation(folder / str(i), label, *f) for i, (label, f) in enumerate(POLICIES.items())]
    return build_report(evaluations, folder / "report.html", title="Three policies, two constraints")


@pytest.fixture(scope="module")
def browser():
    path = browser_path()
    with sync_api.sync_playwright() as playwright:
        # The sandbox does not start for root, as in CI's container; the page is our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--hide-scrollbars"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report):
    """Opens the report; what it logs and fetches is collected in ``page.messages`` and ``page.requests``."""
    pages = []

    def opened(width=1280, scheme="light"):
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            device_scale_factor=1,
        )
        page.messages, page.requests = [], []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(report.as_uri(), timeout=120_000)
        page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
        page.wait_for_timeout(300)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_is_logged_or_fetched_and_nothing_overflows(open_page, report, width, scheme):
    page = open_page(width, scheme)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert page.messages == []
    assert [url for url in page.requests if url != report.as_uri() and not url.startswith(("data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let e = node; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    const isShown = element.getClientRects().length && !element.closest("script,style");
    if (!walker.currentNode.data.trim() || !isShown) continue;
    const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    if (!ink.startsWith("rgb")) continue;
    const [a, b] = [light(parse(ink)), light(behind(element))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_accessibility_asks_for(open_page, scheme):
    found = open_page(1280, scheme).evaluate(CONTRAST)
    assert len(found) > 100
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_the_words_come_first_and_the_verdicts_are_words(open_page):
    page = open_page()
    top = page.evaluate("document.body.innerText.slice(0, 1500).toLowerCase()")
    assert "violated" in top or "breaks" in top or "break" in top
    first_figure = page.evaluate("document.querySelector('.js-plotly-plot').getBoundingClientRect().top")
    first_words = page.evaluate("document.querySelector('h1').getBoundingClientRect().top")
    assert first_words < first_figure
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_figure_has_words_and_every_table_has_headers(open_page):
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.querySelectorAll('table')].every((t) => t.querySelector('th[scope]'))")
    assert page.evaluate("[...document.querySelectorAll('figure')].every((f) => f.querySelector('figcaption'))")


def test_dark_mode_is_dark_and_print_is_light_and_whole(open_page):
    page = open_page(1280, "dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert max(map(int, page.evaluate(background + ".match(/[0-9]+/g)"))) < 60
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type/Page") >= 2
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    assert min(map(int, page.evaluate(background + ".match(/[0-9]+/g)"))) > 240


def squares(png):
    """Grey values of a picture on a coarse grid of squares of its width."""
    picture = image.open(io.BytesIO(png)).convert("L")
    rows = max(1, round(GRID * picture.height / picture.width))
    return np.asarray(picture.resize((GRID, rows), image.Resampling.BOX), dtype=float)


def difference(one, other):
    """Mean difference of grey values; a picture of another length differs by what it lacks."""
    rows = max(len(one), len(other))
    padded = [np.pad(part, ((0, rows - len(part)), (0, 0)), constant_values=128.0) for part in (one, other)]
    return float(np.abs(padded[0] - padded[1]).mean())


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_page_looks_as_it_did(open_page, width, scheme):
    page = open_page(width, scheme)
    path = SCREENSHOTS / f"report-{width}-{scheme}.png"
    taken = page.screenshot()
    if os.environ.get("SAFERL_UPDATE_SCREENSHOTS"):
        path.write_bytes(taken)
    expected = squares(path.read_bytes())
    assert difference(squares(taken), expected) < TOLERANCE
    # The comparison can fail: without its style sheet, or in the other mode, the page is another picture.
    page.evaluate("document.querySelectorAll('style').forEach((s) => s.remove())")
    assert difference(squares(page.screenshot()), expected) > TOLERANCE
