"""The words of the shield protocol: what a shield is told, what it decides, what it needs and what it promises.

numpy only: a deployed controller imports this without torch, gymnasium or mujoco.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError

Action = npt.NDArray[Any]
"""float64 of shape (dim,) for a box, int64 of shape () for a discrete space."""

Kind = Literal["pass", "projected", "masked", "resampled", "replaced", "fallback", "infeasible"]
Need = Literal[
    "state vector", "control-affine model", "linear model", "finite MDP", "critic", "cost model", "twin", "bounds",
    "privileged state", "diffusion policy",
]  # fmt: skip
Guarantee = Literal[
    "hard", "hard for the nominal model", "episode probability", "per-step probability", "expectation", "empirical",
]  # fmt: skip
Speed = Literal["under 100 us", "under 1 ms", "under 10 ms", "slower"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a decision did, from nothing (``pass``) to giving up (``infeasible``: no safe action is known)."""
NEEDS: tuple[Need, ...] = get_args(Need)
"""What a shield may need."""
GUARANTEES: tuple[Guarantee, ...] = get_args(Guarantee)
"""What a shield may promise, from the strongest to the weakest."""


@dataclass(frozen=True)
class ShieldDecision:
    """What a shield decided about one proposed action."""

    action: Action
    """What is executed; always inside the action space."""
    proposed: Action
    """What was asked for, as it came (it may be NaN)."""
    kind: Kind
    """What was done. ``pass``: nothing; any other kind but ``fallback`` and ``infeasible`` means a distance above 0."""
    distance: float
    """Euclidean length of the change in units of half the range of each action; 0 or 1 for discrete actions. Infinite
    for a proposal that is not finite."""
    margin: float = float("nan")
    """Signed distance to the certificate's boundary before filtering, positive inside; NaN where a unit has none."""
    slack: float = 0.0
    """How far the certificate's condition is missed by the executed action; 0 for a hard solve."""
    status: str = "ok"
    """The solver's word, or why a fallback was taken."""
    unit: str = ""
    """The unit that acted; in a composite, the one whose change was the last."""
    elapsed_us: float = 0.0
    """Time of the decision in microseconds."""

    @property
    def intervened(self) -> bool:
        """Whether something else than the proposed action is executed."""
        return self.kind != "pass"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types (numbers that are not finite become strings)."""
        data = {**asdict(self), "action": self.action.tolist(), "proposed": self.proposed.tolist()}
        return {key: _plain(value) for key, value in data.items()}


@runtime_checkable
class Twin(Protocol):
    """A digital twin: a simulator that can be copied, set and stepped without touching the device."""

    def clone(self) -> Twin:
        """An independent copy in the same state."""
        ...

    def set_state(self, state: Any) -> None:
        """Go to the state that an observation or a sensor reading says."""
        ...

    def step(self, action: Action, exogenous: Any = None) -> Mapping[str, float]:
        """One control step; what is unsafe about the new state by name (positive: violated), at least one entry.

        Args:
            action: What is executed.
            exogenous: The disturbance of this step; None: the twin's nominal one.
        """
        ...

    def get_state(self) -> Any:
        """What :meth:`set_state` takes."""
        ...


@dataclass
class ShieldContext:
    """What a shield may know beside the observation."""

    step: int = 0
    """Steps of this episode before this decision."""
    generator: np.random.Generator | None = None
    """For units that draw; a unit that needs one and gets none uses a generator seeded by ``step``."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Cost of this episode so far by constraint."""
    twin: Twin | None = None
    """A twin in the state of the device."""
    privileged: Mapping[str, Any] | None = None
    """State that a policy does not see, for example positions of hazards."""


