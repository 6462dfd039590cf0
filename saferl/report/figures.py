"""Figures of a report: what to show is computed first, in plain dataclasses, then drawn with Plotly.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; each policy also has its own symbol. Lines and
text use the stand-in colours ``INK``, ``GRID`` and ``PAPER``, which the page replaces by those of its light, dark or
print theme.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from saferl.errors import MissingExtraError
from saferl.report.records import ConstraintRecord, EvaluationRecord, FloatArray, Interval

Figure: TypeAlias = Any
"""A ``plotly.graph_objects.Figure``; Plotly is optional and has no types."""

MAX_POINTS = 500
"""Episodes drawn per policy; all numbers use every episode."""
INK, GRID, PAPER = "#010101", "#020202", "#030303"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Agent:
    """An evaluation as a report shows it."""

    label: str
    """Differs between the agents of one environment."""
    style: int
    """Index of its colour and symbol."""
    record: EvaluationRecord

    @property
    def colour(self) -> str:
        """Its colour in every figure."""
        return COLOURS[self.style % len(COLOURS)]

    @property
    def symbol(self) -> str:
        """Its marker in every figure."""
        return SYMBOLS[self.style % len(SYMBOLS)]

    @property
    def dash(self) -> str:
        """Its line style; solid until the colours repeat."""
        return DASHES[self.style // len(COLOURS) % len(DASHES)]


@dataclass(frozen=True)
class EpisodeValues:
    """One number per episode for a constraint."""

    values: FloatArray
    unit: str
    """Words for an axis."""
    mean: float
    ci95: Interval
    fits_budget: bool
    """The budget limits (the mean of) this number, so both may share an axis."""


@dataclass(frozen=True)
class Cloud:
    """Episodes of one agent as points (cost, return), and their means."""

    agent: Agent
    costs: FloatArray
    """Of the episodes shown, at most ``MAX_POINTS``."""
    returns: FloatArray
    mean_cost: float
    cost_ci: Interval
    mean_return: float
    return_ci: Interval


@dataclass(frozen=True)
class Spread:
    """Distribution of one agent's episode costs."""

    agent: Agent
    quantiles: tuple[float, float, float, float, float]
    """5, 25, 50, 75 and 95 %, of all episodes."""
    mean: float
    points: FloatArray
    """Of the episodes shown, at most ``MAX_POINTS``."""
    violation_rate: float


@dataclass(frozen=True)
class Line:
    """One learning curve."""

    agent: Agent
    steps: FloatArray
    values: FloatArray


def thin(num_episodes: int) -> npt.NDArray[np.intp]:
    """Indices of the episodes to draw: all, or ``MAX_POINTS`` evenly spaced ones."""
    return np.linspace(0, num_episodes - 1, min(num_episodes, MAX_POINTS)).round().astype(np.intp)


def episode_values(record: EvaluationRecord, constraint: ConstraintRecord) -> EpisodeValues:
    """The number of each episode that a reader should compare with the budget, if there is one."""
    name, episodes = constraint.name, record.episodes
    if constraint.kind in ("episode_sum", "cvar"):
        return EpisodeValues(episodes.costs[name], f"{name} per episode", constraint.mean, constraint.ci95, True)
    if constraint.kind == "step_rate":
        rates = episodes.costs[name] / episodes.lengths
        return EpisodeValues(rates, f"{name} per step", constraint.mean, constraint.ci95, True)
    if name in episodes.discounted_costs:
        sums = episodes.discounted_costs[name]
        return EpisodeValues(sums, f"discounted {name} per episode", constraint.mean, constraint.ci95, True)
    costs = episodes.costs[name]
    return EpisodeValues(costs, f"{name} per episode", float(costs.mean()), Interval(None, None), False)


def return_against_cost(agents: Sequence[Agent], name: str) -> list[Cloud]:
    """Points and means of every agent that has the constraint ``name``."""
    clouds = []
    for agent in agents:
        record = agent.record
        if name not in record.constraints:
            continue
        shown, cost = thin(len(record.episodes)), episode_values(record, record.constraints[name])
        clouds.append(
            Cloud(
                agent=agent,
                costs=cost.values[shown],
                returns=record.episodes.returns[shown],
                mean_cost=cost.mean,
                cost_ci=cost.ci95,
                mean_return=record.mean_return,
                return_ci=record.return_ci95,
            )
        )
    return clouds


