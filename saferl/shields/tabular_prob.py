"""Probabilistic shield of a finite MDP (``tabular_prob``): P(ever unsafe) <= p for any agent, by a budget in the state.

With beta and risk from :mod:`saferl.shields.tabular_risk` (upper bounds), the shield carries a budget q: the
probability of a violation that is left to spend, q_0 = p. For a proposal a in the state s, and a* = argmin risk(s, .):

    risk(s, a) <= q    a is executed;                    q'(s') = min(1, beta(s') + level), E[q'] = q
    otherwise          a with probability lambda, else a*;
                       lambda = (q - risk(s, a*)) / (risk(s, a) - risk(s, a*));      q'(s') = beta(s')

``level`` is the same for all successors (water-filling). Either way E[q'] <= q, so q is a supermartingale that is at
least beta and is 1 at a violation: P(ever unsafe) <= p. The safest agent is never changed.

What it guarantees: P(at least one violation in an episode) <= p, for every agent, while it learns too ("episode
probability"), if the transitions are right.

Paper: Hamel-De le Court, Belardinelli, Goodall (2025), "Probabilistic shielding for safe reinforcement learning".

Differences from the paper
- The agent proposes one action, not two and a mixture; mixing is left to the shield.
- A violation is a state and an action, so costs of steps can be used as they are. After one nothing is left to
  guarantee; the shield then acts as if the budget were beta, so it goes on as safely as it can.
- With a distribution of the first state, p is shared out among first states by the same water-filling.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.tabular_risk import (
    fill_up,
    least_risk,
    matrix_data,
    matrix_from,
    model_of,
    read_transitions,
    read_violations,
)

Array = npt.NDArray[np.float64]

_SAME = 1e-12
"""Budgets are compared with this much room for rounding."""


class TabularProbShield(Shield):
    """Keeps the probability of ever being unsafe below p in a finite MDP; see the module for the rule.

    Example:
        >>> stay, risky = [[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.2], [0.0, 1.0]]
        >>> shield = TabularProbShield(ActionSpec.discrete(2), np.stack([stay, risky], axis=1), [0, 1], p=0.3)
        >>> decision = shield.filter(0, 1)
        >>> decision.kind, round(decision.margin, 3), round(shield.budget_of(0), 3)
        ('pass', 0.1, 0.125)
    """

    unit = "tabular_prob"

    def __init__(
        self,
        action_space: Any,
        transitions: Any,
        violations: npt.ArrayLike,
        *,
        p: float,
        start: npt.ArrayLike | None = None,
        precision: float = 1e-10,
        time_budget_us: float | None = None,
    ) -> None:
        """Compute the least risks.

        Args:
            action_space: Discrete.
            transitions: (S, A, S), or dense or sparse (S * A, S).
            violations: Unsafe states (S,), or pairs (S, A).
            p: Largest probability of a violation in an episode.
            start: Distribution of the first state, (S,). None: p holds for every first state by itself.
            precision: Of the least risks.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: arrays that do not fit, or a p below the least risk at the start.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if not 0.0 < p <= 1.0:
            raise ConfigError(f"{self.unit}: p must be in (0, 1]; got {p}.")
        count = int(self.actions.n or 0)
        self.matrix = read_transitions(transitions, count)
        self.num_states = int(self.matrix.shape[1])
        self.violations = read_violations(violations, self.num_states, count)
        self.p, self.precision = float(p), float(precision)
        bounds = least_risk(self.matrix, self.violations, precision=precision)
        self.least: Array = bounds.upper
        self.risk: Array = bounds.action_risk
        self.safest = np.argmin(self.risk, axis=1)
        self.start = None if start is None else np.array(start, dtype=np.float64)
        self._first: Array | None = None if self.start is None else self._shared_out(self.start)
        self.reset()

    @classmethod
    def for_env(cls, env: Any, *, p: float = 0.1) -> Self:
        """The shield of a tabular env, where a step that costs is a violation.

        Raises:
            ConfigError: the env has no finite MDP, or p cannot be reached.
        """
        matrix, violations, start = model_of(env, cls.unit)
        return cls(env.action_space, matrix, violations, p=p, start=start)

    def _shared_out(self, start: Array) -> Array:
        if start.shape != (self.num_states,) or np.any(start < 0.0) or abs(float(start.sum()) - 1.0) > 1e-8:
            raise ConfigError(f"{self.unit}: start must be a distribution over {self.num_states} states.")
        least = float(start @ self.least)
        if least > self.p + _SAME:
            raise ConfigError(
                f"{self.unit}: p must be at least {least:.6g}, the risk of the safest policy from the start; "
                f"got {self.p}."
            )
        # The shares must not depend on states that an episode cannot start in.
        shares, possible = self.least.copy(), start > 0.0
        shares[possible] = fill_up(start[possible], self.least[possible], self.p)
        return shares

    def spec(self) -> ShieldSpec:
        """Needs, guarantee with its p, and assumptions."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=(
                "The transitions and the first state are distributed as given.",
                "The observation is the state, and every decision is executed.",
            ),
            probability=self.p,
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether an episode that starts here is unsafe with probability at most p."""
        try:
            return float(self.least[self._state_of(obs)]) <= self.p + _SAME
        except (ValueError, TypeError, IndexError):
            return False

    def budget_of(self, state: int) -> float:
        """What is left to spend once ``state`` is reached: q' after a decision, q_0 before the first one.

        A state that the last decision could not lead to gets the least budget that can be kept there.
        """
        if self._pending is None:
            first = self.p if self._first is None else float(self._first[state])
            return max(first, float(self.least[state]))
        return float(self._pending.get(state, self.least[state]))

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Begin with p again."""
        self._pending: dict[int, float] | None = None
        self._is_mixed = False

    def get_memory(self) -> Any:
        """Budgets of the states that may come next; ``None`` inside before the first decision."""
        return {"pending": None if self._pending is None else sorted(self._pending.items())}

    def set_memory(self, memory: Any) -> None:
        """Go back to budgets."""
        pending = memory["pending"]
        self._pending = None if pending is None else {int(state): float(q) for state, q in pending}

    def _state_of(self, obs: Any) -> int:
        state = int(np.asarray(obs).item())
        if not 0 <= state < self.num_states:
            raise ValueError(f"the state must be from 0 to {self.num_states - 1}; got {state}")
        return state

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        self._is_mixed = False
        state, wanted = self._state_of(obs), int(proposed)
        budget, safest = self.budget_of(state), int(self.safest[state])
        risk, least = float(self.risk[state, wanted]), float(self.risk[state, safest])
        status = self._status(state, budget)
        if risk <= budget + _SAME:
            return Ruling(wanted, "pass", margin=budget - risk, status=status)
        self._is_mixed = True
        share = max(budget - least, 0.0) / (risk - least)
        generator = context.generator if context.generator is not None else np.random.default_rng(context.step)
        chosen = wanted if generator.random() < share else safest
        return Ruling(chosen, "replaced", margin=budget - risk, status=status)

    def _status(self, state: int, budget: float) -> str:
        if self._pending is not None and state not in self._pending:
            return "the model excludes this state; the guarantee is void"
        if self._pending is None and float(self.least[state]) > self.p + _SAME and self._first is None:
            return "the least risk of this first state is above p; the guarantee is void"
        return "ok"

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        self._is_mixed = False
        return np.array(self.safest[self._state_of(obs)])

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        try:
            state = self._state_of(obs)
        except (ValueError, TypeError):  # nobody knows where the device is: from here on as safely as possible
            self._pending = dict(enumerate(self.least.tolist()))
            return
        action = int(decision.action)
        row = state * int(self.actions.n or 0) + action
        span = slice(self.matrix.indptr[row], self.matrix.indptr[row + 1])
        successors, floor = self.matrix.indices[span], self.least[self.matrix.indices[span]]
        # A mixture has spent its budget exactly, whichever action was drawn, and a violation all of it.
        is_spent = self._is_mixed or bool(self.violations[state, action])
        budgets = floor if is_spent else fill_up(self.matrix.data[span], floor, self.budget_of(state))
        self._pending = dict(zip(successors.tolist(), budgets.tolist(), strict=True))

    def _to_data(self) -> ShieldData:
        arrays = {**matrix_data(self.matrix), "violations": self.violations}
        if self.start is not None:
            arrays["start"] = self.start
        return ShieldData({"p": self.p, "precision": self.precision, "num_states": self.num_states}, arrays)

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        matrix = matrix_from(data.arrays, int(data.config["num_states"]))
        return cls(
            action_space,
            matrix,
            data.arrays["violations"],
            p=data.config["p"],
            start=data.arrays.get("start"),
            precision=data.config["precision"],
        )
