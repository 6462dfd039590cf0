"""``check_solver`` passes our solvers and catches broken ones by name."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from saferl.constraints import KINDS
from saferl.errors import UnknownNameError
from saferl.solvers import PPOLag
from saferl.solvers.catalogue import ONLINE
from saferl.testing import check_solver


class IgnoresItsSeed(PPOLag):
    def __init__(self, *args, seed=None, **kwargs):
        super().__init__(*args, seed=None, **kwargs)


class AlwaysTheSame(PPOLag):
    def train(self):
        super().train()
        with th.no_grad():
            for parameter in self.policy.parameters():
                parameter.fill_(0.1)


class ForgetsItsMultipliers(PPOLag):
    def get_extra_state(self):
        forgotten = {"values": np.zeros(2), "integral": np.zeros(2), "smooth": None, "past": []}
        return {**super().get_extra_state(), "dual": forgotten}


class OneMultiplierForAll(PPOLag):
    def update_multipliers(self):
        estimate = super().update_multipliers()
        self.dual.values = np.full(2, self.dual.values.mean())
        return estimate


class TakesAnyEnv(PPOLag):
    def __init__(self, policy, env, **kwargs):
        if hasattr(env, "costs") or hasattr(env, "constraints"):
            super().__init__(policy, env, **kwargs)

    @staticmethod
    def _wrap_env(env, verbose=0, monitor_wrapper=True):
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)


class ClaimsEveryKind(PPOLag):
    supported_kinds = KINDS


class NoDictSpaces(PPOLag):
    def __init__(self, policy, env, **kwargs):
        if policy == "MultiInputPolicy":
            raise ValueError("no Dict here")
        super().__init__(policy, env, **kwargs)


def test_ppo_lag_passes_every_check():
    report = check_solver("ppo_lag")
    assert report.ok, str(report)
    assert (len(report.checks), report.skipped) == (9, ())


@pytest.mark.parametrize("solver", [name for name in ONLINE if name not in ("ppo", "ppo_lag")])
def test_every_other_registered_solver_passes_every_check_that_applies_to_it(solver):
    report = check_solver(solver)
    assert report.ok, str(report)
    assert report.skipped == (("vector-costs (it has no multipliers)",) if solver in ("cpo", "cat") else ())


def test_unconstrained_ppo_passes_what_applies_to_it():
    report = check_solver("ppo")
    assert report.ok, str(report)
    assert report.skipped == ("vector-costs (it has no multipliers)", "unsupported-kinds (it supports every kind)")


@pytest.mark.parametrize(
    ("solver", "check", "got"),
    [
        (IgnoresItsSeed, "determinism", "other weights"),
        (AlwaysTheSame, "determinism", "the same weights"),
        (ForgetsItsMultipliers, "resume", "other weights"),
        (OneMultiplierForAll, "vector-costs", "always 10 against 2"),
        (TakesAnyEnv, "missing-costs", "a model"),
        (ClaimsEveryKind, "supported-kinds", "supports constraints of kind"),
        (NoDictSpaces, "spaces", "no Dict here"),
    ],
)
def test_a_broken_solver_is_caught(solver, check, got):
    report = check_solver(solver)
    assert any(problem.check == check and got in problem.got for problem in report.problems), str(report)
    assert "Traceback" not in str(report)
    with pytest.raises(UnknownNameError):
        check_solver(report.solver)  # it was registered for the check only


def test_an_unknown_solver_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'ppo_lag'"):
        check_solver("ppo_lg")
