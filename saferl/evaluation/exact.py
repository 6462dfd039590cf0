"""The exact value of a policy on a finite CMDP: its action probabilities in every state, and no sampling noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from saferl.envs.core import make
from saferl.envs.tabular import TabularCMDP
from saferl.envs.tabular.env import observation_space_of
from saferl.envs.vector import CostVectorEnv
from saferl.errors import ConfigError
from saferl.policy.artefact import PolicyArtefact
from saferl.policy.normaliser import FrozenNormaliser
from saferl.policy.random import RandomPolicy

Array = npt.NDArray[np.float64]
Target = TabularCMDP | gymnasium.Env[Any, Any] | CostVectorEnv | str
"""A finite CMDP, an env or vector env of one, or a name of ``saferl list envs`` that is one."""
Observe = Callable[[npt.NDArray[np.int64]], Any]
"""What a policy is shown for observations of :class:`~saferl.envs.tabular.env.TabularEnv`, (n,), as a batch."""

_SUM = 1e-6
"""How far the probabilities of a table may be from a sum of 1."""


@dataclass(frozen=True)
class ExactEvaluation:
    """What one policy earns and costs in expectation, without a time limit."""

    return_: float
    """Expected return in the units of the environment, J_r: discounted by the CMDP's gamma, or a sum over its steps."""
    total_costs: dict[str, float]
    """Expected costs by name in the units of the budgets, J_c."""
    value: float
    """Mean reward per step, (1 - gamma) J_r, or J_r / H."""
    costs: Array
    """Mean costs per step, (K,)."""
    excess: Array
    """Mean costs per step above the limits, (K,); negative where a budget is kept."""
    gap: float | None
    """How much of the optimum's mean reward per step is missing; None without an optimum. Negative only for a policy
    that breaks a budget."""
    policy: Array = field(repr=False)
    """Action probabilities, (S, A) or (H, S, A)."""

    @property
    def violation(self) -> float:
        """The largest excess, at least 0."""
        return max(0.0, float(self.excess.max()))


def evaluate_exactly(
    policy: Any,
    target: Target,
    *,
    optimum: float | None = None,
    deterministic: bool = False,
    observe: Observe | None = None,
) -> ExactEvaluation:
    """The expected return and costs of ``policy``, by linear solves on the CMDP instead of episodes.

    Args:
        policy: As for :func:`tabulate`.
        target: The CMDP, or an env of one, whose budgets then count.
        optimum: The largest feasible mean reward per step, for example ``lp.solve(cmdp).value``.
        deterministic: Judge the policy's most probable actions (of a stochastic optimum, another policy).
        observe: As for :func:`tabulate`.

    Raises:
        ConfigError: as :func:`tabulate`.

    Example:
        >>> from saferl.envs.tabular.instances import paradox_a
        >>> cmdp = paradox_a()
        >>> result = evaluate_exactly(cmdp.uniform_policy(), cmdp, optimum=0.5)
        >>> round(result.value, 4), round(result.gap, 4), round(result.violation, 4)
        (0.275, 0.225, 0.0)
    """
    cmdp = cmdp_of(target)
    table = tabulate(policy, cmdp, deterministic=deterministic, observe=observe)
    evaluation = cmdp.evaluate(table)
    return ExactEvaluation(
        return_=evaluation.value / cmdp.scale,
        total_costs=dict(zip(cmdp.names, (evaluation.costs / cmdp.scale).tolist(), strict=True)),
        value=evaluation.value,
        costs=evaluation.costs,
        excess=evaluation.costs - cmdp.limits,
        gap=None if optimum is None else optimum - evaluation.value,
        policy=table,
    )


def tabulate(policy: Any, target: Target, *, deterministic: bool = False, observe: Observe | None = None) -> Array:
    """The action probabilities of ``policy`` in every state, (S, A), or (H, S, A) for a finite horizon.

    Args:
        policy: A Stable-Baselines3 algorithm (saferl's solvers are some) or policy, an artefact of ``saferl.load``, the
            random policy, or a table already. Anything else with ``predict`` has no probabilities that could be read,
            and is tabulated with ``deterministic=True`` only.
        target: The CMDP, or an env of one.
        deterministic: Probability 1 for the most probable action, as ``predict(..., deterministic=True)`` takes it.
        observe: Where the env that the policy was trained on is wrapped: from the observations of a
            :class:`~saferl.envs.tabular.env.TabularEnv`, (n,), to what the wrapper makes of them. The policy's own
            normaliser is applied after it.

    Raises:
        ConfigError: the policy is for other spaces, has a memory, or gives no probabilities.
    """
    cmdp = cmdp_of(target)
    if isinstance(policy, np.ndarray):
        return _as_played(_checked_table(policy, cmdp), deterministic)
    space = observation_space_of(cmdp)
    states = np.arange(int(space.n))
    if isinstance(policy, RandomPolicy):
        if deterministic:
            raise ConfigError("The random policy has no deterministic actions. Leave deterministic out.")
        return cmdp.uniform_policy()
    _check_spaces(policy, cmdp, space, has_observe=observe is not None)
    shown = states if observe is None else observe(states)
    actions = _predicted(policy, shown, len(states), cmdp.num_actions)
    if deterministic:
        return np.eye(cmdp.num_actions)[actions].reshape(cmdp.policy_shape)
    network, normaliser = _network_of(policy)
    if network is None:
        raise ConfigError(
            f"A table needs probabilities; {type(policy).__name__} has a predict, but no action distribution. "
            "Give deterministic=True to tabulate its deterministic actions."
        )
    with th.no_grad():
        tensors, _ = network.obs_to_tensor(shown if normaliser is None else normaliser(shown))
        distribution = network.get_distribution(tensors)
    if not isinstance(distribution, CategoricalDistribution):
        raise ConfigError(f"A table needs a categorical distribution of actions; got {type(distribution).__name__}.")
    table = distribution.distribution.probs.cpu().numpy().astype(np.float64)
    return np.asarray(table / table.sum(axis=1, keepdims=True)).reshape(cmdp.policy_shape)


