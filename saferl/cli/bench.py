"""``saferl bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from saferl.cli.app import app
from saferl.cli.console import parse_budgets, print_rows, say, stderr
from saferl.errors import RunFolderError

bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure; results as a table, and with --json as a file.",
    epilog="Example: saferl bench env SafetyPointGoal1-v0 --json speed.json",
)
app.add_typer(bench_app, name="bench")

Json = Annotated[Path | None, typer.Option("--json", help="JSON file to write as well; an older one is replaced.")]
Solver = Annotated[str, typer.Argument(help="Name of a solver; see 'saferl list solvers'.")]
Env = Annotated[str, typer.Argument(help="Environment; see 'saferl list envs'.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of solver or run.")]


@bench_app.callback()
def _group() -> None:
    pass


@bench_app.command(epilog="Example: saferl bench env SafetyPointGoal1-v0 --json speed.json")
def env(
    env: Env,
    num_envs: Annotated[int, typer.Option(help="Environments in the batch.")] = 64,
    steps: Annotated[int | None, typer.Option(help="Steps of each reading. Default: one episode.")] = None,
    repeats: Annotated[int, typer.Option(help="Readings of each; medians are reported.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads of the batch. Default: the cores.")] = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints a line 'ENV_STEPS_PER_SECOND x'.")] = None,
    json: Json = None,
) -> None:
    """Steps per second of the batched backend, its bare physics, the single environment and a peer, in turn."""
    from saferl.bench import bench_env

    check_output(json)
    result = bench_env(
        env, num_envs=num_envs, steps=steps, repeats=repeats, num_threads=threads, peer=peer, report=report_line
    )
    figures, ratios = result["steps_per_second"], result["ratios"]
    print_rows(
        ("", "steps/s (median)", "lowest", "highest", "batched is"),
        [
            (name, *(f"{row[key]:,.0f}" for key in ("median", "min", "max")), _times(ratios.get(f"batched_to_{name}")))
            for name, row in figures.items()
        ],
        title=f"{env}, {result['num_envs']} environments, {result['threads']} threads",
    )
    say(f"A reset takes {result['reset_ms']:.2f} ms; an environment takes {result['memory_mb_per_env']} MB.")
    write_result(json, result)


@bench_app.command(
    epilog="Example: saferl bench train ppo_lag SafetyHalfCheetahVelocity-v1 --peer 'python peer.py' --json speed.json"
)
def train(
    solver: Solver,
    env: Env,
    steps: Annotated[int, typer.Option(help="Steps of each of our runs.")] = 100_000,
    repeats: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    set_: Set = None,
    peer: Annotated[str | None, typer.Option(help="A command that prints a line 'STEPS_PER_SECOND x'.")] = None,
    json: Json = None,
) -> None:
    """Training throughput, ours and a peer's, measured in turn."""
    from saferl.bench import bench_training

    options, settings = _options(solver, set_, env)
    check_output(json)
    result = bench_training(
        solver, env, steps=steps, repeats=repeats, options=options, settings=settings, peer=peer, report=report_line
    )
    figures = result["results"]
    ratio = figures.get("ratio_of_medians")
    print_rows(
        ("", "steps/s (median)", "lowest", "highest", "saferl is"),
        [
            (name, *(f"{row[key]:,.0f}" for key in ("median", "min", "max")), _times(ratio if name == "peer" else None))
            for name, row in figures.items()
            if name != "ratio_of_medians"
        ],
        title=f"{solver} on {env}, {steps:,} steps, updates included",
    )
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench resume ppo_lag SafetyHalfCheetahVelocity-v1 --kills 20")
def resume(
    solver: Solver,
    env: Env,
    steps: Annotated[int, typer.Option(help="Steps of every run.")] = 8192,
    kills: Annotated[int, typer.Option(help="Runs to kill and to resume.")] = 20,
    kill_seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    set_: Set = None,
    json: Json = None,
) -> None:
    """Kill trainings (SIGKILL) at random moments and while they write checkpoints; are the resumed weights the same?"""
    from saferl.bench import bench_resume

    options, settings = _options(solver, set_)
    check_output(json)
    result = bench_resume(
        solver,
        env,
        steps=steps,
        kills=kills,
        kill_seed=kill_seed,
        options=options,
        settings=settings,
        report=report_line,
    )
    say(
        f"{result['same_weights']} of {kills} ended with the same weights; "
        f"{result['killed_while_writing']} were killed while a checkpoint was written."
    )
    write_result(json, result)
    if result["same_weights"] != kills:
        raise typer.Exit(1)


