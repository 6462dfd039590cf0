"""What is listed of a solver is what its class does and its pages say."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import saferl
from saferl import Constraint, ConstraintSet
from saferl.solvers import SOLVERS
from saferl.solvers.catalogue import CATALOGUE, ONLINE, Paper

DOCS = Path(__file__).parent.parent.parent / "docs" / "solvers"
ACTIONS = {
    "Box": spaces.Box(-1.0, 1.0, (1,), np.float32),
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}


class Actions(gymnasium.Env):
    """An environment of which only the spaces matter."""

    constraints = ConstraintSet([Constraint("cost", 1.0)])
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, name):
        self.action_space = ACTIONS[name]


def test_every_solver_of_this_package_is_in_the_catalogue():
    assert list(SOLVERS) == sorted(CATALOGUE)
    assert all(SOLVERS.get(name).summary == facts.summary for name, facts in CATALOGUE.items())


@pytest.mark.parametrize("solver", list(CATALOGUE))
def test_the_listed_kinds_and_way_of_sampling_are_those_of_the_class(solver):
    solver_class, facts = SOLVERS.load(solver), CATALOGUE[solver]
    assert tuple(solver_class.supported_kinds) == facts.kinds
    bases = {base.__name__ for base in solver_class.__mro__}
    assert ("OffPolicyAlgorithm" in bases) == (facts.sampling == "off-policy")
    assert ("OfflineSolver" in bases) == (facts.sampling == "offline")


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("space", ACTIONS)
@pytest.mark.parametrize("solver", ONLINE)
def test_the_listed_action_spaces_are_those_that_are_taken(solver, space):
    env = saferl.make_vec(Actions, 1, name=space)
    if space in CATALOGUE[solver].actions:
        assert SOLVERS.load(solver)("MlpPolicy", env, device="cpu").action_space == ACTIONS[space]
    else:
        with pytest.raises(AssertionError, match="only supports"):
            SOLVERS.load(solver)("MlpPolicy", env, device="cpu")


@pytest.mark.parametrize("solver", [name for name in CATALOGUE if name != "ppo"])
def test_module_and_page_say_what_is_guaranteed_and_how_it_differs_from_the_paper(solver):
    module = " ".join((sys.modules[SOLVERS.load(solver).__module__].__doc__ or "").split())
    page = " ".join((DOCS / f"{solver}.md").read_text(encoding="utf-8").split())
    for text in (module, page):
        assert "Differences from the paper" in text
        assert CATALOGUE[solver].paper.authors.partition(",")[0] in text
    assert "What it guarantees:" in module
    assert "## What it guarantees and what it does not" in page


def test_a_paper_is_one_line():
    assert str(Paper("Ray, Achiam, Amodei", 2019)) == "Ray, Achiam, Amodei (2019)"
    assert str(Paper("Achiam, Held", 2017, "1705.10528")) == "Achiam, Held (2017), arXiv 1705.10528"
