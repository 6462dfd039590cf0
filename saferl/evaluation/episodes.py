"""Episodes in fixed blocks of lanes, so that results do not depend on how many run beside each other.

A block is always ``BLOCK`` lanes: the batch size of a network changes the last bits of its output, and simulators
amplify them. Each lane runs one episode, with its own seed for the environment and its own generator for the actions;
lanes that are done are masked until the block is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch as th
from gymnasium.vector.utils import create_empty_array

from saferl.constraints import ConstraintSet
from saferl.deploy.shielded_env import ShieldedEnv
from saferl.envs.adapters import CostContract
from saferl.errors import ConfigError, EnvContractError
from saferl.evaluation.shielding import ShieldTrace
from saferl.shields.base import Shield

BLOCK = 16


class Policy(Protocol):
    """Stable-Baselines3's ``predict``; a policy may also have ``sample(obs, generators)`` (see PolicyArtefact).

    One that is stateful (``is_stateful``, see OfflineArtefact) is asked by ``act`` and told by ``observe``.
    """

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """A batch of actions and the next state."""
        ...


@dataclass(frozen=True)
class EpisodeRecord:
    """One finished episode."""

    episode: int
    """Index in the evaluation."""
    seed: int
    """Seed of the environment's reset; the actions' generator derives from it."""
    return_: float
    """Undiscounted sum of rewards."""
    length: int
    """Steps."""
    terminated: bool
    """Whether the task ended, rather than the time limit."""
    costs: dict[str, float]
    """Undiscounted sum of every constraint's cost."""
    cost: float
    """Undiscounted sum of the env's own scalar cost."""
    discounted_costs: dict[str, float]
    """Discounted sums of the constraints of kind ``discounted``."""
    violating_steps: dict[str, int] = field(default_factory=dict)
    """Steps whose margin is > 0, of every constraint that is an upper limit (see ``CostContract.last_margins``)."""
    shield: ShieldTrace | None = None
    """What the shield did, if there was one."""

    @property
    def interventions(self) -> int | None:
        """Steps in which a shield executed something else than the policy proposed; None without a shield."""
        return None if self.shield is None else self.shield.interventions

    def to_dict(self) -> dict[str, Any]:
        """JSON types, with ``return`` for ``return_``, and ``interventions`` for ``shield`` if there was one."""
        data = asdict(replace(self, shield=None))
        del data["shield"]
        data["return"] = data.pop("return_")
        return data if self.shield is None else {**data, "interventions": self.shield.interventions}


@dataclass(frozen=True)
class Shielding:
    """The shield of an evaluation, as it goes to worker processes."""

    shield: Shield
    """Copied for every lane."""
    channels: ConstraintSet
    """Constraints on interventions, judged after those of the environment."""

    def wrap(self, env: CostContract) -> ShieldedEnv:
        """``env`` behind a copy of the shield."""
        return ShieldedEnv(env, self.shield, budgets=self.channels)


