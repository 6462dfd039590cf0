"""Dataset cards: what a data set holds, in numbers, and three pictures of it in a Markdown page.

The first picture is that of the DSRL paper (Liu, Guo, Lin and others, 2023, arXiv 2306.09303): return over cost, a dot
per episode. The line above it is what the data themselves show to be possible within each budget.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.data.dataset import Dataset
from saferl.errors import MissingExtraError, RunFolderError, UnknownNameError
from saferl.storage import atomic_folder

_WITHIN, _BEYOND, _BUDGET, _FRONT = "#1f5fa8", "#b3541e", "#1b7f4d", "#444444"
_MANY = 2000
"""Dots above which a picture holds them as pixels, so that its file stays small."""
_SAMPLED = 50_000
"""Rows at most that the coverage is computed from, evenly spaced."""
_FAMILIES = 12
"""Behaviours that the card names."""


def describe(dataset: Dataset, *, name: str = "data") -> dict[str, Any]:
    """What the data hold, as plain JSON types: sizes, ranges of returns and costs, ends, behaviours, digest.

    Args:
        dataset: The data.
        name: What they are called.
    """
    lengths = dataset.episode_ends - dataset.episode_starts
    inner = np.ones(len(dataset), dtype=np.bool_)
    inner[dataset.episode_ends - 1] = False
    rows = np.flatnonzero(inner)
    entries = tuple(range(1, dataset.observations.ndim))
    follows = (dataset.next_observations[rows] == dataset.observations[rows + 1]).all(axis=entries)
    families = Counter(label.partition("/")[0].partition("(")[0].strip() for label in dataset.metadata.behaviours)
    budgets = dataset.metadata.budgets
    costs = {
        cost: _cost(sums, budgets.get(cost))
        for cost, sums in zip(dataset.cost_names, dataset.cost_returns().T, strict=True)
    }
    return {
        "name": name,
        "env": dataset.metadata.env_id,
        "env_kwargs": dict(dataset.metadata.env_kwargs),
        "episodes": dataset.num_episodes,
        "steps": len(dataset),
        "lengths": _summary(lengths),
        "observation": list(dataset.observations.shape[1:]),
        "action": int(dataset.actions.shape[1]),
        "action_range": [float(dataset.actions.min()), float(dataset.actions.max())],
        "returns": _summary(dataset.returns()),
        "costs": costs,
        "dsrl_score": _dsrl_scores(dataset),
        "ended_by_task": int(dataset.terminals.sum()),
        "ended_by_limit": int((dataset.timeouts & ~dataset.terminals).sum()),
        "next_is_following": float(follows.mean()) if len(rows) else 1.0,
        "has_margins": dataset.h is not None,
        "has_log_probs": dataset.log_probs is not None,
        "behaviours": dict(families.most_common()),
        "seeds": list(dataset.metadata.seeds),
        "versions": dict(dataset.metadata.versions),
        "note": dataset.metadata.note,
        "sha256": dataset.digest(),
    }


def write_card(dataset: Dataset, folder: Path, *, name: str = "data") -> Path:
    """Write ``README.md`` and its pictures ``returns.svg``, ``quality.svg`` and ``coverage.svg`` into a new folder.

    Args:
        dataset: The data.
        folder: New folder.
        name: What the card calls them: the file's name, say.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunFolderError: ``folder`` exists.
    """
    if folder.exists():
        raise RunFolderError(f"The folder of a card must be new; {folder} exists. Give another --out, or move it away.")
    figures = {
        "returns": _draw_returns(dataset),
        "quality": _draw_quality(dataset),
        "coverage": _draw_coverage(dataset),
    }
    text = render(describe(dataset, name=name))
    with atomic_folder(folder) as temporary:
        for key, figure in figures.items():
            _save(figure, temporary / f"{key}.svg")
        (temporary / "README.md").write_text(text, encoding="utf-8")
    return folder / "README.md"


def render(facts: dict[str, Any]) -> str:
    """The card's text, of what :func:`describe` says."""
    env = facts["env"] or "not named"
    kwargs = ", ".join(f"{key}={value}" for key, value in facts["env_kwargs"].items())
    rows = [
        ("environment", env + (f" ({kwargs})" if kwargs else "")),
        ("episodes", f"{facts['episodes']:,}, {facts['steps']:,} steps"),
        ("episode length", _range(facts["lengths"])),
        ("observation, action", f"{' x '.join(map(str, facts['observation']))}, {facts['action']}"),
        ("actions", f"{facts['action_range'][0]:.4g} to {facts['action_range'][1]:.4g}"),
        ("return", _range(facts["returns"])),
        ("ended", f"{facts['ended_by_task']:,} by the task, {facts['ended_by_limit']:,} by a limit"),
        ("next observation is the following one", f"{100 * facts['next_is_following']:.4g} % of the steps"),
        ("margins `h`, log-probabilities", f"{_yes(facts['has_margins'])}, {_yes(facts['has_log_probs'])}"),
        ("seeds", ", ".join(map(str, facts["seeds"])) or "not named"),
        ("SHA-256 of the arrays", f"`{facts['sha256']}`"),
    ]
    if facts["dsrl_score"] is not None:
        rows.insert(6, ("return in DSRL's scores", _range(facts["dsrl_score"])))
    lines = [f"# {facts['name']}", "", *([facts["note"], ""] if facts["note"] else []), "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows]
    lines += ["", "| Cost of an episode | least | median | mean | most | none | budget | within it |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for cost, row in facts["costs"].items():
        budget = ("", "") if row["budget"] is None else (f"{row['budget']:g}", f"{100 * row['within']:.3g} %")
        numbers = " | ".join(f"{row[key]:.4g}" for key in ("min", "median", "mean", "max"))
        lines.append(f"| `{cost}` | {numbers} | {100 * row['free']:.3g} % | {budget[0]} | {budget[1]} |")
    if facts["behaviours"]:
        named = list(facts["behaviours"].items())[:_FAMILIES]
        more = len(facts["behaviours"]) - len(named)
        listed = ", ".join(f"{key} ({count:,})" for key, count in named)
        lines += ["", f"Episodes by behaviour: {listed}" + (f", and {more} others." if more else ".")]
    for key, about in _CAPTIONS.items():
        lines += ["", f"![{key}]({key}.svg)", "", about]
    return "\n".join(lines) + "\n"


_CAPTIONS = {
    "returns": "Return over cost of every episode. Blue ones keep the budget of the picture's cost (the green line). "
    "The grey line is the frontier: the largest return in the data within each budget.",
    "quality": "Left: the share of episodes that return at most so much, of all and of those that keep every budget. "
    "Right: lengths of the episodes.",
    "coverage": "Left: states by the two directions in which observations vary most, each entry scaled to a standard "
    "deviation of 1. Right: actions by their first two entries, or the only one. Darker is more, on a logarithmic "
    "scale.",
}


def _draw_returns(dataset: Dataset) -> Any:
    names = dataset.cost_names
    figure = _figure((4.2 * len(names) + 0.6, 3.6))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    returns, sums = dataset.returns(), dataset.cost_returns()
    for column, (axis, name) in enumerate(zip(axes, names, strict=True)):
        budget, costs = dataset.metadata.budgets.get(name), sums[:, column]
        within = costs <= budget if budget is not None else np.ones(len(costs), dtype=np.bool_)
        for chosen, colour in ((within, _WITHIN), (~within, _BEYOND)):
            axis.scatter(
                costs[chosen],
                returns[chosen],
                s=9,
                alpha=0.6,
                color=colour,
                linewidths=0,
                rasterized=len(costs) > _MANY,
            )
        steps = np.argsort(costs, kind="stable")
        best = np.maximum.accumulate(returns[steps])
        axis.step(costs[steps], best, where="post", color=_FRONT, linewidth=1.0)
        if budget is not None:
            axis.axvline(budget, color=_BUDGET, linewidth=1.2)
        axis.set_xlabel(name)
    axes[0].set_ylabel("return")
    return _tidy(figure)


def _draw_quality(dataset: Dataset) -> Any:
    figure = _figure((8.4, 3.2))
    left, right = figure.subplots(1, 2)
    returns, within = dataset.returns(), _keeps_budgets(dataset)
    groups = [("all", np.ones(len(returns), dtype=np.bool_), _FRONT)]
    if dataset.metadata.budgets:
        groups += [("within the budgets", within, _WITHIN), ("beyond one", ~within, _BEYOND)]
    for label, chosen, colour in groups:
        if chosen.any():
            left.ecdf(returns[chosen], color=colour, label=f"{label} ({int(chosen.sum()):,})")
    left.set_xlabel("return")
    left.set_ylabel("share of episodes")
    left.legend(fontsize=8, framealpha=0.9)
    right.hist(dataset.episode_ends - dataset.episode_starts, bins=30, color=_WITHIN)
    right.set_xlabel("steps of an episode")
    right.set_ylabel("episodes")
    return _tidy(figure)


def _draw_coverage(dataset: Dataset) -> Any:
    figure = _figure((8.4, 3.6))
    left, right = figure.subplots(1, 2)
    rows = np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLED)).astype(np.int64)
    _density(left, principal(dataset.observations[rows].reshape(len(rows), -1)), ("direction 1", "direction 2"))
    _density(right, dataset.actions[rows].astype(np.float64), ("action 1", "action 2"))
    return _tidy(figure)


