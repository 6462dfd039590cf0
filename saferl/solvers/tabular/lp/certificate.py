"""The proof that comes with an optimum: exact values of the policy, a rigorous dual bound, and the KKT residuals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saferl.envs.tabular import Evaluation, TabularCMDP
from saferl.envs.tabular.planning import best_response
from saferl.solvers.tabular.lp.solution import Certificate

Array = npt.NDArray[np.float64]


def certify(
    cmdp: TabularCMDP, policy: Array, multipliers: Array, primal_value: float, response: Array | None = None
) -> tuple[Certificate, Evaluation]:
    """The certificate of ``policy`` and ``multipliers`` (K,), and the exact evaluation of the policy.

    ``response``, a deterministic policy that is nearly best for the mixed reward, saves work.
    """
    system = cmdp.value_system(policy)
    evaluation = cmdp.evaluation(system, policy)
    occupancy = cmdp.scale * system.occupancies(cmdp.rho)[..., None] * policy
    mixed = cmdp.rewards - cmdp.costs @ multipliers
    plan = best_response(cmdp, mixed, initial=response)
    q = cmdp.scale * mixed + cmdp.discount * cmdp.expected_next(plan.values)
    slack = plan.values[..., None] - q
    excess = evaluation.costs - cmdp.limits
    flow, start = cmdp.flow()
    certificate = Certificate(
        primal_value=primal_value,
        dual_value=plan.upper_bound + float(multipliers @ cmdp.limits),
        evaluated_value=evaluation.value,
        primal_feasibility=max(0.0, float(excess.max()), float(np.abs(flow @ occupancy.ravel() - start).max())),
        dual_feasibility=max(0.0, float(-slack.min()), float(-multipliers.min())),
        complementary_slackness=float(np.abs(multipliers * excess).max()),
        bellman_slack=float((occupancy * slack).sum()) / cmdp.scale,
    )
    return certificate, evaluation
