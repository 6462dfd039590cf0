"""``ShieldedController``: a policy, its shield, the actuator's bounds and a last fallback as one object.

    proposed = policy(obs)
    decision = shield.filter(obs, proposed)           # the shield's word, with its own fallback
    action   = decision.action, kept inside the bounds; the controller's fallback if the shield itself failed

A control loop calls :meth:`ShieldedController.act`, which never raises on what it is given: a policy that fails
proposes NaN, which every shield answers by a recorded fallback.

A controller is saved as one folder: the policy artefact, whose header also lists the shield below ``shield/`` with the
hash of every file. So it is still an artefact: ``saferl.load`` reads its policy, ``saferl eval`` evaluates both.

numpy only, apart from saving and loading the policy.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.deploy.lane import Lane, as_env_action, row_of
from saferl.deploy.sources import same_actions
from saferl.errors import ArtefactError, ConfigError
from saferl.shields import load_shield, save_shield
from saferl.shields.base import Shield
from saferl.shields.protocol import Action, ActionSpec, ShieldContext, ShieldDecision
from saferl.storage import atomic_folder, sha256, write_header

SHIELD, SECTION = "shield", "controller"
UNIT = "controller"
"""What :attr:`ShieldDecision.unit` says where the controller itself decided."""


class ShieldedController:
    """A policy behind a shield, for one device (:meth:`act`) or for batches (:meth:`predict`).

    Example:
        >>> from saferl.shields import Bounds                                       # doctest: +SKIP
        >>> controller = ShieldedController(saferl.load("runs/goal"), shield)       # doctest: +SKIP
        >>> controller.reset()                                                      # doctest: +SKIP
        >>> action = controller.act(obs)                                            # doctest: +SKIP
    """

    def __init__(
        self,
        policy: Any,
        shield: Shield,
        *,
        bounds: ActionSpec | None = None,
        fallback: npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> None:
        """Put the parts together.

        Args:
            policy: Anything with Stable-Baselines3's ``predict`` on raw observations; its ``action_space``, if it has
                one, is the form of the actions that come out.
            shield: Copied.
            bounds: Limits of the actuator, checked last; the shield's action space if None. Give the shield the same
                ones: where these cut an action of the shield, its certificate is void, and the status says so.
            fallback: Executed where the shield itself fails; the middle of the bounds if None.
            deterministic: Whether :meth:`act` takes the mean or most likely action.

        Raises:
            ConfigError: parts that do not fit together.
        """
        space = getattr(policy, "action_space", None)
        if space is not None and not same_actions(ActionSpec.of(space), shield.actions):
            raise ConfigError(
                f"The shield {shield.unit} must filter the actions of the policy, {space}; it was built for "
                f"{shield.actions}. Build it for the policy's action space."
            )
        self.policy, self.shield = policy, shield.copy()
        self.bounds = bounds if bounds is not None else shield.actions
        if not _is_inside(self.bounds, shield.actions):
            raise ConfigError(
                f"The bounds of a controller must lie inside the action space of its shield, {shield.actions}; got "
                f"{self.bounds}."
            )
        chosen = self.bounds.middle if fallback is None else fallback
        self.fallback: Action = self.bounds.read(chosen)
        if not np.all(np.isfinite(self.fallback)) or not self.bounds.contains(self.fallback):
            raise ConfigError(f"The fallback of a controller must lie inside its bounds; got {fallback!r}.")
        self.deterministic = deterministic
        self.last_decisions: Sequence[ShieldDecision] = ()
        """What the last call of :meth:`act`, :meth:`decide` or :meth:`predict` decided, one per lane."""
        self._lanes: list[Lane] = []
        self._state: Any = None
        self._start = True
        self._step = 0

    # -- one device -----------------------------------------------------------------------------------------------

    def reset(self, obs: Any = None) -> None:
        """Start an episode: policy, shield and step count forget the last one."""
        self._state, self._start, self._step = None, True, 0
        self.shield.reset(obs)

    def act(self, obs: Any, context: ShieldContext | None = None) -> Any:
        """The action for one raw observation, in the form of the policy's action space; never raises on its input."""
        return self._as_action(self.decide(obs, context).action)

    def decide(self, obs: Any, context: ShieldContext | None = None) -> ShieldDecision:
        """The decision behind :meth:`act`, with the proposal of the policy and what the shield did to it.

        Args:
            obs: One raw observation, in env units.
            context: What else is known; the step of the episode if None.
        """
        context = context if context is not None else ShieldContext(step=self._step)
        decision = self._guard(self.shield, obs, self._propose(obs), context)
        self._step += 1
        self.last_decisions = (decision,)
        return decision

    def _propose(self, obs: Any) -> Any:
        start, self._start = np.array([self._start]), False
        try:
            actions, self._state = self.policy.predict(_batch_of_one(obs), self._state, start, self.deterministic)
            return row_of(np.asarray(actions), 0)
        except Exception:  # a controller goes on: NaN is answered by the shield's recorded fallback
            return np.nan

    def _guard(self, shield: Shield, obs: Any, proposed: Any, context: ShieldContext) -> ShieldDecision:
        """The shield's decision, or the controller's fallback if the shield fails; inside the bounds."""
        try:
            decision = shield.filter(obs, proposed, context)
        except Exception as error:  # units keep this promise; a foreign one may not
            return self._own(shield, proposed, f"{type(error).__name__}: {error}")
        action = self.bounds.clip(decision.action)
        change = self.bounds.distance(action, decision.action)
        if change == 0.0:
            return decision
        status = f"cut to the bounds of the controller after the shield; its certificate is void ({decision.status})"
        kind = "projected" if decision.kind == "pass" else decision.kind
        distance = shield.actions.distance(action, decision.proposed)
        return ShieldDecision(
            action, decision.proposed, kind, distance, decision.margin, decision.slack, status, UNIT,
            decision.elapsed_us,
        )  # fmt: skip

    def _own(self, shield: Shield, proposed: Any, status: str) -> ShieldDecision:
        read = shield.actions.read(proposed)
        distance = shield.actions.distance(self.fallback, read)
        return ShieldDecision(self.fallback.copy(), read, "fallback", distance, status=status, unit=UNIT)

    def _as_action(self, action: Action) -> Any:
        space = getattr(self.policy, "action_space", None)
        if space is not None:
            return as_env_action(action, space)
        return action if self.bounds.is_box else int(action)

    # -- batches --------------------------------------------------------------------------------------------------

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Stable-Baselines3's ``predict`` on a batch of raw observations: the executed actions and the next state.

        Every lane has a copy of the shield, reset where ``episode_start`` is true. Lanes are made anew when the batch
        size changes, and by a call without state and starts, which begins an episode in every lane.

        Args:
            observation: Shape (n, ...), or a dict of such arrays.
            state: What the last call gave.
            episode_start: bool (n,); None: true in the first call, false in later ones.
            deterministic: Whether the policy takes the mean or most likely action.
        """
        proposed, policy_state = self.policy.predict(
            observation, None if state is None else state[0], episode_start, deterministic
        )
        count = len(proposed)
        starts = np.zeros(count, dtype=np.bool_) if episode_start is None else np.asarray(episode_start, dtype=np.bool_)
        if len(self._lanes) != count or (state is None and episode_start is None):
            self._lanes = [Lane(self.shield, seed=lane) for lane in range(count)]
            starts = np.ones(count, dtype=np.bool_)
        decisions = []
        for row, lane in enumerate(self._lanes):
            obs = row_of(observation, row)
            if starts[row]:
                lane.reset(obs)
            decision = self._guard(lane.shield, obs, proposed[row], lane.context)
            lane.note(decision)
            decisions.append(decision)
        self.last_decisions = decisions
        return np.stack([np.asarray(self._as_action(d.action)) for d in decisions]), (policy_state,)

    # -- one folder -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the controller to a new folder, and give the folder.

        Raises:
            ConfigError: a policy that is not an artefact, or a shield that is not data.
            RunFolderError: the folder cannot be written.
        """
        from saferl.policy.artefact import COUNTER, HEADER, PolicyArtefact

        if not isinstance(self.policy, PolicyArtefact):
            raise ConfigError(
                f"A controller is saved with the artefact of its policy; got a {type(self.policy).__name__}. "
                "Train with saferl.train, or write one with saferl.policy.artefact.save_artefact, and saferl.load it."
            )
        own = self.policy.header
        with atomic_folder(Path(folder)) as temporary:
            hashes = {name: value for name, value in own["sha256"].items() if not name.startswith(f"{SHIELD}/")}
            for name in [*hashes, COUNTER]:
                if (self.policy.path / name).is_file():
                    shutil.copyfile(self.policy.path / name, temporary / name)
            save_shield(self.shield, temporary / SHIELD)
            hashes |= {f"{SHIELD}/{p.name}": sha256(p) for p in sorted((temporary / SHIELD).iterdir())}
            write_header(temporary / HEADER, {**own, "sha256": hashes, SECTION: self._to_data()})
        return Path(folder)

    def _to_data(self) -> dict[str, Any]:
        return {
            "bounds": self.bounds.to_dict(),
            "fallback": self.fallback.tolist(),
            "deterministic": self.deterministic,
            "shield": self.shield.spec().to_dict(),
        }


