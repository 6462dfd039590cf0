"""What is known of every solver without loading it: where it is, what it is for, what it promises, where it is from.

``saferl list solvers`` prints it, and the registry :data:`saferl.solvers.SOLVERS` is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from saferl.constraints import KINDS

Family = Literal["primal-dual", "trust region", "last-iterate", "terminations", "baseline", "imitation", "feasibility"]

_ANY_ACTIONS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_EXPECTED = ("episode_sum", "discounted", "step_rate")


@dataclass(frozen=True)
class Paper:
    """Where an algorithm is from."""

    authors: str
    """Family names, separated by commas."""
    year: int
    """Year of publication."""
    arxiv: str | None = None
    """Number on arXiv; None if it is not there."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.authors} ({self.year})" + (f", arXiv {self.arxiv}" if self.arxiv else "")


@dataclass(frozen=True)
class SolverFacts:
    """One solver of this package."""

    target: str
    """Import path of the class."""
    summary: str
    """One line about it."""
    family: Family
    """What makes it keep budgets: multipliers, a constrained trust region, multipliers whose last iterate settles, soft
    terminations, the choice of what it imitates, values of what is feasible, or nothing."""
    guarantee: str
    """What is promised, in one sentence; the solver's page says more."""
    paper: Paper
    """Where it is from."""
    sampling: Literal["on-policy", "off-policy", "offline"] = "on-policy"
    """Whether it learns from the newest rollout alone, from a replay buffer, or from data without an environment."""
    actions: tuple[str, ...] = _ANY_ACTIONS
    """Action spaces that it trains on."""
    kinds: tuple[str, ...] = _EXPECTED
    """Kinds of constraints that it takes; the others are refused."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the import path."""
        data = asdict(self)
        del data["target"]
        return {**data, "actions": list(self.actions), "kinds": list(self.kinds)}


