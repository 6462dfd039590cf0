import pytest

from saferl.envs.registry import ENVS
from saferl.solvers import SOLVERS
from saferl.solvers.catalogue import ONLINE
from saferl.training.recipes import all_recipes, find_recipe
from saferl.training.settings import split_assignments


def test_every_known_task_has_one_recipe():
    for env_id in ENVS:
        recipe = find_recipe(env_id)
        assert recipe is not None, env_id
        assert [other.name for other in all_recipes() if find_recipe(env_id) is other] == [recipe.name]


@pytest.mark.parametrize("solver", ONLINE)
def test_every_recipe_gives_valid_options_for_every_solver(solver):
    for recipe in all_recipes():
        options = recipe.options_for(solver)
        _, settings = split_assignments([], SOLVERS.load(solver).config_class, options)
        assert settings.num_envs == recipe.options["num_envs"]


def test_every_option_of_a_recipe_belongs_to_some_solver_or_the_run():
    for recipe in all_recipes():
        used = {name for solver in SOLVERS for name in recipe.options_for(solver)}
        assert set(recipe.options) <= used
        assert set(recipe.by_solver) <= set(SOLVERS)


def test_a_task_of_ones_own_has_no_recipe():
    assert find_recipe("my_package.envs:make") is None