class BlockRunner:
    """Runs blocks of episodes of one policy on ``BLOCK`` reused environments."""

    def __init__(
        self,
        make_env: Callable[[], CostContract],
        policy: Policy,
        *,
        deterministic: bool,
        shielding: Shielding | None = None,
    ) -> None:
        """Build the environments, behind copies of a shield if there is one."""
        envs = [make_env() for _ in range(BLOCK)]
        self._envs = envs if shielding is None else [shielding.wrap(env) for env in envs]
        self._policy = policy
        self._deterministic = deterministic
        self._constraints = self._envs[0].constraints
        self._cost_names: tuple[str, ...] = getattr(policy, "cost_names", ())
        self._is_stateful = bool(getattr(policy, "is_stateful", False))

    def run(self, first_episode: int, seeds: Sequence[int]) -> list[EpisodeRecord]:
        """Run one episode per seed (at most ``BLOCK``), in the order of the seeds."""
        lanes = len(seeds)
        generators = [np.random.default_rng([seed, 1]) for seed in seeds]
        generators += [np.random.default_rng([0, lane]) for lane in range(lanes, BLOCK)]
        # Policies without per-row sampling draw from torch's global generator: fix it per block.
        th.manual_seed(seeds[0])
        space = self._envs[0].observation_space
        obs = create_empty_array(space, BLOCK)
        for lane, seed in enumerate(seeds):
            _put(obs, lane, self._envs[lane].reset(seed=seed)[0])
        gammas = np.array([c.gamma for c in self._constraints])
        returns, own_costs = np.zeros(lanes), np.zeros(lanes)
        costs, discounted = np.zeros((2, lanes, len(self._constraints)))
        violating = np.zeros((lanes, len(self._constraints)), dtype=np.int64)
        weights = np.ones(len(self._constraints))
        lengths = np.zeros(lanes, dtype=np.int64)
        terminated = np.zeros(lanes, dtype=np.bool_)
        running = np.ones(lanes, dtype=np.bool_)
        traces = [ShieldTrace() if isinstance(env, ShieldedEnv) else None for env in self._envs[:lanes]]
        stateful: Any = self._policy if self._is_stateful else None
        state, starts = stateful.begin(BLOCK) if stateful is not None else None, np.ones(BLOCK, dtype=np.bool_)
        while running.any():
            rewards, seen = np.zeros(BLOCK), np.zeros((BLOCK, len(self._cost_names)))
            actions, state = self._act(obs, state, starts, generators)
            starts = np.zeros(BLOCK, dtype=np.bool_)
            for lane in np.flatnonzero(running):
                env = self._envs[lane]
                new_obs, reward, ended, cut, info = env.step(_action(actions, int(lane), env.action_space))
                trace = traces[lane]
                if trace is not None:
                    trace.add(info["shield"])
                returns[lane] += reward
                rewards[lane] = reward
                if stateful is not None:
                    seen[lane] = [_cost_of(info, name, env.env_id) for name in self._cost_names]
                lengths[lane] += 1
                costs[lane] += env.last_costs
                violating[lane] += env.last_margins > 0.0
                own_costs[lane] += env.last_cost
                discounted[lane] += weights * env.last_costs
                _put(obs, int(lane), new_obs)
                terminated[lane] = ended
                running[lane] = not (ended or cut)
                if running[lane] and env.horizon is None and lengths[lane] >= _NO_END:
                    raise EnvContractError(
                        f"{env.env_id}: an episode did not end within {_NO_END} steps. Give max_episode_steps."
                    )
            weights = weights * gammas
            if stateful is not None:
                over = np.ones(BLOCK, dtype=np.bool_)
                over[:lanes] = ~running
                stateful.observe(state, rewards, seen, over)
        names = self._constraints.names
        kinds = [c.kind for c in self._constraints]
        is_upper = self._constraints.signs > 0.0
        return [
            EpisodeRecord(
                episode=first_episode + lane,
                seed=int(seed),
                return_=float(returns[lane]),
                length=int(lengths[lane]),
                terminated=bool(terminated[lane]),
                costs=dict(zip(names, costs[lane].tolist(), strict=True)),
                cost=float(own_costs[lane]),
                discounted_costs={
                    n: float(v) for n, v, k in zip(names, discounted[lane], kinds, strict=True) if k == "discounted"
                },
                violating_steps={n: int(v) for n, v, u in zip(names, violating[lane], is_upper, strict=True) if u},
                shield=traces[lane],
            )
            for lane, seed in enumerate(seeds)
        ]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _act(self, obs: Any, state: Any, starts: Any, generators: list[np.random.Generator]) -> tuple[Any, Any]:
        if self._is_stateful:
            policy: Any = self._policy
            return policy.act(obs, state, generators, deterministic=self._deterministic), state
        if not self._deterministic and hasattr(self._policy, "sample"):
            return self._policy.sample(obs, generators), state
        return self._policy.predict(obs, state, starts, self._deterministic)


_NO_END = 100_000


def _cost_of(info: Any, name: str, env_id: str) -> float:
    """The cost that a stateful policy knows under ``name``."""
    if name not in info["costs"]:
        raise ConfigError(
            f"The policy's data have the cost {name!r}, which it must be told of at every step; {env_id} reports "
            f"{', '.join(info['costs'])}. Evaluate it where it was collected, or give the data these names."
        )
    return float(info["costs"][name])


def _put(batch: Any, lane: int, value: Any) -> None:
    if isinstance(batch, dict):
        for key, array in batch.items():
            array[lane] = value[key]
    else:
        batch[lane] = value


def _action(actions: Any, lane: int, space: gymnasium.Space[Any]) -> Any:
    return int(actions[lane]) if isinstance(space, gymnasium.spaces.Discrete) else actions[lane]
