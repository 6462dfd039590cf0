r"""HazardBrake (``hazard_brake``): lets Point and Car drive as long as they can still brake or swerve before a hazard.

With the motion model F of :mod:`saferl.shields.motion`, an action e (u and r of its saturated effect) is accepted if
one of a few manoeuvres m after it keeps clear of every obstacle, for H steps and while the agent coasts to rest:

    x_1 = F(x, e),  x_{k+1} = F(x_k, m(x_k)),   |p_k - c_i| >= R_i + margin  and  n_j'p_k <= o_j - margin   for all k

The manoeuvres: brake straight ahead or in a left or right turn; go on with e, or swerve left or right at full throttle,
for a moment and then brake. Braking is u = clip(-a l / b, -1, 1), which stops without going back. If the proposal is
not accepted, the nearest accepted one of a grid of effects is executed, and mapped to the action nearest to the proposal
that has this effect; turns count less than throttle, so that the agent drives around an obstacle rather than stops
before it. If none is accepted, the one whose best manoeuvre is least and shortest inside.

The scheme is model predictive shielding by backup rollouts (Bastani, ACC 2021), with manoeuvres in place of a learned
recovery policy.

What it guarantees: nothing that is proved ("empirical"). The model is fitted; its errors on held-out driving stand in
``motion.json``, and the margin is there to cover them.

Differences from the paper: several backups, a grid instead of replacing the action by the backup's, a margin instead of
sampled disturbances.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from saferl.errors import ConfigError
from saferl.shields.base import Ruling, Shield, ShieldData
from saferl.shields.catalogue import CATALOGUE
from saferl.shields.motion import Array, ComplexArray, MotionModel, motion_model
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.scene import LidarLayout, Scene, lidar_scene, privileged_scene

SOURCES = ("privileged", "lidar")

_MANOEUVRES = np.array(
    # own input (1) or not, throttle, turn while it holds; share of the horizon that it holds; then turn, and brake or go
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, -1.0, 1.0],
        [1.0, 0.0, 0.0, 0.3, 0.0, 1.0],
        [0.0, 1.0, 1.0, 0.4, 0.0, 1.0],
        [0.0, 1.0, -1.0, 0.4, 0.0, 1.0],
        [1.0, 0.0, 0.0, 0.3, 0.0, 0.0],
    ]
)
_BRAKES = _MANOEUVRES[:, 5] == 1.0
_STILL = 0.05
"""Speed in m/s above which the agent is taken to want to go backwards."""
_SLACK = 1e-9
"""Depth in m that counts as none."""


@dataclass(frozen=True)
class HazardBrakeConfig:
    """Options of :class:`HazardBrake`."""

    source: Literal["privileged", "lidar"] = "privileged"
    """Where hazards are read: the privileged state of the environment, or the lidar in the observation."""
    margin: float = 0.04
    """Distance in m kept from obstacles on top of their size, >= 0."""
    reserve: float = 0.03
    """What is kept on top of the margin while there is room to pass, >= 0, in m."""
    stride: int = 3
    """Control steps per step of a manoeuvre, >= 1."""
    horizon: int = 9
    """Steps of a manoeuvre, >= 1; stride x horizon control steps must be enough to stop."""
    look: int = 8
    """Steps of a manoeuvre for which the way that is intended must be free, >= 1."""
    levels: int = 3
    """Values of each effect between -1 and 1 that are tried beside the proposed one, >= 2."""
    turn_weight: float = 0.5
    """What turning along the obstacle counts against driving along it, >= 0."""
    change_weight: float = 0.2
    """What a change of the action counts against going along the obstacle, >= 0."""
    sight: float = 0.5
    """Distance"""
    intent: float = 1.0
    """Turn"""
    rate: float = 0.1
    """Rate"""
    side_weight: float = 1.0
    """Side"""
    weight: float = 200.0
    """W"""
    creep: float = 0.0
    """C"""
    memory: int = 25
    """Steps without an intervention after which the side of an obstacle is chosen anew, >= 0."""
    patience: int = 100
    """Interventions on one side after which the other one is tried, >= 1."""

    def __post_init__(self) -> None:
        """Refuse options out of their range."""
        counts = self.stride >= 1 and self.horizon >= 1 and self.levels >= 2
        if self.source not in SOURCES or not counts or not 0.0 <= self.margin < np.inf or not self.turn_weight >= 0.0:
            raise ConfigError(
                f"hazard_brake: source must be one of {', '.join(SOURCES)}, margin >= 0 and finite, stride and horizon "
                f">= 1, levels >= 2, turn_weight > 0; got {self}."
            )


class HazardBrake(Shield):
    """Lets Point and Car drive as long as they can still brake or swerve before a hazard; see the module.

    Example:
        >>> import saferl
        >>> env = saferl.make("SafetyPointGoal1-v0")
        >>> shield = HazardBrake.for_env(env)
        >>> shield.spec().needs, shield.spec().guarantee
        (('privileged state',), 'empirical')
    """

    unit = "hazard_brake"

    def __init__(
        self,
        action_space: Any,
        model: MotionModel,
        config: HazardBrakeConfig | None = None,
        *,
        layout: LidarLayout | None = None,
        time_budget_us: float | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            action_space: A box of two actions.
            model: How the agent moves.
            config: Options.
            layout: Where the observation holds the lidar; needed by, and only by, the source ``lidar``.
            time_budget_us: See :class:`Shield`.

        Raises:
            ConfigError: an action space of another size, or a source without its layout.
        """
        super().__init__(action_space, time_budget_us=time_budget_us)
        self.config = config if config is not None else HazardBrakeConfig()
        if self.actions.dim != 2:
            raise ConfigError(f"hazard_brake filters two actions, those of Point and Car; got {action_space!r}.")
        if (layout is None) != (self.config.source == "privileged"):
            raise ConfigError(
                f"hazard_brake: the source 'lidar' needs a LidarLayout, the source 'privileged' takes none; got "
                f"{layout!r} with {self.config.source!r}."
            )
        self.model, self.layout = model, layout
        self._coarse = model.repeat(self.config.stride)
        self._chosen_side = 1.0  # handed from a decision to its memory
        self.reset()
        self._levels = np.linspace(-1.0, 1.0, self.config.levels)
        # Nothing farther away than this can be reached within the horizon, at top speed or at the speed found.
        self._seconds = model.dt * (1 + self.config.stride * self.config.horizon)
        self._top_speed = model.b / (1.0 - model.a)

    @classmethod
    def for_env(cls, env: Any, **options: Any) -> Self:
        """The shield of a navigation task.

        Args:
            env: A Point or Car task of :func:`saferl.make` with hazards or walls.
            options: Of :class:`HazardBrakeConfig`.

        Raises:
            ConfigError: another environment, or the source ``lidar`` in one that shows no hazards.
        """
        name = str(getattr(env, "env_id", env))
        found = re.match(r"Safety(Point|Car)(Goal|Circle)[12]-v0$", name)
        if found is None:
            raise ConfigError(
                f"hazard_brake keeps Point and Car out of the hazards of Goal and the walls of Circle (levels 1 and 2); "
                f"{name} is another task. Take a shield that knows its model."
            )
        config = HazardBrakeConfig(**{**_MARGINS[found[1]], **options})
        layout = None
        if config.source == "lidar":
            if found[2] != "Goal":
                raise ConfigError(f"hazard_brake: no lidar of {name} shows its walls. Use the source 'privileged'.")
            layout = LidarLayout(**env.get_wrapper_attr("lidar_layout")("hazards"))
        return cls(env.action_space, motion_model(found[1]), config, layout=layout)

    def spec(self) -> ShieldSpec:
        """What this instance needs depends on its source."""
        errors = self.model.errors
        assumptions = [
            f"The agent moves as the fitted {self.model.agent} model says: off by at most "
            f"{errors['position_10']:.3f} m in 10 steps without correction (99 %, held-out driving).",
            "Nothing that is not a hazard or a wall pushes the agent or has to be avoided.",
        ]
        if self.config.source == "lidar":
            assumptions.append("No hazard is hidden behind a nearer one in the same lidar bin.")
            return CATALOGUE[self.unit].spec(self.unit, assumptions=tuple(assumptions), needs=("state vector",))
        return CATALOGUE[self.unit].spec(self.unit, assumptions=tuple(assumptions))

    def certifies(self, obs: Any, context: ShieldContext | None = None) -> bool:
        """Whether the agent is clear of everything and one of the manoeuvres keeps it so."""
        try:
            scene = self._near(self._scene(obs, context if context is not None else ShieldContext()))
            brake = self._brake(scene)
            is_clear = bool(np.all(np.abs(scene.centres) > scene.radii) and np.all(scene.offsets > 0.0))
            return is_clear and bool(self.depths(scene, brake[None])[0, 0] <= _SLACK)
        except Exception:  # an observation without the state is not certified
            return False

    def depths(self, scene: Scene, effects: Array) -> Array:
        """How much of each action's best manoeuvre is inside obstacles, summed over its steps in m; 0 is accepted.

        Args:
            scene: What is around.
            effects: Saturated actions, (n, 2).
        """
        if not len(scene.centres) and not len(scene.normals):
            return np.zeros((len(effects), 2))
        points = self.paths(scene, effects)
        braking, intended = points[:, :, _BRAKES], points[: self.config.look + 1, :, ~_BRAKES]
        near, far = self.config.margin, self.config.margin + self.config.reserve
        found = [self._inside(scene, *pair) for pair in ((braking, near), (intended, far))]
        return np.column_stack([inside.sum(axis=0).min(axis=1) for inside in found])

    def _inside(self, scene: Scene, points: ComplexArray, margin: float) -> Array:
        """How deep each point is inside obstacles and their margin, >= 0 in m."""
        inside = np.zeros(points.shape)
        for centre, radius in zip(scene.centres, scene.radii, strict=True):
            limit = _limit(abs(centre), radius, margin, self.config.creep)
            np.maximum(inside, limit - np.abs(points - centre), out=inside)
        for normal, offset in zip(scene.normals, scene.offsets, strict=True):
            limit = _limit(offset, 0.0, margin, self.config.creep)
            np.maximum(inside, limit - offset + (points * np.conj(normal)).real, out=inside)
        return inside

    def paths(self, scene: Scene, effects: Array) -> ComplexArray:
        """Where the agent goes, (horizon + 2, n, manoeuvres): the step, the manoeuvre, and coasting to rest."""
        model, horizon = self._coarse, self.config.horizon
        u, r = self.model.inputs(effects)
        position, velocity, heading, rate = self.model.step(0.0, scene.velocity, 0.0, scene.turn_rate, u, r)
        own, throttle, turn, share, last_turn, brakes = _MANOEUVRES.T
        drive = 1.0 if scene.velocity.real >= -_STILL else -1.0
        u, r = own * u[:, None] + drive * throttle, own * r[:, None] + turn
        holds = np.arange(horizon)[:, None, None] < np.round(share * horizon)
        turns = np.where(holds, r, last_turn)
        rates = np.empty((horizon + 1, *u.shape))
        rates[0] = rate[:, None]
        for k in range(horizon):
            rates[k + 1] = model.alpha * rates[k] + model.beta * turns[k]
        headings = heading[:, None] + np.cumsum(model.gamma * rates[:-1] + model.delta * turns, axis=0)
        ahead = np.exp(1j * headings)
        velocities = np.empty((horizon + 1, *u.shape), dtype=np.complex128)
        velocities[0] = velocity[:, None]
        stop = -model.a / model.b
        for k in range(horizon):
            moved = velocities[k] * ahead[k].conj()
            speed = moved.real
            push = np.where(holds[k], u, np.where(brakes, np.clip(stop * speed, -1.0, 1.0), drive))
            velocities[k + 1] = (model.a * speed + model.b * push + 1j * (model.g * moved.imag)) * ahead[k]
        points = np.empty((horizon + 2, *u.shape), dtype=np.complex128)
        points[0] = position[:, None]
        points[1:-1] = points[0] + np.cumsum(model.dt / 2.0 * (velocities[:-1] + velocities[1:]), axis=0)
        points[-1] = points[-2] + velocities[-1] * (self.model.dt / (1.0 - self.model.a))
        return points

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        scene = self._near(self._scene(obs, context))
        wanted = self.actions.clip(proposed)
        effect = self.model.effects(wanted)
        margin = self._margin(scene)
        if np.isnan(margin):
            return Ruling(wanted, "pass")
        aim, is_free = self._aim(scene, effect)
        self._ahead = self.model.step(0.0, 0.0, 0.0, scene.turn_rate, *self.model.inputs(effect))[2]
        if (is_free or not self._detours) and self.depths(scene, effect[None])[0].max() <= _SLACK:
            self._next_detours = False
            return Ruling(wanted, "pass", margin=margin)
        self._next_detours = True
        candidates = self._candidates(effect)
        depths = self.depths(scene, candidates)
        merits = self._merits(scene, candidates, effect, aim)
        brakes = depths[:, 0] <= _SLACK
        best = int(np.argmax(np.where(brakes, merits, -np.inf) if brakes.any() else merits - self.config.weight * depths[:, 0]))
        action = self._action(candidates[best], effect, wanted)
        self._ahead = self.model.step(0.0, 0.0, 0.0, scene.turn_rate, *self.model.inputs(candidates[best]))[2]
        if brakes.any():
            return Ruling(action, "projected", margin=margin)
        status = "no manoeuvre keeps clear of everything: the least inside"
        return Ruling(action, "infeasible", margin=margin, slack=float(depths[best, 0]), status=status)

    def _candidates(self, effect: Array) -> Array:
        first, second = np.meshgrid(np.append(self._levels, effect[0]), np.append(self._levels, effect[1]))
        return np.column_stack([first.ravel(), second.ravel()])

    def _merits(self, scene: Scene, candidates: Array, effect: Array, aim: complex) -> Array:
        """How well each candidate goes around the nearest obstacle, (n,)."""
        u, r = self.model.inputs(candidates)
        _, velocity, heading, _ = self.model.step(0.0, scene.velocity, 0.0, scene.turn_rate, u, r)
        wanted = aim * self._top_speed
        push = wanted - scene.velocity
        turned = np.abs((np.conj(push / max(abs(push), 1e-9)) * np.exp(1j * heading)).real)
        changes = np.hypot(*(candidates - effect).T)
        missed = np.abs(velocity - wanted) / self.model.b
        return np.asarray(self.config.turn_weight / self.model.dt * turned - missed - self.config.change_weight * changes)

    def _aim(self, scene: Scene, effect: Array) -> tuple[complex, bool]:
        """The free direction nearest to the intended one, and whether that is free itself."""
        u, r = self.model.inputs(effect)
        turn = self.config.intent * float(r) * np.sign(self.model.delta) + (0.0 if u >= 0.0 else np.pi)
        intent = self._intent + self.config.rate * (np.exp(1j * turn) - self._intent)
        if not self._intent:
            intent = np.exp(1j * turn)
        self._chosen_intent = complex(intent)
        offsets = np.linspace(-np.pi, np.pi, 49)
        directions = intent / abs(intent) * np.exp(1j * offsets)
        keep = self.config.margin + self.config.reserve
        distances = np.maximum(np.abs(scene.centres), 1e-9)
        towards = (np.conj(directions)[:, None] * (scene.centres / distances)).real
        ratio = np.minimum((scene.radii + keep) / distances, 1.0)
        blocked = (towards > np.sqrt(1.0 - ratio**2)) & (distances - scene.radii < self.config.sight)
        facing = (np.conj(directions)[:, None] * scene.normals).real
        walls = facing * self.config.sight / 2.0 > np.maximum(scene.offsets - keep, 0.0)
        free = ~(blocked.any(axis=1) | walls.any(axis=1))
        cost = np.abs(offsets) + self.config.side_weight * (offsets * self._side < 0.0)
        best = int(np.argmin(np.where(free, cost, cost + 10.0)))
        self._chosen_side = float(np.sign(offsets[best])) or self._side
        return complex(directions[best]), bool(free[24])

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Forget the side."""
        self._side, self._blocked, self._free = 0.0, 0, 0
        self._intent, self._detours = 0j, False

    def get_memory(self) -> Any:
        """The side on which an obstacle is passed, and for how long it has been in the way, or not."""
        return {"side": self._side, "blocked": self._blocked, "free": self._free}

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        self._side, self._blocked = float(memory["side"]), int(memory["blocked"])
        self._free = int(memory["free"])

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        if np.isfinite(decision.margin):
            self._intent = self._chosen_intent * np.exp(-1j * self._ahead)
            self._detours = self._next_detours
        else:
            self._intent, self._detours = 0j, False
        if decision.kind == "pass":
            self._free += 1
            if self._free > self.config.memory:
                self._side, self._blocked = 0.0, 0
        elif decision.kind in ("projected", "infeasible"):
            self._side, self._free = self._chosen_side, 0
            self._blocked += 1
            if self._blocked > self.config.patience:  # there may be no way around on this side
                self._side, self._blocked = -self._side, 0

    def _action(self, chosen: Array, effect: Array, wanted: Action) -> Array:
        """The action nearest to ``wanted`` with the effect ``chosen``: beyond the saturation, many have the same."""
        saturation = np.array(self.model.saturation)
        beyond = np.sign(chosen) * np.maximum(saturation, np.sign(chosen) * wanted)
        action = np.where(np.abs(chosen) >= 1.0, beyond, chosen * saturation)
        return np.where(chosen == effect, wanted, action)

    def _margin(self, scene: Scene) -> float:
        gaps = np.append(np.abs(scene.centres) - scene.radii, scene.offsets)
        return float(gaps.min()) if len(gaps) else float("nan")

    def _near(self, scene: Scene) -> Scene:
        """The scene without what cannot be reached within the horizon."""
        reach = self._seconds * max(self._top_speed, abs(scene.velocity)) + self.config.margin
        near = np.abs(scene.centres) - scene.radii < reach
        close = scene.offsets < reach
        return replace(
            scene,
            centres=scene.centres[near],
            radii=scene.radii[near],
            normals=scene.normals[close],
            offsets=scene.offsets[close],
        )

    def _scene(self, obs: Any, context: ShieldContext) -> Scene:
        if self.layout is not None:
            return lidar_scene(np.asarray(obs, dtype=np.float64), self.layout, self.model.forward)
        if context.privileged is None:
            raise ConfigError("hazard_brake needs privileged state (positions of hazards) and was given none.")
        return privileged_scene(context.privileged, self.model.forward)

    def _brake(self, scene: Scene) -> Array:
        """The effect that stops the agent, straight ahead."""
        push = float(np.clip(-scene.velocity.real * self.model.a / self.model.b, -1.0, 1.0))
        return np.linalg.solve(np.array(self.model.mixing), np.array([push, 0.0]))

    def _fallback(self, obs: Any, context: ShieldContext) -> npt.ArrayLike:
        return self._brake(self._scene(obs, context)) * self.model.saturation

    def _to_data(self) -> ShieldData:
        layout = None if self.layout is None else asdict(self.layout)
        return ShieldData({"model": self.model.to_dict(), "config": asdict(self.config), "layout": layout})

    @classmethod
    def _from_data(cls, data: ShieldData, action_space: ActionSpec) -> Self:
        layout = data.config["layout"]
        return cls(
            action_space,
            MotionModel.from_dict(data.config["model"]),
            HazardBrakeConfig(**data.config["config"]),
            layout=None if layout is None else LidarLayout(**layout),
        )


def _limit(distance: float, radius: float, margin: float, creep: float) -> float:
    """What distance to keep; an agent inside the margin must only not come closer."""
    return max(radius, distance - creep - _SLACK) if radius < distance < radius + margin + creep else radius + margin


_MARGINS: dict[str, dict[str, float]] = {"Point": {"margin": 0.04}, "Car": {"margin": 0.08}}
"""By agent: what covers the errors of its model over a manoeuvre that is checked again at every step."""


def lidar(env: Any) -> HazardBrake:
    """The shield that sees with the lidar: ``--shield saferl.shields.hazard_brake:lidar``."""
    return HazardBrake.for_env(env, source="lidar")
