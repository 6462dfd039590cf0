"""Finite CMDPs with a terminal state, episodes of them, and their maximum-likelihood models."""

import numpy as np

from saferl.data import Dataset
from saferl.envs.tabular import TabularCMDP

HORIZON = 6


def random_cmdp(seed, num_states=5, num_actions=2, horizon=HORIZON, gamma=None):
    """Rewards and two costs in eighths; the last state is terminal."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.full(num_states, 0.5), size=(num_states, num_actions))
    signals = rng.integers(0, 17, size=(num_states, num_actions, 3)) / 8.0
    moves[-1], signals[-1] = np.eye(num_states)[-1], 0.0
    start = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
    return cmdp_of(moves, signals, start, horizon, gamma)


def cmdp_of(moves, signals, start, horizon, gamma):
    return TabularCMDP(
        moves,
        signals[..., 0],
        signals[..., 1:],
        gamma,
        start,
        [1.0, 1.0],
        horizon=horizon if gamma is None else None,
        names=("heat", "wear"),
    )


def random_policy(seed, num_states=5, num_actions=2, spread=2.0):
    return np.random.default_rng(seed).dirichlet(np.full(num_actions, spread), size=num_states)


def exact(cmdp, table):
    """Expected sums of reward and costs, (3,)."""
    policy = table if cmdp.horizon is None else np.broadcast_to(table, cmdp.policy_shape)
    found = cmdp.evaluate(policy)
    return np.append(found.value, found.costs) / cmdp.scale


def collect(cmdp, behaviour, episodes, seed, horizon=HORIZON):
    """Episodes that end in the last state or after ``horizon`` steps, with the behaviour's log probabilities."""
    rng = np.random.default_rng(seed)
    moves = cmdp.transitions[0].reshape(cmdp.num_states, cmdp.num_actions, cmdp.num_states)
    pick = lambda table: (table.cumsum(axis=1) > rng.random((len(table), 1))).argmax(axis=1)  # noqa: E731
    states = pick(np.tile(cmdp.rho, (episodes, 1)))
    running, rows = np.ones(episodes, dtype=bool), []
    for step in range(horizon):
        actions = pick(behaviour[states])
        after = pick(moves[states, actions])
        terminal = after == cmdp.num_states - 1
        rows.append((np.full(episodes, step), states, actions, after, terminal, running))
        running, states = running & ~terminal, after
    columns = (np.stack(part, axis=1).ravel() for part in zip(*rows, strict=True))
    step, state, action, after, terminal, kept = columns
    return as_dataset(cmdp, behaviour, *(part[kept] for part in (step, state, action, after, terminal)), horizon)


def as_dataset(cmdp, behaviour, step, state, action, after, terminal, horizon):
    rewards = cmdp.rewards.reshape(-1, cmdp.num_states, cmdp.num_actions)[0]
    costs = cmdp.costs.reshape(-1, cmdp.num_states, cmdp.num_actions, 2)[0]
    return Dataset.from_arrays(
        observations=state[:, None],
        next_observations=after[:, None],
        actions=action[:, None],
        rewards=rewards[state, action],
        costs=costs[state, action],
        terminals=terminal,
        timeouts=~terminal & (step == horizon - 1),
        log_probs=np.log(behaviour[state, action]),
        cost_names=("heat", "wear"),
    )


def likeliest(dataset, num_states, num_actions, horizon=HORIZON, gamma=None):
    """The model in which the data are most likely; what they never show earns nothing and ends."""
    state, action = (getattr(dataset, key)[:, 0].astype(int) for key in ("observations", "actions"))
    after = np.where(dataset.terminals, num_states, dataset.next_observations[:, 0].astype(int))
    moves = np.zeros((num_states + 1, num_actions, num_states + 1))
    signals = np.zeros((num_states + 1, num_actions, 3))
    np.add.at(moves, (state, action, after), 1.0)
    np.add.at(signals, (state, action), np.hstack([dataset.rewards[:, None], dataset.costs]))
    counts = moves.sum(axis=2, keepdims=True)
    signals = signals / np.maximum(counts, 1.0)
    moves = np.where(counts > 0, moves / np.maximum(counts, 1.0), np.eye(num_states + 1)[-1])
    start = np.bincount(state[dataset.episode_starts], minlength=num_states + 1) / dataset.num_episodes
    return cmdp_of(moves, signals, start, horizon, gamma)
