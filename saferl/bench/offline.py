"""Offline solvers on a data file, beside OSRL's on the same file, by one verdict per budget.

Everything that is asked of a policy comes from the data: the budgets are given, targets are those of the data's
frontier, and scores are relative to the data's extrema, ``(R - R_min) / (R_max - R_min)`` and ``C / budget``. No policy
is chosen by what it did in the environment.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saferl.bench.measure import machine
from saferl.bench.osrl_policy import DRIVER, OsrlPolicy
from saferl.data import Dataset, load_dataset
from saferl.data.relabel import Frontier
from saferl.errors import ConfigError, DataError
from saferl.evaluation import evaluate
from saferl.evaluation.summary import versions
from saferl.solvers import SOLVERS
from saferl.storage import read_json, write_json
from saferl.training import resume, train

PEERS = ("cdt", "bc_safe")
"""Solvers that OSRL has too."""
_KEPT = ("episodes", "seeds", "deterministic", "length", "return", "constraints")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """A solver as it is run here.

    Example:
        >>> Entry.parse("fisor:small:50000", steps=5000, batch=64)
        Entry(solver='fisor', preset='small', steps=50000, options={})
        >>> Entry.parse("cdt", steps=5000, batch=64)
        Entry(solver='cdt', preset='published', steps=5000, options={'batch_size': 64})
    """

    solver: str
    preset: str
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, steps: int, batch: int) -> Entry:
        """``SOLVER[:PRESET[:STEPS]]``; ``batch`` holds where the solver has one batch size.

        Raises:
            ConfigError: another form.
            UnknownNameError: an unknown solver.
        """
        name, *rest = text.split(":")
        if len(rest) > 2 or (len(rest) == 2 and not rest[1].isdigit()):
            raise ConfigError(
                f"A solver is given as SOLVER[:PRESET[:STEPS]]; got {text!r}. Example: fisor:small:50000."
            )
        has_batch = "batch_size" in SOLVERS.load(name).config_class.__dataclass_fields__
        return cls(
            name,
            rest[0] if rest else "published",
            int(rest[1]) if len(rest) == 2 else steps,
            {"batch_size": batch} if has_batch else {},
        )


def bench_offline(
    data: Path,
    entries: Sequence[Entry],
    *,
    budgets: Sequence[float],
    seeds: Sequence[int],
    runs: Path,
    peer: str | None = None,
    steps: int = 5000,
    batch: int = 64,
    episodes: int = 100,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Train every solver with every seed and evaluate it at every budget; what ``runs`` holds is not done again.

    Solvers that train for a budget are trained for each; the others once. Those that know no budget are evaluated at
    the first one. Episodes use mean actions where the solver's policy has them, as OSRL's evaluations do.

    Args:
        data: A data file with one cost.
        entries: Solvers.
        budgets: Of the episode's cost sum.
        seeds: Training seeds.
        runs: Folder of runs and results.
        peer: Python that has OSRL; None: without.
        steps: The peer's gradient steps.
        batch: The peer's batch.
        episodes: Episodes of each evaluation.
        report: Told every result as it comes.

    Raises:
        ConfigError: no budgets or seeds.
        DataError: data with several costs, or not of a known environment.
    """
    if not budgets or not seeds or min(budgets) < 0 or episodes < 2:
        raise ConfigError(
            f"Budgets of at least 0, seeds and at least 2 episodes are needed; got {list(budgets)}, {list(seeds)}, "
            f"{episodes}."
        )
    dataset = load_dataset(data)
    if len(dataset.cost_names) != 1:
        raise DataError(f"The comparison is of one cost; {data} has {', '.join(dataset.cost_names)}.")
    bench = _Bench(data, dataset, runs, episodes, report)
    rows = []
    for seed in seeds:
        rows += [row for entry in entries for row in bench.ours(entry, seed, budgets)]
        if peer is not None:
            for solver in PEERS:
                rows += bench.theirs(solver, seed, budgets, shlex.split(peer), steps=steps, batch=batch)
    returns, costs = dataset.returns(), dataset.cost_returns()[:, 0]
    return {
        "benchmark": "offline solvers on one data file, last iterates, one verdict per budget",
        "env": dataset.metadata.env_id,
        "data": {
            "digest": dataset.digest(),
            "steps": len(dataset),
            "episodes": dataset.num_episodes,
            "return": [float(returns.min()), float(returns.max())],
            "cost": [float(costs.min()), float(costs.max())],
            "frontier": {str(budget): bench.frontier(budget) for budget in budgets},
        },
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


class _Bench:
    """One data file and where its results go."""

    def __init__(self, data: Path, dataset: Dataset, runs: Path, episodes: int, report: Report) -> None:
        if dataset.metadata.env_id is None:
            raise DataError(f"{data} does not name its environment, in which policies are to be evaluated.")
        self.data, self.dataset, self.runs, self.episodes, self.report = data, dataset, runs, episodes, report
        self.env, self.cost = dataset.metadata.env_id, dataset.cost_names[0]
        self.env_kwargs = dict(dataset.metadata.env_kwargs)

    def frontier(self, budget: float) -> float:
        """The best return of an episode of the data within ``budget``; of none, that of the cheapest."""
        front = Frontier.of(self.dataset)
        return float(front.returns[front.pick([budget])])

    def ours(self, entry: Entry, seed: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
        """One row per budget."""
        solver = SOLVERS.load(entry.solver)
        knows_budgets = "statewise" not in solver.supported_kinds and entry.solver != "bc"
        rows = []
        for budget in budgets if knows_budgets else budgets[:1]:
            trained_for = {self.cost: budget} if solver.needs_budgets else None
            tag = f"-{budget:g}" if solver.needs_budgets else ""
            folder = self.runs / f"{entry.solver}-{entry.preset}-{entry.steps}{tag}-{seed}"
            if (folder / "run.json").exists():
                resume(folder, expected={"steps": entry.steps})
            else:
                train(
                    entry.solver,
                    str(self.data),
                    steps=entry.steps,
                    seed=seed,
                    out=folder,
                    budgets=trained_for,
                    preset=entry.preset,
                    options=dict(entry.options),
                )
            record = read_json(folder / "run.json", what="run.json of a run folder")
            about = {
                "library": "saferl",
                "solver": entry.solver,
                "preset": entry.preset,
                "options": dict(entry.options),
                "steps": entry.steps,
                "seconds": record["result"]["seconds"],
            }
            is_sampled = entry.solver == "fisor"  # of its candidates one is chosen; it has no mean action
            rows.append(self._row(about, seed, budget, folder, folder / "artefact", is_sampled=is_sampled))
        return rows

    def theirs(
        self, solver: str, seed: int, budgets: Sequence[float], peer: list[str], *, steps: int, batch: int
    ) -> list[dict[str, Any]]:
        """One row per budget."""
        rows = []
        for budget in budgets:
            tag = f"-{budget:g}" if solver == "bc_safe" else ""
            folder = self.runs / f"osrl-{solver}-{steps}{tag}-{seed}"
            options = self._peer_options()
            if not (folder / "facts.json").exists():
                words = [*peer, str(DRIVER), "train", solver, str(self.data), str(folder), "--seed", str(seed)]
                words += ["--steps", str(steps), "--batch", str(batch), "--budget", str(budget)]
                done = subprocess.run([*words, "--options", json.dumps(options)], capture_output=True, text=True)
                if done.returncode:
                    raise ConfigError(f"The peer's training must end well; it ended with:\n{done.stderr[-2000:]}")
            about = {
                "library": "osrl",
                "solver": solver,
                "preset": "published",
                "options": {"batch_size": batch, **(options if solver == "cdt" else {})},
                "steps": steps,
                "seconds": json.loads((folder / "facts.json").read_text(encoding="utf-8"))["seconds"],
            }

            def policy(folder: Path = folder, budget: float = budget) -> OsrlPolicy:
                return OsrlPolicy(
                    peer,
                    folder,
                    cost_name=self.cost,
                    target_return=self.frontier(budget),
                    target_cost=budget,
                )

            rows.append(self._row(about, seed, budget, folder, policy, is_sampled=False))
        return rows

    def _row(
        self, about: dict[str, Any], seed: int, budget: float, folder: Path, policy: Any, *, is_sampled: bool
    ) -> dict[str, Any]:
        """An evaluation with its scores, from ``folder`` if it was made before."""
        kept = folder / f"evaluation-{budget:g}-{self.episodes}.json"
        if not kept.exists():
            write_json(kept, self._evaluate(policy, budget, is_sampled=is_sampled))
        summary = read_json(kept, what="an evaluation")
        returns = self.dataset.returns()
        low, high = float(returns.min()), float(returns.max())
        cost = summary["constraints"][self.cost]
        self.report(
            f"{about['library']} {about['solver']} ({about['preset']}), seed {seed}, budget {budget:g}: return "
            f"{summary['return']['mean']:.2f}, cost {cost['mean']:.2f}, {cost['verdict']}"
        )
        return {
            **about,
            "seed": seed,
            "budget": budget,
            "normalised_return": (summary["return"]["mean"] - low) / (high - low),
            "normalised_cost": cost["mean"] / budget if budget else None,
            "evaluation": summary,
        }

    def _evaluate(self, policy: Any, budget: float, *, is_sampled: bool) -> dict[str, Any]:
        how: dict[str, Any] = {"episodes": self.episodes, "deterministic": not is_sampled}
        how["budgets"] = {self.cost: budget}
        if callable(policy):
            with policy() as acting:
                found = evaluate(acting, self.env, workers=1, env_kwargs=self.env_kwargs, **how)
        else:
            found = evaluate(policy, workers=1, **how)
        return {key: found.summary[key] for key in _KEPT}

    def _peer_options(self) -> dict[str, Any]:
        """OSRL's constants of the augmentation, in the same proportions to this data's ranges as in its own tasks."""
        returns, front = self.dataset.returns(), Frontier.of(self.dataset)
        span = float(np.ptp(returns)) or 1.0
        return {
            "deg": min(1, len(np.unique(front.costs[:, 0])) - 1),
            "max_reward": float(returns.max()) + 0.2 * span,
            "min_reward": 0.02 * span,
            "max_rew_decrease": 0.1 * span,
        }
