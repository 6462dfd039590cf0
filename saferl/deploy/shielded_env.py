"""``ShieldedEnv``: an environment that executes what a shield decides.

The shield is part of the environment (a filtered CMDP): an algorithm proposes, stores its proposal with that
proposal's log-probability, and sees the transition of what was executed. Exploration noise comes before the shield.

What an environment may tell a shield beside the observation (:class:`saferl.shields.ShieldContext`), by methods of it
or of any wrapper around it:

- ``privileged_state()``: a mapping of what a policy does not see, for example the positions of hazards, as it is now;
- ``digital_twin()``: a :class:`saferl.shields.Twin` in the state of the device, whose steps do not touch it; asked
  only for a shield whose needs name a twin, because it may have to be copied for every decision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium

from saferl.constraints import ConstraintSet
from saferl.deploy.channels import CHANNELS, channel_constraints, channel_costs
from saferl.deploy.lane import Hooks, Lane, as_env_action
from saferl.deploy.sources import has_attribute, require_fit
from saferl.envs.adapters import CostContract
from saferl.errors import ConfigError, EnvContractError
from saferl.shields.base import Shield
from saferl.shields.protocol import ShieldDecision

Env = gymnasium.Env[Any, Any]
OnUncertified = Literal["error", "flag"]


class ShieldedEnv(CostContract):
    """An environment behind a shield, with saferl's contract (also around a plain Gymnasium environment).

    Every ``info`` of a step has ``proposed_action``, ``executed_action``, ``shield`` (the
    :class:`~saferl.shields.ShieldDecision`) and, in ``info["costs"]``, the channels of
    :mod:`saferl.deploy.channels`; those with a budget are constraints after the environment's own.

    Example:
        >>> import saferl
        >>> from saferl.shields import load_shield
        >>> env = saferl.make("SafetyHopperVelocity-v1")
        >>> env = ShieldedEnv(env, load_shield("shields/torque"), budgets={"interventions": 5})  # doctest: +SKIP
    """

    def __init__(
        self,
        env: Env,
        shield: Shield,
        *,
        budgets: Mapping[str, float] | ConstraintSet | None = None,
        safe_reset: int = 0,
        on_uncertified: OnUncertified = "error",
    ) -> None:
        """Wrap ``env``.

        Args:
            env: An environment of :func:`saferl.make`, or any Gymnasium environment.
            shield: Copied, so that environments do not share memory.
            budgets: Budgets (or constraints) of channels.
            safe_reset: Starts that are drawn at most until the shield certifies one; 0 takes the first as it is.
            on_uncertified: What happens if none was: an error, or ``info["certified_start"] = False`` at the reset.

        Raises:
            ConfigError: a shield that does not fit, an unknown channel, or a cost of ``env`` with a channel's name.
        """
        channels = channel_constraints(budgets)
        name = str(getattr(env, "env_id", None) or (env.spec.id if env.spec is not None else type(env).__name__))
        require_fit(shield, env, shield.unit)
        inner = env.constraints if isinstance(env, CostContract) else ConstraintSet()
        refuse_taken_names(inner, name)
        self._filter = ActionFilter(env, shield, safe_reset=safe_reset, on_uncertified=on_uncertified)
        super().__init__(
            self._filter,
            ConstraintSet([*inner, *channels]),
            env_id=name,
            horizon=getattr(env, "horizon", None),
            is_fixed_horizon=bool(getattr(env, "is_fixed_horizon", False)),
        )

    @property
    def shield(self) -> Shield:
        """The copy that acts here."""
        return self._filter.lane.shield

    @property
    def last_decision(self) -> ShieldDecision | None:
        """The decision of the last step."""
        return self._filter.lane.last

    def get_state(self) -> dict[str, Any]:
        """What this layer holds; see :mod:`saferl.envs.state`."""
        return {"last_costs": self.last_costs, "last_margins": self.last_margins, "last_cost": self.last_cost}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.last_costs, self.last_margins = state["last_costs"].copy(), state["last_margins"].copy()
        self.last_cost = float(state["last_cost"])


class ActionFilter(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The layer of a :class:`ShieldedEnv` that asks the shield."""

    def __init__(self, env: Env, shield: Shield, *, safe_reset: int, on_uncertified: OnUncertified) -> None:
        """Copy ``shield``."""
        super().__init__(env)
        check_safe_reset(safe_reset, on_uncertified)
        self.lane = Lane(shield, hooks_of(env, shield))
        self._tries, self._on_uncertified = safe_reset, on_uncertified
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset to a start that the shield certifies, if that is asked for.

        Raises:
            EnvContractError: none of the starts that were drawn is certified.
        """
        obs, info = self.env.reset(seed=seed, options=options)
        self.lane.reset(obs, seed)
        if self._tries:
            certified = self.lane.certifies(obs)
            for _ in range(self._tries - 1):
                if certified:
                    break
                obs, info = self.env.reset(options=options)
                self.lane.reset(obs)
                certified = self.lane.certifies(obs)
            if not certified and self._on_uncertified == "error":
                raise uncertified_start(self._tries, self.lane.shield)
            info = {**info, "certified_start": certified}
        self._obs = copy.deepcopy(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """Execute what the shield decides."""
        decision = self.lane.decide(self._obs, action)
        executed = as_env_action(decision.action, self.env.action_space)
        result: Any = self.env.step(executed)
        if not isinstance(result, tuple) or len(result) != 5:
            return result
        obs, reward, terminated, truncated, info = result
        self._obs = copy.deepcopy(obs)
        costs = info.get("costs")
        if not isinstance(costs, Mapping):
            costs = {"cost": info["cost"]} if "cost" in info else {}
        self.lane.spend(costs)
        extra = {
            "costs": {**costs, **channel_costs(decision, self.lane.shield.actions)},
            # The scalar is the environment's own: interventions are not part of it.
            "cost": info.get("cost", sum(costs.values())),
            "proposed_action": action,
            "executed_action": executed,
            "shield": decision,
        }
        return obs, reward, terminated, truncated, {**info, **extra}

    def get_state(self) -> dict[str, Any]:
        """The shield's memory and episode; see :mod:`saferl.envs.state`."""
        return {"lane": self.lane.get_state(), "obs": copy.deepcopy(self._obs)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.lane.set_state(state["lane"])
        self._obs = copy.deepcopy(state["obs"])


def hook_names(shield: Shield) -> dict[str, str]:
    """Methods of an environment that are asked for ``shield``, by what they are called in a context."""
    names = {"privileged": "privileged_state"}
    return {**names, "twin": "digital_twin"} if "twin" in shield.spec().needs else names


def hooks_of(env: Env, shield: Shield) -> Hooks | None:
    """What ``env`` can tell ``shield``; None if that is nothing."""
    given = {key: env.get_wrapper_attr(name) for key, name in hook_names(shield).items() if has_attribute(env, name)}
    return (lambda: {key: ask() for key, ask in given.items()}) if given else None


def refuse_taken_names(constraints: ConstraintSet, env_id: str) -> None:
    """Raise if a cost of the environment has the name of a channel."""
    taken = [name for name in constraints.names if name in CHANNELS]
    if taken:
        raise ConfigError(
            f"{env_id} has a cost of its own called {taken[0]!r}, which a shield would count under the same name. "
            "Rename it, or shield the environment once only."
        )


def check_safe_reset(tries: int, on_uncertified: str) -> None:
    """Raise on options that are out of range."""
    if tries < 0 or on_uncertified not in ("error", "flag"):
        raise ConfigError(
            f"safe_reset must be at least 0 and on_uncertified 'error' or 'flag'; got {tries}, {on_uncertified!r}."
        )


def uncertified_start(tries: int, shield: Shield) -> EnvContractError:
    """The error of a safe reset that found no start."""
    return EnvContractError(
        f"The shield {shield.unit} must certify the start of an episode; it certified none of {tries}. Raise the "
        "number of tries (safe_reset), start the environment in safer states, or take a shield that can tell (one "
        "without a certificate certifies nothing)."
    )