def cost_spreads(agents: Sequence[Agent], name: str) -> list[Spread]:
    """Distribution of the episode costs of every agent that has the constraint ``name``."""
    spreads = []
    for agent in agents:
        if name not in agent.record.constraints:
            continue
        constraint = agent.record.constraints[name]
        cost = episode_values(agent.record, constraint)
        low, first, middle, third, high = (float(q) for q in np.quantile(cost.values, (0.05, 0.25, 0.5, 0.75, 0.95)))
        spreads.append(
            Spread(
                agent=agent,
                quantiles=(low, first, middle, third, high),
                mean=cost.mean,
                points=cost.values[thin(len(cost.values))],
                violation_rate=constraint.violation_rate,
            )
        )
    return spreads


def learning_curves(agents: Sequence[Agent]) -> dict[str, list[Line]]:
    """Curves by quantity (``return``, ``cost/NAME``, ``multiplier/NAME``); two agents of one run share its curve."""
    lines: dict[str, list[Line]] = {}
    seen = set()
    for agent in agents:
        curves = agent.record.curves
        if curves is None or curves.run in seen:
            continue
        seen.add(curves.run)
        columns = {} if curves.returns is None else {"return": curves.returns}
        columns |= {f"cost/{name}": values for name, values in curves.costs.items()}
        columns |= {f"multiplier/{name}": values for name, values in curves.multipliers.items()}
        for quantity, values in columns.items():
            known = np.isfinite(values)
            lines.setdefault(quantity, []).append(Line(agent, curves.steps[known], values[known]))
    return lines


def draw_return_against_cost(clouds: Sequence[Cloud], budgets: Mapping[str, float], unit: str) -> Figure:
    """Scatter of episodes with a cross for each mean; ``budgets`` are the budget lines by their caption."""
    go = _plotly()
    figure = go.Figure()
    for cloud in clouds:
        figure.add_scatter(
            x=cloud.costs,
            y=cloud.returns,
            mode="markers",
            marker={"color": cloud.agent.colour, "symbol": cloud.agent.symbol, "size": 5, "opacity": 0.35},
            legendgroup=str(cloud.agent.style),
            showlegend=False,
            hoverinfo="skip",
        )
    for cloud in clouds:
        label = html.escape(_shorten(cloud.agent.label))
        figure.add_scatter(
            x=[cloud.mean_cost],
            y=[cloud.mean_return],
            error_x=_error_bar(cloud.mean_cost, cloud.cost_ci),
            error_y=_error_bar(cloud.mean_return, cloud.return_ci),
            mode="markers",
            marker={
                "color": cloud.agent.colour,
                "symbol": cloud.agent.symbol,
                "size": 12,
                "line": {"color": INK, "width": 1.5},
            },
            name=label,
            legendgroup=str(cloud.agent.style),
            hovertemplate=f"{label}<br>mean return %{{y:,.4g}}<br>mean {html.escape(unit)} %{{x:,.4g}}<extra></extra>",
        )
    _draw_budgets(figure, budgets)
    figure.update_xaxes(title_text=html.escape(unit))
    figure.update_yaxes(title_text="return per episode")
    return _style(figure, height=460)