def load_controller(folder: str | Path) -> ShieldedController:
    """Read what :meth:`ShieldedController.save` wrote.

    Raises:
        ArtefactError: no controller there, or a missing or changed file.
    """
    from saferl.policy.artefact import load

    policy = load(folder)
    return ShieldedController(policy, shield_of(policy), **_read_section(policy))


def has_shield(policy: Any) -> bool:
    """Whether a loaded artefact is a controller."""
    return SECTION in getattr(policy, "header", {})


def shield_of(policy: Any) -> Shield:
    """The shield of a controller that was loaded as an artefact.

    Raises:
        ArtefactError: it is the artefact of a policy alone.
    """
    if not has_shield(policy):
        raise ArtefactError(
            f"A controller must have a shield; {policy.path} is the artefact of a policy alone. Put both together: "
            "ShieldedController(saferl.load(...), shield).save(folder)."
        )
    return load_shield(policy.path / SHIELD)


def _read_section(policy: Any) -> dict[str, Any]:
    section = policy.header[SECTION]
    try:
        bounds = ActionSpec.from_dict(section["bounds"])
        return {"bounds": bounds, "fallback": section["fallback"], "deterministic": bool(section["deterministic"])}
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"The controller in {policy.path} cannot be read: {error!r}. Save it again.") from error


def _batch_of_one(obs: Any) -> Any:
    if isinstance(obs, Mapping):
        return {key: np.asarray(value)[None] for key, value in obs.items()}
    return np.asarray(obs)[None]


def _is_inside(bounds: ActionSpec, space: ActionSpec) -> bool:
    if bounds.low is None or bounds.high is None or space.low is None or space.high is None:
        return bounds.is_box == space.is_box and bounds.n == space.n
    return bounds.dim == space.dim and space.contains(bounds.low, 1e-6) and space.contains(bounds.high, 1e-6)
