"""``saferl quickstart``: the main job end to end, in three minutes on two cores.

Trains unconstrained PPO and PPO-Lagrangian side by side on a real task, evaluates both and the random policy on the
same seeds, and writes one report. Nothing here is special: it calls ``train``, ``evaluate`` and ``build_report``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import print_json, print_summaries, progress_bar, say, stderr
from saferl.cli.side_by_side import train_side_by_side
from saferl.storage import prepare_output

ENV = "SafetyHalfCheetahVelocity-v1"
# In so short a run some seeds leave unconstrained PPO in a slow gait that never meets the limit, and then there is
# nothing to see. This one (a tuning seed, as the demonstration is not a benchmark) does not.
SEED = 1001


@dataclass(frozen=True)
class Agent:
    """One column of the quickstart's report."""

    solver: str
    options: dict[str, Any] = field(default_factory=dict)
    train_budgets: dict[str, float] | None = None


AGENTS = (
    Agent("ppo"),
    Agent("ppo_lag", {"multiplier_kp": 0.03}, {"cost": 5.0}),
)


@app.command(epilog="Example: saferl quickstart --out runs/quick")
def quickstart(
    out: Annotated[Path, typer.Option(help="New folder for runs, evaluations and report.html.")] = Path("runs/quick"),
    steps: Annotated[int, typer.Option(help="Training steps of each agent.")] = 200_000,
    episodes: Annotated[int, typer.Option(help="Evaluation episodes of PPO-Lagrangian; half for the others.")] = 256,
    seed: Annotated[int, typer.Option(help="Training seed.")] = SEED,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summaries as JSON.")] = False,
) -> None:
    """Train, evaluate and report on a real benchmark task, to see what a cost budget changes."""
    from saferl.envs import make
    from saferl.evaluation import evaluate
    from saferl.policy import RandomPolicy
    from saferl.report import build_report

    start = time.perf_counter()
    prepare_output(out, what="the quickstart")
    stderr.print(
        f"{ENV}: run fast, but below 3.2 m/s. A step above costs 1; the budget is 25 per episode of 1,000 steps."
    )
    with progress_bar() as bar:
        jobs = {
            f"train {agent.solver}": {
                "solver": agent.solver,
                "env_id": ENV,
                "steps": steps,
                "out": str(out / agent.solver),
                "seed": seed,
                "train_budgets": agent.train_budgets,
                "options": agent.options,
            }
            for agent in AGENTS
        }
        train_side_by_side(jobs, bar, workers=len(AGENTS))
        policies: dict[str, tuple[Any, str | None]] = {
            "random": (RandomPolicy(make(ENV).action_space), "random"),
            **{agent.solver: (str(out / agent.solver), None) for agent in AGENTS},
        }
        evaluations = []
        for name, (policy, label) in policies.items():
            # The baselines are far from the budget: half as many episodes decide them.
            count = episodes if name == "ppo_lag" else max(16, episodes // 2)
            task = bar.add_task(f"evaluate {name}", total=count, note="")
            folder = out / name / "evaluations" / "001-last-stochastic"
            evaluations.append(
                evaluate(
                    policy,
                    ENV,
                    episodes=count,
                    label=label,
                    out=folder,
                    progress=lambda done, task=task: bar.advance(task, done),  # type: ignore[misc]
                )
            )
    folders = [e.folder for e in evaluations if e.folder is not None]
    path = build_report(folders, out / "report.html", title=f"Quickstart: {ENV}")
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"report": str(path), "seconds": round(seconds, 1), "summaries": [e.summary for e in evaluations]})
        return
    print_summaries([e.summary for e in evaluations])
    say(f"Report: {path} (open it in a browser). {seconds:.0f} s in all.")
