r"""HazardBrake (``hazard_brake``): lets Point and Car drive while they can still stop, leads them around hazards.

With the motion model F of :mod:`saferl.shields.motion`, an action e (u and r of its saturated effect) is *safe* if one
of a few manoeuvres m of :mod:`saferl.shields.manoeuvres` after it keeps clear of every obstacle until rest:

    x_1 = F(x, e),  x_{k+1} = F(x_k, m(x_k)),   |p_k - c_i| >= R_i + margin  and  n_j'p_k <= o_j - margin   for all k

They brake straight ahead or in a left or right turn, at once, after more of e, or after a swerve. A proposal that is
safe, and whose own continuation is clear for a while, passes. Otherwise the agent makes a detour. Let q be the
direction that is intended, an average of where proposals point (ahead or back, and to the side that they turn to):

    d    = argmin over free directions of |angle(d, q)|, the side of q on which the agent was before preferred
    e*   = argmax over safe e of  k_1 |cos(heading, d V - v)| - |v_1(e) - d V| / b - k_2 |e - e_proposed|

with V the top speed and v_1(e) the velocity after e. A direction is free if no obstacle lies in it within ``sight``. A
detour ends when q is free and the proposal passes. The executed action is the one nearest to the proposal that has the
effect e*. If no e is safe, how deep its manoeuvre leads inside counts against it.

The check is model predictive shielding by backup rollouts (Bastani, ACC 2021), with manoeuvres in place of a learned
recovery policy; the detour follows the free gap nearest to the goal, as VFH does (Borenstein and Koren, 1991).

What it guarantees: nothing that is proved ("empirical"). The model is fitted; its errors on held-out driving stand in
``motion.json``, and the margin is there to cover them.

Differences from the papers: several backups, a margin instead of sampled disturbances, and a detour instead of the
backup's action; exact circles instead of a histogram of the surroundings.
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
from saferl.shields.manoeuvres import SLACK, Manoeuvres
from saferl.shields.motion import Array, ComplexArray, MotionModel, motion_model
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision, ShieldSpec
from saferl.shields.scene import LidarLayout, Scene, lidar_scene, privileged_scene

SOURCES = ("privileged", "lidar")

_STRIDE, _HORIZON, _LOOK = 3, 9, 8
"""Control steps per step of a manoeuvre; its steps (0.54 s, enough to stop); steps for which going on must be clear."""
_LEVELS = np.linspace(-1.0, 1.0, 3)
"""Values of each effect that are tried beside the proposed one."""
_BEARINGS = np.linspace(-np.pi, np.pi, 49)
"""Directions that are tried, from the intended one."""
_TURN, _RATE = 1.0, 0.1
"""Turn in rad that a full turn says is intended; share of the newest proposal in the intended direction."""
_OTHER_SIDE = 1.0
"""Angle in rad that a change of side must save."""
_HEADING_WEIGHT, _CHANGE_WEIGHT, _DEPTH_WEIGHT = 25.0, 0.2, 2000.0
"""k_1, k_2, and what a depth of 1 m counts where nothing is safe."""
_MEMORY = 25
"""Steps without an intervention after which the side is chosen anew."""


@dataclass(frozen=True)
class HazardBrakeConfig:
    """Options of :class:`HazardBrake`."""

    source: Literal["privileged", "lidar"] = "privileged"
    """Where hazards are read: the privileged state of the environment, or the lidar in the observation."""
    margin: float = 0.04
    """Distance in m kept from obstacles on top of their size, >= 0."""
    reserve: float = 0.015
    """What proposals and detours keep on top of the margin, >= 0, in m."""
    creep: float = 0.003
    """How much closer an agent inside the margin may come by one manoeuvre, >= 0, in m."""
    sight: float = 0.5
    """Distance in m within which a direction must be free, > 0."""
    patience: int = 100
    """Interventions on one side of the intended direction after which the other one is tried, >= 1."""

    def __post_init__(self) -> None:
        """Refuse options out of their range."""
        lengths = (self.margin, self.reserve, self.creep)
        is_valid = all(0.0 <= length < np.inf for length in lengths) and self.sight > 0.0 and self.patience >= 1
        if self.source not in SOURCES or not is_valid:
            raise ConfigError(
                f"hazard_brake: source must be one of {', '.join(SOURCES)}, margin, reserve and creep >= 0 and finite, "
                f"sight > 0 and patience >= 1; got {self}."
            )


@dataclass(frozen=True)
class Detour:
    """What a :class:`HazardBrake` remembers."""

    is_on: bool = False
    """Whether the agent is led around something."""
    intent: complex = 0j
    """The intended direction q in the agent's axes, of a length up to 1; 0 if nothing is known."""
    side: float = 0.0
    """Side of the intended direction on which the agent passes: 1 left, -1 right, 0 not chosen."""
    blocked: int = 0
    """Interventions on this side."""
    passed: int = 0
    """Steps since the last intervention."""


