r"""CriticShield: lets a learned cost critic veto actions, and looks for one that it accepts.

With critics Q(s, a) of the executed policy's cost (several: their largest value counts) and, where a rule needs it, a
value V(s), an action is accepted if Q(s, a) <= bound(s):

    threshold      bound = eps                            Recovery RL (Thananjeyan et al., RA-L 2021), USL
    recovery_rate  bound = (1 - alpha) V(s) + alpha eps   ACS-style (arXiv 2310.03379): above eps the risk must fall,
                                                          below it it may rise by a share alpha of what is left
    feasibility    bound = 0, for critics of the largest  FISOR (Zheng et al., ICLR 2024): Q_h <= 0 in feasible states
                   future violation h                     V_h <= 0; elsewhere the safest action found

A rejected action is

    project    moved against the gradient of Q, over its largest component, until accepted (USL: 0.05, 20 times)
    resample   replaced by the accepted candidate nearest to it (discrete actions: by the accepted one of least risk)
    replace    replaced by the fallback (a recovery policy)

Where nothing is accepted the fallback is executed, or without one the candidate of least risk, recorded as
``infeasible``. The fallback's own action is never rejected: nothing better is known.

What it guarantees: nothing formal ("empirical"). A rule on Q bounds the risk of one decision under the critic's error;
even with an exact critic the risks of an episode's decisions add up (recovery_rate included: states that violate
already break the induction). Use ``tabular_prob`` for a bound per episode.

Differences from the papers: recovery_rate is our reading of the abstract's condition, solved by normalised gradient
steps instead of quasi-Newton ones; FISOR executes the candidate of least Q, here the nearest accepted one is; all of it
is execution time only (the penalty in the actor's loss belongs to a solver). Inference is numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import TOLERANCE, Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.networks import Network
from saferl.shields.parts import describe_part, restore_part
from saferl.shields.protocol import Action, ActionSpec, Kind, ShieldContext, ShieldSpec

Array = npt.NDArray[np.float64]
Rule = Literal["threshold", "recovery_rate", "feasibility"]
Mode = Literal["project", "resample", "replace"]
Sampler = Callable[[Any, int, np.random.Generator], npt.ArrayLike]
"""Observation, number and generator to candidates of shape (n, dim), in env units: a policy."""
_SPARE = 1e-12
"""What is executed is accepted by this much: the same action in another batch differs in its last bits."""


@dataclass(frozen=True)
class CriticConfig:
    """What a critic accepts, and what happens to the rest."""

    rule: Rule = "threshold"
    """How the bound is made; see the module."""
    mode: Mode = "resample"
    """What is done about a rejected action."""
    eps: float = 0.1
    """Accepted risk, in units of Q; not used by ``feasibility``."""
    alpha: float = 0.1
    """Share in (0, 1] for ``recovery_rate``; 1 is ``threshold``."""
    step: float = 0.05
    """Length of the largest component of a gradient step, in half ranges of the action."""
    iterations: int = 20
    """Largest number of gradient steps."""
    candidates: int = 32
    """Actions that ``resample`` draws at once."""
    spread: float = 0.5
    """Standard deviation of candidates about the proposal, in half ranges, where there is no sampler."""

    def __post_init__(self) -> None:
        """Refuse words and values out of range."""
        if self.rule not in get_args(Rule) or self.mode not in get_args(Mode):
            raise ConfigError(
                f"critic: rule must be one of {', '.join(get_args(Rule))} and mode one of {', '.join(get_args(Mode))}; "
                f"got {self.rule!r} and {self.mode!r}."
            )
        is_positive = min(self.step, self.iterations, self.candidates, self.spread) > 0
        if not is_positive or not 0.0 < self.alpha <= 1.0 or not np.isfinite(self.eps):
            raise ConfigError(f"critic: steps and numbers must be positive, alpha in (0, 1], eps finite; got {self}.")


class CriticShield(Shield):
    """Projects, resamples or replaces actions that a learned cost critic rejects.

    Example:
        >>> risk = Network((np.array([[0.0, 1.0]]),), (np.zeros(1),))  # Q(s, a) = a
        >>> shield = CriticShield(ActionSpec.box([-1.0], [1.0]), [risk], CriticConfig(mode="project", eps=0.2))
        >>> decision = shield.filter(np.zeros(1), [0.33])
        >>> decision.kind, decision.action.round(6).tolist()
        ('projected', [0.18])
    """

    unit = "critic"

    def __init__(
        self,
        action_space: Any,
        critics: Sequence[Network],
        config: CriticConfig | None = None,
        *,
        value: Network | None = None,
        sampler: Sampler | None = None,
        fallback: npt.ArrayLike | Network | Callable[[Any], Any] | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the critics.

        Args:
            action_space: A box or discrete actions.
            critics: Q, from the flat observation and the action to one number; a box's action in half ranges about its
                middle, a discrete one as one-hot. The largest of several counts.
            config: Rule and mode.
            value: V, from the flat observation to one number; ``recovery_rate`` needs it.
            sampler: The policy that ``resample`` draws from; None: a normal distribution about the proposal.
            fallback: A recovery action, a network (outputs in half ranges, clipped to +-1; for discrete actions the
                largest is taken), or a function of the observation. ``replace`` needs it.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: networks of other shapes, or what rule and mode need is missing.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        self.critics, self.value = tuple(critics), value
        self.config = config if config is not None else CriticConfig()
        self.sampler, self.fallback_action = sampler, fallback
        self._width = self.actions.dim if self.actions.n is None else self.actions.n
        self._check()

    def spec(self) -> ShieldSpec:
        """Empirical, whatever the critic."""
        return CATALOGUE[self.unit].spec(
            self.unit,
            assumptions=(
                "The critic is right about the actions that it accepts.",
                "Risks of an episode are not added up.",
            ),
        )

    def risk(self, obs: Any, actions: npt.ArrayLike) -> Array:
        """Largest Q of the critics for actions of shape (n, dim) in env units, or (n,) discrete ones; shape (n,)."""
        return self._risks(self._flat(obs), self._inputs(np.asarray(actions)))

    def bound(self, obs: Any) -> float:
        """What Q may be in this state; minus infinity where feasibility critics see no safe action."""
        return self._bound(self._flat(obs))

    # -- the frame ------------------------------------------------------------------------------------------------

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        x = self._flat(obs)
        bound = self._bound(x)
        start = self.actions.clip(proposed)
        risk = float(self._risks(x, self._inputs(start[None]))[0])
        margin = bound - risk
        if margin >= 0.0:
            return Ruling(start, margin=margin)
        recovery = None if self.fallback_action is None else self._fallback(obs, context)
        if recovery is not None and self.actions.distance(self.actions.clip(recovery), start) < TOLERANCE:
            return Ruling(start, margin=margin, status="the fallback's own action")
        if self.config.mode == "replace":
            return Ruling(self.actions.middle if recovery is None else recovery, "replaced", margin)
        kind: Kind = "projected" if self.config.mode == "project" else "resampled"
        found, least = (
            self._descend(x, start, bound) if kind == "projected" else self._resample(obs, x, start, bound, context)
        )
        if least <= bound - _SPARE:
            return Ruling(found, kind, margin)
        if recovery is not None:
            return Ruling(recovery, "fallback", margin, status="the critic accepts no action that was tried")
        action, missed = (found, least) if least < risk else (start, risk)
        slack = max(missed - bound, 0.0) if np.isfinite(bound) else max(missed, 0.0)
        return Ruling(action, "infeasible", margin, slack, "the critic accepts no action that was tried: least risk")

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        recovery = self.fallback_action
        if recovery is None:
            return self.actions.middle
        if isinstance(recovery, Network):
            out = recovery(self._flat(obs)[None])[0]
            if self.actions.n is not None:
                return int(np.argmax(out))
            return np.asarray(self.actions.middle + self.actions.half_range * np.clip(out, -1.0, 1.0))
        if callable(recovery):
            action: npt.ArrayLike = recovery(obs)
            return action
        return recovery

    def _to_data(self) -> ShieldData:
        networks = {f"critic{i}": critic for i, critic in enumerate(self.critics)}
        if self.value is not None:
            networks["value"] = self.value
        recovery = self.fallback_action
        if isinstance(recovery, Network):
            networks["fallback"] = recovery
        plain = recovery if recovery is None or callable(recovery) else np.asarray(recovery).tolist()
        parts = {name: network.to_arrays(name) for name, network in networks.items()}
        arrays = {name: array for _, own in parts.values() for name, array in own.items()}
        return ShieldData(
            {
                "config": asdict(self.config),
                "networks": {name: options for name, (options, _) in parts.items()},
                "sampler": describe_part(self.sampler, "sampler"),
                "fallback": None if isinstance(recovery, Network) else describe_part(plain, "fallback"),
            },
            arrays,
        )

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        networks = {name: Network.from_arrays(part, data.arrays) for name, part in data.config["networks"].items()}
        critics = [networks[f"critic{i}"] for i in range(sum(name.startswith("critic") for name in networks))]
        return cls(
            action_space,
            critics,
            CriticConfig(**data.config["config"]),
            value=networks.get("value"),
            sampler=restore_part(data.config["sampler"], "sampler"),
            fallback=networks.get("fallback", restore_part(data.config["fallback"], "fallback")),
        )

    # -- risk -----------------------------------------------------------------------------------------------------

    def _flat(self, obs: Any) -> Array:
        x = np.asarray(obs, dtype=np.float64).reshape(-1)
        if len(x) + self._width != self.critics[0].inputs:
            raise ValueError(f"the observation must have {self.critics[0].inputs - self._width} numbers; got {len(x)}")
        return x

    def _inputs(self, actions: npt.NDArray[Any]) -> Array:
        """Actions as the critics read them, shape (n, width)."""
        if self.actions.n is not None:
            return np.eye(self.actions.n)[actions.reshape(-1).astype(np.int64)]
        return np.asarray((actions.reshape(-1, self._width) - self.actions.middle) / self.actions.half_range)

    def _risks(self, x: Array, inputs: Array) -> Array:
        joined = np.hstack([np.broadcast_to(x, (len(inputs), len(x))), inputs])
        return np.asarray(np.max([critic(joined)[:, 0] for critic in self.critics], axis=0))

    def _bound(self, x: Array) -> float:
        rule, eps, alpha = self.config.rule, self.config.eps, self.config.alpha
        if rule == "threshold":
            return eps
        level = 0.0 if self.value is None else float(self.value(x[None])[0, 0])
        if rule == "recovery_rate":
            return (1.0 - alpha) * level + alpha * eps
        return 0.0 if level <= 0.0 else -float("inf")

    # -- another action -------------------------------------------------------------------------------------------

    def _descend(self, x: Array, start: Action, bound: float) -> tuple[Action, float]:
        """The first accepted action along the steps, or the one of least risk; with its risk."""
        space, n = self.actions, len(x)
        best, least = start, float("inf")
        action = start
        for _ in range(self.config.iterations):
            joined = np.concatenate([x, self._inputs(action[None])[0]])
            _, gradient = max((critic.value_and_gradient(joined) for critic in self.critics), key=lambda pair: pair[0])
            largest = float(np.abs(gradient[n:]).max())
            if largest < 1e-12:
                break
            action = space.clip(action - self.config.step * space.half_range * gradient[n:] / largest)
            risk = float(self._risks(x, self._inputs(action[None]))[0])
            if risk < least:
                best, least = action, risk
            if least <= bound - _SPARE:
                break
        return best, least

    def _resample(
        self, obs: Any, x: Array, start: Action, bound: float, context: ShieldContext
    ) -> tuple[Action, float]:
        """The accepted candidate nearest to the proposal (discrete: of least risk), or the one of least risk."""
        space = self.actions
        if space.n is not None:
            candidates: npt.NDArray[Any] = np.arange(space.n)
        else:
            generator = context.generator if context.generator is not None else np.random.default_rng(context.step)
            candidates = self._draw(obs, start, generator)
        risks = self._risks(x, self._inputs(candidates))
        accepted = np.flatnonzero(risks <= bound - _SPARE)
        if space.n is None and len(accepted):
            lengths = [space.distance(candidate, start) for candidate in candidates[accepted]]
            chosen = int(accepted[int(np.argmin(lengths))])
        else:
            chosen = int(np.argmin(risks))
        return np.asarray(candidates[chosen]), float(risks[chosen])

    def _draw(self, obs: Any, start: Action, generator: np.random.Generator) -> npt.NDArray[Any]:
        space, count = self.actions, self.config.candidates
        if self.sampler is None:
            drawn = start + self.config.spread * space.half_range * generator.standard_normal((count, space.dim))
        else:
            drawn = np.asarray(self.sampler(obs, count, generator), dtype=np.float64).reshape(-1, space.dim)
        return np.array([space.clip(candidate) for candidate in drawn])

    def _check(self) -> None:
        if not self.critics or any(critic.outputs != 1 for critic in self.critics):
            raise ConfigError(f"{self.unit} needs at least one critic with one output each.")
        widths = {critic.inputs for critic in self.critics}
        if len(widths) > 1 or widths.pop() <= self._width:
            raise ConfigError(
                f"{self.unit}: critics read the observation and {self._width} numbers of the action; got inputs of "
                f"{[critic.inputs for critic in self.critics]}."
            )
        if self.value is not None and (self.value.inputs, self.value.outputs) != (
            self.critics[0].inputs - self._width,
            1,
        ):
            raise ConfigError(
                f"{self.unit}: the value must read {self.critics[0].inputs - self._width} numbers and give one; it "
                f"reads {self.value.inputs} and gives {self.value.outputs}."
            )
        if self.config.rule == "recovery_rate" and self.value is None:
            raise ConfigError(f"{self.unit}: the rule recovery_rate needs a value network. Give value, or threshold.")
        if self.config.mode == "project" and self.actions.n is not None:
            raise ConfigError(f"{self.unit}: discrete actions have no gradient. Use the mode resample or replace.")
        if self.config.mode == "replace" and self.fallback_action is None:
            raise ConfigError(f"{self.unit}: the mode replace needs a fallback. Give one, or use resample.")
