"""One HTML file that says, first in words, whether the evaluated policies keep their budgets."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any

from saferl.constraints import VIOLATION_RATE
from saferl.errors import MissingExtraError, RunFolderError, UsageError
from saferl.report import figures
from saferl.report.figures import Agent
from saferl.report.records import ConstraintRecord, EvaluationRecord, Interval, read_evaluation
from saferl.storage import write_text

MINUS = "\N{MINUS SIGN}"
SYMBOLS = {"satisfied": "\N{CHECK MARK}", "violated": "\N{BALLOT X}", "undecided": "?"}
"""A verdict is told by symbol and word, never by colour alone."""


@dataclass(frozen=True)
class Plot:
    """A figure with its words."""

    id: str
    title: str
    caption: str
    alt: str
    json: Any
    """Markup that is safe inside a script element."""


@dataclass(frozen=True)
class Section:
    """Everything about one environment."""

    id: str
    env: str
    kwargs: str
    cautions: list[str]
    agents: list[Agent]
    plots: list[tuple[str, list[Plot]]]
    """Plots by constraint, under the constraint's description."""
    curves: list[Plot]


def build_report(evaluations: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write one self-contained HTML file about some evaluations.

    Args:
        evaluations: Evaluation folders (``summary.json``, ``episodes.jsonl``), of one environment or several.
        out: The ``.html`` file; an older one is replaced once the new one is complete.
        title: Heading of the page; names the environment by default.

    Returns:
        ``out``.

    Raises:
        UsageError: No evaluation, one twice, or ``out`` is not an HTML file.
        RunFolderError: An evaluation cannot be read, or ``out`` cannot be written.
        MissingExtraError: Jinja2 or Plotly is not installed.
    """
    evaluations, out = [Path(folder) for folder in evaluations], Path(out)
    if not evaluations:
        raise UsageError("A report needs at least one evaluation folder; got none. Make one with: saferl eval POLICY")
    for folder, count in Counter(folder.resolve() for folder in evaluations).items():
        if count > 1:
            raise UsageError(f"A report needs different evaluation folders; got {folder} {count} times. Name it once.")
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise UsageError(f"The output of a report must be an .html file; got {out}. Choose a name like report.html.")
    page = render([read_evaluation(folder) for folder in evaluations], title=title)
    try:
        write_text(out, page)
    except OSError as error:
        raise RunFolderError(
            f"The report cannot be written: {out} ({error.strerror}). Choose a file in a folder that can be written."
        ) from error
    return out


def render(records: Sequence[EvaluationRecord], *, title: str | None = None) -> str:
    """The page as text; equal records give equal text."""
    try:
        jinja2 = importlib.import_module("jinja2")
    except ModuleNotFoundError as error:
        raise MissingExtraError("The report", "jinja2", "report") from error
    markup = jinja2.utils.markupsafe.Markup
    by_env: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        by_env.setdefault(record.env, []).append(record)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "number": number,
        "upper": lambda value: number(value, ROUND_CEILING),
        "lower": lambda value: number(value, ROUND_FLOOR),
        "interval": interval,
        "percent": percent,
        "percents": lambda ends: f"{percent(ends.low).removesuffix(' %')} to {percent(ends.high)}",
        "budget": plain,
        "mapping": mapping,
    }
    environment.filters.update(filters)
    sections = [_section(i, env, group, markup) for i, (env, group) in enumerate(by_env.items(), 1)]
    page = environment.get_template("report.html.j2").render(
        title=title or f"Safety report: {', '.join(by_env)}",
        sections=sections,
        headlines=headlines,
        symbols=SYMBOLS,
        max_points=figures.MAX_POINTS,
        plotly=markup(figures.plotly_script()),
        stand_ins=markup(json.dumps({figures.INK: "--ink", figures.GRID: "--grid", figures.PAPER: "--paper"})),
    )
    return str(page)


def number(value: float | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """About three significant digits; a bound is rounded away from the estimate, so that it stays valid."""
    if value is None:
        return "none"
    if value == 0:
        return "0"
    exact = Decimal(repr(float(value)))
    if abs(exact) < Decimal("0.001"):
        text = f"{Context(prec=3, rounding=rounding).create_decimal(exact):e}"
    elif abs(exact) < 1:
        text = f"{Context(prec=3, rounding=rounding).create_decimal(exact):f}"
    else:
        places = 2 if abs(exact) < 10 else 1 if abs(exact) < 100 else 0
        text = f"{exact.quantize(Decimal(1).scaleb(-places), rounding=rounding):,}"
    return text.replace("-", MINUS)


def plain(value: float) -> str:
    """A number that somebody chose, such as a budget: as it was written."""
    return f"{value:,.6g}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share as per cent."""
    return "none" if share is None else f"{100 * share:.1f} %"


def interval(ends: Interval) -> str:
    """Both ends, rounded outwards."""
    if ends.low is None and ends.high is None:
        return "no interval"
    return f"{number(ends.low, ROUND_FLOOR)} to {number(ends.high, ROUND_CEILING)}"


def mapping(items: Mapping[str, Any]) -> str:
    """``name value`` pairs in one line."""
    return ", ".join(f"{k} {plain(v) if isinstance(v, float) else v}" for k, v in items.items()) or "none"


def headlines(agent: Agent) -> list[tuple[str, str]]:
    """One (verdict, sentence) per constraint."""
    confidence = f"{100 * agent.record.method.confidence:g} % confidence"
    constraints = agent.record.constraints.values()
    sentences: list[tuple[str, str]] = [(c.verdict, headline(agent.label, c, confidence)) for c in constraints]
    if agent.record.policy.trained_for != VIOLATION_RATE:
        return sentences
    return [(verdict, f"{text} {violations(c)}") for (verdict, text), c in zip(sentences, constraints, strict=True)]


def violations(constraint: ConstraintRecord) -> str:
    """How often a policy that was trained to violate seldom violates, and that it was not trained for the budget."""
    name, rate = constraint.name, constraint.step_violation_rate
    found = "this evaluation did not count them"
    if rate is not None:
        ends = constraint.step_violation_rate_ci95
        sure = f" (95 % interval {percent(ends.low)} to {percent(ends.high)})" if ends.low is not None else ""
        found = f"{name} is violated in {percent(rate)} of its steps{sure}"
    return f"It was trained for few violating steps, not for this budget; {found}."


def headline(label: str, constraint: ConstraintRecord, confidence: str) -> str:
    """The finding about one constraint as a sentence in plain English."""
    is_upper = constraint.sense == "<="
    limit = "budget" if is_upper else "required minimum"
    which = "" if constraint.name == "cost" else f" of {constraint.name}"
    verb = {"satisfied": "keeps the", "violated": "breaks the" if is_upper else "misses the"}.get(constraint.verdict)
    start = f"{label} {verb} {limit}{which}" if verb else f"{label} is undecided about the {limit}{which}"
    at_most = (
        None if constraint.upper95 is None else f"at most {_amount(constraint, constraint.upper95, ROUND_CEILING)}"
    )
    at_least = (
        None if constraint.lower95 is None else f"at least {_amount(constraint, constraint.lower95, ROUND_FLOOR)}"
    )
    if constraint.verdict == "undecided":
        bounds = [bound for bound in (at_least, at_most) if bound]
        end = "; more episodes are needed"
        if not bounds:
            end = "; there is no valid confidence bound for this cost, and so no verdict"
    else:
        # The side that decides: a kept upper limit needs the upper bound, a broken one the lower bound.
        decisive = at_most if is_upper == (constraint.verdict == "satisfied") else at_least
        bounds, end = [decisive] if decisive else [], ""
    each = "each with" if len(bounds) > 1 else "with"
    sure = f", {' and '.join(bounds)} {each} {confidence}" if bounds else ""
    allowed = plain(constraint.budget) if constraint.kind != "probability" else f"{plain(100 * constraint.budget)} %"
    return f"{start}: {_estimate(constraint)}{sure}, {limit} {allowed}{end}."


def _estimate(constraint: ConstraintRecord) -> str:
    name = constraint.name
    if constraint.kind == "cvar":
        return f"mean {name} of the worst tenth of episodes {number(constraint.cvar90)}"
    quantity = {
        "probability": f"share of episodes with any {name}",
        "discounted": f"mean discounted {name}",
        "step_rate": f"mean {name} per step",
    }.get(constraint.kind, f"mean {name}")
    return f"{quantity} {_amount(constraint, constraint.mean)}"


def _amount(constraint: ConstraintRecord, value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    return f"{number(100 * value, rounding)} %" if constraint.kind == "probability" else number(value, rounding)


def cautions(agents: Sequence[Agent]) -> list[str]:
    """What a reader must know before comparing the agents of one environment."""
    found = []
    names = list(dict.fromkeys(name for agent in agents for name in agent.record.constraints))
    for name in names:
        having = [agent for agent in agents if name in agent.record.constraints]
        if len(having) < len(agents):
            found.append(f"The constraint {name} was evaluated only for {_and(a.label for a in having)}.")
        budgets = {agent.label: _limit(agent.record.constraints[name]) for agent in having}
        if len(set(budgets.values())) > 1:
            listed = ", ".join(f"{label} {budget}" for label, budget in budgets.items())
            found.append(
                f"The budgets of {name} differ: {listed}. Each verdict holds for its own budget only; "
                "compare the policies by their means and bounds, or evaluate them again under one budget."
            )
    aspects: list[tuple[str, Callable[[EvaluationRecord], object], str]] = [
        ("environment options", lambda r: json.dumps(r.env_kwargs, sort_keys=True), "they did not face the same task"),
        ("action modes", _mode, "a deterministic version of a stochastic policy is another policy"),
        ("episode seeds", lambda r: r.first_seed, "they did not meet the same initial states"),
        ("saferl versions", lambda r: r.versions.get("saferl"), "the protocol may have changed in between"),
    ]
    for what, read, why in aspects:
        if len({read(agent.record) for agent in agents}) > 1:
            found.append(f"The {what} of these evaluations differ, so {why}; see how it was measured.")
    return found


def _limit(constraint: ConstraintRecord) -> str:
    kind = "" if constraint.kind == "episode_sum" else f" ({constraint.kind})"
    return f"{'' if constraint.sense == '<=' else 'at least '}{plain(constraint.budget)}{kind}"


def _mode(record: EvaluationRecord) -> str:
    return "deterministic" if record.is_deterministic else "stochastic"


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def label_agents(records: Sequence[EvaluationRecord]) -> list[Agent]:
    """Give each evaluation of one environment a name of its own, as short as the others allow."""
    labels = [f"{r.policy.label} with {r.shield} shield" if r.shield else r.policy.label for r in records]
    aspects: list[Callable[[EvaluationRecord], str]] = [
        lambda r: "untrained" if r.policy.train_seed is None else f"training seed {r.policy.train_seed}",
        lambda r: f"{r.checkpoint or 'unknown'} iterate",
        _mode,
        lambda r: f"trained for {mapping(r.policy.train_budgets or {})}",
        lambda r: r.folder.name,
        lambda r: str(r.folder),
    ]
    for label, count in Counter(labels).items():
        group = [i for i, other in enumerate(labels) if other == label] if count > 1 else []
        extra: dict[int, list[str]] = {i: [] for i in group}
        for aspect in aspects:
            if len({tuple(words) for words in extra.values()}) == len(group):
                break
            if len({aspect(records[i]) for i in group}) > 1:
                for i in group:
                    extra[i].append(aspect(records[i]))
        for i in group:
            labels[i] = f"{label} ({', '.join(extra[i])})"
    return [Agent(label, style, record) for style, (label, record) in enumerate(zip(labels, records, strict=True))]


def _section(index: int, env: str, records: Sequence[EvaluationRecord], markup: Any) -> Section:
    agents = label_agents(records)
    constraints: dict[str, list[ConstraintRecord]] = {}
    for record in records:
        for name, constraint in record.constraints.items():
            constraints.setdefault(name, []).append(constraint)
    plots = []
    for position, (name, same) in enumerate(constraints.items(), 1):
        heading = f"{name}: {_and(dict.fromkeys(c.description for c in same))}"
        plots.append((heading, _constraint_plots(f"plot-{index}-{position}", agents, name, markup)))
    return Section(
        id=f"env-{index}",
        env=env,
        kwargs=_and(dict.fromkeys(json.dumps(r.env_kwargs, sort_keys=True) for r in records)),
        cautions=cautions(agents),
        agents=agents,
        plots=plots,
        curves=_curve_plots(f"plot-{index}-curve", agents, markup),
    )


def _constraint_plots(prefix: str, agents: Sequence[Agent], name: str, markup: Any) -> list[Plot]:
    having = [agent for agent in agents if name in agent.record.constraints]
    values = [figures.episode_values(agent.record, agent.record.constraints[name]) for agent in having]
    unit = values[0].unit
    fits = all(value.fits_budget and value.unit == unit for value in values)
    budgets = _budget_lines(having, name) if fits else {}
    note = "" if fits else " The budget limits another quantity than the cost of an episode, so it is not drawn."
    thinned = [a for a in having if len(a.record.episodes) > figures.MAX_POINTS]
    if thinned:
        shares = _and(f"{figures.MAX_POINTS} of {len(a.record.episodes):,} ({a.label})" for a in thinned)
        note += f" Points are episodes evenly spaced by number: {shares}; means, boxes and shares use all."
    clouds = figures.return_against_cost(agents, name)
    spreads = figures.cost_spreads(agents, name)
    means = "; ".join(f"{c.agent.label}: mean {number(c.mean_cost)}, return {number(c.mean_return)}" for c in clouds)
    boxes = "; ".join(
        "{}: 5 % {}, median {}, 95 % {}".format(s.agent.label, *map(number, s.quantiles[::2])) for s in spreads
    )
    return [
        Plot(
            id=f"{prefix}-scatter",
            title=f"Return against {name}",
            caption="Each faint point is an episode; the large mark is the mean with its 95 % confidence intervals. "
            f"{_good_side(having, name)}{note}",
            alt=f"Scatter of return against {unit}. {means}.",
            json=_figure_json(figures.draw_return_against_cost(clouds, budgets, unit), markup),
        ),
        Plot(
            id=f"{prefix}-spread",
            title=f"Distribution of {name}",
            caption="The box holds the middle half of the episodes, its line is the median, the whiskers reach from "
            f"5 to 95 %, the diamond is the mean, and the points under it are episodes.{note}",
            alt=f"Distribution of {unit}. {boxes}.",
            json=_figure_json(figures.draw_cost_spreads(spreads, budgets, unit), markup),
        ),
    ]


def _good_side(agents: Sequence[Agent], name: str) -> str:
    senses = {agent.record.constraints[name].sense for agent in agents}
    if senses == {"<="}:
        return "Better is higher and to the left of the budget line."
    return "Better is higher and to the right of the required minimum." if senses == {">="} else "Better is higher."


def _budget_lines(agents: Sequence[Agent], name: str) -> dict[str, float]:
    """Different budgets of a constraint by their captions; whose they are is said before any comparison."""
    lines = {}
    for agent in agents:
        constraint = agent.record.constraints[name]
        word = "budget" if constraint.sense == "<=" else "required minimum"
        lines[f"{word} {plain(constraint.budget)}"] = constraint.budget
    return lines


def _curve_plots(prefix: str, agents: Sequence[Agent], markup: Any) -> list[Plot]:
    plots = []
    for index, (quantity, lines) in enumerate(figures.learning_curves(agents).items(), 1):
        what, _, name = quantity.partition("/")
        title = {"return": "Training return", "cost": f"Training {name}", "multiplier": f"Multiplier of {name}"}[what]
        budgets: dict[str, float] = {}
        having = [line.agent for line in lines if name in line.agent.record.constraints]
        if what == "cost" and having and all(a.record.constraints[name].kind == "episode_sum" for a in having):
            budgets = _budget_lines(having, name)
            for agent in having:
                trained = (agent.record.policy.train_budgets or {}).get(name)
                if trained is not None and trained not in budgets.values():
                    budgets[f"trained for {plain(trained)}"] = trained
        ends = "; ".join(f"{line.agent.label} ends at {number(float(line.values[-1]))}" for line in lines)
        axis = {"return": "return per episode", "cost": f"{name} per episode", "multiplier": "multiplier"}[what]
        plots.append(
            Plot(
                id=f"{prefix}-{index}",
                title=title,
                caption=f"{ends}.",
                alt=f"Learning curve: {title} over environment steps. {ends}.",
                json=_figure_json(figures.draw_lines(lines, budgets, axis), markup),
            )
        )
    return plots


def _figure_json(figure: figures.Figure, markup: Any) -> Any:
    r"""JSON that cannot close the script element around it: ``<`` is written as ``\u003c``."""
    return markup(str(figure.to_json()).replace("<", "\\u003c"))