def cmdp_of(target: Target) -> TabularCMDP:
    """The CMDP behind ``target``; budgets in force in an env replace the CMDP's.

    Raises:
        ConfigError: it is not an env of a finite CMDP.
    """
    if isinstance(target, TabularCMDP):
        return target
    source = make(target) if isinstance(target, str) else target
    if isinstance(source, CostVectorEnv) and source.envs:
        source = source.envs[0]
    inner: Any = source.batch if hasattr(source, "batch") else source.unwrapped
    cmdp = getattr(inner, "cmdp", None)
    if not isinstance(cmdp, TabularCMDP):
        raise ConfigError(f"Exact evaluation needs a TabularCMDP or an env of one; got {target!r}.")
    constraints = source.constraints if isinstance(source, CostVectorEnv) else source.get_wrapper_attr("constraints")
    own = cmdp.constraints
    budgets = [
        constraints[name].budget
        if name in constraints.names and constraints[name].kind == own[name].kind
        else own[name].budget
        for name in cmdp.names
    ]
    return cmdp if budgets == cmdp.budgets.tolist() else cmdp.with_budgets(budgets)


def _network_of(policy: Any) -> tuple[Any, FrozenNormaliser | None]:
    """The network with an action distribution, and the normaliser in front of it; None if there is no such network."""
    if isinstance(policy, PolicyArtefact):
        return policy.policy, policy.normaliser
    network = policy if hasattr(policy, "get_distribution") else getattr(policy, "policy", None)
    if not hasattr(network, "get_distribution"):
        return None, None
    env = getattr(policy, "env", None)
    return network, FrozenNormaliser.from_vec_normalize(unwrap_vec_normalize(env) if env is not None else None)


def _predicted(policy: Any, shown: Any, count: int, num_actions: int) -> npt.NDArray[np.int64]:
    """Deterministic actions for all states, (count,).

    Raises:
        ConfigError: the policy has a memory, answers differently the second time, or gives no actions of the CMDP.
    """
    network, normaliser = _network_of(policy)
    # An artefact normalises in its predict; an algorithm leaves that to its vector env.
    is_raw = network is None or normaliser is None or isinstance(policy, PolicyArtefact)
    batch = shown if is_raw or normaliser is None else normaliser(shown)
    actions, memory = policy.predict(batch, deterministic=True)
    again, _ = policy.predict(batch, deterministic=True)
    name = type(policy).__name__
    if memory is not None:
        raise ConfigError(f"Only a policy without a memory has a table; the predict of {name} returns a state.")
    actions = np.asarray(actions)
    if actions.shape != (count,) or not np.isin(actions, np.arange(num_actions)).all():
        raise ConfigError(
            f"The predict of {name} must give an action from 0 to {num_actions - 1} for each of {count} observations; "
            f"got an array of shape {actions.shape} with values {np.unique(actions)[:5]}."
        )
    if not np.array_equal(actions, again):
        raise ConfigError(
            f"{name} is stochastic: its predict gives other actions for the same states with deterministic=True too. "
            "Evaluate it by episodes (saferl.evaluate)."
        )
    return actions.astype(np.int64)


def _check_spaces(policy: Any, cmdp: TabularCMDP, space: spaces.Discrete, *, has_observe: bool) -> None:
    shown, acted = getattr(policy, "observation_space", None), getattr(policy, "action_space", None)
    expected = spaces.Discrete(cmdp.num_actions)
    if (shown is not None and not has_observe and shown != space) or (acted is not None and acted != expected):
        raise ConfigError(
            f"A policy for {cmdp!r} must see {space} and act in {expected}; got one that sees {shown} and acts in "
            f"{acted}. Give observe if it was trained on a wrapped env."
        )


def _checked_table(table: npt.NDArray[Any], cmdp: TabularCMDP) -> Array:
    if table.shape != cmdp.policy_shape:
        raise ConfigError(f"A policy for {cmdp!r} must have shape {cmdp.policy_shape}; got {table.shape}.")
    wrong = np.argwhere(~((np.abs(table.sum(axis=-1) - 1.0) <= _SUM) & (table >= 0.0).all(axis=-1)))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise ConfigError(
            f"A policy must have probabilities in its last axis, at least 0 with sum 1; got {table[index]} at "
            f"{list(index)}."
        )
    return table.astype(np.float64)


def _as_played(table: Array, deterministic: bool) -> Array:
    return np.eye(table.shape[-1])[table.argmax(axis=-1)] if deterministic else table
