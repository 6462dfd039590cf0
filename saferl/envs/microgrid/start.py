"""Where an episode starts: random states of the gensets and the battery from which demand can be met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saferl.envs.microgrid import group
from saferl.envs.microgrid.genset import COOL_DOWN, OFF, RUNNING, WARM_UP, Genset
from saferl.envs.microgrid.params import MicrogridParams
from saferl.envs.microgrid.recovery import can_avoid_deficit, can_avoid_excess
from saferl.errors import ConfigError

DRAWS = 100
"""Start states that are drawn before giving up."""
EVALUATION_START = 420
"""07:00, in minutes."""


def random_start(params: MicrogridParams, generator: np.random.Generator) -> tuple[list[Genset], float]:
    """Charge in [0.1, 0.9], the first genset in a random status, its average in [200, 260] kW, the others off."""
    engine = params.genset
    status = int(generator.integers(4))
    first = Genset(
        status,
        t_warm=int(generator.integers(engine.warm_up)) if status == WARM_UP else 0,
        t_cool=int(generator.integers(engine.cool_down)) if status == COOL_DOWN else 0,
        t_run=int(generator.integers(1, engine.min_run + 2)) if status == RUNNING else 0,
        power={OFF: 0.0, WARM_UP: engine.warm_up_power, RUNNING: engine.min_power, COOL_DOWN: 0.0}[status],
    )
    gensets = [first, *(Genset(OFF) for _ in range(params.num_gensets - 1))]
    low, high = 0.5 * engine.rating, 0.65 * engine.rating
    for genset in gensets:
        genset.average = float(generator.uniform(low, high))
    return gensets, float(generator.uniform(*params.battery.normal_band))


def evaluation_start(params: MicrogridParams, soc: float) -> tuple[list[Genset], float]:
    """The first genset has been running for long, the others are off; all averages are 230 kW at a rating of 400."""
    engine = params.genset
    average = 0.575 * engine.rating
    gensets = [Genset(OFF, average=average) for _ in range(params.num_gensets)]
    gensets[0] = Genset(RUNNING, t_run=engine.min_run + 1, average=average, power=engine.min_power)
    return gensets, soc


def safe_start(
    params: MicrogridParams, known: tuple[float, float], generator: np.random.Generator
) -> tuple[list[Genset], float]:
    """The first of up to 100 random starts from which ``start_next`` keeps the balance; else the evaluation start."""
    for _ in range(DRAWS):
        gensets, soc = random_start(params, generator)
        if is_safe(params, gensets, soc, known):
            return gensets, soc
    return evaluation_start(params, 0.5)


def is_safe(params: MicrogridParams, gensets: list[Genset], soc: float, known: tuple[float, float]) -> bool:
    """Whether a state can be kept from deficit, and its gensets stopped without excess."""
    return can_avoid_deficit(params, gensets, soc, group.START, known) and can_avoid_excess(params, gensets, soc)


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options of a reset.

    Raises:
        ConfigError: an unknown one.
    """
    given = dict(options or {})
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"Options of a reset of the microgrid are {', '.join(known)}; got {', '.join(unknown)}.")
    return given
