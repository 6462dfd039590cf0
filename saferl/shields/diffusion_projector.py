"""Diffusion predictive control with constraints (``diffusion_projector``): plans that are projected while denoised.

A diffusion policy draws trajectories tau = (s_0, a_0, .., s_{H-1}, a_{H-1}) from noise in K steps: with tau ~ N(0, I),
for k = K - 1 .. 0,

    tau <- denoise(tau, k, obs, noise),     s_0 <- the measured state           (inpainting)
    tau <- project(tau)                      if k < share K                      (:mod:`.trajectory_projector`)

for B candidates at once. Of those whose last projection keeps the constraints one is chosen, and its first action is
executed:

    random       any
    consistent   the nearest to the last plan, shifted by the steps since
    cheapest     the least total cost of its projections

What it guarantees: the plan keeps the constraints under the linear model. The device does so empirically: if the
model's error in one step is at most the tightening, the next state keeps them whenever the plan is feasible, but
nothing says that it will be feasible again, since there is no terminal set. Use ``mpsc`` behind it for a hard one.

Paper: Roemer, von Rohr, Schoellig (2025), "Diffusion predictive control with constraints".

Differences from the paper
- Convex constraints are solved as one condensed quadratic program, obstacles by repeated linearisation from inside;
  the paper uses a general non-linear solver for obstacles.
- The tightening may grow along the plan, since errors of the model add up.
- If no candidate keeps the constraints, the last plan is followed; without one, the policy's fallback action.
- The proposal is the action that the policy would have taken; it is replaced by that of the constrained plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.trajectory_projector import ProjectorSettings, TrajectoryProjector

Array = npt.NDArray[np.float64]
Denoiser = Callable[[Array, int, Any, Array], npt.ArrayLike]
"""Normalised trajectories (B, H, n + m), step k, observation, standard normal noise (B, H, n + m): the next ones."""
Selection = Literal["random", "consistent", "cheapest"]


@dataclass(frozen=True)
class DDPM:
    """A denoiser from a model of the noise, with cosine betas (Ho et al. 2020; Nichol and Dhariwal 2021).

    Example:
        >>> ddpm = DDPM(lambda tau, k, obs: np.zeros_like(tau), steps=20)
        >>> ddpm.kept.shape, bool(np.all(np.diff(ddpm.kept) < 0))
        ((20,), True)
    """

    noise_model: Callable[[Array, int, Any], npt.ArrayLike]
    """Trajectories (B, H, d), step k, observation: the noise in them, (B, H, d)."""
    steps: int = 20
    """K."""
    noise_scale: float = 0.5
    """Factor of the noise that each step adds; below 1 plans are less varied."""

    @property
    def kept(self) -> Array:
        """The share of the signal's variance that is left at step k, decreasing, (K,)."""
        times = np.arange(self.steps + 1) / self.steps
        curve = np.cos((times + 0.008) / 1.008 * np.pi / 2.0) ** 2
        betas = np.clip(1.0 - curve[1:] / curve[:-1], 0.0, 0.999)
        return np.asarray(np.cumprod(1.0 - betas))

    def __call__(self, trajectories: Array, k: int, obs: Any, noise: Array) -> Array:
        """One step back: the mean of the posterior given the estimated clean trajectory, plus scaled noise."""
        kept = self.kept
        before = kept[k - 1] if k else 1.0
        beta = 1.0 - kept[k] / before
        estimate = np.asarray(self.noise_model(trajectories, k, obs), dtype=np.float64)
        clean = (trajectories - np.sqrt(1.0 - kept[k]) * estimate) / np.sqrt(kept[k])
        mean = (np.sqrt(before) * beta * clean + np.sqrt(1.0 - beta) * (1.0 - before) * trajectories) / (1.0 - kept[k])
        spread = np.sqrt(beta * (1.0 - before) / (1.0 - kept[k]))
        return np.asarray(mean + self.noise_scale * spread * noise)


@dataclass(frozen=True)
class Plans:
    """The candidates of one decision."""

    trajectories: Array
    """(B, H, n + m), in env units: states, then actions."""
    costs: Array
    """Total cost of the projections of every candidate, (B,)."""
    is_feasible: npt.NDArray[np.bool_]
    """Whether the last projection of a candidate keeps the constraints, (B,)."""


