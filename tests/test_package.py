"""The package's surface: exported names, what an import loads, the error tree and the top-level links."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import saferl
import saferl.envs
import saferl.errors
from saferl.envs.catalogue import SPECS

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "stable_baselines3", "gymnasium", "mujoco", "safety_gymnasium", "scipy")

HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Hider:
    "Finds what is installed, except the hidden packages."
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {HEAVY[:-1]!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hider
"""


def run(code):
    """Standard output of a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_exported_names_are_these():
    names = ["Constraint", "ConstraintSet", "build_report", "evaluate", "load", "make", "make_vec", "resume", "train"]
    assert saferl.__all__ == names
    assert dir(saferl) == sorted([*names, "__version__"])


def test_the_exported_names_of_envs_are_these():
    assert sorted(saferl.envs.__all__) == [
        "CostContract",
        "CostFunction",
        "CostVectorEnv",
        "ENVS",
        "EnvSpec",
        "SixTupleAdapter",
        "make",
        "make_vec",
        "register",
    ]


@pytest.mark.parametrize("module", [saferl, saferl.envs], ids=lambda module: module.__name__)
def test_every_exported_name_loads(module):
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []


@pytest.mark.parametrize("module", [saferl, saferl.envs], ids=lambda module: module.__name__)
def test_a_name_that_is_not_exported_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="has no attribute 'maek'"):
        _ = module.maek


def test_importing_saferl_loads_no_heavy_package():
    code = f"import sys, saferl; dir(saferl); print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code).split() == []


def test_constraints_are_available_without_a_heavy_package():
    code = f"import sys, saferl; saferl.Constraint; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code).split() == []


def test_the_environments_are_listed_where_gymnasium_torch_and_mujoco_are_not_installed():
    assert run(HIDE + "from saferl.envs.registry import ENVS; print(*ENVS)").split() == sorted(s.id for s in SPECS)


@pytest.mark.parametrize("call", ["saferl.make('X')", "saferl.make_vec('X')", "saferl.envs.CostFunction"])
def test_an_environment_without_gymnasium_is_an_error_that_names_the_extra(call):
    code = f"""
import saferl, saferl.envs
from saferl.errors import MissingExtraError
try:
    {call}
except MissingExtraError as error:
    print(error)
"""
    message = run(HIDE + code)
    assert "needs gymnasium" in message
    assert "pip install 'saferl[train]'" in message


def test_the_error_tree_in_the_docstring_is_the_class_tree():
    tree = saferl.errors.__doc__.split("```")[1]
    drawn, path = {}, []
    for line in tree.strip().splitlines():
        indented = line.replace("│", " ").replace("├── ", "    ").replace("└── ", "    ")
        name = indented.split()[0]
        depth = (len(indented) - len(indented.lstrip())) // 4
        path[depth:] = [name]
        drawn[name] = path[depth - 1] if depth else "Exception"
    classes = [
        value for value in vars(saferl.errors).values() if inspect.isclass(value) and issubclass(value, Exception)
    ]
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in classes}


def test_the_exit_codes_in_the_docstring_are_those_of_the_classes():
    lines = [line for line in saferl.errors.__doc__.splitlines() if "CLI exit code" in line]
    said = {line.strip("│├└─ ").split()[0]: int(line.rstrip(")")[-1]) for line in lines}
    assert said == {name: getattr(saferl.errors, name).exit_code for name in said}
    assert set(said) == {"UsageError", "CostError"}


@pytest.mark.parametrize("name", ["envs", "solvers", "shields"])
def test_the_top_level_link_is_relative_and_leads_into_the_package(name):
    link = ROOT / name
    assert link.is_symlink()
    assert os.readlink(link) == f"saferl/{name}"
    assert link.resolve() == (ROOT / "saferl" / name).resolve()
    assert (link / "__init__.py").is_file()


def test_the_package_says_that_it_is_typed():
    assert (Path(saferl.__file__).parent / "py.typed").is_file()