@bench_app.command(
    epilog="Example: saferl bench solver ppo_lag SafetyHalfCheetahVelocity-v1 --train-budget cost=18 --json online.json"
)
def solver(
    solver: Solver,
    env: Env,
    steps: Annotated[int, typer.Option(help="Steps of every training.")] = 1_000_000,
    seeds: Annotated[str, typer.Option(help="Training seeds, 0-4 or 0,5,10.")] = "0,5,10",
    train_budget: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: train at a tighter budget.")] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of every result.")] = 1000,
    side_episodes: Annotated[int, typer.Option(help="Episodes for mean actions and for the best checkpoint.")] = 100,
    set_: Set = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; what it holds is not done again.")] = Path("runs"),
    json: Json = None,
) -> None:
    """Train seeds and evaluate each last iterate: return, cost, bounds and verdict; a cut call goes on where it was."""
    from saferl.bench import bench_online
    from saferl.training.config_file import parse_seeds
    from saferl.training.recipes import find_recipe

    options, settings = _options(solver, set_, env)
    recipe = find_recipe(env)
    check_output(json)
    result = bench_online(
        solver,
        env,
        steps=steps,
        seeds=parse_seeds(seeds),
        runs=runs,
        train_budgets=parse_budgets(train_budget, "--train-budget"),
        options=options,
        settings=settings,
        recipe=None if recipe is None else recipe.name,
        episodes=episodes,
        side_episodes=side_episodes,
        report=report_line,
    )
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench tabular --json tabular.json --figure last-iterate.svg")
def tabular(
    instance: Annotated[list[str] | None, typer.Option(help="Instances (repeatable). Default: all.")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="Tabular solvers (repeatable). Default: all.")] = None,
    iterations: Annotated[int, typer.Option(help="Iterations of every solver that iterates.")] = 2000,
    figure: Annotated[
        Path | None, typer.Option(help="Picture (.svg, .png) of gap and multiplier on Paradox A.")
    ] = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="Instead: the LP and ReLOAD on 100 to 100,000 states.")
    ] = False,
    json: Json = None,
) -> None:
    """Every tabular solver on every instance, its last iterate against the exact optimum."""
    from saferl.bench import bench_tabular, bench_tabular_scale

    check_output(json)
    if scale:
        result = bench_tabular_scale(report=report_line)
        _print_scale(result)
        write_result(json, result)
        return
    result = bench_tabular(instance, solver, iterations=iterations, figure=figure, report=report_line)
    names = list(next(iter(result["instances"].values()))["solvers"])
    print_rows(
        ("gap | violation | oscillation", *names),
        [(key, *(_late(row["solvers"][name]) for name in names)) for key, row in result["instances"].items()],
        title=f"Last iterates after {iterations} iterations, mean per step; {result['seconds']} s",
    )
    write_result(json, result)


@bench_app.command(epilog="Example: saferl bench shields --json shields.json")
def shields(
    case: Annotated[list[str] | None, typer.Option(help="Cases (repeatable). Default: all.")] = None,
    calls: Annotated[int, typer.Option(help="Decisions of each.")] = 5_000,
    batch: Annotated[int, typer.Option(help="Problems of one call of the batched projector.")] = 4_096,
    json: Json = None,
) -> None:
    """Time of one decision of every shield, the same program in cvxpy, and projections per second."""
    from saferl.bench import bench_shields

    check_output(json)
    result = bench_shields(case, calls=calls, batch=batch, report=report_line)
    rows = {**result["cases"], "cvxpy": result["cvxpy"]}
    print_rows(
        ("us per decision", "median", "95 %", "99 %", "99 % (cpu)", "cvxpy takes"),
        [
            (
                name,
                *(f"{row['wall_us'][key]:,.1f}" for key in ("median", "p95", "p99")),
                f"{row['cpu_us']['p99']:,.1f}" if "cpu_us" in row else "",
                _times(result["cvxpy_to_cbf_qp"].get(name)),
            )
            for name, row in rows.items()
        ],
        title=f"Shields, {calls:,} decisions each",
    )
    projector = result["projector"]
    say(
        f"The batched projector makes {projector['per_second']:,} projections/s at a batch of {batch:,}; the worst "
        f"feasible one misses a row by {projector['largest_residual']:.0e}."
    )
    write_result(json, result)


def _print_scale(result: dict[str, Any]) -> None:
    print_rows(
        ("states", "optimum (s)", "certified gap", "oracle calls", "memory (MB)", "ReLOAD iteration (s)"),
        [
            (
                f"{row['states']:,}",
                f"{row['lp_seconds']:.2f}",
                f"{row['certified_gap']:.0e}",
                str(row["oracle_calls"]),
                "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
                f"{row['reload_iteration_seconds']:.4f}",
            )
            for row in result["sizes"]
        ],
        title="Exact optimum by column generation on sparse grids with 4 actions",
    )


def _late(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return "-"
    return f"{entry['gap']:.0e} | {entry['violation']:.0e} | {entry['oscillation']:.0e}"


def _options(solver: str, assignments: list[str] | None, env: str | None = None) -> tuple[dict[str, Any], Any]:
    """Options of solver and run, from the recipe of ``env`` as ``saferl train`` takes them."""
    from dataclasses import asdict

    from saferl.solvers import SOLVERS
    from saferl.training.recipes import find_recipe
    from saferl.training.settings import split_assignments

    recipe = find_recipe(env) if env is not None else None
    base = recipe.options_for(solver) if recipe is not None else {}
    config, settings = split_assignments(list(assignments or []), SOLVERS.load(solver).config_class, base)
    return asdict(config), settings


def report_line(line: str) -> None:
    """Show one finished part on stderr."""
    stderr.print(line, highlight=False, soft_wrap=True)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} times"


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result as JSON where a file was named."""
    from saferl.storage import write_json

    if path is not None:
        write_json(path, result)


def check_output(path: Path | None, option: str = "--json", what: str = "a JSON file") -> None:
    """Raise before the work, rather than after it, if its result could not be written."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = "it is a folder" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "permission denied"
    except OSError as error:
        reason = f"its folder cannot be made: {error}"
    if reason:
        raise RunFolderError(f"{option} must name {what} that can be written; got {path}: {reason}. Choose another.")