def draw_cost_spreads(spreads: Sequence[Spread], budgets: Mapping[str, float], unit: str) -> Figure:
    """One row per agent: its episodes, a box from 25 to 75 % with whiskers from 5 to 95 %, and the mean."""
    go = _plotly()
    figure = go.Figure()
    rows = range(len(spreads) - 1, -1, -1)  # the first agent on top
    for row, spread in zip(rows, spreads, strict=True):
        colour, label = spread.agent.colour, html.escape(_shorten(spread.agent.label))
        # Multiples of the golden ratio spread evenly without a random generator.
        jitter = (np.arange(len(spread.points)) * 0.618034) % 1.0
        figure.add_scatter(
            x=spread.points,
            y=row - 0.22 - 0.2 * jitter,
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.4},
            hoverinfo="skip",
        )
        low, first, middle, third, high = spread.quantiles
        figure.add_box(
            y=[row],
            q1=[first],
            median=[middle],
            q3=[third],
            lowerfence=[low],
            upperfence=[high],
            orientation="h",
            width=0.28,
            line={"color": colour, "width": 2},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[spread.mean],
            y=[row],
            mode="markers",
            marker={"color": colour, "symbol": "diamond", "size": 11, "line": {"color": INK, "width": 1.5}},
            hovertemplate=f"{label}<br>mean %{{x:,.4g}}<br>median {middle:,.4g}<br>5 to 95 %: {low:,.4g} to {high:,.4g}"
            "<extra></extra>",
        )
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=row + 0.19,
            yanchor="bottom",
            text=f"<b>{label}</b><br>{100 * spread.violation_rate:.1f} % of episodes violate",
            showarrow=False,
            align="left",
            bgcolor=PAPER,
            borderpad=1,
            font={"size": 13},
        )
    _draw_budgets(figure, budgets)
    figure.update_xaxes(title_text=html.escape(unit))
    top = len(spreads) - 0.4 + 0.2 * len(budgets)  # room for the captions of the budget lines
    figure.update_yaxes(visible=False, range=[-0.5, top], fixedrange=True)
    return _style(figure, height=round(75 + 130 * (top + 0.5)), legend=False)


def draw_lines(lines: Sequence[Line], budgets: Mapping[str, float], title: str) -> Figure:
    """Learning curves of one quantity over environment steps."""
    go = _plotly()
    figure = go.Figure()
    for line in lines:
        figure.add_scatter(
            x=line.steps,
            y=line.values,
            mode="lines+markers" if len(line.steps) < 3 else "lines",
            line={"color": line.agent.colour, "width": 2, "dash": line.agent.dash},
            name=html.escape(_shorten(line.agent.label)),
            showlegend=True,
        )
    ends = [min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)]
    for index, (caption, budget) in enumerate(budgets.items()):
        figure.add_scatter(
            x=ends,
            y=[budget, budget],
            mode="lines",
            line={"color": INK, "width": 2, "dash": "dot" if index else "dash"},
            name=html.escape(caption),
            hoverinfo="skip",
        )
    figure.update_xaxes(title_text="environment steps")
    figure.update_yaxes(title_text=html.escape(title), rangemode="tozero" if budgets else "normal")
    return _style(figure, height=340)


def plotly_script() -> str:
    """The source of plotly.js, which the page carries so that it needs no network."""
    _plotly()
    return str(importlib.import_module("plotly.offline").get_plotlyjs())


def _plotly() -> ModuleType:
    try:
        return importlib.import_module("plotly.graph_objects")
    except ModuleNotFoundError as error:
        raise MissingExtraError("The report", "plotly", "report") from error


def _shorten(label: str) -> str:
    """A label that fits the width of a phone; the text around the figure has it in full."""
    return label if len(label) <= 36 else f"{label[:35]}\N{HORIZONTAL ELLIPSIS}"


def _error_bar(mean: float, interval: Interval) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if interval.high is None else max(interval.high - mean, 0.0)],
        "arrayminus": [0.0 if interval.low is None else max(mean - interval.low, 0.0)],
        "color": INK,
        "thickness": 2,
        "width": 5,
    }


def _draw_budgets(figure: Figure, budgets: Mapping[str, float]) -> None:
    """Vertical lines with captions that stand one below the other; the second and later lines are dotted."""
    for index, (caption, budget) in enumerate(budgets.items()):
        line = {"color": INK, "width": 2, "dash": "dot" if index else "dash"}
        figure.add_shape(type="line", x0=budget, x1=budget, y0=0, y1=1, yref="paper", line=line)
        figure.add_annotation(
            text=html.escape(caption),
            x=budget,
            xanchor="left",
            y=1,
            yref="paper",
            yanchor="top",
            yshift=-18 * index,
            showarrow=False,
            bgcolor=PAPER,  # readable over points
            borderpad=2,
        )


def _style(figure: Figure, *, height: int, legend: bool = True) -> Figure:
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        showlegend=legend,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 14, "color": INK},
        margin={"l": 60 if legend else 16, "r": 16, "t": 16, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        hoverlabel={"bgcolor": PAPER, "bordercolor": INK, "font": {"color": INK}},
    )
    axis = {
        "gridcolor": GRID,
        "linecolor": INK,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "automargin": True,
        "title": {"font": {"size": 14}, "standoff": 10},
        "tickfont": {"size": 13},
    }
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    return figure
