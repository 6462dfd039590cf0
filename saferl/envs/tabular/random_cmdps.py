"""Random CMDPs of the literature; equal arguments give equal instances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saferl.envs.tabular.binding import half_way
from saferl.envs.tabular.cmdp import TabularCMDP
from saferl.envs.tabular.planning import best_response

Array = npt.NDArray[np.float64]
DENSE_STATES = 500
"""Up to this many states the transitions are kept dense where a generator is not told."""


def _uniform_cmdp(seed: int, num_states: int, num_actions: int) -> tuple[Array, Array, Array]:
    """Transitions, rewards and utilities of the recipe of Ding et al., in its order of draws."""
    rng = np.random.RandomState(seed)
    rows = rng.uniform(size=(num_states * num_actions, num_states))
    rows /= rows.sum(axis=1, keepdims=True)
    rewards = rng.uniform(size=(num_states, num_actions))
    utilities = rng.uniform(size=(num_states, num_actions))
    return rows.reshape(num_states, num_actions, num_states), rewards, utilities


def ding_random(
    num_states: int = 20, num_actions: int = 10, gamma: float = 0.8, utility: float = 3.0, seed: int = 10
) -> TabularCMDP:
    """Everything uniform on [0, 1], transitions normalised, start anywhere; the utility's value must reach ``utility``.

    From the experiments with NPG-PD (Ding, Zhang, Basar, Jovanovic 2020). With the defaults v* = 0.8924887273 per step
    and lambda* = 0.24266971; with 10 states, 5 actions, gamma 0.9 and utility 6, v* = 0.7460071676 and
    lambda* = 0.22553954. The optimum without the constraint is only 1.2 to 1.7 % above v*.
    """
    moves, rewards, utilities = _uniform_cmdp(seed, num_states, num_actions)
    start = np.full(num_states, 1.0 / num_states)
    return TabularCMDP(moves, rewards, (1.0 - utilities)[..., None], gamma, start, [1.0 / (1.0 - gamma) - utility])


def random_binding(seed: int, num_states: int = 10, num_actions: int = 5, gamma: float = 0.9) -> TabularCMDP:
    """:func:`ding_random` under a budget that binds.

    The budget is half-way between the cost of the reward-optimal policy and the least cost. On seeds 10 and 11 plain
    descent-ascent fails by far.
    """
    moves, rewards, utilities = _uniform_cmdp(seed, num_states, num_actions)
    start = np.full(num_states, 1.0 / num_states)
    return half_way(TabularCMDP(moves, rewards, (1.0 - utilities)[..., None], gamma, start, [0.0]))


def one_shot_instance() -> TabularCMDP:
    """8 states, 3 actions, concentrated transitions; only actions of a reward above 0.5 cost anything. Budget 1.2.

    The uniform policy costs 2.111. The largest feasible return is 6.2521 with lambda* = 0.5670, gamma 0.9.
    """
    rng = np.random.default_rng(1)
    moves = rng.dirichlet(0.3 * np.ones(8), size=(8, 3))
    rewards = rng.uniform(size=(8, 3))
    costs = rng.uniform(size=(8, 3)) * (rewards > 0.5)
    return TabularCMDP(moves, rewards, costs[..., None], 0.9, np.full(8, 0.125), [1.2])


def two_constraints(seed: int = 0, num_states: int = 15, num_actions: int = 4, gamma: float = 0.9) -> TabularCMDP:
    """Two uniform costs on concentrated random transitions (Dirichlet 0.3), each under a budget that binds."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(0.3 * np.ones(num_states), size=(num_states, num_actions))
    rewards = rng.uniform(size=(num_states, num_actions))
    costs = rng.uniform(size=(num_states, num_actions, 2))
    start = np.full(num_states, 1.0 / num_states)
    return half_way(TabularCMDP(moves, rewards, costs, gamma, start, [0.0, 0.0], names=("first", "second")))


