r"""Action mask (``action_mask``): discrete actions that a rule allows, and what replaces the others.

    A(s) = {a : allowed(s)[a]},     u = u0 if u0 in A(s), otherwise the replacement:
        nearest   argmin |a - u0| over A(s), the smaller of two         for actions in an order, such as levels
        first     the first of an order of preference that is in A(s)
        random    uniform over A(s)

If A(s) is empty, the default action is executed and the decision is ``infeasible``.

While training, :meth:`ActionMask.mask` belongs into the policy instead: logits of masked actions at -1e8 in log-prob,
entropy and every divergence alike, or the maximum over A(s) in the target of Q-learning. Then the policy is a proper
distribution over the allowed actions, and the shield finds nothing to replace.

What it guarantees: that only allowed actions are executed where there is one. What that is worth is what the rule is
worth, so the guarantee is "hard for the nominal model": the model from which the rule was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldSpec

Rule = Callable[[Any], npt.ArrayLike]
"""Observation to booleans (n,): which actions are allowed."""
Replacement = Literal["nearest", "first", "random"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)


class ActionMask(Shield):
    """Discrete actions that a rule allows; a masked one is replaced.

    Example:
        >>> shield = ActionMask(ActionSpec.discrete(3), table=[[True, True, True], [True, False, False]])
        >>> decision = shield.filter(1, 2)
        >>> decision.kind, int(decision.action)
        ('masked', 0)
    """

    unit = "action_mask"

    def __init__(
        self,
        action_space: Any,
        *,
        rule: Rule | None = None,
        table: npt.ArrayLike | None = None,
        replacement: Replacement = "nearest",
        order: Sequence[int] = (),
        default: int = 0,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the rule.

        Args:
            action_space: Discrete actions.
            rule: Gives booleans (n,) for an observation. To be saved, it must be a function of a module or an instance
                of a dataclass.
            table: Booleans (observations, n) for a discrete observation. Exactly one of rule and table is given.
            replacement: What is executed in place of a masked action; see the module.
            order: Every action once, the preferred one first, for ``first``; empty: 0 to n - 1.
            default: What is executed where nothing is allowed or nothing is known.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: an option out of its range, neither or both of rule and table, or a table of another shape.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        n = self.actions.n or 0
        if (rule is None) == (table is None):
            raise ConfigError(f"{self.unit} needs either a rule or a table of allowed actions; give exactly one.")
        if replacement not in REPLACEMENTS:
            raise ConfigError(
                f"{self.unit}: replacement must be one of {', '.join(REPLACEMENTS)}; got {replacement!r}."
            )
        if order and sorted(order) != list(range(n)):
            raise ConfigError(f"{self.unit}: order must hold each of the {n} actions once; got {list(order)}.")
        if not self.actions.contains(np.array(default)):
            raise ConfigError(f"{self.unit}: default must be an action from 0 to {n - 1}; got {default}.")
        self.rule, self.table = rule, None if table is None else self._read_table(table)
        self.replacement, self.default = replacement, int(default)
        self.order = tuple(int(action) for action in order) or tuple(range(n))

    def _read_table(self, table: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        given = np.array(table)
        if given.ndim != 2 or given.shape[1] != self.actions.n or len(given) == 0 or given.dtype != np.bool_:
            raise ConfigError(
                f"{self.unit}: the table must hold booleans (observations, {self.actions.n}); "
                f"got {given.dtype} of the shape {given.shape}."
            )
        return given

    def spec(self) -> ShieldSpec:
        """The rule is assumed to be right."""
        assumptions = ("The rule allows only actions that are safe.", "It allows at least one in every state.")
        return CATALOGUE[self.unit].spec(self.unit, assumptions=assumptions)

    def mask(self, obs: Any) -> npt.NDArray[np.bool_]:
        """Which actions are allowed, shape (n,).

        Raises:
            ConfigError: an observation that the table does not have, or a rule that gives anything but n booleans.
        """
        n = self.actions.n or 0
        if self.table is not None:
            index = np.asarray(obs, dtype=np.float64).ravel()
            if index.shape != (1,) or index[0] != np.floor(index[0]) or not 0 <= index[0] < len(self.table):
                raise ConfigError(f"The table has observations 0 to {len(self.table) - 1}; got {obs!r}.")
            return np.array(self.table[int(index[0])])
        allowed = np.asarray(self.rule(obs)) if self.rule is not None else np.zeros(n, dtype=np.bool_)
        if allowed.shape != (n,) or allowed.dtype != np.bool_:
            raise ConfigError(f"The rule must give {n} booleans; got {allowed.dtype} of the shape {allowed.shape}.")
        return allowed

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the rule allows anything here; False where it cannot be asked."""
        try:
            return bool(self.mask(obs).any())
        except Exception:  # a rule is the user's code, and may not know this observation
            return False

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        allowed = self.mask(obs)
        if allowed[int(proposed)]:
            return Ruling(proposed, "pass")
        choices = np.flatnonzero(allowed)
        if len(choices) == 0:
            return Ruling(self.default, "infeasible", status="no action is allowed")
        return Ruling(self._replace(int(proposed), choices, allowed, context), "masked")

    def _replace(
        self, proposed: int, choices: npt.NDArray[np.intp], allowed: npt.NDArray[np.bool_], context: ShieldContext
    ) -> int:
        if self.replacement == "nearest":
            return int(choices[np.argmin(np.abs(choices - proposed))])
        if self.replacement == "first":
            return next(action for action in self.order if allowed[action])
        generator = context.generator if context.generator is not None else np.random.default_rng(context.step)
        return int(generator.choice(choices))

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        """The default if it is allowed or nothing is known; otherwise the first that is allowed."""
        try:
            allowed = self.mask(obs)
        except Exception:  # a fallback must also work where the rule does not
            return self.default
        if allowed[self.default]:
            return self.default
        return next((action for action in self.order if allowed[action]), self.default)

    def _to_data(self) -> ShieldData:
        config = {
            "rule": describe_part(self.rule, "rule"),
            "replacement": self.replacement,
            "order": list(self.order),
            "default": self.default,
        }
        return ShieldData(config, {} if self.table is None else {"table": self.table})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        config = data.config
        return cls(
            action_space,
            rule=restore_part(config["rule"], "rule"),
            table=data.arrays.get("table"),
            replacement=config["replacement"],
            order=config["order"],
            default=config["default"],
        )
