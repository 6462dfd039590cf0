"""What must hold: one object that env, solver, shield and report read.

Costs are always arrays whose last axis is the constraint, in the order of the :class:`ConstraintSet`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ConstraintError, UnknownNameError

Kind = Literal["episode_sum", "discounted", "step_rate", "statewise", "probability", "cvar"]
Sense = Literal["<=", ">="]
KINDS: tuple[Kind, ...] = get_args(Kind)
VIOLATION_RATE = "violation rate per step"
"""In records: what a policy was trained to lower by a solver that knows no budgets."""


@dataclass(frozen=True)
class Constraint:
    """A budget for one cost signal.

    Example:
        >>> Constraint("cost", budget=25.0).describe()
        'E[sum of cost per episode] <= 25'
    """

    name: str
    """Key of the cost in the env's ``info["costs"]``."""
    budget: float
    """The limit, in the units that ``kind`` says; finite and not negative."""
    kind: Kind = "episode_sum"
    """What is limited: the expected sum per episode, the expected discounted sum, the expected cost per step, the cost
    of every step, the probability that an episode has any cost, or the conditional value at risk of the sum."""
    gamma: float = 1.0
    """Discount factor of ``discounted`` (in (0, 1)); 1 for every other kind."""
    sense: Sense = "<="
    """``<=``: the budget is an upper limit; ``>=``: a lower limit (a utility)."""
    max_step_cost: float | None = None
    """Largest cost that one step can have (1 for an indicator), or None if none is known. Valid confidence bounds
    on a mean need it; without it a report gives a labelled approximation and no verdict."""

    def __post_init__(self) -> None:
        """Check every field."""
        if not self.name or not isinstance(self.name, str):
            raise ConstraintError(f"A constraint's name must be a non-empty string; got {self.name!r}.")
        if self.kind not in KINDS:
            raise UnknownNameError(f"kind of constraint {self.name!r}:", self.kind, KINDS)
        if self.sense not in get_args(Sense):
            raise ConstraintError(f"Constraint {self.name!r}: sense must be '<=' or '>='; got {self.sense!r}.")
        for field in ("budget", "gamma") if self.max_step_cost is None else ("budget", "gamma", "max_step_cost"):
            object.__setattr__(self, field, self._number(field))
        if not math.isfinite(self.budget) or self.budget < 0:
            raise ConstraintError(
                f"Constraint {self.name!r}: the budget must be finite and at least 0; got {self.budget:g}. "
                "A budget limits a cost from above, so 0 already asks for no cost at all."
            )
        if self.kind == "discounted":
            if not 0.0 < self.gamma < 1.0:
                raise ConstraintError(
                    f"Constraint {self.name!r}: kind 'discounted' needs 0 < gamma < 1; got {self.gamma:g}."
                )
        elif self.gamma != 1.0:
            raise ConstraintError(
                f"Constraint {self.name!r}: gamma belongs to kind 'discounted' only; got gamma={self.gamma:g} "
                f"with kind {self.kind!r}. Leave gamma out or choose kind='discounted'."
            )
        if self.kind == "probability" and self.budget > 1.0:
            raise ConstraintError(
                f"Constraint {self.name!r}: a probability budget must lie in [0, 1]; got {self.budget:g}."
            )
        if self.max_step_cost is not None and not (math.isfinite(self.max_step_cost) and self.max_step_cost > 0):
            raise ConstraintError(
                f"Constraint {self.name!r}: max_step_cost must be finite and positive, or None; "
                f"got {self.max_step_cost!r}."
            )

    def _number(self, field: str) -> float:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise ConstraintError(f"Constraint {self.name!r}: the {field} must be a number; got {value!r}.")
        try:
            return float(value)
        except OverflowError as error:
            raise ConstraintError(f"Constraint {self.name!r}: the {field} is too large for a float.") from error

    @property
    def sign(self) -> float:
        """+1 for an upper limit, -1 for a lower one: ``sign * (value - budget) > 0`` means violated."""
        return 1.0 if self.sense == "<=" else -1.0

    def describe(self) -> str:
        """One line that a reader of a report understands."""
        quantity = {
            "episode_sum": f"E[sum of {self.name} per episode]",
            "discounted": f"E[discounted sum of {self.name}, gamma {self.gamma:g}]",
            "step_rate": f"E[{self.name} per step]",
            "statewise": f"{self.name} of every step",
            "probability": f"P(an episode has any {self.name})",
            "cvar": f"CVaR[sum of {self.name} per episode]",
        }[self.kind]
        return f"{quantity} {self.sense} {self.budget:g}"

    def largest(self, horizon: int | None = None) -> float | None:
        """The most that what is limited can be, in the budget's units; None where no bound is known.

        Args:
            horizon: Steps of the longest episode, if there is one.
        """
        if self.kind == "probability":
            return 1.0
        if self.max_step_cost is None:
            return None
        if self.kind in ("episode_sum", "cvar"):
            return None if horizon is None else horizon * self.max_step_cost
        return self.max_step_cost / (1.0 - self.gamma) if self.kind == "discounted" else self.max_step_cost

    def require_units(self, horizon: int | None = None, *, by: str) -> None:
        """Raise if the budget is more than can ever occur, which mostly means that its units are not those of ``kind``.

        An upper limit per episode (``episode_sum``, ``cvar``) that cannot bind is accepted: no other kind has larger
        units, so that it is a baseline without a limit and not a mistake.

        Args:
            horizon: Steps of the longest episode, if there is one.
            by: Who asks.

        Raises:
            ConstraintError: it is; the message says how to write other units.
        """
        most = self.largest(horizon)
        slack = self.sense == "<=" and self.kind in ("episode_sum", "cvar")
        if slack or most is None or self.budget <= most * (1.0 + 1e-9):
            return
        bound, quantity = f"{self.max_step_cost or 1.0:g} per step", self.describe().rpartition(f" {self.sense} ")[0]
        if self.kind == "discounted":
            bound += f" / (1 - {self.gamma:g})"
        elif self.kind in ("episode_sum", "cvar"):
            bound += f" x {horizon} steps"
        steps = "" if horizon is None else f", which is {self.budget / horizon:g} per step of {horizon}"
        ways_out = {
            "step_rate": f"A sum per episode is kind='episode_sum'{steps}; a rate is between 0 and {most:g}.",
            "statewise": f"A sum per episode is kind='episode_sum'; a limit on every step is between 0 and {most:g}.",
            "discounted": "A sum per episode is kind='episode_sum'; p per step is p / (1 - gamma) discounted.",
        }
        raise ConstraintError(
            f"{by}: the budget of {self.name!r} must be at most {most:g}, the most that {quantity} can be ({bound}); "
            f"got {self.budget:g}, which {'limits nothing' if self.sense == '<=' else 'no policy can reach'}. "
            + ways_out.get(self.kind, "Lower it, or leave the constraint out.")
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Constraint:
        """Read what :meth:`to_dict` wrote; an unknown key is an error."""
        known = set(cls.__dataclass_fields__)
        for key in data:
            if key not in known:
                raise UnknownNameError("constraint field", key, known)
        try:
            return cls(**data)
        except TypeError as error:
            raise ConstraintError(f"A constraint needs at least name and budget; got {dict(data)!r}.") from error


class ConstraintSet(Sequence[Constraint]):
    """An ordered set of constraints; position i is index i of the last axis of every ``costs`` array.

    Example:
        >>> constraints = ConstraintSet([Constraint("hazards", 25), Constraint("vases", 10)])
        >>> constraints.names, constraints.budgets
        (('hazards', 'vases'), array([25., 10.]))
    """

    def __init__(self, constraints: Iterable[Constraint] = ()) -> None:
        """Collect ``constraints``; two with the same name are an error."""
        self._items = tuple(constraints)
        for item in self._items:
            if not isinstance(item, Constraint):
                raise ConstraintError(f"A ConstraintSet holds Constraint objects; got {item!r}.")
        if len(set(self.names)) != len(self._items):
            raise ConstraintError(f"Constraint names must differ; got {list(self.names)}.")

    def __len__(self) -> int:
        """Number of constraints."""
        return len(self._items)

    def __iter__(self) -> Iterator[Constraint]:
        """Iterate in order."""
        return iter(self._items)

    def __getitem__(self, key: Any) -> Any:
        """Look up by position or by name."""
        if isinstance(key, str):
            for item in self._items:
                if item.name == key:
                    return item
            raise UnknownNameError("constraint", key, self.names)
        if isinstance(key, slice):
            return ConstraintSet(self._items[key])
        return self._items[key]

    def __eq__(self, other: object) -> bool:
        """Equal when all constraints are, in the same order."""
        return isinstance(other, ConstraintSet) and self._items == other._items

    def __hash__(self) -> int:
        """Hash of the ordered constraints."""
        return hash(self._items)

    def __repr__(self) -> str:
        """Show the constraints as a reader would say them."""
        return f"ConstraintSet({'; '.join(item.describe() for item in self._items)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(item.name for item in self._items)

    @property
    def budgets(self) -> npt.NDArray[np.float64]:
        """Budgets in order, shape (num_constraints,)."""
        return np.array([item.budget for item in self._items], dtype=np.float64)

    @property
    def signs(self) -> npt.NDArray[np.float64]:
        """+1 for upper limits, -1 for lower ones, shape (num_constraints,)."""
        return np.array([item.sign for item in self._items], dtype=np.float64)

    def with_budgets(self, budgets: Mapping[str, float]) -> ConstraintSet:
        """The same constraints with some budgets replaced; a name that is not in the set is an error."""
        for name in budgets:
            if name not in self.names:
                raise UnknownNameError(
                    "constraint in the budget", name, self.names, hint="A budget names a cost that the env has."
                )
        return ConstraintSet(replace(c, budget=budgets[c.name]) if c.name in budgets else c for c in self._items)

    def require_kinds(self, supported: Iterable[str], *, by: str) -> None:
        """Raise if a constraint's kind is not among ``supported``; ``by`` names who supports them."""
        allowed = tuple(supported)
        for item in self._items:
            if item.kind not in allowed:
                raise ConstraintError(
                    f"{by} supports constraints of kind {', '.join(allowed)}; got {item.kind!r} for {item.name!r}. "
                    "Choose another kind, or a solver that supports this one."
                )

    def require_units(self, horizon: int | None = None, *, by: str) -> None:
        """Raise if a budget is more than can ever occur; see :meth:`Constraint.require_units`."""
        for item in self._items:
            item.require_units(horizon, by=by)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain JSON types; :meth:`from_list` is the inverse."""
        return [item.to_dict() for item in self._items]

    @classmethod
    def from_list(cls, data: Iterable[Mapping[str, Any]]) -> ConstraintSet:
        """Read what :meth:`to_list` wrote."""
        return cls(Constraint.from_dict(item) for item in data)
