"""The command line as a user meets it: results on stdout, one clear message on stderr, exit codes 0, 1 and 2."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import TINY, USER_ENV, VELOCITY, assert_one_message, flat, run_quietly
from rich.console import Console

import saferl
from saferl.cli import console
from saferl.cli.app import _load_commands, app
from saferl.envs.registry import ENVS
from saferl.shields import SHIELDS, ActionSpec, Bounds, save_shield
from saferl.shields.catalogue import CATALOGUE as SHIELD_CATALOGUE
from saferl.solvers import SOLVERS
from saferl.solvers.catalogue import CATALOGUE
from saferl.training import RunSettings
from saferl.training.settings import split_assignments


def commands():
    """All commands by their words, groups included."""
    _load_commands()

    def walk(words, command):
        yield words, command
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk([*words, name], sub)

    return {" ".join(words): command for words, command in walk([], typer.main.get_command(app))}


@pytest.mark.parametrize("words", [name for name in commands() if name])
def test_the_help_of_every_command_has_an_example_of_it(words):
    code, out, err = run_quietly(*words.split(), "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"Example: saferl {words}\b", flat(out))


def test_the_help_says_where_to_start_and_names_all_commands():
    code, out, _ = run_quietly("--help")
    assert code == 0
    assert "Start with: saferl quickstart" in flat(out)
    assert all(name.split()[0] in out for name in commands() if name)


def test_the_version_is_printed():
    assert run_quietly("--version") == (0, f"saferl {saferl.__version__}\n", "")


USAGE_ERRORS = {
    "unknown command": (["trian"], "No such command 'trian'"),
    "unknown option": (["train", "ppo_lag", VELOCITY, "--stepps", "5"], "No such option.*--stepps"),
    "missing argument": (["train", "ppo_lag"], "needs a solver and an environment"),
    "text for a number": (["train", "ppo_lag", VELOCITY, "--steps", "many"], "Invalid value for '--steps'"),
    "no steps": (["train", "ppo_lag", VELOCITY, "--steps", "0"], "steps must be at least 1; got 0"),
    "no envs": (["train", "ppo_lag", VELOCITY, "--num-envs", "0"], "num_envs must be at least 1; got 0"),
    "negative seed": (["train", "ppo_lag", VELOCITY, "--seed", "-1"], "seed must be at least 0; got -1"),
    "unknown solver": (["train", "ppo_lga", VELOCITY], "Unknown solver 'ppo_lga'. Did you mean 'ppo_lag'"),
    "unknown env": (
        ["train", "ppo_lag", "SafetyPointGaol1-v0"],
        "Unknown environment 'SafetyPointGaol1-v0'. Did you mean 'SafetyPointGoal1-v0'.*module:factory",
    ),
    "unknown env of eval": (["eval", "random", "--env", "SafetyAntVelocity"], "Did you mean 'SafetyAntVelocity-v1'"),
    "unknown key": (
        ["train", "ppo_lag", VELOCITY, "--set", "learning_rat=1"],
        "Unknown option 'learning_rat'. Did you mean 'learning_rate'",
    ),
    "wrong value": (
        ["train", "ppo_lag", VELOCITY, "--set", "learning_rate=fast"],
        "learning_rate must be a finite number; got 'fast'",
    ),
    "value out of range": (
        ["train", "ppo_lag", VELOCITY, "--set", "gamma=2"],
        r"gamma must (lie|be) in \[0, 1\]; got 2",
    ),
    "no value": (["train", "ppo_lag", VELOCITY, "--set", "fast"], "must look like KEY=VALUE; got 'fast'"),
    "key given twice": (
        ["train", "ppo_lag", VELOCITY, "--num-envs", "2", "--set", "num_envs=4"],
        "'num_envs' must be given once",
    ),
    "unknown budget": (["train", "ppo_lag", VELOCITY, "--budget", "csot=5"], "'csot'. Did you mean 'cost'"),
    "unknown training budget": (
        ["train", "ppo_lag", VELOCITY, "--train-budget", "csot=5"],
        "'csot'. Did you mean 'cost'",
    ),
    "negative budget": (["train", "ppo_lag", VELOCITY, "--budget", "cost=-1"], "finite and at least 0; got -1"),
    "budget of nan": (["train", "ppo_lag", VELOCITY, "--budget", "cost=nan"], "finite and at least 0; got nan"),
    "budget of inf": (["train", "ppo_lag", VELOCITY, "--budget", "cost=inf"], "finite and at least 0; got inf"),
    "budget without value": (
        ["train", "ppo_lag", VELOCITY, "--budget", "cost"],
        "--budget must look like NAME=VALUE with a number; got 'cost'. Try --budget cost=25",
    ),
    "budget without name": (["train", "ppo_lag", VELOCITY, "--budget", "=5"], "NAME=VALUE with a number; got '=5'"),
    "budget of text": (["eval", "random", "--env", VELOCITY, "--budget", "cost=low"], "NAME=VALUE.*got 'cost=low'"),
    "training budget of text": (
        ["train", "ppo_lag", VELOCITY, "--train-budget", "cost=low"],
        "--train-budget must look like NAME=VALUE.*got 'cost=low'",
    ),
    "budget twice": (
        ["train", "ppo_lag", VELOCITY, "--budget", "cost=1", "--budget", "cost=2"],
        "names 'cost' twice",
    ),
    "no budget": (["train", "ppo_lag", "user_env:make"], "a budget is needed.*--budget cost=25"),
    "unknown factory": (["train", "ppo_lag", "user_env:mkae"], "'mkae'. Did you mean 'make'"),
    "unknown module": (["train", "ppo_lag", "no_such_file:make"], "Cannot import 'no_such_file'.*current folder"),
    "not a factory": (["train", "ppo_lag", "user_env:answer"], "must be a function or class.*got 42"),
    "not an env": (["train", "ppo_lag", "user_env:not_an_env"], "must be a gymnasium.Env; its factory returned int"),
    "unknown cost": (
        ["train", "ppo_lag", "user_env:make", "--cost", "user_env:cots", "--budget", "cost=5"],
        "'cots'. Did you mean 'cost'",
    ),
    "cost without module": (
        ["eval", "random", "--env", "user_env:make", "--cost", "cost", "--budget", "cost=5"],
        "must look like 'package.module:name'; got 'cost'",
    ),
    "random without env": (["eval", "random"], "random policy needs an environment. Give --env"),
    "deterministic random": (
        ["eval", "random", "--env", VELOCITY, "--deterministic"],
        "random policy has no deterministic actions",
    ),
    "no episodes": (["eval", "random", "--env", VELOCITY, "--episodes", "0"], "episodes must be at least 1; got 0"),
    "no workers": (["eval", "random", "--env", VELOCITY, "--workers", "-1"], "workers must be at least 1; got -1"),
    "negative first seed": (
        ["eval", "random", "--env", VELOCITY, "--first-seed", "-1"],
        "first seed must be at least 0; got -1",
    ),
    "unknown checkpoint": (["eval", "run", "--checkpoint", "first"], "Invalid value for '--checkpoint'.*'last'"),
    "report of nothing": (["report"], "Missing argument 'evaluations"),
    "report that is no page": (["report", "run", "--out", "report.pdf"], "must be an .html file; got report.pdf"),
    "unknown list": (["list", "robots"], "'robots' is not one of 'envs'"),
    "a name too many": (["list", "envs", "all"], "takes no further name; got 'all'"),
    "options of nothing": (["list", "options"], "saferl list options NAME.*ppo_lag"),
    "options of nobody": (["list", "options", "ppo_lga"], "Did you mean 'ppo_lag'"),
    "no repeats": (["bench", "train", "ppo_lag", VELOCITY, "--repeats", "0"], "repeats must be at least 1; got 0"),
    "no envs to measure": (["bench", "env", "SafetyPointGoal1-v0", "--num-envs", "0"], "num_envs must be at least 1"),
    "an env without a batch": (["bench", "env", "CartPole-v1"], "backend='batched' is not possible for 'CartPole-v1'"),
    "peer that does not exist": (
        ["bench", "train", "ppo_lag", VELOCITY, "--peer", "no-such-program"],
        "must start with a program that exists; got 'no-such-program'",
    ),
    "unknown solver to check": (["check", "solver", "ppo_lga"], "Unknown solver 'ppo_lga'. Did you mean 'ppo_lag'"),
    "budget of a solver": (
        ["check", "solver", "ppo", "--budget", "cost=1"],
        "--budget and --cost are for environments",
    ),
    "unknown thing to check": (["check", "robot", "x"], "'robot' is not"),
    "unknown shield to check": (["check", "shield", "bonds"], "Unknown shield 'bonds'. Did you mean 'bounds'"),
    "a shield's name alone": (["check", "shield", "bounds"], "add --env ENV to 'bounds', or give a folder"),
    "a shield that no env builds": (
        ["check", "shield", "composite", "--env", VELOCITY],
        "shield 'composite' cannot build itself for.*Save one",
    ),
    "budget of a shield": (["check", "shield", "bounds", "--budget", "cost=1"], "name one with --env"),
    "env of a solver": (["check", "solver", "ppo", "--env", VELOCITY], "--env is for shields"),
    "a shield that is none": (["check", "shield", "user_env:answer"], "needs a saferl.shields.Shield.*got 42"),
}


@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_a_usage_error_is_one_message_and_exit_code_2(case, folder):
    arguments, pattern = USAGE_ERRORS[case]
    code, out, err = run_quietly(*arguments)
    assert (code, out) == (2, "")
    assert_one_message(err, pattern)
    assert not (folder / "runs").exists()


def test_an_error_before_any_progress_shows_no_progress_bar():
    _, _, err = run_quietly("train", "ppo_lag", "SafetyPointGaol1-v0")
    assert err.strip().startswith("Error: Unknown environment")


FAILURES = {
    "no artefact": (["eval", "nowhere"], "nowhere does not exist. Give the folder that --out named"),
    "a folder without artefact": (["eval", "."], "holds no artefact.json"),
    "no evaluation": (["report", "nowhere"], "folder with summary.json.*nowhere, which is missing.*saferl eval"),
    "training into a file": (
        ["train", "ppo_lag", VELOCITY, "--out", "file"],
        "must be a folder; got the file file. Choose another --out",
    ),
    "training below a file": (
        ["train", "ppo_lag", VELOCITY, "--out", "file/run"],
        "cannot be written: file/run.*Choose another --out",
    ),
    "training into a full folder": (
        ["train", "ppo_lag", VELOCITY, "--out", "."],
        "must be new or empty.*were left alone. Choose another --out",
    ),
    "evaluating below a file": (
        ["eval", "random", "--env", VELOCITY, "--out", "file/evaluation"],
        "cannot be written: file/evaluation.*Choose another --out",
    ),
    "a benchmark below a file": (
        ["bench", "train", "ppo_lag", VELOCITY, "--json", "file/speed.json"],
        "must name a JSON file that can be written; got file/speed.json.*Choose another",
    ),
    "a benchmark into a folder": (
        ["bench", "train", "ppo_lag", VELOCITY, "--json", "."],
        "it is a folder. Choose another",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_message_and_exit_code_1(case, folder):
    arguments, pattern = FAILURES[case]
    code, out, err = run_quietly(*arguments)
    assert (code, out) == (1, "")
    assert_one_message(err, pattern)
    assert (folder / "file").read_text() == "mine"


BAD_COSTS = {
    "missing": (["user_env:make", "--budget", "cost=5"], r"info\['costs'\] is missing.*--cost module:function"),
    "another name": (
        ["user_env:make", "--cost", "user_env:cost", "--budget", "heat=5"],
        r"the cost 'heat' is missing from info\['costs'\]; got \['cost'\]",
    ),
    "nan": (["user_env:make", "--cost", "user_env:nan", "--budget", "cost=5"], "'cost' must be finite; got nan"),
    "inf": (["user_env:make", "--cost", "user_env:inf", "--budget", "cost=5"], "'cost' must be finite; got inf"),
    "text": (
        ["user_env:make", "--cost", "user_env:text", "--budget", "cost=5"],
        "'cost' must be a number; got 'a lot'",
    ),
    "nan from the env": (["user_env:make_nan", "--budget", "cost=5"], "'cost' must be finite; got nan"),
}


@pytest.mark.parametrize("case", BAD_COSTS)
def test_a_bad_cost_of_the_users_env_ends_training_with_one_message_that_names_the_env(case, tmp_path):
    arguments, pattern = BAD_COSTS[case]
    code, out, err = run_quietly("train", "ppo_lag", *arguments, *TINY, "--out", tmp_path / "run")
    assert (code, out) == (1, "")
    assert_one_message(err, f"{arguments[0]}: .*{pattern}")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("case", BAD_COSTS)
def test_a_bad_cost_ends_an_evaluation_with_one_message_and_no_result(case, tmp_path):
    arguments, pattern = BAD_COSTS[case]
    code, out, err = run_quietly(
        "eval", "random", "--env", *arguments, "--episodes", 2, "--out", tmp_path / "evaluation"
    )
    assert (code, out) == (1, "")
    assert_one_message(err, f"{arguments[0]}: .*{pattern}")
    assert not list((tmp_path / "evaluation").iterdir())


def test_a_changed_byte_is_refused(trained, tmp_path):
    artefact = shutil.copytree(trained[0] / "artefact", tmp_path / "artefact")
    weights = artefact / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    code, out, err = run_quietly("eval", artefact, "--episodes", 2)
    assert (code, out) == (1, "")
    assert_one_message(err, "was changed after it was written.*Copy the artefact again")


def test_a_half_written_run_points_to_its_checkpoints(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("artefact*"))
    code, out, err = run_quietly("eval", run, "--episodes", 2)
    assert (code, out) == (1, "")
    assert_one_message(err, "training did not finish. Evaluate one of its checkpoints")
    code, _, err = run_quietly("report", run)
    assert code == 1
    assert_one_message(err, "has no evaluation yet. Make one with: saferl eval")


def test_training_tells_what_it_did_and_what_comes_next(trained):
    run, out = trained
    first, second = out.splitlines()
    assert re.fullmatch(r"Trained 64 steps at [\d,]+ steps/s into my \[first\] run", first)
    assert second == "Next: saferl eval 'my [first] run'"
    record = json.loads((run / "run.json").read_text())
    assert (record["env"], record["cost"], record["seed"]) == ("user_env:make", "user_env:cost", 3)
    assert (record["config"]["n_steps"], record["settings"]["num_envs"]) == (16, 2)
    assert [c["budget"] for c in record["constraints"]] == [5.0]


def test_train_eval_and_report_follow_each_other(trained, folder):
    """Each command says the next one; the last one writes a page about the first."""
    _, next_command, *arguments = shlex.split(trained[1].splitlines()[-1])
    assert next_command == "saferl"
    code, out, _ = run_quietly(*arguments, "--episodes", 5)
    assert code == 0
    assert re.search(r"PPO-Lagrangian.*cost.*<= 5.*undecided", out)
    written, following = out.splitlines()[-2:]
    evaluation = folder / written.removeprefix("Written to ")
    assert evaluation == trained[0] / "evaluations" / "001-last-stochastic"
    assert json.loads((evaluation / "summary.json").read_text())["episodes"] == 5
    code, out, _ = run_quietly(*shlex.split(following)[2:], "--out", "page.html", "--title", "Mine & <yours>")
    assert (code, out) == (0, "Report written to page.html\n")
    page = (folder / "page.html").read_text()
    assert "Mine &amp; &lt;yours&gt;" in page
    assert "PPO-Lagrangian" in page
    assert run_quietly("report", trained[0], "--out", "page.html")[0] == 0  # the run stands for its newest evaluation


def test_evaluations_of_a_run_are_numbered_and_named(trained):
    run = trained[0]
    for arguments in (["--checkpoint", "best"], ["--deterministic"]):
        assert run_quietly("eval", run, "--episodes", 1, *arguments)[0] == 0
    step = sorted((run / "checkpoint").iterdir())[-1]
    assert run_quietly("eval", step, "--episodes", 1)[0] == 0
    names = sorted(path.name for path in (run / "evaluations").iterdir())[-3:]
    assert [name[4:] for name in names] == ["best-stochastic", "last-deterministic", f"{step.name}-stochastic"]
    numbers = [int(name[:3]) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_eval_judges_by_the_given_budget_and_label(trained):
    code, out, _ = run_quietly(
        "eval", trained[0], "--episodes", 3, "--budget", "cost=0.5", "--label", "mine", "--first-seed", 5, "--json"
    )
    assert code == 0
    summary = json.loads(out)
    assert summary["constraints"]["cost"]["budget"] == 0.5
    assert summary["policy"]["label"] == "mine"
    assert summary["seeds"] == {"first": 5, "count": 3}


def test_several_costs_of_the_users_function_can_be_constrained(tmp_path):
    code, out, err = run_quietly(
        *("train", "ppo_lag", "user_env:make", "--cost", "user_env:two_costs", "--budget", "right=5"),
        *("--budget", "fast=2", "--train-budget", "fast=1", *TINY, "--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    record = json.loads((Path(json.loads(out)["folder"]) / "run.json").read_text())
    assert {c["name"]: c["budget"] for c in record["constraints"]} == {"right": 5.0, "fast": 2.0}
    assert record["train_budgets"] == {"right": 5.0, "fast": 1.0}


def test_a_run_folder_without_a_name_is_found_one(tmp_path, monkeypatch, folder):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    for name in ("ppo-user_env.make-0", "ppo-user_env.make-0-2"):
        code, out, err = run_quietly("train", "ppo", *USER_ENV, *TINY, "--set", "batch_size=32", "--json")
        assert code == 0, err
        assert json.loads(out)["folder"] == f"runs/{name}"


JSON_COMMANDS = {
    "train": ["train", "ppo_lag", *USER_ENV, *TINY, "--json", "--out"],
    "eval": ["eval", "random", "--env", *USER_ENV, "--episodes", "2", "--json", "--out"],
}


@pytest.mark.parametrize("name", JSON_COMMANDS)
def test_json_results_are_alone_on_stdout(name, tmp_path):
    code, out, err = run_quietly(*JSON_COMMANDS[name], tmp_path / "out")
    assert code == 0, err
    result = json.loads(out)
    if name == "train":
        assert set(result) == {"folder", "steps", "seconds", "steps_per_second"}
        assert result["steps"] == 64
    else:
        assert result == json.loads((tmp_path / "out" / "summary.json").read_text())
        assert result["policy"]["label"] == "random"


def test_a_training_benchmark_prints_a_table_and_writes_json(tmp_path):
    code, out, err = run_quietly(
        *("bench", "train", "ppo", VELOCITY, "--steps", "32", "--repeats", "1"),
        *("--set", "num_envs=2", "--set", "n_steps=16", "--set", "batch_size=32", "--json", tmp_path / "speed.json"),
    )
    assert code == 0, err
    result = json.loads((tmp_path / "speed.json").read_text())
    median = result["results"]["saferl"]["median"]
    assert median > 0
    assert re.search(rf"saferl +│ +{median:,.0f} ", out)


def test_a_shield_benchmark_prints_latencies_and_the_rate_of_the_projector_and_writes_json(tmp_path):
    code, out, err = run_quietly(
        *("bench", "shields", "--case", "cbf_qp", "--calls", "20", "--batch", "16", "--json", tmp_path / "s.json")
    )
    assert code == 0, err
    result = json.loads((tmp_path / "s.json").read_text())
    median = result["cases"]["cbf_qp"]["wall_us"]["median"]
    assert re.search(rf"cbf_qp +│ +{median:,.1f} ", out)
    assert f"{result['projector']['per_second']:,} projections/s" in " ".join(out.split())


def test_an_env_benchmark_prints_rates_and_ratios_and_writes_json(tmp_path):
    """Every figure that a reader of the documentation needs."""
    peer = shlex.join([sys.executable, "-c", "print('ENV_STEPS_PER_SECOND 10')"])
    code, out, err = run_quietly(
        *("bench", "env", "SafetyPointCircle1-v0", "--num-envs", "3", "--steps", "4", "--repeats", "2"),
        *("--threads", "2", "--peer", peer, "--json", tmp_path / "speed.json"),
    )
    assert code == 0, err
    result = json.loads((tmp_path / "speed.json").read_text())
    rates = result["steps_per_second"]
    assert set(rates) == {"reference", "batched", "physics", "peer"}
    assert all(len(row["all"]) == 2 and row["median"] > 0 for row in rates.values())
    assert rates["peer"]["median"] == 10
    for name in ("reference", "physics", "peer"):
        expected = rates["batched"]["median"] / rates[name]["median"]
        assert result["ratios"][f"batched_to_{name}"] == pytest.approx(expected, rel=0.01)
        assert f"{result['ratios'][f'batched_to_{name}']:.2f} times" in out
    assert 0 < result["reset_ms"] < 1000
    assert 0 < result["memory_mb_per_env"] < 100
    assert list(result["scaling"]) == ["1", "4", "16", "64", "256"]
    assert (result["threads"], result["num_envs"], result["steps"]) == (2, 3, 4)


def test_list_envs_names_every_env_with_costs_and_horizon():
    code, out, _ = run_quietly("list", "envs", "--json")
    assert code == 0
    rows = {row["id"]: row for row in json.loads(out)}
    assert list(rows) == list(ENVS)
    assert rows[VELOCITY]["costs"] == {"cost": 25.0}
    assert rows[VELOCITY]["horizon"] == 1000
    _, table, _ = run_quietly("list", "envs")
    assert all(name in table for name in ENVS)


def test_list_solvers_names_every_solver_with_a_line_about_it():
    rows = json.loads(run_quietly("list", "solvers", "--json")[1])
    assert [row["name"] for row in rows] == list(SOLVERS)
    assert all(row["about"] for row in rows)
    assert all(name in run_quietly("list", "solvers")[1] for name in SOLVERS)


def test_list_solvers_says_family_spaces_kinds_guarantee_and_paper():
    rows = {row.pop("name"): row for row in json.loads(run_quietly("list", "solvers", "--json")[1])}
    assert rows["reload"] == {
        "about": "Optimistic descent-ascent on a natural gradient; the last iterate settles.",
        "family": "last-iterate",
        "sampling": "on-policy",
        "actions": ["Box", "Discrete", "MultiDiscrete", "MultiBinary"],
        "kinds": ["episode_sum", "discounted", "step_rate"],
        "guarantee": CATALOGUE["reload"].guarantee,
        "paper": {
            "authors": "Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy",
            "year": 2023,
            "arxiv": "2302.01275",
        },
    }


def test_the_list_of_solvers_is_readable_at_80_columns(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(console, "stdout", Console(file=out, width=80, force_terminal=True, color_system=None))
    run_quietly("list", "solvers")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    labels = [line[:18].strip() for line in lines if line[:18].strip()]
    facts = ["family", "actions", "kinds", "guarantee", "paper"]
    assert labels == [label for name in SOLVERS for label in (name, *facts)]
    text = " ".join(line[18:].strip() for line in lines)
    for name in SOLVERS:
        assert CATALOGUE[name].guarantee in text
        assert str(CATALOGUE[name].paper) in text


def test_a_plug_in_of_which_nothing_more_is_known_is_listed_with_its_line():
    with SOLVERS.temporarily("mine", "my_package:Mine"):
        row = next(row for row in json.loads(run_quietly("list", "solvers", "--json")[1]) if row["name"] == "mine")
        assert (row["family"], row["paper"]) == (None, None)
        assert "mine" in run_quietly("list", "solvers")[1]


def test_list_shields_says_needs_guarantee_spaces_and_speed():
    rows = {row.pop("name"): row for row in json.loads(run_quietly("list", "shields", "--json")[1])}
    assert list(rows) == list(SHIELDS)
    for name, row in rows.items():
        facts = SHIELD_CATALOGUE[name]
        assert row == {
            "about": facts.summary,
            "needs": list(facts.needs),
            "guarantee": facts.guarantee,
            "actions": list(facts.actions),
            "speed": facts.speed,
        }


def test_the_list_of_shields_is_readable_at_80_columns(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(console, "stdout", Console(file=out, width=80, force_terminal=True, color_system=None))
    run_quietly("list", "shields")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    for name in SHIELDS:
        facts = SHIELD_CATALOGUE[name]
        needs = ", ".join(facts.needs) or "nothing"
        assert f"{name} {facts.summary} needs {needs} guarantee {facts.guarantee} actions" in text


def test_a_shield_of_a_plug_in_is_listed_with_its_line():
    with SHIELDS.temporarily("mine", "my_package:Mine"):
        row = next(row for row in json.loads(run_quietly("list", "shields", "--json")[1]) if row["name"] == "mine")
        assert (row["needs"], row["guarantee"]) == (None, None)
        assert "mine" in run_quietly("list", "shields")[1]


def test_check_shield_takes_a_folder_a_factory_and_a_name(folder, tmp_path):
    saved = save_shield(Bounds(ActionSpec.box([-1.0], [1.0]), high=0.5), tmp_path / "shield")
    (folder / "user_shield.py").write_text(
        "import numpy as np\n"
        "from saferl.shields import ActionSpec, Bounds, Ruling\n"
        "from saferl.testing import ShieldCase\n"
        "class Broken(Bounds):\n"
        "    def _decide(self, obs, proposed, context):\n"
        "        return Ruling(proposed / 2)\n"
        "def make():\n"
        "    return ShieldCase(Bounds(ActionSpec.box([-1.0], [1.0])), lambda generator: generator.normal(size=3))\n"
        "def broken():\n"
        "    return Broken(ActionSpec.box([-1.0], [1.0]))\n"
    )
    six = save_shield(Bounds(ActionSpec.box([-1.0] * 6, [1.0] * 6), high=0.5), tmp_path / "six")
    for words in ([saved], ["user_shield:make"], ["bounds", "--env", VELOCITY], [six, "--env", VELOCITY]):
        code, out, err = run_quietly("check", "shield", *words)
        assert code == 0, err
        assert out.startswith("bounds keeps saferl's contract: 13 checks, 0 problems, 0 warnings.")
    code, _, err = run_quietly("check", "shield", saved, "--env", VELOCITY)
    assert code == 2
    assert_one_message(err, "Build it for the action space of this environment")
    code, out, _ = run_quietly("check", "shield", "user_shield:broken", "--json")
    assert code == 1
    assert {problem["check"] for problem in json.loads(out)["problems"]} == {"idempotence", "storage"}


@pytest.mark.parametrize("solver", ["ppo", "ppo_lag"])
def test_list_options_explains_every_option_that_set_takes(solver):
    rows = json.loads(run_quietly("list", "options", solver, "--json")[1])
    assert {row["of"] for row in rows} == {solver, "run"}
    assert all(row["about"] and row["type"] for row in rows)
    assert {"learning_rate", "gamma", "num_envs", "net_arch"} <= {row["option"] for row in rows}
    table = run_quietly("list", "options", solver)[1]
    assert all(row["option"] in table for row in rows)
    assert f"saferl train {solver} ENV --set OPTION=VALUE" in table


def test_list_options_shows_defaults_as_set_reads_them():
    table = run_quietly("list", "options", "ppo")[1]
    shown = {
        cells[2]: cells[4] for line in table.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 5
    }
    del shown[""]  # lines that go on
    config_class = SOLVERS.load("ppo").config_class
    assignments = [f"{option}={default}" for option, default in shown.items()]
    assert split_assignments(assignments, config_class) == (config_class(), RunSettings())


WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "stable_baselines3", "gymnasium", "mujoco"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [["train", "ppo", VELOCITY], ["eval", "run"], ["bench", "train", "ppo", VELOCITY]])
def test_a_command_that_needs_an_extra_names_it(command):
    code = f"import sys; sys.modules['torch'] = None\nfrom saferl.cli import main\nmain({command})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_message(done.stderr, r"needs torch, which is not installed.*pip install 'saferl\[train\]'")


def test_ctrl_c_ends_with_exit_code_130_and_no_traceback(monkeypatch, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("saferl.training.train", interrupt)
    code, out, err = run_quietly("train", "ppo_lag", VELOCITY, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def shell(*arguments, cwd):
    """The installed console script, which does not see the current folder by itself."""
    script = Path(sys.executable).with_name("saferl")
    return subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_a_run_records_the_command_that_started_it(tmp_path, monkeypatch):
    arguments = ["train", "ppo_lag", *USER_ENV, *TINY, "--out", str(tmp_path / "a run")]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/saferl", *arguments])
    assert run_quietly(*arguments)[0] == 0
    command = json.loads((tmp_path / "a run" / "run.json").read_text())["command"]
    assert shlex.split(command) == ["saferl", *arguments]


def test_an_error_in_a_worker_process_leaves_the_console_script_as_one_message(folder):
    """The script finds the user's file in the current folder, and so do the processes it starts."""
    done = shell("eval", "random", "--env", *BAD_COSTS["nan"][0], "--episodes", "17", "--workers", "2", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_message(done.stderr, "user_env:make: the cost 'cost' must be finite; got nan")


def test_the_console_script_ends_bad_usage_with_exit_code_2_and_one_message(folder):
    done = shell("list", "options", "ppo_lga", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: Unknown solver 'ppo_lga'. Did you mean 'ppo_lag' or 'trpo_lag' or 'ppo'?\n"


def test_lists_and_help_load_neither_torch_nor_mujoco(folder):
    code = (
        "import sys\n"
        "from saferl.cli import main\n"
        "for words in (['--help'], ['list', 'envs'], ['list', 'solvers'], ['list', 'shields'], ['train', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({'torch', 'mujoco', 'safety_gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
