"""An id that a solver is given is one of ``saferl.make``, never Gymnasium's namesake."""

import pytest
from gymnasium import spaces

from saferl.errors import ConstraintError, UnknownNameError
from saferl.rollout import CostVecEnv
from saferl.solvers import SOLVERS
from saferl.solvers.catalogue import ONLINE


# Stable-Baselines3's own PPO warns of a rollout that its batch size does not divide.
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("solver", ONLINE)
def test_a_solver_makes_its_environment_from_an_id_of_saferl(solver, tmp_path):
    solver_class = SOLVERS.load(solver)
    model = solver_class("MlpPolicy", "ParadoxA-v0", seed=0, device="cpu")
    assert isinstance(model.env, CostVecEnv)
    assert (model.env.env_id, model.env.num_envs, model.env.horizon) == ("ParadoxA-v0", 1, 66)
    assert model.observation_space == spaces.Discrete(2)
    assert model.constraints["cost"].budget == pytest.approx(5.0)
    model.save(tmp_path / "model")
    again = solver_class.load(tmp_path / "model", env="ParadoxA-v0", device="cpu")
    assert again.env.env_id == "ParadoxA-v0"


@pytest.mark.parametrize("solver", ONLINE)
def test_an_id_that_is_unknown_or_has_no_constraints_is_refused(solver):
    with pytest.raises(UnknownNameError, match=r"Unknown environment 'ParadoxB-v1'\. Did you mean 'ParadoxB-v0'"):
        SOLVERS.load(solver)("MlpPolicy", "ParadoxB-v1")
    with pytest.raises(ConstraintError, match="CartPole-v1 declares no constraints, so a budget is needed"):
        SOLVERS.load(solver)("MlpPolicy", "CartPole-v1")
