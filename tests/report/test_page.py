"""The page says the verdicts in words, escapes what it read, needs no network, and is written whole or not at all."""

import json
import re
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saferl.errors import MissingExtraError, RunFolderError, UsageError
from saferl.report import build_report, figures, page, read_evaluation

PROGRESS = (
    "time/total_timesteps,rollout/ep_rew_mean,rollout/ep_cost/cost,multiplier/cost\n2048,-10,3,\n4096,50,30,0.25\n"
)


@pytest.fixture(autouse=True)
def light_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the 5 MB of plotly.js, which only the test of the whole file needs."""
    monkeypatch.setattr(figures, "plotly_script", lambda: "/* plotly.js */")


def constraint(**changes: Any) -> dict[str, Any]:
    """A constraint of summary.json; by default a satisfied one."""
    return {
        "kind": "episode_sum",
        "sense": "<=",
        "budget": 25.0,
        "description": "E[sum of cost per episode] <= 25",
        "mean": 12.34,
        "ci95": [10.0, 14.0],
        "lower95": 9.876,
        "upper95": 17.91,
        "cvar90": 40.0,
        "max": 61.0,
        "violation_rate": 0.125,
        "violation_rate_ci95": [0.05, 0.2],
        "verdict": "satisfied",
        "bound": "betting on [0, 1000]",
    } | changes


def evaluation(
    folder: Path,
    *,
    label: str = "PPO-Lagrangian",
    constraints: dict[str, Any] | None = None,
    n: int = 8,
    **changes: Any,
) -> Path:
    """Write an evaluation folder with ``n`` episodes."""
    folder.mkdir(parents=True)
    constraints = {"cost": constraint()} if constraints is None else constraints
    policy = {"solver": "ppo_lag", "train_steps": 200_000, "train_seed": 0, "train_budgets": {"cost": 20.0}}
    summary = {
        "schema": "saferl.evaluation/1",
        "env": "SafetyHalfCheetahVelocity-v1",
        "env_kwargs": {},
        "deterministic": False,
        "seeds": {"first": 10_000_000, "count": n},
        "checkpoint": "last",
        "versions": {"saferl": "0.1.0", "python": "3.11.9"},
        "method": {"mean_cost": "betting bound", "rates": "Clopper-Pearson", "return": "bootstrap", "confidence": 0.95},
        "policy": policy | {"name": "ppo_lag", "label": label, "evaluations": 1},
        "shield": None,
        "episodes": n,
        "length": {"mean": 1000.0, "min": 1000, "max": 1000},
        "return": {"mean": (n - 1) / 2, "ci95": [0.0, float(n)], "iqm": (n - 1) / 2},
        "constraints": constraints,
        "duration_s": 12.3,
    } | changes
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"episode": i, "seed": 10_000_000 + i, "return": float(i), "length": 1000, "terminated": False, "cost": 1.0}
        | {"costs": {name: data["mean"] for name, data in constraints.items()}}
        for i in range(n)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class Page(HTMLParser):
    """Tags with their attributes, text outside of scripts and styles, and the content of each script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._inside, self.pieces).append(data)


def report(tmp_path: Path, *folders: Path, **options: Any) -> Page:
    return Page(build_report(folders, tmp_path / "report.html", **options))


