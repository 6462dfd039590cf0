"""Plans are read from TOML, and mistakes in them are named."""

from fnmatch import fnmatchcase

import pytest

from saferl.collection.plan import all_plans, find_plan, parse_plan
from saferl.envs import ENVS
from saferl.errors import ConfigError
from saferl.solvers import SOLVERS

TEXT = """
tasks = ["My*"]
noise = [0.0, 0.5]
[[agents]]
name = "ramp"
solver = "ppo_lag"
budgets = [5, 10]
steps = [100, 50]
[agents.options]
num_envs = 4
"""


def test_a_plan_says_who_collects():
    plan = parse_plan(TEXT, "mine")
    (agent,) = plan.agents
    assert (plan.name, plan.tasks, plan.noise) == ("mine", ("My*",), (0.0, 0.5))
    assert (agent.steps, agent.budgets, agent.options) == ((100, 50), (5.0, 10.0), {"num_envs": 4})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("budgets = [5, 10]", "budgets = [5]"), "the same number of stages; got 1 and 2"),
        (("steps = [100, 50]", "steps = []"), "at least one step"),
        (("noise = [0.0, 0.5]", "noise = [-1.0]"), "noise must be shares"),
        (("noise = [0.0, 0.5]", "random_share = 1.0"), "random_share must be in"),
        (('name = "ramp"', 'nmae = "ramp"'), "nmae"),
        (('tasks = ["My*"]', "tasks = ["), "cannot be read"),
    ],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_plan(TEXT.replace(*change), "mine")


def test_a_plan_without_anyone_is_refused():
    with pytest.raises(ConfigError, match="neither agents nor a scripted function"):
        parse_plan('tasks = ["My*"]', "mine")


def test_every_plan_of_the_package_names_known_environments_and_solvers():
    for plan in all_plans():
        for agent in plan.agents:
            SOLVERS.load(agent.solver)
        assert any(fnmatchcase(env_id, task) for env_id in ENVS for task in plan.tasks)


def test_an_environment_without_a_plan_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="Give --plan FILE"):
        find_plan("ParadoxA-v0")
