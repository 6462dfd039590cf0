"""The tutorials are run as they stand, with shorter trainings; several constraints hold in one run, each by itself."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import saferl
from saferl.cli import main
from saferl.training import RunSettings

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
TUTORIAL = TUTORIALS / "your-env.md"
BLOCK = re.compile(r"^```(?:python file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = [
    ("--steps 80000", "--steps 2000"),
    ("steps=80_000", "steps=2_000"),
    ("--episodes 500", "--episodes 16"),
    ("--episodes 100", "--episodes 16"),
    ("episodes=100", "episodes=16"),
    ("episodes=300", "episodes=16"),
    ("learn(20_000", "learn(3_200"),
    ("eval_freq=1_000", "eval_freq=300"),
    ("gradient_steps=4", "gradient_steps=1"),
    ("--steps 100000", "--steps 2000 --set num_envs=2"),
    ("--steps 1500000", "--steps 2000 --set num_envs=2"),
    ("Microgrid-v0 --", "Microgrid-v0 --set validation_share=0 --"),
    ("--days 30", "--days 2 --series synthetic"),
    ("runs/bare --episodes 16", "runs/bare --episodes 2"),
    ("scu_microgrid --episodes 16", "scu_microgrid --episodes 2"),
]


def run_python(name, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_command(words, capture):
    """A command in this process, which spares it the imports."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code, (words, capture.readouterr())


def follow(folder, capture, tutorial=TUTORIAL):
    """Save or run every block of the tutorial; what was printed, by command or file."""
    printed = {}
    for name, block in BLOCK.findall(tutorial.read_text(encoding="utf-8")):
        text = block
        for long, short in SHORTER:
            text = text.replace(long, short)
        if name:
            (folder / name).write_text(text)
            if name == "from_python.py":
                printed[name] = run_python(name, folder)
            continue
        for line in text.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "saferl"
            capture.readouterr()
            run_command(words[1:], capture)
            printed[line] = capture.readouterr().out
    return printed


def test_every_command_of_the_tutorial_works_and_leaves_what_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    printed = follow(tmp_path, capsys)
    assert len(printed) == 10
    checks = [text for line, text in printed.items() if line.startswith("saferl check")]
    assert len(checks) == 2
    assert all("keeps saferl's contract" in text for text in checks)
    assert "off_centre" in (tmp_path / "report.html").read_text()
    summaries = {p.parts[-4]: json.loads(p.read_text()) for p in tmp_path.glob("runs/*/evaluations/*/summary.json")}
    assert set(summaries) == {"ppo", "ppo_lag", "cart"}
    for name, summary in summaries.items():
        entries = summary["constraints"]
        assert {key: entry["budget"] for key, entry in entries.items()} == {"off_centre": 20.0, "fast": 30.0}
        # Only the environment that tells the largest cost of a step gets valid bounds, as the tutorial says.
        assert all((entry["bound"].startswith("betting")) == (name == "cart") for entry in entries.values())
        assert name == "cart" or {entry["verdict"] for entry in entries.values()} == {"undecided"}
    verdict = "'(satisfied|violated|undecided)'"
    assert re.fullmatch(rf"\{{'off_centre': {verdict}, 'fast': {verdict}\}}\n", printed["from_python.py"])