@dataclass(frozen=True)
class ShieldSpec:
    """What a shield needs and promises; machine-readable, printed by ``saferl list shields`` and in reports."""

    unit: str
    """Registry name."""
    needs: tuple[Need, ...]
    """What it cannot work without; empty if nothing."""
    guarantee: Guarantee
    """What it promises where its assumptions hold."""
    actions: tuple[str, ...] = ("Box",)
    """Names of Gymnasium's action spaces that it filters."""
    assumptions: tuple[str, ...] = ()
    """What must be true for the guarantee, one sentence each."""
    probability: float | None = None
    """The p of a probabilistic guarantee."""
    speed: Speed = "under 1 ms"
    """Class of one decision on one core."""

    def __post_init__(self) -> None:
        """Refuse words outside the protocol, and hard promises that rest on a learned critic."""
        for need in self.needs:
            if need not in NEEDS:
                raise ConfigError(f"A need of a shield must be one of {', '.join(NEEDS)}; got {need!r}.")
        if self.guarantee not in GUARANTEES:
            raise ConfigError(f"A guarantee must be one of {', '.join(GUARANTEES)}; got {self.guarantee!r}.")
        if self.guarantee.startswith("hard") and {"critic", "cost model"} & set(self.needs):
            raise ConfigError(
                f"A shield that rests on a learned model must not claim a hard guarantee; {self.unit!r} does. "
                "Its guarantee is 'empirical'."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        data = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


@dataclass(frozen=True)
class ActionSpec:
    """An action space in numpy terms: a box, or ``n`` discrete actions.

    Example:
        >>> ActionSpec.box([-1.0, 0.0], [1.0, 4.0]).clip([3.0, 3.0])
        array([1., 3.])
    """

    low: npt.NDArray[np.float64] | None = None
    """Lower bounds of a box, shape (dim,)."""
    high: npt.NDArray[np.float64] | None = None
    """Upper bounds of a box, shape (dim,)."""
    n: int | None = None
    """Number of discrete actions."""

    @classmethod
    def box(cls, low: npt.ArrayLike, high: npt.ArrayLike) -> ActionSpec:
        """A box of any shape, flattened.

        Raises:
            ConfigError: bounds of different shapes, NaN, or a lower bound above the upper one.
        """
        lower, upper = np.array(low, dtype=np.float64).ravel(), np.array(high, dtype=np.float64).ravel()
        if lower.shape != upper.shape or not np.all(lower <= upper):
            raise ConfigError(f"Bounds of actions must be low <= high of one shape; got {lower} and {upper}.")
        return cls(lower, upper)

    @classmethod
    def discrete(cls, n: int) -> ActionSpec:
        """``n`` actions, 0 to n - 1."""
        if n < 1:
            raise ConfigError(f"The number of discrete actions must be at least 1; got {n}.")
        return cls(n=int(n))

    @classmethod
    def of(cls, space: Any) -> ActionSpec:
        """The same of a Gymnasium space (by its attributes, so that Gymnasium is not imported).

        Raises:
            ConfigError: neither a Box nor a Discrete that starts at 0.
        """
        if isinstance(space, cls):
            return space
        if hasattr(space, "low") and hasattr(space, "high"):
            return cls.box(space.low, space.high)
        # A MultiBinary has an n too, but no start.
        if hasattr(space, "n") and hasattr(space, "start") and np.ndim(space.n) == 0 and int(space.start) == 0:
            return cls.discrete(int(space.n))
        raise ConfigError(f"A shield filters actions of a Box, or of a Discrete that starts at 0; got {space!r}.")

    @property
    def is_box(self) -> bool:
        """Whether actions are continuous."""
        return self.n is None

    @property
    def dim(self) -> int:
        """Number of components of a box; 1 for discrete actions."""
        return 1 if self.low is None else len(self.low)

    @cached_property
    def half_range(self) -> npt.NDArray[np.float64]:
        """Half the width of every component; 1 where it is unbounded or 0."""
        if self.low is None or self.high is None:
            return _fixed(np.ones(1))
        half = (self.high - self.low) / 2.0
        return _fixed(np.where(np.isfinite(half) & (half > 0.0), half, 1.0))

    def read(self, action: Any) -> Action:
        """``action`` in the protocol's shape and type; what cannot be read becomes NaN (or -1), never an error."""
        try:
            values = np.array(action, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            values = np.full(self.dim, np.nan)
        if values.shape != (self.dim,):
            values = np.full(self.dim, np.nan)
        if self.is_box:
            return values
        whole = np.isfinite(values[0]) and values[0] == np.floor(values[0]) and abs(values[0]) < 2**53
        return np.array(int(values[0]) if whole else -1, dtype=np.int64)

    def contains(self, action: Action, tolerance: float = 0.0) -> bool:
        """Whether an action (as :meth:`read` gives it) lies in the space."""
        if self.low is None or self.high is None:
            return 0 <= int(action) < (self.n or 0)
        return bool(((action >= self.low - tolerance) & (action <= self.high + tolerance)).all())

    def clip(self, action: npt.ArrayLike) -> Action:
        """The nearest action of the space; NaN becomes the middle of a box (0 where unbounded), or action 0."""
        values = self.read(action)
        if self.low is None or self.high is None:
            return np.asarray(np.clip(values, 0, (self.n or 1) - 1))
        if not np.isfinite(values).all():
            values = np.where(np.isnan(values), self.middle, values)
        return np.asarray(np.minimum(np.maximum(values, self.low), self.high))

    @cached_property
    def middle(self) -> npt.NDArray[np.float64]:
        """The centre of a box; where a side is unbounded, 0 or the nearest bound."""
        if self.low is None or self.high is None:
            return _fixed(np.zeros(1))
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        centre = np.where(finite, (np.where(finite, self.low, 0.0) + np.where(finite, self.high, 0.0)) / 2.0, 0.0)
        return _fixed(np.clip(centre, self.low, self.high))

    def distance(self, action: Action, proposed: Action) -> float:
        """:attr:`ShieldDecision.distance`."""
        if not self.is_box:
            return float(int(action) != int(proposed))
        if not np.isfinite(proposed).all():
            return float("inf")
        return math.hypot(*((action - proposed) / self.half_range).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        if self.low is None or self.high is None:
            return {"n": self.n}
        return {"low": [_plain(x) for x in self.low.tolist()], "high": [_plain(x) for x in self.high.tolist()]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActionSpec:
        """Read what :meth:`to_dict` wrote."""
        if data.get("n") is not None:
            return cls.discrete(int(data["n"]))
        return cls.box([float(x) for x in data["low"]], [float(x) for x in data["high"]])


def _fixed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``values``, which many share from now on, so that nobody may write to them."""
    values.flags.writeable = False
    return values


def snapshot(value: Any) -> Any:
    """A deep copy of a unit's memory."""
    return copy.deepcopy(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