class DiffusionProjector(Shield):
    """Executes the first action of a plan of a diffusion policy that keeps the constraints; see the module.

    Example:
        >>> settings = ProjectorSettings([[1.0]], [[1.0]], [-1.0], [1.0], horizon=4, rows=[[1.0]], limits=[0.5])
        >>> keen = lambda tau, k, obs, noise: np.ones_like(tau)
        >>> shield = DiffusionProjector(ActionSpec.box([-1], [1]), keen, settings, steps=2)
        >>> shield.filter(np.array([0.4]), [1.0]).action.round(3)
        array([0.1])
    """

    unit = "diffusion_projector"

    def __init__(
        self,
        action_space: Any,
        denoiser: Denoiser,
        settings: ProjectorSettings,
        *,
        steps: int = 20,
        candidates: int = 4,
        share: float = 0.5,
        select: Selection = "consistent",
        low: npt.ArrayLike | None = None,
        high: npt.ArrayLike | None = None,
        read: Callable[[Any], npt.ArrayLike] | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Prepare the projector.

        Args:
            action_space: A box.
            denoiser: One step of the diffusion policy, in normalised units; a :class:`DDPM`, or any callable.
            settings: Model and constraints, in env units.
            steps: K, calls of the denoiser.
            candidates: B.
            share: Last part of the steps in which trajectories are projected: 0 projects the result only, 1 always.
            select: Which of the candidates is executed.
            low: What -1 stands for in normalised units, (n + m,); None: units are the env's.
            high: What +1 stands for, (n + m,).
            read: Turns an observation into the state, (n,); None: it is one.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: an option out of its range, or shapes that do not fit.
            MissingExtraError: DAQP is not installed.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        if steps < 1 or candidates < 1 or not 0.0 <= share <= 1.0 or select not in get_args(Selection):
            raise ConfigError(
                f"{self.unit}: steps and candidates must be at least 1, share in [0, 1] and select one of "
                f"{', '.join(get_args(Selection))}; got {steps}, {candidates}, {share} and {select!r}."
            )
        self.projector = TrajectoryProjector(settings)
        if self.projector.inputs != self.actions.dim:
            raise ConfigError(f"{self.unit}: the model has {self.projector.inputs} inputs, not {self.actions.dim}.")
        self.denoiser, self.read, self.steps, self.candidates = denoiser, read, int(steps), int(candidates)
        self.share, self.select = float(share), select
        self._size = self.projector.states + self.projector.inputs
        self.low, self.high = self._normaliser(low, high)
        self.reset()

    def _normaliser(self, low: npt.ArrayLike | None, high: npt.ArrayLike | None) -> tuple[Array, Array]:
        lower = -np.ones(self._size) if low is None else np.array(low, dtype=np.float64).ravel()
        upper = np.ones(self._size) if high is None else np.array(high, dtype=np.float64).ravel()
        if lower.shape != (self._size,) or upper.shape != (self._size,) or not np.all(lower < upper):
            raise ConfigError(
                f"{self.unit}: low < high must have one number per state and action, ({self._size},); "
                f"got {lower} and {upper}."
            )
        return lower, upper

    def spec(self) -> ShieldSpec:
        """Needs, guarantee and assumptions."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=(
                "One step of the model is off by at most the tightening.",
                "A feasible plan is found in every state.",
            ),
        )

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether this state itself keeps the constraints; there is no invariant set to certify more."""
        try:
            state = self._state_of(obs)
            row = np.concatenate([state, np.zeros(self.projector.inputs)])
            return bool(np.all(np.isfinite(state))) and self.projector.violation(np.stack([row, row])) <= 0.0
        except Exception:  # an observation that is no state is not certified
            return False

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Forget the plan."""
        self._plan: Array | None = None
        self._age = 0
        self._new: Array | None = None

    def get_memory(self) -> Any:
        """The last plan and how many steps ago it was made."""
        return {"plan": None if self._plan is None else self._plan.copy(), "age": self._age}

    def set_memory(self, memory: Any) -> None:
        """Go back to a plan."""
        self._plan = None if memory["plan"] is None else np.array(memory["plan"])
        self._age = int(memory["age"])

    def plans(self, obs: Any, generator: np.random.Generator) -> Plans:
        """Draw candidates, projected in the last part of the denoising, and at its end in any case."""
        state = self._state_of(obs)
        half, middle = (self.high - self.low) / 2.0, (self.high + self.low) / 2.0
        shape = (self.candidates, self.projector.horizon, self._size)
        noisy, costs = generator.standard_normal(shape), np.zeros(self.candidates)
        measured = (state - middle[: len(state)]) / half[: len(state)]
        feasible = np.zeros(self.candidates, dtype=bool)
        for k in reversed(range(self.steps)):
            noisy[:, 0, : len(state)] = measured
            noisy = np.array(self.denoiser(noisy, k, obs, generator.standard_normal(shape)), dtype=np.float64)
            noisy[:, 0, : len(state)] = measured
            if k and k >= self.share * self.steps:
                continue
            for index in range(self.candidates):
                projection = self.projector.project(noisy[index] * half + middle, state)
                noisy[index] = (projection.trajectory - middle) / half
                costs[index] += projection.cost
                feasible[index] = projection.is_feasible
        return Plans(noisy * half + middle, costs, feasible)

    def _state_of(self, obs: Any) -> Array:
        state = np.asarray(obs if self.read is None else self.read(obs), dtype=np.float64).ravel()
        if state.shape != (self.projector.states,):
            raise ValueError(f"the state must have {self.projector.states} components; got the shape {state.shape}")
        return state

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        self._new = None
        generator = context.generator if context.generator is not None else np.random.default_rng(context.step)
        plans = self.plans(obs, generator)
        chosen = self._choose(plans, generator)
        if chosen is None:
            return Ruling(self._followed(), "infeasible", status="no plan keeps the constraints; the last is followed")
        self._new = plans.trajectories[chosen]
        margin = -self.projector.violation(self._new)
        return Ruling(self._new[0, self.projector.states :], "projected", margin=margin)

    def _choose(self, plans: Plans, generator: np.random.Generator) -> int | None:
        usable = np.flatnonzero(plans.is_feasible & np.all(np.isfinite(plans.trajectories), axis=(1, 2)))
        if not len(usable):
            return None
        if self.select == "cheapest":
            return int(usable[np.argmin(plans.costs[usable])])
        if self.select == "consistent" and self._plan is not None and self._age < self.projector.horizon:
            shared = self.projector.horizon - self._age
            change = plans.trajectories[usable, :shared] - self._plan[self._age :]
            return int(usable[np.argmin((change**2).sum(axis=(1, 2)))])
        return int(usable[generator.integers(len(usable))])

    def _followed(self) -> Array:
        """What the last plan says now; the middle of the action space after its end."""
        if self._plan is None or self._age >= self.projector.horizon:
            return self.actions.middle
        return np.asarray(self._plan[self._age, self.projector.states :])

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        self._new = None
        return self._followed()

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        new, self._new = self._new, None
        if new is not None and np.allclose(new[0, self.projector.states :], decision.action, atol=1e-6):
            self._plan, self._age = new, 1
        else:
            self._age += 1

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the projector, which is made again."""
        return {**self.__dict__, "projector": self.projector.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the projector again."""
        self.__dict__.update({**state, "projector": TrajectoryProjector(state["projector"])})

    def _to_data(self) -> ShieldData:
        config = {
            "denoiser": describe_part(self.denoiser, "denoiser"),
            "read": describe_part(self.read, "reader of observations"),
            "settings": describe_part(self.projector.settings, "projector"),
        }
        for name in ("steps", "candidates", "share", "select"):
            config[name] = getattr(self, name)
        return ShieldData(config, {"low": self.low, "high": self.high})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        options = dict(data.config)
        for name in ("denoiser", "read", "settings"):
            options[name] = restore_part(options[name], name)
        return cls(action_space, low=data.arrays["low"], high=data.arrays["high"], **options)
