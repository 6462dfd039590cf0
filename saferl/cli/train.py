"""``saferl train``."""

from __future__ import annotations

import os
import shlex
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_json, print_warning, progress_bar, say
from saferl.errors import ConfigError, RunFolderError

_STEPS = 1_000_000


@app.command(
    epilog="Example: saferl train ppo_lag SafetyPointGoal1-v0 --steps 200000 --budget cost=25 --out runs/goal;  "
    "saferl train fisor data/pr.hdf5 --preset small --out runs/f"
)
def train(
    solver: Annotated[str | None, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")] = None,
    env: Annotated[
        str | None,
        typer.Argument(help="An env id, package.module:factory, or module:EnvId; a data file for an offline solver."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Environment steps, over all environments [{_STEPS}]; offline: updates (the solver says how many)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in the run. [0]")] = None,
    seeds: Annotated[str | None, typer.Option(help="0-4 or 0,5,10: one run per seed, in OUT/seed-N.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time with --seeds. Default: as many as cores if an env needs one.")
    ] = None,
    num_envs: Annotated[int | None, typer.Option(help="Environments stepped together.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: what must hold (repeatable). Default: the env's own.")
    ] = None,
    train_budget: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: train at another budget than must hold, to leave a margin.")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="module:function, called with (obs, action, next_obs): costs for an env without.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: an option; see 'saferl list options SOLVER'.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Named options of an offline solver: small (default) or published.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="torch device: auto, cpu, cuda, cuda:1. [auto]")] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Artefact or run folder whose policy and normaliser to start from.")
    ] = None,
    shield: Annotated[
        str | None,
        typer.Option(
            help="NAME, a folder, or module:factory (called with the env): a shield that filters actions in training. "
            "--budget may then name interventions and intervention_distance."
        ),
    ] = None,
    recipe: Annotated[
        bool, typer.Option("--recipe/--no-recipe", help="Start from the options that suit the task's family.")
    ] = True,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of these; options of the command line override it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder. Default: runs/SOLVER-ENV-SEED.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; it needs nothing else.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a policy under cost budgets, in an environment or from data, and write a run folder; or resume one."""
    from saferl.training.config_file import TrainConfig, read_config

    request = read_config(config) if config is not None else TrainConfig()
    if seeds is not None and seed is not None:
        raise ConfigError("Give --seed or --seeds, not both.")
    given: dict[str, Any] = {
        "solver": solver,
        "env": env,
        "steps": steps,
        "seed": seed,
        "seeds": seeds,
        "device": device,
        "cost": cost,
        "init_from": None if init_from is None else str(init_from),
        "shield": shield,
        "out": None if out is None else str(out),
        "budgets": parse_budgets(budget),
        "train_budgets": parse_budgets(train_budget, "--train-budget"),
    }
    if seed is not None or seeds is not None:
        request = replace(request, seed=None, seeds=None)
    request = replace(request, **{key: value for key, value in given.items() if value is not None})
    assignments = list(set_ or []) + ([f"num_envs={num_envs}"] if num_envs is not None else [])
    if resume is not None:
        if preset is not None:
            raise ConfigError("A resumed run keeps its options; leave --preset out.")
        results = _resume(resume, request, assignments)
    elif request.solver is None or request.env is None:
        raise ConfigError(
            "A training needs a solver and an environment, or data: saferl train SOLVER ENV, saferl train SOLVER "
            "DATA.hdf5, or --resume DIR."
        )
    elif request.seeds is not None:
        results = _train_seeds(request, jobs, _arguments(request, assignments, recipe, preset))
    else:
        results = [_train_one(request, _arguments(request, assignments, recipe, preset))]
    if as_json:
        print_json(results if request.seeds is not None or len(results) != 1 else results[0])
        return
    for result in results:
        say(f"Trained {result['steps']:,} steps at {result['steps_per_second']:,.0f} steps/s into {result['folder']}")
    folders = [result["folder"] for result in results]
    if len(folders) == 1:
        say(f"Next: {shlex.join(['saferl', 'eval', *folders])}")
    else:
        say(f"Next: evaluate each ({shlex.join(['saferl', 'eval', folders[0]])}), then saferl report with all of them")


def _arguments(request: Any, assignments: list[str], has_recipe: bool, preset: str | None) -> dict[str, Any]:
    """The arguments of :func:`saferl.train` that seeds have in common."""
    from saferl.solvers import SOLVERS
    from saferl.training.kinds import is_offline, names_data
    from saferl.training.recipes import find_recipe
    from saferl.training.settings import split_assignments

    if is_offline(request.solver) or names_data(request.env):
        return _offline_arguments(request, assignments, preset)
    if preset is not None:
        raise ConfigError(f"--preset is for offline solvers; {request.solver} has none. Leave it out.")
    config_class = SOLVERS.load(request.solver).config_class
    recipe = find_recipe(request.env) if has_recipe else None
    base = recipe.options_for(request.solver) if recipe is not None else {}
    options, settings = split_assignments(assignments, config_class, {**base, **request.options})
    return {
        "solver": request.solver,
        "env_id": request.env,
        "steps": _STEPS if request.steps is None else request.steps,
        "budgets": request.budgets or None,
        "train_budgets": request.train_budgets or None,
        "cost": request.cost,
        "env_kwargs": request.env_kwargs,
        "options": asdict(options),
        "settings": settings,
        "device": request.device or "auto",
        "init_from": request.init_from,
        "shield": request.shield,
        "recipe": None if recipe is None else recipe.name,
    }


def _offline_arguments(request: Any, assignments: list[str], preset: str | None) -> dict[str, Any]:
    """The arguments of :func:`saferl.train` for a data file; what belongs to environments is refused there."""
    from saferl.solvers import SOLVERS
    from saferl.solvers.offline.base import choose_options, choose_preset
    from saferl.training.kinds import refuse_online_arguments
    from saferl.training.settings import OfflineSettings, split_assignments

    online = {
        "train_budgets": request.train_budgets,
        "cost": request.cost,
        "env_kwargs": request.env_kwargs,
        "init_from": request.init_from,
        "shield": request.shield,
        "device": None if request.device in (None, "auto", "cpu") else request.device,
        "num_envs": next((text for text in assignments if text.startswith("num_envs=")), None),
    }
    refuse_online_arguments(request.solver, request.env, **online)
    solver = SOLVERS.load(request.solver)
    preset, steps = choose_preset(solver, preset)
    base = {**asdict(choose_options(solver, preset, {})), **request.options}
    options, settings = split_assignments(assignments, solver.config_class, base, OfflineSettings)
    return {
        "solver": request.solver,
        "env_id": request.env,
        "steps": steps if request.steps is None else request.steps,
        "budgets": request.budgets or None,
        "preset": preset,
        "options": asdict(options),
        "settings": settings,
    }


def _note_spaces(folder: Path) -> None:
    """Say where a run from data knows no environment."""
    from saferl.training.resume import read_run

    record = read_run(folder)
    if record.get("offline") and record["dataset"]["spaces"] == "data":
        print_warning(
            f"The data name {record['dataset']['env'] or 'no environment'}, which is not registered here: observations "
            "are taken as a flat Box, actions as [-1, 1]. Evaluate with --env ENV."
        )


def _default_out(request: Any) -> Path:
    from saferl.training.kinds import names_data

    if names_data(request.env):
        return Path("runs") / f"{request.solver}-{Path(request.env).stem}"
    return Path("runs") / f"{request.solver}-{request.env.replace(':', '.').replace('/', '.')}"


def _train_one(request: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    from saferl.cli.side_by_side import outcome
    from saferl.training import train as run_training

    seed = request.seed or 0
    default = _default_out(request)
    out = Path(request.out) if request.out else _free_name(default.with_name(f"{default.name}-{seed}"))
    with progress_bar() as bar:
        report = bar_reporter(bar, f"{request.solver} on {request.env}", arguments["steps"])
        try:
            result = outcome(run_training(**arguments, seed=seed, out=out, progress=report))
        except KeyboardInterrupt:
            print_warning(f"Interrupted. Go on with: {shlex.join(['saferl', 'train', '--resume', str(out)])}")
            raise
    _note_spaces(out)
    return result


def _train_seeds(request: Any, jobs: int | None, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    from saferl.cli.side_by_side import train_side_by_side
    from saferl.envs.core import find_spec
    from saferl.storage import prepare_output
    from saferl.training.config_file import parse_seeds

    seeds = parse_seeds(request.seeds)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be at least 1; got {jobs}.")
    out = Path(request.out) if request.out else _free_name(_default_out(request))
    prepare_output(out, what="the training runs")
    spec = find_spec(request.env)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = jobs or (1 if spec is not None and spec.prefers_processes else cores)
    with progress_bar() as bar:
        runs = {f"seed {seed}": {**arguments, "seed": seed, "out": str(out / f"seed-{seed}")} for seed in seeds}
        return list(train_side_by_side(runs, bar, workers=min(workers, len(seeds))).values())


def _resume(folder: Path, request: Any, assignments: list[str]) -> list[dict[str, Any]]:
    """Resume a run, or every run below a folder of ``--seeds``."""
    from saferl.cli.side_by_side import outcome
    from saferl.solvers import SOLVERS
    from saferl.training import resume as resume_training
    from saferl.training.resume import read_run
    from saferl.training.settings import OfflineSettings, RunSettings, read_assignments

    if request.out is not None or request.init_from is not None or request.seeds is not None:
        raise ConfigError("--resume goes on in the folder that it names; leave --out, --init-from and --seeds out.")
    folders = [folder]
    if not (folder / "run.json").exists():
        folders = sorted(path.parent for path in folder.glob("seed-*/run.json"))
        if not folders:
            raise RunFolderError(f"--resume needs a run folder, or one of --seeds; {folder} holds no run.json.")
    results = []
    for path in folders:
        record = read_run(path)
        expected = {
            key: getattr(request, key)
            for key in (
                *("solver", "env", "steps", "seed", "device", "cost", "shield"),
                *("budgets", "train_budgets", "env_kwargs"),
            )
            if getattr(request, key) not in (None, {})
        }
        settings_class = OfflineSettings if record.get("offline") else RunSettings
        expected |= request.options | read_assignments(
            assignments, SOLVERS.load(record["solver"]).config_class, settings_class
        )
        with progress_bar() as bar, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            report = bar_reporter(bar, f"resume {path}", record["steps"])
            result = resume_training(path, expected=expected, progress=report)
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                print_warning(str(warning.message))
        if result.model is None:
            print_warning(f"{path} was finished already and is as it was.")
        results.append(outcome(result))
    return results


def bar_reporter(bar: Any, title: str, steps: int) -> Any:
    """A ``progress`` function that moves a bar."""
    task = bar.add_task(title, total=steps, note="")

    def report(done: int, latest: dict[str, float]) -> None:
        note = "  ".join(f"{key} {value:.1f}" for key, value in latest.items())
        bar.update(task, completed=min(done, steps), note=note)

    return report


def _free_name(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
