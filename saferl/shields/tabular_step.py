"""Per-step shield of a finite MDP (``tabular_step``): block actions that are much riskier than the safest one.

With risk(s, a) the probability of a violation when a is taken and everything after it is as safe as can be, and
least(s) = min_a risk(s, a), an action is allowed if

    ratio        delta risk(s, a) <= least(s)                         the rule of the paper
    complement   1 - risk(s, a) >= delta (1 - least(s))               does not degenerate where least(s) = 0
    threshold    risk(s, a) <= max(delta, least(s))                   a bound on each step by itself

A blocked proposal is replaced by the safest action. For ``ratio`` and ``complement`` delta = 0 allows everything and
delta = 1 only the safest; for ``threshold`` delta is the largest risk of a step.

What it guarantees: every executed action fulfils its rule ("per-step probability"). It does *not* bound the episode:
each step's allowance is granted anew, so risks add up. For an episode use ``tabular_prob``, which spends a budget.

Paper: Jansen, Koenighofer, Junges, Serban, Bloem (2020), "Safe reinforcement learning using probabilistic shields".

Differences from the paper: the horizon is unbounded, with certified upper bounds of the risk; ``complement`` and
``threshold`` are added.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldSpec
from saferl.shields.tabular_risk import (
    least_risk,
    matrix_data,
    matrix_from,
    model_of,
    read_transitions,
    read_violations,
)

Rule = Literal["ratio", "complement", "threshold"]

_SAME = 1e-9
"""Room for the precision of the risks."""


class TabularStepShield(Shield):
    """Blocks actions much riskier than the safest one at each step; see the module for the rules.

    Example:
        >>> stay, risky = [[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.2], [0.0, 1.0]]
        >>> shield = TabularStepShield(ActionSpec.discrete(2), np.stack([stay, risky], axis=1), [0, 1], delta=0.9)
        >>> shield.filter(0, 1).kind, int(shield.filter(0, 1).action)
        ('replaced', 0)
    """

    unit = "tabular_step"

    def __init__(
        self,
        action_space: Any,
        transitions: Any,
        violations: npt.ArrayLike,
        *,
        delta: float,
        rule: Rule = "complement",
        precision: float = 1e-10,
        time_budget_us: float | None = None,
    ) -> None:
        """Compute the least risks, and what is allowed in every state.

        Args:
            action_space: Discrete.
            transitions: (S, A, S), or dense or sparse (S * A, S).
            violations: Unsafe states (S,), or pairs (S, A).
            delta: In [0, 1]; see the rules.
            rule: Which rule.
            precision: Of the least risks.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: arrays that do not fit, an unknown rule or a delta outside of [0, 1].
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if rule not in get_args(Rule) or not 0.0 <= delta <= 1.0:
            raise ConfigError(
                f"{self.unit}: rule must be one of {', '.join(get_args(Rule))} and delta in [0, 1]; "
                f"got {rule!r} and {delta}."
            )
        count = int(self.actions.n or 0)
        self.matrix = read_transitions(transitions, count)
        self.num_states = int(self.matrix.shape[1])
        self.violations = read_violations(violations, self.num_states, count)
        self.delta, self.rule, self.precision = float(delta), rule, float(precision)
        self.risk = least_risk(self.matrix, self.violations, precision=precision).action_risk
        self.least = self.risk.min(axis=1)
        self.safest = np.argmin(self.risk, axis=1)
        self.room = self._room()

    @classmethod
    def for_env(cls, env: Any, *, delta: float = 0.9, rule: Rule = "complement") -> Self:
        """The shield of a tabular env, where a step that costs is a violation.

        Raises:
            ConfigError: the env has no finite MDP.
        """
        matrix, violations, _ = model_of(env, cls.unit)
        return cls(env.action_space, matrix, violations, delta=delta, rule=rule)

    def _room(self) -> npt.NDArray[np.float64]:
        """How far every action is inside its rule, (S, A); negative: blocked."""
        least = self.least[:, None]
        if self.rule == "ratio":
            return np.asarray(least - self.delta * self.risk)
        if self.rule == "complement":
            return np.asarray((1.0 - self.risk) - self.delta * (1.0 - least))
        return np.asarray(np.maximum(self.delta, least) - self.risk)

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """What may be executed, (S, A); the safest action always may."""
        return np.asarray(self.room >= -_SAME)

    @property
    def worst_step(self) -> float:
        """The largest risk that a step may take where not every action is a violation; at least the precision."""
        is_open = self.allowed & (self.least < 1.0)[:, None]
        return max(float(np.max(self.risk, where=is_open, initial=0.0)), self.precision)

    def spec(self) -> ShieldSpec:
        """Needs, guarantee and assumptions."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=("The transitions are right.", "What follows a step is as safe as can be."),
            probability=self.worst_step,
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the safest action of this state has no risk at all; more is not known for a whole episode."""
        try:
            return float(self.least[self._state_of(obs)]) <= 0.0
        except (ValueError, TypeError):
            return False

    def _state_of(self, obs: Any) -> int:
        state = int(np.asarray(obs).item())
        if not 0 <= state < self.num_states:
            raise ValueError(f"the state must be from 0 to {self.num_states - 1}; got {state}")
        return state

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        state = self._state_of(obs)
        margin = float(self.room[state, int(proposed)])
        if margin >= -_SAME:
            return Ruling(proposed, "pass", margin=margin)
        return Ruling(self.safest[state], "replaced", margin=margin)

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return np.array(self.safest[self._state_of(obs)])

    def _to_data(self) -> ShieldData:
        config = {"delta": self.delta, "rule": self.rule, "precision": self.precision, "num_states": self.num_states}
        return ShieldData(config, {**matrix_data(self.matrix), "violations": self.violations})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        options = dict(data.config)
        matrix = matrix_from(data.arrays, int(options.pop("num_states")))
        return cls(action_space, matrix, data.arrays["violations"], **options)
