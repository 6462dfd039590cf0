"""What ``saferl bench shields`` times: each function gives a shield with states and proposals that keep it busy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from saferl.bench.shields import ShieldCaseToTime
from saferl.shields.backup_rollout import BackupRolloutShield
from saferl.shields.barriers import BrakingBarrier, LinearDynamics, QuadraticBarrier, affine, distance
from saferl.shields.bounds import Bounds
from saferl.shields.cbf_qp import CBFQPShield, Condition
from saferl.shields.critic import CriticConfig, CriticShield
from saferl.shields.mpsc import LinearModel, MPSCShield
from saferl.shields.networks import Network
from saferl.shields.protocol import ActionSpec
from saferl.shields.safety_layer import SafetyLayer
from saferl.shields.twins import AtRest, Brake, DoubleIntegratorTwin, brake_actions

Array = npt.NDArray[np.float64]

_SQUARE = ActionSpec.box([-1.0, -1.0], [1.0, 1.0])
_INTEGRATOR = LinearDynamics(np.zeros((2, 2)), np.eye(2))
_STATES = 2_000


def bounds() -> ShieldCaseToTime:
    """Bounds on 2 inputs: what the frame of every shield costs."""
    return _case(Bounds(_SQUARE, low=-0.5, high=0.5), _uniform(2))


def cbf_qp() -> ShieldCaseToTime:
    """CBF-QP, 2 inputs, 4 affine rows: a point inside a tilted square."""
    normals = ([1.0, 0.4], [-1.0, -0.4], [-0.4, 1.0], [0.4, -1.0])
    return _case(_points([affine(normal, 1.0) for normal in normals]), 0.7 * _uniform(2))


def cbf_qp_obstacles() -> ShieldCaseToTime:
    """CBF-QP, 2 inputs, 4 curved rows: a point among round obstacles."""
    centres = itertools.product((-0.5, 0.5), repeat=2)
    return _case(_points([distance(2, [0, 1], 0.3, centre=centre) for centre in centres]), _uniform(2))


def cbf_qp_one_row() -> ShieldCaseToTime:
    """CBF-QP, 2 inputs, 1 row: the closed form."""
    return _case(_points([distance(2, [0, 1], 0.3, centre=[0.0, 0.0])]), _uniform(2))


def cbf_qp_braking() -> ShieldCaseToTime:
    """CBF-QP in discrete time, 1 input, 2 braking barriers: a mass between two walls."""
    dt = 0.1
    model = LinearDynamics(np.array([[1.0, dt], [0.0, 1.0]]), np.array([[dt * dt / 2.0], [dt]]))
    walls = [Condition(BrakingBarrier(0, 1, 1.0, 1.0, sign, dt)) for sign in (1, -1)]
    shield = CBFQPShield(ActionSpec.box([-1.0], [1.0]), model, walls, time="discrete")
    return _case(shield, 0.6 * _uniform(2))


def safety_layer() -> ShieldCaseToTime:
    """Safety layer, 2 inputs, 2 costs, a network of 64 x 64 on 20 numbers."""
    return _case(SafetyLayer(_SQUARE, _network(20, 6), limits=[0.05, 0.05]), _uniform(20))


def critic_project() -> ShieldCaseToTime:
    """Critic, 2 inputs, two networks of 64 x 64 on 20 numbers, projection."""
    return _critic("project")


def critic_resample() -> ShieldCaseToTime:
    """Critic, 2 inputs, two networks of 64 x 64 on 20 numbers, 32 candidates."""
    return _critic("resample")


def _critic(mode: Any) -> ShieldCaseToTime:
    critics = [_network(22, 1, seed) for seed in (0, 1)]
    drawn = CriticShield(_SQUARE, critics).risk(np.zeros(20), _uniform(2))
    config = CriticConfig(mode=mode, eps=float(np.median(drawn)))
    return _case(CriticShield(_SQUARE, critics, config), 0.3 * _uniform(20))


def mpsc() -> ShieldCaseToTime:
    """MPSC, double integrator, N = 20, certified states."""
    dt = 0.1
    model = LinearModel.with_box(
        [[1.0, dt], [0.0, 1.0]], [[dt * dt / 2.0], [dt]], w_max=[1e-3, 5e-3], low=[-1.0, -2.0], high=[1.0, 2.0]
    )
    shield = MPSCShield(ActionSpec.box([-1.0], [1.0]), model)
    drawn = np.array([1.0, 1.5]) * _uniform(2)
    return _case(shield, drawn[[shield.certifies(state) for state in drawn]])


def backup_rollout() -> ShieldCaseToTime:
    """Backup rollout, double integrator that brakes, bisection, certified states."""
    shield = BackupRolloutShield(brake_actions(), DoubleIntegratorTwin(), Brake(), terminal=AtRest(), horizon=50)
    drawn = np.array([1.0, 1.5]) * _uniform(2)[: _STATES // 4]
    return _case(shield, drawn[[shield.certifies(state) for state in drawn]])


def scu_microgrid() -> ShieldCaseToTime:
    """SCU, microgrid, a day of extreme demand and wind, random requests and "stop, discharge" in turn."""
    from saferl.envs.microgrid.baselines import baseline
    from saferl.envs.microgrid.env import Microgrid
    from saferl.shields.scu import MicrogridShield

    env = Microgrid(series="adversarial", start="evaluation", soc=0.2)
    shield, lazy, generator = MicrogridShield.for_env(env), baseline("lazy"), np.random.default_rng(0)
    seen, proposals = [env.reset(seed=0)[0]], []
    for minute in range(env.time_limit):
        asked = lazy.predict(seen[-1])[0].astype(np.float64)
        proposals.append(asked if minute % 2 else generator.uniform(-1.0, 1.0, 2))
        seen.append(env.step(shield.filter(seen[-1], asked).action)[0])
    return ShieldCaseToTime(shield, seen[:-1], proposals)


def _points(barriers: Sequence[QuadraticBarrier]) -> CBFQPShield:
    return CBFQPShield(_SQUARE, _INTEGRATOR, [Condition(barrier, gains=[2.0]) for barrier in barriers])


def _uniform(dim: int) -> Array:
    return np.random.default_rng(dim).uniform(-1.0, 1.0, (_STATES, dim))


def _network(inputs: int, outputs: int, seed: int = 0) -> Network:
    generator, sizes = np.random.default_rng(seed), [inputs, 64, 64, outputs]
    weights = [generator.normal(size=(b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    return Network(weights, [np.zeros(len(part)) for part in weights])


def _case(shield: Any, obs: Array) -> ShieldCaseToTime:
    space = shield.actions
    drawn = np.random.default_rng(1).uniform(-1.5, 1.5, (len(obs), space.dim))
    return ShieldCaseToTime(shield, list(obs), list(space.middle + space.half_range * drawn))
