"""``saferl eval``."""

from __future__ import annotations

import functools
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
    "eval",
    epilog="Example: saferl eval runs/goal --episodes 1000;  saferl eval runs/goal --shield shields/brake;  "
    "saferl eval random --env SafetyPointGoal1-v0",
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
    budget: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: judge by these budgets; policies that take budgets act at them (repeatable)."),
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="module:function, called with (obs, action, next_obs): costs for an env without.")
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(help="Episode i uses seed FIRST_SEED + i. Default: 10000000.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. Default: the cores.")
    ] = None,
    shield: Annotated[
        str | None,
        typer.Option(
            help="NAME, a folder, or module:factory (called with the env): evaluate with this shield and, on the same "
            "seeds, without it. 'none': a controller without its own."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Name of the policy in reports.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder (with a shield also OUT-unshielded). Default: RUN/evaluations/NNN-..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a policy on fixed seeds and say, with statistics, whether the constraints hold.

    With a shield (--shield, or the one of a controller) there are two evaluations on the same seeds, shielded and
    unshielded, and the rate at which the shield intervened.
    """
    from saferl.evaluation import EVALUATION_SEED

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
        _require_best(Path(policy))
        target = str(Path(policy) / "artefact-best")
    folder = out if out is not None or policy == "random" else default_folder(Path(policy), checkpoint, deterministic)
    arguments: dict[str, Any] = {
        "env_id": env,
        "episodes": episodes,
        "deterministic": deterministic,
        "first_seed": EVALUATION_SEED if first_seed is None else first_seed,
        "budgets": parse_budgets(budget),
        "cost": cost,
        "label": label,
        "workers": workers,
    }
    is_shielded = shield != "none" and (shield is not None or _is_controller(target))
    results = _run(target, arguments, shield, folder, is_shielded=is_shielded)
    if as_json:
        names = ("shielded", "unshielded")
        found = {name: result.summary for name, result in zip(names, results, strict=False)}
        print_json(found if is_shielded else results[0].summary)
        return
    print_summaries([result.summary for result in results])
    folders = [str(result.folder) for result in results if result.folder is not None]
    if folders:
        say(f"Written to {' and '.join(folders)}")
        say(f"Next: {shlex.join(['saferl', 'report', *folders])}")


def _run(
    target: Any, arguments: dict[str, Any], shield: str | None, folder: Path | None, *, is_shielded: bool
) -> list[Any]:
    """The evaluation, or the shielded and the unshielded one."""
    from saferl.evaluation import evaluate as run_evaluation
    from saferl.storage import prepare_output

    plans: list[tuple[str, str | None, Path | None]] = [("episodes", shield, folder)]
    if is_shielded:
        bare = None if folder is None else folder.with_name(f"{folder.name}-unshielded")
        plans = [("shielded", shield, folder), ("unshielded", "none", bare)]
        if bare is not None:
            prepare_output(bare, what="an evaluation")  # before the first evaluation, not after it
    results = []
    with progress_bar() as bar:
        for title, filter_, out in plans:
            advance = functools.partial(bar.advance, bar.add_task(title, total=arguments["episodes"], note=""))
            results.append(run_evaluation(target, **arguments, shield=filter_, out=out, progress=advance))
    return results


def _require_best(run: Path) -> None:
    """Raise for a run that chose no best policy."""
    from saferl.storage import read_json

    header = run / "run.json"
    if header.is_file() and read_json(header, what="run.json of a run folder").get("offline"):
        raise ConfigError(f"The run {run} learned from data and has its last iterate only. Leave --checkpoint out.")


def _is_controller(target: Any) -> bool:
    """Whether the folder ``target`` holds a policy with a shield of its own."""
    from saferl.deploy.controller import SECTION
    from saferl.policy.artefact import HEADER, resolve
    from saferl.storage import read_json

    if not isinstance(target, str):
        return False
    header = read_json(resolve(Path(target)) / HEADER, what="The header of a policy artefact")
    return isinstance(header, dict) and SECTION in header


def default_folder(policy: Path, checkpoint: str, deterministic: bool) -> Path | None:
    """``RUN/evaluations/NNN-<checkpoint>-<mode>`` with the next free number."""
    near = [policy, *policy.parents][:4]
    run = next((folder for folder in near if (folder / "run.json").is_file()), policy.parent)
    base = run / "evaluations"
    numbers = [int(p.name[:3]) for p in base.glob("[0-9][0-9][0-9]-*")] if base.is_dir() else []
    name = checkpoint if run == policy else policy.name
    return base / f"{max(numbers, default=0) + 1:03d}-{name}-{'deterministic' if deterministic else 'stochastic'}"