def test_every_command_of_the_tutorial_of_the_microgrid_works(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow(tmp_path, capsys, TUTORIALS / "microgrid.md")
    shielded = json.loads((tmp_path / "eval/grid/summary.json").read_text())
    assert shielded["constraints"]["deficit"]["mean"] == 0.0
    assert (tmp_path / "eval/grid-unshielded/summary.json").exists()
    days = json.loads((tmp_path / "microgrid.json").read_text())["series"]["synthetic"]["by_day"]
    assert [day["records"]["microgrid, shield"]["deficit"] for day in days] == [0, 0]
    assert "deficit" in (tmp_path / "report.html").read_text()


def test_every_script_of_the_tutorial_for_stable_baselines3_works(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    spaces, printed = {}, {}
    for name, block in BLOCK.findall((TUTORIALS / "sb3.md").read_text(encoding="utf-8")):
        text = block
        for long, short in SHORTER:
            text = text.replace(long, short)
        (tmp_path / name).write_text(text)
        spaces[name] = runpy.run_path(name, run_name="__main__")
        printed[name] = capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "my_limits")
    assert list(spaces) == ["unconstrained.py", "my_limits.py", "constrained.py", "judge.py", "wrapped.py"]
    # 3,200 steps are two windows of 8 episodes of 200 steps; the first begins in the middle of episodes.
    env, cost = spaces["constrained.py"]["env"], spaces["my_limits.py"]["cost"]
    multipliers = env.multipliers.copy()
    assert multipliers > 0
    assert printed["constrained.py"] == f"Multiplier: {multipliers}\n"
    judged = [line.split() for line in printed["judge.py"].splitlines()]
    assert [words[0] for words in judged] == ["unconstrained", "constrained"]
    for name, mean, strong, verdict in judged:
        summary = json.loads((tmp_path / "evaluations" / name / "summary.json").read_text())
        entry = summary["constraints"]["strong"]
        assert (summary["return"]["mean"], entry["mean"], entry["verdict"]) == (float(mean), float(strong), verdict)
        assert entry["budget"] == 20.0
        assert entry["bound"].startswith("betting")
    # What the tutorial says in passing: going on later, and the artefact of a normalised policy.
    env.dual.values[:] = 0.0
    env.load_multipliers("multipliers.json")
    np.testing.assert_array_equal(env.multipliers, multipliers)
    lagrangian = spaces["constrained.py"]
    lagrangian["SAC"].load("constrained", env=env).learn(160, callback=lagrangian["LagrangianCallback"]())
    artefact = saferl.evaluate("artefact", cost=cost, episodes=16, workers=1)
    assert artefact.summary["constraints"]["strong"]["budget"] == 20.0
    assert -2_000.0 < spaces["wrapped.py"]["judge"].best_mean_reward < 0.0
    run_command(["report", "evaluations/unconstrained", "evaluations/constrained", "--out", "report.html"], capsys)
    assert "strong" in (tmp_path / "report.html").read_text()


def drift_cost(obs, action, next_obs):
    """Two costs that want opposite actions: pushing right costs one, pushing left the other."""
    return {"right": float(action == 1), "left": 0.25 * float(action == 0)}


def test_two_constraints_in_one_run_get_estimates_and_prices_of_their_own(tmp_path):
    """Episodes of exactly 20 steps: 10 pushes to the right would cost 10, which the budget of 30 allows; those to the
    left cost 2.5 against a budget of 1. Only the second constraint binds, so only it is priced, and it is kept."""
    result = saferl.train(
        "ppo_lag",
        f"{__name__}:balanced",
        cost=drift_cost,
        budgets={"right": 30.0, "left": 1.0},
        train_budgets={"left": 0.8},
        steps=24_000,
        out=tmp_path / "run",
        options={"n_steps": 100, "batch_size": 200, "multiplier_lr": 0.05, "multiplier_kp": 0.5, "learning_rate": 3e-3},
        settings=RunSettings(num_envs=4, num_checkpoints=0, validation_share=0.0, net_arch=(16,)),
    )
    model = result.model
    rows = np.genfromtxt(tmp_path / "run" / "progress.csv", delimiter=",", names=True)
    assert np.nanmax(rows["multiplierleft"]) > 0.0
    assert np.nanmax(rows["multiplierright"]) == 0.0
    first, last = rows["dualestimateleft"][1], rows["dualestimateleft"][-1]
    assert first > 1.5
    assert last < 1.2
    assert model.constraints.budgets.tolist() == [30.0, 0.8]
    evaluation = saferl.evaluate(result.folder, cost=drift_cost, episodes=64, workers=1)
    means = {name: entry["mean"] for name, entry in evaluation.summary["constraints"].items()}
    assert means["left"] < 1.2
    assert means["right"] == pytest.approx(20 - 4 * means["left"], abs=1e-6)


def balanced():
    """An env of 20 steps whose reward prefers the left, so that the constraint on it matters."""
    import gymnasium
    from gymnasium import spaces
    from gymnasium.wrappers import TimeLimit

    class Choose(gymnasium.Env):
        observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.ones(1, dtype=np.float32), {}

        def step(self, action):
            return np.ones(1, dtype=np.float32), float(action == 0), False, False, {}

    return TimeLimit(Choose(), 20)