VERDICTS = [
    (
        constraint(),
        "PPO-Lagrangian keeps the budget: mean cost 12.3, at most 18.0 with 95 % confidence, budget 25.",
    ),
    (
        constraint(mean=156.2, lower95=140.6, upper95=170.0, verdict="violated"),
        "PPO-Lagrangian breaks the budget: mean cost 156, at least 140 with 95 % confidence, budget 25.",
    ),
    (
        constraint(mean=24.0, lower95=20.0, upper95=29.5, verdict="undecided"),
        "PPO-Lagrangian is undecided about the budget: mean cost 24.0, at least 20.0 and at most 29.5 each with 95 % "
        "confidence, budget 25; more episodes are needed.",
    ),
    (
        constraint(lower95=None, upper95=None, verdict="undecided"),
        "PPO-Lagrangian is undecided about the budget: mean cost 12.3, budget 25; there is no valid confidence bound "
        "for this cost, and so no verdict.",
    ),
    (
        constraint(sense=">=", mean=30.0, lower95=27.66, upper95=33.0),
        "PPO-Lagrangian keeps the required minimum: mean cost 30.0, at least 27.6 with 95 % confidence, "
        "required minimum 25.",
    ),
    (
        constraint(sense=">=", mean=18.0, lower95=16.0, upper95=20.01, verdict="violated"),
        "PPO-Lagrangian misses the required minimum: mean cost 18.0, at most 20.1 with 95 % confidence, "
        "required minimum 25.",
    ),
    (
        constraint(sense=">=", mean=26.0, lower95=22.0, upper95=29.0, verdict="undecided"),
        "PPO-Lagrangian is undecided about the required minimum: mean cost 26.0, at least 22.0 and at most 29.0 each "
        "with 95 % confidence, required minimum 25; more episodes are needed.",
    ),
    (
        constraint(kind="probability", mean=0.03, lower95=0.01, upper95=0.0467, budget=0.05),
        "PPO-Lagrangian keeps the budget: share of episodes with any cost 3.00 %, at most 4.67 % with 95 % confidence, "
        "budget 5 %.",
    ),
    (
        constraint(kind="step_rate", mean=0.0123, lower95=0.01, upper95=0.01791, budget=0.025),
        "PPO-Lagrangian keeps the budget: mean cost per step 0.0123, at most 0.0180 with 95 % confidence, "
        "budget 0.025.",
    ),
]


@pytest.mark.parametrize(("data", "sentence"), VERDICTS)
def test_the_headline_says_the_verdict_in_plain_english(tmp_path: Path, data: dict[str, Any], sentence: str) -> None:
    agent = figures.Agent("PPO-Lagrangian", 0, read_evaluation(evaluation(tmp_path / "e", constraints={"cost": data})))
    assert page.headlines(agent) == [(data["verdict"], sentence)]


def test_each_constraint_has_its_own_sentence_symbol_and_word(tmp_path: Path) -> None:
    both = {"hazards": constraint(), "vases": constraint(verdict="violated")}
    text = report(tmp_path, evaluation(tmp_path / "e", constraints=both)).text
    assert "✓ satisfied PPO-Lagrangian keeps the budget of hazards: mean hazards 12.3" in text
    assert "✗ violated PPO-Lagrangian breaks the budget of vases: mean vases 12.3" in text


@pytest.mark.parametrize(
    ("value", "upper", "lower"),
    [
        (25.04, "25.1", "25.0"),
        (18.0, "18.0", "18.0"),
        (0.0, "0", "0"),
        (1234.2, "1,235", "1,234"),
        (0.05678, "0.0568", "0.0567"),
        (1.2345e-5, f"1.24e{page.MINUS}5", f"1.23e{page.MINUS}5"),
    ],
)
def test_bounds_are_rounded_away_from_the_mean(value: float, upper: str, lower: str) -> None:
    assert (page.number(value, ROUND_CEILING), page.number(value, ROUND_FLOOR)) == (upper, lower)
    negated = {bound if bound == "0" else f"{page.MINUS}{bound}" for bound in (upper, lower)}
    assert {page.number(-value, ROUND_CEILING), page.number(-value, ROUND_FLOOR)} == negated


def test_the_table_and_the_method_hold_the_numbers(tmp_path: Path) -> None:
    text = report(tmp_path, evaluation(tmp_path / "e")).text
    assert "cost ≤ 25 ✓ satisfied 12.3 10.0 to 14.0 ≥ 9.87 ≤ 18.0 40.0 61.0 12.5 % 5.0 to 20.0 %" in text
    assert "8 stochastic" in text
    assert "cost 20; reported against cost 25" in text
    assert "seeds 10000000 to 10000007" in text
    for words in ("betting bound", "Clopper-Pearson", "saferl 0.1.0, python 3.11.9", "betting on [0, 1000]"):
        assert words in text