CATALOGUE: Mapping[str, SolverFacts] = {
    "ppo": SolverFacts(
        "saferl.solvers.ppo:UnconstrainedPPO",
        "PPO of Stable-Baselines3; ignores costs (the baseline).",
        "baseline",
        "None: costs are logged, not limited.",
        Paper("Schulman, Wolski, Dhariwal, Radford, Klimov", 2017, "1707.06347"),
        kinds=KINDS,
    ),
    "ppo_lag": SolverFacts(
        "saferl.solvers.ppo_lag:PPOLag",
        "PPO-Lagrangian; expected costs, one multiplier each.",
        "primal-dual",
        "None for the last iterate: it may swing around the budget.",
        Paper("Ray, Achiam, Amodei", 2019),
    ),
    "pid_lag": SolverFacts(
        "saferl.solvers.pid_lag:PIDLag",
        "PPO-Lagrangian with PID-controlled multipliers; damped swings.",
        "primal-dual",
        "None for the last iterate: swings are damped, not removed.",
        Paper("Stooke, Achiam, Abbeel", 2020, "2007.03964"),
    ),
    "trpo_lag": SolverFacts(
        "saferl.solvers.trpo_lag:TRPOLag",
        "TRPO-Lagrangian; natural-gradient steps inside a trust region.",
        "primal-dual",
        "Every update stays inside the trust region; none for the budget at the last iterate.",
        Paper("Ray, Achiam, Amodei", 2019),
    ),
    "rcpo": SolverFacts(
        "saferl.solvers.rcpo:RCPO",
        "Penalised reward with one critic and a slow multiplier.",
        "primal-dual",
        "Convergence to a feasible fixed point in the tabular limit of three time scales; none for the last iterate.",
        Paper("Tessler, Mankowitz, Mannor", 2019, "1805.11074"),
    ),
    "reload": SolverFacts(
        "saferl.solvers.reload:ReLOAD",
        "Optimistic descent-ascent on a natural gradient; the last iterate settles.",
        "last-iterate",
        "With exact gradients and small steps the last iterate converges; with sampled ones it settles nearby.",
        Paper("Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy", 2023, "2302.01275"),
    ),
    "reload_offpolicy": SolverFacts(
        "saferl.solvers.reload_offpolicy:ReLOADOffPolicy",
        "ReLOAD on a replay buffer, with the policy steps of MPO.",
        "last-iterate",
        "With exact values and small steps the last iterate converges; with sampled ones it settles nearby.",
        Paper("Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy", 2023, "2302.01275"),
        sampling="off-policy",
        actions=("Box", "Discrete", "MultiDiscrete"),
    ),
    "cpo": SolverFacts(
        "saferl.solvers.cpo:CPO",
        "Constrained policy optimisation; every step meets the linearised budgets.",
        "trust region",
        "With exact advantages a bound on the violation of every update; none with sampled ones.",
        Paper("Achiam, Held, Tamar, Abbeel", 2017, "1705.10528"),
    ),
    "cat": SolverFacts(
        "saferl.solvers.cat:CaT",
        "Constraints as terminations; few violating steps, no budget.",
        "terminations",
        "The fixed point of a contraction, in which violations are rare; it knows no budget.",
        Paper("Chane-Sane, Leziart, Flayols, Stasse, Soueres, Mansard", 2024, "2403.18765"),
        kinds=("statewise", *_EXPECTED),
    ),
    "bc": SolverFacts(
        "saferl.solvers.offline.bc:BC",
        "Behaviour cloning from data; ignores costs (the offline baseline).",
        "imitation",
        "None: it does what the data do.",
        Paper("Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao", 2023, "2306.09303"),
        sampling="offline",
        actions=("Box",),
        kinds=KINDS,
    ),
    "bc_safe": SolverFacts(
        "saferl.solvers.offline.bc_safe:BCSafe",
        "Behaviour cloning of the data's episodes within the budgets.",
        "imitation",
        "Every episode that it learns from kept the budgets; none for the policy.",
        Paper("Liu, Guo, Lin, Yao, Zhu, Cen, Hu, Yu, Zhang, Tan, Zhao", 2023, "2306.09303"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "fisor": SolverFacts(
        "saferl.solvers.offline.fisor:FISOR",
        "From data: a diffusion policy for limits in every state, guided by values of feasibility.",
        "feasibility",
        "None with learned values; with exact ones the largest set that the data's actions keep safe.",
        Paper("Zheng, Li, Yu, Yang, Li, Zhan, Liu", 2024, "2401.10700"),
        sampling="offline",
        actions=("Box",),
        kinds=("statewise",),
    ),
    "bcq_lag": SolverFacts(
        "saferl.solvers.offline.bcq_lag:BCQLag",
        "From data: improves proposals of an auto-encoder a little, on the Lagrangian.",
        "primal-dual",
        "Actions stay near the auto-encoder's proposals; none for the budgets.",
        Paper("Fujimoto, Meger, Precup", 2019, "1812.02900"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "bear_lag": SolverFacts(
        "saferl.solvers.offline.bear_lag:BEARLag",
        "From data: a policy at a kernel distance from the data's, on the Lagrangian.",
        "primal-dual",
        "None: the mean distance to the data's actions is steered to its target.",
        Paper("Kumar, Fu, Tucker, Levine", 2019, "1906.00949"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "cpq": SolverFacts(
        "saferl.solvers.offline.cpq:CPQ",
        "From data: Q-learning that forgets the future of unsafe or unlikely actions.",
        "baseline",
        "None: penalties make unsafe actions unattractive where the critics see them.",
        Paper("Xu, Zhan, Zhu", 2022, "2107.09003"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "coptidice": SolverFacts(
        "saferl.solvers.offline.coptidice:COptiDICE",
        "From data: the best state-action distribution within the budgets, then imitation.",
        "primal-dual",
        "With exact expectations the distribution keeps the budgets; none for the imitating policy.",
        Paper("Lee, Paduraru, Mankowitz, Heess, Precup, Kim, Guez", 2022, "2204.08957"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "cdt": SolverFacts(
        "saferl.solvers.offline.cdt:CDT",
        "From data: a transformer that is asked for a return within the budgets; any budget at run time.",
        "imitation",
        "None; it imitates what the data did near the targets, and overspends where they did not get that far.",
        Paper("Liu, Guo, Yao, Cen, Yu, Zhang, Zhao", 2023, "2302.07351"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "caps": SolverFacts(
        "saferl.solvers.offline.caps:CAPS",
        "From data: heads from rewarding to cheap, switched by what is left of the budget; any budget at run time.",
        "feasibility",
        "None with learned critics; a head is taken only where its cost value is below the rest of the budget.",
        Paper("Chemingui, Deshwal, Wei, Fern, Doppa", 2025, "2412.18946"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
    "trebi": SolverFacts(
        "saferl.solvers.offline.trebi:TREBI",
        "From data: plans by diffusion, guided into what is left of the budget; any budget at run time, slow.",
        "feasibility",
        "None with learned networks; a plan is preferred where its predicted cost is within the rest of the budget.",
        Paper("Lin, Tang, Wu, Yu, Mao, Xie, Wang, Wang", 2023, "2306.00603"),
        sampling="offline",
        actions=("Box",),
        kinds=("episode_sum",),
    ),
}
"""Every solver of this package by name."""
ONLINE = tuple(name for name, facts in CATALOGUE.items() if facts.sampling != "offline")
"""Those that learn in an environment; the others learn from data."""
