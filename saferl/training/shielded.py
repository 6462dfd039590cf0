"""Training behind a shield: vector environments that execute what it decides.

::

    venv = saferl.make_vec("SafetyPointGoal1-v0", 8)
    env = ShieldedVecEnv(venv, shield, budgets={"interventions": 20})
    PPOLag("MlpPolicy", VecNormalize(env)).learn(1_000_000)

Rules (the filtered CMDP):

- an on-policy solver stores the action that it proposed with that action's log-probability; the executed one has none;
- an off-policy solver of saferl stores the executed action, for which the costs and rewards were paid, unless
  ``store="proposed"`` makes the shield part of what its critics learn; Stable-Baselines3's algorithms need
  :class:`~saferl.training.executed_replay.ExecutedActionReplayBuffer` to store the executed one;
- interventions are costs of their own (:mod:`saferl.deploy.channels`), constraints where they have a budget;
- the shield sees raw observations, so it belongs inside VecNormalize; a fallback is an ordinary transition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from saferl.constraints import ConstraintSet
from saferl.deploy.channels import channel_constraints, channel_costs
from saferl.deploy.lane import Hooks, Lane, as_env_action, row_of
from saferl.deploy.shielded_env import (
    OnUncertified,
    check_safe_reset,
    hook_names,
    hooks_of,
    refuse_taken_names,
    uncertified_start,
)
from saferl.deploy.sources import same_actions
from saferl.envs.state import State
from saferl.envs.vector import CostVectorEnv
from saferl.errors import ConfigError
from saferl.evaluation.shielding import ShieldTrace
from saferl.rollout.cost_vec_env import CostVecEnv
from saferl.shields.base import Shield
from saferl.shields.protocol import ActionSpec, ShieldDecision

Store = Literal["executed", "proposed"]


class ShieldedVectorEnv(CostVectorEnv):
    """A :class:`~saferl.envs.CostVectorEnv` that executes what copies of a shield decide, one per environment.

    The shields act in this process, whatever the backend; ``infos`` also has ``proposed_actions`` and
    ``executed_actions``, and ``last_decisions`` the decisions of the last step.
    """

    def __init__(
        self,
        venv: CostVectorEnv,
        shield: Shield,
        *,
        budgets: Mapping[str, float] | ConstraintSet | None = None,
        safe_reset: int = 0,
        on_uncertified: OnUncertified = "error",
    ) -> None:
        """Wrap ``venv``; see :class:`ShieldedVecEnv` for the arguments."""
        check_safe_reset(safe_reset, on_uncertified)
        channels = channel_constraints(budgets)
        refuse_taken_names(venv.constraints, venv.env_id)
        if not same_actions(shield.actions, ActionSpec.of(venv.single_action_space)):
            raise ConfigError(
                f"The shield {shield.unit} must filter the actions of {venv.env_id}, {venv.single_action_space}; it "
                f"was built for {shield.actions}. Build it for this environment."
            )
        self._describe(
            ConstraintSet([*venv.constraints, *channels]),
            venv.single_observation_space,
            venv.single_action_space,
            venv.num_envs,
            env_id=venv.env_id,
            horizon=venv.horizon,
            is_fixed_horizon=venv.is_fixed_horizon,
            metadata=venv.metadata,
            render_mode=venv.render_mode,
        )
        if safe_reset and not venv.envs:
            raise ConfigError(
                f"A safe reset draws starts of single environments, which this backend of {venv.env_id} does not have. "
                "Make it with backend='sync'."
            )
        self.shield = shield
        self.venv = venv
        self.channels = channels
        self.lanes = [Lane(shield, self._hooks(row, shield), seed=row) for row in range(venv.num_envs)]
        self.last_decisions: list[ShieldDecision] = []
        self.last_executed: Any = None
        """What the environments executed in the last step, a batch of actions."""
        self.uncertified_starts = 0
        """Episodes that began in a start that the shield does not certify (counted with ``safe_reset``)."""
        self._tries, self._on_uncertified = safe_reset, on_uncertified
        self._obs: Any = None

    def _hooks(self, row: int, shield: Shield) -> Hooks | None:
        """What environment ``row`` tells the shield; a batch says it by ``privileged_state(row)``."""
        if self.venv.envs:
            found = hooks_of(self.venv.envs[row], shield)
        else:
            batch = getattr(self.venv, "batch", None)
            given: dict[str, Callable[[int], Any]] = {
                key: getattr(batch, name) for key, name in hook_names(shield).items() if hasattr(batch, name)
            }
            found = (lambda: {key: ask(row) for key, ask in given.items()}) if given else None
        if found is None and "privileged state" in shield.spec().needs:
            raise ConfigError(
                f"The shield {shield.unit} needs privileged state, which this backend of {self.env_id} does not give. "
                "Make it with backend='sync'; the environment then needs a method privileged_state()."
            )
        return found

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every environment and its shield."""
        obs, infos = self.venv.reset(seed=seed, options=options)
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = [None if s is None else int(s) for s in seed]
        for row, lane_seed in enumerate(seeds):
            self._begin(obs, row, lane_seed)
        self._obs = obs
        return obs, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment once with what its shield decides."""
        space = self.single_action_space
        decisions = [lane.decide(row_of(self._obs, row), actions[row]) for row, lane in enumerate(self.lanes)]
        executed = np.stack([np.asarray(as_env_action(d.action, space), dtype=space.dtype) for d in decisions])
        obs, rewards, terminated, truncated, infos = self.venv.step(executed)
        own_names = self.venv.constraints.names
        for lane, costs in zip(self.lanes, infos["costs"].tolist(), strict=True):
            lane.spend(dict(zip(own_names, costs, strict=True)))
        self.last_decisions, self.last_executed = decisions, executed
        by_channel = [channel_costs(decision, self.shield.actions) for decision in decisions]
        channels = np.array([[costs[c.name] for c in self.channels] for costs in by_channel]).reshape(self.num_envs, -1)
        for row in np.flatnonzero(terminated | truncated):
            self._begin(obs, int(row), None)
        self._obs = obs
        extra = {
            "costs": np.concatenate([infos["costs"], channels], axis=1),
            "margins": np.concatenate([infos["margins"], channels], axis=1),
            "proposed_actions": actions,
            "executed_actions": executed,
        }
        return obs, rewards, terminated, truncated, {**infos, **extra}

    def _begin(self, obs: Any, row: int, seed: int | None) -> None:
        """Start the episode of ``row`` in ``obs``, or in another start, written there, if it is not certified."""
        lane = self.lanes[row]
        lane.reset(row_of(obs, row), seed)
        if not self._tries:
            return
        for attempt in range(self._tries):
            if lane.certifies(row_of(obs, row)):
                return
            if attempt + 1 < self._tries:
                start, _ = self.venv.envs[row].reset()
                _write_row(obs, row, start)
                lane.reset(row_of(obs, row))
        if self._on_uncertified == "error":
            raise uncertified_start(self._tries, self.shield)
        self.uncertified_starts += 1

    def get_states(self) -> list[State] | None:
        """The state of every environment and of its shield; None if the environments have none."""
        states = self.venv.get_states()
        if states is None:
            return None
        return [
            {"env": state, "shield": lane.get_state(), "obs": _copy(row_of(self._obs, row))}
            for row, (state, lane) in enumerate(zip(states, self.lanes, strict=True))
        ]

    def set_states(self, states: Sequence[State]) -> None:
        """Bring every environment and its shield to its state."""
        self.venv.set_states([state["env"] for state in states])
        if self._obs is None:
            self._obs, _ = self.venv.reset()
            self.venv.set_states([state["env"] for state in states])
        for row, (state, lane) in enumerate(zip(states, self.lanes, strict=True)):
            lane.set_state(state["shield"])
            _write_row(self._obs, row, state["obs"])

    @property
    def envs(self) -> Any:
        """The single environments of this process, without their shields."""
        return self.venv.envs

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        self.venv.close()


class ShieldedVecEnv(CostVecEnv):
    """Stable-Baselines3's view of a :class:`ShieldedVectorEnv`, for every solver of saferl and of Stable-Baselines3.

    Every entry of ``infos`` has ``proposed_action``, ``executed_action`` and ``shield`` (the decision). ``costs``,
    ``constraints`` and everything that counts costs have the channels with a budget after the environment's own.

    Example:
        >>> from saferl.shields import load_shield
        >>> shield = load_shield("shields/torque")  # doctest: +SKIP
        >>> env = ShieldedVecEnv(saferl.make_vec("SafetyHopperVelocity-v1", 8), shield)  # doctest: +SKIP
    """

    def __init__(
        self,
        venv: CostVectorEnv | CostVecEnv,
        shield: Shield,
        *,
        budgets: Mapping[str, float] | ConstraintSet | None = None,
        store: Store = "executed",
        safe_reset: int = 0,
        on_uncertified: OnUncertified = "error",
    ) -> None:
        """Wrap ``venv``.

        Args:
            venv: Of :func:`saferl.make_vec`, or a CostVecEnv around one; VecNormalize belongs outside.
            shield: Copied for every environment.
            budgets: Budgets (or constraints) of the channels ``interventions`` and ``intervention_distance``.
            store: What a replay buffer of saferl keeps; on-policy solvers keep what they proposed in any case.
            safe_reset: Starts that are drawn at most until the shield certifies one; 0 takes the first as it is.
            on_uncertified: What happens if none was: an error, or a count (``uncertified_starts``).

        Raises:
            ConfigError: a shield that does not fit, an unknown channel, a cost with a channel's name, a wrapper that
                changes observations inside, or options that are out of range.
        """
        if store not in ("executed", "proposed"):
            raise ConfigError(f"store must be 'executed' or 'proposed'; got {store!r}.")
        inner = venv.venv_with_costs if isinstance(venv, CostVecEnv) else venv
        if not isinstance(inner, CostVectorEnv):
            raise ConfigError(
                f"A ShieldedVecEnv goes around saferl.make_vec(...) or CostVecEnv; got {type(venv).__name__}. Wrappers "
                "such as VecNormalize go around it; environments without costs are wrapped in ShieldedEnv, one by one."
            )
        self.shielded = ShieldedVectorEnv(
            inner, shield, budgets=budgets, safe_reset=safe_reset, on_uncertified=on_uncertified
        )
        super().__init__(self.shielded)
        self.shield = shield
        self._store = store
        self._executed: Any = None
        self._trace = ShieldTrace()

    @property
    def stored_actions(self) -> Any:
        """The actions of the last step that a replay buffer keeps, as a batch."""
        return self._executed if self._store == "executed" else self._actions

    @property
    def last_decisions(self) -> list[ShieldDecision]:
        """The decisions of the last step, one per environment."""
        return self.shielded.last_decisions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Step, publish the cost arrays, and say in ``infos`` what the shield did."""
        obs, rewards, dones, infos = super().step_wait()
        self._executed = self.shielded.last_executed
        for row, decision in enumerate(self.last_decisions):
            self._trace.add(decision)
            infos[row]["proposed_action"] = self._actions[row]
            infos[row]["executed_action"] = self._executed[row]
            infos[row]["shield"] = decision
        return obs, rewards, dones, infos

    def take_log(self) -> dict[str, float]:
        """Columns of the log since the last call; empty without a step."""
        trace, self._trace = self._trace, ShieldTrace()
        if not trace.decisions:
            return {}
        log = {
            "shield/intervention_rate": trace.interventions / trace.decisions,
            "shield/mean_distance": trace.distance / max(1, trace.measured),
            "shield/fallbacks": float(trace.kinds.get("fallback", 0)),
            "shield/infeasible": float(trace.kinds.get("infeasible", 0)),
            "shield/p95_us": float(np.quantile(trace.elapsed_us, 0.95)),
        }
        if np.isfinite(trace.worst_margin):
            log["shield/worst_margin"] = trace.worst_margin
        return log


def _write_row(batch: Any, row: int, value: Any) -> None:
    if isinstance(batch, dict):
        for key, array in batch.items():
            array[row] = value[key]
    else:
        batch[row] = value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: np.array(part) for key, part in value.items()}
    return np.array(value)