def principal(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Coordinates of points (N, F) along the two directions of largest variance, (N, 2) or (N, 1).

    Entries are scaled to a standard deviation of 1 first, and those that never change are left out; the entry that
    counts most in a direction counts positively.
    """
    values = points.astype(np.float64)
    spread = values.std(axis=0)
    varying = spread > 0.0
    if not varying.any():
        return np.zeros((len(values), 1))
    scaled = (values[:, varying] - values[:, varying].mean(axis=0)) / spread[varying]
    _, directions = np.linalg.eigh(scaled.T @ scaled)
    chosen = directions[:, ::-1][:, :2]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    return np.asarray(scaled @ (chosen * signs))


def _density(axis: Any, points: npt.NDArray[np.float64], labels: tuple[str, str]) -> None:
    from matplotlib.colors import LogNorm

    axis.set_xlabel(labels[0])
    if points.shape[1] == 1:
        axis.hist(points[:, 0], bins=50, color=_WITHIN, log=True)
        axis.set_ylabel("steps")
        return
    counts, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=60)
    axis.pcolormesh(x, y, np.where(counts.T > 0, counts.T, np.nan), cmap="Blues", norm=LogNorm(0.5), rasterized=True)
    axis.set_ylabel(labels[1])


def _keeps_budgets(dataset: Dataset) -> npt.NDArray[np.bool_]:
    limits = [dataset.metadata.budgets.get(name, np.inf) for name in dataset.cost_names]
    return np.asarray((dataset.cost_returns() <= np.array(limits)).all(axis=1))


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("A dataset card", "matplotlib", "report") from error
    return Figure(figsize=size, layout="constrained")


def _tidy(figure: Any) -> Any:
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    # No date, and ids from a fixed salt: the same data give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "saferl", "svg.fonttype": "path"}):
        figure.savefig(path, dpi=150, metadata={"Date": None})


def _cost(sums: npt.NDArray[np.float64], budget: float | None) -> dict[str, Any]:
    within = None if budget is None else float((sums <= budget).mean())
    return {**_summary(sums), "free": float((sums <= 0.0).mean()), "budget": budget, "within": within}


def _summary(values: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "max": float(values.max()),
    }


def _dsrl_scores(dataset: Dataset) -> dict[str, float] | None:
    """Returns in DSRL's scores, where its task has the name of the environment."""
    from saferl.data.scores import normalised_return, reference_of

    try:
        return _summary(normalised_return(dataset.returns(), reference_of(dataset.metadata.env_id or "")))
    except UnknownNameError:
        return None


def _range(row: dict[str, float]) -> str:
    return f"{row['min']:.4g} to {row['max']:.4g}, median {row['median']:.4g}, mean {row['mean']:.4g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
