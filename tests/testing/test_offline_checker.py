"""``check_solver`` passes our offline solvers and catches broken ones by name."""

import pytest
import torch as th

from saferl.solvers.catalogue import CATALOGUE, ONLINE
from saferl.solvers.offline.bc import BC
from saferl.solvers.offline.bc_safe import BCSafe
from saferl.testing import check_solver


class IgnoresItsSeed(BC):
    def build(self, data, seed):
        th.seed()
        super().build(data, seed)


class AlwaysTheSame(BC):
    def build(self, data, seed):
        th.manual_seed(0)
        super().build(data, 0)


class ForgetsItsOptimizer(BC):
    def build(self, data, seed):
        super().build(data, seed)
        del self._parts["optimizer"]


class ForgetsItsArch(BC):
    def publish(self):
        self.network.arch = {}
        return self.network


class AsksForNoBudget(BCSafe):
    def build(self, data, seed):
        super().build(data, seed)

    def start(self, dataset, *, budgets=None, **kwargs):
        super().start(dataset, budgets=budgets or {"cost_0": 5.0}, **kwargs)


class ClaimsToNeedMargins(BC):
    needs_margins = True

    def start(self, dataset, **kwargs):
        try:
            super().start(dataset, **kwargs)
        except Exception:
            self.needs_margins = False
            super().start(dataset, **kwargs)


@pytest.mark.parametrize("solver", [name for name in CATALOGUE if name not in ONLINE])
def test_every_offline_solver_passes(solver):
    report = check_solver(solver)
    assert report.ok, str(report)
    assert not report.warnings


@pytest.mark.parametrize(
    ("solver", "check"),
    [
        (IgnoresItsSeed, "determinism"),
        (AlwaysTheSame, "determinism"),
        (ForgetsItsOptimizer, "resume"),
        (ForgetsItsOptimizer, "cut-run"),
        (ForgetsItsArch, "save-and-load"),
        (AsksForNoBudget, "missing-budgets"),
        (ClaimsToNeedMargins, "missing-margins"),
    ],
)
def test_a_broken_solver_is_caught_by_the_check_that_is_for_it(solver, check):
    assert check in {problem.check for problem in check_solver(solver).problems}


def test_a_stochastic_policy_with_a_density_is_checked_for_it():
    class Likelihood(BC):
        def __init__(self, config=None):
            super().__init__(loss="likelihood", net_arch=(8,), batch_size=16)

    report = check_solver(Likelihood)
    assert report.ok, str(report)
    assert "density" in report.checks