def test_text_from_files_is_escaped_in_html_and_in_figures(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script>"
    plain = report(tmp_path, evaluation(tmp_path / "a"))
    found = report(
        tmp_path,
        evaluation(tmp_path / "b", label=nasty, shield=nasty, env=f"Env{nasty}", versions={nasty: nasty}),
        title=nasty,
    )
    assert len(found.scripts) == len(plain.scripts)
    assert found.text.count(nasty) >= 6
    data = [script for script in found.scripts if script.startswith('{"data"')]
    assert len(data) == 2
    assert all("<" not in script for script in data)
    assert any("&lt;script&gt;" in trace.get("name", "") for trace in json.loads(data[0])["data"])


def test_the_file_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with the real plotly.js
    found = report(tmp_path, evaluation(tmp_path / "e"))
    for tag, attributes in found.tags:
        assert tag not in ("link", "base", "iframe", "object", "embed")
        assert not {"src", "srcset", "data", "action", "poster"} & set(attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(", "".join(found.styles))
    plotly = [script for script in found.scripts if "plotly.js v" in script[:200]]
    assert len(plotly) == 1
    own = [script for script in found.scripts if script not in plotly]
    assert not re.search(r"https?://", "".join(own) + found.text)


def test_the_page_is_accessible(tmp_path: Path) -> None:
    found = report(tmp_path, evaluation(tmp_path / "e"))
    tags = [tag for tag, _ in found.tags]
    assert ("html", {"lang": "en"}) in found.tags
    assert tags.count("h1") == 1
    assert all("scope" in attributes for tag, attributes in found.tags if tag == "th")
    plots = [attributes for _, attributes in found.tags if attributes.get("class") == "plot"]
    assert len(plots) == 2
    assert all(plot["role"] == "img" and "12.3" in (plot["aria-label"] or "") for plot in plots)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids


def test_learning_curves_are_there_only_with_a_training_log(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "run" / "eval")
    assert "Learning curves" not in report(tmp_path, folder).text
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "progress.csv").write_text(PROGRESS)
    found = report(tmp_path, folder)
    assert "Training return PPO-Lagrangian ends at 50.0." in found.text
    names = [
        trace["name"]
        for script in found.scripts
        if '"environment steps"' in script
        for trace in json.loads(script)["data"]
    ]
    assert names == ["PPO-Lagrangian", "PPO-Lagrangian", "budget 25", "trained for 20", "PPO-Lagrangian"]


def test_two_evaluations_of_one_run_share_its_curve_and_differ_by_label(tmp_path: Path) -> None:
    last = evaluation(tmp_path / "run" / "last")
    best = evaluation(tmp_path / "run" / "best", checkpoint="best")
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "progress.csv").write_text(PROGRESS)
    agents = page.label_agents([read_evaluation(last), read_evaluation(best)])
    assert [agent.label for agent in agents] == ["PPO-Lagrangian (last iterate)", "PPO-Lagrangian (best iterate)"]
    assert {quantity: len(lines) for quantity, lines in figures.learning_curves(agents).items()} == {
        "return": 1,
        "cost/cost": 1,
        "multiplier/cost": 1,
    }


def test_equal_policies_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    records = [read_evaluation(evaluation(tmp_path / name / "eval")) for name in ("a", "b")]
    first, second = (agent.label for agent in page.label_agents(records))
    assert first != second


def test_budgets_that_differ_are_flagged_in_words_and_both_drawn(tmp_path: Path) -> None:
    folders = [
        evaluation(tmp_path / "a", label="PPO"),
        evaluation(tmp_path / "b", label="CPO", constraints={"cost": constraint(budget=40.0)}),
    ]
    found = report(tmp_path, *folders)
    assert "The budgets of cost differ: PPO 25, CPO 40. Each verdict holds for its own budget only" in found.text
    scatter = next(json.loads(script) for script in found.scripts if script.startswith('{"data"'))
    assert [shape["x0"] for shape in scatter["layout"]["shapes"]] == [25, 40]


def test_equal_conditions_are_not_flagged(tmp_path: Path) -> None:
    found = report(tmp_path, evaluation(tmp_path / "a", label="PPO"), evaluation(tmp_path / "b", label="CPO", n=9))
    assert "Before you compare" not in found.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env_kwargs": {"robot": "car"}}, "environment options"),
        ({"deterministic": True}, "action modes"),
        ({"versions": {"saferl": "0.2.0"}}, "saferl versions"),
        ({"constraints": {}}, "The constraint cost was evaluated only for PPO."),
    ],
)
def test_unequal_conditions_are_flagged(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folders = [evaluation(tmp_path / "a", label="PPO"), evaluation(tmp_path / "b", label="CPO", **changes)]
    assert words in report(tmp_path, *folders).text.partition("Before you compare")[2]


def test_environments_have_sections_of_their_own(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a"), evaluation(tmp_path / "b", env="SafetyPointGoal1-v0")]
    found = report(tmp_path, *folders)
    assert "Before you compare" not in found.text
    assert [attributes["href"] for tag, attributes in found.tags if tag == "a"] == ["#main", "#env-1", "#env-2"]


def test_many_episodes_are_thinned_in_figures_only_and_the_page_says_so(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e", n=1200)
    agents = page.label_agents([read_evaluation(folder)])
    (cloud,), (spread,) = figures.return_against_cost(agents, "cost"), figures.cost_spreads(agents, "cost")
    assert (len(cloud.returns), len(spread.points)) == (500, 500)
    assert (cloud.returns[0], cloud.returns[-1], cloud.mean_return) == (0.0, 1199.0, 599.5)
    assert "500 of 1,200 (PPO-Lagrangian); means, boxes and shares use all." in report(tmp_path, folder).text


@pytest.mark.parametrize(
    ("kind", "fits", "value"),
    [
        ("episode_sum", True, 12.34),
        ("cvar", True, 12.34),
        ("step_rate", True, 0.01234),
        ("discounted", False, 12.34),  # its discounted sums were not recorded
        ("statewise", False, 12.34),
    ],
)
def test_a_budget_is_drawn_only_where_it_has_the_unit_of_the_axis(
    tmp_path: Path, kind: str, fits: bool, value: float
) -> None:
    folder = evaluation(tmp_path / "e", constraints={"cost": constraint(kind=kind)})
    record = read_evaluation(folder)
    values = figures.episode_values(record, record.constraints["cost"])
    assert values.fits_budget is fits
    np.testing.assert_allclose(values.values, value)
    assert ("so it is not drawn" in report(tmp_path, folder).text) is not fits


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = evaluation(tmp_path / "a")
    out = build_report([good], tmp_path / "out" / "report.html")
    before = out.read_bytes()
    broken = evaluation(tmp_path / "b")
    (broken / "episodes.jsonl").write_text("{")
    with pytest.raises(RunFolderError, match="Line 1"):
        build_report([good, broken], out)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunFolderError, match=r"cannot be written.*No space left"):
        build_report([good], out, title="new")
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_equal_evaluations_give_an_equal_page(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e")
    first, second = (build_report([folder], tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert first == second


def test_unusable_arguments_are_refused(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e")
    with pytest.raises(UsageError, match="at least one evaluation"):
        build_report([], tmp_path / "report.html")
    with pytest.raises(UsageError, match="2 times"):
        build_report([folder, folder / ".." / "e"], tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"must be an \.html file; got .*summary\.json"):
        build_report([folder], folder / "summary.json")


@pytest.mark.parametrize(("module", "package"), [("jinja2", "jinja2"), ("plotly.graph_objects", "plotly")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    folder = evaluation(tmp_path / "e")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"The report needs {package}.*saferl\[report\]"):
        build_report([folder], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("rate", "ends", "words"),
    [
        (0.0125, [0.01, 0.02], "cost is violated in 1.2 % of its steps (95 % interval 1.0 % to 2.0 %)."),
        (0.0125, [None, None], "cost is violated in 1.2 % of its steps."),
        (None, [None, None], "this evaluation did not count them."),
    ],
)
def test_a_policy_that_was_trained_for_few_violations_is_not_said_to_have_a_budget(
    tmp_path: Path, rate: float | None, ends: list[float | None], words: str
) -> None:
    trained = {"solver": "cat", "train_steps": 9, "train_seed": 0, "trained_for": "violation rate per step"}
    policy = trained | {"train_budgets": None, "name": "cat", "label": "CaT", "evaluations": 1}
    cost = constraint(step_violation_rate=rate, step_violation_rate_ci95=ends)
    text = report(tmp_path, evaluation(tmp_path / "e", constraints={"cost": cost}, policy=policy)).text
    assert f"budget 25. It was trained for few violating steps, not for this budget; {words}" in text
    assert "Trained for violation rate per step Training budget none: not trained under a budget" in text


def test_of_other_policies_no_rate_of_steps_is_told(tmp_path: Path) -> None:
    cost = constraint(step_violation_rate=0.5, step_violation_rate_ci95=[0.4, 0.6])
    text = report(tmp_path, evaluation(tmp_path / "e", constraints={"cost": cost})).text
    assert "violating steps" not in text
    assert "Trained for" not in text
