"""``saferl eval``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, print_summaries, progress_bar, say
from saferl.errors import ConfigError


class Checkpoint(StrEnum):
    """Which policy of a run is evaluated."""

    LAST = "last"
    BEST = "best"


@app.command(
    "eval", epilog="Example: saferl eval runs/goal --episodes 1000;  saferl eval random --env SafetyPointGoal1-v0"
)
def evaluate(
    policy: Annotated[str, typer.Argument(help="A run folder, an artefact folder, or 'random' (with --env).")],
    env: Annotated[str | None, typer.Option(help="Environment; default: the one it was trained on.")] = None,
    episodes: Annotated[int, typer.Option(help="Number of episodes, fixed beforehand.")] = 300,
    checkpoint: Annotated[Checkpoint, typer.Option(help="Policy of a run: last iterate, or best by validation.")] = (
        Checkpoint.LAST
    ),
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The mean or most likely action instead of a sampled one.")
    ] = False,
    budget: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: judge by these budgets (repeatable).")] = None,
    cost: Annotated[
        str | None, typer.Option(help="module:function, called with (obs, action, next_obs): costs for an env without.")
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(help="Episode i uses seed FIRST_SEED + i. Default: 10000000.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. Default: the cores.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Name of the policy in reports.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder. Default: RUN/evaluations/NNN-...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a policy on fixed seeds and say, with statistics, whether the constraints hold."""
    from saferl.evaluation import EVALUATION_SEED
    from saferl.evaluation import evaluate as run_evaluation

    target: Any = policy
    if policy == "random":
        from saferl.envs import make
        from saferl.policy import RandomPolicy

        if env is None:
            raise ConfigError("The random policy needs an environment. Give --env ID.")
        probe = make(env, budgets=parse_budgets(budget), cost=cost)
        target = RandomPolicy(probe.action_space)
        probe.close()
        label = label or "random"
    elif checkpoint is Checkpoint.BEST:
        target = str(Path(policy) / "artefact-best")
    folder = out if out is not None or policy == "random" else default_folder(Path(policy), checkpoint, deterministic)
    with progress_bar() as bar:
        task = bar.add_task("episodes", total=episodes, note="")
        result = run_evaluation(
            target,
            env,
            episodes=episodes,
            deterministic=deterministic,
            first_seed=EVALUATION_SEED if first_seed is None else first_seed,
            budgets=parse_budgets(budget),
            cost=cost,
            label=label,
            out=folder,
            workers=workers,
            progress=lambda count: bar.advance(task, count),
        )
    if as_json:
        print_json(result.summary)
        return
    print_summaries([result.summary])
    if result.folder is not None:
        say(f"Written to {result.folder}")
        say(f"Next: {shlex.join(['saferl', 'report', str(result.folder)])}")


def default_folder(policy: Path, checkpoint: str, deterministic: bool) -> Path | None:
    """``RUN/evaluations/NNN-<checkpoint>-<mode>`` with the next free number."""
    near = [policy, *policy.parents][:4]
    run = next((folder for folder in near if (folder / "run.json").is_file()), policy.parent)
    base = run / "evaluations"
    numbers = [int(p.name[:3]) for p in base.glob("[0-9][0-9][0-9]-*")] if base.is_dir() else []
    name = checkpoint if run == policy else policy.name
    return base / f"{max(numbers, default=0) + 1:03d}-{name}-{'deterministic' if deterministic else 'stochastic'}"