def coptidice_random(seed: int = 0, num_states: int = 50, num_actions: int = 4, gamma: float = 0.95) -> TabularCMDP:
    """One goal, where it is hardest to reach from the start, and costs that every state has one way around.

    The recipe of COptiDICE (Lee et al. 2022, arXiv 2204.08957, random CMDPs): four random successors with Dirichlet(1)
    probabilities per action; the last state absorbs; the goal pays 1 / (1 - gamma) once; costs are Beta(0.2, 0.2), 0
    for one action per state, and drawn again until the reward-optimal policy exceeds the limit of 0.1 per step.
    """
    rng = np.random.default_rng(seed)
    last = num_states - 1
    moves = np.zeros((num_states, num_actions, num_states))
    moves[last, :, last] = 1.0
    for state in range(last):
        for action in range(num_actions):
            moves[state, action, rng.choice(last, size=4, replace=False)] = rng.dirichlet(np.ones(4))
    start = np.eye(num_states)[0]

    def with_goal(goal: int, costs: Array) -> TabularCMDP:
        dynamics, rewards = moves.copy(), np.zeros((num_states, num_actions))
        dynamics[goal], rewards[goal] = np.eye(num_states)[last], 1.0 / (1.0 - gamma)
        return TabularCMDP(dynamics, rewards, costs, gamma, start, [0.1 / (1.0 - gamma)])

    free = np.zeros((num_states, num_actions, 1))
    values = [best_response(cmdp, cmdp.rewards).value for cmdp in (with_goal(goal, free) for goal in range(last))]
    goal = int(np.argmin(values))
    greedy = best_response(with_goal(goal, free), with_goal(goal, free).rewards).policy
    while True:
        costs = rng.beta(0.2, 0.2, size=(num_states, num_actions, 1))
        costs[np.arange(num_states), rng.integers(num_actions, size=num_states)] = 0.0
        costs[last] = 0.0
        cmdp = with_goal(goal, costs)
        if cmdp.evaluate(greedy).costs[0] > cmdp.limits[0]:
            return cmdp


def finite_horizon_random(seed: int = 12, num_states: int = 30, num_actions: int = 3, horizon: int = 10) -> TabularCMDP:
    """Reward and utility share one unit per step, so that v* is what the constraint leaves, and lambda* = 1.

    The instance of UOpt-RPGPD (Kitamura et al. 2024, arXiv 2401.17780): rewards of 0 or 1 by a fair coin per step,
    state and action, utility 1 minus reward, transitions Dirichlet(0.1) drawn anew for every step, one random first
    state; the utility must reach half of what it can. As a cost, 1 minus the utility, the budget is v* in the units of
    J_r.
    """
    rng = np.random.default_rng(seed)
    shape = (horizon, num_states, num_actions)
    rewards = rng.integers(2, size=shape).astype(np.float64)
    moves = rng.dirichlet(np.full(num_states, 0.1), size=shape)
    start = np.eye(num_states)[rng.integers(num_states)]
    cmdp = TabularCMDP(moves, rewards, rewards[..., None], None, start, [float(horizon)], horizon=horizon)
    utility = best_response(cmdp, 1.0 - rewards).value / cmdp.scale
    return cmdp.with_budgets([horizon - 0.5 * utility])


def garnet(
    seed: int = 0,
    num_states: int = 100,
    num_actions: int = 4,
    branching: int = 3,
    gamma: float = 0.95,
    *,
    is_sparse: bool | None = None,
) -> TabularCMDP:
    """``branching`` random successors per state and action, uniform rewards and costs, a budget that binds.

    Garnet problems: Archibald, McKinnon, Thomas (1995), "On the generation of Markov decision processes". Probabilities
    are the lengths into which ``branching - 1`` uniform points cut the unit interval. ``is_sparse`` None keeps more
    than 500 states sparse.
    """
    rng = np.random.default_rng(seed)
    count = num_states * num_actions
    successors = np.stack([rng.choice(num_states, size=branching, replace=False) for _ in range(count)])
    cuts = np.sort(rng.uniform(size=(count, branching - 1)), axis=1)
    shares = np.diff(cuts, axis=1, prepend=0.0, append=1.0)
    moves = sparse.csr_array(
        (shares.ravel(), successors.ravel(), np.arange(count + 1) * branching), shape=(count, num_states)
    )
    rewards = rng.uniform(size=(num_states, num_actions))
    costs = rng.uniform(size=(num_states, num_actions, 1))
    if is_sparse is None:
        is_sparse = num_states > DENSE_STATES
    dense_or_sparse = moves if is_sparse else moves.toarray().reshape(num_states, num_actions, num_states)
    start = np.full(num_states, 1.0 / num_states)
    return half_way(TabularCMDP(dense_or_sparse, rewards, costs, gamma, start, [0.0]))