class HazardBrake(Shield):
    """Lets Point and Car drive as long as they can still stop, and leads them around hazards; see the module.

    Example:
        >>> import saferl
        >>> env = saferl.make("SafetyPointGoal1-v0")
        >>> shield = HazardBrake.for_env(env)
        >>> shield.unit
        'hazard_brake'
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
        self._manoeuvres = Manoeuvres(model, stride=_STRIDE, horizon=_HORIZON, look=_LOOK)
        self._top_speed = model.b / (1.0 - model.a)
        self._detour = self._next = Detour()

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
                f"hazard_brake keeps Point and Car out of the hazards of Goal and walls of Circle (levels 1 and 2); "
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
            if np.isnan(_margin(scene)):
                return True
            return _margin(scene) > 0.0 and bool(self._depths(scene, self._brake(scene)[None])[0, 0] <= SLACK)
        except Exception:  # an observation without the state is not certified
            return False

    def reset(self, obs: Any = None, context: ShieldContext | None = None) -> None:
        """Forget the detour."""
        self._detour = Detour()

    def get_memory(self) -> Any:
        """The :class:`Detour` as plain data."""
        return {**asdict(self._detour), "intent": [self._detour.intent.real, self._detour.intent.imag]}

    def set_memory(self, memory: Any) -> None:
        """Go back to what :meth:`get_memory` gave."""
        self._detour = Detour(**{**memory, "intent": complex(*memory["intent"])})

    def _remember(self, obs: Any, decision: ShieldDecision, context: ShieldContext) -> None:
        self._detour = Detour() if decision.kind == "fallback" else self._next

    def _decide(self, obs: Any, proposed: Action, context: ShieldContext) -> Ruling:
        scene = self._near(self._scene(obs, context))
        wanted, margin = self.actions.clip(proposed), _margin(scene)
        if np.isnan(margin):
            self._next = Detour()
            return Ruling(wanted, "pass")
        effect = self.model.effects(wanted)
        intent = self._intent(effect)
        is_clear = self._depths(scene, effect[None])[0].max() <= SLACK
        if is_clear and (not self._detour.is_on or self._is_free(scene, intent)):
            self._next = self._passed(self._after(scene, intent, effect))
            return Ruling(wanted, "pass", margin=margin)
        bearing = self._bearing(scene, intent)
        first, second = np.meshgrid(np.append(_LEVELS, effect[0]), np.append(_LEVELS, effect[1]))
        candidates = np.column_stack([first.ravel(), second.ravel()])
        depths = self._depths(scene, candidates)[:, 0]
        merits = self._merits(scene, candidates, effect, intent / abs(intent) * np.exp(1j * bearing))
        is_safe = depths <= SLACK
        best = int(np.argmax(np.where(is_safe, merits, -np.inf) if is_safe.any() else merits - _DEPTH_WEIGHT * depths))
        self._next = self._blocked(self._after(scene, intent, candidates[best]), float(np.sign(bearing)))
        action = self._action(candidates[best], effect, wanted)
        if is_safe.any():
            return Ruling(action, "projected", margin=margin)
        status = "no manoeuvre keeps clear of everything: one that is little inside"
        return Ruling(action, "infeasible", margin=margin, slack=float(depths[best]), status=status)

    def _depths(self, scene: Scene, effects: Array) -> Array:
        config = self.config
        return self._manoeuvres.depths(scene, effects, margin=config.margin, reserve=config.reserve, creep=config.creep)

    def _intent(self, effect: Array) -> complex:
        """The intended direction after this proposal, never 0."""
        u, r = self.model.inputs(effect)
        newest = np.exp(1j * (_TURN * r * np.sign(self.model.delta) + (0.0 if u >= 0.0 else np.pi)))
        average = self._detour.intent + _RATE * (newest - self._detour.intent)
        return complex(average if self._detour.intent and abs(average) > 0.0 else newest)

    def _after(self, scene: Scene, intent: complex, effect: Array) -> complex:
        """The intended direction in the agent's axes after ``effect``."""
        heading = self.model.step(0.0, 0.0, 0.0, scene.turn_rate, *self.model.inputs(effect))[2]
        return complex(intent * np.exp(-1j * heading))

    def _passed(self, intent: complex) -> Detour:
        now, passed = self._detour, self._detour.passed + 1
        return Detour(False, intent, *((now.side, now.blocked) if passed <= _MEMORY else (0.0, 0)), passed)

    def _blocked(self, intent: complex, side: float) -> Detour:
        side, blocked = side or self._detour.side, self._detour.blocked + 1
        if blocked > self.config.patience:  # there may be no way around on this side
            side, blocked = -side, 0
        return Detour(True, intent, side, blocked, 0)

    def _bearing(self, scene: Scene, intent: complex) -> float:
        """The angle from the intended direction to the free one that is taken, in rad."""
        costs = np.abs(_BEARINGS) + _OTHER_SIDE * (_BEARINGS * self._detour.side < 0.0)
        free = self._free(scene, intent / abs(intent) * np.exp(1j * _BEARINGS))
        return float(_BEARINGS[np.argmin(np.where(free, costs, costs + 10.0))])

    def _is_free(self, scene: Scene, intent: complex) -> bool:
        return bool(self._free(scene, np.array([intent / abs(intent)]))[0])

    def _free(self, scene: Scene, directions: ComplexArray) -> npt.NDArray[np.bool_]:
        """Whether each unit vector leads past everything within sight."""
        keep, along = self.config.margin + self.config.reserve, np.conj(directions)[:, None]
        distances = np.maximum(np.abs(scene.centres), 1e-9)
        ratios = np.minimum((scene.radii + keep) / distances, 1.0)
        meets = (along * (scene.centres / distances)).real > np.sqrt(1.0 - ratios**2)
        blocked = meets & (distances - scene.radii < self.config.sight)
        # A wall is met within half the sight: the agent may well mean to turn before it.
        walled = (along * scene.normals).real * self.config.sight / 2.0 > np.maximum(scene.offsets - keep, 0.0)
        return np.asarray(~(blocked.any(axis=1) | walled.any(axis=1)))

    def _merits(self, scene: Scene, candidates: Array, effect: Array, aim: complex) -> Array:
        """How well each candidate serves to drive along ``aim``, (n,)."""
        u, r = self.model.inputs(candidates)
        _, velocity, heading, _ = self.model.step(0.0, scene.velocity, 0.0, scene.turn_rate, u, r)
        push = aim * self._top_speed - scene.velocity
        aligned = np.abs((np.conj(push / max(abs(push), 1e-9)) * np.exp(1j * heading)).real)
        missed = np.abs(velocity - aim * self._top_speed) / self.model.b
        changed = np.hypot(*(candidates - effect).T)
        return np.asarray(_HEADING_WEIGHT * aligned - missed - _CHANGE_WEIGHT * changed)

    def _action(self, chosen: Array, effect: Array, wanted: Action) -> Array:
        """The action nearest to ``wanted`` with the effect ``chosen``: beyond the saturation, many have the same."""
        saturation = np.array(self.model.saturation)
        beyond = np.sign(chosen) * np.maximum(saturation, np.sign(chosen) * wanted)
        action = np.where(np.abs(chosen) >= 1.0, beyond, chosen * saturation)
        return np.where(chosen == effect, wanted, action)

    def _near(self, scene: Scene) -> Scene:
        """The scene without what cannot be reached within the horizon."""
        reach = self._manoeuvres.seconds * max(self._top_speed, abs(scene.velocity)) + self.config.margin
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


def _margin(scene: Scene) -> float:
    """Distance to the nearest obstacle in m, NaN without any."""
    gaps = np.append(np.abs(scene.centres) - scene.radii, scene.offsets)
    return float(gaps.min()) if len(gaps) else float("nan")


_MARGINS: dict[str, dict[str, float]] = {"Point": {"margin": 0.04}, "Car": {"margin": 0.08}}
"""By agent: what covers the errors of its model over a manoeuvre that is checked again at every step."""


def lidar(env: Any) -> HazardBrake:
    """The shield that sees with the lidar: ``--shield saferl.shields.hazard_brake:lidar``."""
    return HazardBrake.for_env(env, source="lidar")
