"""Solvers of finite CMDPs with exact evaluation, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from saferl.registry import Registry
from saferl.solvers.tabular.solution import TabularSolution, Trajectory

__all__ = ["TABULAR_SOLVERS", "TabularRegistry", "TabularSolution", "TabularSolver", "Trajectory"]


@dataclass(frozen=True)
class TabularSolver:
    """A solver by name: its function ``solve(cmdp, config=None, **options)``, and the config that lists its options."""

    name: str
    """Name in the table."""
    solve: Callable[..., TabularSolution]
    """The function; calling this object calls it."""

    def __call__(self, *args: Any, **given: Any) -> TabularSolution:
        """Solve a CMDP."""
        return self.solve(*args, **given)

    @property
    def config_class(self) -> type[Any]:
        """The frozen dataclass of its options, read from the annotation of the argument ``config``."""
        hint = get_type_hints(self.solve)["config"]
        return next(kind for kind in get_args(hint) if kind is not type(None))  # type: ignore[no-any-return]

    def has_option(self, name: str) -> bool:
        """Whether ``name`` is an option, for example ``iterations``."""
        return name in {field.name for field in fields(self.config_class)}


class TabularRegistry(Registry):
    """A table whose entries load as :class:`TabularSolver`.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> reload = TABULAR_SOLVERS.load("reload")
        >>> reload.has_option("optimism"), round(reload(paradox_a(), iterations=1000).value, 6)
        (True, 0.5)
    """

    def load(self, name: str) -> TabularSolver:
        """The solver that ``name`` stands for."""
        return TabularSolver(name, super().load(name))


TABULAR_SOLVERS = TabularRegistry("tabular solver", "saferl.tabular_solvers")
for _name, _summary in (
    ("npg_pd", "Plain descent-ascent with a natural policy gradient; circles the optimum."),
    ("pid_lag", "Descent-ascent with multipliers from a PID controller; damped swings."),
    ("reload", "ReLOAD, optimistic descent-ascent; the last iterate converges."),
    ("opg_pd", "Optimistic gradient steps with Euclidean projections; the last iterate converges."),
    ("omwu_pd", "Optimistic multiplicative weights; the last iterate converges."),
    ("pmd_pd", "Mirror descent under the predicted multiplier; the last iterate converges in practice."),
    ("rpg_pd", "Regularised descent-ascent; converges to a biased point."),
    ("uopt_rpgpd", "Regularised descent-ascent whose regularisation fades; no bias in the limit."),
    ("cat", "Constraints as terminations, the exact fixed point; not a CMDP solver."),
    ("one_shot_dual", "The convex dual of the KL-regularised CMDP, minimised directly; no descent-ascent."),
    ("rcpo", "Penalised reward, one lagging critic, a slow multiplier."),
    ("crpo", "Reward steps while the budgets hold, else cost steps; no multipliers."),
):
    TABULAR_SOLVERS.register(_name, f"saferl.solvers.tabular.{_name}:solve", summary=_summary)
